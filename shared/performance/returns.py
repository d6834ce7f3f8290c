"""What daily returns were worth, in numbers: figures of a row of returns, whatever curve they came from. numpy only.

What holds for every function here:

- ``returns`` [days] are relative changes from one UTC midnight to the next (``metrics.daily_returns``), oldest first.
- A year has 365 days (crypto never closes), the risk-free rate is 0, standard deviations are of the sample (ddof=1).
- What is undefined is None, never 0 or infinity. Tails need 20 days: the worst 5 % of fewer is less than a day.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from shared.forecast_tests import estimate
from shared.rows import FloatArray

DAYS_A_YEAR = 365
NO_VOLATILITY = 1e-12  # daily; what rounding leaves of a deviation that is zero (a double keeps 2e-16)
TAIL = 0.05
TAIL_DAYS = 20  # 1 / TAIL
DAYS_A_WEEK = 7


@dataclass(frozen=True, slots=True)
class Regression:
    """daily return = alpha / 365 + beta × benchmark's + rest; the errors are robust to autocorrelation (HAC)."""

    alpha: float  # a year, a fraction
    alpha_standard_error: float
    beta: float
    beta_standard_error: float


def volatility(returns: FloatArray) -> float | None:
    """Sample standard deviation (ddof=1) of daily returns, times sqrt(365); a fraction a year.

    None for fewer than two days.
    """
    return _deviation(returns) * math.sqrt(DAYS_A_YEAR) if len(returns) >= 2 else None


def sharpe(returns: FloatArray) -> float | None:
    """Mean over sample standard deviation (ddof=1) of daily returns against 0, times sqrt(365) (Sharpe, 1994).

    None for fewer than two days or without volatility.
    """
    if len(returns) < 2 or _deviation(returns) < NO_VOLATILITY:
        return None
    return float(returns.mean()) / _deviation(returns) * math.sqrt(DAYS_A_YEAR)


def sharpe_standard_error(returns: FloatArray) -> float | None:
    """Standard error of the annualised Sharpe ratio: sqrt((1 + SR_daily**2 / 2) / days) * sqrt(365).

    Lo, "The Statistics of Sharpe Ratios", Financial Analysts Journal 58(4), 2002: for independent, identically
    distributed returns, so the least of the doubt. None where the ratio is.
    """
    annual = sharpe(returns)
    if annual is None:
        return None
    return math.sqrt((1.0 + annual**2 / DAYS_A_YEAR / 2.0) / len(returns) * DAYS_A_YEAR)


def sortino(returns: FloatArray) -> float | None:
    """Mean daily return over the downside deviation against 0, times sqrt(365) (Sortino and Price, 1994).

    Downside deviation: the root of the mean, over all days, of min(return, 0) squared. None for fewer than two
    days or without a losing one.
    """
    if len(returns) < 2:
        return None
    downside = math.sqrt(float(np.mean(np.minimum(returns, 0.0) ** 2)))
    return float(returns.mean()) / downside * math.sqrt(DAYS_A_YEAR) if downside >= NO_VOLATILITY else None


def hit_rate(returns: FloatArray) -> float | None:
    """Days that gained as a fraction of the days that gained or lost; days without change (all in cash) count
    as neither. None where no day gained or lost."""
    moved = np.count_nonzero(returns)
    return float(np.count_nonzero(returns > 0.0)) / moved if moved else None


def skewness(returns: FloatArray) -> float | None:
    """Third central moment over the deviation cubed, moments over n (g1); below 0: the long tail is of losses."""
    return _moment(returns, 3)


def kurtosis(returns: FloatArray) -> float | None:
    """Fourth central moment over the variance squared, moments over n; 3 for a normal distribution."""
    return _moment(returns, 4)


def value_at_risk(returns: FloatArray) -> float | None:
    """The loss that a day exceeds in fewer than 5 % of days: that of the k-th worst day, k = 5 % of the days rounded
    up (historical, 95 %); a fraction, below 0 where even that day gained. None for fewer than 20 days."""
    return -float(_worst(returns)[-1]) if len(returns) >= TAIL_DAYS else None


def expected_shortfall(returns: FloatArray) -> float | None:
    """The mean loss of those k worst days, or CVaR (Acerbi and Tasche, Journal of Banking & Finance 26, 2002); at
    least ``value_at_risk``. None for fewer than 20 days."""
    return -float(_worst(returns).mean()) if len(returns) >= TAIL_DAYS else None


