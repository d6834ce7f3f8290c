"""What a wallet's positions cost and gained, in the lines that status shows of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Any

from policy.execution.cost_basis import CostUnknown, Position, average_cost, read_positions
from shared.db import Database
from shared.money import to_float

CENT = Decimal("0.01")
Row = Mapping[str, Any]


def position_lines(database: Database, wallet_id: int, held: Sequence[Row]) -> list[str]:
    """``held``: the wallet's rows of the query wallet_positions. The gains of the average cost; where what is sold
    first in, first out gained otherwise, those too. A last line sums what all sales gained, of what is gone as well."""
    try:
        positions = read_positions(database, wallet_id)
    except CostUnknown as error:
        return [f"  what it cost is not known: {error}"]
    lines = [line for row in held for line in _lines_of(row, positions[row["instrument_id"]])]
    realised = sum((position.realised_average for position in positions.values()), Decimal(0))
    return [*lines, f"  gained by sales: {realised:+,.2f}"] if positions else []


def _lines_of(row: Row, position: Position) -> Iterator[str]:
    price, cost = Decimal(repr(row["close"])), average_cost(position)
    if cost is None:
        return
    unrealised, first_in = position.unrealised_average(price), position.unrealised(price)
    each = f"cost {to_float(cost):,.8g} each, worth {row['close']:,.8g}"
    yield f"  {row['symbol']}: {each}; unrealised {unrealised:+,.2f}"
    if abs(unrealised - first_in) >= CENT:
        yield f"    first in, first out: unrealised {first_in:+,.2f}, gained by sales {position.realised:+,.2f}"
