"""A new order as Binance takes it: which arguments go with which type, and what the market says to it."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING

from tests.exchange_emulator.binance_words import BIPS, ApiError, Arguments, amount, missing, whole
from tests.exchange_emulator.market import NS
from tests.exchange_emulator.records import OrderType, Request, Side, TimeInForce

if TYPE_CHECKING:
    from tests.exchange_emulator.server import Emulator

LEAST_BIPS, MOST_BIPS = 10, 2_000
SIDES: dict[str, Side] = {"BUY": "buy", "SELL": "sell"}
TYPES: dict[str, OrderType] = {
    "MARKET": "market",
    "LIMIT": "limit",
    "LIMIT_MAKER": "limit",
    "STOP_LOSS": "stop",
    "STOP_LOSS_LIMIT": "stop",
    "TAKE_PROFIT": "take_profit",
    "TAKE_PROFIT_LIMIT": "take_profit",
}
TIMES: dict[str, TimeInForce] = {"GTC": "gtc", "IOC": "ioc", "FOK": "fok"}
UNTIMED = ("MARKET", "LIMIT_MAKER", "STOP_LOSS", "TAKE_PROFIT")  # without timeInForce


@dataclass(frozen=True, slots=True)
class Leg:
    """One order among the arguments: of a list of two they begin with above or below, as in abovePrice."""

    given: Arguments
    prefix: str = ""

    def name(self, plain: str) -> str:
        return self.prefix + plain[0].upper() + plain[1:] if self.prefix else plain

    def text(self, plain: str) -> str | None:
        return self.given.get(self.name(plain))

    def require(self, plain: str, is_needed: bool) -> None:
        """It must be there, or must not."""
        if is_needed and self.text(plain) is None:
            raise missing(self.name(plain))
        if not is_needed and self.text(plain) is not None:
            raise ApiError(-1106, f"Parameter '{self.name(plain)}' sent when not required.")


def side_of(given: Arguments) -> Side:
    if "side" not in given:
        raise missing("side")
    if given["side"] not in SIDES:
        raise ApiError(-1117, "Invalid side.")
    return SIDES[given["side"]]


def request_of(emulator: Emulator, symbol: str, leg: Leg, client_id: str | None, until_ns: int) -> Request:
    side, kind = side_of(leg.given), leg.text("type")
    if kind is None:
        raise missing(leg.name("type"))
    if kind not in TYPES:
        raise ApiError(-1116, "Invalid orderType.")
    quantity, bips = amount(leg.given, "quantity"), whole(leg.given, leg.name("trailingDelta"), 0)
    if quantity is None:
        raise missing("quantity")
    leg.require("price", "LIMIT" in kind)
    leg.require("stopPrice", kind.startswith(("STOP", "TAKE")) and not bips)
    leg.require("timeInForce", kind not in UNTIMED)
    time_in_force = leg.text("timeInForce") or "GTC"
    if time_in_force not in TIMES:
        raise ApiError(-1115, "Invalid timeInForce.")
    if bips and (not kind.startswith("STOP_LOSS") or not LEAST_BIPS <= bips <= MOST_BIPS):
        raise ApiError(-1013, "Filter failure: TRAILING_DELTA")
    stop = amount(leg.given, leg.name("stopPrice"))
    _check_market(emulator, symbol, kind, side, stop)
    return Request(
        symbol=symbol,
        side=side,
        type="trailing_stop" if bips else TYPES[kind],
        quantity=quantity,
        limit_price=amount(leg.given, leg.name("price")),
        stop_price=stop,
        trail=bips / BIPS if bips else None,
        time_in_force=TIMES[time_in_force],
        post_only=kind == "LIMIT_MAKER",
        client_id=client_id,
        deadline_ns=until_ns,
        fee_in_base=side == "buy",  # the fee comes off what is received
    )


def _check_market(emulator: Emulator, symbol: str, kind: str, side: Side, stop: Decimal | None) -> None:
    for fault in ("maintenance", "cancel_only", "post_only"):
        rule = emulator.faults.active(fault, symbol, "rest", "order")
        if rule is not None and not (fault == "post_only" and kind == "LIMIT_MAKER"):
            emulator.faults.spend(rule)
            raise ApiError(-2010, "Market is closed.")
    if stop is not None:
        last = emulator.market.last_price(symbol, emulator.engine.now_ns() / NS)
        falls_to_it = (side == "sell") == kind.startswith("STOP")
        if stop >= last if falls_to_it else stop <= last:
            raise ApiError(-2010, "Order would trigger immediately.")
