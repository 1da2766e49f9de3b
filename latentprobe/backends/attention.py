"""Attention as the model computes it, readable and editable, through `AttentionInterface`.

While a session needs it, the decoder's attention implementation is a thin wrapper around the
model's own kernel (SDPA or eager). The wrapper

1. turns knockouts into an additive mask and lets the kernel do the rest;
2. recomputes the softmax only for query rows somebody reads or edits, so that reading attention at
   a few positions costs a few rows and not length squared;
3. where an edit changed a row, replaces that row of the kernel's output by edited weights times
   values. Rows whose weights an edit left as they were keep the kernel's own output, bit for bit.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol, runtime_checkable

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from latentprobe.errors import ModelError

KERNELS = ("sdpa", "eager")


@runtime_checkable
class AttentionHandler(Protocol):
    """What one layer's attention has to do for a session, on the current chunk."""

    def blocked(self) -> Bool[Tensor, "head query key"] | None:
        """Return the edges knocked out, or None; `head` may be 1 for all heads."""
        ...

    def rows(self) -> list[int]:
        """Return the chunk's query rows whose weights are wanted."""
        ...

    def pattern(self, weights: Float[Tensor, "head query key"]) -> Tensor:
        """Take the rows' weights and return them, edited or not."""
        ...


_active: dict[nn.Module, AttentionHandler] = {}


@contextmanager
def handled(config: Any, handlers: dict[nn.Module, AttentionHandler]) -> Iterator[None]:
    """Route the attention of some modules through handlers; the own kernel comes back after.

    Args:
        config: The decoder's config, whose `_attn_implementation` picks the kernel.
        handlers: Attention module -> handler.

    Raises:
        ModelError: The model runs on a kernel that takes no mask of ours.
    """
    if not handlers:
        yield
        return
    original = config._attn_implementation
    if original not in KERNELS:
        raise ModelError(
            f"attention cannot be read or cut on attn_implementation={original!r}; "
            f"load the model with one of {', '.join(KERNELS)}"
        )
    _active.update(handlers)
    config._attn_implementation = f"latentprobe_{original}"
    try:
        yield
    finally:
        config._attn_implementation = original
        for module in handlers:
            _active.pop(module, None)


def _eager(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    *,
    scaling: float,
    **_: Any,
) -> tuple[Tensor, None]:
    weights = attention_weights(query[0], key[0], _row_mask(mask, query, key), scaling)
    output = weighted_values(weights, value[0])
    return rearrange(output, "head query d_head -> 1 query head d_head"), None


def _wrapper(kernel: str) -> Callable[..., tuple[Tensor, Any]]:
    def forward(
        module: nn.Module,
        query: Float[Tensor, "batch head query d_head"],
        key: Float[Tensor, "batch kv_head key d_head"],
        value: Float[Tensor, "batch kv_head key d_head"],
        attention_mask: Tensor | None,
        **kwargs: Any,
    ) -> tuple[Tensor, Any]:
        base = _eager if kernel == "eager" else ALL_ATTENTION_FUNCTIONS[kernel]
        handler = _active.get(module)
        if handler is None:
            return base(module, query, key, value, attention_mask, **kwargs)
        blocked = handler.blocked()
        if blocked is not None:
            attention_mask = _with_blocked(_row_mask(attention_mask, query, key), blocked)
        output, weights = base(module, query, key, value, attention_mask, **kwargs)
        rows = handler.rows()
        if rows:
            mask = _row_mask(attention_mask, query, key, rows)
            scaling = kwargs["scaling"]
            pattern = attention_weights(query[0, :, rows], key[0], mask, scaling)
            edited = handler.pattern(pattern)
            if edited is not pattern:
                output = _with_rows(output, rows, pattern, edited, value[0])
        return output, weights

    return forward


def attention_weights(
    query: Float[Tensor, "head query d_head"],
    key: Float[Tensor, "kv_head key d_head"],
    mask: Float[Tensor, "mask_head query key"],
    scaling: float,
) -> Float[Tensor, "head query key"]:
    """Return softmax weights of some query rows; key-value heads are shared, not copied."""
    groups = query.shape[0] // key.shape[0]
    grouped = rearrange(query, "(kv group) query d -> kv (group query) d", group=groups)
    scores = grouped @ key.transpose(-1, -2) * scaling
    scores = rearrange(scores, "kv (group query) key -> (kv group) query key", group=groups)
    return torch.softmax(scores + mask, dim=-1, dtype=torch.float32).to(query.dtype)


def weighted_values(
    weights: Float[Tensor, "head query key"], value: Float[Tensor, "kv_head key d_head"]
) -> Float[Tensor, "head query d_head"]:
    """Return attention weights times values, for grouped key-value heads."""
    groups = weights.shape[0] // value.shape[0]
    grouped = rearrange(weights, "(kv group) query key -> kv (group query) key", group=groups)
    return rearrange(grouped @ value, "kv (group query) d -> (kv group) query d", group=groups)


def _row_mask(
    mask: Tensor | None, query: Tensor, key: Tensor, rows: list[int] | None = None
) -> Float[Tensor, "mask_head query key"]:
    """Return the additive mask of some rows (all when None); causal where the model gave none."""
    length, total = query.shape[-2], key.shape[-2]
    rows = list(range(length)) if rows is None else rows
    floor = torch.finfo(query.dtype).min
    if mask is None:
        last_key = torch.tensor(rows, device=query.device) + (total - length)
        seen = torch.arange(total, device=query.device)[None] <= last_key[:, None]
        return torch.where(seen, 0.0, floor)[None].to(query.dtype)
    chosen = mask[0, :, rows, :total]
    if chosen.dtype == torch.bool:
        return torch.where(chosen, 0.0, floor).to(query.dtype)
    return chosen


def _with_blocked(
    mask: Float[Tensor, "mask_head query key"], blocked: Bool[Tensor, "head query key"]
) -> Float[Tensor, "1 head query key"]:
    floor = torch.finfo(mask.dtype).min
    return mask.masked_fill(blocked, floor)[None]


def _with_rows(
    output: Float[Tensor, "1 query head d_head"],
    rows: list[int],
    before: Float[Tensor, "head row key"],
    after: Float[Tensor, "head row key"],
    value: Float[Tensor, "kv_head key d_head"],
) -> Float[Tensor, "1 query head d_head"]:
    """Return the kernel's output with the changed rows' weighted values in place."""
    changed = rearrange((before != after).any(dim=-1), "head row -> row head 1")
    fresh = rearrange(weighted_values(after, value), "head row d -> row head d")
    output = output.clone()
    output[0, rows] = torch.where(changed, fresh, output[0, rows])
    return output


for _kernel in KERNELS:
    AttentionInterface.register(f"latentprobe_{_kernel}", _wrapper(_kernel))
    AttentionMaskInterface.register(f"latentprobe_{_kernel}", ALL_MASK_ATTENTION_FUNCTIONS[_kernel])
