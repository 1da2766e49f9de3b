"""Timing several ways of doing one thing, round by round, so that a slow moment hits them all."""

import platform
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import Any


@dataclass(frozen=True)
class Row:
    """One contender: milliseconds per run, and the median over rounds of its ratio to the first."""

    name: str
    median_ms: float
    min_ms: float
    max_ms: float
    ratio: float


@dataclass(frozen=True)
class Result:
    """A finished benchmark.

    Attributes:
        title: What was measured.
        rows: One per contender; the first is what the others are held against.
        shapes: Sizes of what was run, and the machine's versions.
        note: What to read off it.
    """

    title: str
    rows: tuple[Row, ...]
    shapes: dict[str, Any]
    note: str

    def to_dict(self) -> dict[str, Any]:
        """Return the result as JSON values."""
        return asdict(self)


def race(contenders: Mapping[str, Callable[[], object]], *, rounds: int) -> tuple[Row, ...]:
    """Run every contender once per round, after one warm-up round, and return their times."""
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(rounds + 1):
        for name, run in contenders.items():
            began = time.perf_counter()
            run()
            if number:
                seconds[name].append(time.perf_counter() - began)
    base = next(iter(seconds.values()))
    return tuple(
        Row(
            name,
            1e3 * statistics.median(times),
            1e3 * min(times),
            1e3 * max(times),
            statistics.median(own / plain for own, plain in zip(times, base, strict=True)),
        )
        for name, times in seconds.items()
    )


def versions() -> dict[str, str]:
    """Return the versions that a time depends on."""
    packages = {name: version(name) for name in ("torch", "transformers")}
    return {"python": platform.python_version(), "machine": platform.machine(), **packages}
