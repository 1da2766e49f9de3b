"""What can be asked of a model: edits and knockouts, and what an intervention gets to see.

An `Edit` says *where* (hook points, token subset, heads) and *what* (an intervention); a `Knockout`
says which attention edges to remove. Neither knows a model. Backends carry them out and count, per
edit, the positions it was applied at; interventions are plain functions `(activation, context) ->
activation`.
"""

import hashlib
import inspect
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from latentprobe.errors import EditError, UnknownNameError
from latentprobe.tokens import Subset


@dataclass(frozen=True)
class Context:
    """What an intervention may know about the activation it is given.

    Attributes:
        hook: Name of the hook point.
        layer: Decoder block, counted from 0, or None.
        axes: Names of the activation's axes; `pos`, `query` or `slot` runs over `positions`.
        positions: Positions being edited, counted from 0 in the whole sequence.
        roles: Role of each of these positions.
        steps: Latent step of each of these positions (from 0 inside its segment), None elsewhere.
        heads: Query heads being edited, or None for all.
        seed: The trial's seed.
        edit: Number of the edit in the order given, from 0.
    """

    hook: str
    layer: int | None
    axes: tuple[str, ...]
    positions: tuple[int, ...]
    roles: tuple[str, ...]
    steps: tuple[int | None, ...]
    heads: tuple[int, ...] | None = None
    seed: int = 0
    edit: int = 0

    @property
    def row_axis(self) -> int:
        """Index of the axis that runs over `positions`."""
        return next(i for i, axis in enumerate(self.axes) if axis in ("pos", "query", "slot"))

    def row_seeds(self, salt: str = "") -> list[int]:
        """Return one seed per position, a function of (seed, edit, hook point, position) alone.

        Drawing row by row makes random interventions the same whether positions arrive one at a
        time (while generating) or all at once (in a replay).
        """
        prefix = f"{self.seed}/{self.edit}/{self.hook}/{salt}"
        return [
            int.from_bytes(hashlib.sha256(f"{prefix}/{p}".encode()).digest()[:7], "big")
            for p in self.positions
        ]

    def normal_like(self, activation: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Return standard normal noise of the activation's shape, drawn row by row on the CPU."""
        rows = activation.movedim(self.row_axis, 0)
        noise = torch.empty(rows.shape, dtype=torch.float32)
        for index, seed in enumerate(self.row_seeds()):
            noise[index].normal_(generator=torch.Generator().manual_seed(seed))
        return noise.movedim(0, self.row_axis).to(activation.device, activation.dtype)


@runtime_checkable
class Intervention(Protocol):
    """Arithmetic on an activation: same shape out as in, no knowledge of models."""

    def __call__(self, activation: Tensor, context: Context, /) -> Tensor:
        """Return the replacement for `activation` (axes as in `context.axes`)."""
        ...


@dataclass(frozen=True)
class Edit:
    """An intervention at hook points, for a token subset.

    Attributes:
        at: Hook-point name or shell pattern, or several (`"blocks.*.hook_resid_post"`).
        where: Token subset whose positions are edited.
        do: The intervention; any callable `(activation, context) -> activation`.
        heads: Query heads to edit, counted from 0; None edits all. Only for points with heads.
        allow_empty: Accept that the subset holds no position (otherwise an error).

    Example:
        >>> from latentprobe.tokens import SLOTS
        >>> Edit("blocks.2.hook_resid_post", where=SLOTS, do=lambda a, context: 0 * a).label
        'blocks.2.hook_resid_post@slot'
    """

    at: str | Sequence[str]
    where: Subset
    do: Intervention
    heads: Sequence[int] | None = None
    allow_empty: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.where, Subset):
            raise EditError(
                f"`where` is a token subset such as lp.SLOTS, got {self.where!r}; "
                "for plain positions use lp.positions([...])"
            )
        _check_intervention(self.do)
        _freeze(self, "heads")
        object.__setattr__(self, "at", self.at if isinstance(self.at, str) else tuple(self.at))

    @property
    def label(self) -> str:
        """A short name for reports: hook points and subset."""
        at = self.at if isinstance(self.at, str) else ",".join(self.at)
        return f"{at}@{self.where}"


