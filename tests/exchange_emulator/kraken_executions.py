"""Kraken's private channel ``executions`` and the tokens for it, to its documentation; no live venue was asked.

Shapes from docs.kraken.com/exchange/api-reference/spot-websocket-v2/executions. What happens at one moment comes in one
message, orders and trades mixed; a trade always says partially_filled, and ``filled`` follows.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

from tests.exchange_emulator.clock import VirtualClock
from tests.exchange_emulator.engine import Engine
from tests.exchange_emulator.kraken_feeds import rfc3339
from tests.exchange_emulator.kraken_ids import kraken_id
from tests.exchange_emulator.records import Event, Fill, Order

TOKEN_S = 900  # virtual seconds from making a token to its first use
SNAPSHOT_FILLS = 50
TOLD = {"triggered": "status"}  # events whose exec_type is another word
UNTOLD = ("ledger",)
OPEN_AND_CLOSE = ("new", "filled", "canceled", "expired")  # all there is where order_status is false
ORDER_TYPES = {"stop": "stop-loss", "take_profit": "take-profit", "trailing_stop": "trailing-stop"}

Element = dict[str, Any]


class Tokens:
    """What GetWebSocketsToken hands out. Safe for many threads."""

    def __init__(self, clock: VirtualClock) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._made = 0
        self._owners: dict[str, tuple[str, float]] = {}  # token -> account, until when it can be used

    def issue(self, account: str) -> str:
        with self._lock:
            self._made += 1
            token = f"emulated-token-{self._made}"
            self._owners[token] = (account, self._clock.now() + TOKEN_S)
            return token

    def account(self, token: object) -> str | None:
        """Whose it is; None: nobody's, or it has expired."""
        with self._lock:
            account, until = self._owners.get(str(token), ("", 0.0))
            return account if self._clock.now() < until else None


class ExecutionsFeed:
    """One account's subscription, as kraken_feeds.Feed has it."""

    def __init__(self, engine: Engine, account: str, params: dict[str, Any]) -> None:
        self._engine, self._account = engine, account
        self._snap_orders = params.get("snap_orders", True) is True
        self._snap_trades = params.get("snap_trades", False) is True
        self._all = params.get("order_status", True) is True
        self._since = 0

    @property
    def has_snapshot(self) -> bool:
        return self._snap_orders or self._snap_trades

    @property
    def accepted(self) -> dict[str, Any]:
        return {"channel": "executions", "snap_orders": self._snap_orders, "snap_trades": self._snap_trades}

    def snapshot(self, now: float) -> list[Element]:
        """What happens between the two questions comes twice rather than never."""
        self._since = max((event.number for event in self._engine.events(self._account)), default=0)
        view = self._engine.view(self._account)
        orders = {order.number: order for order in view.orders}
        is_open = [order for order in view.orders if order.is_open]
        standing = [_standing(order) for order in is_open] if self._snap_orders else []
        last = view.fills[-SNAPSHOT_FILLS:] if self._snap_trades else ()
        return standing + [_trade(orders[fill.order], fill) for fill in last]

    def updates(self, now: float) -> list[list[Element]]:
        events = self._engine.events(self._account, self._since)
        if events:
            self._since = events[-1].number
        told = [event for event in events if self._is_told(event)]
        return [list(_elements(group)) for _, group in itertools.groupby(told, key=lambda event: event.at_ns)]

    def _is_told(self, event: Event) -> bool:
        return event.kind not in UNTOLD and (self._all or event.kind in OPEN_AND_CLOSE)


def _elements(events: Iterator[Event]) -> Iterator[Element]:
    for event in events:
        assert event.order is not None, event  # only the ledger's have none
        yield _element(event, event.order)


def _element(event: Event, order: Order) -> Element:
    """Which fields come depends on the kind; the shortest, ``new``, has little more than the id."""
    if event.fill is not None:
        return _trade(order, event.fill)
    kind = {"exec_type": TOLD.get(event.kind, event.kind), "timestamp": rfc3339(event.at_ns)}
    if event.kind == "pending_new":
        return _names(order) | _terms(order) | kind | {"order_status": "pending_new"}
    if event.kind == "new":
        return _names(order) | kind | {"order_status": "new"}
    if event.kind in ("triggered", "amended"):
        amended = {"amended": True} if event.kind == "amended" else {}
        return _names(order) | _terms(order) | kind | _progress(order) | {"order_status": _status(order)} | amended
    ended = {"symbol": order.symbol, "side": order.side, "order_qty": order.quantity, "order_status": event.kind}
    reason = {"reason": event.reason} if event.reason else {}
    return _names(order) | kind | ended | _progress(order) | reason


def _standing(order: Order) -> Element:
    """An open order in a snapshot."""
    kind = {"exec_type": "new", "order_status": _status(order), "timestamp": rfc3339(order.opened_ns)}
    return _names(order) | _terms(order) | kind | _progress(order)


def _trade(order: Order, fill: Fill) -> Element:
    """``cum_qty`` is the order's as it is now: in a snapshot it may count later fills."""
    return _names(order) | _progress(order) | {
        "exec_type": "trade",
        "exec_id": kraken_id("T", fill.number),
        "trade_id": fill.number,
        "symbol": fill.symbol,
        "side": fill.side,
        "last_qty": fill.quantity,
        "last_price": fill.price,
        "cost": fill.cost,
        "fees": [{"asset": fill.fee_asset, "qty": fill.fee}],
        "liquidity_ind": "m" if fill.is_maker else "t",
        "order_type": _type(order),
        "order_status": "partially_filled",
        "timestamp": rfc3339(fill.at_ns),
    }  # fmt: skip


def _names(order: Order) -> Element:
    names: Element = {"order_id": kraken_id("O", order.number)}
    if order.client_id is not None:
        names["cl_ord_id"] = order.client_id
    if order.userref is not None:
        names["order_userref"] = order.userref
    return names


def _terms(order: Order) -> Element:
    """What was ordered."""
    terms: Element = {
        "symbol": order.symbol,
        "side": order.side,
        "order_type": _type(order),
        "order_qty": order.quantity,
        "time_in_force": order.time_in_force.upper(),
        "fee_ccy_pref": "fcib" if order.fee_in_base else "fciq",
    }
    if order.limit_price is not None:
        terms |= {"limit_price": order.limit_price, "post_only": order.post_only}
    if order.stop_price is not None:
        terms["triggers"] = {
            "reference": "last",
            "price": order.stop_price if order.trail is None else order.trail * 100,
            "price_type": "static" if order.trail is None else "pct",
            "actual_price": order.stop_price,
            "status": "triggered" if order.is_triggered else "untriggered",
        }
    return terms


def _progress(order: Order) -> Element:
    return {"cum_qty": order.filled, "cum_cost": order.cost, "avg_price": _rounded(order)}


def _rounded(order: Order) -> Decimal:
    return order.average_price.quantize(Decimal("0.00000001"))


def _type(order: Order) -> str:
    if order.type not in ORDER_TYPES:
        return order.type
    return ORDER_TYPES[order.type] + ("" if order.limit_price is None else "-limit")


def _status(order: Order) -> str:
    return "partially_filled" if order.filled else "new"
