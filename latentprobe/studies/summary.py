"""What the trials of one model on one benchmark add up to, condition by condition.

1. Trials that ended in an error are set aside and counted.
2. Seeds are averaged within a problem: a problem counts once in every mean and every test.
3. Each condition is compared with `full` on the problems both have, by three measures: accuracy of
   the parsed answer, accuracy by option log-likelihood, and the gold option's margin in nats.
4. Each comparison is a paired, clustered difference, two one-sided tests against a stated margin,
   and a p value adjusted by Holm's rule over all conditions compared by that measure.
5. A conclusion survives a change of scorer when both accuracies lead to the same word, and, where
   that word is `different`, in the same direction.
6. Below `FEWEST` independent problems every word is `inconclusive`, whatever the numbers.
7. Nothing is `equivalent` that was not done: where an edit reached no position in some trials, the
   word is `inconclusive` instead.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from latentprobe.errors import StatisticsError, UnknownNameError
from latentprobe.stats import (
    Difference,
    Equivalence,
    Estimate,
    Retained,
    equivalence,
    gain_retained,
    holm,
    mean_interval,
    paired_difference,
    verdict_word,
)
from latentprobe.studies.outcomes import (
    MEASURES,
    Outcome,
    answer_changed,
    chance_level,
    failures_by_condition,
    mean_share,
    outcomes_by_condition,
    problem_means,
    share,
    unreached,
)

FULL = "full"
FEWEST = 10  # independent problems, below which no word but `inconclusive` is given


@dataclass(frozen=True)
class Comparison:
    """One condition against `full` by one measure.

    Attributes:
        difference: Condition minus `full`: accuracy in [-1, 1], margin in nats.
        equivalence: The same pair against the stated margin.
        p_adjusted: Sign-flip p value after Holm's rule over the family, in [0, 1].
        verdict: `different`, `equivalent` or `inconclusive`.
        reason: Why the word is `inconclusive` whatever the numbers, or None.
    """

    difference: Difference
    equivalence: Equivalence
    p_adjusted: float
    verdict: str
    reason: str | None = None


@dataclass(frozen=True)
class ConditionSummary:
    """One condition's outcomes; shares are in [0, 1] and None where nothing was measured.

    Attributes:
        condition: Its name.
        n: Problems with a trial that did not fail.
        seeds: Different seeds among its trials.
        errors: Trials set aside because they failed.
        accuracy: Of the parsed answer; unparsed counts as wrong.
        accuracy_loglik: Of the option with the highest log-likelihood.
        parse_rate: Share of responses the parser found an answer in.
        accuracy_given_parsed: Share of correct ones among those.
        by_answer: Against `full` by parsed accuracy; None for `full` itself.
        by_loglik: Against `full` by log-likelihood accuracy.
        by_margin: Against `full` by the gold option's margin, in nats.
        retained: Share of the gain of `full` over the reference; None for those two.
        answer_changed: Share of problems whose parsed answer differs from that under `full`.
        donor_followed: Share of answers that are the donor's.
        applied_min: Smallest number of positions an edit was applied at, over trials and edits.
        unreached: Trials in which an edit was applied at no position.
        entered_rate: Share of trials that entered latent mode.
        slots_mean: Latent slots per trial.
    """

    condition: str
    n: int
    seeds: int
    errors: int
    accuracy: Estimate
    accuracy_loglik: Estimate | None
    parse_rate: float
    accuracy_given_parsed: float | None
    by_answer: Comparison | None
    by_loglik: Comparison | None
    by_margin: Comparison | None
    retained: Retained | None
    answer_changed: float | None
    donor_followed: float | None
    applied_min: int | None
    entered_rate: float
    slots_mean: float
    unreached: int = 0

    @property
    def difference(self) -> Difference | None:
        """Parsed accuracy minus that of `full`."""
        return self.by_answer.difference if self.by_answer else None

    @property
    def difference_loglik(self) -> Difference | None:
        """Log-likelihood accuracy minus that of `full`."""
        return self.by_loglik.difference if self.by_loglik else None

    @property
    def margin_difference(self) -> Difference | None:
        """The gold option's margin minus that of `full`, in nats."""
        return self.by_margin.difference if self.by_margin else None

    @property
    def verdict(self) -> str | None:
        """The word for parsed accuracy."""
        return self.by_answer.verdict if self.by_answer else None

    @property
    def verdict_loglik(self) -> str | None:
        """The word for accuracy by option log-likelihood."""
        return self.by_loglik.verdict if self.by_loglik else None

    @property
    def survives_scorer(self) -> bool:
        """Whether both scorers lead to the same conclusion; False when one of them has none."""
        if self.by_answer is None or self.by_loglik is None:
            return False
        here, there = self.by_answer.difference.estimate, self.by_loglik.difference.estimate
        agree = self.verdict != "different" or (here.value > 0) == (there.value > 0)
        return self.verdict == self.verdict_loglik and agree

    def to_row(self) -> dict[str, object]:
        """Return the flat record that `StudySummary.to_frame` shows."""
        row: dict[str, object] = {"condition": self.condition, "n": self.n, "seeds": self.seeds}
        row |= {"errors": self.errors, "parse_rate": self.parse_rate}
        row |= {"accuracy_given_parsed": self.accuracy_given_parsed}
        row |= _columns("accuracy", self.accuracy)
        row |= _columns("accuracy_loglik", self.accuracy_loglik)
        named = (("difference", self.by_answer), ("difference_loglik", self.by_loglik))
        for name, comparison in (*named, ("margin_difference", self.by_margin)):
            row |= _columns(name, comparison.difference.estimate if comparison else None)
            row[f"{name}_p"] = comparison.p_adjusted if comparison else None
            row[f"{name}_verdict"] = comparison.verdict if comparison else None
        row |= _columns("retained", self.retained)
        for name in ("answer_changed", "donor_followed", "applied_min", "entered_rate"):
            row[name] = getattr(self, name)
        return row | {"slots_mean": self.slots_mean, "survives_scorer": self.survives_scorer}


