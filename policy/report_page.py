"""What the page of a backtest shows: its figures in words, and its charts with their legends."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from shared.clock import from_unix
from shared.metrics import DAY_S, DAYS_A_YEAR, YEAR_S, Summary, drawdowns, summarise
from shared.rows import FloatArray

if TYPE_CHECKING:
    from policy.charts import Line
    from policy.decision_path import Decision
    from policy.result import BacktestResult, Curve
    from policy.simulator import SimulatedFill

UNDEFINED, MINUS = "–", "−"
LAST_FILLS = 20
MOST_PRICES = 6  # instruments whose prices are drawn: the most traded
RETURN_A_YEAR = "Return a year"
HEADINGS = (
    "Return",
    RETURN_A_YEAR,
    "Volatility",
    "Sharpe",
    "Sortino",
    "Max drawdown",
    "Under water",
    "Days up",
    "Turnover a year",
    "Fees",
    "Fills",
)


@dataclass(frozen=True, slots=True)
class Tile:
    """One big number: what it is, the policy's value, and what stands beside it."""

    label: str
    value: str
    beside: list[str]


@dataclass(frozen=True, slots=True)
class Legend:
    mark: str  # '' for a line
    colour: str
    name: str
    figure: str


@dataclass(frozen=True, slots=True)
class Chart:
    """``svg`` is markup of our own making; all other text is escaped by the template."""

    title: str
    described: str
    svg: str
    legend: list[Legend] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class ClampRow:
    """How often one rule cut a weight: decisions, their share, the mean cut in points of weight, the last reason."""

    rule: str
    decisions: str
    share: str
    mean_cut: str
    latest: str


def contents(result: BacktestResult) -> dict[str, Any]:
    """All that the template prints."""
    summaries = [summary_of(curve) for curve in result.curves]
    benchmark = benchmark_index(result.curves)
    beside = (result.curves[benchmark].name, summaries[benchmark]) if benchmark else None
    colours = _colours(result.curves)
    headings, rows = _figures(summaries)
    return {
        "headline": _headline(result, summaries[0], beside),
        "symbols": _listed(result.symbols),
        "first": _minute(result.curves[0].times[0]),
        "last": _minute(result.curves[0].times[-1]),
        "days": days_of(result),
        "provenance": result.provenance,
        "in_sample": result.in_sample,
        "tiles": _tiles(summaries[0], beside, float(result.curves[0].equity[0])),
        "headings": headings,
        "rows": [(c.name, k, row) for c, k, row in zip(result.curves, colours, rows, strict=True)],
        "charts": [_equity(result.curves, colours), _drawdown(result.curves, colours, benchmark), _exposure(result)],
        "prices": [_price(result, n) for n in _most_traded(result)],
        "undrawn": max(len(result.symbols) - MOST_PRICES, 0),
        "clamps": clamp_rows(result.decisions),
        "decisions": f"{len(result.decisions):,}",
        "sources": _sources(result.decisions),
        "fills": [_fill(f, result.symbols) for f in reversed(result.fills[-LAST_FILLS:])],
        "fill_count": f"{len(result.fills):,}",
        "terms": result.terms,
        "doubt": doubt(summaries[0]),
    }


def held_weights(result: BacktestResult) -> FloatArray:
    """[B, N] value held of each instrument at each bar's close, as a fraction of equity: rebuilt from the fills.

    A missing close is the last one before it, as the simulator marks its book.
    """
    own = result.curves[0]
    changes = np.zeros((len(own.times) + 1, len(result.symbols)))
    bars = np.searchsorted(own.times, [f.filled_at for f in result.fills], side="right")  # a bar closes after it opens
    for bar, fill in zip(bars, result.fills, strict=True):
        changes[bar, fill.instrument] += fill.quantity
    held = np.round(np.cumsum(changes[:-1], axis=0), 8)
    known = np.where(np.isnan(result.closes), 0, np.arange(len(own.times))[:, None])
    marks = np.take_along_axis(result.closes, np.maximum.accumulate(known, axis=0), axis=0)
    weights: FloatArray = held * np.nan_to_num(marks) / own.equity[:, None]
    return weights


