"""What several test files share: organisms, problems, tiny random models, a decoder by hand.

`naive_decode` recomputes the text decoder with nothing but its weights: RMSNorm, rotary embedding,
one softmax per head, SwiGLU. It calls no module of the model and no line of latentprobe, takes the
same changes an edit would make, and is what backends, the decode loop and replays are held against.
"""

import functools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from latentprobe.architectures import architectures
from latentprobe.backends import backends
from latentprobe.benchmarks import Problem
from latentprobe.benchmarks import load as load_problems
from latentprobe.loading import Checkpoint
from latentprobe.methods import MethodSpec
from latentprobe.models import LatentModel, assemble, load
from latentprobe.organisms import build

IMAGE_ID, VOCABULARY = 5, 40
MROPE_SECTIONS = {16: [2, 3, 3], 8: [1, 1, 2]}


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def mediated() -> LatentModel:
    return load("organism:mediated")


@pytest.fixture(scope="session")
def marker_only() -> LatentModel:
    return load("organism:marker-only")


@pytest.fixture(scope="session")
def problems() -> list[Problem]:
    return list(load_problems("mini-attribute", limit=8))


# --- tiny random models --------------------------------------------------------------------------


def shake(model: torch.nn.Module, seed: int) -> None:
    """Draw weights large enough that attention is not uniform and edits are seen."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim > 1:
                parameter.copy_(noise / math.sqrt(parameter[0].numel()))
            else:
                parameter.add_(0.2 * noise)


@pytest.fixture(scope="session")
def shake_weights() -> Callable[[torch.nn.Module, int], None]:
    """Draw a model's weights anew from a seed, in place."""
    return shake


