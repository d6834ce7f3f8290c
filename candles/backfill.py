"""Fetches the closed candles that are missing at the end of each series, or from ``--from`` on.

Input: the venue of settings.universe (public data, no key). Output: instruments, market_data.
"""

from __future__ import annotations

import sys
from datetime import datetime
from typing import Any

from tqdm import tqdm

from candles.candle_files import check_candles
from candles.store import Written, add_instrument, stored_span, write_candles
from shared.alerts import raise_alert
from shared.clock import Clock, from_unix, to_unix
from shared.db import Database
from shared.exchanges import Exchange, ExchangeError, open_exchange
from shared.job import Context, JobError, Outcome, Status, UsageError, job, job_parser, run_job_command, time_argument
from shared.settings import Settings

DEFAULT_HISTORY_S = 30 * 86_400
CANDLES_A_REQUEST = 8_640


@job("backfill")
def run_once(
    clock: Clock,
    database: Database,
    settings: Settings,
    exchange: Exchange,
    span_from: datetime | None = None,
    progress: bool = False,
) -> Outcome:
    """Appends what closed by now; one symbol's trouble does not stop the others. Twice changes nothing."""
    results: dict[str, Any] = {}
    failures: dict[str, str] = {}
    for symbol in settings.universe.symbols:
        try:
            results[symbol] = _backfill(clock, database, settings, exchange, symbol, span_from, progress)
        except ExchangeError as error:
            failures[symbol] = str(error)
            raise_alert(database, clock.now(), "warning", f"backfill:{exchange.name}:{symbol}", str(error))
    if failures and not results:
        raise JobError("; ".join(f"{symbol}: {why}" for symbol, why in failures.items()))
    refused = any(result.get("refused") for result in results.values())
    idle = not any(result.get("new") or result.get("revised") for result in results.values())
    status: Status = "refused" if refused else "nothing" if idle and not failures else "done"
    return Outcome(status, results | ({"failures": failures} if failures else {}))


def _backfill(
    clock: Clock,
    database: Database,
    settings: Settings,
    exchange: Exchange,
    wanted: str,
    span_from: datetime | None,
    progress: bool,
) -> dict[str, Any]:
    now, timeframe_s = clock.now(), settings.universe.base_timeframe_s
    until = to_unix(now) // timeframe_s * timeframe_s
    symbol = exchange.resolve(wanted)
    rules = exchange.rules(symbol)
    instrument = add_instrument(database, exchange.name, symbol, timeframe_s, rules, exchange.provenance, now)
    stored = stored_span(database, instrument.id, timeframe_s)
    asked = to_unix(span_from) if span_from else stored[1] if stored else until - DEFAULT_HISTORY_S
    since = asked if exchange.depth is None else max(asked, until - exchange.depth * timeframe_s)
    written, first = Written(), None
    refused: dict[str, int] = {}
    step = CANDLES_A_REQUEST * timeframe_s
    with tqdm(total=max(until - since, 0) // timeframe_s, desc=symbol, unit=" candles", disable=not progress) as bar:
        for start in range(since, until, step):
            end = min(start + step, until)
            candles = exchange.candles(symbol, timeframe_s, start, end)
            keep, reasons = check_candles(candles, timeframe_s, to_unix(now))
            refused = {r: refused.get(r, 0) + reasons.get(r, 0) for r in refused | reasons}
            candles = candles[keep]
            first = int(candles.as_of[0]) if first is None and len(candles) else first
            derive_to_s = settings.universe.decision_timeframe_s
            written += write_candles(database, instrument, timeframe_s, candles, derive_to_s, exchange.name, now)
            bar.update((end - start) // timeframe_s)
    return _summary(wanted, symbol, written, refused, first, asked, since)


def _summary(
    wanted: str, symbol: str, written: Written, refused: dict[str, int], first: int | None, asked: int, since: int
) -> dict[str, Any]:
    summary: dict[str, Any] = {"new": written.new}
    if written.revised:
        summary["revised"] = written.revised
    if refused:
        summary["refused"] = refused
    if symbol != wanted:
        summary["stored_as"] = f"{symbol}: the venue does not list {wanted}; name {symbol} in universe.symbols"
    if first is not None and since > asked:
        summary["reach"] = f"asked from {from_unix(asked)}, the venue serves no further back than {from_unix(first)}"
    return summary


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
