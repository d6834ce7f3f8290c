"""One pass of the sender over one live wallet: read, obey, send, protect, compare.

Exits come before entries, and every doubt stops entries only: a key that may withdraw, a clock that is off, a venue
that is not online, a ledger that does not match. A halt stops everything that is sent; stops at the venue stay.
"""

from __future__ import annotations

from policy.execution.account import read_account
from policy.execution.brackets import is_stop
from policy.execution.connect import check_key, import_account, measure_clock, rights_are_due, take_over
from policy.execution.desk import Desk
from policy.execution.flatten import flatten
from policy.execution.protect import make_room, protect, sell_at_targets
from policy.execution.reconcile import is_due, reconcile
from policy.execution.requests import cancel, send

SKEW_LIMIT_S = 5.0


def run_pass(desk: Desk) -> None:
    """Everything there is to do for the wallet now. CouldNotAsk, Superseded and KeyRefused end it early: what was
    written by then is true, and the next pass begins by reading."""
    measure_clock(desk)
    first = not desk.taken_over
    if first:
        take_over(desk)
        desk.taken_over = True
    elif rights_are_due(desk):
        check_key(desk)
    if desk.wallet["connected_at"] is None:
        import_account(desk)
    read_account(desk)
    if first or is_due(desk):
        reconcile(desk)
    mandate = desk.mandate()
    if mandate == "halt":
        for intent in desk.ask("intents", now=desk.now()):  # else a resume would send what was decided before the halt
            desk.record(intent["order_id"], "canceled", "the wallet is halted: nothing is sent")
        return
    _obey(desk, mandate)
    sell_at_targets(desk)
    if _send_all(desk):
        read_account(desk)  # what takes at once is filled by now: stops wait for nothing
    if protect(desk):
        read_account(desk)  # a stop is gone for its successor, which nothing but its end is waited for
        protect(desk)
    if _send_all(desk, only="protect"):
        read_account(desk)
    if desk.findings:
        reconcile(desk)


def _obey(desk: Desk, mandate: str) -> None:
    if mandate in ("kill", "flatten"):
        for order in desk.ask("open_orders"):
            if order["side"] == "buy":
                cancel(desk, order, f"the wallet is stopped ({mandate})")
    if mandate == "flatten":
        flatten(desk)


def _send_all(desk: Desk, only: str | None = None) -> int:
    """Sends what may go out now: exits first (the query's order); how many were offered to approve()."""
    intents = desk.ask("intents", now=desk.now())
    if not intents:
        return 0
    status, offered = desk.venue.status(), 0
    for intent in intents:
        if only is not None and intent["purpose"] != only:
            continue
        mandate = desk.mandate()  # before every send, for it may have come meanwhile
        if mandate == "halt":
            return offered
        if intent["side"] == "buy" and (mandate != "trade" or doubt_of(desk, status)):
            if mandate == "trade":
                desk.alert(
                    "warning", "entry-waits", f"an entry into {intent['symbol']} waits: {doubt_of(desk, status)}"
                )
                continue  # until its deadline: the doubt may pass
            desk.record(intent["order_id"], "canceled", f"the wallet is stopped ({mandate}): no entries")
            continue
        if intent["side"] == "sell":
            if status in ("maintenance", "cancel_only"):
                continue
            if not is_stop(intent) and not make_room(desk, intent):
                continue  # the next pass asks again; selling beside an uncertain stop could sell twice
        send(desk, intent)
        offered += 1
    return offered


def doubt_of(desk: Desk, status: str) -> str:
    """What forbids entries at this moment, beside what approve() looks at; empty where nothing does."""
    if status != "online":
        return f"{desk.wallet['venue']} is {status.replace('_', ' ')}"
    if abs(desk.skew_s) > SKEW_LIMIT_S:
        side = "behind" if desk.skew_s > 0 else "ahead of"
        return f"this machine's clock is {abs(desk.skew_s):.1f} s {side} {desk.wallet['venue']}'s"
    return ""
