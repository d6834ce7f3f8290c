"""What a Sharpe ratio is worth after many tries: the deflated Sharpe ratio (Bailey and López de Prado, "The Deflated
Sharpe Ratio", Journal of Portfolio Management 40(5), 2014). Deflate the *active* return (policy - baseline): the
baseline was named in advance, only what goes beyond it was searched for.

All ratios here are of one day, not annual. numpy and the standard library only.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from shared.performance.returns import DAYS_A_YEAR, kurtosis, sharpe, skewness
from shared.rows import FloatArray

EULER_GAMMA = float(np.euler_gamma)
MOST_TRIALS = 10**12
NORMAL = NormalDist()


@dataclass(frozen=True, slots=True)
class DeflatedSharpe:
    """``probability`` that the true ratio is above what the best of ``trials`` skill-less ones is expected to show."""

    probability: float
    daily_sharpe: float
    expected_best: float  # daily; 0 for one trial
    trials: int
    trial_variance: float  # of the daily ratios among trials, as used


def expected_best(trials: int, variance: float) -> float:
    """The expected highest of N = ``trials`` skill-less ratios of this variance V:
    √V·((1 - γ)·Z⁻¹(1 - 1/N) + γ·Z⁻¹(1 - 1/(N·e))), γ Euler's.

    0 for one trial: nothing was chosen. ValueError for fewer.
    """
    if trials < 1 or not (math.isfinite(variance) and variance >= 0.0):
        raise ValueError(f"{trials} trials of variance {variance}: give one trial or more, and no negative variance")
    if trials == 1:
        return 0.0
    first, second = -NORMAL.inv_cdf(1.0 / trials), -NORMAL.inv_cdf(1.0 / (trials * math.e))
    return math.sqrt(variance) * ((1.0 - EULER_GAMMA) * first + EULER_GAMMA * second)


def probabilistic_sharpe(returns: FloatArray, benchmark: float = 0.0) -> float | None:
    """P(true daily ratio > ``benchmark``) of daily returns [days], with their skew γ3 and kurtosis γ4:
    Φ((SR - SR*)·√(T - 1) / √(1 - γ3·SR + (γ4 - 1)/4·SR²)) (Bailey and López de Prado, Journal of Risk 15(2), 2012).

    None where the ratio is undefined: fewer than two days, or nothing moved.
    """
    annual, skew, tails = sharpe(returns), skewness(returns), kurtosis(returns)
    if annual is None or skew is None or tails is None:
        return None
    return probability_above(annual / math.sqrt(DAYS_A_YEAR), len(returns), skew, tails, benchmark)


def probability_above(daily: float, days: int, skew: float, tails: float, benchmark: float) -> float | None:
    """``probabilistic_sharpe`` from the figures themselves; None where the formula's spread is not above 0."""
    spread = 1.0 - skew * daily + (tails - 1.0) / 4.0 * daily**2
    return NORMAL.cdf((daily - benchmark) * math.sqrt((days - 1) / spread)) if spread > 0.0 else None


def deflated_sharpe(active: FloatArray, trials: int, variance: float | None = None) -> DeflatedSharpe | None:
    """The deflated ratio of active daily returns [days] after ``trials`` tries whose daily ratios have ``variance``
    (``Trials.variance``). Without one, 1/days: what ratios of independent skill-less trials of this span vary by.

    None where the active return has no ratio (a policy that is the baseline).
    """
    annual = sharpe(active)
    used = 1.0 / max(len(active), 1) if variance is None else variance
    best = expected_best(trials, used)
    probability = probabilistic_sharpe(active, best)
    if annual is None or probability is None:
        return None
    return DeflatedSharpe(probability, annual / math.sqrt(DAYS_A_YEAR), best, trials, used)


def trials_until_below(active: FloatArray, level: float = 0.95, variance: float | None = None) -> int | None:
    """The least number of trials at which the deflated ratio falls below ``level``: 1 where a single one is below.

    None where the ratio is undefined or a trillion trials do not get there.
    """

    def below(trials: int) -> bool:
        found = deflated_sharpe(active, trials, variance)
        return found is not None and found.probability < level

    if not below(MOST_TRIALS):
        return None
    low, high = 0, MOST_TRIALS  # below(high), not below(low)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if below(middle) else (middle, high)
    return high
