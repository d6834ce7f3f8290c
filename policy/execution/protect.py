"""Every live position above dust has a stop at the venue, which outlives this program; brackets.py says which, and
this is how to get there from what rests there now.

Before anything else sells, the stop makes room: it is amended down to what will be left, so that both together never
sell more than is held. A crash in between leaves too small a stop, never too much sold, and the next pass mends it.

A target is the stop's other leg: one cancels the other. The stop is the one that rests, for it must outlive us; when
the price has come to the target, the stop makes room and what is held is offered there, immediate or cancel. What is
not taken has its stop back in the same pass.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from typing import Any

from policy.execution.account import read_account
from policy.execution.backoff import must_wait, must_wait_to_change
from policy.execution.brackets import Bracket, Exits, desired_exits, is_dust, is_stop, read_bracket, to_step
from policy.execution.cost_basis import CostUnknown, average_cost, read_positions
from policy.execution.crashpoints import crashpoint
from policy.execution.desk import Desk, Row
from policy.execution.requests import amend, cancel
from shared.db import load_queries

LIFETIME = timedelta(minutes=5)  # of an intent that nobody could send; a new one is written then
LEG_LIFETIME = timedelta(seconds=60)  # of one that sells at once
ZERO = Decimal(0)


def protect(desk: Desk) -> bool:
    """Writes, amends or cancels stops until each position has the one it should have. The new ones are intents, sent
    like all others. True where one was cancelled for its successor, which is written when the account was read."""
    orders, held = desk.ask_together("open_orders", "holdings", now=desk.now())
    holdings = {h["instrument_id"]: h for h in held}
    replaced = False
    for instrument_id, holding in holdings.items():
        mine = [o for o in orders if o["instrument_id"] == instrument_id]
        replaced |= _protect_one(desk, holding, mine)
    for order in orders:
        if order["purpose"] == "protect" and order["instrument_id"] not in holdings:
            cancel(desk, order, "its position is gone")
    return replaced


def _protect_one(desk: Desk, holding: Row, orders: Sequence[Row]) -> bool:
    stops = sorted((o for o in orders if is_stop(o)), key=lambda o: o["state"] != "accepted")
    others = _rest(o for o in orders if o["side"] == "sell" and not is_stop(o))
    exits = _exits(desk, holding, stops, others, read_bracket(desk, holding))
    if not stops:
        if exits.quantity > 0 and not _intended(desk, holding) and not must_wait(desk, holding, exits):
            _write_exit(desk, holding, exits)
        return False
    keep, *surplus = stops
    for order in surplus:
        cancel(desk, order, "one stop a position is enough")
    return _adjust(desk, keep, exits)


def _rest(orders: Iterable[Row]) -> Decimal:
    return sum((o["rest"] for o in orders), ZERO)


def _exits(desk: Desk, holding: Row, stops: Sequence[Row], others: Decimal, bracket: Bracket | None) -> Exits:
    """What the position should have, given what rests. A trailing stop begins at the price when it is placed: one that
    would have to be placed again later would stand lower, and then a plain stop follows the candles up instead."""
    trailing = any(o["type"] == "trailing_stop" for o in stops)
    able = "trailing_stop" in desk.venue.capabilities.order_types
    can_trail = able and (trailing or (bracket is not None and not bracket.guarded))
    resting = max((o["stop_price"] for o in stops if o["stop_price"] is not None), default=None)
    below = Decimal(str(desk.settings.risk.stop_distance))
    return desired_exits(holding, _cost(desk, holding), others, below, resting, bracket, can_trail=can_trail)


def _cost(desk: Desk, holding: Row) -> Decimal | None:
    """What a unit of the position cost on average; None where that is not known, for a position of unknown cost is
    protected all the same."""
    try:
        instrument_id = holding["instrument_id"]  # alone: another's cost may be unknown, and a year of fills is long
        position = read_positions(desk.database, desk.wallet_id, instrument_id=instrument_id).get(instrument_id)
    except CostUnknown as error:
        desk.alert("warning", "cost-unknown", str(error))
        return None
    return average_cost(position) if position else None


def _adjust(desk: Desk, stop: Row, exits: Exits) -> bool:
    if stop["state"] not in ("accepted", "amending", "canceling"):
        return False
    price = exits.stop if stop["type"] == "stop" else None
    trails = stop["type"] == "stop" or exits.trail == _trail_of(desk, stop)
    if trails and stop["quantity"] - stop["filled"] == exits.quantity and price == stop["stop_price"]:
        return False
    if must_wait_to_change(desk, stop, stop["filled"] + exits.quantity, price):
        return False
    if exits.quantity == 0:
        cancel(desk, stop, "nothing is left to protect")
        return False
    if not trails:
        return cancel(desk, stop, "the position is to be left elsewhere")
    amended = amend(desk, stop, stop["filled"] + exits.quantity, price, "the position changed")
    return not amended and not desk.venue.capabilities.amend


def _trail_of(desk: Desk, stop: Row) -> Decimal | None:
    row = desk.database.fetch_one(load_queries("brackets")["trail_of"], {"order_id": stop["order_id"]})
    return row["trail"] if row else None


def make_room(desk: Desk, intent: Row) -> bool:
    """Takes the stop of a position down so that ``intent`` can be sent beside it; False where that is not certain yet:
    then nothing may be sold now."""
    room = _room(desk, intent)
    if room is None:
        return True  # approve() will say what there is to say
    if room.left < 0:
        return intent["purpose"] != "protect" and not room.legs  # approve() counts all but legs, and refuses
    if _rest(room.stops) <= room.left:
        return True
    stops, quantity = room.stops, to_step(room.left, room.holding["lot_size"])
    for stop in stops:
        price = stop["stop_price"]
        if stop is not stops[0] or is_dust(quantity, price or _close(room.holding), room.holding):
            cancel(desk, stop, "its position is being sold")
        else:
            amend(desk, stop, stop["filled"] + quantity, price, "a part is being sold")
    read_account(desk)  # what the stop sold until it was gone must be known before more is sold
    room = _room(desk, intent)
    return room is None or _rest(room.stops) <= max(room.left, ZERO)


@dataclass(frozen=True, slots=True)
class Room:
    """``left`` for ``stops`` of what is held, beside an intent and all else that sells, ``legs`` (targets, exits that
    no stop could make) included; below 0 they would sell more than that."""

    holding: Row
    stops: Sequence[Row]
    legs: Sequence[Row]
    left: Decimal


def _room(desk: Desk, intent: Row) -> Room | None:
    instrument_id = intent["instrument_id"]
    holding = next((h for h in desk.ask("holdings", now=desk.now()) if h["instrument_id"] == instrument_id), None)
    if holding is None:
        return None
    orders = [o for o in desk.ask("open_orders") if o["instrument_id"] == instrument_id and o["side"] == "sell"]
    others = [o for o in orders if not is_stop(o)]
    legs = [o for o in others if o["purpose"] == "protect"]
    left = holding["quantity"] - intent["quantity"] - _rest(others)
    return Room(holding, [o for o in orders if is_stop(o)], legs, left)


def _close(holding: Row) -> Decimal:
    return Decimal(repr(holding["close"] or 0.0))


def _intended(desk: Desk, holding: Row) -> bool:
    intents = desk.ask("intents", now=desk.now())
    return any(i["purpose"] == "protect" and i["instrument_id"] == holding["instrument_id"] for i in intents)


def _write_exit(desk: Desk, holding: Row, exits: Exits) -> None:
    below = f"{desk.settings.risk.stop_distance:.0%} below cost"
    terms: dict[str, Any] = {"type": exits.type}
    if exits.type == "market":
        because = f"its close is not above its stop of {exits.stop}, which does not rest"
    elif exits.type == "trailing_stop":
        because = f"its entry's trailing stop, {exits.trail:.2%} below the highest price"
        terms["trail"] = exits.trail
    else:
        because = f"a stop for every position: its entry's, or {below}, whichever is higher"
        terms["stop_price"] = exits.stop
    lifetime = LEG_LIFETIME if exits.type == "market" else LIFETIME
    write_order(desk, holding, "protect", exits.quantity, because, lifetime, **terms)
    crashpoint("intent.after_protect")


def sell_at_targets(desk: Desk) -> None:
    """Writes an intent for each position whose target was reached, once a candle, unless something sells it already."""
    orders, intents, holdings = desk.ask_together("open_orders", "intents", "holdings", now=desk.now())
    selling = {o["instrument_id"] for o in (*orders, *intents) if o["side"] == "sell" and not is_stop(o)}
    for holding in holdings:
        bracket = None if holding["instrument_id"] in selling else read_bracket(desk, holding)
        stops = [o for o in orders if o["instrument_id"] == holding["instrument_id"] and is_stop(o)]
        target = None if bracket is None else _exits(desk, holding, stops, ZERO, bracket).target
        quantity = to_step(holding["quantity"], holding["lot_size"])
        if target is None or is_dust(quantity, target, holding):
            continue
        write_order(desk, holding, "protect", quantity, f"its target of {target} was reached", LEG_LIFETIME,
                    type="limit", time_in_force="ioc", limit_price=target,
                    sibling_id=stops[0]["order_id"] if stops else None)  # fmt: skip
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
