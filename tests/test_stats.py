"""Statistics: each number once by hand and once against an independent implementation."""

import itertools
import math
import random
from collections import defaultdict
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from latentprobe.errors import StatisticsError
from latentprobe.stats import (
    Estimate,
    average_seeds,
    equivalence,
    gain_retained,
    holm,
    mean_interval,
    minimal_detectable_effect,
    paired_difference,
    verdict_word,
)
from latentprobe.stats.resampling import bootstrap_totals, share_ends

light = settings(max_examples=25, deadline=None)
outcomes = st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1)), min_size=1, max_size=40)
names = st.lists(st.integers(0, 5), min_size=40, max_size=40)


def ones(right: int, wrong: int) -> list[int]:
    return [1] * right + [0] * wrong


def naive_bootstrap(columns: list[list[float]], clusters: list[str], statistic) -> list[float]:
    """Percentile ends of a cluster bootstrap written as plain loops."""
    rows = defaultdict(list)
    for index, label in enumerate(clusters):
        rows[label].append(index)
    labels, rng, draws = sorted(rows), random.Random(7), []
    for _ in range(3000):
        chosen = [index for label in rng.choices(labels, k=len(labels)) for index in rows[label]]
        draws.append(statistic(*[[column[index] for index in chosen] for column in columns]))
    draws.sort()
    return [draws[74], draws[2924]]


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


# --- means ---------------------------------------------------------------------------------------


def test_an_estimate_prints_its_value_and_interval_without_a_negative_zero():
    estimate = Estimate(0.8349, -0.001, 0.9, 0.95, 10, 10, "by hand")
    assert str(estimate) == "0.83 [0.00, 0.90]"
    assert not estimate.excludes_zero
    assert Estimate(-0.5, -0.6, -0.4, 0.95, 10, 10, "by hand").excludes_zero


