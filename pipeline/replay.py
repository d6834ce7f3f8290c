"""One past tick after another through the jobs themselves: each logs in as its own role, on a replayed clock."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta

from candles import backfill
from encoder import run_encoder
from meta_controller import run_metacontroller
from policy import run_trader
from policy.execution import sender
from shared.clock import ReplayClock, to_unix
from shared.db import Database
from shared.exchanges import Exchange
from shared.schema import open_database
from shared.settings import LAYERS, Settings

Databases = dict[str, Database]


@contextmanager
def logged_in(settings: Settings) -> Iterator[Databases]:
    """A database connection for each layer, as its own role."""
    databases = {layer: open_database(settings, layer) for layer in LAYERS}
    try:
        yield databases
    finally:
        for database in databases.values():
            database.close()


def tick(at: datetime, databases: Databases, settings: Settings, exchange: Exchange) -> None:
    """What the schedule does for the base candle that closes at ``at``: feed, settle, and on the decision clock
    encode, steer; then, after the delay, trade and send."""
    clock = ReplayClock(at)
    backfill.run_once(clock, databases["candles"], settings, exchange)
    sender.run_once(clock, databases["sender"], home=settings.home_path)
    if to_unix(at) % settings.universe.decision_timeframe_s == 0:
        run_encoder.run_once(clock, databases["encoder"], settings)
        run_metacontroller.run_once(clock, databases["meta_controller"], settings)
    clock.set(at + timedelta(seconds=settings.execution.delay_s))
    traded = run_trader.run_once(clock, databases["policy"], settings)
    if traded.result.get("orders"):
        sender.run_once(clock, databases["sender"], home=settings.home_path)


def replay(
    first: datetime,
    last: datetime,
    databases: Databases,
    settings: Settings,
    exchange: Exchange,
    after_tick: Callable[[datetime], object] = lambda at: None,
) -> None:
    """Every base candle close in [first, last], in order."""
    at = first
    while at <= last:
        tick(at, databases, settings, exchange)
        after_tick(at)
        at += timedelta(seconds=settings.universe.base_timeframe_s)
