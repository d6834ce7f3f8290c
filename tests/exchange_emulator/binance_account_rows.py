"""Orders and trades of an account as Binance tells them."""

from __future__ import annotations

from collections.abc import Iterable
from decimal import Decimal
from typing import Any

from tests.exchange_emulator.binance_words import BIPS, NS_PER_MS, text
from tests.exchange_emulator.records import Fill, Order
from tests.exchange_emulator.rest import Call


def client_id(order: Order) -> str:
    return order.client_id or f"web_{order.number}"


def _status(order: Order) -> str:
    if order.state == "open":
        return "PARTIALLY_FILLED" if order.filled else "NEW"
    if order.state == "canceled":
        return "CANCELED" if order.reason == "User requested" else "EXPIRED"
    return order.state.upper()


def _kind(order: Order) -> str:
    if order.type in ("market", "limit"):
        return "LIMIT_MAKER" if order.post_only else order.type.upper()
    name = "TAKE_PROFIT" if order.type == "take_profit" else "STOP_LOSS"
    return name if order.limit_price is None else f"{name}_LIMIT"


def order_row(order: Order, fills: Iterable[Fill]) -> dict[str, Any]:
    """``fills``: of the account, for when it changed last."""
    traded = [fill.at_ns for fill in fills if fill.order == order.number]
    changed_ns = max([order.changed_ns, order.closed_ns or 0, *traded])
    row = {
        "symbol": order.symbol.replace("/", ""),
        "orderId": order.number,
        "orderListId": -1 if order.group is None else order.group,
        "clientOrderId": client_id(order),
        "price": text(order.limit_price or Decimal(0)),
        "origQty": text(order.quantity),
        "executedQty": text(order.filled),
        "cummulativeQuoteQty": text(order.cost),
        "status": _status(order),
        "timeInForce": order.time_in_force.upper(),
        "type": _kind(order),
        "side": order.side.upper(),
        "stopPrice": text(order.stop_price or Decimal(0)),
        "icebergQty": "0.00000000",
        "time": order.opened_ns // NS_PER_MS,
        "updateTime": changed_ns // NS_PER_MS,
        "isWorking": not order.is_waiting,
        "workingTime": -1 if order.is_waiting else order.opened_ns // NS_PER_MS,
        "origQuoteOrderQty": "0.00000000",
        "selfTradePreventionMode": "NONE",
    }
    return row if order.trail is None else row | {"trailingDelta": int(order.trail * BIPS)}


def canceled_row(order: Order, call: Call) -> dict[str, Any]:
    """A cancellation has an id of its own, which stands in the order's place."""
    row = order_row(order, ())
    told = {
        name: value for name, value in row.items() if name not in ("time", "updateTime", "isWorking", "workingTime")
    }
    name = call.arguments.get("newClientOrderId", f"cancel_{order.number}")
    return told | {"origClientOrderId": row["clientOrderId"], "clientOrderId": name, "transactTime": row["updateTime"]}


def trade_row(fill: Fill, order: Order) -> dict[str, Any]:
    return {
        "symbol": fill.symbol.replace("/", ""),
        "id": fill.number,
        "orderId": fill.order,
        "orderListId": -1 if order.group is None else order.group,
        "price": text(fill.price),
        "qty": text(fill.quantity),
        "quoteQty": text(fill.cost),
        "commission": text(fill.fee),
        "commissionAsset": fill.fee_asset,
        "time": fill.at_ns // NS_PER_MS,
        "isBuyer": fill.side == "buy",
        "isMaker": fill.is_maker,
        "isBestMatch": True,
    }
