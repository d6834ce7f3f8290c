"""The charts of a report with their legends. Importing this imports matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from policy import charts
from policy.report_data import Report
from policy.report_figures import baseline_index, benchmark_index, compared
from policy.report_palette import HELD, OTHERS
from policy.report_words import percent, signed
from shared.performance import drawdowns
from shared.rows import FloatArray

if TYPE_CHECKING:
    from policy.result import Curve

MOST_PRICES = 6  # instruments whose prices are drawn: the most traded


@dataclass(frozen=True, slots=True)
class Legend:
    """``mark``: 'line', 'band', or a character; ``colour``: its name in the palette."""

    mark: str
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


def colours_of(curves: Sequence[Curve]) -> list[str]:
    """A colour a curve: the policy, its baseline and buy and hold always have the same."""
    fixed = {benchmark_index(curves): "benchmark", baseline_index(curves): "baseline", 0: "own"}
    others = iter(OTHERS * len(curves))
    return [fixed.get(n) or ("axis" if curve.name == "cash" else next(others)) for n, curve in enumerate(curves)]


def equity(report: Report) -> Chart:
    curves, colours = report.curves, colours_of(report.curves)
    lines = _lines(curves, range(len(curves)), colours)
    returns = [signed(float(curve.equity[-1] / curve.equity[0]) - 1.0) for curve in curves]
    legend = [Legend("line", k, c.name, r) for c, k, r in zip(curves, colours, returns, strict=True)]
    legend += [Legend("band", "own" if b.kind == "luck" else "shifts", b.name, b.said) for b in report.bands]
    scale = (
        " On a logarithmic scale: equal heights are equal factors."
        if charts.is_logarithmic(lines, report.bands)
        else ""
    )
    described = f"Growth since the first bar, after fees and slippage.{scale}"
    return Chart("Equity", described, charts.equity_chart(lines, report.bands), legend)


def drawdown(report: Report) -> Chart:
    curves, colours = report.curves, colours_of(report.curves)
    shown = compared(curves)
    deepest = {n: percent(float(drawdowns(curves[n].equity).max())) for n in shown}
    legend = [Legend("line", colours[n], curves[n].name, f"at worst {deepest[n]}") for n in shown]
    described = "How far equity stood below its highest point so far; the dot marks the deepest."
    return Chart("Drawdown", described, charts.drawdown_chart(_lines(curves, shown, colours)), legend)


def exposure(report: Report, weights: FloatArray) -> Chart:
    """``weights`` [B, N], fractions of equity."""
    names, largest = _largest(report.symbols, weights, len(HELD))
    mean = [f"{percent(float(weight))} on average" for weight in largest.mean(axis=0)]
    legend = [Legend("■", k, name, m) for k, name, m in zip(HELD, names, mean, strict=False)]
    invested = percent(float(weights.sum(axis=1).mean()))
    described = f"What was held, as a share of equity: {invested} on average. The rest is cash."
    svg = charts.exposure_chart(report.curves[0].times, largest, HELD[: len(names)])
    return Chart("Exposure", described, svg, legend)


def prices(report: Report) -> list[Chart]:
    """The most traded instruments, each with its fills."""
    traded = np.zeros(len(report.symbols))
    for fill in report.fills:
        traded[fill.instrument] += fill.cost
    most = sorted(np.argsort(-traded, kind="stable")[:MOST_PRICES].tolist())
    return [_price(report, n) for n in most if not np.isnan(report.closes[:, n]).all()]


def steering(report: Report) -> list[Chart]:
    """Exposure over risk aversion, turnover over turnover penalty; none where steering was not measured."""
    if report.steering is None:
        return []
    return [
        Chart(
            "Exposure by risk aversion",
            "Mean share of equity that is invested.",
            charts.steering_chart(report.steering.exposure, "risk aversion", "%"),
        ),
        Chart(
            "Turnover by its penalty",
            "Bought and sold a year, in multiples of equity.",
            charts.steering_chart(report.steering.turnover, "turnover penalty", "×"),
        ),
    ]


def _lines(curves: Sequence[Curve], shown: Sequence[int], colours: Sequence[str]) -> list[charts.Line]:
    return [charts.Line(curves[n].times, curves[n].equity, colours[n], n == 0) for n in shown]


def _largest(symbols: Sequence[str], weights: FloatArray, limit: int) -> tuple[list[str], FloatArray]:
    """At most ``limit`` columns: the largest on average in their own order, the others summed into one."""
    if len(symbols) <= limit:
        return list(symbols), weights
    order = np.argsort(-weights.mean(axis=0), kind="stable")
    kept, others = np.sort(order[: limit - 1]), order[limit - 1 :]
    summed = weights[:, others].sum(axis=1)
    return [*(symbols[n] for n in kept), f"{len(others)} others"], np.column_stack([weights[:, kept], summed])


def _price(report: Report, n: int) -> Chart:
    fills = [fill for fill in report.fills if fill.instrument == n]
    bought = np.array([fill.quantity > 0.0 for fill in fills], dtype=bool)
    at = np.array([fill.filled_at for fill in fills], dtype=np.int64)
    trades = charts.Trades(at, np.array([fill.price for fill in fills]), bought)
    closes = report.closes[:, n]
    known = closes[~np.isnan(closes)]
    buys = int(bought.sum())
    legend = [
        Legend("line", "price", "price", signed(float(known[-1] / known[0]) - 1.0)),
        Legend("▲", "buy", "bought", f"{buys:,}×"),
        Legend("▼", "sell", "sold", f"{len(fills) - buys:,}×"),
    ]
    line = charts.Line(report.curves[0].times, closes, "price")
    many = f"{charts.MAX_MARKERS} of its {len(fills):,} fills are drawn." if len(fills) > charts.MAX_MARKERS else ""
    return Chart(report.symbols[n], many, charts.price_chart(line, trades, str(n)), legend)