def clamp_rows(decisions: Sequence[Decision]) -> list[ClampRow]:
    """The rules that cut a weight, the most frequent first; a decision counts once a rule."""
    touched: Counter[str] = Counter()
    cuts: dict[str, list[float]] = {}
    latest: dict[str, str] = {}
    for decision in decisions:
        clamps = [clamp for of_one in decision.clamps for clamp in of_one]
        touched.update({clamp.rule for clamp in clamps})
        for clamp in clamps:
            cuts.setdefault(clamp.rule, []).append(clamp.before - clamp.after)
            latest[clamp.rule] = clamp.because
    return [
        ClampRow(rule, f"{n:,}", percent(n / len(decisions)), f"{100.0 * float(np.mean(cuts[rule])):.1f}", latest[rule])
        for rule, n in sorted(touched.items(), key=lambda item: (-item[1], item[0]))
    ]


def doubt(own: Summary) -> dict[str, str] | None:
    """The Sharpe ratio's standard error in words: two of them either way, and the time until they exclude zero."""
    if own.sharpe is None or own.sharpe_standard_error is None:
        return None
    twice = 2.0 * own.sharpe_standard_error
    return {
        "days": f"{own.days:,}",
        "sharpe": ratio(own.sharpe),
        "error": f"{own.sharpe_standard_error:.1f}",
        "low": _typeset(f"{own.sharpe - twice:.1f}"),
        "high": _typeset(f"{own.sharpe + twice:.1f}"),
        "needed": _needed(own.sharpe, twice, own.days),
    }


def _needed(sharpe: float, twice: float, days: int) -> str:
    """The error shrinks with the root of time, so a ratio needs (2 * error / ratio)**2 times its span."""
    if sharpe <= 0.0:
        return ""
    if twice <= sharpe:
        return "It stands two standard errors above zero, as far as the formula holds."
    years = days / DAYS_A_YEAR * (twice / sharpe) ** 2
    time = f"{years * DAYS_A_YEAR:.0f} days" if years < 2.0 else f"{years:.0f} years"
    return f"A ratio this high needs {time if years < 100.0 else 'over a century'} to stand two of them above zero."


def summary_of(curve: Curve) -> Summary:
    return summarise(curve.times, curve.equity, curve.traded, curve.fees, curve.trades)


def benchmark_index(curves: Sequence[Curve]) -> int:
    """Buy-and-hold by its name, else the first baseline; 0 where there is none."""
    named = [n for n, curve in enumerate(curves) if n and "hold" in curve.name.lower()]
    return (named or [min(1, len(curves) - 1)])[0]


# Words and numbers -------------------------------------------------------------------------------------------


def percent(fraction: float | None) -> str:
    return UNDEFINED if fraction is None else _typeset(f"{fraction:.1%}")


def signed(fraction: float | None) -> str:
    return UNDEFINED if fraction is None else _typeset(f"{fraction:+.1%}")


def ratio(value: float | None) -> str:
    return UNDEFINED if value is None else _typeset(f"{value:,.2f}")


def _typeset(number: str) -> str:
    """A true minus, and no sign before zero."""
    return number.replace("-", MINUS) if number.strip("+-0.%") else number.lstrip("+-")


def days_of(result: BacktestResult) -> str:
    """'30 days' or '7.5 hours', from the first bar's close to the last's."""
    times = result.curves[0].times
    days = float(times[-1] - times[0]) / DAY_S if len(times) else 0.0
    number, unit = (days, "days") if days >= 1.0 else (24.0 * days, "hours")
    return f"{number:,.0f} {unit}" if number >= 10.0 else f"{number:.1f} {unit}".replace(".0", "")


def span_of(result: BacktestResult) -> str:
    """'2026-07-01 00:05 to 2026-07-31 00:00 UTC'."""
    times = result.curves[0].times
    return f"{_minute(times[0])} to {_minute(times[-1])} UTC" if len(times) else "an empty span"