@dataclass(frozen=True, repr=False)
class StudySummary:
    """One model on one benchmark, condition by condition; `summary["zero"]` is one of them.

    Attributes:
        model: The model's name.
        benchmark: The benchmark's name.
        n_problems: Problems with any trial that did not fail.
        chance: Accuracy of guessing, in [0, 1], or None when the options are not known.
        reference: The condition that gains are counted from.
        margin: Difference in accuracy that counts as none.
        margin_nats: Difference in the gold option's margin that counts as none, in nats.
        errors: Trials set aside because they failed.
        conditions: In the order asked for.
    """

    model: str
    benchmark: str
    n_problems: int
    chance: float | None
    reference: str
    margin: float
    margin_nats: float
    errors: int
    conditions: tuple[ConditionSummary, ...]

    def __getitem__(self, condition: str) -> ConditionSummary:
        found = {summary.condition: summary for summary in self.conditions}
        if condition not in found:
            raise UnknownNameError("condition", condition, found)
        return found[condition]

    def to_frame(self) -> pd.DataFrame:
        """Return one row per condition; None where a quantity cannot be estimated."""
        frame = pd.DataFrame([summary.to_row() for summary in self.conditions], dtype=object)
        return frame.set_index("condition")

    def __repr__(self) -> str:
        return str(self)

    def __str__(self) -> str:
        chance = "unknown" if self.chance is None else f"{self.chance:.2f}"
        head = f"{self.model} on {self.benchmark}: {self.n_problems} problems, chance {chance}"
        shown = pd.DataFrame(
            {
                "n": [one.n for one in self.conditions],
                "accuracy": [str(one.accuracy) for one in self.conditions],
                "minus full": [_shown(one.difference) for one in self.conditions],
                "verdict": [one.verdict or "" for one in self.conditions],
                "retained": [_shown(one.retained) for one in self.conditions],
            },
            index=pd.Index([one.condition for one in self.conditions]),
        )
        return f"{head}\n{shown.to_string()}"


