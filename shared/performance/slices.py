"""The same figures for parts of the days: by year, by regime, by symbol. A good whole can be one lucky part."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from shared.clock import from_unix
from shared.performance import returns as of_returns
from shared.rows import FloatArray, IntArray


@dataclass(frozen=True, slots=True)
class Slice:
    """One part's daily returns; they need not be days in a row, so there is no drawdown here."""

    label: str
    days: int
    total_return: float
    volatility: float | None
    sharpe: float | None
    sharpe_standard_error: float | None
    hit_rate: float | None
    worst_day: float | None
    baseline_sharpe: float | None  # of the same days; None without a baseline


def by_label(
    returns: FloatArray, labels: Sequence[str], baseline: FloatArray | None = None, order: Sequence[str] = ()
) -> tuple[Slice, ...]:
    """A slice for each label of the daily ``returns`` [T] (regimes known at the start of each day, …); the parts hold
    each day once. Those named in ``order`` come first, the others by name. ValueError for unequal lengths."""
    _require_equal(len(returns), labels, "labels")
    if baseline is not None:
        _require_equal(len(returns), baseline, "baseline returns")
    of_day = np.asarray(labels, dtype=str)
    names = sorted(set(of_day.tolist()), key=lambda name: (order.index(name) if name in order else len(order), name))
    return tuple(
        _slice(name, returns[of_day == name], None if baseline is None else baseline[of_day == name]) for name in names
    )


def by_year(returns: FloatArray, days: IntArray, baseline: FloatArray | None = None) -> tuple[Slice, ...]:
    """A slice for each calendar year (UTC); ``days`` [T]: when each day began, Unix seconds."""
    _require_equal(len(returns), days, "days")
    return by_label(returns, [str(from_unix(day).year) for day in days], baseline)


def by_symbol(contributions: FloatArray, symbols: Sequence[str]) -> tuple[Slice, ...]:
    """A slice for each symbol of its daily contributions [T, N] to the book's return (profit over the book's equity at
    the day's start); ``total_return`` is their sum, not compounded, so that the symbols add up. ValueError for unequal
    lengths."""
    if contributions.ndim != 2 or contributions.shape[1] != len(symbols):
        raise ValueError(f"contributions must be [days, {len(symbols)}], a column a symbol: {contributions.shape}")
    parts = (_slice(symbol, column, None) for symbol, column in zip(symbols, contributions.T, strict=True))
    sums = contributions.sum(axis=0)
    return tuple(_with_total(part, float(total)) for part, total in zip(parts, sums, strict=True))


def _slice(label: str, returns: FloatArray, baseline: FloatArray | None) -> Slice:
    return Slice(
        label=label,
        days=len(returns),
        total_return=of_returns.compound(returns),
        volatility=of_returns.volatility(returns),
        sharpe=of_returns.sharpe(returns),
        sharpe_standard_error=of_returns.sharpe_standard_error(returns),
        hit_rate=of_returns.hit_rate(returns),
        worst_day=of_returns.worst_day(returns),
        baseline_sharpe=None if baseline is None else of_returns.sharpe(baseline),
    )


def _with_total(part: Slice, total: float) -> Slice:
    return replace(part, total_return=total)


def _require_equal(days: int, given: Sequence[str] | IntArray | FloatArray, name: str) -> None:
    if len(given) != days:
        raise ValueError(f"each of the {days} days needs one of the {name}; there are {len(given)}")
