"""What a venue must offer to trade on it. Three outcomes of an order, never two: accepted, rejected, unknown.

All amounts are Decimal, all times Unix seconds of the venue's clock. No method repeats a call that failed: what a
failure means is for the caller to find out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Literal, Protocol
from uuid import UUID

from shared.exchanges.protocol import VenueStatus
from shared.rows import InstrumentRules

Side = Literal["buy", "sell"]
OrderType = Literal["market", "limit", "stop", "take_profit", "trailing_stop"]
TimeInForce = Literal["gtc", "ioc", "fok"]
VenueState = Literal["open", "filled", "canceled", "expired"]
FlowKind = Literal["trade", "deposit", "withdrawal", "transfer", "staking", "other"]
TakeNonce = Callable[[], int]  # the next nonce of the key; raises where another sender has taken over


@dataclass(frozen=True, slots=True)
class Credentials:
    """One key of one wallet. Never printed, logged or stored: ``repr`` shows neither."""

    key: str
    secret: str

    def __repr__(self) -> str:
        return "Credentials(…)"


@dataclass(frozen=True, slots=True)
class TradingCapabilities:
    """What a venue can do about orders, as its documentation says."""

    deadline: bool  # an order can name the moment by which it must reach the matching engine
    amend: bool  # size and trigger of a resting order can be changed in place
    order_types: tuple[OrderType, ...]


@dataclass(frozen=True, slots=True)
class NewOrder:
    """What is sent. ``client_id`` is the intent's own id. ``deadline`` (Unix seconds, the venue's clock): later than
    this it must not reach the engine; for a venue that cannot be told so, None. ``amount`` of a trailing stop's
    ``trail`` is a fraction below the highest price since."""

    client_id: UUID
    symbol: str  # BASE/QUOTE, as instruments have it
    side: Side
    type: OrderType
    quantity: Decimal
    limit_price: Decimal | None = None
    stop_price: Decimal | None = None
    trail: Decimal | None = None
    time_in_force: TimeInForce = "gtc"
    post_only: bool = False
    deadline: float | None = None


@dataclass(frozen=True, slots=True)
class Accepted:
    venue_order_id: str


@dataclass(frozen=True, slots=True)
class Rejected:
    """Certainly not in the book. ``fatal``: no order will pass until somebody looks (a bad key, a lost right).
    ``rule``: which of its rules for orders the venue says was broken (its tick size, …); empty: none."""

    reason: str
    fatal: bool = False
    rule: str = ""


@dataclass(frozen=True, slots=True)
class Unknown:
    """It may be in the book or not: only a look at the venue can tell."""

    reason: str


Placed = Accepted | Rejected | Unknown


@dataclass(frozen=True, slots=True)
class Done:
    """The venue confirmed a cancellation or an amendment; the order itself is still to be read."""


@dataclass(frozen=True, slots=True)
class Gone:
    """The venue knows no such open order: it has ended, or never was."""

    reason: str


Changed = Done | Gone | Rejected | Unknown


@dataclass(frozen=True, slots=True)
class VenueOrder:
    """An order as the venue tells it. ``client_id``: as it was given, or None; ``filled`` of ``quantity`` so far."""

    venue_order_id: str
    client_id: str | None
    symbol: str
    side: Side
    state: VenueState
    quantity: Decimal
    filled: Decimal
    stop_price: Decimal | None
    opened_at: float
    closed_at: float | None
    detail: str  # the venue's own words for its state, its reason


@dataclass(frozen=True, slots=True)
class VenueFill:
    """One trade. ``cost`` and ``fee`` are what really moved, from the venue's ledger where it has one."""

    venue_trade_id: str
    venue_order_id: str
    symbol: str
    side: Side
    quantity: Decimal
    price: Decimal
    cost: Decimal
    fee: Decimal
    fee_asset: str
    filled_at: float


@dataclass(frozen=True, slots=True)
class LedgerEntry:
    """One movement on the account. ``amount`` is signed; the balance changes by amount - fee."""

    id: str
    kind: FlowKind
    asset: str
    amount: Decimal
    fee: Decimal
    at: float
    reference: str  # of a trade: its venue_trade_id
    detail: str  # the venue's own words for it


@dataclass(frozen=True, slots=True)
class Balance:
    """``total`` includes what open orders hold. Staked and otherwise locked assets are not in it."""

    total: Decimal
    held: Decimal


@dataclass(frozen=True, slots=True)
class KeyRights:
    """None: the venue does not tell. ``nonce_window`` must be 0, or a late request can double an order."""

    trade: bool | None
    withdraw: bool | None
    ip_restricted: bool | None
    nonce_window: int | None


class CouldNotAsk(Exception):
    """The venue was not reached or did not answer: nothing is known. Never to be read as an empty answer."""

    def __init__(self, message: str, *, fatal: bool = False) -> None:
        super().__init__(message)
        self.fatal = fatal  # no call will pass until somebody looks: a bad key, a lost right


class TradingVenue(Protocol):
    """One account. Not safe for several threads: the sender makes one call after the other, each with the next nonce.

    Methods that ask raise CouldNotAsk where there is no complete, well-formed answer; they never return half of one.
    Methods that act (place, cancel, amend) never raise for what the venue or the network does: they say Unknown.
    """

    name: str
    capabilities: TradingCapabilities

    def place(self, order: NewOrder, nonce: int) -> Placed:
        """Sends exactly one request, once."""
        ...

    def cancel(self, symbol: str, venue_order_id: str) -> Changed: ...

    def amend(
        self,
        symbol: str,
        venue_order_id: str,
        quantity: Decimal,
        stop_price: Decimal | None,
        deadline: float | None = None,
    ) -> Changed:
        """``quantity``: the whole new size, what is filled included; ``deadline`` as an order's. Rejected where
        capabilities.amend is False."""
        ...

    def open_orders(self) -> Sequence[VenueOrder]:
        """All of the account's, whoever placed them."""
        ...

    def closed_orders(self, since: float) -> Sequence[VenueOrder]:
        """Those that ended at or after ``since``, all pages."""
        ...

    def find(self, symbol: str, client_id: UUID, venue_order_id: str | None, since: float) -> VenueOrder | None:
        """One order wherever it is, open or closed; None: the venue answered, and it is nowhere since ``since``."""
        ...

    def fills(self, since: float) -> Sequence[VenueFill]:
        """All of the account's at or after ``since``, all pages, oldest first."""
        ...

    def ledger(self, since: float) -> Sequence[LedgerEntry]:
        """All movements at or after ``since``, trades included, all pages, oldest first."""
        ...

    def balances(self) -> dict[str, Balance]:
        """By asset, in the names that symbols use (BTC, not XXBT); assets of which there is nothing may be missing."""
        ...

    def key_rights(self) -> KeyRights: ...

    def server_time(self) -> float: ...

    def status(self) -> VenueStatus: ...

    def rules(self, symbol: str) -> InstrumentRules: ...
