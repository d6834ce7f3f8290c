"""The engine's memory: accounts, keys, orders, fills, ledger; who hears of a change, and the journal that keeps it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from decimal import Decimal
from pathlib import Path
from typing import Any

from tests.exchange_emulator.ground_truth import Journal, Moment
from tests.exchange_emulator.money import reservations
from tests.exchange_emulator.records import (
    Account,
    ApiKey,
    Balance,
    Entry,
    EntryKind,
    Event,
    EventKind,
    Fill,
    Order,
    Refused,
    View,
)

Listener = Callable[[Event], None]
ZERO = Decimal(0)


class Store:
    """Not safe by itself: the engine holds its lock. ``flush`` ends a moment: written first, then told."""

    def __init__(self, market: dict[str, Any], journal: Path | None, now_ns: int) -> None:
        self.at_ns = now_ns
        self.accounts: dict[str, Account] = {}
        self.keys: dict[str, ApiKey] = {}
        self.orders: dict[int, Order] = {}
        self.live: dict[int, Order] = {}  # open, or canceled with a late fill to come
        self.fills: list[Fill] = []
        self.entries: list[Entry] = []
        self.events: list[Event] = []
        self.switches: dict[str, int | None] = {}
        self.listeners: list[Listener] = []
        self.used_nonces: dict[str, set[int]] = defaultdict(set)  # by key, of this process
        self._totals: dict[str, dict[str, Decimal]] = defaultdict(dict)
        self._history: dict[int, list[tuple[int, Order]]] = defaultdict(list)
        self._made_events = self._heard = 0
        self._moment = Moment(now_ns)
        self._journal = None if journal is None else Journal(journal, market)
        if self._journal is not None:
            for moment in self._journal.moments():
                self._apply(moment)

    def _apply(self, moment: Moment) -> None:
        self.at_ns = moment.at_ns
        self._made_events = moment.events
        self.accounts |= {account.name: account for account in moment.accounts}
        self.keys |= {key.key: key for key in moment.keys}
        self.fills += moment.fills
        self.switches |= moment.switches
        for order in moment.orders:
            self._remember(order)
        for entry in moment.entries:
            self._book(entry)

    def flush(self) -> None:
        moment, self._moment = self._moment, Moment(self.at_ns)
        if self._journal is not None and not moment.is_empty:
            moment.at_ns, moment.events = self.at_ns, self._made_events
            last = {order.number: order for order in moment.orders}  # of several states at one moment the last
            moment.orders = list(last.values())
            self._journal.add(moment)
        while self._heard < len(self.events):
            self._heard += 1
            for listener in tuple(self.listeners):
                listener(self.events[self._heard - 1])

    def close(self) -> None:
        if self._journal is not None:
            self._journal.close()

    # --- changes ---

    def put_account(self, account: Account) -> Account:
        self.accounts[account.name] = account
        self._moment.accounts.append(account)
        return account

    def put_key(self, key: ApiKey) -> ApiKey:
        self.keys[key.key] = key
        self._moment.keys.append(key)
        return key

    def put(self, order: Order) -> Order:
        """The order as it is from now on."""
        self._remember(order)
        self._moment.orders.append(order)
        return order

    def set_switch(self, account: str, at_ns: int | None) -> None:
        self.switches[account] = self._moment.switches[account] = at_ns

    def add_fill(self, fill: Fill) -> None:
        self.fills.append(fill)
        self._moment.fills.append(fill)

    def post(
        self, account: str, kind: EntryKind, asset: str, amount: Decimal,
        fee: Decimal = ZERO, fill: int | None = None, detail: str = "",
    ) -> Entry:  # fmt: skip
        balance = self.total(account, asset) + amount - fee
        entry = Entry(
            len(self.entries) + 1, account, kind, asset, amount, fee, balance, self.at_ns, fill, detail
        )  # fmt: skip
        self._book(entry)
        self._moment.entries.append(entry)
        self.emit("ledger", account, entry=entry)
        return entry

    def emit(
        self, kind: EventKind, account: str, order: Order | None = None,
        fill: Fill | None = None, entry: Entry | None = None, reason: str = "",
    ) -> None:  # fmt: skip
        self._made_events += 1
        self.events.append(Event(self._made_events, self.at_ns, account, kind, order, fill, entry, reason))

    def _remember(self, order: Order) -> None:
        self.orders[order.number] = order
        self._history[order.number].append((self.at_ns, order))
        if order.is_open or order.late:
            self.live[order.number] = order
        else:
            self.live.pop(order.number, None)

    def _book(self, entry: Entry) -> None:
        self.entries.append(entry)
        self._totals[entry.account][entry.asset] = entry.balance

    # --- questions ---

    def account(self, name: str) -> Account:
        if name not in self.accounts:
            raise KeyError(f"no account {name!r}; there are {', '.join(self.accounts) or 'none'}")
        return self.accounts[name]

    def total(self, account: str, asset: str) -> Decimal:
        return self._totals[account].get(asset, ZERO)

    def held(self, account: str, besides: Iterable[int] = ()) -> dict[str, Decimal]:
        """By asset, what the live orders but those ``besides`` reserve."""
        left_out = set(besides)
        live = [o for o in self.live.values() if o.account == account and o.number not in left_out]
        return reservations(self.account(account), live)

    def available(self, account: str, asset: str, besides: Iterable[int] = ()) -> Decimal:
        return self.total(account, asset) - self.held(account, besides).get(asset, ZERO)

    def own(self, account: str, number: int) -> Order:
        """An open order of the account."""
        order = self.orders.get(number)
        if order is None or order.account != account or not order.is_open:
            raise Refused("unknown_order", f"no open order {number}")
        return order

    def open_orders(self, account: str) -> list[Order]:
        return [order for order in self.live.values() if order.account == account and order.is_open]

    def siblings(self, order: Order) -> list[Order]:
        """The other open orders of its OCO list."""
        return [
            other
            for other in self.live.values()
            if order.group is not None and other.group == order.group and other.number != order.number and other.is_open
        ]

    def view(self, account: str, as_of_ns: int | None) -> View:
        until = self.at_ns if as_of_ns is None else as_of_ns
        states = (_as_of(states, until) for states in self._history.values())
        orders = [order for order in states if order is not None and order.account == account]
        entries = [entry for entry in self.entries if entry.account == account and entry.at_ns <= until]
        fills = [fill for fill in self.fills if fill.account == account and fill.at_ns <= until]
        held = reservations(self.account(account), [order for order in orders if order.is_open or order.late])
        totals = {entry.asset: entry.balance for entry in entries}
        balances = {asset: Balance(total, held.get(asset, ZERO)) for asset, total in totals.items()}
        return View(tuple(orders), tuple(fills), tuple(entries), balances)


def _as_of(states: list[tuple[int, Order]], at_ns: int) -> Order | None:
    return next((order for since, order in reversed(states) if since <= at_ns), None)
