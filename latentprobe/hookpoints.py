"""The vocabulary of hook points: named places in the computation, TransformerLens's own names.

`BLOCK_POINTS` and `LATENT_POINTS` are the only place where a name, its axes and what may be done
with it are written down. A model's registry (`HookPoints`) is that vocabulary laid out over its
layers.
"""

import fnmatch
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from latentprobe.axes import AXES
from latentprobe.errors import UnknownNameError


@dataclass(frozen=True)
class HookPoint:
    """A named place in the computation.

    Attributes:
        name: Full name, `blocks.3.hook_resid_post`.
        kind: The name without its layer, `hook_resid_post`.
        layer: Decoder block, counted from 0; None for the recurrence's own points.
        axes: Names of the tensor's axes (`axes.py`). `pos` and `query` are cut down to the
            positions asked for.
        readable: Whether `read` may ask for it.
        writable: Whether an edit may write to it; a write always changes what the model computes.
        note: What stands there, for people.
    """

    name: str
    kind: str
    layer: int | None
    axes: tuple[str, ...]
    readable: bool
    writable: bool
    note: str

    @property
    def row_axis(self) -> int:
        """Index of the axis (`pos`, `query` or `slot`) that runs over chosen positions."""
        return next(i for i, axis in enumerate(self.axes) if axis in ("pos", "query", "slot"))

    @property
    def head_axis(self) -> int | None:
        """Index of the `head` axis, or None where the point has no heads."""
        return self.axes.index("head") if "head" in self.axes else None


@dataclass(frozen=True)
class PointKind:
    """One row of the vocabulary: what a point of this kind is on every layer."""

    axes: tuple[str, ...]
    note: str

    def __post_init__(self) -> None:
        assert set(self.axes) <= set(AXES), f"{self.axes} are not all in the glossary of axes"


RESIDUAL = ("pos", "d_model")
HEADS = ("pos", "head", "d_head")

BLOCK_POINTS = {
    "hook_resid_pre": PointKind(RESIDUAL, "residual stream entering the block"),
    "attn.hook_q": PointKind(HEADS, "queries before the rotary embedding"),
    "attn.hook_k": PointKind(HEADS, "keys before the rotary embedding, one per query head"),
    "attn.hook_v": PointKind(HEADS, "values, one per query head"),
    "attn.hook_pattern": PointKind(("head", "query", "key"), "attention weights after softmax"),
    "attn.hook_z": PointKind(HEADS, "weighted values per head, before the output matrix"),
    "hook_attn_out": PointKind(RESIDUAL, "what attention adds to the residual stream"),
    "hook_resid_mid": PointKind(RESIDUAL, "residual stream between attention and MLP"),
    "hook_mlp_out": PointKind(RESIDUAL, "what the MLP adds to the residual stream"),
    "hook_resid_post": PointKind(RESIDUAL, "residual stream leaving the block"),
}
LATENT_POINTS = {
    "latent.hook_state": PointKind(("slot", "d_model"), "hidden state a latent step was made from"),
    "latent.hook_fed": PointKind(("slot", "d_model"), "vector fed back as a slot's input"),
}


class HookPoints(Sequence[HookPoint]):
    """The hook points of one model: iterable, indexable by number or name, selectable by pattern.

    Example:
        >>> points = HookPoints.for_model(n_layers=2, latent=True)
        >>> len(points), points["blocks.1.attn.hook_z"].axes
        (22, ('pos', 'head', 'd_head'))
        >>> [p.name for p in points.select("blocks.*.hook_resid_mid")]
        ['blocks.0.hook_resid_mid', 'blocks.1.hook_resid_mid']
    """

    def __init__(self, points: Iterable[HookPoint]) -> None:
        self._points = tuple(points)
        self._by_name = {point.name: point for point in self._points}

    @classmethod
    def for_model(cls, *, n_layers: int, latent: bool) -> "HookPoints":
        """Lay the vocabulary out over `n_layers` blocks, with or without the latent points."""
        points = [
            HookPoint(f"blocks.{layer}.{kind}", kind, layer, row.axes, True, True, row.note)
            for layer in range(n_layers)
            for kind, row in BLOCK_POINTS.items()
        ]
        if latent:
            points += [
                HookPoint(name, name, None, row.axes, True, True, row.note)
                for name, row in LATENT_POINTS.items()
            ]
        return cls(points)

    def __len__(self) -> int:
        return len(self._points)

    def __iter__(self) -> Iterator[HookPoint]:
        return iter(self._points)

    def __getitem__(self, which):  # noqa: ANN001, ANN204 - Sequence's overloads plus names
        """Return a point by number or name.

        Raises:
            UnknownNameError: No hook point has this name; the nearest names are offered.
        """
        if not isinstance(which, str):
            return self._points[which]
        if which not in self._by_name:
            raise UnknownNameError("hook point", which, self._by_name)
        return self._by_name[which]

    def __contains__(self, item: object) -> bool:
        return item in self._by_name or item in self._points

    def select(self, pattern: str | Iterable[str]) -> "HookPoints":
        """Return the points whose names match one or several shell patterns, in the model's order.

        Raises:
            UnknownNameError: A pattern matches no point.

        Example:
            >>> points = HookPoints.for_model(n_layers=4, latent=False)
            >>> len(points.select(["blocks.[01].hook_mlp_out", "blocks.3.*"]))
            12
        """
        patterns = [pattern] if isinstance(pattern, str) else list(pattern)
        chosen: set[str] = set()
        for one in patterns:
            matched = fnmatch.filter(self._by_name, one)
            if not matched:
                raise UnknownNameError("hook point", one, self._by_name)
            chosen.update(matched)
        return HookPoints(point for point in self._points if point.name in chosen)

    def __repr__(self) -> str:
        kinds = dict.fromkeys(
            point.kind if point.layer is None else f"blocks.{{l}}.{point.kind}"
            for point in self._points
        )
        return f"HookPoints({len(self)} points: {', '.join(kinds)})"
