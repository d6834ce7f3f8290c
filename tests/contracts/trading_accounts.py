"""An account at each emulated venue that trades, for the contract tests; a new venue joins by a line in WORLDS."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from itertools import count
from pathlib import Path
from typing import Any
from uuid import UUID, uuid5

from policy.execution.venues import open_trading
from policy.execution.venues.protocol import Accepted, Credentials, NewOrder, Placed, TakeNonce, TradingVenue
from shared.settings import Settings, VenueSettings
from tests.exchange_emulator.records import Order, View
from tests.exchange_emulator.server import Emulator

SYMBOL, OTHER = "BTC/USDT", "ETH/USD"
MONEY = Decimal(1_000_000)
TRANSPORT = ("hang", "reset", "close", "short_body", "html", "bad_json", "empty", "null_result", "http_5xx", "error")
PATIENCE_S = 1.0  # with a venue that hangs
INSTALLATION = UUID("9c3a0f6e-56b8-4a40-a3b2-4f3d3b1f7d11")
NUMBERS = count(1)


@dataclass(frozen=True)
class World:
    """``order_endpoint`` takes new orders; ``patience``: the name and the value of its adapter's time limit."""

    order_endpoint: str
    patience: tuple[str, float]


WORLDS = {
    "binance": World("order", ("policy.execution.venues.ccxt_trading.TIMEOUT_MS", 1_000 * PATIENCE_S)),
    "kraken": World("AddOrder", ("policy.execution.venues.kraken_trading.TIMEOUT_S", PATIENCE_S)),
}


@dataclass
class Account:
    """One account at the emulator, and the key to it."""

    emulator: Emulator
    venue: str
    name: str
    key: str
    secret: str
    home: Path
    nonces: Iterator[int]

    def open(
        self, key: str | None = None, secret: str | None = None, take_nonce: TakeNonce | None = None
    ) -> TradingVenue:
        at = VenueSettings(rest_url=self.emulator.rest_url, requests_per_s=1_000.0)
        told: dict[str, Any] = {"home": self.home, "venues": {self.venue: at}, "CLOCK_URL": self.emulator.clock_url}
        credentials = Credentials(key or self.key, secret or self.secret)
        take_nonce = take_nonce or self.nonces.__next__
        return open_trading(self.venue, Settings(**told), credentials, take_nonce, [SYMBOL, OTHER])

    @property
    def truth(self) -> View:
        return self.emulator.engine.view(self.name)

    def order_of(self, client_id: UUID) -> Order | None:
        (order,) = [order for order in self.truth.orders if order.client_id == str(client_id)] or [None]
        return order


def tick(price: Decimal) -> Decimal:
    return price.quantize(Decimal("0.1"))


def order(**changes: Any) -> NewOrder:
    told: dict[str, Any] = {"client_id": uuid5(INSTALLATION, str(next(NUMBERS))), "symbol": SYMBOL, "side": "buy",
                            "type": "market", "quantity": Decimal("0.012")}  # fmt: skip
    return NewOrder(**{**told, **changes})


def place(venue: TradingVenue, account: Account, wanted: NewOrder) -> Placed:
    return venue.place(wanted, next(account.nonces))


def placed(venue: TradingVenue, account: Account, wanted: NewOrder) -> str:
    outcome = place(venue, account, wanted)
    assert isinstance(outcome, Accepted), outcome
    return outcome.venue_order_id
