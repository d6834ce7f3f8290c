"""What the page of a report shows, in words and charts: everything that its template prints."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from policy.report_data import Report
from policy.report_figures import (
    benchmark_index,
    compared,
    compared_notes,
    figure_rows,
    short_names,
    summary_of,
)
from policy.report_palette import variables
from policy.report_parts import (
    Month,
    clamp_rows,
    doubt,
    held_weights,
    months,
    notices,
    regime_table,
    sources,
    symbol_table,
    year_table,
)
from policy.report_words import UNDEFINED, amount, capitalised, length, minute, percent, ratio, signed, typeset
from shared.performance import Summary

if TYPE_CHECKING:
    from policy.simulator import SimulatedFill

LAST_FILLS = 20
HEAT = (0.005, 0.02, 0.05, 0.1, 0.2)  # a month's gain or loss from which on its cell has the next deeper colour
MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
HEADINGS = ("Return", "Sharpe", "Max drawdown", "Volatility", "Calmar", "Turnover a year", "Fees", "Fills")


@dataclass(frozen=True, slots=True)
class Tile:
    """One big number: what it is, the policy's value, and what stands beside it."""

    label: str
    value: str
    beside: list[str]


@dataclass(frozen=True, slots=True)
class Cell:
    """``heat``: a class of the style sheet, 'up3' or 'down1', '' where next to nothing was gained or lost."""

    name: str
    text: str
    heat: str


@dataclass(frozen=True, slots=True)
class YearRow:
    """Twelve cells, the year's whole, and what buy and hold gained in it."""

    year: int
    cells: list[Cell]
    whole: Cell
    beside: str


def contents(report: Report) -> dict[str, Any]:
    """All that the template prints."""
    from policy import report_drawn as drawn

    curves = report.curves
    weights = held_weights(report) if report.symbols and report.closes.size else None
    summaries = [summary_of(report, n, weights) for n in range(len(curves))]
    shown, benchmark = compared(curves), benchmark_index(curves)
    beside = (curves[benchmark].name, summaries[benchmark]) if benchmark else None
    tables = [year_table(report), regime_table(report), symbol_table(report), *report.tables]
    return {
        "day": variables(dark=False),
        "night": variables(dark=True),
        "kind": report.kind,
        "headline": _headline(report, summaries[0], beside),
        "length": length(curves[0].times),
        "lead": report.lead,
        "notices": notices(report, summaries[0]),
        "tiles": _tiles(summaries[0], beside, float(curves[0].equity[0])),
        "equity": drawn.equity(report),
        "against_shifts": report.against_shifts,
        "headings": HEADINGS,
        "strategies": _strategies(report, summaries),
        "months": month_rows(report),
        "drawdown": drawn.drawdown(report),
        "exposure": drawn.exposure(report, weights) if weights is not None else None,
        "compared_short": short_names(curves),
        "compared_note": ". ".join(capitalised(line) for line in compared_notes(curves)),
        "benchmark": curves[benchmark].name if benchmark else "",
        "figures": figure_rows([summaries[n] for n in shown]),
        "tables": [table for table in tables if table is not None],
        "prices": drawn.prices(report) if weights is not None else [],
        "undrawn": max(len(report.symbols) - drawn.MOST_PRICES, 0),
        "steering": drawn.steering(report),
        "clamps": clamp_rows(report.decisions),
        "decisions": f"{len(report.decisions):,}",
        "sources": sources(report.decisions),
        "fills": [_fill(f, report.symbols) for f in reversed(report.fills[-LAST_FILLS:])],
        "fill_count": f"{len(report.fills):,}",
        "terms": report.terms,
        "in_sample": report.in_sample,
        "doubt": doubt(summaries[0]),
    }


def month_rows(report: Report) -> list[YearRow]:
    """A row a year, of the policy's months, its year, and buy and hold's."""
    benchmark = report.curves[benchmark_index(report.curves)]
    gained = _by_year(months(report.curves[0].times, report.curves[0].equity))
    others = _by_year(months(benchmark.times, benchmark.equity)) if benchmark is not report.curves[0] else {}
    rows = []
    for year, of_year in gained.items():
        cells = [_cell(name, of_year.get(number)) for number, name in enumerate(MONTHS, 1)]
        beside = signed(_compound(others[year])) if year in others else UNDEFINED
        rows.append(YearRow(year, cells, _cell("Year", _compound(of_year)), beside))
    return rows


def _by_year(found: Sequence[Month]) -> dict[int, dict[int, float]]:
    years: dict[int, dict[int, float]] = {}
    for month in found:
        years.setdefault(month.year, {})[month.month] = month.gained
    return years


def _compound(of_year: dict[int, float]) -> float:
    whole = 1.0
    for gained in of_year.values():
        whole *= 1.0 + gained
    return whole - 1.0


def _cell(name: str, gained: float | None) -> Cell:
    if gained is None:
        return Cell(name, "", "")
    depth = sum(abs(gained) >= step for step in HEAT)
    heat = f"{'up' if gained > 0.0 else 'down'}{depth}" if depth else ""
    digits = 1 if abs(gained) < 1.0 else 0
    return Cell(name, typeset(f"{100.0 * gained:+,.{digits}f}"), heat)


def _headline(report: Report, own: Summary, beside: tuple[str, Summary] | None) -> str:
    first = f"{capitalised(report.curves[0].name)} {signed(own.total_return)}"
    return f"{first}, {beside[0]} {signed(beside[1].total_return)}" if beside else first


def _tiles(own: Summary, beside: tuple[str, Summary] | None, capital: float) -> list[Tile]:
    name, other = beside or ("", own)
    error = [f"± {own.sharpe_standard_error:.1f} s.e., {own.days:,} days"] if own.sharpe_standard_error else []
    figures = (signed(other.total_return), ratio(other.sharpe), percent(other.max_drawdown))
    of_return, of_sharpe, of_drawdown = ([f"{name} {figure}"] if beside else [] for figure in figures)
    return [
        Tile("Return", signed(own.total_return), of_return),
        Tile("Sharpe ratio", ratio(own.sharpe), error + of_sharpe),
        Tile("Max drawdown", percent(own.max_drawdown), of_drawdown),
        Tile("Fees paid", percent(own.fees / capital), ["of the first capital", f"{own.trades:,} fills"]),
    ]


def _strategies(report: Report, summaries: Sequence[Summary]) -> list[tuple[str, str, list[str]]]:
    """Name, colour and figures (in the order of HEADINGS) of each curve."""
    from policy.report_drawn import colours_of

    colours = colours_of(report.curves)
    return [(c.name, k, strategy_row(s)) for c, k, s in zip(report.curves, colours, summaries, strict=True)]


def strategy_row(s: Summary) -> list[str]:
    """In the order of HEADINGS."""
    turnover = UNDEFINED if s.turnover_per_year is None else f"{s.turnover_per_year:,.1f}×"
    ratios = (ratio(s.sharpe), percent(s.max_drawdown), percent(s.volatility), ratio(s.calmar))
    return [signed(s.total_return), *ratios, turnover, amount(s.fees), f"{s.trades:,}"]


def _fill(fill: SimulatedFill, symbols: Sequence[str]) -> list[str]:
    side = "buy" if fill.quantity > 0.0 else "sell"
    amounts = (f"{abs(fill.quantity):,.8g}", f"{fill.price:,.8g}", f"{fill.cost:,.2f}", f"{fill.fee:,.2f}")
    return [minute(fill.filled_at), symbols[fill.instrument], side, *amounts]
