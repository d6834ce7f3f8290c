"""The emulator's engine as a TradingVenue, without a network in between: what the crash schedules trade on.

Trouble is set by call: ``trouble(kind, nth)`` names what happens to the nth call of that kind. Lists may lag
(``lag_s``), and trades may be told otherwise than they were (``retell``; None: not yet).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any, Literal
from uuid import UUID

from policy.execution.venues.protocol import (
    Accepted,
    Balance,
    Changed,
    CouldNotAsk,
    Done,
    FlowKind,
    Gone,
    KeyRights,
    LedgerEntry,
    NewOrder,
    Placed,
    Rejected,
    TakeNonce,
    TradingCapabilities,
    Unknown,
    VenueFill,
    VenueOrder,
)
from shared.clock import from_unix
from shared.exchanges.protocol import VenueStatus
from shared.rows import InstrumentRules
from tests.exchange_emulator.engine import Engine
from tests.exchange_emulator.market import Market
from tests.exchange_emulator.records import Fill, Order, Refused, Request, View

NS = 1_000_000_000
ACCOUNT, KEY = "main", "key-main"
KIND: dict[str, FlowKind] = {"trade": "trade", "deposit": "deposit", "withdrawal": "withdrawal",
                             "transfer": "transfer", "staking": "staking"}  # fmt: skip
# What may happen to a call: it works; it never arrives; it takes effect and nobody learns it; it is refused; it takes
# effect some seconds later and nobody learns it.
Trouble = Literal["none", "lost", "unheard", "refused", "late"]
LATE_S = 2.0


class EngineClock:
    """The engine's virtual time as the jobs' clock."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now

    def now(self) -> datetime:
        return from_unix(self._now())


