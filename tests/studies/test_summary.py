"""What trials add up to: each number by hand on a small study, and against plain pandas."""

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from latentprobe import stats
from latentprobe.errors import StatisticsError, UnknownNameError
from latentprobe.records import SCHEMA, RecordStore, Trial
from latentprobe.records.trial import encode_row
from latentprobe.studies.summary import StudySummary, summarise


def trial(condition: str, problem: int, correct: bool = True, **changes: object) -> Trial:
    seed = int(str(changes.pop("seed", 0)))
    values: dict[str, object] = {
        "answer": "red" if correct else "blue",
        "parsed": True,
        "correct_loglik": correct,
        "option_logprobs": [-1.0, -2.0, -3.0, -4.0],
        "option_margin": 1.0 if correct else -1.0,
        "entered": True,
        "slots": 4,
    } | changes
    return Trial(
        key=f"{condition}-{problem}-{seed}",
        model="organism",
        model_hash="ab",
        benchmark="mini",
        split="test",
        problem=f"hash-{problem:03d}",
        problem_name=f"problem-{problem}",
        cluster=str(values.pop("cluster", f"image-{problem}")),
        condition=condition,
        condition_hash="cd",
        seed=seed,
        text="",
        correct=correct,
        gold="red",
        **values,  # pyright: ignore[reportArgumentType]
    )


def framed(trials: list[Trial]) -> pd.DataFrame:
    """Return the frame a store would give, without a disk."""
    frame = pa.Table.from_pylist([encode_row(one) for one in trials], schema=SCHEMA).to_pandas()
    frame["applied"] = pd.Series([json.loads(text) for text in frame["applied"]], dtype=object)
    return frame


def asked(condition: str, right: int, wrong: int, **changes: object) -> list[Trial]:
    """Give `right` correct trials, then `wrong` incorrect ones, of as many problems."""
    return [trial(condition, n, n < right, **changes) for n in range(right + wrong)]


ORDER = ["full", "plain", "zero"]


def usual() -> list[Trial]:
    """Full 80 of 80, plain 20, zero 60."""
    return [*asked("full", 80, 0), *asked("plain", 20, 60), *asked("zero", 60, 20)]


def test_a_small_study_by_hand():
    full = [trial("full", n, n < 9) for n in range(12)]
    zero = [
        trial("zero", 0, True, applied={"zero": 4, "noise": 2}, donor_followed=True),
        trial("zero", 1, False, answer=None, parsed=False, applied={"zero": 3}),
        trial("zero", 2, False, donor_followed=False, entered=False, slots=0),
        *(trial("zero", n, n < 9, donor_followed=False) for n in range(3, 12)),
        *(trial("zero", n, n < 9, donor_followed=False, seed=1) for n in range(12)),
    ]
    one = summarise(framed(full + zero), order=["full", "zero"])["zero"]
    # by problem: 1, 1/2, 1/2, then six right and three wrong
    assert (one.n, one.seeds, one.errors) == (12, 2, 0)
    assert one.accuracy.value == pytest.approx(8 / 12)
    assert one.parse_rate == pytest.approx(11.5 / 12)
    assert one.accuracy_given_parsed == pytest.approx((1 + 1 + 0.5 + 6) / 12)
    assert one.difference is not None
    assert one.difference.estimate.value == pytest.approx(-1 / 12)
    assert (one.difference.b, one.difference.c) == (2, 0)
    assert one.difference.mcnemar_p is None  # half right is neither right nor wrong
    assert one.difference.permutation_p == pytest.approx(0.5)
    assert one.answer_changed == pytest.approx(1 / 12)
    # donor answers: problem 0 follows once in two, problem 1 has seed 1 only, the rest never
    assert one.donor_followed == pytest.approx(0.5 / 12)
    assert one.applied_min == 2
    assert one.entered_rate == pytest.approx(11.5 / 12)
    assert one.slots_mean == pytest.approx((11 * 4 + 2) / 12)
    assert one.margin_difference is not None
    assert one.margin_difference.estimate.value == pytest.approx(-2 / 12)


