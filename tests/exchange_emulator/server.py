"""The emulator itself: one port, one thread with its own event loop, a clean end."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from types import TracebackType

from aiohttp import web

from shared.exchanges.simulated import DAY_S, END, EPOCH
from tests.exchange_emulator import binance_rest, control, kraken_private, kraken_rest, kraken_websocket
from tests.exchange_emulator.clock import VirtualClock
from tests.exchange_emulator.engine import Engine
from tests.exchange_emulator.faults import Switchboard
from tests.exchange_emulator.kraken_executions import Tokens
from tests.exchange_emulator.market import Market
from tests.exchange_emulator.rate_limits import Counters, LeakyCounter, MinuteWeight
from tests.exchange_emulator.trouble import VenueRules, cancel_trouble

HOST = "127.0.0.1"
SYMBOLS = ("BTC/USD", "ETH/USD")
START = 1_750_000_030.0  # 2025-06-15T15:07:10Z
GENEROUS_PER_S, GENEROUS_BURST, BINANCE_WEIGHT = 100.0, 1_000.0, 6_000
LEAVE_S = 0.5  # what handlers get to end by themselves


class Emulator:
    """``with Emulator() as emulator:`` serves until the block ends. All attributes may be used from any thread.

    The rate limits start generous; ``kraken_limit`` and ``binance_limit`` can be changed at any time. They count on
    real time, or on the virtual clock with ``virtual_limits``. With a ``journal`` the accounts, orders and fills of an
    earlier run with it go on; ``start`` must not be before the last thing in it (ValueError).
    """

    def __init__(
        self,
        symbols: Sequence[str] = SYMBOLS,
        seed: int = 7,
        start: float = START,
        speed: float = 0.0,
        port: int = 0,
        virtual_limits: bool = False,
        journal: Path | None = None,
    ) -> None:
        if not EPOCH + DAY_S <= start < END:  # a ticker looks a day back
            raise ValueError(f"the market lasts from 2020-01-02 to 2100; it cannot start at {start}: Unix seconds?")
        self.clock = VirtualClock(start, speed)
        self.market = Market(symbols, seed)
        self.faults = Switchboard(self.clock, seed)
        self.requests: Counter[str] = Counter()  # by endpoint
        limits_clock = self.clock.now if virtual_limits else time.monotonic
        self.kraken_limit = LeakyCounter(limits_clock, GENEROUS_PER_S, GENEROUS_BURST)
        self.binance_limit = MinuteWeight(limits_clock, BINANCE_WEIGHT)
        self.rules = VenueRules(self.market, self.faults)
        self.engine = Engine(self.market, self.clock.now, self.rules.of, journal)
        self.engine.cancel_trouble = partial(cancel_trouble, self.faults)
        self.tokens = Tokens(self.clock)  # for private streams
        self.kraken_calls = Counters(limits_clock, GENEROUS_PER_S, GENEROUS_BURST)  # private REST, by key
        self.kraken_orders = Counters(limits_clock, GENEROUS_PER_S, GENEROUS_BURST)  # by account and pair
        self.stopping = asyncio.Event()  # set in the emulator's own loop; handlers that wait must watch it
        self.port = port
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ready = threading.Event()
        self._trouble: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="exchange-emulator", daemon=True)

    @property
    def rest_url(self) -> str:
        """For krakenex' ``api.uri`` and ccxt.kraken's ``urls['api']['public']``."""
        return f"http://{HOST}:{self.port}"

    @property
    def websocket_url(self) -> str:
        return f"ws://{HOST}:{self.port}/v2"

    @property
    def binance_url(self) -> str:
        """In the place of https://api.binance.com."""
        return self.rest_url

    @property
    def clock_url(self) -> str:
        return f"{self.rest_url}/_ctl/clock"

    def __enter__(self) -> Emulator:
        self._thread.start()
        self._ready.wait()
        if self._trouble is not None:
            raise self._trouble
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._loop is not None
        self._loop.call_soon_threadsafe(self.stopping.set)
        self._thread.join()
        self.engine.close()

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except Exception as error:
            if self._ready.is_set():
                raise
            self._trouble = error
            self._ready.set()

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        app = web.Application()
        for surface in (kraken_rest, kraken_private, binance_rest, kraken_websocket, control):
            surface.add_routes(app, self)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=LEAVE_S, handler_cancellation=True)
        await runner.setup()
        try:
            await web.TCPSite(runner, HOST, self.port).start()
            self.port = runner.addresses[0][1]
            self._ready.set()
            await self.stopping.wait()
        finally:
            await runner.cleanup()
