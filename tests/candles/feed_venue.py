"""A venue in this process whose clock, candles and failures a test sets, and whose stream it speaks."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import datetime
from decimal import Decimal

from candles.run_feed import run_feed
from shared.clock import ClockUnavailable, from_unix
from shared.db import Database, role_url
from shared.exchanges.protocol import (
    CandleUpdate,
    Capabilities,
    ExchangeError,
    NotListed,
    StreamEvent,
    StreamState,
    VenueStatus,
)
from shared.job import Outcome
from shared.rows import Candles, InstrumentRules
from shared.settings import FeedSettings, Settings
from tests.helpers import random_candles

STEP, HOUR, DEPTH = 300, 3600, 30
START = 1_700_006_400  # a whole hour
A, B = "AAA/USDT", "BBB/USDT"
DEADLINE_S = 20.0
FEED = FeedSettings(grace_s=0.05, silence_s=0.1, reconnect_s=0.05, reconnect_max_s=0.2)


class Venue:
    """It is its own clock: ``now`` in Unix seconds. ``streams`` False makes it one that can only be asked."""

    name = "test"
    provenance = "real"

    def __init__(self, streams: bool = False) -> None:
        self.capabilities = Capabilities((STEP,), 1000.0, "itself", candle_depth=DEPTH, streams_candles=streams)
        self.series = {
            symbol: random_candles(400, STEP, seed=i, end=START + 100 * STEP) for i, symbol in enumerate((A, B))
        }
        self.unix = float(START + 10)
        self.without_clock = False
        self.skew_s = 0.0  # our clock is ahead of the venue's by so much
        self.said: VenueStatus = "online"
        self.broken: dict[str, str] = {}  # symbol -> kind of error
        self.delisted: set[str] = set()
        self.asked: list[tuple[str, int, int]] = []
        self._listener: tuple[asyncio.AbstractEventLoop, asyncio.Queue[StreamEvent]] | None = None

    # --- Clock ---

    def now(self) -> datetime:
        if self.without_clock:
            raise ClockUnavailable("no answer")
        return from_unix(self.unix)

    # --- Exchange ---

    def resolve(self, symbol: str) -> str:
        if symbol not in self.series:
            raise ExchangeError(f"test lists no {symbol}")
        return symbol

    def rules(self, symbol: str) -> InstrumentRules:
        if symbol in self.delisted:
            raise NotListed(f"test lists no {symbol}")
        return InstrumentRules(Decimal("0.01"), Decimal("0.00001"), Decimal(10), Decimal("0.0001"), "post_only")

    def server_time(self) -> float:
        return self.unix - self.skew_s + 1e-3

    def status(self) -> VenueStatus:
        return self.said

    def candles(self, symbol: str, timeframe_s: int, since: int, until: int) -> Candles:
        self.asked.append((symbol, since, until))
        if symbol in self.broken:
            raise ExchangeError(f"{symbol} is broken", kind=self.broken[symbol])
        return self.truth(symbol, since, min(until, int(self.unix)))

    def truth(self, symbol: str, since: int, until: int) -> Candles:
        series = self.series[symbol]
        return series[(series.as_of > since) & (series.as_of <= until)]

    # --- StreamsCandles ---

    async def stream(
        self, symbols: Sequence[str], timeframe_s: int, feed: FeedSettings | None = None
    ) -> AsyncIterator[StreamEvent]:
        events: asyncio.Queue[StreamEvent] = asyncio.Queue()
        self._listener = asyncio.get_running_loop(), events
        while True:
            yield await events.get()

    def tell(self, *events: StreamEvent) -> None:
        wait_until(lambda: self._listener is not None, "somebody who listens")
        assert self._listener is not None
        loop, queue = self._listener
        for event in events:
            loop.call_soon_threadsafe(queue.put_nowait, event)

    def connect(self) -> None:
        self.tell(StreamState(True, "online"))

    def lose(self) -> None:
        self.tell(StreamState(False, "online"))

    def open_candle(self, symbol: str, closes: int, trades: int = 9) -> None:
        """The candle that closes then, as it will be."""
        candle = self.truth(symbol, closes - 1, closes)
        values = (getattr(candle, name)[0].item() for name in ("open", "high", "low", "close", "volume"))
        self.tell(CandleUpdate(symbol, closes - STEP, *values, trades))


class Running:
    """The daemon in a thread."""

    def __init__(self, venue: Venue, settings: Settings) -> None:
        self._venue, self._settings, self._stop = venue, settings, threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.outcome: Outcome | None = None
        self.error: BaseException | None = None

    def _run(self) -> None:
        database = Database(role_url(self._settings, "candles"))
        try:
            self.outcome = run_feed(self._venue, database, self._settings, self._venue, stop=self._stop)
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

    @property
    def counts(self) -> dict[str, int]:
        assert self.outcome is not None
        counts: dict[str, int] = self.outcome.result["counts"]
        return counts


def wait_until(condition: Callable[[], bool], what: str) -> None:
    until = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < until, f"not within {DEADLINE_S:g} s: {what}"
        time.sleep(0.02)
