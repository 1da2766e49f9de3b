"""Benchmarks: problems by name and split, and how answers are judged."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from latentprobe.benchmarks.problem import Box, Problem
from latentprobe.benchmarks.scorers import Parsed, parse_answer
from latentprobe.errors import ProblemError, UnknownNameError
from latentprobe.registry import Registry


@runtime_checkable
class Benchmark(Protocol):
    """A source of problems: a function of (split, index) alone."""

    splits: Sequence[str]

    def problem(self, split: str, index: int) -> Problem:
        """Return problem `index` (counted from 0) of a split."""
        ...

    def size(self, split: str) -> int | None:
        """Return the number of problems of a split, None if it is endless."""
        ...


def _check(entry: object) -> str | None:
    for name in ("problem", "size"):
        if not callable(getattr(entry, name, None)):
            return f"a benchmark has functions problem(split, index) and size(split); no {name!r}"
    if not getattr(entry, "splits", None):
        return "a benchmark names its splits; no 'splits'"
    return None


benchmarks: Registry[Benchmark] = Registry(
    "benchmark",
    group="latentprobe.benchmarks",
    check=_check,
    builtin={"mini-attribute": "latentprobe.benchmarks.mini_attribute:BENCHMARK"},
)


def names() -> list[str]:
    """Return the names of all benchmarks."""
    return benchmarks.names()


def load(name: str, *, split: str = "test", limit: int | None = None) -> Sequence[Problem]:
    """Load the first `limit` problems of a benchmark's split.

    Args:
        name: A benchmark's name.
        split: One of its splits.
        limit: How many problems; None for all of them.

    Raises:
        UnknownNameError: No such benchmark or split.
        ProblemError: The split is endless and no limit was given, or the limit is not positive.

    Example:
        >>> [problem.answer for problem in load("mini-attribute", limit=3)]
        ['yellow', 'purple', 'blue']
    """
    benchmark = benchmarks.get(name)
    if split not in benchmark.splits:
        raise UnknownNameError(f"split of {name}", split, benchmark.splits)
    size = benchmark.size(split)
    if limit is not None and limit < 1:
        raise ProblemError(f"limit={limit}; ask for at least one problem")
    if size is None and limit is None:
        raise ProblemError(f"the split {split!r} of {name} is endless; say how many with limit=")
    count = min(n for n in (size, limit) if n is not None)
    return [benchmark.problem(split, index) for index in range(count)]


__all__ = ["Benchmark", "Box", "Parsed", "Problem", "benchmarks", "load", "names", "parse_answer"]
