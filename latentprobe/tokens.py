"""Roles of positions, the layout of a response, and the algebra of token subsets.

A `Layout` says what every position of a sequence is (its *role*), where the latent segments are,
and which image patch an image token stands for. A `Subset` is a recipe for choosing positions that
makes sense on any layout: `SLOTS[0:2] | MARKERS`, `~IMAGE`, `image_region((0, 0, 28, 28))`. Subsets
know no model and no tensor; a layout resolves them to positions.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import groupby

import numpy as np

from latentprobe.errors import SubsetError

ROLES = (
    *("system", "image", "question", "open", "slot", "close"),
    *("reasoning", "format", "answer", "pad"),
)


@dataclass(frozen=True)
class Segment:
    """One latent span: open marker, slots, close marker.

    Attributes:
        open: Position of the open marker, or None where there is none.
        slots: Positions of the slots, in order; step k is `slots[k]`.
        close: Position of the close marker, or None where the span was not closed.
    """

    open: int | None
    slots: tuple[int, ...]
    close: int | None


@dataclass(frozen=True)
class ImageGrid:
    """The merged patch grid of one image: `rows * columns` image tokens from position `start`.

    Attributes:
        start: Position of the first image token (top-left patch; tokens run row by row).
        rows: Merged patches from top to bottom.
        columns: Merged patches from left to right.
        width: Width of the original image in pixels.
        height: Height of the original image in pixels.
    """

    start: int
    rows: int
    columns: int
    width: int
    height: int

    @property
    def positions(self) -> range:
        """Positions of the image's tokens."""
        return range(self.start, self.start + self.rows * self.columns)


@dataclass(frozen=True)
class Layout:
    """What every position of one sequence is.

    Attributes:
        roles: One of `ROLES` per position, prompt first.
        n_prompt: Number of prompt positions; the response starts there.
        segments: The latent spans, in order.
        images: The patch grid of each image, in order.
        growing: The response is still being generated: positions may come after these.

    Example:
        >>> layout = Layout(("image", "question", "open", "slot", "slot", "close", "answer"), 2,
        ...                 (Segment(2, (3, 4), 5),))
        >>> layout.positions(SLOTS[0:1] | MARKERS)
        [2, 3, 5]
    """

    roles: tuple[str, ...]
    n_prompt: int
    segments: tuple[Segment, ...] = ()
    images: tuple[ImageGrid, ...] = ()
    growing: bool = False

    def __post_init__(self) -> None:
        unknown = sorted(set(self.roles) - set(ROLES))
        if unknown:
            raise SubsetError(f"unknown roles {unknown}; a role is one of {', '.join(ROLES)}")
        if not 0 <= self.n_prompt <= len(self.roles):
            raise SubsetError(
                f"n_prompt={self.n_prompt}, but there are {len(self.roles)} positions"
            )

    def __len__(self) -> int:
        return len(self.roles)

    def positions(self, where: "Subset") -> list[int]:
        """Return the positions of a subset, in ascending order, counted from 0."""
        return np.flatnonzero(where.mask(self)).tolist()

    @property
    def response(self) -> range:
        """Positions of the response."""
        return range(self.n_prompt, len(self.roles))

    @property
    def slots(self) -> list[int]:
        """Positions of all slots, in order."""
        return [position for segment in self.segments for position in segment.slots]

    def step(self, position: int) -> int | None:
        """Return the latent step (from 0 inside its segment) of a slot; None elsewhere."""
        for segment in self.segments:
            if position in segment.slots:
                return segment.slots.index(position)
        return None

    def runs(self) -> list[tuple[str, int, int]]:
        """Return maximal runs of one role as (role, first position, number of positions)."""
        runs, start = [], 0
        for role, group in groupby(self.roles):
            count = len(list(group))
            runs.append((role, start, count))
            start += count
        return runs


class Subset(ABC):
    """A rule that chooses positions on any layout; combine with `|`, `&` and `~`."""

    @property
    def parts(self) -> tuple["Subset", ...]:
        """The subsets it is made of."""
        return ()

    @abstractmethod
    def mask(self, layout: Layout) -> np.ndarray:
        """Return a boolean per position of the layout."""

    @property
    def counts_from_the_end(self) -> bool:
        """Whether it can only be resolved once the whole sequence is there (`SLOTS[-1]`)."""
        return any(part.counts_from_the_end for part in self.parts)

    def __repr__(self) -> str:
        return str(self)

    def __or__(self, other: "Subset") -> "Subset":
        return _Either(self, _subset(other))

    def __and__(self, other: "Subset") -> "Subset":
        return _Both(self, _subset(other))

    def __sub__(self, other: "Subset") -> "Subset":
        return _Both(self, _Not(_subset(other)))

    def __invert__(self) -> "Subset":
        return _Not(self)


