"""An engine without a server: a market, a clock that stands still until told, one account with money."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

from shared.rows import InstrumentRules
from tests.exchange_emulator.clock import VirtualClock
from tests.exchange_emulator.engine import Engine
from tests.exchange_emulator.market import NS, Market, Trade
from tests.exchange_emulator.records import Order, Request
from tests.exchange_emulator.server import START

BTC, ETH = "BTC/USD", "ETH/USD"
MARKET = Market((BTC, ETH))
TICK = Decimal("0.01")
START_NS = int(START) * NS


def rules(_venue: str, symbol: str) -> InstrumentRules:
    known = MARKET.rules(symbol)
    return replace(known, lot_size=Decimal("1e-8"), min_notional=Decimal("0.5"), min_quantity=known.lot_size)


class World:
    """Account ``main`` has 100,000 USD and 2 BTC."""

    def __init__(self, journal: Path | None = None, start: float = START) -> None:
        self.clock = VirtualClock(start)
        self.engine = Engine(MARKET, self.clock.now, rules, journal)

    def funded(self) -> World:
        accounts = self.engine.accounts
        accounts.open("main")
        accounts.deposit("main", "USD", Decimal(100_000))
        accounts.deposit("main", "BTC", Decimal(2))
        return self

    def place(self, side: Any, kind: Any, quantity: str, symbol: str = BTC, **more: Any) -> Order:
        more = {name: Decimal(value) if name in PRICES else value for name, value in more.items()}
        return self.engine.place("main", Request(symbol, side, kind, Decimal(quantity), **more))

    def order(self, number: int) -> Order:
        order = self.engine.order("main", number)
        assert order is not None
        return order

    def pass_until(self, trade: Trade) -> None:
        """To the microsecond of ``trade``."""
        self.clock.advance(trade.time_ns / NS - self.clock.now() + 1e-6)


PRICES = ("limit_price", "stop_price", "trail")


def tape(seconds: float, symbol: str = BTC) -> list[Trade]:
    """What will be traded from the start on."""
    return MARKET.trades(symbol, START_NS, START_NS + int(seconds * NS))