def test_an_all_right_condition_gets_exact_bounds_on_clusters():
    # twenty of twenty: the exact lower bound solves p**20 = 0.025
    estimate = mean_interval([1] * 20)
    assert estimate.value == estimate.high == 1.0
    assert estimate.low == pytest.approx(0.025 ** (1 / 20))
    paired = mean_interval([1] * 20, [index // 2 for index in range(20)])
    assert paired.low == pytest.approx(0.025 ** (1 / 10))
    assert (paired.n, paired.clusters) == (20, 10)


@pytest.mark.parametrize("right", [0, 1, 7, 10, 19, 20])
def test_exact_bounds_agree_with_scipy(right: int):
    estimate = mean_interval(ones(right, 20 - right))
    exact = scipy_stats.binomtest(right, 20).proportion_ci(0.95, "exact")
    assert estimate.low <= exact.low + 1e-12
    assert estimate.high >= exact.high - 1e-12
    assert "Clopper-Pearson" in estimate.method


def test_the_bootstrap_of_a_share_agrees_with_scipy():
    values = ones(70, 50)
    estimate = mean_interval(values)
    reference = scipy_stats.bootstrap(
        (values,), np.mean, method="percentile", rng=np.random.default_rng(1)
    ).confidence_interval
    assert estimate.method == "cluster bootstrap"
    assert (estimate.low, estimate.high) == pytest.approx(tuple(reference), abs=0.01)


def test_the_bootstrap_of_real_values_with_unequal_clusters_agrees_with_a_plain_loop():
    rng = random.Random(3)
    clusters = [f"image-{index // 3 if index < 60 else index}" for index in range(100)]
    shifts = {label: rng.gauss(0, 1) for label in sorted(set(clusters))}
    values = [2 + shifts[label] + rng.gauss(0, 0.3) for label in clusters]
    estimate = mean_interval(values, clusters)
    low, high = naive_bootstrap([values], clusters, mean)
    assert estimate.value == pytest.approx(mean(values))
    assert (estimate.low, estimate.high) == pytest.approx((low, high), abs=0.04)
    assert estimate.high - estimate.low > 1.2 * (
        mean_interval(values).high - mean_interval(values).low
    ), "clusters that share a shift must widen the interval"


def test_the_bootstrap_of_partly_repeated_values_agrees_with_scipy():
    values = [10.0] * 30 + [float(number) for number in range(20, 40)]
    estimate = mean_interval(values)
    reference = scipy_stats.bootstrap(
        (values,), np.mean, method="percentile", rng=np.random.default_rng(1)
    ).confidence_interval
    assert (estimate.low, estimate.high) == pytest.approx(tuple(reference), abs=0.2)


def test_few_clusters_of_real_values_get_at_least_students_t():
    values = [1.0, 2.0, 4.0]
    exact = scipy_stats.ttest_1samp(values, 0).confidence_interval(0.95)
    estimate = mean_interval(values)
    assert (estimate.low, estimate.high) == pytest.approx((exact.low, exact.high))
    assert "Student" in estimate.method


@pytest.mark.parametrize(("count", "truth", "least"), [
    (12, 0.9, 0.95), (20, 0.02, 0.95), (20, 0.5, 0.95), (40, 0.02, 0.94), (40, 0.5, 0.91),
])  # fmt: skip
def test_intervals_cover_the_truth_as_often_as_they_claim(count: int, truth: float, least: float):
    covered = 0.0
    for right in range(count + 1):
        weight = scipy_stats.binom.pmf(right, count, truth)
        estimate = mean_interval(ones(right, count - right), resamples=2000)
        covered += weight * (estimate.low <= truth <= estimate.high)
    assert covered >= least


@light
@given(outcomes, names, st.randoms(use_true_random=False))
def test_the_order_of_rows_does_not_matter(pairs, labels, rng):
    rows = [(*pair, label) for pair, label in zip(pairs, labels, strict=False)]
    shuffled = rng.sample(rows, len(rows))
    first, second = (
        paired_difference(*([row[column] for row in some] for column in range(3)), resamples=100)
        for some in (rows, shuffled)
    )
    assert first.estimate.low == pytest.approx(second.estimate.low)
    assert first.estimate.high == pytest.approx(second.estimate.high)
    assert first.permutation_p == second.permutation_p


@light
@given(outcomes)
def test_repeating_every_problem_inside_its_cluster_adds_no_certainty(pairs):
    treated, reference = zip(*pairs, strict=True)
    once = paired_difference(treated, reference, resamples=100)
    labels = list(range(len(pairs))) * 3
    thrice = paired_difference(treated * 3, reference * 3, labels, resamples=100)
    assert thrice.estimate.low == pytest.approx(once.estimate.low)
    assert thrice.estimate.high == pytest.approx(once.estimate.high)
    assert thrice.permutation_p == once.permutation_p


def test_a_repeated_seed_gives_the_same_interval_and_another_one_a_close_one():
    values = np.random.default_rng(0).normal(size=50)
    assert mean_interval(values) == mean_interval(values)
    other = mean_interval(values, seed=1)
    assert other != mean_interval(values)
    assert other.low == pytest.approx(mean_interval(values).low, abs=0.05)


def test_seeds_are_averaged_within_their_problem():
    assert average_seeds([1, 0, 1, 1], ["b", "a", "b", "a"]) == {"b": 1.0, "a": 0.5}
    values, problems = np.arange(30.0), [index % 7 for index in range(30)]
    averaged = average_seeds(values, problems)
    assert averaged == {name: pytest.approx(values[name::7].mean()) for name in range(7)}


def test_resampling_in_blocks_of_limited_size_gives_every_resample():
    cells = np.stack([np.arange(50_000.0), np.ones(50_000)], axis=1)
    totals = bootstrap_totals(cells, 100, seed=0)
    assert totals.shape == (100, 2)
    assert (totals[:, 1] == 50_000).all()
    assert (totals[:, 0] / totals[:, 1]).mean() == pytest.approx(24_999.5, rel=0.001)
    assert len(np.unique(totals[:, 0])) == 100


# --- paired differences --------------------------------------------------------------------------


def test_a_paired_difference_counts_both_kinds_of_discordance():
    treated, reference = [1, 0, 0, 0, 1, 1], [1, 1, 1, 1, 0, 1]
    difference = paired_difference(treated, reference)
    assert difference.estimate.value == pytest.approx(-2 / 6)
    assert (difference.b, difference.c, difference.discordant_clusters) == (3, 1, 4)
    assert difference.flip_rate == pytest.approx(4 / 6)
    # three against one: P(3 or 4 of 4 one way) * 2 = 2 * 5 / 16
    assert difference.mcnemar_p == pytest.approx(10 / 16)
    assert difference.permutation_p == pytest.approx(10 / 16)
    assert str(difference).endswith("(b=3, c=1, p=0.625)")


@light
@given(st.integers(0, 30), st.integers(0, 30))
def test_mcnemar_agrees_with_counting_coins(b: int, c: int):
    difference = paired_difference([0] * b + [1] * c + [1], [1] * b + [0] * c + [1], resamples=100)
    ways = sum(math.comb(b + c, heads) for heads in range(min(b, c) + 1))
    assert difference.mcnemar_p == pytest.approx(min(1.0, 2 * ways / 2 ** (b + c)))


@light
@given(st.lists(st.integers(-3, 3), min_size=2, max_size=9))
def test_the_sign_flip_p_value_agrees_with_trying_every_sign(sums: list[int]):
    difference = paired_difference(sums, [0] * len(sums), resamples=100)
    flips = itertools.product((1, -1), repeat=len(sums))
    totals = [abs(sum(sign * one for sign, one in zip(flip, sums, strict=True))) for flip in flips]
    share = mean([float(total >= abs(sum(sums))) for total in totals])
    assert difference.permutation_p == pytest.approx(share)


def test_many_clusters_get_a_random_sign_flip_p_value_close_to_the_exact_one():
    treated = [1] * 14 + [0] * 5 + [1] * 30
    reference = [0] * 14 + [1] * 5 + [1] * 30
    difference = paired_difference(treated, reference)
    assert difference.discordant_clusters == 19
    assert difference.permutation_p == pytest.approx(difference.mcnemar_p, abs=0.015)
    real = np.random.default_rng(2).normal(0.4, 1, 40)
    independent = scipy_stats.permutation_test(
        (real,), np.mean, permutation_type="samples", n_resamples=5000,
        rng=np.random.default_rng(0),
    )  # fmt: skip
    found = paired_difference(real, np.zeros(40)).permutation_p
    assert found == pytest.approx(independent.pvalue, abs=0.015)


def test_clusters_that_move_together_count_once_in_the_p_value():
    treated, reference = [0] * 20, [1] * 20
    alone = paired_difference(treated, reference)
    together = paired_difference(treated, reference, [index // 10 for index in range(20)])
    assert alone.permutation_p < 0.001
    assert together.permutation_p == pytest.approx(0.5)  # two clusters: both up or both down


def test_the_bootstrap_of_a_difference_agrees_with_a_plain_loop():
    rng = random.Random(5)
    clusters = [f"c{index // 2}" for index in range(160)]
    reference = [float(rng.random() < 0.7) for _ in clusters]
    treated = [one if rng.random() < 0.6 else float(rng.random() < 0.3) for one in reference]
    difference = paired_difference(treated, reference, clusters)
    low, high = naive_bootstrap([treated, reference], clusters, lambda t, r: mean(t) - mean(r))
    assert difference.estimate.method == "cluster bootstrap"
    assert (difference.estimate.low, difference.estimate.high) == pytest.approx(
        (low, high), abs=0.015
    )


def test_no_discordance_among_a_hundred_still_leaves_room_for_three_percent():
    same = ones(60, 40)
    estimate = paired_difference(same, same, level=0.9).estimate
    assert estimate.value == 0
    assert estimate.high == pytest.approx(1 - 0.05 ** (1 / 100))
    assert estimate.high == pytest.approx(3 / 100, rel=0.03)
    assert estimate.low == -estimate.high
    assert "widened by Clopper-Pearson" in estimate.method


def test_a_near_total_collapse_is_widened_as_a_near_absence_is():
    estimate = paired_difference([0] * 50, ones(49, 1)).estimate
    assert "widened" in estimate.method
    assert estimate.low == -1.0
    assert estimate.high > -0.9


@light
@given(outcomes)
def test_swapping_the_conditions_swaps_the_signs(pairs):
    treated, reference = zip(*pairs, strict=True)
    there = paired_difference(treated, reference, resamples=100)
    back = paired_difference(reference, treated, resamples=100)
    assert there.estimate.value == pytest.approx(-back.estimate.value)
    assert (there.b, there.c) == (back.c, back.b)
    assert there.permutation_p == pytest.approx(back.permutation_p)
    assert there.flip_rate == back.flip_rate
    assert -1 <= there.estimate.low <= there.estimate.value <= there.estimate.high <= 1


def test_seed_averages_have_no_mcnemar_and_real_values_no_flip_rate():
    averaged = paired_difference([1 / 3, 1.0, 0.0], [1, 1, 0])
    assert averaged.mcnemar_p is None
    assert averaged.flip_rate == pytest.approx(2 / 9)
    assert paired_difference([3.0, 4.0], [0.0, 9.0]).flip_rate is None


def test_rounding_noise_is_not_a_discordance():
    difference = paired_difference([0.1 + 0.2, 0.5], [0.3, 0.5])
    assert (difference.b, difference.c, difference.discordant_clusters) == (0, 0, 0)
    assert difference.permutation_p == 1.0


# --- equivalence, verdicts, power ----------------------------------------------------------------


@pytest.mark.parametrize(("count", "expected"), [(58, False), (59, True)])
def test_equivalence_needs_three_over_the_margin_problems_that_all_agree(
    count: int, expected: bool
):
    # 1 - 0.05 ** (1 / n) < 0.05 from n = 59 on
    result = equivalence([1] * count, [1] * count)
    assert result.equivalent is expected
    assert result.interval.level == pytest.approx(0.9)


def test_equivalence_agrees_with_two_one_sided_t_tests_on_many_real_values():
    gaps = np.random.default_rng(4).normal(0.1, 1.0, 300)
    for margin in (0.1, 0.18, 0.22, 0.4):
        below: Any = scipy_stats.ttest_1samp(gaps, margin, alternative="less")
        above: Any = scipy_stats.ttest_1samp(gaps, -margin, alternative="greater")
        result = equivalence(gaps, np.zeros(300), margin=margin)
        assert result.equivalent == (max(below.pvalue, above.pvalue) < 0.05), margin


def test_the_detectable_effect_is_the_textbook_one():
    # n = 191, 8 % discordant: (1.96 + 0.84) * sqrt(0.08 / 191) = 5.7 points
    gaps = [1] * 8 + [-1] * 7 + [0] * 176
    expected = (1.95996 + 0.84162) * math.sqrt(15) / 191
    assert minimal_detectable_effect(gaps) == pytest.approx(expected, rel=1e-4)
    assert equivalence(gaps, [0] * 191).detectable == pytest.approx(expected, rel=1e-4)


def test_an_effect_of_that_size_is_found_four_times_in_five():
    rng, count = np.random.default_rng(0), 400
    effect = minimal_detectable_effect([1] * 40 + [-1] * 40 + [0] * 320)
    assert effect is not None
    shares = [0.1 - effect / 2, 0.8, 0.1 + effect / 2]
    trials = rng.choice([-1, 0, 1], p=shares, size=(3000, count))
    z = trials.sum(axis=1) / np.sqrt((trials**2).sum(axis=1))
    assert (np.abs(z) > 1.96).mean() == pytest.approx(0.8, abs=0.03)


def test_what_could_not_be_detected_is_none_with_a_reason():
    assert minimal_detectable_effect([0.0]) is None
    assert minimal_detectable_effect([5.0, -5.0, 0.0]) is not None
    result = equivalence([1], [1])
    assert result.detectable is None
    assert "1 independent" in str(result.reason)
    assert equivalence([1] * 80, [1] * 80).reason is None
    seen = minimal_detectable_effect([0] * 300)
    assert seen == pytest.approx(2.8016 * math.sqrt((1 - 0.05 ** (1 / 300)) / 300), rel=1e-3)


@pytest.mark.parametrize(("treated", "reference", "p", "word"), [
    (ones(80, 0), ones(80, 0), 1.0, "equivalent"),
    (ones(80, 0), ones(80, 0), 0.0, "equivalent"),
    (ones(20, 60), ones(80, 0), 0.001, "different"),
    (ones(20, 60), ones(80, 0), 0.05, "inconclusive"),
    (ones(20, 60), ones(80, 0), None, "inconclusive"),
    (ones(76, 4), ones(80, 0), 0.001, "inconclusive"),
])  # fmt: skip
def test_the_verdict_is_one_of_three_words(treated, reference, p, word):
    pair = paired_difference(treated, reference), equivalence(treated, reference)
    assert verdict_word(*pair, p) == word


def test_a_significant_difference_inside_the_margin_is_equivalent():
    treated, reference = ones(4000, 0), ones(3960, 40)
    difference = paired_difference(treated, reference)
    assert difference.estimate.excludes_zero
    assert difference.permutation_p < 0.001
    within = equivalence(treated, reference)
    assert verdict_word(difference, within, difference.permutation_p) == "equivalent"


# --- gain retained -------------------------------------------------------------------------------


def test_three_quarters_of_a_gain_retained():
    retained = gain_retained(ones(60, 20), ones(80, 0), ones(0, 80))
    assert retained.value == pytest.approx(0.75)
    assert retained.low is not None
    assert retained.high is not None
    assert 0.6 < retained.low < 0.75 < retained.high < 0.9
    assert retained.gain.value == 1.0
    assert str(retained) == f"0.75 [{retained.low:.2f}, {retained.high:.2f}]"


def test_the_interval_of_a_share_agrees_with_a_plain_loop():
    rng = random.Random(11)
    clusters = [f"c{index // 2}" for index in range(300)]
    columns = [[float(rng.random() < p) for _ in clusters] for p in (0.55, 0.75, 0.35)]
    retained = gain_retained(columns[0], columns[1], columns[2], clusters)
    low, high = naive_bootstrap(
        columns, clusters, lambda c, f, r: (mean(c) - mean(r)) / (mean(f) - mean(r))
    )
    assert retained.value == pytest.approx(
        (mean(columns[0]) - mean(columns[2])) / (mean(columns[1]) - mean(columns[2]))
    )
    assert (retained.low, retained.high) == pytest.approx((low, high), abs=0.04)


def test_a_condition_that_never_differs_from_full_does_not_retain_exactly_everything():
    full, plain = ones(80, 20), ones(40, 60)
    retained = gain_retained(full, full, plain)
    assert retained.value == 1.0
    reach = (1 - 0.025 ** (1 / 100)) / 0.4
    assert (retained.low, retained.high) == pytest.approx((1 - reach, 1 + reach))
    nothing = gain_retained(plain, full, plain)
    assert nothing.value == 0.0
    assert (nothing.low, nothing.high) == pytest.approx((-reach, reach))


@pytest.mark.parametrize(("full", "reference", "reason"), [
    (ones(42, 38), ones(40, 40), "its interval includes 0"),
    (ones(10, 70), ones(70, 10), "full is worse than the reference"),
])  # fmt: skip
def test_without_a_gain_there_is_no_share_of_it(full, reference, reason):
    retained = gain_retained(reference, full, reference)
    assert (retained.value, retained.low, retained.high) == (None, None, None)
    assert reason in str(retained.reason)
    assert str(retained).startswith("undefined: no gain to retain")


def test_resamples_without_a_gain_push_both_ends_outward():
    totals = np.array([[index, 100.0] for index in range(100)])
    assert share_ends(totals, 0.05) == [0.05, 0.94]
    totals[50:53, 1] = 0.0
    assert share_ends(totals, 0.05) == [0.02, 0.97]
    totals[50:70, 1] = -1.0
    assert share_ends(totals, 0.05) == [0.0, 0.99]


# --- Holm ----------------------------------------------------------------------------------------


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx((0.03, 0.06, 0.06))
    assert holm([0.01, 0.04], family_size=10) == pytest.approx((0.1, 0.36))
    assert holm([0.9, 0.8]) == (1.0, 1.0)
    assert holm([]) == ()


@light
@given(st.lists(st.floats(0, 1), min_size=1, max_size=6))
def test_holm_is_the_closed_test_of_bonferroni(p_values: list[float]):
    # closed testing: a hypothesis falls when every intersection that contains it falls
    indices = range(len(p_values))
    subsets = [set(some) for size in indices for some in itertools.combinations(indices, size + 1)]
    bonferroni = [min(1.0, len(some) * min(p_values[one] for one in some)) for some in subsets]
    expected = [
        max(p for some, p in zip(subsets, bonferroni, strict=True) if index in some)
        for index in indices
    ]
    assert holm(p_values) == pytest.approx(tuple(expected))


# --- refusals ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("call", "message"), [
    (lambda: mean_interval([]), "non-empty list of finite numbers"),
    (lambda: mean_interval([1.0, float("nan")]), "1 not finite"),
    (lambda: mean_interval(np.ones((2, 2))), r"shape \(2, 2\)"),
    (lambda: mean_interval([1, 0], ["a"]), "1 cluster or problem labels"),
    (lambda: mean_interval([3.0, 4.0], ["a", "a"]), "at least two clusters"),
    (lambda: mean_interval([1, 0], level=1.5), "probability of 1.5"),
    (lambda: mean_interval([1, 0], resamples=5), "at least 100"),
    (lambda: paired_difference([1], [1, 0]), "1 treated and 2 reference"),
    (lambda: gain_retained([1], [1, 0], [1, 0]), "1 treated and 2 reference"),
    (lambda: equivalence([1], [1], margin=0.0), "margin must be above 0"),
    (lambda: equivalence([1], [1], alpha=0.5), "alpha between 0 and 0.5"),
    (lambda: minimal_detectable_effect([1], power=0.0), "probability of 0.0"),
    (lambda: holm([1.2]), "p values lie in"),
    (lambda: holm([0.1, 0.2], family_size=1), "family of 1"),
])  # fmt: skip
def test_what_cannot_be_estimated_is_refused_with_advice(call, message):
    with pytest.raises(StatisticsError, match=message):
        call()