def _subset(value: object) -> Subset:
    if isinstance(value, Subset):
        return value
    raise SubsetError(
        f"a token subset combines with another subset, got {value!r} ({type(value).__name__}); "
        "for plain positions use positions([...])"
    )


@dataclass(frozen=True, repr=False)
class _Everything(Subset):
    def mask(self, layout: Layout) -> np.ndarray:
        return np.ones(len(layout), dtype=bool)

    def __str__(self) -> str:
        return "all"


@dataclass(frozen=True, repr=False)
class _Role(Subset):
    role: str

    def mask(self, layout: Layout) -> np.ndarray:
        return np.array([role == self.role for role in layout.roles], dtype=bool)

    def __str__(self) -> str:
        return self.role


@dataclass(frozen=True, repr=False)
class _Slots(Subset):
    """Slots by latent step; the slice applies inside every segment."""

    start: int | None = None
    stop: int | None = None
    stride: int | None = None

    def __getitem__(self, steps: int | slice) -> "_Slots":
        if (self.start, self.stop, self.stride) != (None, None, None):
            raise SubsetError(f"{self} is already a slice of the slots; slice SLOTS only once")
        if isinstance(steps, slice):
            if steps.step == 0:
                raise SubsetError("a slice of the slots cannot have stride 0")
            return _Slots(steps.start, steps.stop, steps.step)
        return _Slots(steps, steps + 1 if steps != -1 else None)

    def mask(self, layout: Layout) -> np.ndarray:
        chosen = np.zeros(len(layout), dtype=bool)
        for segment in layout.segments:
            chosen[list(segment.slots[slice(self.start, self.stop, self.stride)])] = True
        return chosen

    @property
    def counts_from_the_end(self) -> bool:
        return any(
            value is not None and value < 0 for value in (self.start, self.stop, self.stride)
        )

    def __str__(self) -> str:
        if (self.start, self.stop, self.stride) == (None, None, None):
            return "slot"
        parts = (self.start, self.stop) + ((self.stride,) if self.stride is not None else ())
        return f"slot[{':'.join('' if part is None else str(part) for part in parts)}]"


@dataclass(frozen=True, repr=False)
class _SegmentNumber(Subset):
    index: int

    def mask(self, layout: Layout) -> np.ndarray:
        chosen = np.zeros(len(layout), dtype=bool)
        if -len(layout.segments) <= self.index < len(layout.segments):
            segment = layout.segments[self.index]
            ends = [end for end in (segment.open, segment.close) if end is not None]
            chosen[[*ends, *segment.slots]] = True
        return chosen

    @property
    def counts_from_the_end(self) -> bool:
        return self.index < 0

    def __str__(self) -> str:
        return f"segment({self.index})"


@dataclass(frozen=True, repr=False)
class _Positions(Subset):
    chosen: tuple[int, ...]

    def mask(self, layout: Layout) -> np.ndarray:
        first = 0 if layout.growing else -len(layout)  # from an end that is not known yet: nothing
        outside = [p for p in self.chosen if not first <= p < len(layout)]
        if outside and not layout.growing:
            raise SubsetError(
                f"positions {outside} are outside the sequence of {len(layout)} positions; "
                f"positions run from 0 to {len(layout) - 1} (negative ones count from the end)"
            )
        mask = np.zeros(len(layout), dtype=bool)
        mask[[position for position in self.chosen if position not in outside]] = True
        return mask

    @property
    def counts_from_the_end(self) -> bool:
        return any(position < 0 for position in self.chosen)

    def __str__(self) -> str:
        return f"positions({list(self.chosen)})"


@dataclass(frozen=True, repr=False)
class _ImageRegion(Subset):
    box: tuple[float, float, float, float]
    image: int

    def mask(self, layout: Layout) -> np.ndarray:
        if not 0 <= self.image < len(layout.images):
            raise SubsetError(
                f"image {self.image} does not exist: this sequence has {len(layout.images)} "
                "images, counted from 0"
            )
        grid = layout.images[self.image]
        left, top, right, bottom = self.box
        columns = _overlapping(left, right, grid.width, grid.columns)
        rows = _overlapping(top, bottom, grid.height, grid.rows)
        mask = np.zeros(len(layout), dtype=bool)
        mask[grid.start : grid.positions.stop] = np.outer(rows, columns).ravel()
        return mask

    def __str__(self) -> str:
        return f"image_region({self.box}, image={self.image})"


def _overlapping(low: float, high: float, size: int, cells: int) -> np.ndarray:
    """Return which of `cells` equal cells of an axis of `size` pixels overlap (low, high)."""
    edges = np.arange(cells + 1) * size / cells  # multiplied first: whole pixels stay whole
    return (edges[1:] > low) & (edges[:-1] < high)


