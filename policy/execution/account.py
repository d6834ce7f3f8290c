"""Reads an account and writes down what it says: fills first, then how orders ended, then money that came or went.

Nothing is inferred. A fill is what the venue lists as a trade; an order has ended when the venue says so and every
trade of it is here; an order that is nowhere was never accepted only after the venue, asked often enough and late
enough, did not have it. Not to have been able to ask says nothing (CouldNotAsk ends the pass).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

from policy.execution.brackets import is_stop
from policy.execution.crashpoints import crashpoint
from policy.execution.desk import Desk, Row
from policy.execution.order_states import FINAL, UNDECIDED
from policy.execution.venues.protocol import LedgerEntry, VenueFill, VenueOrder
from shared.clock import from_unix

OVERLAP_S = 60.0  # what was known last is read again: a venue lists late what happened together
MISSES = 3  # answers without the order
PATIENCE = timedelta(seconds=60)  # between its deadline at the venue and the last of those answers
Listed = Mapping[str, VenueOrder]


def own_id(client_id: str | None) -> UUID | None:
    """The id of an order of our own format: a uuid5; None for any other."""
    try:
        found = UUID(client_id or "")
    except ValueError:
        return None
    return found if found.version == 5 else None


def read_account(desk: Desk) -> None:
    """Brings order_events, fills and external_fills up to what the account says now. CouldNotAsk: try again later;
    what was written by then is true."""
    connected = desk.wallet["connected_at"].timestamp()
    newest = desk.ask_one("newest_fill")
    since_fill = max(connected, newest["at"].timestamp() - OVERLAP_S if newest and newest["at"] else connected)
    ours = desk.ask("open_orders")
    # An order that ends between the two answers is in the later one; asked the other way round it would be in neither.
    shown = desk.venue.open_orders()
    still = {str(o["order_id"]) for o in ours} & {order.client_id for order in shown}
    closed = desk.venue.closed_orders(_earliest(since_fill, [o for o in ours if str(o["order_id"]) not in still]))
    listed = {order.venue_order_id: order for order in (*shown, *closed)}
    undecided = {(o["symbol"], o["side"]) for o in ours if o["state"] in UNDECIDED and str(o["order_id"]) not in
                 {order.client_id for order in listed.values()}}  # fmt: skip
    by_client = {order.client_id: order for order in listed.values() if order.client_id}
    # Of an order that has not ended a trade may be listed late, long after others that came later.
    awaited = [o for o in ours if _has_more(o, by_client.get(str(o["order_id"])))]
    for fill in desk.venue.fills(_earliest(since_fill, awaited)):
        if fill.filled_at >= connected:
            _take_fill(desk, fill, listed, undecided)
    for order in ours:
        told = by_client.get(str(order["order_id"])) or listed.get(order["venue_order_id"] or "")
        if told is None:
            _miss(desk, order)
        else:
            _follow(desk, order, told)
    _look_for_strangers(desk, listed.values())


def _earliest(since: float, orders: Iterable[Row]) -> float:
    """From when on to ask, so that nothing of these orders is left out."""
    first: float = min([since, *(order["sent_at"].timestamp() for order in orders)])
    return first - OVERLAP_S


def _has_more(order: Row, told: VenueOrder | None) -> bool:
    """Whether trades of an order may be there that are not known here."""
    return order["state"] in UNDECIDED or (told is not None and told.filled > order["filled"])


def _take_fill(desk: Desk, fill: VenueFill, listed: Listed, undecided: set[tuple[str, str]]) -> None:
    """Writes one trade down, once; of ours, or external."""
    known = desk.ask_one("known_fill", venue_trade_id=fill.venue_trade_id)
    if known is not None:
        told = {name: getattr(fill, name) for name in known}
        what = f"trade {fill.venue_trade_id} of {fill.symbol}"
        if told != known and desk.find("fill", what, _in_words(known), _in_words(told)):
            desk.alert("critical", f"fill-conflict-{fill.venue_trade_id}", f"the venue now tells trade "
                       f"{fill.venue_trade_id} otherwise than before; what was recorded stays")  # fmt: skip
        return
    placed = listed.get(fill.venue_order_id)
    order_id = own_id(placed.client_id) if placed else None
    order = (desk.ask_one("order_of_client_id", order_id=order_id) if order_id else None) or desk.ask_one(
        "order_of_venue_id", venue_order_id=fill.venue_order_id
    )
    if order is None and placed is None and (fill.symbol, fill.side) in undecided:
        return  # perhaps of the order whose fate is not known yet: the next look will tell
    row = {name: getattr(fill, name) for name in ("venue_trade_id", "side", "quantity", "price", "cost", "fee",
                                                  "fee_asset")}  # fmt: skip
    row |= {"filled_at": from_unix(fill.filled_at), "recorded_at": desk.now()}
    crashpoint("account.before_fill")
    if order is None:
        client_id = placed.client_id if placed else None
        desk.write("insert_external_fill", **row, venue_order_id=fill.venue_order_id, client_order_id=client_id,
                   symbol=fill.symbol)  # fmt: skip
        desk.count("external_fills")
        desk.alert("warning", f"external-fill-{fill.venue_trade_id}", f"{fill.side} of {fill.quantity} {fill.symbol} "
                   f"at {fill.price} (trade {fill.venue_trade_id}) was not made by Sextant: recorded as external, "
                   "left alone")  # fmt: skip
    else:
        desk.write("insert_fill", **row, order_id=order["order_id"])
        desk.count("fills")
        if order["state"] in FINAL:
            desk.alert("critical" if order["state"] == "rejected" else "warning", f"late-fill-{fill.venue_trade_id}",
                       f"a trade of order {order['order_id']} came after the order was {order['state']}: it is "
                       "counted all the same")  # fmt: skip
    crashpoint("account.after_fill")


def _in_words(fill: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in fill.items())


def _follow(desk: Desk, order: Row, told: VenueOrder) -> None:
    """Writes down what the venue says of an order of ours that had not ended."""
    if order["state"] in UNDECIDED:
        desk.write("insert_lookup", order_id=order["order_id"], found=True, at=desk.now())
    if told.state == "open":
        if order["state"] != "accepted":
            desk.record(order["order_id"], "accepted", f"found open at the venue: {told.detail}",
                        venue_order_id=told.venue_order_id, quantity=told.quantity,
                        stop_price=told.stop_price)  # fmt: skip
        elif _was_changed(order, told):
            with desk.database.transaction():
                desk.record(order["order_id"], "amending", "a change that was given up came to the venue late",
                            quantity=told.quantity, stop_price=told.stop_price)  # fmt: skip
                desk.record(order["order_id"], "accepted", "as the venue holds it", venue_order_id=told.venue_order_id,
                            quantity=told.quantity, stop_price=told.stop_price)  # fmt: skip
        return
    filled = _filled(desk, order)
    if filled < told.filled:
        return  # its trades are not all here yet; without them it has not ended for us
    if filled > told.filled:
        desk.find("order", f"order {order['order_id']}", f"{filled} filled", f"{told.filled} filled")
    crashpoint("account.before_end")
    if order["state"] in UNDECIDED:
        desk.record(order["order_id"], "accepted", "found at the venue", venue_order_id=told.venue_order_id)
    end = "filled" if told.filled == told.quantity else told.state
    at = from_unix(told.closed_at) if told.closed_at is not None else None
    desk.record(order["order_id"], end, told.detail, at=at, venue_order_id=told.venue_order_id)
    if is_stop(order) and order["state"] == "accepted" and end != "filled" and not order["sibling_id"]:
        desk.alert("critical", f"stop-gone-{order['order_id']}", f"the venue ended the stop of {order['rest']} "
                   f"{order['symbol']}, unasked ({told.detail}); another takes its place")  # fmt: skip
    if filled > order["quantity"]:
        desk.find("overfill", f"order {order['order_id']}", f"{order['quantity']} ordered", f"{filled} filled")
        desk.alert("critical", f"overfill-{order['order_id']}", f"order {order['order_id']} over {order['quantity']} "
                   f"{order['symbol']} was filled with {filled}")  # fmt: skip
    crashpoint("account.after_end")


def _was_changed(order: Row, told: VenueOrder) -> bool:
    """Whether a resting order is not what was last confirmed: an amendment that nobody heard of took effect after the
    order was looked at. A trailing stop moves by itself."""
    moved = order["stop_price"] is not None and told.stop_price is not None and order["stop_price"] != told.stop_price
    return bool(told.quantity != order["quantity"] or moved)


def _filled(desk: Desk, order: Row) -> Decimal:
    row = desk.ask_one("filled_of", order_id=order["order_id"])
    assert row is not None
    return Decimal(row["filled"])


def _miss(desk: Desk, order: Row) -> None:
    """An order that the venue, which answered, does not have. Where it may never have come there: after MISSES such
    answers, PATIENCE after the moment until which it could have, it certainly did not."""
    now, order_id = desk.now(), order["order_id"]
    desk.write("insert_lookup", order_id=order_id, found=False, at=now)
    deadline = order["sent_at"] + timedelta(seconds=desk.settings.execution.order_deadline_s)
    row = desk.ask_one("misses", order_id=order_id, since=deadline)
    assert row is not None
    if row["misses"] < MISSES or row["last"] - deadline < PATIENCE:
        return
    if order["state"] in UNDECIDED:
        if _filled(desk, order) > 0:
            return  # a trade of it is known: it was there, whatever the lists say
        if order["state"] == "sending":
            desk.record(order_id, "unknown", "it was never learnt whether the venue took it")
        desk.record(order_id, "rejected", f"never accepted: {row['misses']} answers of the venue without it, the last "
                    f"{(row['last'] - deadline).total_seconds():.0f} s after it could have arrived")  # fmt: skip
    else:
        desk.find("order", f"order {order_id}", order["state"], "not listed, neither open nor closed")
        desk.alert("critical", f"order-missing-{order_id}", f"order {order_id} ({order['side']} {order['symbol']}) was "
                   "accepted, and the venue lists it nowhere")  # fmt: skip


def _look_for_strangers(desk: Desk, listed: Iterable[VenueOrder]) -> None:
    """An order of our own format that our ledger does not know: another installation on this key, or a ledger from an
    old backup. What the operator knew of when resuming the wallet is not told again."""
    resumed = desk.wallet["resumed_at"]
    for order in listed:
        order_id = own_id(order.client_id)
        if order_id is None or (resumed is not None and order.opened_at < resumed.timestamp()):
            continue
        if desk.ask_one("order_of_client_id", order_id=order_id) is None:
            desk.find("stranger", f"order {order.venue_order_id} ({order.client_id})", "not in this ledger",
                      f"{order.state}, opened {from_unix(order.opened_at):%Y-%m-%d %H:%M:%S}")  # fmt: skip
            desk.alert("critical", "another-installation", "its account has orders that Sextant made and this database "
                       "does not know: another installation uses this key, or the database is an old one. No entries "
                       "until `make resume`")  # fmt: skip


def read_flows(desk: Desk) -> None:
    """Writes down what came to the account or left it other than by trading."""
    connected = desk.wallet["connected_at"].timestamp()
    newest = desk.ask_one("newest_flow")
    since = max(connected, newest["at"].timestamp() - OVERLAP_S if newest and newest["at"] else connected)
    for entry in desk.venue.ledger(since):
        if entry.kind != "trade" and entry.at >= connected:
            _take_flow(desk, entry)


def _take_flow(desk: Desk, entry: LedgerEntry) -> None:
    """A payment into a wallet that manages all of its quote is its own; any other is unmanaged. What is withdrawn is
    taken from what is unmanaged, and only what goes beyond it from the wallet, at its worth then."""
    amount = entry.amount - entry.fee
    if amount == 0:
        return
    in_quote, own, value = entry.asset == desk.wallet["quote"], Decimal(0), None
    if in_quote and amount > 0 and desk.manages_all:
        own = amount
    elif amount < 0:
        free = next((row["amount"] for row in desk.ask("unmanaged") if row["asset"] == entry.asset), Decimal(0))
        own = min(amount + max(free, Decimal(0)), Decimal(0))
        if own and not in_quote:
            worth = _worth(desk, entry.asset)
            own, value = (own, own * worth) if worth is not None else (Decimal(0), None)
    row = {"asset": entry.asset, "kind": entry.kind, "at": from_unix(entry.at), "recorded_at": desk.now()}
    written = 0
    with desk.database.transaction():
        if amount != own:
            rest = {"amount": amount - own, "managed": False, "value": None, "reference": entry.id}
            written += desk.write("insert_flow", **row, **rest)
        if own and (amount == own or written):  # the split was made when the entry was first told
            reference = entry.id if amount == own else f"{entry.id}:managed"
            part = {"amount": own, "managed": True, "value": value, "reference": reference}
            written += desk.write("insert_flow", **row, **part)
    if written:
        desk.count("cash_flows")
        whose = "the wallet's own" if own == amount else "unmanaged" if own == 0 else f"{own} of it the wallet's own"
        desk.alert("info", f"cash-flow-{entry.id}", f"{entry.kind} of {amount} {entry.asset} ({whose})")


def _worth(desk: Desk, asset: str) -> Decimal | None:
    """Of one unit of a coin that the wallet holds, in quote, at the newest close; None where it holds none."""
    symbol = f"{asset}/{desk.wallet['quote']}"
    closes = [h["close"] for h in desk.ask("holdings", now=desk.now()) if h["symbol"] == symbol]
    return Decimal(repr(closes[0])) if closes and closes[0] else None
