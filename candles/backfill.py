"""Fetches the closed candles that are missing at the end of each series, or from ``--from`` on.

Input: the venue of settings.universe (public data, no key). Output: instruments, market_data.
"""

from __future__ import annotations

import sys
from collections import Counter
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from tqdm import tqdm

from candles.candle_files import check_candles
from candles.store import Written, add_instrument, known_series, write_candles
from shared.alerts import raise_alert
from shared.clock import Clock, from_unix, to_unix
from shared.db import Database
from shared.exchanges import Exchange, ExchangeError, open_exchange
from shared.job import Context, JobError, Outcome, Status, UsageError, job, job_parser, run_job_command, time_argument
from shared.rows import Candles, Instrument
from shared.settings import Settings

DEFAULT_HISTORY_S = 30 * 86_400
CANDLES_A_REQUEST = 8_640


@dataclass(frozen=True, slots=True)
class Fetched:
    """What the venue gave for one symbol, checked; ``reach`` says where it could not go back as far as asked."""

    symbol: str
    candles: Candles
    refused: dict[str, int]
    reach: str


@job("backfill")
def run_once(
    clock: Clock,
    database: Database,
    settings: Settings,
    exchange: Exchange,
    span_from: datetime | None = None,
    progress: bool = False,
) -> Outcome:
    """Appends what closed by now, in one transaction; one symbol's trouble does not stop the others."""
    now, universe = clock.now(), settings.universe
    results: dict[str, Any] = {}
    failures: dict[str, str] = {}
    fetched: dict[str, Fetched] = {}
    known = known_series(database, exchange.name, universe.symbols, universe.base_timeframe_s)
    for wanted in universe.symbols:
        try:
            symbol = wanted if wanted in known else exchange.resolve(wanted)
            if symbol not in known:  # stored under another symbol before, or never
                known |= known_series(database, exchange.name, (symbol,), universe.base_timeframe_s)
            last = known[symbol][1] if symbol in known else None
            found = _fetch(now, settings, exchange, symbol, last, span_from, progress)
            if symbol not in known and len(found.candles):
                known[symbol] = (_add(database, settings, exchange, symbol, now), last)
            fetched[wanted] = found
        except ExchangeError as error:
            failures[wanted] = str(error)
            raise_alert(database, now, "warning", f"backfill:{exchange.name}:{wanted}", str(error))
    if failures and not fetched:
        raise JobError("; ".join(f"{symbol}: {why}" for symbol, why in failures.items()))
    with database.transaction() if any(len(f.candles) for f in fetched.values()) else nullcontext():
        for wanted, found in fetched.items():
            results[wanted] = _write(database, settings, exchange, found, wanted, known.get(found.symbol), now)
    return _outcome(results, failures)


def _outcome(results: dict[str, Any], failures: dict[str, str]) -> Outcome:
    refused = any(result.get("refused") for result in results.values())
    idle = not any(result.get("new") or result.get("revised") for result in results.values())
    status: Status = "refused" if refused else "nothing" if idle and not failures else "done"
    return Outcome(status, results | ({"failures": failures} if failures else {}))


def _fetch(
    now: datetime,
    settings: Settings,
    exchange: Exchange,
    symbol: str,
    last: int | None,
    span_from: datetime | None,
    progress: bool,
) -> Fetched:
    """Asks the venue for what closed after ``last``, or after ``span_from``, up to now."""
    timeframe_s = settings.universe.base_timeframe_s
    until = to_unix(now) // timeframe_s * timeframe_s
    asked = to_unix(span_from) if span_from else last or until - DEFAULT_HISTORY_S
    depth = exchange.capabilities.candle_depth
    since = asked if depth is None else max(asked, until - depth * timeframe_s)
    parts, refused = [], Counter[str]()
    step = CANDLES_A_REQUEST * timeframe_s
    with tqdm(total=max(until - since, 0) // timeframe_s, desc=symbol, unit=" candles", disable=not progress) as bar:
        for start in range(since, until, step):
            end = min(start + step, until)
            candles = exchange.candles(symbol, timeframe_s, start, end)
            keep, reasons = check_candles(candles, timeframe_s, to_unix(now))
            refused.update(reasons)
            parts.append(candles[keep])
            bar.update((end - start) // timeframe_s)
    candles = Candles.concatenate(parts)
    reach = ""
    if len(candles) and since > asked:
        served_from = from_unix(int(candles.as_of[0]))
        reach = f"asked from {from_unix(asked)}; {exchange.name} serves its latest {depth}, from {served_from}"
    return Fetched(symbol, candles, {r: n for r, n in refused.items() if n}, reach)


def _add(database: Database, settings: Settings, exchange: Exchange, symbol: str, now: datetime) -> Instrument:
    timeframe_s, rules = settings.universe.base_timeframe_s, exchange.rules(symbol)
    return add_instrument(database, exchange.name, symbol, timeframe_s, rules, exchange.provenance, now)


def _write(
    database: Database,
    settings: Settings,
    exchange: Exchange,
    fetched: Fetched,
    wanted: str,
    known: tuple[Instrument, int | None] | None,
    now: datetime,
) -> dict[str, Any]:
    universe, candles, written = settings.universe, fetched.candles, Written()
    if known and len(candles):
        instrument, last = known
        if universe.base_timeframe_s < instrument.base_timeframe_s:
            instrument = _add(database, settings, exchange, fetched.symbol, now)  # a finer timeframe than before
        newest = max(int(candles.as_of[-1]), last or 0)
        timeframe_s, derive_to_s = universe.base_timeframe_s, universe.decision_timeframe_s
        written = write_candles(
            database, instrument, timeframe_s, candles, derive_to_s, exchange.name, now, newest=newest
        )
    summary: dict[str, Any] = {"new": written.new}
    extra = {"revised": written.revised, "refused": fetched.refused, "reach": fetched.reach}
    if fetched.symbol != wanted:
        extra["stored_as"] = f"{fetched.symbol}: {exchange.name} does not list {wanted}; set it in universe.symbols"
    return summary | {name: value for name, value in extra.items() if value}


def _command(context: Context) -> Outcome:
    try:
        exchange = open_exchange(context.arguments.venue or context.settings.universe.venue)
    except ExchangeError as error:
        raise UsageError(str(error)) from error
    since = context.arguments.since
    progress = sys.stderr.isatty() or since is not None
    return run_once(context.clock, context.database, context.settings, exchange, since, progress)


def main(argv: list[str] | None = None) -> int:
    parser = job_parser("Fetch the closed candles that are missing (public data, no key).")
    parser.add_argument("--venue", help="another venue than settings' universe.venue")
    parser.add_argument("--from", dest="since", type=time_argument, help="from then on (default: where it stopped)")
    return run_job_command("candles", parser, _command, argv)


if __name__ == "__main__":
    sys.exit(main())
