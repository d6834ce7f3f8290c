"""When an exit of the sender's own that was rejected is written anew, and a change of a stop that was refused is asked
for anew: what nobody takes must become neither a row a pass, for ever, nor use up what a venue lets itself be asked.

Another exit than the rejected one (another kind, quantity or price) is written at once, for it may be taken where that
one was not; the same one after a pause that doubles with each rejection in a row. A trade, an exit that is taken, or
other rules of the venue begin the row again. The orders are all there is to know: a sender that starts anew waits as
long as the one that died.
"""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal

from policy.execution.brackets import MOVES_FROM, Exits
from policy.execution.desk import Desk, Row

SHORTEST, LONGEST = timedelta(seconds=5), timedelta(minutes=15)


def pause_after(rejections: int) -> timedelta:
    """Of so many in a row, at least one: 5 s, 10 s, 20 s, up to 15 minutes."""
    doubled: timedelta = SHORTEST * 2 ** min(rejections - 1, 10)  # LONGEST is reached before
    return min(doubled, LONGEST)


def must_wait(desk: Desk, holding: Row, exits: Exits) -> bool:
    """Whether what ``exits`` asks for was rejected so lately that it is not to be written again yet."""
    newest = desk.ask_one("rejected_exits", instrument_id=holding["instrument_id"])
    if newest is None or (newest["type"], newest["quantity"]) != (exits.type, exits.quantity):
        return False
    level = exits.stop if exits.type == "stop" else Decimal(repr(holding["close"] or 0.0))
    if abs(level / newest["level"] - 1) >= MOVES_FROM:
        return False
    return bool(desk.now() < newest["recorded_at"] + pause_after(newest["rejections"]))


def must_wait_to_change(desk: Desk, stop: Row, quantity: Decimal, price: Decimal | None) -> bool:
    """Whether a change of a resting stop to this (the whole quantity, and its trigger) was refused so lately that it is
    not to be asked for again yet; nor is a cancellation then, where nothing else can be changed."""
    newest = desk.ask_one("refused_changes", order_id=stop["order_id"])
    if newest is None:
        return False
    asked, level = newest["quantity"], newest["stop_price"]
    if asked is not None and (asked != quantity or (level and price and abs(price / level - 1) >= MOVES_FROM)):
        return False
    return bool(desk.now() < newest["at"] + pause_after(newest["refusals"]))