@dataclass(frozen=True)
class _Plan:
    """What every condition is held against."""

    outcomes: Mapping[str, Sequence[Outcome]]
    means: Mapping[tuple[str, str], Mapping[str, float]]  # (condition, measure) -> problem -> mean
    clusters: Mapping[str, str]
    reference: str
    margins: Mapping[str, float]
    family_size: int | None


def summarise(
    frame: pd.DataFrame,
    *,
    order: Sequence[str],
    reference: str = "plain",
    margin: float = 0.05,
    margin_nats: float = 0.5,
    chance: float | None = None,
    family_size: int | None = None,
) -> StudySummary:
    """Summarise one model's trials on one benchmark.

    Args:
        frame: Rows of a record store, one model and one benchmark.
        order: Conditions in the order to show them; others follow by name, absent ones are left
            out.
        reference: The condition that the gain of `full` is counted from.
        margin: Difference in accuracy that counts as none, in (0, 1).
        margin_nats: Difference in the gold option's margin that counts as none, in nats, above 0.
        chance: Accuracy of guessing; None takes the mean of 1 / options over problems.
        family_size: Comparisons in the pre-declared family, when more were declared than these
            rows hold; None counts the conditions compared.

    Raises:
        StatisticsError: No usable trial of `full`, several models or benchmarks, or a margin out
            of range.

    Example:
        >>> import tempfile
        >>> from latentprobe.records import RecordStore, Trial
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with RecordStore.open(folder, {"model": "h"}) as store:
        ...         for seed in range(2):
        ...             store.append(Trial(f"k{seed}", "m", "h", "b", "test", "p", "p-0", "p",
        ...                                "full", "c", seed, "A", "red", True, True, "red"), 0.1)
        ...         print(summarise(store.frame(), order=["full"])["full"].accuracy)
        1.00 [0.03, 1.00]
    """
    outcomes = outcomes_by_condition(frame)
    if FULL not in outcomes:
        raise StatisticsError(
            f"no usable trial of the condition {FULL!r} among {len(frame)} rows; conditions with "
            f"usable trials: {list(outcomes) or 'none'}. Every one is compared with {FULL!r}: "
            "run it"
        )
    everything = [one for trials in outcomes.values() for one in trials]
    margins = dict(zip(MEASURES, (margin, margin, margin_nats), strict=True))
    plan = _plan(outcomes, reference, margins, family_size)
    failed = failures_by_condition(frame)
    asked = [name for name in dict.fromkeys(order) if name in outcomes]
    names = [*asked, *(name for name in outcomes if name not in asked)]
    compared = {measure: _compare_all(plan, measure) for measure in MEASURES}
    return StudySummary(
        model=str(frame["model"].iloc[0]),
        benchmark=str(frame["benchmark"].iloc[0]),
        n_problems=len(plan.clusters),
        chance=chance_level(everything) if chance is None else chance,
        reference=reference,
        margin=margin,
        margin_nats=margin_nats,
        errors=sum(failed.values()),
        conditions=tuple(_condition(plan, name, compared, failed[name]) for name in names),
    )


def _plan(
    outcomes: Mapping[str, Sequence[Outcome]],
    reference: str,
    margins: Mapping[str, float],
    family_size: int | None,
) -> _Plan:
    means = {
        (name, measure): problem_means(trials, measure)
        for name, trials in outcomes.items()
        for measure in MEASURES
    }
    clusters = {one.problem: one.cluster for trials in outcomes.values() for one in trials}
    return _Plan(outcomes, means, clusters, reference, margins, family_size)


def _pairs(plan: _Plan, measure: str, *names: str) -> tuple[list[list[float]], list[str]]:
    """One list of values per condition over the problems that all have, and their clusters."""
    columns = [plan.means.get((name, measure), {}) for name in names]
    shared = [problem for problem in sorted(columns[0]) if all(problem in one for one in columns)]
    values = [[column[problem] for problem in shared] for column in columns]
    return values, [plan.clusters[problem] for problem in shared]


