"""Benchmarks by name and split."""

from collections.abc import Iterator

import pytest

from latentprobe.benchmarks import Problem, benchmarks, load, names
from latentprobe.errors import PluginError, ProblemError, UnknownNameError


class Countdown:
    """A user's benchmark of three problems and an endless split."""

    splits = ("small", "endless")

    def problem(self, split: str, index: int) -> Problem:
        return Problem(f"{split} {index}?", options=("yes", "no"), answer="yes")

    def size(self, split: str) -> int | None:
        return 3 if split == "small" else None


@pytest.fixture
def countdown() -> Iterator[str]:
    benchmarks.register("countdown", Countdown())
    yield "countdown"
    benchmarks.unregister("countdown")


def test_the_first_problems_of_a_split_come_in_order():
    three = load("mini-attribute", limit=3)
    assert [one.name for one in three] == [f"mini-attribute/test/{i}" for i in range(3)]
    assert [one.name for one in load("mini-attribute", split="train", limit=1)] == [
        "mini-attribute/train/0"
    ]


def test_a_users_benchmark_loads_by_its_name(countdown: str):
    assert countdown in names()
    assert [one.question for one in load(countdown, split="small")] == [
        "small 0?",
        "small 1?",
        "small 2?",
    ]
    assert len(load(countdown, split="small", limit=99)) == 3
    assert len(load(countdown, split="endless", limit=5)) == 5


def test_an_endless_split_needs_a_limit():
    with pytest.raises(ProblemError, match="'train' of mini-attribute is endless; say how many"):
        load("mini-attribute", split="train")


@pytest.mark.parametrize("limit", [0, -3])
def test_a_limit_below_one_is_an_error(limit: int):
    with pytest.raises(ProblemError, match=f"limit={limit}; ask for at least one problem"):
        load("mini-attribute", limit=limit)


def test_an_unknown_benchmark_or_split_offers_the_nearest():
    with pytest.raises(
        UnknownNameError, match=r"unknown benchmark .* Did you mean 'mini-attribute'"
    ):
        load("mini-atribute")
    with pytest.raises(
        UnknownNameError, match=r"split of mini-attribute 'tests'.* Did you mean 'test'"
    ):
        load("mini-attribute", split="tests", limit=1)


@pytest.mark.parametrize("missing", ["problem", "size"])
def test_a_benchmark_without_its_functions_is_refused(missing: str):
    parts = {"splits": ("all",), "problem": lambda split, index: None, "size": lambda split: 1}
    parts.pop(missing)
    with pytest.raises(PluginError, match=rf"no '{missing}'"):
        benchmarks.register("broken", type("Broken", (), parts)())


def test_a_benchmark_without_splits_is_refused():
    parts = {"problem": lambda self, split, index: None, "size": lambda self, split: 1}
    with pytest.raises(PluginError, match="splits"):
        benchmarks.register("broken", type("Broken", (), parts)())