def test_every_mean_agrees_with_plain_pandas_on_a_random_study():
    rng = random.Random(0)
    trials = [
        trial(
            condition, n, rng.random() < rate, seed=seed, cluster=f"image-{n // 2}",
            correct_loglik=rng.random() < rate, option_margin=rng.gauss(rate, 1),
            parsed=rng.random() < 0.9, answer=rng.choice(["red", "blue", None]),
            slots=rng.randrange(6),
        )
        for condition, rate, seeds in [("full", 0.8, 1), ("plain", 0.5, 1), ("noise", 0.6, 3)]
        for n in range(60)
        for seed in range(seeds)
    ]  # fmt: skip
    frame = framed(trials)
    summary = summarise(frame, order=["full", "plain", "noise"])
    columns = ["correct", "correct_loglik", "option_margin", "parsed", "slots"]
    table = frame.astype(dict.fromkeys(columns, float)).groupby(["condition", "problem"])[columns]
    means: Any = table.mean()
    for name in ("full", "plain", "noise"):
        one, expected = summary[name], means.loc[name].mean()
        assert one.accuracy.value == pytest.approx(expected["correct"])
        assert one.accuracy_loglik is not None
        assert one.accuracy_loglik.value == pytest.approx(expected["correct_loglik"])
        assert one.parse_rate == pytest.approx(expected["parsed"])
        assert one.slots_mean == pytest.approx(expected["slots"])
        assert (one.accuracy.n, one.accuracy.clusters) == (60, 30)
    noise, gaps = summary["noise"], means.loc["noise"] - means.loc["full"]
    assert noise.difference is not None
    assert noise.difference_loglik is not None
    assert noise.margin_difference is not None
    assert noise.difference.estimate.value == pytest.approx(gaps["correct"].mean())
    assert noise.difference_loglik.estimate.value == pytest.approx(gaps["correct_loglik"].mean())
    assert noise.margin_difference.estimate.value == pytest.approx(gaps["option_margin"].mean())
    joined: Any = frame[frame["condition"] == "noise"].merge(
        frame[frame["condition"] == "full"], on="problem", suffixes=("", "_full")
    )
    unlike = joined["answer"].fillna("-") != joined["answer_full"].fillna("-")
    assert noise.answer_changed == pytest.approx(unlike.mean())
    overall = means["correct"].groupby("condition").mean()
    assert noise.retained is not None
    assert noise.retained.value == pytest.approx(
        (overall["noise"] - overall["plain"]) / (overall["full"] - overall["plain"])
    )


def test_the_summary_of_a_store_is_that_of_its_rows(tmp_path: Path):
    with RecordStore.open(tmp_path, {"model": "organism"}) as store:
        for one in [*asked("full", 3, 1), *asked("zero", 1, 3)]:
            store.append(one, 0.1)
        summary = summarise(store.frame(), order=ORDER)
    assert summary["zero"].accuracy.value == 0.25
    assert summary == summarise(framed([*asked("zero", 1, 3), *asked("full", 3, 1)]), order=ORDER)


# --- words ---------------------------------------------------------------------------------------


def test_the_same_outcomes_are_equivalent_and_destroyed_ones_different():
    again = [*usual(), *asked("full-again", 80, 0)]
    summary = summarise(framed(again), order=[*ORDER, "full-again"])
    words = {one.condition: (one.verdict, one.verdict_loglik) for one in summary.conditions}
    assert words == {
        "full": (None, None),
        "plain": ("different", "different"),
        "zero": ("different", "different"),
        "full-again": ("equivalent", "equivalent"),
    }
    assert summary["full-again"].by_margin is not None
    assert summary["full-again"].by_margin.verdict == "equivalent"
    assert [one.survives_scorer for one in summary.conditions] == [False, True, True, True]


def test_below_ten_independent_problems_no_word_is_given():
    trials = [*asked("full", 9, 0), *asked("zero", 0, 9)]
    few = summarise(framed(trials), order=ORDER)["zero"].by_answer
    assert few is not None
    assert few.verdict == "inconclusive"
    assert few.reason == "only 9 independent problems; 10 are the least for a word"
    assert few.difference.permutation_p == pytest.approx(2 / 2**9)
    ten = [*asked("full", 10, 0), *asked("zero", 0, 10)]
    enough = summarise(framed(ten), order=ORDER)["zero"].by_answer
    assert enough is not None
    assert (enough.verdict, enough.reason) == ("different", None)


def test_many_problems_of_few_images_are_few_independent_problems():
    trials = [
        trial(name, n, name == "full", cluster=f"image-{n % 3}")
        for name in ("full", "zero")
        for n in range(60)
    ]
    one = summarise(framed(trials), order=ORDER)["zero"]
    assert one.verdict == "inconclusive"
    assert one.by_answer is not None
    assert "only 3 independent" in str(one.by_answer.reason)


def test_a_format_effect_does_not_survive_a_change_of_scorer():
    trials = [
        *asked("full", 80, 0),
        *asked("cut", 20, 60, correct_loglik=True, option_margin=1.0, parsed=False, answer=None),
    ]
    one = summarise(framed(trials), order=ORDER)["cut"]
    assert (one.verdict, one.verdict_loglik) == ("different", "equivalent")
    assert one.survives_scorer is False
    assert (one.parse_rate, one.accuracy_given_parsed) == (0.0, None)


