"""Every figure of a curve in words, beside those of the curves that it is to be judged by."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from policy.report_data import Report
from policy.report_words import UNDEFINED, amount, percent, ratio, signed, typeset
from shared.performance import DAY_S, YEAR_S, Summary, daily_equity, round_trips, summarise
from shared.rows import FloatArray, IntArray

if TYPE_CHECKING:
    from policy.result import Curve

Say = Callable[[Summary], str]


# Which curve is which --------------------------------------------------------------------------------------------


def benchmark_index(curves: Sequence[Curve]) -> int:
    """Buy and hold by its name, else any hold, else the first baseline; 0 where there is none."""
    names = [curve.name.lower().replace("_", " ").replace("-", " ") for curve in curves]
    named = [n for word in ("buy and hold", "hold") for n, name in enumerate(names) if n and word in name]
    return (named or [min(1, len(curves) - 1)])[0]


def baseline_index(curves: Sequence[Curve]) -> int:
    """Trend × volatility target, which the policy is a residual over; 0 where it was not run beside it."""
    return next((n for n, curve in enumerate(curves) if n and "trend" in curve.name.lower()), 0)


def compared(curves: Sequence[Curve]) -> list[int]:
    """The curves to set side by side: the policy, the baseline it must beat, buy and hold."""
    return list(dict.fromkeys([0, baseline_index(curves), benchmark_index(curves)]))


def short_names(curves: Sequence[Curve]) -> list[str]:
    """What heads a narrow column of each of ``compared``."""
    roles = {baseline_index(curves): "baseline", benchmark_index(curves): "hold", 0: curves[0].name.partition(" (")[0]}
    return [roles[n] for n in compared(curves)]


def compared_notes(curves: Sequence[Curve]) -> list[str]:
    """What the short names stand for."""
    others = zip(short_names(curves)[1:], compared(curves)[1:], strict=True)
    return [f"{short}: {curves[n].name}" for short, n in others]


def of_day(curve: Curve) -> tuple[IntArray, FloatArray]:
    """When each whole UTC day began (Unix seconds), and its return."""
    midnights, daily = daily_equity(curve.times, curve.equity)
    return midnights[:-1], daily[1:] / daily[:-1] - 1.0


# Every figure ----------------------------------------------------------------------------------------------------


def summary_of(report: Report, n: int, weights: FloatArray | None = None) -> Summary:
    """The figures of curve ``n``, against buy and hold; ``weights`` [B, N] and the fills are the policy's alone."""
    curve, benchmark = report.curves[n], report.curves[benchmark_index(report.curves)]
    days, returns = of_day(benchmark)
    paired = benchmark is not curve and np.array_equal(days, of_day(curve)[0])
    trips = round_trips([*report.fills, *report.closing]) if n == 0 and report.fills else None
    return summarise(
        curve.times,
        curve.equity,
        curve.traded,
        curve.fees,
        curve.trades,
        slippage=curve.slippage,
        weights=weights.sum(axis=1) if n == 0 and weights is not None and weights.size else None,
        trade_profits=trips,
        benchmark=returns if paired else None,
    )


def _days(seconds: float | None) -> str:
    return UNDEFINED if seconds is None else f"{seconds / DAY_S:,.1f} d"


def _whole(value: float | None) -> str:
    return UNDEFINED if value is None else f"{value:,.0f}"


def _number(value: float | None, unit: str) -> str:
    return UNDEFINED if value is None else typeset(f"{value:,.1f}{unit}")


def _alpha(s: Summary) -> str:
    return UNDEFINED if s.regression is None else signed(s.regression.alpha)


def _alpha_error(s: Summary) -> str:
    return UNDEFINED if s.regression is None else percent(s.regression.alpha_standard_error)


def _beta(s: Summary) -> str:
    return UNDEFINED if s.regression is None else ratio(s.regression.beta)


def _a_year(s: Summary) -> str:
    """Extrapolating from less than a year would flatter (GIPS annualises no shorter return)."""
    whole = s.start is not None and s.end is not None and s.end - s.start >= YEAR_S
    return signed(s.cagr) if whole else UNDEFINED


FIGURES: dict[str, tuple[tuple[str, Say], ...]] = {
    "Return": (
        ("Total return", lambda s: signed(s.total_return)),
        ("Return a year", _a_year),
        ("Alpha a year", _alpha),
        ("its standard error", _alpha_error),
        ("Beta", _beta),
    ),
    "Risk": (
        ("Volatility a year", lambda s: percent(s.volatility)),
        ("Max drawdown", lambda s: percent(s.max_drawdown)),
        ("Longest under water", lambda s: _days(s.longest_drawdown_s)),
        ("Ulcer index", lambda s: percent(s.ulcer_index)),
        ("Worst day", lambda s: signed(s.worst_day)),
        ("Worst week", lambda s: signed(s.worst_week)),
        ("VaR 95 %, a day", lambda s: percent(s.value_at_risk)),
        ("CVaR 95 %, a day", lambda s: percent(s.expected_shortfall)),
        ("Tail ratio", lambda s: ratio(s.tail_ratio)),
        ("Skewness", lambda s: ratio(s.skewness)),
        ("Kurtosis", lambda s: ratio(s.kurtosis)),
    ),
    "Return for risk": (
        ("Sharpe", lambda s: ratio(s.sharpe)),
        ("its standard error", lambda s: ratio(s.sharpe_standard_error)),
        ("Sortino", lambda s: ratio(s.sortino)),
        ("Calmar", lambda s: ratio(s.calmar)),
        ("Days up", lambda s: percent(s.hit_rate)),
        ("Profit factor, days", lambda s: ratio(s.profit_factor)),
        ("Days to show Sharpe > 0", lambda s: _whole(s.minimum_track_record_days)),
    ),
    "Trading": (
        ("Mean exposure", lambda s: percent(s.exposure)),
        ("Turnover a year", lambda s: _number(s.turnover_per_year, "×")),
        ("Fees", lambda s: amount(s.fees)),
        ("Slippage", lambda s: amount(s.slippage)),
        ("Costs of gross profit", lambda s: percent(s.cost_share)),
        ("Fills", lambda s: f"{s.trades:,}"),
        ("Fills a day", lambda s: ratio(s.trades_per_day)),
        ("Round trips up", lambda s: percent(s.trade_hit_rate)),
        ("Profit factor, trips", lambda s: ratio(s.trade_profit_factor)),
    ),
}


def figure_rows(summaries: Sequence[Summary]) -> dict[str, list[list[str]]]:
    """By group: the figure's name, then what it is of each of ``summaries``."""
    return {
        group: [[name, *(say(summary) for summary in summaries)] for name, say in figures]
        for group, figures in FIGURES.items()
    }