@dataclass(frozen=True)
class Knockout:
    """Removal of attention edges from query positions to key positions, before the softmax.

    The remaining edges are re-normalised by the softmax. A query whose every key would be removed
    is an error, not a row of zeros.

    Attributes:
        queries: Token subset of the attending positions.
        keys: Token subset of the positions attended to.
        layers: Decoder blocks, counted from 0; None for all.
        heads: Query heads, counted from 0; None for all.
        allow_empty: Accept that no edge is there to be removed (otherwise an error).
    """

    queries: Subset
    keys: Subset
    layers: Sequence[int] | None = None
    heads: Sequence[int] | None = None
    allow_empty: bool = False

    def __post_init__(self) -> None:
        for name in ("queries", "keys"):
            if not isinstance(getattr(self, name), Subset):
                raise EditError(f"`{name}` is a token subset, got {getattr(self, name)!r}")
        _freeze(self, "layers")
        _freeze(self, "heads")

    @property
    def label(self) -> str:
        """A short name for reports: which edges."""
        return f"knockout {self.queries}->{self.keys}"


def _check_intervention(do: object) -> None:
    """Refuse what cannot be called as (activation, context)."""
    if not callable(do):
        raise EditError(f"`do` is a callable (activation, context), got {do!r}")
    try:
        inspect.signature(do).bind(object(), object())
    except TypeError:
        name = getattr(do, "__name__", repr(do))
        raise EditError(
            f"`do` is called as (activation, context), which {name}{inspect.signature(do)} cannot "
            "be; a built-in intervention is made by calling it, as in do=zero()"
        ) from None
    except ValueError:  # a callable without a signature: it will show when it is called
        return


def _freeze(edit: "Edit | Knockout", name: str) -> None:
    """Turn a list of layers or heads into a tuple; an empty one would act nowhere."""
    chosen = getattr(edit, name)
    if chosen is None:
        return
    if not tuple(chosen):
        raise EditError(f"{name}={chosen!r} chooses none; leave it out to choose all {name}")
    object.__setattr__(edit, name, tuple(chosen))


def knockout(
    *,
    queries: Subset,
    keys: Subset,
    layers: Sequence[int] | None = None,
    heads: Sequence[int] | None = None,
    allow_empty: bool = False,
) -> Knockout:
    """Return a knockout of the attention edges `queries -> keys`; usable wherever an `Edit` is.

    The position that predicts the answer is the one *before* it (the template's last token, or the
    closing marker). To cut the answer off from the slots, cut everything after them:
    `queries=CLOSE | REASONING | FORMAT | ANSWER`.

    Args:
        queries: Token subset of the attending positions.
        keys: Token subset of the positions attended to.
        layers: Decoder blocks, counted from 0; None for all.
        heads: Query heads, counted from 0; None for all.
        allow_empty: Accept that no edge is there to be removed.

    References:
        Attention knockout: Geva et al., arXiv 2304.14767.
    """
    return Knockout(queries, keys, layers, heads, allow_empty)


@dataclass(frozen=True, repr=False)
class Activations:
    """Tensors read at hook points, by name; positions say which rows they are.

    Attributes:
        positions: Positions (counted from 0) of the rows along `pos`, `query` or `slot`.
        roles: Role of each of these positions.
        steps: Latent step of each of these positions, None elsewhere.
    """

    tensors: dict[str, Tensor]
    positions: tuple[int, ...]
    roles: tuple[str, ...]
    steps: tuple[int | None, ...]

    def __getitem__(self, name: str) -> Tensor:
        """Return the tensor read at one hook point.

        Raises:
            UnknownNameError: Nothing was read there; the nearest names are offered.
        """
        if name not in self.tensors:
            raise UnknownNameError("hook point among those read", name, self.tensors)
        return self.tensors[name]

    def __repr__(self) -> str:
        shapes = ", ".join(f"{name}: {tuple(t.shape)}" for name, t in self.tensors.items())
        return f"Activations({shapes}; positions {list(self.positions)})"

    def __iter__(self) -> Any:
        return iter(self.tensors)

    def __len__(self) -> int:
        return len(self.tensors)

    def __contains__(self, name: object) -> bool:
        return name in self.tensors

    def to(self, *, dtype: torch.dtype) -> "Activations":
        """Return the same activations in another number format."""
        return replace(self, tensors={name: t.to(dtype) for name, t in self.tensors.items()})
