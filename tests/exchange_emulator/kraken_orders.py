"""Orders as Kraken's private REST reads and writes them."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import datetime
from decimal import ROUND_DOWN, Decimal, InvalidOperation
from typing import Any

from tests.exchange_emulator.kraken_ids import kraken_id
from tests.exchange_emulator.kraken_pairs import Pair
from tests.exchange_emulator.kraken_rest import INVALID, ApiError
from tests.exchange_emulator.market import NS
from tests.exchange_emulator.records import Fill, Order, OrderType, Refusal, Request, TimeInForce

# Kraken's order type -> (the engine's, whether it has a limit price as well)
TYPES: dict[str, tuple[OrderType, bool]] = {
    "market": ("market", False),
    "limit": ("limit", True),
    "stop-loss": ("stop", False),
    "stop-loss-limit": ("stop", True),
    "take-profit": ("take_profit", False),
    "take-profit-limit": ("take_profit", True),
    "trailing-stop": ("trailing_stop", False),
}
NAMES = {shape: name for name, shape in TYPES.items()}
STATUSES = {"open": "open", "filled": "closed", "canceled": "canceled", "expired": "expired"}
WORDS: dict[Refusal, str] = {
    "unknown_symbol": "EQuery:Unknown asset pair",
    "tick": "EOrder:Tick size check failed",
    "lot": f"{INVALID}:volume",
    "minimum": "EOrder:Order minimum not met",
    "cost_minimum": "EOrder:Cost minimum not met",
    "funds": "EOrder:Insufficient funds",
    "orders_limit": "EOrder:Orders limit exceeded",
    "post_only": "EOrder:Post only order",
    "client_id": f"{INVALID}:cl_ord_id",  # not published; ours
    "deadline": "EService:Deadline elapsed",
    "unknown_order": "EOrder:Unknown order",
}
LIFETIMES: dict[str, TimeInForce] = {"GTC": "gtc", "IOC": "ioc", "FOK": "fok", "GTD": "gtc"}
UNSERVED = {"leverage": "none", "displayvol": "", "starttm": "0", "trigger": "last", "close[ordertype]": ""}
FLAGS = ("fciq", "fcib", "post", "nompp")
CLIENT_ID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}|[0-9a-fA-F]{32}|[ -~]{1,18}")
LEAST_DEADLINE_S, MOST_DEADLINE_S = 2, 60
USERREF_LIMIT = 2**31

Arguments = Mapping[str, str]


def is_true(arguments: Arguments, name: str) -> bool:
    """ccxt writes True, others true or 1."""
    return arguments.get(name, "").lower() in ("true", "1")


def number(arguments: Arguments, name: str) -> Decimal | None:
    text = arguments.get(name)
    if text is None or text == "":
        return None
    try:
        value = Decimal(text)
    except InvalidOperation:
        raise ApiError(f"{INVALID}:{name}") from None
    if not value.is_finite():
        raise ApiError(f"{INVALID}:{name}")
    return value


def deadline_ns(arguments: Arguments, now_ns: int) -> int | None:
    """RFC 3339, from two seconds to a minute ahead of what the venue takes for now."""
    if "deadline" not in arguments:
        return None
    try:
        at_ns = int(datetime.fromisoformat(arguments["deadline"]).timestamp() * NS)
    except ValueError:
        raise ApiError(f"{INVALID}:deadline") from None
    ahead_s = (at_ns - now_ns) / NS
    if ahead_s < 0:
        raise ApiError(WORDS["deadline"])
    if ahead_s < LEAST_DEADLINE_S or ahead_s > MOST_DEADLINE_S:
        raise ApiError(f"{INVALID}:deadline")
    return at_ns


def trail(text: str) -> Decimal:
    """``+2%`` as a fraction; offsets in money are not served."""
    share = number({"price": text.removeprefix("+").removesuffix("%")}, "price")
    if share is None or not text.endswith("%"):
        raise ApiError(f"{INVALID}:price")
    return share / 100


def client_id(arguments: Arguments) -> tuple[str | None, int | None]:
    """(cl_ord_id, userref), of which there may be one."""
    known, userref = arguments.get("cl_ord_id"), number(arguments, "userref")
    if known is not None and (not CLIENT_ID.fullmatch(known) or userref is not None):
        raise ApiError(f"{INVALID}:cl_ord_id")
    if userref is not None and (userref % 1 or abs(userref) >= USERREF_LIMIT):
        raise ApiError(f"{INVALID}:userref")
    return known, None if userref is None else int(userref)


def new_order(arguments: Arguments, symbol: str, now_ns: int) -> Request:
    """ApiError: an argument that is missing, unknown or makes no sense, or one that this emulator does not serve."""
    unserved = [name for name, usual in UNSERVED.items() if arguments.get(name, usual) != usual]
    side, lifetime = arguments.get("type"), LIFETIMES.get(arguments.get("timeinforce", "GTC").upper())
    flags = [flag for flag in arguments.get("oflags", "").split(",") if flag]
    volume = number(arguments, "volume")
    shape = TYPES.get(arguments.get("ordertype", ""))
    wrong = {
        "ordertype": shape is None,
        "type": side not in ("buy", "sell"),
        "volume": volume is None,
        "timeinforce": lifetime is None,
        "oflags": not set(flags) <= set(FLAGS) or {"fcib", "fciq"} <= set(flags),
        **dict.fromkeys(unserved, True),
    }
    first_wrong = next((name for name, is_wrong in wrong.items() if is_wrong), None)
    if first_wrong is not None or shape is None or volume is None or lifetime is None:
        raise ApiError(f"{INVALID}:{first_wrong}")
    kind, has_limit = shape
    first = number(arguments, "price") if kind != "trailing_stop" else None
    second = number(arguments, "price2")
    known, userref = client_id(arguments)
    return Request(
        symbol=symbol, side="buy" if side == "buy" else "sell", type=kind, quantity=volume,
        limit_price=first if kind == "limit" else second if has_limit else None,
        stop_price=first if kind in ("stop", "take_profit") else None,
        trail=trail(arguments.get("price", "")) if kind == "trailing_stop" else None,
        time_in_force=lifetime, post_only="post" in flags, client_id=known, userref=userref,
        deadline_ns=deadline_ns(arguments, now_ns), expires_ns=_expiry(arguments, now_ns),
        fee_in_base="fcib" in flags,
    )  # fmt: skip


def _expiry(arguments: Arguments, now_ns: int) -> int | None:
    """``+n`` is n seconds from now, ``n`` a Unix time, 0 none."""
    text = arguments.get("expiretm", "0")
    seconds = number({"expiretm": text}, "expiretm") or Decimal(0)
    if not seconds:
        return None
    at_ns = int(seconds * NS) + (now_ns if text.startswith("+") else 0)
    if at_ns <= now_ns:
        raise ApiError(f"{INVALID}:expiretm")
    return at_ns


def order_type(order: Order) -> str:
    return NAMES[order.type, order.type != "market" and order.limit_price is not None]


def words(order: Order, decimals: int) -> str:
    """``buy 0.10000000 XBTUSD @ limit 99.90``, as the answer to AddOrder."""
    price = _prices(decimals)
    kind = order_type(order).removesuffix("-limit").replace("-", " ")
    at = {"market": "", "limit": price(order.limit_price), "trailing_stop": _percent(order)}.get(
        order.type, price(order.stop_price)
    )
    then = f" -> limit {price(order.limit_price)}" if order.type != "limit" and order.limit_price is not None else ""
    return f"{order.side} {order.quantity:.8f} {Pair(order.symbol).altname} @ {kind} {at}".rstrip() + then


def order_info(order: Order, decimals: int, fills: list[Fill] | None) -> dict[str, Any]:
    """As in OpenOrders, ClosedOrders and QueryOrders; ``fills`` where trades are asked for."""
    price, limit, stop = _prices(decimals), order.limit_price, order.stop_price
    first = limit if order.type == "limit" else stop
    info: dict[str, Any] = {
        "refid": None,
        "userref": order.userref,
        "cl_ord_id": order.client_id,
        "status": STATUSES[order.state],
        "opentm": order.opened_ns / NS,
        "starttm": 0,
        "expiretm": 0 if order.expires_ns is None else order.expires_ns / NS,
        "descr": {
            "pair": Pair(order.symbol).altname,
            "type": order.side,
            "ordertype": order_type(order),
            "price": _percent(order) if order.type == "trailing_stop" else price(first),
            "price2": price(limit) if order.type != "limit" else "0",
            "leverage": "none",
            "order": words(order, decimals),
            "close": "",
        },
        "vol": f"{order.quantity:.8f}",
        "vol_exec": f"{order.filled:.8f}",
        "cost": truncated(order.cost, decimals),
        "fee": truncated(order.fee, 8 if order.fee_in_base else decimals),
        "price": truncated(order.average_price, decimals),
        "stopprice": price(stop),
        "limitprice": price(limit) if order.is_triggered else price(None),
        "misc": "stopped" if order.is_triggered else "",
        "oflags": ",".join(["fcib" if order.fee_in_base else "fciq"] + ["post"] * order.post_only),
        "timeinforce": order.time_in_force.upper(),
    }
    if not order.is_open:
        info |= {"reason": order.reason or None, "closetm": (order.closed_ns or 0) / NS}
    if fills is not None:
        info["trades"] = [kraken_id("T", fill.number) for fill in fills if fill.order == order.number]
    return info


def trade_info(fill: Fill, order: Order, decimals: int, with_ledgers: bool) -> dict[str, Any]:
    """As in TradesHistory: cost and fee are cut off at the pair's decimals; only the ledger has them whole."""
    info: dict[str, Any] = {
        "ordertxid": kraken_id("O", fill.order),
        "postxid": "TKH2SE-M7IF5-CFI7LT",
        "pair": Pair(fill.symbol).id,
        "time": fill.at_ns / NS,
        "type": fill.side,
        "ordertype": order_type(order),
        "price": truncated(fill.price, decimals),
        "cost": truncated(fill.cost, decimals),
        "fee": truncated(fill.fee, 8 if order.fee_in_base else decimals),
        "vol": f"{fill.quantity:.8f}",
        "margin": "0.00000",
        "leverage": "0",
        "misc": "",
        "trade_id": fill.number,
        "maker": fill.is_maker,
    }
    if with_ledgers:
        info["ledgers"] = [kraken_id("L", entry) for entry in fill.entries]
    return info


def truncated(value: Decimal, decimals: int) -> str:
    return str(value.quantize(Decimal(1).scaleb(-decimals), ROUND_DOWN))


def _prices(decimals: int) -> Callable[[Decimal | None], str]:
    return lambda price: "0" if price is None else f"{price:.{decimals}f}"


def _percent(order: Order) -> str:
    return "" if order.trail is None else f"+{order.trail * 100:.4f}%"