def test_two_scorers_that_differ_in_opposite_directions_do_not_agree():
    full = [trial("full", n, n < 40, correct_loglik=n < 40) for n in range(80)]
    other = [trial("zero", n, n < 5, correct_loglik=True) for n in range(80)]
    one = summarise(framed(full + other), order=ORDER)["zero"]
    assert (one.verdict, one.verdict_loglik) == ("different", "different")
    assert one.survives_scorer is False


def test_without_option_likelihoods_that_scorer_is_silent():
    silent = {"correct_loglik": None, "option_margin": None, "option_logprobs": []}
    trials = [*asked("full", 60, 0, **silent), *asked("zero", 60, 0, **silent)]
    summary = summarise(framed(trials), order=ORDER)
    one = summary["zero"]
    assert one.verdict == "equivalent"
    assert (one.accuracy_loglik, one.difference_loglik, one.margin_difference) == (None,) * 3
    assert (one.verdict_loglik, one.survives_scorer) == (None, False)
    assert summary.chance is None


def test_p_values_are_adjusted_over_the_conditions_compared():
    summary = summarise(framed(usual()), order=ORDER)
    compared = [summary[name].by_answer for name in ("plain", "zero")]
    raw = [one.difference.permutation_p for one in compared if one]
    assert [one.p_adjusted for one in compared if one] == pytest.approx(stats.holm(raw))
    declared = summarise(framed(usual()), order=ORDER, family_size=600)["zero"]
    assert declared.by_answer is not None
    assert declared.by_answer.p_adjusted == pytest.approx(stats.holm(raw, family_size=600)[1])
    assert declared.verdict == "inconclusive"


def test_margins_are_those_asked_for():
    trials = [*asked("full", 80, 0), *asked("zero", 76, 4)]
    narrow = summarise(framed(trials), order=ORDER, margin_nats=0.12)
    wide = summarise(framed(trials), order=ORDER, margin=0.2)
    assert (narrow["zero"].verdict, wide["zero"].verdict) == ("inconclusive", "equivalent")
    margins = [one["zero"].by_margin for one in (narrow, wide)]
    assert [one.equivalence.equivalent for one in margins if one] == [False, True]
    assert (narrow.margin, narrow.margin_nats, wide.margin) == (0.05, 0.12, 0.2)


# --- which trials count --------------------------------------------------------------------------


def test_failed_trials_are_set_aside_and_counted():
    failed = [trial("zero", n, False, error="out of memory") for n in range(80, 85)]
    summary = summarise(framed([*usual(), *failed]), order=ORDER)
    assert (summary.errors, summary["zero"].errors, summary["full"].errors) == (5, 5, 0)
    assert summary["zero"].accuracy.value == 0.75
    assert summary.n_problems == 80


def test_only_problems_that_both_conditions_have_are_compared():
    trials = [*asked("full", 40, 0), *[trial("zero", n, n >= 40) for n in range(20, 60)]]
    one = summarise(framed(trials), order=ORDER)["zero"]
    assert one.accuracy.value == 0.5
    assert one.difference is not None
    assert (one.difference.estimate.n, one.difference.estimate.value) == (20, -1.0)
    assert one.answer_changed == 1.0


def test_a_condition_without_a_shared_problem_is_not_compared():
    trials = [*asked("full", 12, 0), *[trial("zero", n) for n in range(20, 32)]]
    one = summarise(framed(trials), order=ORDER)["zero"]
    assert (one.accuracy.value, one.difference, one.verdict) == (1.0, None, None)
    assert (one.answer_changed, one.retained) == (None, None)


def test_a_single_cluster_has_no_comparison_in_nats():
    one = summarise(framed([*asked("full", 1, 0), *asked("zero", 0, 1)]), order=ORDER)["zero"]
    assert one.margin_difference is None
    assert one.difference is not None
    assert (one.difference.estimate.low, one.verdict) == (-1.0, "inconclusive")


def test_answers_are_compared_with_the_same_seed_of_full_or_else_its_first():
    full = [
        trial("full", 0, True, seed=1, answer="green"),
        trial("full", 0, True, seed=0, answer="red"),
    ]
    noise = [trial("noise", 0, seed=seed, answer="green") for seed in (0, 1, 2)]
    one = summarise(framed(full + noise), order=ORDER)["noise"]
    assert one.answer_changed == pytest.approx(2 / 3)  # seeds 0 and, against the first, 2


