"""A feed that runs against the emulator: real code and real sockets, with deadlines shorter than in real life."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

from candles.run_feed import run_feed
from shared.clock import RemoteClock, Timer, from_unix
from shared.db import Database, role_url
from shared.exchanges import Exchange
from shared.exchanges import kraken as kraken_module
from shared.exchanges.kraken import KrakenExchange
from shared.job import Outcome
from shared.market_data import find_instruments, read_candles
from shared.rows import CANDLE_FIELDS
from shared.settings import FeedSettings, Settings
from tests.exchange_emulator.server import Emulator

STEP, HOUR, DAY = 300, 3600, 86_400
SYMBOLS = ("BTC/USD", "ETH/USD")
START = 1_750_032_000.0 + 40  # a midnight and a little
HASTE = 50.0  # the patience of the REST client runs that much faster
DEADLINE_S = 30.0  # for a condition that a slow machine, too, meets long before
FEED = FeedSettings(grace_s=0.05, silence_s=1.5, reconnect_s=0.02, reconnect_max_s=0.2)
HASTY = Timer(monotonic=lambda: time.monotonic() * HASTE, sleep=lambda s: time.sleep(s / HASTE))


def open_kraken(emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> KrakenExchange:
    monkeypatch.setattr(kraken_module, "TIMEOUT_S", 1.0)
    return KrakenExchange(emulator.rest_url, emulator.websocket_url, timer=HASTY, requests_per_s=20.0)


def feed_settings(settings: Settings, venue: str = "kraken", symbols: Sequence[str] = SYMBOLS) -> Settings:
    universe = settings.universe.model_copy(update={"venue": venue, "symbols": tuple(symbols)})
    return settings.model_copy(update={"universe": universe, "feed": FEED})


class Counts(logging.Handler):
    """What the feed has logged as its counts so far."""

    def __init__(self) -> None:
        super().__init__()
        self.latest: Counter[str] = Counter()

    def emit(self, record: logging.LogRecord) -> None:
        if hasattr(record, "counts"):
            self.latest = Counter(record.counts)

    def of(self, kinds: Sequence[str]) -> int:
        return sum(self.latest[kind] for kind in kinds)


@contextmanager
def counted_log() -> Iterator[Counts]:
    counts, logger = Counts(), logging.getLogger("sextant.feed")
    level = logger.level
    logger.addHandler(counts)
    logger.setLevel(logging.INFO)
    try:
        yield counts
    finally:
        logger.removeHandler(counts)
        logger.setLevel(level)


class Running:
    """A feed's daemon in a thread of this process; ``outcome`` is there once the block has ended."""

    def __init__(self, emulator: Emulator, settings: Settings, exchange: Exchange) -> None:
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(emulator, settings, exchange), daemon=True)
        self.outcome: Outcome | None = None
        self.error: BaseException | None = None

    def _run(self, emulator: Emulator, settings: Settings, exchange: Exchange) -> None:
        database = Database(role_url(settings, "candles"))
        try:
            clock = RemoteClock(emulator.clock_url)
            self.outcome = run_feed(clock, database, settings, exchange, stop=self._stop)
        except BaseException as error:
            self.error = error
        finally:
            database.close()

    def __enter__(self) -> Running:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(DEADLINE_S)
        assert not self._thread.is_alive(), "the feed did not end"
        if self.error is not None:
            raise self.error

    def check_alive(self) -> None:
        if self.error is not None:
            raise self.error

    @property
    def counts(self) -> dict[str, int]:
        assert self.outcome is not None
        counts: dict[str, int] = self.outcome.result["counts"]
        return counts


def wait_until(condition: Callable[[], bool], what: Callable[[], str], deadline_s: float = DEADLINE_S) -> None:
    """Until ``condition`` holds; what it waits for must happen by itself."""
    until = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < until, f"not within {deadline_s:g} s: {what()}"
        time.sleep(0.05)


def step(emulator: Emulator, seconds: float = 30.0) -> None:
    """Virtual time goes on by as much as a busy machine can bear: each step costs it real time as well."""
    emulator.clock.advance(seconds)
    time.sleep(0.008)


def run_until(emulator: Emulator, at: float) -> None:
    while emulator.clock.now() < at:
        step(emulator, min(30.0, at - emulator.clock.now()))


def difference(
    database: Database,
    emulator: Emulator,
    symbol: str,
    timeframe_s: int,
    venue: str = "kraken",
    trades: bool = True,  # whether this venue tells their number
) -> str:
    """How the stored series differs from the truth between its first candle and now; empty: not at all."""
    (instrument,) = find_instruments(database, venue, [symbol])
    now = int(emulator.clock.now())
    stored = read_candles(database, instrument.id, timeframe_s, 0, now)
    if not len(stored):
        return "nothing is stored"
    truth = emulator.market.truth(symbol, timeframe_s, int(stored.as_of[0]) - 1, now)
    if stored.as_of.tolist() != truth.as_of.tolist():
        lacking = sorted(set(truth.as_of.tolist()) - set(stored.as_of.tolist()))
        return f"{symbol} {timeframe_s}: {len(stored)} candles of {len(truth)}; lacks {lacking[:5]}"
    for name in CANDLE_FIELDS if trades else CANDLE_FIELDS[:-1]:
        exact = timeframe_s == STEP or name != "volume"  # an hour's is a sum of floats
        wrong = ~np.isclose(getattr(stored, name), getattr(truth, name), rtol=0 if exact else 1e-9, atol=0)
        if wrong.any():
            at = from_unix(int(stored.as_of[np.argmax(wrong)]))
            return f"{symbol} {timeframe_s}: {name} is wrong in {wrong.sum()} candles, the first closes at {at}"
    return ""


def differences(database: Database, emulator: Emulator, symbols: Sequence[str] = SYMBOLS, **kwargs: Any) -> str:
    pairs = [(symbol, timeframe_s) for symbol in symbols for timeframe_s in (STEP, HOUR)]
    return "; ".join(filter(None, (difference(database, emulator, *pair, **kwargs) for pair in pairs)))


def wait_for_truth(database: Database, emulator: Emulator, symbols: Sequence[str] = SYMBOLS, **kwargs: Any) -> None:
    """Until the stored series are the truth up to the present virtual moment."""

    def found() -> str:
        return differences(database, emulator, symbols, **kwargs)

    wait_until(lambda: not found(), found)
