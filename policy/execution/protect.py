"""Every live position above dust has a stop at the venue, which outlives this program: what it should be, and how to
get there from what rests there now.

Before anything else sells, the stop makes room: it is amended down to what will be left, so that both together never
sell more than is held. A crash in between leaves too small a stop, never too much sold, and the next pass mends it.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from decimal import ROUND_DOWN, ROUND_FLOOR, Decimal
from typing import Any

from policy.execution.cost_basis import CostUnknown, average_cost, read_positions
from policy.execution.crashpoints import crashpoint
from policy.execution.desk import Desk, Row
from policy.execution.requests import amend, cancel

MOVES_FROM = Decimal("0.01")  # of the stop's price: a smaller change of what a position cost leaves it where it is
LIFETIME = timedelta(minutes=5)  # of an intent that nobody could send; a new one is written then


@dataclass(frozen=True, slots=True)
class Wanted:
    """The stop that a position should have; quantity 0 where it needs none."""

    quantity: Decimal
    stop_price: Decimal


def is_dust(quantity: Decimal, price: Decimal, rules: Row) -> bool:
    """Too little for any order that the venue would take."""
    whole = to_step(quantity, rules["lot_size"])
    return whole <= 0 or whole < rules["min_quantity"] or whole * price < rules["min_notional"]


def to_step(value: Decimal, step: Decimal) -> Decimal:
    return (value / step).to_integral_value(ROUND_DOWN) * step


def wanted_stop(holding: Row, cost: Decimal, other_sells: Decimal, below: Decimal) -> Wanted:
    """The stop for what no other order sells, ``below`` (a fraction) what it cost or is worth, whichever is less:
    an adopted position that fell before must not be sold by being protected."""
    close = Decimal(repr(holding["close"])) if holding["close"] else cost
    price = min(cost, close) * (1 - below)
    ticks = (price / holding["tick_size"]).to_integral_value(ROUND_FLOOR)
    stop_price = max(ticks, Decimal(1)) * holding["tick_size"]
    left = to_step(holding["quantity"] - other_sells, holding["lot_size"])
    return Wanted(Decimal(0) if is_dust(left, stop_price, holding) else left, stop_price)


def protect(desk: Desk) -> None:
    """Writes, amends or cancels stops until each position has the one it should have. The new ones are intents, sent
    like all others."""
    orders = desk.ask("open_orders")
    holdings = {h["instrument_id"]: h for h in desk.ask("holdings", now=desk.now())}
    for instrument_id, holding in holdings.items():
        mine = [o for o in orders if o["instrument_id"] == instrument_id]
        _protect_one(desk, holding, mine)
    for order in orders:
        if order["purpose"] == "protect" and order["instrument_id"] not in holdings:
            cancel(desk, order, "its position is gone")


def _protect_one(desk: Desk, holding: Row, orders: Sequence[Row]) -> None:
    stops = [o for o in orders if o["purpose"] == "protect"]
    others = sum((o["rest"] for o in orders if o["side"] == "sell" and o["purpose"] != "protect"), Decimal(0))
    wanted = wanted_stop(holding, _cost(desk, holding), others, Decimal(str(desk.settings.execution.protective_stop)))
    if not stops:
        if wanted.quantity > 0 and not _intended(desk, holding):
            _write_stop(desk, holding, wanted)
        return
    keep, *surplus = sorted(stops, key=lambda o: o["state"] != "accepted")
    for order in surplus:
        cancel(desk, order, "one stop a position is enough")
    _adjust(desk, keep, wanted)


def _cost(desk: Desk, holding: Row) -> Decimal:
    """What a unit of the position cost on average; the newest close where that is not known, for a position of unknown
    cost is protected all the same."""
    close = Decimal(repr(holding["close"] or 0.0))
    try:
        position = read_positions(desk.database, desk.wallet_id).get(holding["instrument_id"])
    except CostUnknown as error:
        desk.alert("warning", "cost-unknown", str(error))
        return close
    return (average_cost(position) if position else None) or close


def _adjust(desk: Desk, stop: Row, wanted: Wanted) -> None:
    if stop["state"] not in ("accepted", "amending", "canceling"):
        return
    if wanted.quantity == 0:
        cancel(desk, stop, "nothing is left to protect")
        return
    price = stop["stop_price"] or wanted.stop_price
    if abs(wanted.stop_price / price - 1) >= MOVES_FROM:
        price = wanted.stop_price
    if stop["quantity"] - stop["filled"] != wanted.quantity or price != stop["stop_price"]:
        amend(desk, stop, stop["filled"] + wanted.quantity, price, "the position changed")


def make_room(desk: Desk, instrument_id: int, quantity: Decimal) -> bool:
    """Takes the stop of a position down so that ``quantity`` can be sold beside it; False where that is not certain
    yet: then nothing may be sold now."""
    holding = next((h for h in desk.ask("holdings", now=desk.now()) if h["instrument_id"] == instrument_id), None)
    if holding is None:
        return True  # approve() will say what there is to say
    orders = [o for o in desk.ask("open_orders") if o["instrument_id"] == instrument_id and o["side"] == "sell"]
    stops = [o for o in orders if o["purpose"] == "protect"]
    left = holding["quantity"] - quantity - sum((o["rest"] for o in orders if o["purpose"] != "protect"), Decimal(0))
    if sum((o["rest"] for o in stops), Decimal(0)) <= left:
        return True
    wanted = wanted_stop(holding, _cost(desk, holding), holding["quantity"] - left, Decimal(
        str(desk.settings.execution.protective_stop)))  # fmt: skip
    confirmed = True
    for stop in stops:
        if wanted.quantity == 0 or stop is not stops[0]:
            confirmed &= cancel(desk, stop, "its position is being sold")
        else:
            confirmed &= amend(desk, stop, stop["filled"] + wanted.quantity, stop["stop_price"], "a part is being sold")
    return confirmed


def _intended(desk: Desk, holding: Row) -> bool:
    intents = desk.ask("intents", now=desk.now())
    return any(i["purpose"] == "protect" and i["instrument_id"] == holding["instrument_id"] for i in intents)


def _write_stop(desk: Desk, holding: Row, wanted: Wanted) -> None:
    below = desk.settings.execution.protective_stop
    because = f"a stop {below:.0%} below cost for every position"
    terms = {"type": "stop", "stop_price": wanted.stop_price}
    write_order(desk, holding, "protect", wanted.quantity, because, LIFETIME, **terms)
    crashpoint("intent.after_protect")


def write_order(
    desk: Desk, holding: Row, purpose: str, quantity: Decimal, because: str, lifetime: timedelta, **terms: Any
) -> None:
    """An intent of the sender's own, which can only sell; the same one twice is one."""
    number = desk.ask_one("count_orders_like", instrument_id=holding["instrument_id"], purpose=purpose)
    installation = desk.ask_one("installation")
    assert number is not None
    assert installation is not None
    key = f"{desk.wallet_id}:{holding['instrument_id']}:{purpose}:{number['number']}"
    row: Mapping[str, Any] = {
        "type": "market", "time_in_force": "gtc", "limit_price": None, "stop_price": None, "trail": None,
        "sibling_id": None,
    } | terms  # fmt: skip
    desk.write(
        "insert_order",
        id=uuid.uuid5(installation["id"], key),
        instrument_id=holding["instrument_id"],
        purpose=purpose,
        quantity=quantity,
        reference_price=holding["close"] or float(row["stop_price"]),
        because=because,
        at=desk.now(),
        deadline=desk.now() + lifetime,
        **row,
    )
