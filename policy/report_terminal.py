"""The report as plain text for a terminal: no escape codes, as wide as asked."""

from __future__ import annotations

from collections.abc import Sequence
from io import StringIO
from typing import TYPE_CHECKING

from policy.report_data import Report, Table
from policy.report_figures import compared, compared_notes, figure_rows, short_names, summary_of
from policy.report_page import MONTHS, month_rows, strategy_row
from policy.report_parts import held_weights, notices, regime_table, symbol_table, year_table
from policy.report_words import MINUS, capitalised, length, span

if TYPE_CHECKING:
    from rich.console import Console

    from shared.performance import Summary

HEADINGS = ("return", "Sharpe", "max\ndrawdown", "vola-\ntility", "Calmar", "turnover\n/yr", "fees", "fills")


def as_text(report: Report, width: int) -> str:
    """All that the page says except the charts, the fills and how to read it; lines of at most ``width`` columns."""
    from rich.console import Console

    out = StringIO()
    console = Console(file=out, width=width, force_terminal=False, color_system=None, highlight=False, markup=False)
    times = report.curves[0].times
    label = "SIMULATED" if report.provenance == "simulated" else report.provenance
    console.print(f"{capitalised(report.kind)}, {label} prices, {span(times)}, {length(times)}")
    weights = held_weights(report) if len(times) and report.symbols and report.closes.size else None
    summaries = [summary_of(report, n, weights) for n in range(len(report.curves))]
    for notice in notices(report, summaries[0]):
        console.print(f"{notice.title} {notice.text}")
    _print(
        console,
        ("strategy", *HEADINGS),
        [[c.name, *strategy_row(s)] for c, s in zip(report.curves, summaries, strict=True)],
    )
    if report.against_shifts:
        console.print(report.against_shifts)
        console.print()
    if len(times) > 1:
        _print_parts(console, report, summaries)
    for name, value in report.terms.items():
        console.print(f"{name}: {value}")
    return "".join(f"{line.rstrip()}\n" for line in out.getvalue().replace(MINUS, "-").splitlines())


def _print_parts(console: Console, report: Report, summaries: Sequence[Summary]) -> None:
    shown = compared(report.curves)
    rows = [row for group in figure_rows([summaries[n] for n in shown]).values() for row in group]
    _print(console, ("figure", *short_names(report.curves)), rows)
    console.print(f"{'. '.join(capitalised(line) for line in compared_notes(report.curves))}.")
    console.print()
    console.print("By month, in percent")
    months = [[str(row.year), *(cell.text for cell in row.cells), row.whole.text] for row in month_rows(report)]
    _print(console, ("", *MONTHS, "year"), months, apart=0)
    for table in (year_table(report), regime_table(report), symbol_table(report), *report.tables):
        if table is not None:
            _print_table(console, table)


def _print_table(console: Console, table: Table) -> None:
    console.print(f"{table.title}. {table.note}")
    _print(console, table.headings, table.rows)


def _print(console: Console, headings: Sequence[str], rows: Sequence[Sequence[str]], apart: int = 1) -> None:
    """``apart``: columns between two cells, beside the one that is always there."""
    from rich import box
    from rich.table import Table as Grid
    from rich.text import Text

    grid = Grid(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 0, 0, apart), show_edge=False)
    first, *others = headings
    grid.add_column(Text(first), overflow="fold", vertical="bottom")
    for heading in others:
        grid.add_column(Text(heading), justify="right", overflow="fold")
    for row in rows:
        grid.add_row(*(Text(cell) for cell in row))
    console.print()
    console.print(grid)
    console.print()
