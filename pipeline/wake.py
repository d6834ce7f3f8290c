"""Runs scheduled jobs as soon as their candles are in, instead of at their next time.

A notification only brings a run forward: jobs find their own work and keep their cron times, so one that is missed
costs a delay and nothing else.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence

from shared.db import Database, DatabaseError, DatabaseUnavailable, load_queries
from shared.schema import open_database
from shared.settings import Settings

log = logging.getLogger("sextant.schedule")
SETTLE_S = 1.0  # the symbols of one close arrive within moments: one run for all of them
MOST_SYMBOLS = 1_000  # notifications waited out: a stream without a pause must not hold the jobs up for ever
LISTEN_S = 1.0  # how long one wait lasts, and so how fast the end is noticed
RETRY_S = 10.0


def arrived(payloads: Sequence[str], timeframe_s: int) -> bool:
    """Whether candles of this timeframe are among the notifications '<instrument>:<timeframe>:<newest close>'."""
    return any(payload.split(":")[1:2] == [str(timeframe_s)] for payload in payloads)


def wait_for_candles(database: Database, timeframe_s: int, timeout_s: float) -> bool:
    """Waits for candles of this timeframe, and then until nothing more follows: other symbols close with it."""
    if not arrived(database.notifications(timeout_s), timeframe_s):
        return False
    for _ in range(MOST_SYMBOLS):
        if not database.notifications(SETTLE_S):
            break
    return True


def wake(settings: Settings, run: Callable[[], None], ending: threading.Event) -> None:
    """Calls ``run`` each time that candles of the decision clock have come in, until ``ending`` is set."""
    timeframe_s = settings.universe.decision_timeframe_s
    while not ending.is_set():
        database: Database | None = None
        try:
            database = open_database(settings, "cli")
            database.execute(load_queries("cli")["listen_for_candles"])
            while not ending.is_set():
                if wait_for_candles(database, timeframe_s, LISTEN_S):
                    run()
        except (DatabaseError, DatabaseUnavailable) as error:
            log.warning("not listening for candles; jobs run at their times", extra={"why": str(error).strip()})
            ending.wait(RETRY_S)
        finally:
            if database is not None:
                database.close()
