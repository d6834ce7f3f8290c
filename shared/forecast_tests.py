"""Whether one forecaster is better than another, or by chance: tests that know that horizons overlap.

A forecast for 24 hours made every hour shares 23 hours with the next one, so errors come in runs and a plain
t-test sees 24 times the evidence there is. Each variance here is Newey and West's with a lag that covers the
horizon, widened by what so long a lag leaves uncertain. An Estimate is a mean with that variance; those of separate
spans combine into one. Pure, numpy only.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from shared.rows import FloatArray, IntArray

BoolArray = NDArray[np.bool_]

# Critical value at 5 %, two-sided, of a mean over its Bartlett standard error with the lag a share b of the sample:
# Σ c·b^i (Kiefer and Vogelsang, Econometric Theory 21, 2005, table 1). The first is the normal one, for b = 0.
FIXED_B = (1.9600, 2.9694, 0.4160, -0.5324)


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean, the variance of that mean, and from how many times it was taken."""

    mean: float
    variance: float
    n: int

    @property
    def statistic(self) -> float:
        """Mean over its standard error: standard normal when the truth is 0. 0 where nothing ever differed, NaN where
        nothing was compared."""
        if self.variance > 0 or math.isnan(self.mean):
            return self.mean / math.sqrt(self.variance)
        return 0.0 if self.mean == 0 else math.copysign(math.inf, self.mean)

    @property
    def p_above(self) -> float:
        """One-sided: the chance of a mean so high if the truth were 0 or below."""
        return _normal_tail(self.statistic)

    @property
    def p_two_sided(self) -> float:
        """The chance of a mean so far from 0 if the truth were 0."""
        return 2.0 * _normal_tail(abs(self.statistic))

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """The central interval that holds the truth with this chance."""
        half = NormalDist().inv_cdf(0.5 + level / 2) * math.sqrt(self.variance)
        return self.mean - half, self.mean + half


def combine(estimates: Sequence[Estimate]) -> Estimate:
    """One estimate from those of separate, independent spans, each weighing as many times as it has."""
    n = sum(e.n for e in estimates)
    if not n:
        return Estimate(math.nan, math.nan, 0)
    used = [e for e in estimates if e.n]
    return Estimate(sum(e.n * e.mean for e in used) / n, sum(e.n**2 * e.variance for e in used) / n**2, n)


def hac_lag(n: int, horizon: int) -> int:
    """Steps of autocovariance to count: at least the horizon, and 1.3·sqrt(n); below n.

    So long a lag keeps the test's size only beside fixed-b critical values (Lazarus, Lewis, Stock and Watson, Journal
    of Business & Economic Statistics 36, 2018): see ``estimate``.
    """
    return max(0, min(max(horizon, math.ceil(1.3 * math.sqrt(n))), n - 1))


def newey_west(values: FloatArray, lag: int) -> float:
    """The variance of the mean of an autocorrelated series [n]: (γ0 + 2 Σ_{j≤lag} (1 - j/(lag+1)) γj) / n,
    γj = Σ_t (x_t - mean)(x_{t-j} - mean) / n (Newey and West, Econometrica 55, 1987); never below 0."""
    n = len(values)
    if n == 0:
        return math.nan
    x = values - values.mean()
    total = float(x @ x)
    for j in range(1, min(lag, n - 1) + 1):
        total += 2.0 * (1.0 - j / (lag + 1.0)) * float(x[j:] @ x[:-j])
    return max(total, 0.0) / n**2


def estimate(values: FloatArray, horizon: int, as_of: IntArray | None = None) -> Estimate:
    """The mean of ``values`` [n] in order of time and its variance; ``horizon``: overlapping steps.

    The variance is widened so that 1.96 standard errors reach as far as fixed-b asymptotics would have them.
    With ``as_of`` [n] several series may share moments: those of one moment are taken together first, so what moves
    all markets at once counts once (Driscoll and Kraay, Review of Economics and Statistics 80, 1998).
    """
    if not len(values):
        return Estimate(math.nan, math.nan, 0)
    mean = float(values.mean())
    around = values - mean if as_of is None else _by_time(values - mean, as_of)
    lag = hac_lag(len(around), horizon)
    return Estimate(mean, newey_west(around, lag) * _widening((lag + 1) / len(around)) ** 2, len(around))


def _widening(b: float) -> float:
    """The fixed-b critical value as a multiple of the normal one."""
    return sum(c * b**i for i, c in enumerate(FIXED_B)) / FIXED_B[0]


def _by_time(values: FloatArray, as_of: IntArray) -> FloatArray:
    """Sums by moment of ``values`` around their mean, scaled as it is. Around the mean: else a moment at which more
    series are there would stand out by their number."""
    moments, which = np.unique(as_of, return_inverse=True)
    sums = np.bincount(which, weights=values, minlength=len(moments))
    return np.asarray(sums * (len(moments) / len(values)))


def diebold_mariano(
    losses: FloatArray, other_losses: FloatArray, horizon: int, as_of: IntArray | None = None
) -> Estimate:
    """Mean of (other loss - loss): above 0 the first forecaster is better (Diebold and Mariano, Journal of
    Business & Economic Statistics 13, 1995). Two-sided p: ``p_two_sided``. Not for nested models: clark_west."""
    return estimate(other_losses - losses, horizon, as_of)


def clark_west(
    actual: FloatArray, small: FloatArray, large: FloatArray, horizon: int, as_of: IntArray | None = None
) -> Estimate:
    """Whether what ``large`` knows beyond the nested ``small`` helps: one-sided, ``p_above``.

    Mean of (y - small)² - [(y - large)² - (small - large)²]: the last term gives back the noise of coefficients
    that would be 0 if it did not help (Clark and West, Journal of Econometrics 138, 2007).
    """
    adjusted = (actual - small) ** 2 - ((actual - large) ** 2 - (small - large) ** 2)
    return estimate(adjusted, horizon, as_of)


def coverage_error(hits: BoolArray, level: float, horizon: int, as_of: IntArray | None = None) -> Estimate:
    """Share of outcomes inside their band less ``level``, with a variance that knows of overlap; reject the band's
    coverage when ``p_two_sided`` is small."""
    return estimate(hits.astype(np.float64) - level, horizon, as_of)


def _normal_tail(x: float) -> float:
    return 0.5 * math.erfc(x / math.sqrt(2.0))
