"""What a backend has to know of a Hugging Face model class: one table per architecture.

An `Architecture` maps hook-point kinds to `Site`s (a module inside a decoder block, its input or
its output, and how heads lie in it) and names the few modules the decode loop needs. It also knows
how a prompt with images becomes input embeddings and rotary positions, the one thing that is code
and not a table.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, Literal

from jaxtyping import Float, Int
from torch import Tensor, nn

from latentprobe.hookpoints import BLOCK_POINTS
from latentprobe.registry import Registry


@dataclass(frozen=True)
class Site:
    """Where a hook point of one kind stands inside a decoder block.

    Attributes:
        path: Module inside the block, dotted; "" is the block itself.
        side: `input` (first positional argument), `output`, or `pattern` (inside the attention
            function, which backends replace through `AttentionInterface`).
        item: Which element of a tuple output; None where the output is a tensor.
        heads: How the last axis splits into heads: `query` heads, `key_value` heads, or not at all.
        shared: The input tensor is used again elsewhere in the block (a residual connection), so
            that an edit has to be made in place to be seen there too.
    """

    path: str
    side: Literal["input", "output", "pattern"]
    item: int | None = None
    heads: Literal["query", "key_value"] | None = None
    shared: bool = False


@dataclass(frozen=True)
class Encoded:
    """A prompt ready for the decoder.

    Attributes:
        embeds: Input embeddings with image features scattered in.
        rotary: Rotary positions of the prompt (temporal, height, width for M-RoPE).
        offset: Rotary position of response position p is p + offset.
        grids: (rows, columns) of each image's merged patch grid.
    """

    embeds: Float[Tensor, "pos d_model"]
    rotary: Int[Tensor, "rotary pos"]
    offset: int
    grids: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Architecture:
    """One Hugging Face model class as hook points see it.

    Attributes:
        name: Name in the registry.
        model_types: Values of `config.model_type` it covers.
        decoder: Path of the text decoder (takes `inputs_embeds`, returns `last_hidden_state`).
        layers: Path of the list of blocks inside the decoder.
        embedding: Path of the token embedding inside the decoder.
        unembedding: Path of the output matrix in the whole model.
        sites: Hook-point kind (without its layer) to place.
        encode: `(model, token_ids, pixel_values, grid) -> Encoded`.
        image_token: Config key holding the id that image features replace.
        rotary_axes: Number of rotary axes: 3 (time, height, width) for M-RoPE, else 1.
    """

    name: str
    model_types: tuple[str, ...]
    decoder: str
    layers: str
    embedding: str
    unembedding: str
    sites: Mapping[str, Site]
    encode: Callable[[Any, Tensor, Tensor | None, Tensor | None], Encoded]
    image_token: str
    rotary_axes: int = 1

    def find_decoder(self, model: nn.Module) -> Any:
        """Return the text decoder of a model."""
        return attrgetter(self.decoder)(model)


def _check(entry: object) -> str | None:
    if not isinstance(entry, Architecture):
        return "an architecture is a latentprobe.architectures.Architecture"
    unknown = sorted(set(entry.sites) - set(BLOCK_POINTS))
    missing = sorted(set(BLOCK_POINTS) - set(entry.sites))
    if unknown or missing:
        return f"its sites lack {missing} and name unknown hook points {unknown}"
    return None


architectures: Registry[Architecture] = Registry(
    "architecture",
    group="latentprobe.architectures",
    check=_check,
    builtin={"qwen2_5_vl": "latentprobe.architectures.qwen2_5_vl:QWEN2_5_VL"},
)
