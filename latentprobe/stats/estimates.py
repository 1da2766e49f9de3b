"""What the statistics return: frozen records that print as people read them.

None stands for what cannot be estimated, with a reason beside it; no field is ever NaN or infinite.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Estimate:
    """A number with its interval; low <= value <= high always holds.

    Attributes:
        value: The estimate, in the unit of the values given.
        low: Lower end of the interval.
        high: Upper end of the interval.
        level: Coverage the interval aims at, in (0, 1).
        n: Values averaged (problems).
        clusters: Independent groups among them.
        method: How the interval was made, in words.
    """

    value: float
    low: float
    high: float
    level: float
    n: int
    clusters: int
    method: str

    def __str__(self) -> str:
        shown = [round(number, 2) + 0.0 for number in (self.value, self.low, self.high)]
        return f"{shown[0]:.2f} [{shown[1]:.2f}, {shown[2]:.2f}]"

    @property
    def excludes_zero(self) -> bool:
        """Whether 0 lies outside the interval."""
        return self.low > 0 or self.high < 0


@dataclass(frozen=True)
class Difference:
    """Treated minus reference on the same problems.

    Attributes:
        estimate: Mean difference, in the unit of the values given.
        b: Problems where the reference is higher (for accuracy: it is right, treated is wrong).
        c: Problems where treated is higher.
        mcnemar_p: Exact two-sided McNemar p value; None when a value is neither 0 nor 1. It takes
            problems for independent: with clusters read `permutation_p`.
        permutation_p: Two-sided p value from flipping the signs of whole clusters.
        flip_rate: Mean absolute difference, in [0, 1]: the share of problems whose outcome changed
            when values are 0 or 1; None when a value lies outside [0, 1].
        discordant_clusters: Clusters whose mean difference is not 0.
    """

    estimate: Estimate
    b: int
    c: int
    mcnemar_p: float | None
    permutation_p: float
    flip_rate: float | None
    discordant_clusters: int

    def __str__(self) -> str:
        return f"{self.estimate} (b={self.b}, c={self.c}, p={self.permutation_p:.3g})"


@dataclass(frozen=True)
class Equivalence:
    """Two one-sided tests of a difference against a stated margin.

    Attributes:
        interval: The (1 - 2 alpha) interval of the difference.
        margin: Largest difference that counts as none, in the unit of the values.
        alpha: Level of each one-sided test.
        equivalent: Whether the interval lies inside (-margin, margin).
        detectable: Smallest true difference found with 80 % power, or None with `reason`.
        reason: Why `detectable` is None.
    """

    interval: Estimate
    margin: float
    alpha: float
    equivalent: bool
    detectable: float | None
    reason: str | None = None


@dataclass(frozen=True)
class Retained:
    """Share of a gain that a condition keeps: 1 all of it, 0 none; may leave [0, 1].

    Attributes:
        value: (condition - reference) / (full - reference), or None with `reason`.
        low: Lower end of its interval, or None.
        high: Upper end of its interval, or None.
        gain: full - reference with its interval.
        reason: Why the share is undefined.
    """

    value: float | None
    low: float | None
    high: float | None
    gain: Estimate
    reason: str | None = None

    def __str__(self) -> str:
        if self.value is None or self.low is None or self.high is None:
            return f"undefined: {self.reason}"
        return f"{self.value:.2f} [{self.low:.2f}, {self.high:.2f}]"
