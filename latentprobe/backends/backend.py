"""The seam between what is asked of a model and how it is carried out.

A `Backend` opens a `Session` for a `Plan` (edits, knockouts, reads); a session runs chunks of
positions through the decoder and carries the plan out on each. Chunks may be a whole response
(replay) or one position after the other (generation): the plan is the same.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from jaxtyping import Float, Int
from torch import Tensor

from latentprobe.architectures import Encoded
from latentprobe.edits import Context, Edit, Knockout
from latentprobe.errors import EditError
from latentprobe.hookpoints import HookPoint, HookPoints
from latentprobe.registry import Registry
from latentprobe.tokens import ALL, Layout, Subset


@dataclass(frozen=True)
class Plan:
    """What one session has to carry out.

    Attributes:
        edits: Edits and knockouts, in the order in which they act.
        reads: Hook points to record.
        where: Positions to record them at.
        inherent: Knockouts that belong to the model itself; not counted as edits.
        seed: Seed handed to interventions.
    """

    edits: tuple[Edit | Knockout, ...] = ()
    reads: tuple[HookPoint, ...] = ()
    where: Subset = ALL
    inherent: tuple[Knockout, ...] = ()
    seed: int = 0


@dataclass(frozen=True)
class Chunk:
    """Consecutive positions to run through the decoder.

    Attributes:
        embeds: Their input embeddings.
        rotary: Their rotary positions.
        first: Position of the first of them in the whole sequence.
        layout: Layout of the sequence up to and including the chunk.
    """

    embeds: Float[Tensor, "pos d_model"]
    rotary: Int[Tensor, "rotary pos"]
    first: int
    layout: Layout


@runtime_checkable
class Session(Protocol):
    """An open plan; edits count the positions they were applied at."""

    applied: list[set[int]]
    tensors: dict[str, Tensor]

    def forward(self, chunk: Chunk, cache: Any, *, count: bool = True) -> Tensor:
        """Run a chunk on top of a cache; return the final-norm states ("pos d_model")."""
        ...

    def edit_latent(self, name: str, vector: Tensor, layout: Layout) -> Tensor:
        """Carry out the edits at a `latent.*` point for the slot rows of `vector`."""
        ...


@runtime_checkable
class Backend(Protocol):
    """A way to run a model under a plan."""

    hook_points: HookPoints

    def encode(self, token_ids: Tensor, pixel_values: Any, grid: Any) -> Encoded:
        """Turn a prompt into embeddings and rotary positions."""
        ...

    def session(self, plan: Plan) -> AbstractContextManager[Session]:
        """Open a session; hooks are gone when it closes, whatever happened."""
        ...


@dataclass
class PlannedEdits:
    """The plan's edits sorted by hook point, checked before anything is hooked.

    Attributes:
        at: Hook-point name -> numbers of the edits that act there, in order.
        knockouts: Numbers of the plan's knockouts, with the layers each acts on.
    """

    at: dict[str, list[int]] = field(default_factory=dict)
    knockouts: list[tuple[int, tuple[int, ...]]] = field(default_factory=list)


def check_plan(
    plan: Plan, points: HookPoints, *, n_layers: int, n_heads: int, replaying: bool
) -> PlannedEdits:
    """Sort a plan's edits by hook point.

    Raises:
        UnknownNameError: A hook point does not exist.
        EditError: A point cannot be written here, or heads or layers are out of range.
    """
    planned = PlannedEdits()
    for number, edit in enumerate(plan.edits):
        if isinstance(edit, Knockout):
            _check_range("heads", edit.heads, n_heads, edit.label)
            _check_range("layers", edit.layers, n_layers, edit.label)
            layers = range(n_layers) if edit.layers is None else edit.layers
            planned.knockouts.append((number, tuple(layers)))
        else:
            _check_range("heads", edit.heads, n_heads, edit.label)
            for point in points.select(edit.at):
                _check_writable(edit, point, replaying=replaying)
                planned.at.setdefault(point.name, []).append(number)
    return planned


def _check_range(what: str, chosen: Sequence[int] | None, size: int, label: str) -> None:
    outside = [index for index in chosen or () if not 0 <= index < size]
    if outside:
        raise EditError(f"{label}: {what} {outside} do not exist; {what} run from 0 to {size - 1}")


def _check_writable(edit: Edit, point: HookPoint, *, replaying: bool) -> None:
    if not point.writable:
        raise EditError(f"{edit.label}: {point.name} can be read but not written")
    if replaying and point.name == "latent.hook_state":
        raise EditError(
            f"{edit.label}: in a replay the fed vectors are those recorded, so that a write to "
            "latent.hook_state would change nothing; edit latent.hook_fed, or generate"
        )
    if edit.heads is not None and point.head_axis is None:
        raise EditError(
            f"{edit.label}: {point.name} has axes {point.axes} and no heads; drop "
            f"heads={edit.heads}"
        )


def apply_edit(edit: Edit, activation: Tensor, context: Context) -> Tensor:
    """Return the activation with one edit made, on the chosen heads only.

    Args:
        edit: The edit.
        activation: Rows at the edited positions, axes as in `context.axes`.
        context: What the intervention gets to see.

    Raises:
        EditError: The intervention gave back something of another shape, or not finite.
    """
    heads = None if edit.heads is None else list(edit.heads)
    axis = context.axes.index("head") if heads is not None else 0
    part = activation if heads is None else activation.movedim(axis, 0)[heads].movedim(0, axis)
    result = edit.do(part, context)
    if not isinstance(result, Tensor) or result.shape != part.shape:
        got = tuple(result.shape) if isinstance(result, Tensor) else type(result).__name__
        raise EditError(
            f"{edit.label} at {context.hook}: the intervention returned {got}, expected a tensor "
            f"of shape {tuple(part.shape)} with axes {context.axes}"
        )
    result = result.to(part.dtype)
    if not bool(result.isfinite().all()):
        raise EditError(
            f"{edit.label} at {context.hook}: the intervention returned NaN or infinity"
        )
    if heads is None:
        return result
    whole = activation.movedim(axis, 0).clone()
    whole[heads] = result.movedim(axis, 0)
    return whole.movedim(0, axis)


def _check_backend(entry: object) -> str | None:
    for name in ("encode", "session"):
        if not callable(getattr(entry, name, None)):
            return f"a backend has a method `{name}`"
    return None


backends: Registry[Any] = Registry(
    "backend",
    group="latentprobe.backends",
    check=_check_backend,
    builtin={"torch": "latentprobe.backends.torch:TorchBackend"},
)

__all__ = [
    "Backend",
    "Chunk",
    "Plan",
    "PlannedEdits",
    "Session",
    "apply_edit",
    "backends",
    "check_plan",
]
