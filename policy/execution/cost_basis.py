"""What a position cost: its tranches, the average cost, and what was gained, exact in Decimal.

Each buy is a tranche, and so is each coin that was adopted or paid in, at its value then. What is sold leaves by two
books at once: first in, first out (``tranches``), and at the average of all that is held (``average_cost``, which
protective stops are placed by). Costs and proceeds are net of the fees that were paid in the quote; a fee in the base
currency makes the quantity smaller, not the cost.

Where a sale takes a part of a cost, the part is rounded to 8 decimals and the rest keeps the rest: nothing is lost to
rounding, so that under either book, at any price,

    realised + unrealised = everything that the position's moves paid in or out + quantity x price.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Context, Decimal, localcontext
from typing import Any

from shared.db import Database, load_queries
from shared.errors import SextantError
from shared.money import QUANTUM

EXACT = Context(prec=64)  # a product of two NUMERIC(28,8) has 56 digits at most
ZERO = Decimal(0)
FOREVER = datetime(9999, 12, 31, tzinfo=UTC)


class CostUnknown(SextantError):
    """A move that no cost can be made of: which one, what is wrong with it, what to do."""


@dataclass(frozen=True, slots=True)
class Move:
    """What came into a position (quantity > 0, cash < 0) or left it; ``cash`` in quote, net of fees."""

    at: datetime
    reference: str  # the venue's trade id, or the cash flow's
    quantity: Decimal
    cash: Decimal


@dataclass(frozen=True, slots=True)
class Tranche:
    """What is left of one purchase: a quantity in base, and what it cost in quote."""

    at: datetime
    reference: str
    quantity: Decimal
    cost: Decimal


@dataclass(frozen=True, slots=True)
class Position:
    """``tranches`` oldest first; ``pool`` is what all that is held cost by the average; the gains are in quote."""

    tranches: tuple[Tranche, ...] = ()
    pool: Decimal = ZERO
    realised: Decimal = ZERO  # first in, first out
    realised_average: Decimal = ZERO

    @property
    def quantity(self) -> Decimal:
        return sum((tranche.quantity for tranche in self.tranches), ZERO)

    @property
    def cost(self) -> Decimal:
        """Of what is held, first in, first out."""
        return sum((tranche.cost for tranche in self.tranches), ZERO)

    def unrealised(self, price: Decimal) -> Decimal:
        """What selling all at ``price``, without a fee, would add to ``realised``."""
        with localcontext(EXACT):
            return self.quantity * price - self.cost

    def unrealised_average(self, price: Decimal) -> Decimal:
        """The same, against the average cost."""
        with localcontext(EXACT):
            return self.quantity * price - self.pool


def average_cost(position: Position) -> Decimal | None:
    """Quote per unit held, fees included, to 8 decimals; None where nothing is held."""
    with localcontext(EXACT):
        return (position.pool / position.quantity).quantize(QUANTUM) if position.quantity else None


def position_of(moves: Iterable[Move]) -> Position:
    """The position that ``moves``, oldest first, have made; CostUnknown where one takes more than is there."""
    position = Position()
    with localcontext(EXACT):
        for move in moves:
            position = _bought(position, move) if move.quantity > 0 else _sold(position, move)
    return position


def read_positions(
    database: Database, wallet_id: int, until: datetime = FOREVER, instrument_id: int | None = None
) -> dict[int, Position]:
    """A wallet's positions by instrument id, as fills and managed flows up to ``until`` made them; one that was sold
    is there with what it gained; ``instrument_id``: of that one alone. CostUnknown names the row that no cost can be
    made of."""
    moves: dict[int, list[Move]] = {}
    asked = {"wallet_id": wallet_id, "until": until, "instrument_id": instrument_id}
    for row in database.fetch(load_queries("cost_basis")["moves"], asked):
        moves.setdefault(row["instrument_id"], []).append(_move(row))
    return {instrument_id: position_of(own) for instrument_id, own in moves.items()}


def _move(row: Mapping[str, Any]) -> Move:
    if row["cash"] is None:
        raise CostUnknown(
            f"cash flow {row['reference']} of {row['quantity']} {row['symbol']} at {row['at']} has no value in quote: "
            "what it cost is not known; record what it was worth then (cash_flows.value)"
        )
    return Move(row["at"], row["reference"], row["quantity"], row["cash"])


def _bought(position: Position, move: Move) -> Position:
    bought = Tranche(move.at, move.reference, move.quantity, -move.cash)
    return Position(
        (*position.tranches, bought), position.pool - move.cash, position.realised, position.realised_average
    )


def _sold(position: Position, move: Move) -> Position:
    held, sold = position.quantity, -move.quantity
    if sold > held:
        raise CostUnknown(
            f"{move.reference} at {move.at} takes {sold} out of a position of {held}: fills or flows before it are "
            "missing; run `make reconcile`"
        )
    kept, left, cost = [], sold, ZERO
    for tranche in position.tranches:
        taken = min(tranche.quantity, left)
        part = _share(tranche.cost, taken, tranche.quantity)
        left, cost = left - taken, cost + part
        if taken < tranche.quantity:
            kept.append(Tranche(tranche.at, tranche.reference, tranche.quantity - taken, tranche.cost - part))
    pooled = _share(position.pool, sold, held)
    return Position(
        tuple(kept),
        position.pool - pooled,
        position.realised + move.cash - cost,
        position.realised_average + move.cash - pooled,
    )


def _share(cost: Decimal, part: Decimal, whole: Decimal) -> Decimal:
    """What ``part`` of ``whole`` cost: all of it for the whole, else to 8 decimals."""
    return cost if part == whole else (cost * part / whole).quantize(QUANTUM)