def test_an_answer_lost_by_both_has_not_changed():
    trials = [trial(name, 0, False, answer=None, parsed=False) for name in ("full", "zero")]
    assert summarise(framed(trials), order=ORDER)["zero"].answer_changed == 0.0


# --- the gain ------------------------------------------------------------------------------------


def test_the_share_of_the_gain_is_counted_from_the_reference():
    summary = summarise(framed(usual()), order=ORDER)
    assert (summary["full"].retained, summary["plain"].retained) == (None, None)
    retained = summary["zero"].retained
    assert retained is not None
    assert retained.value == pytest.approx((0.75 - 0.25) / (1 - 0.25))
    assert retained.gain.value == pytest.approx(0.75)
    other = summarise(framed(usual()), order=ORDER, reference="zero")["plain"].retained
    assert other is not None
    assert other.value == pytest.approx((0.25 - 0.75) / (1 - 0.75))
    absent = summarise(framed(usual()), order=ORDER, reference="base")
    assert [one.retained for one in absent.conditions] == [None] * 3


def test_without_a_gain_the_share_is_undefined_and_says_why():
    trials = [*asked("full", 40, 40), *asked("plain", 40, 40), *asked("zero", 20, 60)]
    summary = summarise(framed(trials), order=ORDER)
    retained = summary["zero"].retained
    assert retained is not None
    assert retained.value is None
    assert str(summary).splitlines()[-1].endswith(" undefined")
    assert "includes 0" in str(retained.reason)


# --- the summary as a thing ----------------------------------------------------------------------


def test_chance_is_one_over_the_options_unless_given():
    assert summarise(framed(usual()), order=ORDER).chance == pytest.approx(0.25)
    assert summarise(framed(usual()), order=ORDER, chance=0.1).chance == 0.1
    mixed = [trial("full", 0, option_logprobs=[-1.0, -1.0]), trial("full", 1)]
    assert summarise(framed(mixed), order=ORDER).chance == pytest.approx((1 / 2 + 1 / 4) / 2)


def test_conditions_come_in_the_order_asked_for_and_the_others_after():
    summary = summarise(framed(usual()), order=["zero", "absent", "zero", "full"])
    assert [one.condition for one in summary.conditions] == ["zero", "full", "plain"]
    with pytest.raises(UnknownNameError, match=r"unknown condition 'zeros'.*'zero'"):
        summary["zeros"]


def test_the_frame_has_a_row_per_condition_and_never_a_nan():
    summary = summarise(framed(usual()), order=ORDER)
    frame = summary.to_frame()
    assert list(frame.index) == ORDER
    missing = [
        value for value in frame.to_numpy().ravel() if isinstance(value, float) and value != value
    ]
    assert missing == []
    assert frame.loc["full", "difference"] is None
    assert frame.loc["zero", "accuracy"] == 0.75
    assert frame.loc["zero", "retained"] == pytest.approx(2 / 3)
    difference = summary["zero"].difference
    assert difference is not None
    assert frame.loc["zero", "difference_low"] == difference.estimate.low
    assert frame.loc["zero", "difference_verdict"] == "different"
    assert np.isfinite(frame["slots_mean"].astype(float)).all()


def test_a_summary_prints_as_a_table():
    text = str(summarise(framed(usual()), order=ORDER))
    head, names, *lines = text.splitlines()
    assert head == "organism on mini: 80 problems, chance 0.25"
    assert names.split() == ["n", "accuracy", "minus", "full", "verdict", "retained"]
    assert [line.split()[0] for line in lines] == ORDER
    assert "different" in lines[2]
    assert "0.67 [" in lines[2]
    silent = StudySummary("m", "b", 0, None, "plain", 0.05, 0.5, 0, ())
    assert str(silent).startswith("m on b: 0 problems, chance unknown")


@pytest.mark.parametrize(("column", "names"), [("model", "'a', 'organism'"), ("benchmark", "")])
def test_rows_of_several_models_or_benchmarks_are_refused(column: str, names: str):
    frame = framed(usual())
    frame[column] = ["a", *frame[column][1:]]
    with pytest.raises(StatisticsError, match=rf"a summary is of one {column}.*{names}"):
        summarise(frame, order=ORDER)


def test_no_rows_and_no_full_are_refused():
    with pytest.raises(StatisticsError, match="0 rows hold none"):
        summarise(framed([]), order=ORDER)
    with pytest.raises(StatisticsError, match=r"no usable trial of the condition 'full'.*'zero'"):
        summarise(framed(asked("zero", 3, 0)), order=ORDER)
    failed = asked("full", 3, 0, error="broken")
    with pytest.raises(StatisticsError, match="usable trials: none"):
        summarise(framed(failed), order=ORDER)
