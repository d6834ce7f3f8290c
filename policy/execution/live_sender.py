"""One pass of the sender over one live wallet: read, obey, send, protect, compare.

Exits come before entries, and every doubt stops entries only: a key that may withdraw, a clock that is off, a venue
that is not online, a ledger that does not match. A halt stops everything that is sent; stops at the venue stay.
"""

from __future__ import annotations

from policy.execution.account import read_account
from policy.execution.brackets import is_stop
from policy.execution.connect import check_key, import_account, measure_clock, rights_are_due, take_over
from policy.execution.desk import Desk, Row
from policy.execution.flatten import flatten
from policy.execution.manual import take_up_live
from policy.execution.protect import make_room, protect, sell_at_targets
from policy.execution.reconcile import first_compared, is_due, reconcile
from policy.execution.requests import cancel, send
from policy.execution.venues.protocol import CouldNotAsk
from shared.version import CODE

SKEW_LIMIT_S = 5.0


def look(desk: Desk) -> int:
    """The half of a pass that only reads: takes the wallet over, reads its account and compares; sends nothing. The
    number of things that do not match."""
    measure_clock(desk)
    take_over(desk)
    if desk.wallet["connected_at"] is None:
        import_account(desk)
    read_account(desk)
    return reconcile(desk)


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
    due = first or is_due(desk)
    read_account(desk, first_compared(desk) if due else None)
    desk.doubt, silence = "", None
    if due or desk.findings:
        silence = _compare(desk)
    take_up_live(desk)  # before the stops are looked at: what they forbid is then said of its order
    mandate = desk.mandate()
    _drop_overtaken(desk, mandate)
    if mandate != "halt":
        _act(desk, mandate)
    if silence is not None:
        raise silence


def _compare(desk: Desk) -> CouldNotAsk | None:
    """What could not be compared keeps entries away, and no exit: the pass goes on, and fails at its end."""
    try:
        reconcile(desk)
    except CouldNotAsk as error:
        if error.fatal:
            raise
        desk.doubt = f"ledger and account could not be compared ({error})"
        return error
    return None


def _drop_overtaken(desk: Desk, mandate: str) -> None:
    """Without this a resume would send what was decided before a halt, or an entry from before any stop."""
    halted = mandate == "halt"
    told = "the wallet is halted: nothing is sent" if halted else "it was decided before the wallet was resumed"
    for intent in desk.ask("overtaken_intents", halted=halted, resumed_at=desk.wallet["resumed_at"]):
        desk.record(intent["order_id"], "canceled", told)


def _act(desk: Desk, mandate: str) -> None:
    _obey(desk, mandate)
    sell_at_targets(desk)
    if _send_all(desk):
        read_account(desk)  # what takes at once is filled by now: stops wait for nothing
    if protect(desk):
        read_account(desk)  # a stop is gone for its successor, which nothing but its end is waited for
        protect(desk)
    if _send_all(desk, only="protect"):
        read_account(desk)
    if desk.findings and not desk.doubt:
        reconcile(desk)


def _obey(desk: Desk, mandate: str) -> None:
    if mandate in ("kill", "flatten"):
        for order in desk.ask("open_orders"):
            # A sale that waits for its price would hold what is to be sold now.
            if order["side"] == "buy" or (mandate == "flatten" and order["purpose"] == "trade"):
                cancel(desk, order, f"the wallet is stopped ({mandate})")
    if mandate == "flatten":
        flatten(desk)


def _send_all(desk: Desk, only: str | None = None) -> int:
    """Sends what may go out now: exits first (the query's order); how many were offered to approve()."""
    intents = desk.ask("intents", now=desk.now())
    if not intents:
        return 0
    status, offered = _status(desk), 0
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
        if intent["side"] == "buy" and (strange := decided_elsewhere(intent)):
            desk.record(intent["order_id"], "canceled", strange)
            desk.alert("critical", "mixed-versions", f"an entry into {intent['symbol']} is not sent: {strange}. Start "
                       "again whatever runs the older code")  # fmt: skip
            continue
        if intent["side"] == "sell":
            if status in ("maintenance", "cancel_only"):
                continue
            if not is_stop(intent) and not make_room(desk, intent):
                continue  # the next pass asks again; selling beside an uncertain stop could sell twice
        send(desk, intent)
        offered += 1
    return offered


def _status(desk: Desk) -> str:
    try:
        return desk.venue.status()
    except CouldNotAsk as error:  # exits are tried all the same: the venue itself refuses what it does not take
        desk.doubt = desk.doubt or str(error)
        return "online"


def decided_elsewhere(intent: Row) -> str:
    """Why this sender, being of other code than the trader, sends no entry of it; empty where it is of the same. Orders
    by hand and the sender's own were decided by no trader."""
    decided = intent["code_version"]
    return "" if decided in (None, CODE) else f"it was decided by code {decided}, and this sender is of code {CODE}"


def doubt_of(desk: Desk, status: str) -> str:
    """What forbids entries at this moment, beside what approve() looks at; empty where nothing does."""
    if status != "online":
        return f"{desk.wallet['venue']} is {status.replace('_', ' ')}"
    if desk.doubt:
        return desk.doubt
    if abs(desk.skew_s) > SKEW_LIMIT_S:
        side = "behind" if desk.skew_s > 0 else "ahead of"
        return f"this machine's clock is {abs(desk.skew_s):.1f} s {side} {desk.wallet['venue']}'s"
    return ""
