"""Appends each candle once it is closed for sure: over the venue's stream where it has one, else by asking.

Input: the venue of settings.universe (public data, no key). Output: instruments, market_data, candle_revisions,
quarantine, venue_checks, alerts; what went wrong is counted in the log and in job_runs. What becomes of a candle is
decided in feed_state; here is who is listened to, who is asked, and when.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
import threading
from contextlib import suppress

from candles.feed import Feed
from candles.feed_store import JOB
from shared.clock import Clock
from shared.db import Database
from shared.exchanges import Exchange, ExchangeError, open_exchange
from shared.job import Context, Outcome, UsageError, job, job_parser, run_job_command
from shared.settings import Settings

log = logging.getLogger("sextant.feed")


@job(JOB)
def run_feed(
    clock: Clock,
    database: Database,
    settings: Settings,
    exchange: Exchange,
    once: bool = False,
    stop: threading.Event | None = None,
) -> Outcome:
    """Runs until SIGTERM, SIGINT or ``stop``; with ``once`` only until what has closed by now is stored."""
    feed = Feed(clock, database, settings, exchange)
    try:
        asyncio.run(_until_stopped(feed, once, stop))
    except ExceptionGroup as failed:
        raise _first(failed) from failed
    result = feed.result()
    idle = once and not result["new"] and not result["revised"]
    return Outcome("nothing" if idle else "done", result)


def _first(failed: ExceptionGroup[Exception]) -> Exception:
    """What ended the feed; the other tasks only ended with it."""
    first: Exception = failed
    while isinstance(first, ExceptionGroup):
        first = first.exceptions[0]
    return first


async def _until_stopped(feed: Feed, once: bool, stop: threading.Event | None) -> None:
    work = asyncio.ensure_future(feed.run_once() if once else feed.run())
    loop = asyncio.get_running_loop()
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, work.cancel)
    watch = asyncio.ensure_future(_cancel_when(stop, work)) if stop is not None else None
    with suppress(asyncio.CancelledError):
        await work
    if watch is not None:
        watch.cancel()


async def _cancel_when(stop: threading.Event, work: asyncio.Future[None]) -> None:
    while not stop.is_set():
        await asyncio.sleep(0.05)
    work.cancel()


def _command(context: Context) -> Outcome:
    settings = context.settings
    try:
        exchange = open_exchange(
            context.arguments.venue or settings.universe.venue, settings.venues, settings.home_path
        )
    except ExchangeError as error:
        raise UsageError(str(error)) from error
    return run_feed(context.clock, context.database, settings, exchange, context.arguments.once)


def main(argv: list[str] | None = None) -> int:
    parser = job_parser("Append each candle as it closes (public data, no key).")
    parser.add_argument("--once", action="store_true", help="append what has closed by now, then end (for cron)")
    parser.add_argument("--venue", help="another venue than settings' universe.venue")
    return run_job_command("candles", parser, _command, argv)


if __name__ == "__main__":
    sys.exit(main())
