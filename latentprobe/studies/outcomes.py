"""Trials read from the store's frame into plain records, and their means by problem.

The frame is untyped and spells "absent" in several ways (None, NaN); that ends here.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from latentprobe.errors import StatisticsError
from latentprobe.stats import average_seeds

MEASURES: tuple[str, ...] = ("correct", "correct_loglik", "option_margin")


@dataclass(frozen=True)
class Outcome:
    """What the statistics need of one trial that did not fail.

    Attributes:
        problem: Content hash of the problem.
        cluster: Its cluster.
        seed: The trial's seed.
        answer: The parsed answer, or None.
        parsed: 1 when the parser found an answer, else 0.
        entered: 1 when latent mode was entered, else 0.
        slots: Number of latent slots.
        options: Number of options; 0 when not known.
        applied: Positions changed, one count per edit.
        followed: 1 when the answer is the donor's, 0 when not, None without a donor.
        measures: The three outcomes compared, by name; None where it was not measured.
    """

    problem: str
    cluster: str
    seed: int
    answer: str | None
    parsed: float
    entered: float
    slots: float
    options: int
    applied: tuple[int, ...]
    followed: float | None
    measures: Mapping[str, float | None]


def outcomes_by_condition(frame: pd.DataFrame) -> dict[str, list[Outcome]]:
    """Read the trials that did not fail, by condition in alphabetical order.

    Raises:
        StatisticsError: The rows hold no model or benchmark, or several.
    """
    for column in ("model", "benchmark"):
        found = sorted({str(name) for name in frame[column]})
        if len(found) != 1:
            raise StatisticsError(
                f"a summary is of one {column}, these {len(frame)} rows hold {found or 'none'}; "
                f"select one with frame[frame[{column!r}] == ...]"
            )
    outcomes: dict[str, list[Outcome]] = {}
    for row in frame.to_dict("records"):
        if _absent(row["error"]):
            outcomes.setdefault(str(row["condition"]), []).append(_outcome(row))
    return dict(sorted(outcomes.items()))


def failures_by_condition(frame: pd.DataFrame) -> dict[str, int]:
    """Count the trials that ended in an error."""
    counts: dict[str, int] = {}
    for row in frame.to_dict("records"):
        name = str(row["condition"])
        counts[name] = counts.get(name, 0) + (not _absent(row["error"]))
    return counts


def problem_means(outcomes: Iterable[Outcome], measure: str) -> dict[str, float]:
    """Average a measure over the seeds of each problem; problems without it are left out."""
    taken = [(one, one.measures[measure]) for one in outcomes]
    return _averaged([(one, value) for one, value in taken if value is not None])


def mean_share(pairs: Iterable[tuple[Outcome, float]]) -> float:
    """Average values within problems, then over problems; there must be one at least."""
    means = _averaged(pairs)
    return sum(means.values()) / len(means)


def share(pairs: Iterable[tuple[Outcome, float | None]]) -> float | None:
    """Average the values that are there as `mean_share` does; None when there is none."""
    present = [(one, value) for one, value in pairs if value is not None]
    return mean_share(present) if present else None


def answer_changed(outcomes: Sequence[Outcome], full: Iterable[Outcome]) -> float | None:
    """Share of answers unlike those under `full`: same seed where there is one, else its first.

    Returns:
        A share in [0, 1], seeds averaged within problems; None when no problem is shared.
    """
    same: dict[tuple[str, int], str | None] = {}
    first: dict[str, str | None] = {}
    for one in sorted(full, key=lambda outcome: outcome.seed):
        same.setdefault((one.problem, one.seed), one.answer)
        first.setdefault(one.problem, one.answer)
    shared = [one for one in outcomes if one.problem in first]
    return share(
        (one, float(same.get((one.problem, one.seed), first[one.problem]) != one.answer))
        for one in shared
    )


def unreached(outcomes: Iterable[Outcome]) -> int:
    """Count the trials in which an edit was applied at no position."""
    return sum(0 in one.applied for one in outcomes)


def chance_level(outcomes: Iterable[Outcome]) -> float | None:
    """Mean of 1 / options over problems, in (0, 1]; None when no options are known."""
    return share((one, 1 / one.options if one.options else None) for one in outcomes)


def _averaged(pairs: Iterable[tuple[Outcome, float]]) -> dict[str, float]:
    taken = list(pairs)
    if not taken:
        return {}
    means = average_seeds([value for _, value in taken], [one.problem for one, _ in taken])
    return {str(problem): mean for problem, mean in means.items()}


def _absent(value: object) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def _number(value: Any) -> float | None:
    return None if _absent(value) else float(value)


def _outcome(row: Mapping[Any, Any]) -> Outcome:
    return Outcome(
        problem=str(row["problem"]),
        cluster=str(row["cluster"]),
        seed=int(row["seed"]),
        answer=None if _absent(row["answer"]) else str(row["answer"]),
        parsed=float(row["parsed"]),
        entered=float(row["entered"]),
        slots=float(row["slots"]),
        options=len(row["option_logprobs"]),
        applied=tuple(int(count) for count in row["applied"].values()),
        followed=_number(row["donor_followed"]),
        measures={name: _number(row[name]) for name in MEASURES},
    )
