"""The three things that are asked of a venue about an order, each written down before and after: send, cancel, amend.

Sending happens once an intent, ever. Cancelling and amending say what shall be, not what shall change: they may be
asked for again. Each looks first whether the wallet was halted meanwhile: then nothing is asked, nor written down.
"""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal

from policy.execution.backoff import LONGEST
from policy.execution.brackets import is_stop
from policy.execution.crashpoints import crashpoint
from policy.execution.desk import Desk, Row
from policy.execution.venues.protocol import Accepted, Changed, Done, Gone, NewOrder, Rejected
from shared.clock import from_unix


class KeyRefused(Exception):
    """The venue does not accept the key or its rights: nothing more will pass until somebody looks."""


def send(desk: Desk, intent: Row) -> str:
    """Offers one intent to approve(), and sends what it lets through; the state that is known afterwards."""
    order_id = intent["order_id"]
    # Counted from before the last look at what forbids it: a sender that falls asleep between the two comes too late.
    deadline = desk.venue_now() + desk.settings.execution.order_deadline_s
    mandate = desk.mandate()
    if mandate == "halt" or (intent["side"] == "buy" and mandate != "trade"):
        return "intended"
    crashpoint("send.before_approval")
    with desk.database.transaction():
        nonce = desk.session.take_nonce()  # first: it holds the epoch, and a superseded sender goes no further
        verdict = desk.ask_one("approve", id=order_id, at=desk.now(), epoch=desk.session.epoch)
        refusal = verdict["refusal"] if verdict else "approve() does not know this order"
        if refusal is not None:
            desk.record(order_id, "rejected", refusal)
            if intent["side"] == "sell":  # an entry that may not go out is no news; what cannot be left is
                _tell_of_rejection(desk, intent, refusal)
            return "rejected"
        desk.record(order_id, "sending", f"epoch {desk.session.epoch}, to arrive by {from_unix(deadline):%H:%M:%S.%f}")
    desk.listed = None
    crashpoint("send.before_request")
    placed = desk.venue.place(_new_order(desk, intent, deadline), nonce)
    crashpoint("send.after_request")
    if isinstance(placed, Accepted):
        event = "accepted"
        desk.record(order_id, "accepted", "by the venue", venue_order_id=placed.venue_order_id)
    elif isinstance(placed, Rejected):
        event = "rejected"
        desk.record(order_id, "rejected", placed.reason)
        _tell_of_rejection(desk, intent, placed.reason)
        _tell_of_rule(desk, intent["symbol"], placed)
    else:
        event = "unknown"
        desk.record(order_id, "unknown", placed.reason)
        desk.alert("warning", f"order-unknown-{order_id}", f"{intent['side']} of {intent['quantity']} "
                   f"{intent['symbol']}: whether the venue took it is not known ({placed.reason}); it is looked for, "
                   "and not sent again")  # fmt: skip
    crashpoint("send.after_record")
    if isinstance(placed, Rejected) and placed.fatal:
        raise KeyRefused(placed.reason)
    return event


def _tell_of_rejection(desk: Desk, intent: Row, reason: str) -> None:
    """A position without its stop is told about by itself: no other rejection of the day may hide it."""
    protects = intent["purpose"] == "protect"
    key = f"{'stop' if protects else 'order'}-rejected-{intent['symbol']}"
    told = f"{intent['side']} of {intent['quantity']} {intent['symbol']} ({intent['purpose']}) was rejected: {reason}"
    if is_stop(intent):
        minutes = LONGEST.total_seconds() / 60
        told += f". Its position has no stop: it is tried again after pauses of up to {minutes:.0f} minutes"
    desk.alert("critical" if protects else "warning", key, told)


def _tell_of_rule(desk: Desk, symbol: str, refused: Rejected) -> None:
    """A venue that changed its rules takes no order that is made by the old ones; candles alone reads them anew."""
    if refused.rule:
        venue = desk.wallet["venue"]
        desk.alert("warning", f"rule-broken-{symbol}", f"{venue} refuses an order of {symbol} by its {refused.rule}: "
                   "it demands something else than what is known here (instruments). "
                   f"`make refresh-rules VENUE={venue}` reads it now, else the nightly job will")  # fmt: skip


