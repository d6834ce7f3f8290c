"""What the engine keeps and tells: requests, orders, fills, ledger entries, events, accounts and keys.

All are frozen: whoever holds one holds it as it was. Amounts are Decimal, times whole nanoseconds since 1970 on the
emulator's clock, ids whole numbers from 1 on (each surface writes them its venue's way).
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import Literal

VenueName = Literal["kraken", "binance"]
Side = Literal["buy", "sell"]
OrderType = Literal["market", "limit", "stop", "take_profit", "trailing_stop"]
TimeInForce = Literal["gtc", "ioc", "fok"]
Ending = Literal["filled", "canceled", "expired"]
State = Literal["open", "filled", "canceled", "expired"]
EntryKind = Literal["trade", "deposit", "withdrawal", "transfer", "staking"]
EventKind = Literal["pending_new", "new", "triggered", "trade", "filled", "canceled", "expired", "amended", "ledger"]
Right = Literal["read", "trade", "withdraw"]
Refusal = Literal[
    "unknown_symbol",
    "invalid",  # makes no sense: a limit order without a price, a quantity of 0
    "tick",
    "lot",
    "minimum",  # quantity
    "cost_minimum",
    "funds",
    "orders_limit",
    "post_only",  # it would take
    "client_id",  # another OPEN order of the account has it
    "deadline",  # the request came too late
    "unknown_order",  # no such open order of the account
]

ORDER_TYPES: tuple[OrderType, ...] = ("market", "limit", "stop", "take_profit", "trailing_stop")
TRIGGERED_TYPES: tuple[OrderType, ...] = ("stop", "take_profit", "trailing_stop")
RIGHTS: tuple[Right, ...] = ("read", "trade", "withdraw")


class Refused(Exception):
    """The engine does not do it, and nothing has changed; the surface says so in its venue's words."""

    def __init__(self, refusal: Refusal, detail: str) -> None:
        super().__init__(f"{refusal}: {detail}")
        self.refusal, self.detail = refusal, detail


@dataclass(frozen=True, slots=True)
class Fees:
    """Fractions of the cost (or of the quantity, where the fee is in base)."""

    maker: Decimal
    taker: Decimal


@dataclass(frozen=True, slots=True)
class Account:
    name: str
    venue: VenueName
    fees: Fees
    orders_limit: int = 80  # open ones of one symbol


@dataclass(frozen=True, slots=True)
class ApiKey:
    """``nonce_window``: how far below the highest nonce one may come late (0: never). ``ips``: () is anywhere."""

    key: str
    secret: str
    account: str
    rights: frozenset[Right]
    nonce_window: int = 0
    ips: tuple[str, ...] = ()
    last_nonce: int = 0
    name: str = ""

    def __repr__(self) -> str:
        return f"ApiKey({self.key}, account={self.account}, rights={sorted(self.rights)})"


@dataclass(frozen=True, slots=True)
class Request:
    """A new order. A triggered type with a ``limit_price`` becomes a limit order when it is triggered, else a market
    order. ``trail``: fraction below the highest (sell) or above the lowest (buy) last price since it was placed."""

    symbol: str  # BASE/QUOTE
    side: Side
    type: OrderType
    quantity: Decimal
    limit_price: Decimal | None = None
    stop_price: Decimal | None = None
    trail: Decimal | None = None
    time_in_force: TimeInForce = "gtc"
    post_only: bool = False
    client_id: str | None = None
    userref: int | None = None
    deadline_ns: int | None = None  # it must reach the engine by then
    expires_ns: int | None = None  # good till then
    fee_in_base: bool = False


@dataclass(frozen=True, slots=True)
class Order:
    """``stop_price`` of a trailing stop is where it stands now. ``cost`` and ``fee`` are sums over its fills,
    ``value`` that of price times quantity before anything was cut off.

    ``group``: orders of one OCO list share it. ``late``: what is still to fill although it was canceled (a fault).
    """

    number: int
    account: str
    symbol: str
    side: Side
    type: OrderType
    quantity: Decimal
    limit_price: Decimal | None
    stop_price: Decimal | None
    trail: Decimal | None
    time_in_force: TimeInForce
    post_only: bool
    client_id: str | None
    userref: int | None
    expires_ns: int | None
    fee_in_base: bool
    state: State
    filled: Decimal
    value: Decimal
    cost: Decimal
    fee: Decimal
    fee_asset: str
    opened_ns: int
    changed_ns: int  # placed or amended last
    closed_ns: int | None
    is_triggered: bool
    peak: Decimal | None  # of a trailing stop: the best last price since it was placed
    group: int | None
    reason: str  # why it ended: "" | "User requested" | "Insufficient funds" | …
    late: Decimal

    @property
    def assets(self) -> tuple[str, str]:
        base, quote = self.symbol.split("/")
        return base, quote

    @property
    def remaining(self) -> Decimal:
        return self.quantity - self.filled

    @property
    def is_open(self) -> bool:
        return self.state == "open"

    @property
    def average_price(self) -> Decimal:
        """0 without fills."""
        return self.value / self.filled if self.filled else Decimal(0)

    @property
    def is_waiting(self) -> bool:
        """For its trigger."""
        return self.type in TRIGGERED_TYPES and not self.is_triggered


@dataclass(frozen=True, slots=True)
class Fill:
    """``entries``: numbers of its two ledger entries, base first; ``cost`` and ``fee`` are what they moved, exactly."""

    number: int
    account: str
    order: int
    symbol: str
    side: Side
    price: Decimal
    quantity: Decimal
    cost: Decimal
    fee: Decimal
    fee_asset: str
    is_maker: bool
    at_ns: int
    entries: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Entry:
    """One movement: the balance changes by ``amount`` - ``fee`` and is then ``balance``. A trade has one an asset."""

    number: int
    account: str
    kind: EntryKind
    asset: str
    amount: Decimal
    fee: Decimal
    balance: Decimal
    at_ns: int
    fill: int | None  # of a trade: the number of its fill
    detail: str  # of others: address, subtype, …


@dataclass(frozen=True, slots=True)
class Event:
    """What a listener gets, in order; numbers run over all accounts. ``order`` is as it was just after it.

    One fill makes a ``trade`` (order.state is still open, order.filled counts it), and the last one then a ``filled``.
    """

    number: int
    at_ns: int
    account: str
    kind: EventKind
    order: Order | None  # of all kinds but ledger
    fill: Fill | None = None  # of trade
    entry: Entry | None = None  # of ledger
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Balance:
    """``total`` includes ``held``, what open orders reserve."""

    total: Decimal
    held: Decimal


@dataclass(frozen=True, slots=True)
class View:
    """One account, now or as it was: each tuple by number, that is oldest first."""

    orders: tuple[Order, ...]
    fills: tuple[Fill, ...]
    entries: tuple[Entry, ...]
    balances: dict[str, Balance]
