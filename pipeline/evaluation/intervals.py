"""How sure one can be of each figure: stationary-bootstrap intervals with the luck of days and of seeds.

As shared.performance.bootstrap.interval, of many figures of the same draws at once, alpha and beta among them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from pipeline.evaluation.contestants import Contestant
from shared.performance import DAYS_A_YEAR
from shared.performance import returns as of_returns
from shared.performance.bootstrap import (
    LEAST_BLOCK,
    LEAST_DAYS,
    block_length,
    fold_numbers,
    seed_shares,
    stationary_indices,
    widening,
)
from shared.rows import FloatArray, IntArray

LEVEL = 0.95
OF_SEEDS = ("turnover_per_year", "cost_share", "exposure")  # not made of daily returns: their range over seeds

Statistic = Callable[[FloatArray], float | None]
Pair = Callable[[FloatArray, FloatArray], float | None]


def growth(returns: FloatArray) -> float | None:
    """Compound growth a year of daily returns."""
    total = float(np.log1p(returns).sum())
    return float(np.expm1(total / len(returns) * DAYS_A_YEAR))


def drawdowns(returns: FloatArray) -> FloatArray:
    """Below the highest so far, at each midnight [days + 1]."""
    equity = np.append(1.0, np.cumprod(1.0 + returns))
    below: FloatArray = 1.0 - equity / np.maximum.accumulate(equity)
    return below


def deepest(returns: FloatArray) -> float | None:
    return float(drawdowns(returns).max())


def longest_drawdown_days(returns: FloatArray) -> float | None:
    """From a highest equity to its return, or to the end."""
    highs = np.flatnonzero(drawdowns(returns) == 0.0)
    return float(np.diff(np.append(highs, len(returns))).max())


def ulcer(returns: FloatArray) -> float | None:
    return float(np.sqrt(np.mean(drawdowns(returns) ** 2)))


def calmar(returns: FloatArray) -> float | None:
    worst, gained = deepest(returns), growth(returns)
    return gained / worst if worst and gained is not None else None


def beta(returns: FloatArray, benchmark: FloatArray) -> float | None:
    around = benchmark - benchmark.mean()
    variance = float(around @ around)
    return float(around @ returns) / variance if variance > 0.0 else None


def alpha(returns: FloatArray, benchmark: FloatArray) -> float | None:
    """A year, not compounded: the mean return that beta times the benchmark's does not explain."""
    slope = beta(returns, benchmark)
    return None if slope is None else float(returns.mean() - slope * benchmark.mean()) * DAYS_A_YEAR


STATISTICS: dict[str, Statistic] = {
    "cagr": growth,
    "volatility": of_returns.volatility,
    "sharpe": of_returns.sharpe,
    "sortino": of_returns.sortino,
    "calmar": calmar,
    "max_drawdown": deepest,
    "longest_drawdown_days": longest_drawdown_days,
    "ulcer_index": ulcer,
    "value_at_risk": of_returns.value_at_risk,
    "expected_shortfall": of_returns.expected_shortfall,
    "hit_rate": of_returns.hit_rate,
    "profit_factor": of_returns.profit_factor,
}
PAIRED: dict[str, Pair] = {"alpha": alpha, "beta": beta}


def intervals(
    returns: FloatArray, benchmark: FloatArray, folds: IntArray | None, replicates: int, seed: int = 0
) -> dict[str, dict[str, float] | None]:
    """Each figure of the seeds in equal parts and its 95 % interval, of daily returns [S, T] or [T]; ``benchmark`` [T]
    is drawn on the same days. None where it is undefined, for the point or for most replicates; all None of a span too
    short to draw from (60 days)."""
    policy = np.atleast_2d(returns)
    whole, days = policy.mean(axis=0), policy.shape[1]
    if days < LEAST_DAYS:
        return dict.fromkeys([*STATISTICS, *PAIRED])
    drawn = [_all_of(*one) for one in _draws(policy, benchmark, fold_numbers(folds, days), replicates, seed)]
    points = _all_of(whole, benchmark)
    return {name: _interval(points[name], [one[name] for one in drawn], widening(days)) for name in points}


def _draws(
    policy: FloatArray, benchmark: FloatArray, folds: IntArray, replicates: int, seed: int
) -> Iterator[tuple[FloatArray, FloatArray]]:
    """Replicates: returns [T] of other seeds on other days, and the benchmark's on those days."""
    seeds, days = policy.shape
    block, rng = max(LEAST_BLOCK, block_length(policy.mean(axis=0))), np.random.default_rng(seed)
    for _ in range(replicates):
        drawn = stationary_indices(days, block, 1, rng)[0]
        shares = seed_shares(seeds, int(folds.max()) + 1, 1, rng)[0]
        yield np.einsum("ts,st->t", shares[folds[drawn]], policy[:, drawn]), benchmark[drawn]


def _all_of(returns: FloatArray, benchmark: FloatArray) -> dict[str, float | None]:
    of_one = {name: statistic(returns) for name, statistic in STATISTICS.items()}
    return of_one | {name: statistic(returns, benchmark) for name, statistic in PAIRED.items()}


def _interval(point: float | None, drawn: Sequence[float | None], wider: float) -> dict[str, float] | None:
    known = np.array([value for value in drawn if value is not None])
    if point is None or 2 * len(known) < len(drawn):
        return None
    low, high = point + wider * (np.quantile(known, [0.5 - LEVEL / 2, 0.5 + LEVEL / 2]) - point)
    return {"point": point, "low": float(low), "high": float(high)}


def seed_ranges(contestants: Sequence[Contestant]) -> dict[str, dict[str, float] | None]:
    """Mean, lowest and highest over the seeds of what daily returns do not tell; of several folds, each seed's mean."""
    found: dict[str, dict[str, float] | None] = {}
    for name in OF_SEEDS:
        by_seed: dict[str, list[float]] = {}
        for one in contestants:
            if one.kind == "seed" and (value := _figure(one.metrics, name)) is not None:
                by_seed.setdefault(one.name, []).append(value)
        means = [float(np.mean(values)) for values in by_seed.values()]
        found[name] = {"point": float(np.mean(means)), "low": min(means), "high": max(means)} if means else None
    return found


def _figure(metrics: Mapping[str, Any], name: str) -> float | None:
    value: float | None = metrics["figures"][name]
    return value
