"""A backtest for eyes: a table in the terminal, one self-contained HTML page, and its fills and equity as CSV.

What draws and renders (matplotlib, jinja2, rich) is imported where it is used, so that importing this is quick.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Sequence
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from policy.report_page import MINUS, contents, days_of, percent, ratio, signed, span_of, summary_of
from shared.clock import from_unix
from shared.metrics import Summary

if TYPE_CHECKING:
    from policy.result import BacktestResult, Curve

TEMPLATE = "report.html.j2"
FILL_COLUMNS = ("filled_at", "symbol", "side", "quantity", "price", "value", "fee")


def terminal_table(result: BacktestResult, width: int = 88) -> str:
    """The strategies' figures as plain text of at most ``width`` columns (80 or more), without escape codes."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 0, 0, 1), show_edge=False)
    table.add_column("strategy", overflow="fold", vertical="bottom")
    for heading in ("return", "Sharpe", "Sortino", "max\ndrawdown", "turnover\n/yr", "fees", "trades"):
        table.add_column(heading, justify="right", no_wrap=True)
    for curve in result.curves:
        table.add_row(Text(curve.name), *_figures(summary_of(curve)))
    out = StringIO()
    console = Console(file=out, width=width, force_terminal=False, color_system=None, highlight=False)
    label = "SIMULATED" if result.provenance == "simulated" else result.provenance
    console.print(Text(f"Backtest, {label} prices, {span_of(result)}, {days_of(result)}"))
    if result.in_sample:
        console.print(Text(f"IN-SAMPLE, proves nothing: {result.in_sample}"))
    console.print()
    console.print(table)
    console.print()
    for name, value in result.terms.items():
        console.print(Text(f"{name}: {value}"))
    return "".join(f"{line.rstrip()}\n" for line in out.getvalue().splitlines())


def _figures(summary: Summary) -> list[str]:
    figures = [
        signed(summary.total_return),
        ratio(summary.sharpe),
        ratio(summary.sortino),
        percent(summary.max_drawdown),
        ratio(summary.turnover_per_year),
        f"{summary.fees:,.2f}",
        f"{summary.trades:,}",
    ]
    return [figure.replace(MINUS, "-") for figure in figures]


def write_report(result: BacktestResult, path: Path) -> Path:
    """Writes ``path`` (HTML, no requests, no scripts), ``<stem>_fills.csv`` and ``<stem>_equity.csv`` beside it.

    Raises ValueError for a result of fewer than two bars: there is nothing to draw.
    """
    if len(result.curves[0].times) < 2:
        raise ValueError("a report needs at least two bars; run the backtest over a longer span")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(_page(result, path.stem), encoding="utf-8")
    _write_csv(path.with_name(f"{path.stem}_fills.csv"), FILL_COLUMNS, _fill_rows(result))
    names = [curve.name for curve in result.curves]
    _write_csv(path.with_name(f"{path.stem}_equity.csv"), ["time", *names], _equity_rows(result.curves))
    return path


def _page(result: BacktestResult, stem: str) -> str:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(TEMPLATE).render(contents(result), stem=stem)


def _fill_rows(result: BacktestResult) -> Iterator[list[Any]]:
    """Time (ISO 8601, UTC), symbol, side, quantity in base, price, value and fee in quote; all digits."""
    for fill in result.fills:
        side = "buy" if fill.quantity > 0.0 else "sell"
        at, symbol = from_unix(fill.filled_at).isoformat(), result.symbols[fill.instrument]
        yield [at, symbol, side, abs(fill.quantity), fill.price, fill.cost, fill.fee]


def _equity_rows(curves: Sequence[Curve]) -> Iterator[list[Any]]:
    """Time (ISO 8601, UTC) and each curve's equity in quote, empty where a curve has no point."""
    by_time = [dict(zip(curve.times.tolist(), curve.equity.tolist(), strict=True)) for curve in curves]
    for time in sorted(set().union(*by_time)):
        yield [from_unix(time).isoformat(), *(equity.get(time, "") for equity in by_time)]


def _write_csv(path: Path, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(rows)
