"""What reading attention rows at latent positions costs, beside plain and eager forwards.

1. A random decoder (8 layers, width 512, 8 heads on 2 key-value heads) runs one sequence: image
   tokens, a question, a latent span of 8 slots, an answer.
2. Contenders: the plain SDPA forward; the same forward with the attention rows of the 8 slots read
   at every layer; an eager forward that returns all attention (`output_attentions=True`).
3. Rows read and eager attention are compared, so that what is timed is also right.
"""

from typing import Any

import torch
from torch import Tensor
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from latentprobe.architectures import architectures
from latentprobe.backends import Chunk, Plan, backends
from latentprobe.bench.timing import Result, race, versions
from latentprobe.tokens import SLOTS, Layout, Segment

LAYERS, WIDTH, HEADS, KV_HEADS, SLOT_COUNT = 8, 512, 8, 2, 8
AFTER = 24  # positions after the image: question, markers, slots, answer


def run(*, positions: int = 1088, repeats: int = 7, threads: int = 2, seed: int = 0) -> Result:
    """Time the contenders and check that they agree.

    Args:
        positions: Length of the sequence.
        repeats: Timed rounds; each runs every contender once.
        threads: CPU threads.
        seed: Seed of weights and inputs.
    """
    torch.set_num_threads(threads)
    backend = backends.get("torch")(_model(seed), architectures.get("qwen2_5_vl"), latent=True)
    chunk = _chunk(positions, seed)
    points = tuple(backend.hook_points.select("blocks.*.attn.hook_pattern"))

    def plain() -> None:
        with torch.no_grad():
            _decode(backend.decoder, chunk)

    def rows() -> dict[str, Tensor]:
        with backend.session(Plan(reads=points, where=SLOTS)) as session:
            session.forward(chunk, backend.new_cache())
        return session.tensors

    def eager() -> tuple[Tensor, ...]:
        backend.decoder.set_attn_implementation("eager")
        try:
            with torch.no_grad():
                return _decode(backend.decoder, chunk, output_attentions=True).attentions
        finally:
            backend.decoder.set_attn_implementation("sdpa")

    contenders = {
        "plain forward, SDPA": plain,
        f"latentprobe, rows at {SLOT_COUNT} slots, all layers": rows,
        "eager forward, output_attentions=True": eager,
    }
    timed = race(contenders, rounds=repeats)
    slots = chunk.layout.slots
    whole = eager()
    read = rows()
    apart = max(
        float((read[point.name] - whole[point.layer][0, :, slots]).abs().max()) for point in points
    )
    shapes = {
        "positions": positions,
        "layers": LAYERS,
        "d_model": WIDTH,
        "heads": HEADS,
        "kv_heads": KV_HEADS,
        "slots": SLOT_COUNT,
        "threads": threads,
        "max_difference": apart,
        **versions(),
    }
    note = f"largest difference between the rows read and eager attention: {apart:.1e}"
    return Result(f"Attention at latent positions, {positions} tokens", timed, shapes, note)


def _model(seed: int) -> Any:
    config = Qwen2_5_VLConfig(
        text_config={
            "vocab_size": 1024,
            "hidden_size": WIDTH,
            "intermediate_size": 4 * WIDTH,
            "num_hidden_layers": LAYERS,
            "num_attention_heads": HEADS,
            "num_key_value_heads": KV_HEADS,
            "bos_token_id": None,
            "eos_token_id": None,
            "rope_parameters": {"rope_type": "default", "mrope_section": [8, 12, 12]},
        },
        vision_config={"depth": 1, "hidden_size": 64, "num_heads": 2, "out_hidden_size": WIDTH},
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Qwen2_5_VLForConditionalGeneration(config).eval()


def _chunk(positions: int, seed: int) -> Chunk:
    first = positions - AFTER + 10
    slots = tuple(range(first + 1, first + 1 + SLOT_COUNT))
    roles = ["image"] * (positions - AFTER) + ["question"] * 10 + ["open"]
    roles += ["slot"] * SLOT_COUNT + ["close"]
    roles += ["answer"] * (positions - len(roles))
    layout = Layout(tuple(roles), first, (Segment(first, slots, slots[-1] + 1),))
    generator = torch.Generator().manual_seed(seed)
    embeds = torch.randn(positions, WIDTH, generator=generator)
    return Chunk(embeds, torch.arange(positions).expand(3, -1), 0, layout)


def _decode(decoder: Any, chunk: Chunk, **options: Any) -> Any:
    return decoder(
        inputs_embeds=chunk.embeds[None],
        position_ids=chunk.rotary[:, None],
        use_cache=True,
        **options,
    )