def _new_order(desk: Desk, intent: Row, deadline: float) -> NewOrder:
    return NewOrder(
        client_id=intent["order_id"],
        symbol=intent["symbol"],
        side=intent["side"],
        type=intent["type"],
        quantity=intent["quantity"],
        limit_price=intent["limit_price"],
        stop_price=intent["stop_price"],
        trail=intent["trail"],
        time_in_force=intent["time_in_force"],
        post_only=intent["post_only"],
        deadline=deadline if desk.venue.capabilities.deadline else None,
    )


def cancel(desk: Desk, order: Row, why: str) -> bool:
    """Asks for the end of an order (a row of open_orders); True where the venue confirmed it or knows no such order
    any more. How it ended is for read_account to learn."""
    if order["venue_order_id"] is None or order["state"] not in ("accepted", "canceling"):
        return False  # its own fate must be known first
    if desk.mandate() == "halt":
        return False
    if order["state"] == "accepted":
        desk.record(order["order_id"], "canceling", why)
    desk.listed = None
    crashpoint("cancel.before_request")
    answer = desk.venue.cancel(order["symbol"], order["venue_order_id"])
    crashpoint("cancel.after_request")
    _refused(desk, order, answer, "cancellation")
    crashpoint("cancel.after_record")
    return isinstance(answer, (Done, Gone))


def still_amending(desk: Desk, order: Row) -> bool:
    """Whether an amendment that nobody confirmed may still reach the engine: a smaller one asked for now could be
    overtaken by it, and sell more than is held."""
    until = order["changed_at"] + timedelta(seconds=desk.settings.execution.order_deadline_s)
    return bool(order["state"] == "amending" and desk.now() <= until)


def amend(desk: Desk, order: Row, quantity: Decimal, stop_price: Decimal | None, why: str) -> bool:
    """Asks for another size (the whole, what is filled included) and trigger of a resting order; True where the venue
    confirmed it. Where it cannot, the order is cancelled, and its successor is written when that is known."""
    if not desk.venue.capabilities.amend:
        cancel(desk, order, f"{why}; the venue cannot amend")
        return False
    if order["venue_order_id"] is None or order["state"] != "accepted":
        return False  # one change at a time: the next one is asked for when this one's fate is read
    deadline = desk.venue_now() + desk.settings.execution.order_deadline_s  # see send()
    if desk.mandate() == "halt":
        return False
    desk.record(order["order_id"], "amending", why, quantity=quantity, stop_price=stop_price)
    desk.listed = None
    crashpoint("amend.before_request")
    answer = desk.venue.amend(order["symbol"], order["venue_order_id"], quantity, stop_price,
                              deadline if desk.venue.capabilities.deadline else None)  # fmt: skip
    crashpoint("amend.after_request")
    if isinstance(answer, Done):
        desk.record(order["order_id"], "accepted", "amended", venue_order_id=order["venue_order_id"],
                    quantity=quantity, stop_price=stop_price)  # fmt: skip
        crashpoint("amend.after_record")
    _refused(desk, order, answer, "amendment")
    return isinstance(answer, Done)


def _refused(desk: Desk, order: Row, answer: Changed, what: str) -> None:
    """A refusal leaves the order as it was; every other answer that is no confirmation leaves it to be read."""
    if not isinstance(answer, Rejected):
        return
    told = f"{what} refused: {answer.reason}"
    desk.record(order["order_id"], "accepted", told, venue_order_id=order["venue_order_id"],
                quantity=order["quantity"], stop_price=order["stop_price"])  # fmt: skip
    desk.alert("warning", f"{what}-refused-{order['order_id']}", f"{order['symbol']}: {told}")
    _tell_of_rule(desk, order["symbol"], answer)
    if answer.fatal:
        raise KeyRefused(answer.reason)
