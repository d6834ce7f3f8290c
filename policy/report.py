"""A backtest or an evaluation for eyes: tables in the terminal, one self-contained HTML page, and its numbers as CSV.

What draws and renders (matplotlib, jinja2, rich) is imported where it is used, so that importing this is quick.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from policy.report_data import Report, report_of
from shared.clock import from_unix
from shared.rows import IntArray

if TYPE_CHECKING:
    from policy.result import BacktestResult, Curve

TEMPLATE = "report.html.j2"
FILL_COLUMNS = ("filled_at", "symbol", "side", "quantity", "price", "value", "fee", "closing")
MONTH_COLUMNS = ("month", "strategy", "return")
REGRESSION = ("alpha", "alpha_standard_error", "beta", "beta_standard_error")
TABLE_WIDTH = 88
HOUR_S = 3_600


def terminal_table(result: BacktestResult, width: int = TABLE_WIDTH) -> str:
    """The backtest as plain text of at most ``width`` columns (80 or more), without escape codes."""
    return terminal_report(report_of(result), width)


def terminal_report(report: Report, width: int = TABLE_WIDTH) -> str:
    """As ``terminal_table``, of any report."""
    from policy.report_terminal import as_text

    return as_text(report, width)


def write_report(result: BacktestResult, path: Path) -> Path:
    """The backtest as ``write_page`` writes it, with the band that luck alone would have made of its days."""
    from policy.report_bands import luck_band_of

    report, own = report_of(result), result.curves[0]
    _require_drawable(report)
    luck = luck_band_of(own.times, own.equity)
    return write_page(replace(report, bands=[*([luck] if luck else []), *report.bands]), path)


def write_page(report: Report, path: Path) -> Path:
    """Writes ``path`` (HTML, no requests, no scripts) and beside it, as ``<stem>_….csv``, fills, hourly equity, months
    and metrics. Returns ``path``.

    Raises ValueError for a result of fewer than two bars: there is nothing to draw.
    """
    _require_drawable(report)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(_page(report, path.stem), encoding="utf-8")
    names = [curve.name for curve in report.curves]
    tables: dict[str, tuple[Sequence[str], Iterable[Sequence[Any]]]] = {
        "fills": (FILL_COLUMNS, _fill_rows(report)),
        "equity": (("time", *names), _equity_rows(report.curves)),
        "months": (MONTH_COLUMNS, _month_rows(report.curves)),
        "metrics": (("figure", *names), _metric_rows(report)),
    }
    for name, (columns, rows) in tables.items():
        _write_csv(path.with_name(f"{path.stem}_{name}.csv"), columns, rows)
    return path


def _require_drawable(report: Report) -> None:
    if len(report.curves[0].times) < 2:
        raise ValueError("a report needs at least two bars; run the backtest over a longer span")


def _page(report: Report, stem: str) -> str:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    from policy.report_page import contents

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(TEMPLATE).render(contents(report), stem=stem)


def _fill_rows(report: Report) -> Iterator[list[Any]]:
    """Time (ISO 8601, UTC), symbol, side, quantity in base, price, value and fee in quote, all digits; closing: 1 for
    what was sold only because the span ended."""
    for closing, fills in ((0, report.fills), (1, report.closing)):
        for fill in fills:
            side = "buy" if fill.quantity > 0.0 else "sell"
            at, symbol = from_unix(fill.filled_at).isoformat(), report.symbols[fill.instrument]
            yield [at, symbol, side, abs(fill.quantity), fill.price, fill.cost, fill.fee, closing]


def _equity_rows(curves: Sequence[Curve]) -> Iterator[Sequence[Any]]:
    """Time (ISO 8601, UTC) and each curve's equity in quote, empty where a curve has no point: at whole hours, and
    where a curve begins or ends. All bars of years of minutes would be a file that nobody can open."""
    shown = [_hours(curve.times) for curve in curves]
    times = np.unique(np.concatenate([curve.times[at] for curve, at in zip(curves, shown, strict=True)]))
    columns = []
    for curve, at in zip(curves, shown, strict=True):
        column = np.full(len(times), None, dtype=object)
        column[np.searchsorted(times, curve.times[at])] = curve.equity[at].tolist()
        columns.append(column.tolist())
    written = np.datetime_as_string(times.astype("datetime64[s]")).tolist()
    return zip((f"{at}+00:00" for at in written), *columns, strict=True)


def _hours(times: IntArray) -> IntArray:
    """The indices of the first, the last and all that are whole hours."""
    return np.unique(np.r_[0, np.flatnonzero(times % HOUR_S == 0), len(times) - 1])


def _month_rows(curves: Sequence[Curve]) -> Iterator[list[Any]]:
    """'2026-07', strategy, gain as a fraction."""
    from policy.report_parts import months

    for curve in curves:
        for month in months(curve.times, curve.equity):
            yield [f"{month.year}-{month.month:02}", curve.name, month.gained]


def _metric_rows(report: Report) -> Iterator[list[Any]]:
    """Each field of shared.performance.Summary, by its name there, and its value of each curve; empty: undefined."""
    from policy.report_figures import summary_of
    from policy.report_parts import held_weights

    weights = held_weights(report) if report.symbols and report.closes.size else None
    found = [asdict(summary_of(report, n, weights)) for n in range(len(report.curves))]
    flat = [{**one, **(one["regression"] or dict.fromkeys(REGRESSION))} for one in found]
    for name in flat[0]:
        if name != "regression":
            yield [name, *(one[name] for one in flat)]


def _write_csv(path: Path, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(rows)