def _minute(at: float) -> str:
    return f"{from_unix(at):%Y-%m-%d %H:%M}"


def _headline(result: BacktestResult, own: Summary, beside: tuple[str, Summary] | None) -> str:
    name = result.curves[0].name
    first = f"{name[:1].upper()}{name[1:]} {signed(own.total_return)}"
    return f"{first}, {beside[0]} {signed(beside[1].total_return)}" if beside else first


def _listed(names: Sequence[str]) -> str:
    """'A', 'A and B', 'A, B, C and 4 more'."""
    shown = [*names] if len(names) <= 4 else [*names[:3], f"{len(names) - 3} more"]
    return " and ".join([", ".join(shown[:-1]), shown[-1]]) if len(shown) > 1 else "".join(shown)


def _tiles(own: Summary, beside: tuple[str, Summary] | None, capital: float) -> list[Tile]:
    name, other = beside or ("", own)
    error = [f"± {own.sharpe_standard_error:.1f} s.e., {own.days:,} days"] if own.sharpe_standard_error else []
    figures = (signed(other.total_return), ratio(other.sharpe), percent(other.max_drawdown))
    of_return, of_sharpe, of_drawdown = ([f"{name} {figure}"] if beside else [] for figure in figures)
    return [
        Tile("Return", signed(own.total_return), of_return),
        Tile("Sharpe ratio", ratio(own.sharpe), error + of_sharpe),
        Tile("Max drawdown", percent(own.max_drawdown), of_drawdown),
        Tile("Fees paid", percent(own.fees / capital), ["of the capital", f"{own.trades:,} fills"]),
    ]


def _figures(summaries: Sequence[Summary]) -> tuple[list[str], list[list[str]]]:
    """Headings and a row a curve; the return a year only where the span is a year or more."""
    rows = [_row(summary) for summary in summaries]
    own = summaries[0]
    if own.start is not None and own.end is not None and own.end - own.start >= YEAR_S:
        return list(HEADINGS), rows
    without = [n for n, heading in enumerate(HEADINGS) if heading != RETURN_A_YEAR]
    return [HEADINGS[n] for n in without], [[row[n] for n in without] for row in rows]


def _row(summary: Summary) -> list[str]:
    """In the order of HEADINGS."""
    under_water = summary.longest_drawdown_s
    return [
        signed(summary.total_return),
        signed(summary.cagr),
        percent(summary.volatility),
        ratio(summary.sharpe),
        ratio(summary.sortino),
        percent(summary.max_drawdown),
        UNDEFINED if under_water is None else f"{under_water / DAY_S:.1f} days",
        percent(summary.hit_rate),
        UNDEFINED if summary.turnover_per_year is None else f"{summary.turnover_per_year:,.1f}×",
        f"{summary.fees:,.2f}",
        f"{summary.trades:,}",
    ]


def _fill(fill: SimulatedFill, symbols: Sequence[str]) -> list[str]:
    side = "buy" if fill.quantity > 0.0 else "sell"
    amounts = (f"{abs(fill.quantity):,.8g}", f"{fill.price:,.8g}", f"{fill.cost:,.2f}", f"{fill.fee:,.2f}")
    return [_minute(fill.filled_at), symbols[fill.instrument], side, *amounts]


def _sources(decisions: Sequence[Decision]) -> str:
    """Who decided: '700 by policy, 20 by baseline'."""
    counts = Counter(decision.source for decision in decisions).most_common()
    return ", ".join(f"{count:,} by {source}" for source, count in counts)


# Charts ------------------------------------------------------------------------------------------------------


def _colours(curves: Sequence[Curve]) -> list[str]:
    from policy import charts

    benchmark, others, colours = benchmark_index(curves), iter(charts.OTHERS * len(curves)), []
    for n, curve in enumerate(curves):
        fixed = {0: charts.OWN, benchmark: charts.BENCHMARK} if benchmark else {0: charts.OWN}
        colours.append(fixed.get(n) or (charts.CASH if curve.name == "cash" else next(others)))
    return colours


