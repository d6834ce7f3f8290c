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
from policy.execution.requests import still_amending
from policy.execution.venues.protocol import LedgerEntry, VenueFill, VenueOrder
from shared.clock import from_unix

OVERLAP_S = 60.0  # before an order was sent: clocks differ
# How long before the last comparison of ledger and account is read again, for venues list late what happened together;
# more of it where that comparison did not match, for then something may be missing.
SETTLED_S, DOUBTED_S = 3_600.0, 48 * 3_600.0
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


def read_account(desk: Desk, since: float | None = None, *, doubted: bool = False) -> None:
    """Brings order_events, fills and external_fills up to what the account says now. CouldNotAsk: try again later;
    what was written by then is true. ``since``: ended orders from then on are listed, too, for a comparison;
    ``doubted``: something may be missing from long before."""
    known_until, ours = settled_until(desk, doubted=doubted), desk.ask("open_orders")
    # An order that ends between the two answers is in the later one; asked the other way round it would be in neither.
    shown = desk.venue.open_orders()
    still = {str(o["order_id"]) for o in ours} & {order.client_id for order in shown}
    away = [o for o in ours if str(o["order_id"]) not in still]
    first = min(_earliest(desk, known_until, away), known_until if since is None else since)
    closed = desk.venue.closed_orders(first)
    desk.listed = first, (*shown, *closed)
    listed = {order.venue_order_id: order for order in (*shown, *closed)}
    undecided = {(o["symbol"], o["side"]) for o in ours if o["state"] in UNDECIDED and str(o["order_id"]) not in
                 {order.client_id for order in listed.values()}}  # fmt: skip
    by_client = {order.client_id: order for order in listed.values() if order.client_id}
    # Of an order that has not ended a trade may be listed late, long after others that came later.
    awaited = [o for o in ours if _has_more(o, by_client.get(str(o["order_id"])))]
    for fill in desk.venue.fills(_earliest(desk, known_until, awaited)):
        if fill.filled_at >= connected_at(desk):
            _take_fill(desk, fill, listed, undecided)
    for order in ours:
        told = by_client.get(str(order["order_id"])) or listed.get(order["venue_order_id"] or "")
        if told is None:
            _miss(desk, order)
        else:
            _follow(desk, order, told)
    _look_for_strangers(desk, listed.values())
    _look_for_doubles(desk, listed.values())


def connected_at(desk: Desk) -> float:
    return float(desk.wallet["connected_at"].timestamp())


def settled_until(desk: Desk, *, doubted: bool = False) -> float:
    """Until when all that happened on the account is known here: some time before ledger and account were compared
    last, for a movement that was missing then would have been found missing. Without it the account's whole history
    would be read each time."""
    newest = desk.ask_one("newest_reconciliation")
    if newest is None:
        return connected_at(desk)
    margin = DOUBTED_S if doubted or newest["unmatched"] else SETTLED_S
    return float(max(connected_at(desk), newest["recorded_at"].timestamp() - margin))


def _earliest(desk: Desk, since: float, orders: Iterable[Row]) -> float:
    """From when on to ask, so that nothing of these orders is left out. What was known to rest at the last comparison
    has not ended, nor been filled unseen, long before it; of what is undecided nothing is known."""
    orders = list(orders)
    if not orders:
        return since - OVERLAP_S
    doubted = settled_until(desk, doubted=True)
    first = [
        o["sent_at"].timestamp() if o["state"] in UNDECIDED else max(o["sent_at"].timestamp(), doubted) for o in orders
    ]
    return float(min([since, *first])) - OVERLAP_S


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
        if still_amending(desk, order) and _was_changed(order, told, "asked_"):
            return  # the request may still be under way: what is listed is no answer to it yet
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


def _was_changed(order: Row, told: VenueOrder, what: str = "") -> bool:
    """Whether a resting order is not what was last confirmed: an amendment that nobody heard of took effect after the
    order was looked at. ``what`` = "asked_": not what the last amendment asked for. A trailing stop moves by itself."""
    stop_price = order[f"{what}stop_price"]
    moved = stop_price is not None and told.stop_price is not None and stop_price != told.stop_price
    return bool(told.quantity != order[f"{what}quantity"] or moved)


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
        since = order["sent_at"].timestamp() - OVERLAP_S
        told = desk.venue.find(order["symbol"], order_id, order["venue_order_id"], since)
        if told is not None:  # asked for by itself it is there, whatever the lists say
            _follow(desk, order, told)
            return
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
    old backup; or one that it gave up. What the operator knew of when resuming the wallet is not told again."""
    resumed = desk.wallet["resumed_at"]
    for order in listed:
        order_id = own_id(order.client_id)
        if order_id is None or (resumed is not None and order.opened_at < resumed.timestamp()):
            continue
        known = desk.ask_one("order_of_client_id", order_id=order_id)
        if known is not None and known["state"] == "rejected" and order.state == "open":
            _take_back(desk, order)
        if known is None:
            desk.find("stranger", f"order {order.venue_order_id} ({order.client_id})", "not in this ledger",
                      f"{order.state}, opened {from_unix(order.opened_at):%Y-%m-%d %H:%M:%S}")  # fmt: skip
            desk.alert("critical", "another-installation", "its account has orders that Sextant made and this database "
                       "does not know: another installation uses this key, or the database is an old one. No entries "
                       "until `make resume`")  # fmt: skip


def _look_for_doubles(desk: Desk, listed: Iterable[VenueOrder]) -> None:
    """Two orders of one intent: a copy of this database works for the same account."""
    numbers: dict[str, list[str]] = {}
    for order in listed:
        if own_id(order.client_id) is not None:
            numbers.setdefault(str(order.client_id), []).append(order.venue_order_id)
    for client_id, twice in numbers.items():
        told = f"at the venue as {', '.join(sorted(twice))}"
        if len(twice) > 1 and desk.find("stranger", f"order {client_id}", "sent once", told):
            desk.alert("critical", f"order-doubled-{client_id}", f"order {client_id} is {told}: does a copy of this "
                       "database work with the same key? No entries until `make resume`")  # fmt: skip


def _take_back(desk: Desk, order: VenueOrder) -> None:
    """An order that certainly was not there, and is: its row has ended, so nothing else would ever look after it."""
    desk.find("order", f"order {order.client_id}", "never accepted", f"open, {order.filled} filled")
    told = f"order {order.client_id} was never accepted, and rests at the venue now: it is cancelled"
    desk.alert("critical", f"order-revived-{order.client_id}", told)
    if desk.mandate() != "halt":
        desk.venue.cancel(order.symbol, order.venue_order_id)


def read_flows(desk: Desk, *, doubted: bool = False) -> None:
    """Writes down what came to the account or left it other than by trading."""
    for entry in desk.venue.ledger(settled_until(desk, doubted=doubted)):
        if entry.kind != "trade" and entry.at >= connected_at(desk):
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
