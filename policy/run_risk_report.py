"""`make risk [WALLET=]`: what each wallet risks with what it holds now, each figure beside its limit.

Input: market_data, policy_config, wallets, limits, commands, risk_events, cash_flows, fills, decisions. It writes
nothing. The limits are those of the next decision: the stricter of steering and operator. Value at risk and CVaR are
at 95 %, by historical simulation of what is held now over its last 250 daily returns. A month's is a day's × √30, as
regulators scale (Basel Committee, Amendment to the capital accord, 1996, B.4(c)): 250 days have too few months to count
losses in. It is true for independent days only, and too low where losses cluster (Danielsson & Zigrand, 2006).

The benchmark is equal values of the wallet's symbols, bought and held over the days that are compared: those with a
decision of the wallet at the UTC midnights on both sides. Exit code 1 where a figure is beyond its limit.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from policy.book import midnight
from policy.decision_path import Circumstances, risk_context
from policy.inputs import Inputs
from policy.portfolio_state import read_portfolio_state
from policy.risk.context import VAR_DAYS, VAR_ONE_IN, RiskContext, symbol_caps
from policy.risk.history import CORRELATION_MIN_DAYS
from policy.risk_report import (
    Figure,
    Kupiec,
    consecutive_returns,
    correlation_with,
    figures,
    held_from_the_start,
    kupiec_of,
    returns_by_day,
)
from policy.run_trader import (
    doubts_without_policy,
    limits_of,
    portfolio_of,
    positions_of,
    priced_as_held,
    read_rows,
    trading_rules,
    view_of,
)
from shared.clock import floor_time, open_clock, to_unix
from shared.db import Database, load_queries
from shared.errors import SextantError
from shared.job import UsageError, time_argument
from shared.rows import Instrument
from shared.schema import open_database
from shared.settings import Settings, SettingsError, load_settings

WIDTH, DAY_S = 100, 86_400


@dataclass(frozen=True, slots=True)
class RiskReport:
    """Of one wallet at ``as_of``; ``kupiec`` None where nothing is held or too little is known."""

    wallet: str
    as_of: datetime
    equity: float
    quote: str
    figures: list[Figure]
    kupiec: Kupiec | None
    unpriced: list[str]
    silent: list[str]  # what has had no candle for a day or longer

    @property
    def failed(self) -> list[str]:
        return [figure.name for figure in self.figures if figure.verdict == "FAIL"]


def reports(database: Database, settings: Settings, now: datetime, wallet: str | None = None) -> list[RiskReport]:
    """Of every wallet, or of the one that is named; UsageError where there is none of that name."""
    wallets = database.fetch(load_queries("policy")["wallets"], {"now": now})
    asked = [row for row in wallets if wallet in (None, row["name"])]
    if wallet is not None and not asked:
        raise UsageError(f"no wallet {wallet!r}; there are {', '.join(row['name'] for row in wallets) or 'none'}")
    return [report_of(database, settings, row, now) for row in asked]


def report_of(database: Database, settings: Settings, wallet: Mapping[str, Any], now: datetime) -> RiskReport:
    """Of one row of the query wallets, at the newest close that a decision could be about, as the trader would see it
    but for what a model says: nothing here asks for it."""
    step_s = settings.universe.decision_timeframe_s
    as_of = floor_time(now - timedelta(seconds=settings.execution.delay_s), step_s)
    rows = read_rows(database, wallet, as_of, now)
    instruments, operator = portfolio_of(wallet, rows["instruments"]), limits_of(wallet, settings)
    inputs = Inputs(
        database, instruments, step_s, wallet["track"], None, operator, as_of, as_of, settings.execution.stale_after_s
    )  # fmt: skip
    held, last_prices = positions_of(rows["positions"], instruments)
    market = priced_as_held(inputs.at(as_of), held, last_prices)
    view, _ = view_of(settings, wallet, rows["book"][0], as_of, held, market)
    circumstances = Circumstances(
        operator=operator,
        rules=trading_rules(instruments, settings),
        in_flight=np.zeros(len(instruments), dtype=np.bool_),
        wallet_paused=wallet["mandate"] != "trade" or wallet["stopped"] is not None,
        doubts=doubts_without_policy(market),
        state=read_portfolio_state(database, wallet["id"], instruments, now),
        symbol_caps=symbol_caps(settings.risk, wallet["symbols"]),
    )
    context = risk_context(view, circumstances)
    present = inputs.present()
    if market.history is not None:
        known = market.history.closes.of_days_with_candles(present)
        context = context._replace(correlation=known.correlations(market.history.row), daily=known.daily)
    weights = context.held_weights
    return RiskReport(
        wallet=wallet["name"],
        as_of=as_of,
        equity=view.book.equity,
        quote=wallet["quote"],
        figures=[*figures(context, wallet["symbols"]), _beside_the_benchmark(database, wallet, as_of, step_s, context)],
        kupiec=kupiec_of(returns_by_day(weights, context), VAR_DAYS) if weights.any() else None,
        unpriced=_unpriced(instruments, np.isnan(market.prices)),
        silent=_silent(instruments, present[: context.day_row + 1], context.day_stride),
    )


def midnight_row(context: RiskContext, as_of: int, step_s: int) -> int:
    """Of ``context.daily``, the row of the UTC midnight at or before ``as_of``, whose own row is ``day_row``."""
    return context.day_row - as_of % DAY_S // step_s


def _unpriced(instruments: Sequence[Instrument], unknown: np.ndarray[Any, np.dtype[np.bool_]]) -> list[str]:
    return [instrument.symbol for instrument, missing in zip(instruments, unknown.tolist(), strict=True) if missing]


def _silent(instruments: Sequence[Instrument], present: np.ndarray[Any, np.dtype[np.bool_]], stride: int) -> list[str]:
    """``present`` [B, N] up to the report's close."""
    gone = np.logical_and(present.any(axis=0), ~present[-stride:].any(axis=0)).tolist()
    days = (present[::-1].argmax(axis=0) / stride).tolist()
    return [f"{i.symbol} for {days[n]:.1f} days" for n, i in enumerate(instruments) if gone[n]]


