"""What a position is to be left at: below by its stop, above by its target, as its entry's row says.

The rows are all there is to know: the entry names its bracket, candles say how the price went since, and what rests at
the venue is in the orders' events. A sender that starts anew comes to the same exits as the one that died.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from decimal import ROUND_CEILING, ROUND_DOWN, ROUND_FLOOR, Decimal

from policy.execution.desk import Desk, Row
from policy.execution.venues.protocol import OrderType
from shared.db import load_queries

MOVES_FROM = Decimal("0.01")  # of the stop's price: a smaller change of what a position cost leaves it where it is
ONE, ZERO = Decimal(1), Decimal(0)


@dataclass(frozen=True, slots=True)
class Bracket:
    """Of a position's newest entry that named one; prices in quote, ``trail`` a fraction of ``peak``, the highest price
    since: the entry's own, or the high of a candle that opened later. ``high`` and ``close`` are those of the newest
    such candle, None before the first. ``guarded``: a stop was written since; ``tried``: the target was tried for
    since that candle closed."""

    stop: Decimal | None
    target: Decimal | None
    trail: Decimal | None
    entered_at: datetime
    peak: Decimal
    high: Decimal | None = None
    close: Decimal | None = None
    guarded: bool = False
    tried: bool = False


@dataclass(frozen=True, slots=True)
class Exits:
    """What should be there for a position. ``stop`` of ``quantity`` rests at the venue (0: none is needed), as the
    venue's own trailing stop where ``trail`` says so. ``breached``: the price is there already. ``target``: it was
    reached, and what is held is to be sold there or better."""

    quantity: Decimal
    stop: Decimal
    trail: Decimal | None = None
    breached: bool = False
    target: Decimal | None = None

    @property
    def type(self) -> OrderType:
        """Of the order that is to be there: what cannot rest any more is sold at once."""
        if self.breached:
            return "market"
        return "stop" if self.trail is None else "trailing_stop"


def is_stop(order: Row) -> bool:
    """An order that rests until the price falls to it; any other that sells does so at once."""
    return order["purpose"] == "protect" and order["type"] in ("stop", "trailing_stop")


def is_dust(quantity: Decimal, price: Decimal, rules: Row) -> bool:
    """Too little for any order that the venue would take."""
    whole = to_step(quantity, rules["lot_size"])
    return whole <= 0 or whole < rules["min_quantity"] or whole * price < rules["min_notional"]


def to_step(value: Decimal, step: Decimal) -> Decimal:
    return (value / step).to_integral_value(ROUND_DOWN) * step


def desired_exits(
    holding: Row, cost: Decimal | None, other_sells: Decimal, below: Decimal, resting: Decimal | None = None,
    bracket: Bracket | None = None, *, can_trail: bool = False,
) -> Exits:  # fmt: skip
    """The exits of ``holding``, but for what other orders sell of it.

    The stop is the highest of three: the catastrophe stop, the bracket's, and the trailing one. The first is ``below``
    (a fraction) what the position cost, or what it was worth where that was less: an adopted position that fell before
    must not be sold by being protected; where a stop rests, at ``resting``, a falling price moves it no lower.
    ``cost`` is None where it is not known. ``can_trail``: the venue may do the trailing, if nothing else is higher.
    """
    tick, close = holding["tick_size"], _close(holding, cost)
    floor = max(close * (ONE - below), resting or ZERO)
    floor = floor if cost is None else min(floor, cost * (ONE - below))
    named = max((bracket.stop or ZERO, _trailed(bracket))) if bracket else ZERO
    stop = _on_tick(max(floor, named), tick)
    if named <= floor and resting is not None and abs(stop / resting - 1) < MOVES_FROM:
        stop = resting
    left = to_step(holding["quantity"] - other_sells, holding["lot_size"])
    quantity = ZERO if is_dust(left, stop, holding) else left
    if bracket is None:
        return Exits(quantity, stop)
    trails = can_trail and bracket.trail is not None and stop == _on_tick(_trailed(bracket), tick)
    breached = bracket.close is not None and bracket.close <= named
    target = None
    if bracket.target is not None and bracket.high is not None and not bracket.tried:
        limit = (bracket.target / tick).to_integral_value(ROUND_CEILING) * tick
        target = limit if bracket.high >= limit else None
    return Exits(quantity, stop, bracket.trail if trails else None, breached, target)


def _close(holding: Row, cost: Decimal | None) -> Decimal:
    close = Decimal(repr(holding["close"])) if holding["close"] else cost
    return close if close is not None else ZERO


def _trailed(bracket: Bracket) -> Decimal:
    return bracket.peak * (ONE - bracket.trail) if bracket.trail is not None else ZERO


def _on_tick(price: Decimal, tick: Decimal) -> Decimal:
    return max((price / tick).to_integral_value(ROUND_FLOOR), ONE) * tick


def read_bracket(desk: Desk, holding: Row) -> Bracket | None:
    """The bracket that the position stands under; None where its entries named none."""
    if not holding["bracketed"]:
        return None  # most have none, and each pass asks twice
    asked = {"wallet_id": desk.wallet_id, "instrument_id": holding["instrument_id"], "now": desk.now()}
    row = desk.database.fetch_one(load_queries("brackets")["bracket"], asked)
    if row is None:
        return None
    close = _close(holding, row["price"])
    if row["least"] is not None and is_dust(row["least"], close, holding):
        return None  # that position was sold; what is held now came later
    highest = row["price"] if row["highest"] is None else max(row["price"], Decimal(repr(row["highest"])))
    return Bracket(
        stop=row["bracket_stop"],
        target=row["bracket_target"],
        trail=row["bracket_trail"],
        entered_at=row["entered_at"],
        peak=highest,
        high=None if row["high"] is None else Decimal(repr(row["high"])),
        close=None if row["close"] is None else Decimal(repr(row["close"])),
        guarded=row["guarded"],
        tried=row["tried_at"] is not None and row["as_of"] is not None and row["tried_at"] >= row["as_of"],
    )
