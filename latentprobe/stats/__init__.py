"""Statistics of paired, clustered trials: intervals, differences, equivalence, gain retained.

Every condition is asked the same problems, and problems that share an image, a pair or an option
cycle are not independent. So everything here is paired, and whole clusters are resampled:

1. Resample clusters with replacement; the statistic is a ratio of totals, so clusters keep their
   weight. Intervals are percentiles of the resampled statistic.
2. The bootstrap cannot see what did not happen: when two conditions agree on all of n problems its
   interval has no width. Whenever fewer than 10 clusters differ from the most common cluster
   value, or there are fewer than 30 clusters, the interval is widened to the hull with exact
   Clopper-Pearson bounds (values in [0, 1]; 0 discordant of n: at most about 3/n, one-sided 95 %)
   or with Student's t over clusters (other values). `Estimate.method` says so.
3. p values come from flipping the sign of whole clusters; McNemar's exact test is given beside it.
4. What cannot be estimated is None with a reason: never NaN, never infinity.

References:
    Miller 2024, "Adding Error Bars to Evals", arXiv 2411.00640. McNemar 1947. Holm 1979.
    Schuirmann 1987 (two one-sided tests). Clopper and Pearson 1934.
"""

from latentprobe.stats.comparisons import (
    average_seeds,
    equivalence,
    gain_retained,
    holm,
    mean_interval,
    minimal_detectable_effect,
    paired_difference,
    verdict_word,
)
from latentprobe.stats.estimates import Difference, Equivalence, Estimate, Retained

__all__ = [
    "Difference",
    "Equivalence",
    "Estimate",
    "Retained",
    "average_seeds",
    "equivalence",
    "gain_retained",
    "holm",
    "mean_interval",
    "minimal_detectable_effect",
    "paired_difference",
    "verdict_word",
]
