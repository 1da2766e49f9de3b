"""Means, paired differences, equivalence, gain retained: each with its interval and its limits.

All of it is paired by problem and clustered; `latentprobe.stats` states the method.
"""

from collections.abc import Hashable

import numpy as np
from scipy import stats as scipy_stats

from latentprobe.errors import StatisticsError
from latentprobe.stats.estimates import Difference, Equivalence, Estimate, Retained
from latentprobe.stats.resampling import (
    RESAMPLES,
    TINY,
    Labels,
    Numbers,
    bootstrap_totals,
    check_level,
    cluster_cells,
    effective_clusters,
    exact_mcnemar,
    finite_pair,
    finite_vector,
    in_unit,
    is_widened,
    ratio_interval,
    share_ends,
    sign_flip_p,
)


def mean_interval(
    values: Numbers,
    clusters: Labels | None = None,
    *,
    level: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Estimate:
    """Estimate a mean with a cluster bootstrap interval, widened where that is too narrow.

    Args:
        values: One number per problem (seeds already averaged). Values that all lie in [0, 1] are
            taken for proportions.
        clusters: One label per value; equal labels are not independent. None: all independent.
        level: Coverage of the interval, in (0, 1).
        resamples: Bootstrap resamples, at least 100.
        seed: Seed of the resampling; the result depends on nothing else.

    Raises:
        StatisticsError: Empty, not one-dimensional or not finite values, labels of another length,
            or a single cluster of values outside [0, 1] (it has no interval).

    Example:
        >>> print(mean_interval([1, 1, 1, 1]))
        1.00 [0.40, 1.00]
    """
    numbers = finite_vector(values, "values")
    cells = cluster_cells(clusters, numbers)
    lowest = 0.0 if in_unit(numbers) else None
    return ratio_interval(cells, lowest, level, resamples, seed)


def average_seeds(values: Numbers, problems: Labels) -> dict[Hashable, float]:
    """Average the seeds of each problem, so that a problem counts once however often it was asked.

    Args:
        values: One number per trial.
        problems: The problem of each trial.

    Returns:
        Mean value per problem, in the order in which problems first appear.

    Raises:
        StatisticsError: Empty or not finite values, or labels of another length.

    Example:
        >>> average_seeds([1, 0, 1], ["a", "a", "b"])
        {'a': 0.5, 'b': 1.0}
    """
    numbers = finite_vector(values, "values")
    cells = cluster_cells(problems, numbers)
    names = dict.fromkeys(np.asarray(problems).tolist())
    return dict(zip(names, (cells[:, 0] / cells[:, 1]).tolist(), strict=True))


def paired_difference(
    treated: Numbers,
    reference: Numbers,
    clusters: Labels | None = None,
    *,
    level: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Difference:
    """Compare two conditions on the same problems: treated minus reference.

    Args:
        treated: One number per problem.
        reference: The same problems in the same order.
        clusters: One label per problem; None: all independent.
        level: Coverage of the interval, in (0, 1).
        resamples: Bootstrap resamples, at least 100.
        seed: Seed of resampling and random sign flips.

    Raises:
        StatisticsError: As for `mean_interval`, or inputs of different length.

    Example:
        >>> d = paired_difference([1, 0, 0, 1], [1, 1, 1, 1])
        >>> d.estimate.value, d.b, d.c, d.mcnemar_p
        (-0.5, 2, 0, 0.5)
    """
    high, low = finite_pair(treated, reference)
    gaps = high - low
    cells = cluster_cells(clusters, gaps)
    bounded = in_unit(high) and in_unit(low)
    b, c = int(np.sum(gaps < -TINY)), int(np.sum(gaps > TINY))
    binary = bool(np.isin(np.concatenate([high, low]), (0.0, 1.0)).all())
    return Difference(
        estimate=ratio_interval(cells, -1.0 if bounded else None, level, resamples, seed),
        b=b,
        c=c,
        mcnemar_p=exact_mcnemar(b, c) if binary else None,
        permutation_p=sign_flip_p(cells[:, 0], seed),
        flip_rate=float(np.abs(gaps).mean()) if bounded else None,
        discordant_clusters=int(np.sum(np.abs(cells[:, 0]) > TINY)),
    )


def equivalence(
    treated: Numbers,
    reference: Numbers,
    clusters: Labels | None = None,
    *,
    margin: float = 0.05,
    alpha: float = 0.05,
    seed: int = 0,
) -> Equivalence:
    """Test whether two conditions are the same up to a margin (two one-sided tests).

    Args:
        treated: One number per problem.
        reference: The same problems in the same order.
        clusters: One label per problem; None: all independent.
        margin: Largest difference that counts as none, in the unit of the values, above 0.
        alpha: Level of each test, in (0, 0.5); the interval shown has level 1 - 2 alpha.
        seed: Seed of the resampling.

    Raises:
        StatisticsError: As for `paired_difference`, or a margin or alpha out of range.

    Example:
        >>> same = [1, 0] * 40
        >>> equivalence(same, same).equivalent, equivalence(same[:40], same[:40]).equivalent
        (True, False)
    """
    if not (0 < margin < np.inf and 0 < alpha < 0.5):
        raise StatisticsError(
            f"equivalence asked with margin={margin} and alpha={alpha}; the margin must be above 0 "
            "(in the unit of the values) and alpha between 0 and 0.5"
        )
    high, low = finite_pair(treated, reference)
    gaps = high - low
    lowest = -1.0 if in_unit(high) and in_unit(low) else None
    interval = ratio_interval(cluster_cells(clusters, gaps), lowest, 1 - 2 * alpha, RESAMPLES, seed)
    inside = -margin < interval.low and interval.high < margin
    detectable = minimal_detectable_effect(gaps, clusters, alpha=alpha)
    reason = (
        None
        if detectable is not None
        else (f"{interval.clusters} independent problems do not bound what could be detected")
    )
    return Equivalence(interval, margin, alpha, inside, detectable, reason)


def verdict_word(
    difference: Difference,
    equivalence: Equivalence,
    p_adjusted: float | None,
    alpha: float = 0.05,
) -> str:
    """Return `equivalent`, `different` or `inconclusive`.

    Equivalence is asked first: with enough problems every difference is significant, and one whose
    whole interval lies inside the margin is, by the margin's own definition, none that matters.

    Args:
        difference: The paired difference; its interval must exclude 0 for `different`.
        equivalence: The test of the same pair against a margin.
        p_adjusted: p value after correction for the family, in [0, 1]; None is never significant.
        alpha: Significance level, in (0, 1).

    Example:
        >>> a, b = [1] * 80, [1] * 80
        >>> verdict_word(paired_difference(a, b), equivalence(a, b), 1.0)
        'equivalent'
    """
    if equivalence.equivalent:
        return "equivalent"
    significant = p_adjusted is not None and p_adjusted < alpha
    return "different" if significant and difference.estimate.excludes_zero else "inconclusive"


def gain_retained(
    condition: Numbers,
    full: Numbers,
    reference: Numbers,
    clusters: Labels | None = None,
    *,
    level: float = 0.95,
    seed: int = 0,
) -> Retained:
    """Share of the gain of `full` over `reference` that `condition` keeps, with its interval.

    The ratio is resampled by whole clusters, numerator and denominator together. Where few clusters
    tell the condition from `full` or from `reference`, the interval is widened to the hull with
    the widened difference divided by the gain. A gain whose interval includes 0, or that is a
    loss, leaves the share undefined.

    Args:
        condition: One number per problem.
        full: The same problems under the whole method.
        reference: The same problems under the condition the gain is counted from.
        clusters: One label per problem; None: all independent.
        level: Coverage of the interval, in (0, 1).
        seed: Seed of the resampling.

    Raises:
        StatisticsError: As for `paired_difference`.

    Example:
        >>> full, plain = [1] * 40, [0] * 40
        >>> gain_retained([1] * 30 + [0] * 10, full, plain).value
        0.75
    """
    gain = paired_difference(full, reference, clusters, level=level, seed=seed).estimate
    kept = paired_difference(condition, reference, clusters, level=level, seed=seed).estimate
    lost = paired_difference(condition, full, clusters, level=level, seed=seed).estimate
    if gain.low <= 0:
        what = "full is worse than the reference" if gain.high < 0 else "its interval includes 0"
        return Retained(None, None, None, gain, f"no gain to retain: {gain}, {what}")
    over, base = finite_pair(condition, reference)
    cells = cluster_cells(clusters, over - base, finite_vector(full, "full") - base)
    ends = share_ends(bootstrap_totals(cells, RESAMPLES, seed), (1 - level) / 2)
    value = kept.value / gain.value
    ends += [1 + end / gain.value for end in (lost.low, lost.high) if is_widened(lost)]
    ends += [end / gain.value for end in (kept.low, kept.high) if is_widened(kept)]
    return Retained(value, min(value, *ends), max(value, *ends), gain)


def holm(p_values: Numbers, *, family_size: int | None = None) -> tuple[float, ...]:
    """Adjust p values by Holm's step-down rule: the family-wise error rate stays below alpha.

    Args:
        p_values: p values in [0, 1], in any order.
        family_size: Tests in the pre-declared family when more were declared than are given here;
            the absent ones are counted against those given. None: as many as given.

    Returns:
        Adjusted p values in the order given, at most 1.

    Raises:
        StatisticsError: A p value outside [0, 1], or a family smaller than the list.

    Example:
        >>> holm([0.01, 0.04, 0.03])
        (0.03, 0.06, 0.06)
    """
    if len(p_values) == 0:
        return ()
    given = finite_vector(p_values, "p values")
    size = len(given) if family_size is None else family_size
    if size < len(given) or not in_unit(given):
        raise StatisticsError(
            f"Holm's rule got {len(given)} p values from {given.min()} to {given.max()} and a "
            f"family of {size}; p values lie in [0, 1] and the family holds at least those given"
        )
    order = np.argsort(given, kind="stable")
    scaled = np.maximum.accumulate(given[order] * (size - np.arange(len(given))))
    adjusted = np.empty_like(given)
    adjusted[order] = np.minimum(scaled, 1.0)
    return tuple(adjusted.tolist())


def minimal_detectable_effect(
    differences: Numbers,
    clusters: Labels | None = None,
    *,
    alpha: float = 0.05,
    power: float = 0.8,
) -> float | None:
    """Smallest true mean difference a two-sided test would find with the given power.

    The standard error is that under no difference, by clusters. Differences within [-1, 1] are
    credited with no less discordance than could hide behind none seen (about 3 / clusters).

    Args:
        differences: Treated minus reference, one number per problem.
        clusters: One label per problem; None: all independent.
        alpha: Level of the test, in (0, 1).
        power: Probability of finding it, in (0, 1).

    Returns:
        The difference, in the unit of the values. None when it would exceed every possible
        difference, or when values outside proportions never differ.

    Raises:
        StatisticsError: As for `mean_interval`, or alpha or power out of range.

    Example:
        >>> round(minimal_detectable_effect([1] * 8 + [-1] * 7 + [0] * 176), 3)
        0.057
    """
    check_level(alpha)
    check_level(power)
    gaps = finite_vector(differences, "differences")
    cells = cluster_cells(clusters, gaps)
    second = float((cells[:, 0] ** 2).sum() / cells[:, 1].sum() ** 2)
    bounded = bool((np.abs(gaps) <= 1).all())
    if bounded:
        count = effective_clusters(cells)
        second = max(second, (1 - 0.05 ** (1 / count)) / count)
    reach = float(scipy_stats.norm.ppf(1 - alpha / 2) + scipy_stats.norm.ppf(power))
    effect = reach * second**0.5
    return None if effect <= 0 or (bounded and effect > 1) else effect
