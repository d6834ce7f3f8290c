"""Whether one forecaster is better than another, or by chance: tests that know that horizons overlap.

A forecast for 24 hours made every hour shares 23 hours with the next one, so errors come in runs and a plain
t-test sees 24 times the evidence there is. Each variance here is Newey and West's with a lag that covers the
horizon. An Estimate is a mean with that variance; those of separate spans combine into one. Pure, numpy only.
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


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean, the variance of that mean, and from how many times it was taken."""

    mean: float
    variance: float
    n: int

    @property
    def statistic(self) -> float:
        """Mean over its standard error: standard normal when the truth is 0. 0 where nothing ever differed."""
        if self.variance > 0:
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
    """Steps of autocovariance to count: at least the horizon, and 1.3·sqrt(n), so that the test keeps its size
    (Lazarus, Lewis, Stock and Watson, Journal of Business & Economic Statistics 36, 2018); below n."""
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

    With ``as_of`` [n] several series may share moments: those of one moment are taken together first, so what
    moves all markets at once counts once (Driscoll and Kraay, Review of Economics and Statistics 80, 1998).
    """
    if as_of is not None:
        values = _by_time(values, as_of)
    n = len(values)
    if n == 0:
        return Estimate(math.nan, math.nan, 0)
    return Estimate(float(values.mean()), newey_west(values, hac_lag(n, horizon)), n)


def _by_time(values: FloatArray, as_of: IntArray) -> FloatArray:
    """Sums by moment, scaled so that their mean is the mean of all values."""
    if not len(values):
        return values
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
    coverage when ``p_two_sided`` is small. Kupiec and Christoffersen, below, are for forecasts without overlap."""
    return estimate(hits.astype(np.float64) - level, horizon, as_of)


def kupiec(hits: BoolArray, level: float) -> float:
    """p-value of the likelihood ratio that the share inside is ``level`` (Kupiec, Journal of Derivatives 3, 1995).

    ``hits`` [n] must be independent: outcomes that do not overlap.
    """
    inside, n = int(hits.sum()), len(hits)
    if not n:
        return math.nan
    ratio = 2.0 * (_bernoulli(inside, n, inside / n) - _bernoulli(inside, n, level))
    return math.erfc(math.sqrt(max(ratio, 0.0) / 2.0))  # χ² with one degree of freedom


def christoffersen(hits: BoolArray, level: float) -> float:
    """p-value of right coverage and no runs of misses together, a first-order Markov chain against a constant
    ``level`` (Christoffersen, International Economic Review 39, 1998). Non-overlapping outcomes in order of time."""
    if len(hits) < 2:
        return math.nan
    before, after = hits[:-1], hits[1:]
    chain = 0.0
    for state in (False, True):
        n, inside = int((before == state).sum()), int(after[before == state].sum())
        chain += _bernoulli(inside, n, inside / n) if n else 0.0
    ratio = 2.0 * (chain - _bernoulli(int(after.sum()), len(after), level))
    return math.exp(-max(ratio, 0.0) / 2.0)  # χ² with two


def _bernoulli(inside: int, n: int, p: float) -> float:
    """Log likelihood of ``inside`` of ``n``, 0·ln 0 being 0."""
    misses = n - inside
    return (inside * math.log(p) if inside else 0.0) + (misses * math.log1p(-p) if misses else 0.0)


def _normal_tail(x: float) -> float:
    return 0.5 * math.erfc(x / math.sqrt(2.0))