def _line(curve: Curve, colour: str, own: bool) -> Line:
    from policy import charts

    return charts.Line(curve.times, curve.equity, colour, own)


def _equity(curves: Sequence[Curve], colours: Sequence[str]) -> Chart:
    from policy import charts

    lines = [_line(curve, colour, n == 0) for n, (curve, colour) in enumerate(zip(curves, colours, strict=True))]
    returns = [signed(float(curve.equity[-1] / curve.equity[0]) - 1.0) for curve in curves]
    legend = [Legend("", k, c.name, r) for c, k, r in zip(curves, colours, returns, strict=True)]
    described = "Change of equity since the first bar, after fees and slippage."
    return Chart("Equity", described, charts.equity_chart(lines), legend)


def _drawdown(curves: Sequence[Curve], colours: Sequence[str], benchmark: int) -> Chart:
    from policy import charts

    pair = sorted({0, benchmark})
    lines = [_line(curves[n], colours[n], n == 0) for n in pair]
    deepest = {n: percent(float(drawdowns(curves[n].equity).max())) for n in pair}
    legend = [Legend("", colours[n], curves[n].name, f"at worst {deepest[n]}") for n in pair]
    described = "How far equity stood below its highest point so far; the dot marks the deepest."
    return Chart("Drawdown", described, charts.drawdown_chart(lines), legend)


def _exposure(result: BacktestResult) -> Chart:
    from policy import charts

    names, weights = _largest(result.symbols, held_weights(result), len(charts.INSTRUMENTS))
    mean = [f"{percent(float(weight))} on average" for weight in weights.mean(axis=0)]
    legend = [Legend("■", k, name, m) for k, name, m in zip(charts.INSTRUMENTS, names, mean, strict=False)]
    invested = percent(float(weights.sum(axis=1).mean()))
    described = f"What was held, as a share of equity: {invested} on average. The rest is cash."
    svg = charts.exposure_chart(result.curves[0].times, weights, charts.INSTRUMENTS[: len(names)])
    return Chart("Exposure", described, svg, legend)


def _largest(symbols: Sequence[str], weights: FloatArray, limit: int) -> tuple[list[str], FloatArray]:
    """At most ``limit`` columns: the largest on average in their own order, the others summed into one."""
    if len(symbols) <= limit:
        return list(symbols), weights
    order = np.argsort(-weights.mean(axis=0), kind="stable")
    kept, others = np.sort(order[: limit - 1]), order[limit - 1 :]
    summed = weights[:, others].sum(axis=1)
    return [*(symbols[n] for n in kept), f"{len(others)} others"], np.column_stack([weights[:, kept], summed])


def _most_traded(result: BacktestResult) -> list[int]:
    """The instruments whose prices are drawn, in their own order."""
    traded = np.zeros(len(result.symbols))
    for fill in result.fills:
        traded[fill.instrument] += fill.cost
    return sorted(np.argsort(-traded, kind="stable")[:MOST_PRICES].tolist())


def _price(result: BacktestResult, n: int) -> Chart:
    from policy import charts

    fills = [fill for fill in result.fills if fill.instrument == n]
    bought = np.array([fill.quantity > 0.0 for fill in fills], dtype=bool)
    at = np.array([fill.filled_at for fill in fills], dtype=np.int64)
    trades = charts.Trades(at, np.array([fill.price for fill in fills]), bought)
    closes = result.closes[:, n]
    known = closes[~np.isnan(closes)]
    buys = int(bought.sum())
    legend = [
        Legend("", charts.PRICE, "price", signed(float(known[-1] / known[0]) - 1.0) if len(known) else "unknown"),
        Legend("▲", charts.BUY, "bought", f"{buys:,}×"),
        Legend("▼", charts.SELL, "sold", f"{len(fills) - buys:,}×"),
    ]
    line = charts.Line(result.curves[0].times, closes, charts.PRICE)
    many = f"{charts.MAX_MARKERS} of its {len(fills):,} fills are drawn." if len(fills) > charts.MAX_MARKERS else ""
    return Chart(result.symbols[n], many, charts.price_chart(line, trades, str(n)), legend)