@dataclass(frozen=True, repr=False)
class _Either(Subset):
    left: Subset
    right: Subset

    def mask(self, layout: Layout) -> np.ndarray:
        return self.left.mask(layout) | self.right.mask(layout)

    @property
    def parts(self) -> tuple[Subset, ...]:
        return self.left, self.right

    def __str__(self) -> str:
        return f"({self.left} | {self.right})"


@dataclass(frozen=True, repr=False)
class _Both(Subset):
    left: Subset
    right: Subset

    def mask(self, layout: Layout) -> np.ndarray:
        return self.left.mask(layout) & self.right.mask(layout)

    @property
    def parts(self) -> tuple[Subset, ...]:
        return self.left, self.right

    def __str__(self) -> str:
        return f"({self.left} & {self.right})"


@dataclass(frozen=True, repr=False)
class _Not(Subset):
    inner: Subset

    def mask(self, layout: Layout) -> np.ndarray:
        return ~self.inner.mask(layout)

    @property
    def parts(self) -> tuple[Subset, ...]:
        return (self.inner,)

    def __str__(self) -> str:
        return f"~{self.inner}"


ALL = _Everything()
SYSTEM = _Role("system")
IMAGE = _Role("image")
QUESTION = _Role("question")
OPEN = _Role("open")
SLOTS = _Slots()
CLOSE = _Role("close")
MARKERS = OPEN | CLOSE
REASONING = _Role("reasoning")
FORMAT = _Role("format")
ANSWER = _Role("answer")


def role(name: str) -> Subset:
    """Return the subset of one role by name.

    Raises:
        SubsetError: `name` is not one of `ROLES`.
    """
    if name not in ROLES:
        raise SubsetError(f"unknown role {name!r}; a role is one of {', '.join(ROLES)}")
    return SLOTS if name == "slot" else _Role(name)


def segment(index: int) -> Subset:
    """Return segment `index` (from 0; negative from the last): its markers and its slots."""
    return _SegmentNumber(index)


def positions(chosen: Iterable[int]) -> Subset:
    """Return exactly these positions, counted from 0 (negative ones from the end)."""
    return _Positions(tuple(int(position) for position in chosen))


def image_region(box: Sequence[int | float], *, image: int = 0) -> Subset:
    """Return the image tokens whose merged patch overlaps a box.

    Args:
        box: (left, top, right, bottom) in pixels of the original image, right and bottom exclusive.
        image: Which image, counted from 0.

    Raises:
        SubsetError: The box has not four numbers or is empty.

    Example:
        >>> layout = Layout(("image",) * 4, 4, images=(ImageGrid(0, 2, 2, 56, 56),))
        >>> layout.positions(image_region((30, 0, 56, 20)))
        [1]
    """
    values = tuple(float(value) for value in box)
    if len(values) != 4 or not (values[0] < values[2] and values[1] < values[3]):
        raise SubsetError(
            f"an image region is (left, top, right, bottom) in pixels with left < right and "
            f"top < bottom, got {tuple(box)}"
        )
    return _ImageRegion((values[0], values[1], values[2], values[3]), image)


@dataclass
class LayoutBuilder:
    """Grows a layout position by position while a response is generated.

    The decode loop is the only place that knows which positions are slots; it tells this builder,
    and the final roles of ordinary tokens (format, answer) are set once the text is known.
    """

    roles: list[str]
    images: tuple[ImageGrid, ...] = ()
    n_prompt: int = field(init=False)
    _segments: list[dict] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        self.n_prompt = len(self.roles)

    def append(self, role: str) -> int:
        """Add one position with its role and return its index; markers open and close segments."""
        position = len(self.roles)
        self.roles.append(role)
        if role == "open":
            self._segments.append({"open": position, "slots": [], "close": None})
        elif role == "slot":
            if not self._segments or self._segments[-1]["close"] is not None:
                self._segments.append({"open": None, "slots": [], "close": None})
            self._segments[-1]["slots"].append(position)
        elif role == "close":
            if not self._segments or self._segments[-1]["close"] is not None:
                self._segments.append({"open": None, "slots": [], "close": None})
            self._segments[-1]["close"] = position
        return position

    def awaits_close(self) -> bool:
        """Return whether the last segment has not been closed yet."""
        return bool(self._segments) and self._segments[-1]["close"] is None

    def build(self, *, growing: bool = False) -> Layout:
        """Return the layout as it stands; `growing` when positions may still come."""
        segments = (Segment(s["open"], tuple(s["slots"]), s["close"]) for s in self._segments)
        return Layout(tuple(self.roles), self.n_prompt, tuple(segments), self.images, growing)