class EngineVenue:
    """One account; a nonce that is not above all before it is refused, as at the venue."""

    name = "kraken"

    def __init__(self, engine: Engine, market: Market, take_nonce: TakeNonce, *, amend: bool = True) -> None:
        self._engine, self._market, self._take_nonce = engine, market, take_nonce
        self.capabilities = TradingCapabilities(
            deadline=True, amend=amend,
            order_types=("market", "limit", "stop", "take_profit", "trailing_stop"),
        )  # fmt: skip
        self.trouble: Callable[[str, int], Trouble] = lambda _kind, _nth: "none"
        self.venue_status: VenueStatus = "online"
        self.retell: Callable[[VenueFill], VenueFill | None] = lambda fill: fill
        self.lag_s = 0.0  # lists tell the account as it was that long ago
        self.skew_s = 0.0  # of its clock, against everybody else's
        self.fee_in_base = False  # of what is bought
        self.repeats = 1  # so often each trade is listed
        self.calls: Counter[str] = Counter()

    # --- acting ---

    def place(self, order: NewOrder, nonce: int) -> Placed:
        trouble = self._next("place")
        if trouble == "lost":
            return Unknown("the connection broke")
        if not self._engine.accounts.take_nonce(KEY, nonce):
            return Rejected("EAPI:Invalid nonce")
        if trouble == "refused":
            return Rejected("EOrder:Insufficient funds")
        if trouble == "late":
            self._engine.defer(LATE_S, lambda: self._enter(order))
            return Unknown("no answer")
        try:
            placed = self._enter(order)
        except Refused as refused:
            return Unknown("no answer") if trouble == "unheard" else Rejected(str(refused))
        return Unknown("no answer") if trouble == "unheard" else Accepted(str(placed.number))

    def _enter(self, order: NewOrder) -> Order:
        request = Request(
            order.symbol, order.side, order.type, order.quantity, order.limit_price, order.stop_price, order.trail,
            order.time_in_force, order.post_only, str(order.client_id),
            fee_in_base=self.fee_in_base and order.side == "buy",
            deadline_ns=self._deadline_ns(order.deadline),
        )  # fmt: skip
        return self._engine.place(ACCOUNT, request)

    def cancel(self, symbol: str, venue_order_id: str) -> Changed:
        return self._change("cancel", lambda: self._engine.cancel(ACCOUNT, int(venue_order_id)))

    def amend(
        self,
        symbol: str,
        venue_order_id: str,
        quantity: Decimal,
        stop_price: Decimal | None,
        deadline: float | None = None,
    ) -> Changed:
        number = int(venue_order_id)
        return self._change(
            "amend",
            lambda: self._engine.amend(
                ACCOUNT, number, quantity=quantity, stop_price=stop_price, deadline_ns=self._deadline_ns(deadline)
            ),
        )

    def _deadline_ns(self, deadline: float | None) -> int | None:
        return None if deadline is None else int((deadline - self.skew_s) * NS)

    def _change(self, kind: str, act: Callable[[], Any]) -> Changed:
        trouble = self._next(kind)
        if trouble == "lost":
            return Unknown("the connection broke")
        self._sign()
        if trouble == "refused":
            return Rejected("EService:Market in post_only mode")
        if trouble == "late":
            self._engine.defer(LATE_S, lambda: self._quietly(act))
            return Unknown("no answer")
        try:
            act()
        except Refused as refused:
            if trouble == "unheard":
                return Unknown("no answer")
            return Gone(str(refused)) if refused.refusal == "unknown_order" else Rejected(str(refused))
        return Unknown("no answer") if trouble == "unheard" else Done()

    def _quietly(self, act: Callable[[], Any]) -> None:
        try:
            act()
        except Refused:
            return  # nobody is there to hear it

    # --- asking ---

    def open_orders(self) -> Sequence[VenueOrder]:
        self._ask("open_orders")
        return [_order(o) for o in self._view().orders if o.is_open]

    def closed_orders(self, since: float) -> Sequence[VenueOrder]:
        self._ask("closed_orders")
        orders = self._view().orders
        return [_order(o) for o in orders if o.closed_ns is not None and o.closed_ns >= since * NS]

    def find(self, symbol: str, client_id: UUID, venue_order_id: str | None, since: float) -> VenueOrder | None:
        self._ask("find")
        orders = self._engine.view(ACCOUNT).orders
        return next((_order(o) for o in orders if o.client_id == str(client_id)), None)

    def fills(self, since: float) -> Sequence[VenueFill]:
        self._ask("fills")
        listed = [self.retell(_fill(f)) for f in self._view().fills if f.at_ns >= since * NS]
        return [fill for fill in listed if fill is not None] * self.repeats

    def ledger(self, since: float) -> Sequence[LedgerEntry]:
        self._ask("ledger")
        return [
            LedgerEntry(
                str(e.number), KIND[e.kind], e.asset, e.amount, e.fee, e.at_ns / NS, str(e.fill or ""), e.detail
            )
            for e in self._view().entries
            if e.at_ns >= since * NS
        ]

    def balances(self) -> dict[str, Balance]:
        self._ask("balances")
        return {asset: Balance(b.total, b.held) for asset, b in self._engine.view(ACCOUNT).balances.items()}

    def key_rights(self) -> KeyRights:
        self._ask("key_rights")
        key = self._engine.accounts.key(KEY)
        assert key is not None
        return KeyRights("trade" in key.rights, "withdraw" in key.rights, bool(key.ips), key.nonce_window)

    def server_time(self) -> float:
        return float(self._engine.now_ns() // NS) + self.skew_s

    def status(self) -> VenueStatus:
        return self.venue_status

    def rules(self, symbol: str) -> InstrumentRules:
        return self._market.rules(symbol)

    def _view(self) -> View:
        return self._engine.view(ACCOUNT, self._engine.now_ns() - int(self.lag_s * NS))

    def _ask(self, kind: str) -> None:
        if self._next(kind) in ("lost", "unheard", "late"):
            raise CouldNotAsk(f"{kind}: the connection broke")
        self._sign()

    def _sign(self) -> None:
        if not self._engine.accounts.take_nonce(KEY, self._take_nonce()):
            raise CouldNotAsk("EAPI:Invalid nonce")

    def _next(self, kind: str) -> Trouble:
        self.calls[kind] += 1
        return self.trouble(kind, self.calls[kind])


def _order(order: Order) -> VenueOrder:
    return VenueOrder(
        str(order.number), order.client_id, order.symbol, order.side, order.state, order.quantity, order.filled,
        order.stop_price, order.opened_ns / NS, None if order.closed_ns is None else order.closed_ns / NS,
        order.reason or order.state,
    )  # fmt: skip


def _fill(fill: Fill) -> VenueFill:
    return VenueFill(
        str(fill.number), str(fill.order), fill.symbol, fill.side, fill.quantity, fill.price, fill.cost, fill.fee,
        fill.fee_asset, fill.at_ns / NS,
    )  # fmt: skip
