"""Whole clusters resampled and sign-flipped: the arithmetic under the comparisons.

Everything works on *cells*: one row per cluster, one column of sums per quantity, and the
cluster's size as the last column. A statistic is a ratio of column totals, so a cluster keeps its
weight whatever its size.
"""

from collections.abc import Hashable, Iterator, Sequence

import numpy as np
from scipy import stats as scipy_stats

from latentprobe.errors import StatisticsError
from latentprobe.stats.estimates import Estimate

Numbers = Sequence[int | float | np.generic] | np.ndarray
Labels = Sequence[str | int | np.generic] | np.ndarray

FEW = 10  # clusters away from the most common value, below which the bootstrap is not trusted alone
SMALL = 30  # clusters, below which it is not trusted alone either
EXACT = 12  # clusters with a difference, up to which every sign flip is tried
RESAMPLES = 5000
DRAWS = 10_000  # random sign flips beyond `EXACT` clusters; the smallest p is 1 / (DRAWS + 1)
TINY = 1e-12


def check_level(level: float) -> None:
    """Refuse a probability outside (0, 1) with a StatisticsError."""
    if not 0 < level < 1:
        raise StatisticsError(f"a probability of {level} was asked for; give one between 0 and 1")


def finite_vector(values: Numbers, what: str) -> np.ndarray:
    """Return `values` as a float array; a StatisticsError if empty, not 1-d or not finite."""
    numbers = np.asarray(values, dtype=float)
    if numbers.ndim != 1 or numbers.size == 0 or not np.isfinite(numbers).all():
        raise StatisticsError(
            f"{what} must be a non-empty list of finite numbers, one per problem; got shape "
            f"{numbers.shape} with {int((~np.isfinite(numbers)).sum())} not finite. Drop problems "
            "without an outcome from both conditions first"
        )
    return numbers


def finite_pair(treated: Numbers, reference: Numbers) -> tuple[np.ndarray, np.ndarray]:
    """Return both as float arrays; a StatisticsError if their lengths differ."""
    left = finite_vector(treated, "treated values")
    right = finite_vector(reference, "reference values")
    if len(left) != len(right):
        raise StatisticsError(
            f"a paired comparison got {len(left)} treated and {len(right)} reference values; give "
            "one of each per problem, in the same order"
        )
    return left, right


def in_unit(numbers: np.ndarray) -> bool:
    """Whether every number lies in [0, 1]."""
    return bool(((numbers >= 0) & (numbers <= 1)).all())


def cluster_cells(clusters: Labels | None, *columns: np.ndarray) -> np.ndarray:
    """Sum each column within clusters; the last column of the result is the cluster's size."""
    labels = range(len(columns[0])) if clusters is None else np.asarray(clusters).tolist()
    if {len(column) for column in columns} != {len(labels)}:
        lengths = [len(column) for column in columns]
        raise StatisticsError(
            f"{len(labels)} cluster or problem labels for {lengths} values; give one each"
        )
    numbering: dict[Hashable, int] = {}
    codes = [numbering.setdefault(label, len(numbering)) for label in labels]
    weights = (*columns, np.ones(len(labels)))
    return np.stack([np.bincount(codes, weights=column) for column in weights], axis=1)


def effective_clusters(cells: np.ndarray) -> int:
    """Clusters of equal size that carry as much as these do (Kish)."""
    sizes = cells[:, -1]
    return max(1, int(sizes.sum() ** 2 / (sizes**2).sum() + TINY))


def ratio_interval(
    cells: np.ndarray, lowest: float | None, level: float, resamples: int, seed: int
) -> Estimate:
    """Interval of total / size; `lowest` is the smallest possible value, None if unbounded."""
    check_level(level)
    if resamples < 100:
        raise StatisticsError(f"{resamples} resamples give no interval; ask for at least 100")
    count, tail = len(cells), (1 - level) / 2
    value = float(cells[:, 0].sum() / cells[:, 1].sum())
    means = cells[:, 0] / cells[:, 1]
    if lowest is None and count == 1:
        raise StatisticsError(
            "a single cluster of values outside [0, 1] has no interval; give problems from at "
            "least two clusters"
        )
    totals = bootstrap_totals(cells, resamples, seed)
    ends = np.quantile(totals[:, 0] / totals[:, 1], [tail, 1 - tail]).tolist()
    method = "cluster bootstrap"
    _, repeats = np.unique(means.round(9), return_counts=True)
    if count - repeats.max() < FEW or count < SMALL:
        wider, name = _exact_ends(cells, lowest, tail), "Clopper-Pearson bounds"
        if lowest is None:
            wider, name = _student_ends(cells, value, tail), "Student's t"
        method = f"{method}, widened by {name} over clusters"
        ends += wider
    low, high = min(value, *ends), max(value, *ends)
    return Estimate(value, low, high, level, int(cells[:, 1].sum()), count, method)