def _beside_the_benchmark(
    database: Database, wallet: Mapping[str, Any], as_of: datetime, step_s: int, context: RiskContext
) -> Figure:
    """The correlation of the wallet's daily returns with holding its symbols, over the last VAR_DAYS or since its
    first."""
    last = midnight(as_of)
    asked = {"wallet_id": wallet["id"], "as_of": last, "since": last - timedelta(days=VAR_DAYS + 1)}
    found = database.fetch(load_queries("risk_report")["values_at_midnight"], asked)
    days, values = np.array([row["day"] for row in found], np.int64), np.array([row["value"] for row in found], float)
    row = midnight_row(context, to_unix(as_of), step_s)
    span = min(VAR_DAYS, int(row // context.day_stride), to_unix(last) // DAY_S - int(days[0]) if len(days) else 0)
    at = row - context.day_stride * np.arange(span)[::-1]
    own = consecutive_returns(days, values, to_unix(last) // DAY_S, span)
    between, count = correlation_with(own, held_from_the_start(context.daily[at][:, context.column]))
    few = f"{count} days known of the wallet and of its symbols, of {CORRELATION_MIN_DAYS}, or one never moved"
    return Figure("correlation", between, None, f"with its symbols, bought and held, {count} days", few, share=False)


# ── in words ─────────────────────────────────────────────────────────────────────────────────────────────────
def print_report(report: RiskReport, console: Console) -> None:
    """A table, and a line about value at risk's own record."""
    heading = f"{report.wallet}: {report.equity:,.2f} {report.quote} at {report.as_of:%Y-%m-%d %H:%M} UTC"
    table = Table(title=Text(heading), title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for column, justify in (("figure", "left"), ("now", "right"), ("limit", "right"), ("", "left"), ("", "left")):
        table.add_column(column, justify=justify)  # type: ignore[arg-type]
    for figure in report.figures:
        verdict = figure.verdict
        style = {"FAIL": "bold red", "pass": "green"}.get(verdict, "dim")
        told = figure.unknown if verdict == "not known" else figure.note
        table.add_row(
            Text(figure.name), _number(figure, figure.now), _number(figure, figure.limit), Text(verdict, style=style),
            Text(told, style="dim"),
        )  # fmt: skip
    console.print(table)
    for line in lines_of(report):
        console.print(line, markup=False)
    console.print()


def _number(figure: Figure, value: float | None) -> str:
    if value is None or not np.isfinite(value):
        return "–"
    return f"{value + 0.0:.2%}" if figure.share else f"{value:.3g}"  # a loss of nothing is not minus nothing


def lines_of(report: RiskReport) -> list[str]:
    """What the table does not say: how often value at risk was wrong, and what has no price."""
    lines = []
    if report.kupiec is None:
        lines.append("Value at risk is not tested: nothing is held, or too little is known of what is.")
    else:
        found = report.kupiec
        verdict = "refused" if found.refused else "right"
        lines.append(
            f"Value at risk, said each day of what is held now: {found.exceptions} of {found.days} days lost more, "
            f"{found.days / VAR_ONE_IN:.1f} expected; Kupiec p {found.p:.3f}: {verdict}."
        )
    if report.unpriced:
        lines.append(f"No price is known of {', '.join(report.unpriced)}.")
    if report.silent:
        lines.append(
            f"No candle closed of {', '.join(report.silent)}: those days are not known, and no risk is read off them."
        )
    if report.failed:
        lines.append(f"FAIL: {', '.join(report.failed)}. docs/add-a-risk-rule.md says what the rules do about it.")
    return lines


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description="What each wallet risks, beside its limits; exit code 1 where a figure is beyond its limit."
    )
    parser.add_argument("--wallet", help="this one alone")
    parser.add_argument("--at", type=time_argument, help="as if it were this moment (UTC)")
    arguments = parser.parse_args(argv)
    try:
        settings = load_settings()
        database = open_database(settings, "policy")
        try:
            now = arguments.at or open_clock(settings.clock_url).now()
            found = reports(database, settings, now, arguments.wallet)
        finally:
            database.close()
    except (SettingsError, UsageError) as error:
        print(error, file=sys.stderr)
        return 2
    except SextantError as error:
        print(error, file=sys.stderr)
        return 1
    console = Console(width=WIDTH, highlight=False)
    for report in found:
        print_report(report, console)
    if not found:
        console.print("There is no wallet: `make wallet WALLET=… CAPITAL=…`")
    return 1 if any(report.failed for report in found) else 0


if __name__ == "__main__":
    sys.exit(main())