def tail_ratio(returns: FloatArray) -> float | None:
    """The k-th best day over the loss of the k-th worst, k = 5 % of the days rounded up; above 1: the tail of gains is
    the longer one. None for fewer than 20 days or where the k-th worst day is no loss."""
    loss = value_at_risk(returns)
    return -float(_worst(-returns)[-1]) / loss if loss is not None and loss > NO_VOLATILITY else None


def profit_factor(profits: FloatArray) -> float | None:
    """The sum of what is above 0 over the sum of what is below: of daily returns or of trades' profits, in any unit.

    None without a loss.
    """
    losses = -float(np.minimum(profits, 0.0).sum())
    return float(np.maximum(profits, 0.0).sum()) / losses if losses > 0.0 else None


def worst_day(returns: FloatArray) -> float | None:
    """The lowest daily return; None without a day."""
    return float(returns.min()) if len(returns) else None


def worst_week(returns: FloatArray) -> float | None:
    """The lowest compound return of any 7 days in a row; None for fewer days."""
    if len(returns) < DAYS_A_WEEK:
        return None
    weeks = np.lib.stride_tricks.sliding_window_view(1.0 + returns, DAYS_A_WEEK).prod(axis=1)
    return float(weeks.min()) - 1.0


def regression(returns: FloatArray, benchmark: FloatArray) -> Regression | None:
    """Alpha and beta against ``benchmark`` [days], the same days, by least squares (Jensen, Journal of Finance 23,
    1968), with Newey-West errors widened by fixed-b (``forecast_tests.estimate`` of the influence functions).

    None for fewer than 20 days or where the benchmark does not move. ValueError for unequal lengths.
    """
    if len(returns) != len(benchmark):
        raise ValueError(
            f"alpha needs returns and benchmark of the same days; they have {len(returns)} and {len(benchmark)}"
        )
    if len(returns) < TAIL_DAYS or _deviation(benchmark) < NO_VOLATILITY:
        return None
    around = benchmark - benchmark.mean()
    variance = float(np.mean(around**2))
    beta = float(np.mean(around * returns)) / variance
    alpha = float(returns.mean()) - beta * float(benchmark.mean())
    rest = returns - alpha - beta * benchmark
    of_beta = around * rest / variance
    of_alpha = rest - of_beta * float(benchmark.mean())
    alpha_error, beta_error = (math.sqrt(estimate(influence, 1).variance) for influence in (of_alpha, of_beta))
    return Regression(alpha * DAYS_A_YEAR, alpha_error * DAYS_A_YEAR, beta, beta_error)


def minimum_track_record_days(returns: FloatArray, level: float = 0.95) -> float | None:
    """How many such days show, with this confidence, a Sharpe ratio above 0: 1 + (1 - γ3·SR + (γ4 - 1)/4·SR²)(z / SR)²,
    all daily (Bailey and López de Prado, Journal of Risk 15(2), 2012). None where the ratio is not above 0."""
    annual, skew, tails = sharpe(returns), skewness(returns), kurtosis(returns)
    if annual is None or annual <= 0.0 or skew is None or tails is None:
        return None
    daily = annual / math.sqrt(DAYS_A_YEAR)
    spread = 1.0 - skew * daily + (tails - 1.0) / 4.0 * daily**2
    return 1.0 + spread * (NormalDist().inv_cdf(level) / daily) ** 2


def compound(returns: Sequence[float] | FloatArray) -> float:
    """All of them one after the other: Π(1 + r) - 1; 0 for none."""
    return float(np.prod(1.0 + np.asarray(returns, np.float64))) - 1.0


def _worst(returns: FloatArray) -> FloatArray:
    """The worst 5 % of days, rounded up, worst first."""
    return np.sort(returns)[: math.ceil(len(returns) * TAIL - 1e-9)]


def _moment(returns: FloatArray, order: int) -> float | None:
    """The standardised central moment; None for fewer than two days or without volatility."""
    if len(returns) < 2 or _deviation(returns) < NO_VOLATILITY:
        return None
    around = returns - returns.mean()
    return float(np.mean(around**order) / np.mean(around**2) ** (order / 2))


def _deviation(returns: FloatArray) -> float:
    return float(returns.std(ddof=1))
