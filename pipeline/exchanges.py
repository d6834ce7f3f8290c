"""Tests each configured connection to a venue and prints what answered and what each venue can do.

Configured are universe.venue and every section of [venues]; more can be named. Public data only, no key.
"""

from __future__ import annotations

import argparse
import logging
import queue
import sys
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from rich.console import Console
from rich.table import Table
from rich.text import Text

from shared.clock import Clock, Timer, open_clock
from shared.exchanges import EXCHANGES, Exchange, ExchangeError, open_exchange
from shared.exchanges.protocol import Capabilities
from shared.settings import Settings, SettingsError, load_settings

DEADLINE_S = 45.0  # a venue that is away is asked four times before it is given up
EXCERPT = 240  # characters of a reason


@dataclass
class Report:
    """What one venue answered. ``listed`` and ``missing`` are by the symbol that was wanted."""

    name: str
    capabilities: Capabilities | None = None
    status: str = ""
    round_trip_s: float = 0.0
    skew_s: float | None = None  # venue's clock less ours; None where it has none
    listed: dict[str, str] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    trouble: str = ""


def ask(name: str, settings: Settings, clock: Clock, timer: Timer) -> Report:
    report = Report(name)
    try:
        exchange = open_exchange(name, settings.venues, settings.home_path)
        report.capabilities = exchange.capabilities
        started = timer.monotonic()
        told = exchange.server_time()
        report.round_trip_s = timer.monotonic() - started
        if told is not None:  # whole seconds mean any moment within that second
            report.skew_s = told + (0.5 if told == int(told) else 0.0) - clock.now().timestamp()
        report.status = exchange.status()
        _find_symbols(exchange, settings.universe.symbols, report)
    except ExchangeError as error:
        report.trouble = str(error)
    except Exception as error:  # one venue's surprise must not hide the others' answers
        report.trouble = f"{type(error).__name__}: {error}"
    return report


def _find_symbols(exchange: Exchange, symbols: Sequence[str], report: Report) -> None:
    for symbol in symbols:
        try:
            report.listed[symbol] = exchange.resolve(symbol)
        except ExchangeError as error:
            if error.kind != "refused":  # the venue is in trouble, not the symbol
                raise
            report.missing[symbol] = str(error)


def ask_all(names: Iterable[str], settings: Settings, clock: Clock, deadline_s: float = DEADLINE_S) -> list[Report]:
    """All venues at once, in the order of ``names``; who has not answered by the deadline is reported as such."""
    wanted, timer = list(dict.fromkeys(names)), Timer()
    answers: queue.SimpleQueue[Report] = queue.SimpleQueue()
    for name in wanted:  # daemons: the process may end while one still waits
        run = lambda name=name: answers.put(ask(name, settings, clock, timer))  # noqa: E731
        threading.Thread(target=run, name=f"ask {name}", daemon=True).start()
    reports: dict[str, Report] = {}
    ends = timer.monotonic() + deadline_s
    while len(reports) < len(wanted):
        try:
            report = answers.get(timeout=max(0.0, ends - timer.monotonic()))
        except queue.Empty:
            break
        reports[report.name] = report
    late = f"no answer within {deadline_s:g} s"
    return [reports.get(name) or Report(name, trouble=late) for name in wanted]


def fails(report: Report, settings: Settings) -> bool:
    """No answer, or the venue that is traded on lists not all that is watched."""
    return bool(report.trouble) or (report.name == settings.universe.venue and bool(report.missing))


# --- what is printed ---


def connections_table(reports: Sequence[Report], settings: Settings) -> Table:
    table = Table(title="Connections", title_justify="left")
    for column in ("venue", "answers", "round trip", "clock skew", "symbols"):
        numbers = column in ("round trip", "clock skew")
        table.add_column(column, justify="right" if numbers else "left", no_wrap=numbers or column == "venue")
    for report in reports:
        style = "red" if fails(report, settings) else ""
        answers = Text(_excerpt(report.trouble) if report.trouble else report.status, style)
        told = not report.trouble
        remote = told and report.skew_s is not None
        table.add_row(
            report.name,
            answers,
            f"{1000 * report.round_trip_s:,.0f} ms" if remote else "–",
            f"{report.skew_s:+.1f} s" if remote else "–",
            _symbols(report),
        )
    return table


def _symbols(report: Report) -> Text:
    lines = [wanted if found == wanted else f"{wanted} as {found}" for wanted, found in report.listed.items()]
    lines += [_excerpt(why) for why in report.missing.values()]
    return Text("\n".join(lines) or "–")


def abilities_table(reports: Sequence[Report]) -> Table:
    table = Table(title="What they can do", title_justify="left")
    for column in ("venue", "candles", "offers", "order types", "exercised"):
        table.add_column(column, no_wrap=column in ("venue", "candles", "exercised"))
    for report in reports:
        can = report.capabilities
        if can is not None:
            exercised = Text(can.exercised, "yellow" if can.exercised == "never" else "")
            offers = ", ".join(_offers(can)) or "–"
            table.add_row(report.name, _candles(can), offers, ", ".join(can.order_types) or "–", exercised)
    return table


def _candles(can: Capabilities) -> str:
    depth = "all" if can.candle_depth is None else f"latest {can.candle_depth:,}"
    return depth if can.candle_page is None else f"{depth}, {can.candle_page:,} a page"


def _offers(can: Capabilities) -> list[str]:
    offers = {
        "older candles from trades": can.builds_from_trades,
        "WebSocket": can.streams_candles,
        "sandbox": can.sandbox,
        "client order ids": can.client_order_ids,
        "OCO": can.oco,
    }
    return [what for what, offered in offers.items() if offered]


def _excerpt(reason: str) -> str:
    text = " ".join(reason.split())
    return text if len(text) <= EXCERPT else text[:EXCERPT] + "…"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Test each configured connection to a venue (public data, no key).")
    parser.add_argument("names", nargs="*", metavar="NAME", help="venues to test besides the configured ones")
    parser.add_argument("--all", action="store_true", help="every venue of the registry")
    arguments = parser.parse_args(argv)
    try:
        settings = load_settings()
    except SettingsError as error:
        print(error, file=sys.stderr)
        return 2
    logging.getLogger("sextant.exchanges").setLevel(logging.ERROR)  # troubles stand in the table
    configured = [settings.universe.venue, *settings.venues, *arguments.names]
    console = Console()
    with Console(stderr=True).status("asking the venues"):
        names = [*configured, *(sorted(EXCHANGES) if arguments.all else ())]
        reports = ask_all(names, settings, open_clock(settings.clock_url))
    console.print(connections_table(reports, settings), abilities_table(reports))
    console.print("Exercised: tried against the emulator (make emulator), by itself, or never.", style="dim")
    return int(any(fails(report, settings) for report in reports if report.name in configured))


if __name__ == "__main__":
    sys.exit(main())