def is_widened(estimate: Estimate) -> bool:
    """Whether the bootstrap was not trusted alone for this interval."""
    return "widened" in estimate.method


def _exact_ends(cells: np.ndarray, lowest: float | None, tail: float) -> list[float]:
    """Clopper-Pearson ends of (share of ups) - (share of downs), each share bounded at `tail`."""
    means, sizes = cells[:, 0] / cells[:, 1], cells[:, 1]
    count = effective_clusters(cells)
    ups = _clopper_pearson(float((np.maximum(means, 0) * sizes).sum() / sizes.sum()), count, tail)
    if lowest == 0:
        return ups
    downs = _clopper_pearson(
        float((np.maximum(-means, 0) * sizes).sum() / sizes.sum()), count, tail
    )
    return [ups[0] - downs[1], ups[1] - downs[0]]


def _clopper_pearson(share: float, count: int, tail: float) -> list[float]:
    """One-sided bounds at `tail` each; a fractional number of successes is rounded outward."""
    fewest, most = int(share * count + TINY), int(np.ceil(share * count - TINY))
    low = scipy_stats.beta.ppf(tail, fewest, count - fewest + 1) if fewest > 0 else 0.0
    high = scipy_stats.beta.ppf(1 - tail, most + 1, count - most) if most < count else 1.0
    return [float(low), float(high)]


def _student_ends(cells: np.ndarray, value: float, tail: float) -> list[float]:
    count = len(cells)
    residuals = cells[:, 0] - value * cells[:, 1]
    error = np.sqrt((residuals**2).sum() * count / (count - 1)) / cells[:, 1].sum()
    reach = float(scipy_stats.t.ppf(1 - tail, count - 1) * error)
    return [value - reach, value + reach]


def _blocks(rows: int, width: int) -> Iterator[int]:
    """Split `rows` so that a block of rows x width numbers stays near 32 MB."""
    step = max(1, 2**22 // width)
    yield from (min(step, rows - start) for start in range(0, rows, step))


def bootstrap_totals(cells: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    """Totals of each column over clusters drawn with replacement, one row per resample.

    Clusters with equal cells are interchangeable: drawing how often each kind occurs has the same
    distribution as drawing clusters, and there are few kinds when outcomes are 0 or 1.
    """
    rng = np.random.default_rng(seed)
    kinds, repeats = np.unique(cells, axis=0, return_counts=True)
    count = len(cells)
    if len(kinds) > count // 4:
        drawn = (rng.integers(0, count, (rows, count)) for rows in _blocks(resamples, count))
        ordered = np.repeat(kinds, repeats, axis=0)
        return np.concatenate([
            np.stack([column[index].sum(axis=1) for column in ordered.T], axis=1) for index in drawn
        ])
    blocks = _blocks(resamples, len(kinds))
    return np.concatenate([
        rng.multinomial(count, repeats / count, rows) @ kinds for rows in blocks
    ])


def exact_mcnemar(b: int, c: int) -> float:
    """Two-sided exact p value of b against c discordant pairs; 1 when there are none."""
    return float(scipy_stats.binomtest(b, b + c).pvalue) if b + c else 1.0


def sign_flip_p(sums: np.ndarray, seed: int) -> float:
    """Two-sided p value of the total when every cluster's sign is a fair coin."""
    signed = sums[np.abs(sums) > TINY]
    sizes, repeats = np.unique(np.abs(signed).round(12), return_counts=True)
    observed = abs(float(signed.sum())) * (1 - 1e-9)
    if len(signed) <= EXACT:
        bits = (np.arange(2 ** len(signed))[:, None] >> np.arange(len(signed))) & 1
        return float(np.mean(np.abs((1 - 2 * bits) @ signed) >= observed))
    rng = np.random.default_rng(seed)
    beyond = 0
    for rows in _blocks(DRAWS, len(sizes)):
        heads = rng.binomial(repeats, 0.5, (rows, len(sizes)))
        beyond += int(np.sum(np.abs((2 * heads - repeats) @ sizes) >= observed))
    return (1 + beyond) / (1 + DRAWS)


def share_ends(totals: np.ndarray, tail: float) -> list[float]:
    """Percentiles of column 0 / column 1 at `tail` from either end.

    A resample without a gain (column 1 not above 0) has no ratio: it is counted as beyond the low
    end for the low end, and as beyond the high end for the high end.
    """
    valid = totals[:, 1] > TINY
    ordered = np.sort(totals[valid, 0] / totals[valid, 1])
    rank = max(0, int(np.floor(tail * len(totals))) - int((~valid).sum()))
    return [float(ordered[rank]), float(ordered[len(ordered) - 1 - rank])]