def _compare_all(plan: _Plan, measure: str) -> dict[str, Comparison]:
    """Compare every condition with `full` by one measure, as one family of tests."""
    tests: dict[str, tuple[Difference, Equivalence]] = {}
    for name in plan.outcomes:
        (treated, full), clusters = _pairs(plan, measure, name, FULL)
        fewest = 2 if measure == "option_margin" else 1  # nats have no bounds to fall back on
        if name != FULL and len(set(clusters)) >= fewest:
            within = equivalence(treated, full, clusters, margin=plan.margins[measure])
            tests[name] = (paired_difference(treated, full, clusters), within)
    size = None if plan.family_size is None else max(plan.family_size, len(tests))
    adjusted = holm([test.permutation_p for test, _ in tests.values()], family_size=size)
    return {
        name: _comparison(*test, p_adjusted, plan.outcomes[name])
        for (name, test), p_adjusted in zip(tests.items(), adjusted, strict=True)
    }


def _comparison(
    difference: Difference, within: Equivalence, p_adjusted: float, trials: Sequence[Outcome]
) -> Comparison:
    independent = difference.estimate.clusters
    if independent < FEWEST:
        reason = f"only {independent} independent problems; {FEWEST} are the least for a word"
        return Comparison(difference, within, p_adjusted, "inconclusive", reason)
    word = verdict_word(difference, within, p_adjusted)
    missed = unreached(trials)
    if missed and (word == "equivalent" or missed == len(trials)):
        reason = f"applied at no position in {missed} of {len(trials)} trials"
        return Comparison(difference, within, p_adjusted, "inconclusive", reason)
    return Comparison(difference, within, p_adjusted, word)


def _condition(
    plan: _Plan, name: str, compared: Mapping[str, Mapping[str, Comparison]], errors: int
) -> ConditionSummary:
    trials = plan.outcomes[name]
    accuracy = _accuracy(plan, name, "correct")
    assert accuracy is not None  # `correct` is never null
    counts = [count for one in trials for count in one.applied]
    right = ((one, one.measures["correct"]) for one in trials if one.parsed)
    return ConditionSummary(
        condition=name,
        n=accuracy.n,
        seeds=len({one.seed for one in trials}),
        errors=errors,
        accuracy=accuracy,
        accuracy_loglik=_accuracy(plan, name, "correct_loglik"),
        parse_rate=mean_share((one, one.parsed) for one in trials),
        accuracy_given_parsed=share(right),
        by_answer=compared["correct"].get(name),
        by_loglik=compared["correct_loglik"].get(name),
        by_margin=compared["option_margin"].get(name),
        retained=_retained(plan, name),
        answer_changed=None if name == FULL else answer_changed(trials, plan.outcomes[FULL]),
        donor_followed=share((one, one.followed) for one in trials),
        applied_min=min(counts, default=None),
        unreached=unreached(trials),
        entered_rate=mean_share((one, one.entered) for one in trials),
        slots_mean=mean_share((one, one.slots) for one in trials),
    )


def _accuracy(plan: _Plan, name: str, measure: str) -> Estimate | None:
    (values,), clusters = _pairs(plan, measure, name)
    return mean_interval(values, clusters) if values else None


def _retained(plan: _Plan, name: str) -> Retained | None:
    (condition, full, reference), clusters = _pairs(plan, "correct", name, FULL, plan.reference)
    if name in {FULL, plan.reference} or not clusters:
        return None
    return gain_retained(condition, full, reference, clusters)


def _columns(name: str, estimate: Estimate | Retained | None) -> dict[str, object]:
    ends = {"value": name, "low": f"{name}_low", "high": f"{name}_high"}
    return {column: getattr(estimate, end, None) for end, column in ends.items()}


def _shown(result: Difference | Retained | None) -> str:
    if result is None:
        return ""
    if isinstance(result, Difference):
        return str(result.estimate)
    return "undefined" if result.value is None else str(result)
