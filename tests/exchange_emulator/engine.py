"""A matching engine with accounts, venue-neutral, on the emulator's clock: the venues' private halves stand on it.

Market, clock and own orders decide everything: advancing in one step or in many makes identical fills.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any, Literal

from shared.rows import InstrumentRules
from tests.exchange_emulator.accounts import Accounts
from tests.exchange_emulator.checks import check_rules, check_shape
from tests.exchange_emulator.market import NS, Market, Trade
from tests.exchange_emulator.matching import Matcher, is_triggered, trailing, walk
from tests.exchange_emulator.money import hold, trade_amounts
from tests.exchange_emulator.records import Event, Fill, Order, Refused, Request, VenueName, View
from tests.exchange_emulator.store import Listener, Store

ZERO = Decimal(0)
MICROSECONDS = 1_000_000
Rules = Callable[[VenueName, str], InstrumentRules]
CancelTrouble = tuple[Literal["fill_before_cancel", "fill_after_cancel"], float]  # virtual seconds afterwards
Plan = tuple[int, int, Callable[[], Any]]  # when, which, what
USER = "User requested"


class Engine:
    """``emulator.engine``. All methods may be called from any thread; each first brings matching up to the clock.

    Refused (records.py): the engine will not, and nothing changed. KeyError: no such account, key or order number.
    """

    def __init__(self, market: Market, clock: Callable[[], float], rules: Rules, journal: Path | None = None) -> None:
        self._market, self._clock, self._rules = market, clock, rules
        self._lock = threading.RLock()
        self._depth = 0
        told = {"seed": market.seed, "symbols": list(market.symbols)}
        self._store = Store(told, journal, self._clock_ns())
        if self._clock_ns() < self._store.at_ns:
            raise ValueError(f"{journal} goes on until {self._store.at_ns / NS:.3f}: start no earlier than that")
        self._matcher = Matcher(market, self._store, lambda symbol: market.rules(symbol).tick_size)
        self._agenda: list[Plan] = []
        self._made = 0
        self.accounts = Accounts(self._store, self._turn)
        self.cancel_trouble: Callable[[Order], CancelTrouble | None] = lambda _order: None
        for order in [order for order in self._store.live.values() if not order.is_open]:
            self._plan(self._store.at_ns, partial(self._fill_late, order.number))

    # --- time ---

    @contextmanager
    def _turn(self) -> Iterator[int]:
        """One call, at the engine's time: what changed in it is written and told when it ends."""
        with self._lock:
            self._depth += 1
            try:
                if self._depth == 1:
                    self._catch_up(self._clock_ns())
                yield self._store.at_ns
            finally:
                self._depth -= 1
                if self._depth == 0:
                    self._store.flush()

    def _clock_ns(self) -> int:
        """To the microsecond, which a float of Unix seconds has just room for: ids and times survive the JSON."""
        return int(self._clock() * MICROSECONDS) * (NS // MICROSECONDS)

    def advance(self) -> None:
        """Bring matching up to the clock; a pump calls it so that listeners hear in time."""
        with self._turn():
            pass

    def now_ns(self) -> int:
        """The engine's time: use this one, not the clock, for what is said about orders."""
        with self._turn() as now_ns:
            return now_ns

    def _catch_up(self, until_ns: int) -> None:
        """Moment by moment; what the agenda has for a moment comes after the tape's trades of it."""
        while True:
            trades = self._matcher.next_trades(until_ns)
            planned = self._next_planned(until_ns)
            if not trades and planned is None:
                break
            if trades and (planned is None or trades[0][1].time_ns <= planned[0]):
                self._store.at_ns = trades[0][1].time_ns
                for symbol, trade in trades:
                    self._matcher.pass_trade(symbol, trade)
            elif planned is not None:
                at_ns, number, act = planned
                self._store.at_ns = max(self._store.at_ns, at_ns)
                self._agenda = [plan for plan in self._agenda if plan[1] != number]
                act()
            self._store.flush()
        self._store.at_ns = max(self._store.at_ns, until_ns)

    def _next_planned(self, until_ns: int) -> Plan | None:
        plans: list[Plan] = [
            (order.expires_ns, order.number, partial(self._expire, order))
            for order in self._store.live.values()
            if order.is_open and order.expires_ns is not None
        ]
        for account, at_ns in self._store.switches.items():
            if at_ns is not None:
                plans.append((at_ns, 0, partial(self._fire, account)))
        plans += self._agenda
        first = min(plans, key=lambda plan: plan[:2], default=None)
        return None if first is None or first[0] > until_ns else first

    def _plan(self, at_ns: int, act: Callable[[], Any]) -> None:
        self._made -= 1  # below the numbers of orders: no two plans have the same
        self._agenda.append((at_ns, self._made, act))

    def _expire(self, order: Order) -> None:
        self._matcher.end(order, "expired", "Order expired")

    def _fire(self, account: str) -> None:
        """The dead man's switch; afterwards it is off."""
        self._store.set_switch(account, None)
        for order in self._store.open_orders(account):
            self._matcher.end(order, "canceled", "Cancel all orders after")

    # --- orders ---

    def place(self, account: str, request: Request, validate_only: bool = False) -> Order:
        """The order as it is after it took what it could. With ``validate_only`` no order comes into being."""
        with self._turn():
            order = self._drafted(account, request, None)
            trade = self._last_trade(order.symbol)
            self._check(order, request, trade)
            return order if validate_only else self._enter(order, trade)

    def place_oco(self, account: str, requests: tuple[Request, Request]) -> tuple[Order, Order]:
        """Two orders of one symbol: as soon as one of them begins to trade, the other expires."""
        with self._turn():
            if requests[0].symbol != requests[1].symbol:
                raise Refused("invalid", "symbol")
            if requests[0].client_id is not None and requests[0].client_id == requests[1].client_id:
                raise Refused("client_id", "both are called the same")
            group = max((order.group or 0 for order in self._store.orders.values()), default=0) + 1
            drafts = [self._drafted(account, request, group) for request in requests]
            trade = self._last_trade(requests[0].symbol)
            for draft, request in zip(drafts, requests, strict=True):
                self._check(draft, request, trade)
            first = self._enter(drafts[0], trade)
            second = self._store.put(replace(drafts[1], number=len(self._store.orders) + 1))
            self._announce(second)
            if not first.is_open or first.filled:
                return first, self._matcher.end(second, "expired", "OCO")
            second = self._match(second, trade)
            return self._store.orders[first.number], second

    def _drafted(self, account: str, request: Request, group: int | None) -> Order:
        self._store.account(account)
        if request.symbol not in self._market.symbols:
            raise Refused("unknown_symbol", request.symbol)
        check_shape(request)
        base, quote = request.symbol.split("/")
        now_ns, peak, stop = self._store.at_ns, None, request.stop_price
        if request.trail is not None:
            peak = self._last_trade(request.symbol).price
            stop = trailing(request.side, request.trail, peak, self._market.rules(request.symbol).tick_size)
        return Order(
            number=len(self._store.orders) + 1, account=account, symbol=request.symbol, side=request.side,
            type=request.type, quantity=request.quantity, limit_price=request.limit_price, stop_price=stop,
            trail=request.trail, time_in_force=request.time_in_force, post_only=request.post_only,
            client_id=request.client_id, userref=request.userref, expires_ns=request.expires_ns,
            fee_in_base=request.fee_in_base, state="open", filled=ZERO, value=ZERO, cost=ZERO, fee=ZERO,
            fee_asset=base if request.fee_in_base else quote, opened_ns=now_ns, changed_ns=now_ns, closed_ns=None,
            is_triggered=False, peak=peak, group=group, reason="", late=ZERO,
        )  # fmt: skip

    def _check(self, order: Order, request: Request, trade: Trade) -> None:
        check_rules(request, self._rules(self._store.account(order.account).venue, order.symbol), trade.price)
        others = self._store.open_orders(order.account)
        if order.client_id is not None and any(other.client_id == order.client_id for other in others):
            raise Refused("client_id", f"an open order has {order.client_id}")
        self._check_funds(order, trade)
        if sum(other.symbol == order.symbol for other in others) >= self._store.account(order.account).orders_limit:
            raise Refused("orders_limit", f"{order.symbol} has as many open orders as it may")
        if request.deadline_ns is not None and self._store.at_ns > request.deadline_ns:
            raise Refused("deadline", "it came too late")
        if order.post_only and self._would_take(order, trade):
            raise Refused("post_only", "it would take")

    def _check_funds(self, order: Order, trade: Trade) -> None:
        """An order that changes is as good as not there: its own reservation is free for it."""
        account = self._store.account(order.account)
        siblings = [o.number for o in self._store.live.values() if order.group is not None and o.group == order.group]
        asset, needed = hold(order, account)
        if order.type == "market" and order.side == "buy":
            taken = walk(self._matcher.facing(order, trade), order.remaining, None, "buy")
            amounts = [trade_amounts(account, order, price, volume, account.fees.taker) for price, volume in taken]
            needed = sum((cost + (ZERO if order.fee_in_base else fee) for cost, fee in amounts), ZERO)
        if self._store.available(order.account, asset, (order.number, *siblings)) < needed:
            raise Refused("funds", f"{needed} {asset} needed")

    def _would_take(self, order: Order, trade: Trade) -> bool:
        taken = walk(self._matcher.facing(order, trade), order.remaining, order.limit_price, order.side)
        return next(taken, None) is not None

    def _enter(self, order: Order, trade: Trade) -> Order:
        self._announce(self._store.put(order))
        return self._match(order, trade)

    def _announce(self, order: Order) -> None:
        for kind in ("pending_new", "new"):
            self._store.emit(kind, order.account, order)

    def _match(self, order: Order, trade: Trade) -> Order:
        """At once, against the book as it is."""
        if order.is_waiting:
            self._matcher.follow(order.number, trade)
        else:
            self._matcher.take(order, trade)
        return self._store.orders[order.number]

    def amend(
        self, account: str, number: int, quantity: Decimal | None = None, limit_price: Decimal | None = None,
        stop_price: Decimal | None = None, trail: Decimal | None = None, deadline_ns: int | None = None,
    ) -> Order:  # fmt: skip
        """In place: it keeps its number and its fills; ``quantity`` counts what is filled. None leaves a value."""
        with self._turn() as now_ns:
            order = self._store.own(account, number)
            trade = self._last_trade(order.symbol)
            request = Request(
                order.symbol, order.side, order.type, order.quantity if quantity is None else quantity,
                order.limit_price if limit_price is None else limit_price,
                None if order.type == "trailing_stop" else order.stop_price if stop_price is None else stop_price,
                order.trail if trail is None else trail, order.time_in_force, order.post_only,
            )  # fmt: skip
            check_shape(request)
            check_rules(request, self._rules(self._store.account(account).venue, order.symbol), trade.price)
            if request.quantity <= order.filled:
                raise Refused("invalid", "order_qty")
            stop = request.stop_price
            if request.trail is not None and order.peak is not None:
                stop = trailing(order.side, request.trail, order.peak, self._market.rules(order.symbol).tick_size)
            changed = replace(
                order, quantity=request.quantity, limit_price=request.limit_price, stop_price=stop,
                trail=request.trail, changed_ns=now_ns,
            )  # fmt: skip
            self._check_funds(changed, trade)
            if deadline_ns is not None and now_ns > deadline_ns:
                raise Refused("deadline", "it came too late")
            if changed.post_only and self._would_take(changed, trade):
                raise Refused("post_only", "it would take")
            self._store.emit("amended", account, self._store.put(changed))
            if changed.is_waiting and is_triggered(changed, trade.price):
                self._matcher.follow(number, trade)
            elif not changed.is_waiting:
                self._matcher.take(changed, trade)
            return self._store.orders[number]

    def cancel(self, account: str, number: int, reason: str = USER) -> Order:
        """Also what ``cancel_trouble`` makes of it: a fill just before, or one that comes after it was confirmed."""
        with self._turn() as now_ns:
            order = self._store.own(account, number)
            kind, delay_s = self.cancel_trouble(order) or (None, 0.0)
            rules = self._rules(self._store.account(account).venue, order.symbol)
            half = max(order.remaining / 2 // rules.lot_size * rules.lot_size, min(rules.lot_size, order.remaining))
            if kind == "fill_before_cancel":
                order = self._matcher.fill(order, self._price_of(order), half, is_maker=True)
            if kind == "fill_after_cancel":
                order = self._store.put(replace(order, late=half))
                self._plan(now_ns + int(delay_s * NS), partial(self._fill_late, number))
            return self._matcher.end(order, "canceled", reason) if order.is_open else order

    def cancel_all(self, account: str, reason: str = USER) -> list[Order]:
        with self._turn():
            self._store.account(account)
            return [self.cancel(account, order.number, reason) for order in self._store.open_orders(account)]

    def cancel_all_after(self, account: str, timeout_s: float) -> int | None:
        """Sets the dead man's switch and tells when it fires; 0 takes it off."""
        with self._turn() as now_ns:
            self._store.account(account)
            at_ns = now_ns + int(timeout_s * NS) if timeout_s else None
            self._store.set_switch(account, at_ns)
            return at_ns

    def order(self, account: str, number: int) -> Order | None:
        """Open or ended."""
        with self._turn():
            order = self._store.orders.get(number)
            return order if order is not None and order.account == account else None

    def open_orders(self, account: str) -> list[Order]:
        """The oldest first."""
        with self._turn():
            return self._store.open_orders(account)

    def view(self, account: str, as_of_ns: int | None = None) -> View:
        """The account now, or as it was at the end of ``as_of_ns``."""
        with self._turn():
            return self._store.view(account, as_of_ns)

    # --- trouble to order ---

    def force_fill(self, number: int, quantity: Decimal | None = None, price: Decimal | None = None) -> Fill:
        """An open order is filled (wholly, at its own price) without the tape's having traded through it."""
        with self._turn():
            if number not in self._store.orders:
                raise KeyError(f"no order {number!r}")
            order = self._store.own(self._store.orders[number].account, number)
            wanted = order.remaining if quantity is None else quantity
            if not 0 < wanted <= order.remaining:
                raise Refused("invalid", f"{order.remaining} are left to fill")
            self._matcher.fill(order, self._price_of(order) if price is None else price, wanted, is_maker=True)
            return self._store.fills[-1]

    def defer(self, delay_s: float, call: Callable[[], Any]) -> None:
        """``call`` happens that many virtual seconds from now, at that moment of the engine."""
        with self._turn() as now_ns:
            self._plan(now_ns + int(delay_s * NS), call)

    def _fill_late(self, number: int) -> None:
        order = self._store.orders[number]
        if order.late > 0:
            self._matcher.fill(order, self._price_of(order), order.late, is_maker=True)

    def _price_of(self, order: Order) -> Decimal:
        own = order.limit_price if order.limit_price is not None else order.stop_price
        return self._last_trade(order.symbol).price if own is None else own

    def _last_trade(self, symbol: str) -> Trade:
        return self._market.latest_trades(symbol, self._store.at_ns, 1)[0]

    # --- listening ---

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """The listener is called under the engine's lock, in order, from whichever thread: it must be quick (a put
        on a queue) and call nothing of the engine. Returns what ends the subscription."""
        with self._turn():
            self._store.listeners.append(listener)
        return lambda: self._unsubscribe(listener)

    def _unsubscribe(self, listener: Listener) -> None:
        with self._lock:
            self._store.listeners = [known for known in self._store.listeners if known is not listener]

    def events(self, account: str, since: int = 0) -> list[Event]:
        """Those of the account with number > ``since``, from the start of this process on, oldest first."""
        with self._turn():
            return [event for event in self._store.events if event.account == account and event.number > since]

    def close(self) -> None:
        """The journal is complete at any time; this only lets go of its file."""
        with self._lock:
            self._store.close()