@functools.cache
def build_tiny(
    heads: int = 4, kv_heads: int = 2, *, tied: bool = False, attention: str = "sdpa", seed: int = 0
) -> Qwen2_5_VLForConditionalGeneration:
    """Return a two-layer Qwen2.5-VL with random weights; the same seed gives the same weights."""
    width = 96 if heads == 6 else 64
    text = {
        "vocab_size": VOCABULARY,
        "hidden_size": width,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 1e4,
            "mrope_section": MROPE_SECTIONS[width // heads],
        },
        "tie_word_embeddings": tied,
        "bos_token_id": None,
        "eos_token_id": 2,
        "pad_token_id": 0,
    }
    vision = {
        "depth": 1,
        "hidden_size": 32,
        "intermediate_size": 32,
        "num_heads": 2,
        "out_hidden_size": width,
        "fullatt_block_indexes": [0],
    }
    config = Qwen2_5_VLConfig(
        text_config=text,
        vision_config=vision,
        tie_word_embeddings=tied,
        image_token_id=IMAGE_ID,
        video_token_id=6,
        vision_start_token_id=3,
        vision_end_token_id=4,
        attn_implementation=attention,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Qwen2_5_VLForConditionalGeneration(config)
    shake(model, seed)
    return model.float().eval().requires_grad_(False)


@pytest.fixture(scope="session")
def tiny() -> Callable[..., Qwen2_5_VLForConditionalGeneration]:
    """Factory of shared models (do not change them): `tiny(heads, kv_heads, tied=, attention=)`."""
    return build_tiny


@dataclass(frozen=True)
class RawPrompt:
    """A prompt for a tiny model: ids, roles and images as the image processor would give them."""

    ids: Tensor
    roles: tuple[str, ...]
    pixels: Tensor | None
    grid: Tensor | None


def build_prompt(images: int = 1, seed: int = 0) -> RawPrompt:
    """Return a prompt with 0, 1 or 2 images (2 x 2 and 2 x 3 merged patches)."""
    shapes = [(1, 4, 4), (1, 4, 6)][:images]
    ids, roles = [1, 9], ["system", "system"]
    for _, rows, columns in shapes:
        count = rows * columns // 4
        ids += [3, *[IMAGE_ID] * count, 4]
        roles += ["system", *["image"] * count, "system"]
    ids += [11, 12, 13, 8]
    roles += ["question", "question", "question", "system"]
    generator = torch.Generator().manual_seed(seed)
    patches = sum(rows * columns for _, rows, columns in shapes)
    pixels = torch.randn(patches, 3 * 2 * 14 * 14, generator=generator) if shapes else None
    return RawPrompt(
        torch.tensor(ids), tuple(roles), pixels, torch.tensor(shapes) if shapes else None
    )


@pytest.fixture(scope="session")
def raw_prompt() -> Callable[..., RawPrompt]:
    """Factory of prompts for tiny models: `raw_prompt(images)`."""
    return build_prompt


@functools.cache
def build_organism(seed: int) -> Qwen2_5_VLForConditionalGeneration:
    """Return an organism-sized model with random weights that opens and closes spans often."""
    model, words = build.untrained(seed), build.tokenizer()
    shake(model, seed)
    with torch.no_grad():
        for token in (build.OPEN, build.CLOSE):
            model.lm_head.weight[words.convert_tokens_to_ids(token)] *= 2
    return model.eval().requires_grad_(False)


@pytest.fixture(scope="session")
def random_latent() -> Callable[[MethodSpec, int], LatentModel]:
    """Factory of random latent models on the organisms' tokenizer: `random_latent(spec, seed)`."""

    def make(spec: MethodSpec, seed: int = 0) -> LatentModel:
        parts = (build.tokenizer(), build.image_processor())
        architecture = architectures.get("qwen2_5_vl")
        checkpoint = Checkpoint("random", build_organism(seed), architecture, *parts, "random")
        return assemble(checkpoint, method=spec, make_backend=backends.get("torch"))

    return make


# --- a decoder by hand ---------------------------------------------------------------------------


@dataclass
class NaiveRun:
    """What the hand-written decoder computed."""

    states: Tensor
    points: dict[str, Tensor] = field(default_factory=dict)


Change = Callable[[Tensor], Tensor]


def rms_norm(x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    return x / torch.sqrt((x**2).mean(-1, keepdim=True) + epsilon) * weight


def rotate(x: Tensor, rotary: Tensor, sections: list[int], theta: float) -> Tensor:
    """Rotate ("pos d_head") pair by pair; each frequency belongs to one of the three axes."""
    half = x.shape[-1] // 2
    axes = [axis for axis, count in enumerate(sections) for _ in range(count)]
    out = torch.empty_like(x)
    for i in range(half):
        angle = rotary[axes[i]].float() * theta ** (-2 * i / x.shape[-1])
        out[:, i] = x[:, i] * angle.cos() - x[:, i + half] * angle.sin()
        out[:, i + half] = x[:, i + half] * angle.cos() + x[:, i] * angle.sin()
    return out


def run_naive_decode(
    model: torch.nn.Module,
    embeds: Tensor,
    rotary: Tensor,
    *,
    change: dict[str, Change] | None = None,
    cut: Callable[[int, int], Tensor | None] = lambda layer, head: None,
) -> NaiveRun:
    """Run the text decoder by hand.

    Args:
        model: Where the weights are.
        embeds: Input embeddings ("pos d_model").
        rotary: Rotary positions ("3 pos").
        change: Hook-point name -> function of the whole tensor there, keys and values per query
            head.
        cut: (layer, head) -> edges removed besides the causal ones ("query key"), or None.
    """
    weights = {k: v.detach() for k, v in model.model.language_model.named_parameters()}
    config = model.config.text_config
    sections, theta = (config.rope_parameters[k] for k in ("mrope_section", "rope_theta"))
    n, n_kv, size = config.num_attention_heads, config.num_key_value_heads, len(embeds)
    causal = torch.ones(size, size, dtype=torch.bool).tril()
    run, change = NaiveRun(embeds), change or {}

    def at(name: str, value: Tensor) -> Tensor:
        if name in change:
            value = change[name](value.clone())
        run.points[name] = value
        return value

    x = embeds
    for layer in range(config.num_hidden_layers):
        own = {k.split(f"layers.{layer}.")[1]: v for k, v in weights.items() if f"s.{layer}." in k}
        here = f"blocks.{layer}."
        x = at(here + "hook_resid_pre", x)
        normed = rms_norm(x, own["input_layernorm.weight"], config.rms_norm_eps)
        heads = {}
        for letter, count in (("q", n), ("k", n_kv), ("v", n_kv)):
            flat = normed @ own[f"self_attn.{letter}_proj.weight"].T
            flat = flat + own[f"self_attn.{letter}_proj.bias"]
            split = flat.reshape(size, count, -1)
            per_query_head = torch.stack([split[:, h * count // n] for h in range(n)], dim=1)
            heads[letter] = at(f"{here}attn.hook_{letter}", per_query_head)
        rows = []
        for head in range(n):
            query = rotate(heads["q"][:, head], rotary, sections, theta)
            key = rotate(heads["k"][:, head], rotary, sections, theta)
            removed = cut(layer, head)
            seen = causal if removed is None else causal & ~removed
            scores = (query @ key.T) / math.sqrt(query.shape[-1])
            powers = torch.exp(scores - scores.amax(-1, keepdim=True)) * seen
            rows.append(powers / powers.sum(-1, keepdim=True))
        pattern = at(here + "attn.hook_pattern", torch.stack(rows))
        z = torch.stack([pattern[head] @ heads["v"][:, head] for head in range(n)], dim=1)
        z = at(here + "attn.hook_z", z)
        out = at(here + "hook_attn_out", z.reshape(size, -1) @ own["self_attn.o_proj.weight"].T)
        x = at(here + "hook_resid_mid", x + out)
        normed = rms_norm(x, own["post_attention_layernorm.weight"], config.rms_norm_eps)
        gate = normed @ own["mlp.gate_proj.weight"].T
        up = normed @ own["mlp.up_proj.weight"].T
        inner = gate / (1 + torch.exp(-gate)) * up
        x = x + at(here + "hook_mlp_out", inner @ own["mlp.down_proj.weight"].T)
        x = at(here + "hook_resid_post", x)
    run.states = rms_norm(x, weights["norm.weight"], config.rms_norm_eps)
    return run


@pytest.fixture(scope="session")
def naive_decode() -> Callable[..., NaiveRun]:
    """The text decoder by hand: `naive_decode(model, embeds, rotary, change=, cut=)`."""
    return run_naive_decode


# --- hooks ---------------------------------------------------------------------------------------


def count_all_hooks(model: torch.nn.Module) -> int:
    """Return how many forward hooks and pre-hooks stand on any module."""
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


@pytest.fixture(scope="session")
def count_hooks() -> Callable[[torch.nn.Module], int]:
    """How many hooks a model carries, over all its modules."""
    return count_all_hooks
