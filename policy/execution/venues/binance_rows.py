"""Binance's words and ours: what an order asks for, and its rows as the protocol's; amounts are exact on both ways.

Readers take rows as they came over the wire; KeyError, TypeError, ValueError and ArithmeticError: it is no such row.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from policy.execution.venues.binance_errors import order_id
from policy.execution.venues.protocol import (
    Balance,
    KeyRights,
    LedgerEntry,
    NewOrder,
    Side,
    VenueFill,
    VenueOrder,
    VenueState,
)
from shared.rows import InstrumentRules

MS = 1_000
BIPS = Decimal(10_000)
SIDES: dict[str, Side] = {"BUY": "buy", "SELL": "sell"}
STATES: dict[str, VenueState] = {
    "NEW": "open",
    "PENDING_NEW": "open",  # waits for another order of its list
    "PARTIALLY_FILLED": "open",
    "PENDING_CANCEL": "open",
    "FILLED": "filled",
    "CANCELED": "canceled",
    "REJECTED": "canceled",  # by the engine, unprocessed
    "EXPIRED": "expired",
    "EXPIRED_IN_MATCH": "expired",  # it would have traded with the account itself
}
MARKET_STATUS = {"TRADING": "online"}  # the others (BREAK, HALT, …) take no new order
CREDITED = (1, 6)  # of deposits: on the balance, to trade with at least
WITHDRAWN, RETURNED = (0, 2, 4, 6), (1, 3, 5)  # of withdrawals: taken off the balance; put back on it


def unsupported(order: NewOrder) -> str | None:
    """What Binance cannot do of it; None: it can be sent."""
    if order.type == "limit" and order.limit_price is None:
        return "a limit order needs its price"
    if order.type in ("stop", "take_profit") and order.stop_price is None:
        return f"a {order.type} order needs the price that triggers it"
    if order.type == "trailing_stop" and (order.trail is None or order.trail <= 0 or order.trail * BIPS % 1):
        return f"a trailing stop trails by whole hundredths of a percent, not by {order.trail}"
    if order.post_only and (order.type != "limit" or order.time_in_force != "gtc"):
        return "only a limit order that rests can be post-only"
    if order.time_in_force != "gtc" and order.limit_price is None and order.type != "market":
        return f"what becomes a market order cannot be {order.time_in_force}"
    if order.type == "market" and order.time_in_force == "fok":
        return "a market order cannot be fok"
    return None


def order_parameters(order: NewOrder, symbol_id: str) -> dict[str, str]:
    """Of POST /api/v3/order. A market order takes no timeInForce, for it is ioc by nature."""
    asked = {
        "symbol": symbol_id,
        "side": order.side.upper(),
        "type": _type(order),
        "quantity": _text(order.quantity),
        "newClientOrderId": str(order.client_id),
        "newOrderRespType": "ACK",
    }
    if order.limit_price is not None and order.type != "market":
        asked["price"] = _text(order.limit_price)
        if not order.post_only:
            asked["timeInForce"] = order.time_in_force.upper()
    if order.stop_price is not None and order.type in ("stop", "take_profit", "trailing_stop"):
        asked["stopPrice"] = _text(order.stop_price)
    if order.trail is not None and order.type == "trailing_stop":
        asked["trailingDelta"] = str(int(order.trail * BIPS))
    return asked


def _type(order: NewOrder) -> str:
    """A trailing stop is a stop with a trailingDelta."""
    if order.type == "limit":
        return "LIMIT_MAKER" if order.post_only else "LIMIT"
    if order.type == "market":
        return "MARKET"
    name = "TAKE_PROFIT" if order.type == "take_profit" else "STOP_LOSS"
    return name if order.limit_price is None else f"{name}_LIMIT"


def _text(value: Decimal) -> str:
    """All its digits, never with an exponent."""
    return f"{value:f}"


# --- what it tells ---


def order_of(row: Mapping[str, Any], symbol: str) -> VenueOrder:
    state, stop = STATES[row["status"]], number(row["stopPrice"])
    return VenueOrder(
        venue_order_id=order_id(row["symbol"], whole(row["orderId"])),
        client_id=row["clientOrderId"] or None,
        symbol=symbol,
        side=SIDES[row["side"]],
        state=state,
        quantity=number(row["origQty"]),
        filled=number(row["executedQty"]),
        stop_price=stop or None,
        opened_at=whole(row["time"]) / MS,
        closed_at=None if state == "open" else whole(row["updateTime"]) / MS,
        detail=f"{row['type']} {row['status']}",
    )


def fill_of(row: Mapping[str, Any], symbol: str) -> VenueFill:
    return VenueFill(
        venue_trade_id=order_id(row["symbol"], whole(row["id"])),
        venue_order_id=order_id(row["symbol"], whole(row["orderId"])),
        symbol=symbol,
        side="buy" if _flag(row["isBuyer"]) else "sell",
        quantity=number(row["qty"]),
        price=number(row["price"]),
        cost=number(row["quoteQty"]),
        fee=number(row["commission"]),
        fee_asset=row["commissionAsset"],
        filled_at=whole(row["time"]) / MS,
    )


def trade_entries(fill: VenueFill) -> Iterator[LedgerEntry]:
    """What a trade moved: both of its assets, and that of the fee where it is a third."""
    base, quote = fill.symbol.split("/")
    sign = 1 if fill.side == "buy" else -1
    moved = {base: sign * fill.quantity, quote: -sign * fill.cost}
    for asset in dict.fromkeys((base, quote, fill.fee_asset)):
        yield LedgerEntry(
            id=f"{fill.venue_trade_id}:{asset}",
            kind="trade",
            asset=asset,
            amount=moved.get(asset, Decimal(0)),
            fee=fill.fee if asset == fill.fee_asset else Decimal(0),
            at=fill.filled_at,
            reference=fill.venue_trade_id,
            detail="trade",
        )


def deposit_entries(row: Mapping[str, Any]) -> list[LedgerEntry]:
    """Nothing for one that is not credited yet, or never."""
    if whole(row["status"]) not in CREDITED:
        return []
    return [
        LedgerEntry(
            id=f"deposit:{row['id']}",
            kind="deposit",
            asset=row["coin"],
            amount=number(row["amount"]),
            fee=Decimal(0),
            at=whole(row.get("completeTime") or row["insertTime"]) / MS,
            reference=str(row.get("txId") or row["id"]),
            detail=f"deposit over {row['network']}",
        )
    ]


def withdrawal_entries(row: Mapping[str, Any]) -> list[LedgerEntry]:
    """It leaves the balance when it is asked for; one that fails comes back, as a movement of its own.

    ``amount`` is what arrives, ``transactionFee`` comes on top of it.
    """
    status, amount, fee = whole(row["status"]), number(row["amount"]), number(row["transactionFee"])
    if status not in (*WITHDRAWN, *RETURNED):
        raise ValueError(f"a withdrawal has no status {status}")
    out = LedgerEntry(
        id=f"withdrawal:{row['id']}",
        kind="withdrawal",
        asset=row["coin"],
        amount=-amount,
        fee=fee,
        at=_moment(row["applyTime"]),
        reference=str(row.get("txId") or row["id"]),
        detail=f"withdrawal over {row['network']}, status {status}",
    )
    if status not in RETURNED:
        return [out]
    back_at = _moment(row["completeTime"]) if row.get("completeTime") else out.at
    return [out, replace(out, id=f"{out.id}:back", amount=amount + fee, fee=Decimal(0), at=back_at)]


def balances_of(account: Mapping[str, Any]) -> dict[str, Balance]:
    told: dict[str, Balance] = {}
    for row in account["balances"]:
        free, held = number(row["free"]), number(row["locked"])
        if told.setdefault(row["asset"], Balance(free + held, held)) != Balance(free + held, held):
            raise ValueError(f"two balances of {row['asset']}")
    return told


def rights_of(row: Mapping[str, Any]) -> KeyRights:
    """To move money to another account is to withdraw it, too. There are no nonces, and so no window of them."""
    return KeyRights(
        trade=_flag(row["enableSpotAndMarginTrading"]),
        withdraw=_flag(row["enableWithdrawals"]) or _flag(row["enableInternalTransfer"]),
        ip_restricted=_flag(row["ipRestrict"]),
        nonce_window=None,
    )


def rules_of(row: Mapping[str, Any]) -> InstrumentRules:
    """From a market's filters; either of two filters may name the least cost of an order."""
    filters = {each["filterType"]: each for each in row["filters"]}
    least = filters.get("NOTIONAL") or filters.get("MIN_NOTIONAL") or {"minNotional": "0"}
    return InstrumentRules(
        tick_size=number(filters["PRICE_FILTER"]["tickSize"]),
        lot_size=number(filters["LOT_SIZE"]["stepSize"]),
        min_notional=number(least["minNotional"]),
        min_quantity=number(filters["LOT_SIZE"]["minQty"]),
        status=MARKET_STATUS.get(row["status"], "cancel_only"),
    )


# --- small things ---


def number(text: object) -> Decimal:
    """Of a string: a JSON number may have lost digits on its way."""
    if not isinstance(text, str):
        raise TypeError(f"{text!r} is no amount")
    value = Decimal(text)
    if not value.is_finite():
        raise ValueError(f"{text!r} is no amount")
    return value


def whole(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{value!r} is no whole number")
    return value


def _flag(value: object) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"{value!r} is neither true nor false")
    return value


def _moment(text: str) -> float:
    """Unix seconds of the wallet's own way to write a time, in UTC."""
    return datetime.strptime(text, "%Y-%m-%d %H:%M:%S").replace(tzinfo=UTC).timestamp()
