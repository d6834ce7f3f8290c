"""Whose profit it was: each instrument's share of what the book gained, from fills and marks alone, net of costs.

A profit is what is held at the end at its mark, minus what was held at the start at its mark, plus what sells brought,
minus what buys cost, minus fees. Cash flows belong to the instrument that was traded, so the profits sum to the change
of equity: exactly in ``attribute`` (Decimal), to rounding in ``profits_over_time`` (float).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal, localcontext
from typing import Protocol

import numpy as np

from shared.money import to_money
from shared.rows import FloatArray, IntArray

EXACT = 60  # digits: an 8-decimal quantity times an 8-decimal price, many times over


class Fill(Protocol):
    """``filled_at``: Unix seconds; ``quantity``: base, buys above 0; ``cost`` (quantity × price) and ``fee``: quote."""

    @property
    def filled_at(self) -> int: ...
    @property
    def instrument(self) -> int: ...
    @property
    def quantity(self) -> float: ...
    @property
    def cost(self) -> float: ...
    @property
    def fee(self) -> float: ...


@dataclass(frozen=True, slots=True)
class Contribution:
    """One instrument's part, in quote: ``profit`` is net of ``fees``, so ``profit + fees`` is before fees."""

    instrument: int
    profit: Decimal
    fees: Decimal
    traded: Decimal  # bought plus sold
    fills: int


def attribute(
    fills: Sequence[Fill],
    marks: Mapping[int, float],
    held: Mapping[int, float] | None = None,
    first_marks: Mapping[int, float] | None = None,
) -> tuple[Contribution, ...]:
    """Each instrument's contribution, by number; those neither held nor traded are absent.

    ``marks``: the last price of each instrument still held; ``held`` and ``first_marks``: positions (base) before the
    fills and their prices then. The profits sum exactly to last equity minus first. LookupError where a
    mark is missing.
    """
    before = held or {}
    with localcontext(prec=EXACT):
        return tuple(
            _contribution(n, [fill for fill in fills if fill.instrument == n], marks, before, first_marks or {})
            for n in sorted({fill.instrument for fill in fills} | set(before))
        )


def _contribution(
    instrument: int,
    fills: Sequence[Fill],
    marks: Mapping[int, float],
    before: Mapping[int, float],
    first_marks: Mapping[int, float],
) -> Contribution:
    begun = to_money(before.get(instrument, 0.0))
    ended = begun + sum((to_money(fill.quantity) for fill in fills), Decimal(0))
    fees = sum((to_money(fill.fee) for fill in fills), Decimal(0))
    flow = sum((to_money(-fill.cost if fill.quantity > 0.0 else fill.cost) for fill in fills), Decimal(0))
    value = _value(ended, marks, instrument) - _value(begun, first_marks, instrument)
    traded = sum((to_money(fill.cost) for fill in fills), Decimal(0))
    return Contribution(instrument, value + flow - fees, fees, traded, len(fills))


def _value(quantity: Decimal, marks: Mapping[int, float], instrument: int) -> Decimal:
    if not quantity:
        return Decimal(0)
    if instrument not in marks:
        raise LookupError(f"instrument {instrument} is held ({quantity}) but has no mark: give its price then")
    return quantity * Decimal(repr(float(marks[instrument])))


def profits_over_time(fills: Sequence[Fill], times: IntArray, closes: FloatArray) -> FloatArray:
    """What each instrument gained in each bar, quote: [B, N] for bar closes ``times`` [B] (Unix seconds, increasing)
    and prices ``closes`` [B, N] (NaN: no bar, the last one known stands). The book begins without positions.

    A fill belongs to the first bar that closes after it. The sum over instruments is the bar's change of equity.
    ValueError for a fill after the last bar, LookupError for a position without any price yet.
    """
    flows, held = np.zeros_like(closes), np.zeros_like(closes)
    for fill in fills:
        bar = int(np.searchsorted(times, fill.filled_at, side="right"))
        if bar == len(times):
            raise ValueError(f"a fill at Unix time {fill.filled_at} is after the last bar ({times[-1]}): add its bar")
        flows[bar, fill.instrument] += (-fill.cost if fill.quantity > 0.0 else fill.cost) - fill.fee
        held[bar, fill.instrument] += fill.quantity
    held = np.asarray(np.cumsum(held, axis=0), np.float64).round(8)  # as stored; what is sold out is 0
    marks = _last_known(closes)
    if np.isnan(marks[held != 0.0]).any():
        bar, instrument = np.argwhere(np.isnan(marks) & (held != 0.0))[0]
        raise LookupError(f"instrument {instrument} is held at Unix time {times[bar]} but has had no price by then")
    values = np.where(held != 0.0, held * np.nan_to_num(marks), 0.0)
    return np.asarray(np.diff(values, axis=0, prepend=0.0) + flows)


def _last_known(prices: FloatArray) -> FloatArray:
    """Each column with its gaps filled by the value before; NaN before the first."""
    rows = np.where(np.isnan(prices), 0, np.arange(len(prices))[:, None])
    return np.asarray(np.take_along_axis(prices, np.maximum.accumulate(rows, axis=0), axis=0))


def round_trips(fills: Sequence[Fill]) -> FloatArray:
    """The profit of each closed round trip, quote, net of fees, in the order of closing: from the first buy of an
    instrument to when nothing of it is held; what is still open is not counted. ``fills`` in order of time."""
    held: dict[int, Decimal] = {}
    profit: dict[int, Decimal] = {}
    closed: list[float] = []
    for fill in fills:
        n = fill.instrument
        held[n] = held.get(n, Decimal(0)) + to_money(fill.quantity)
        flow = to_money(-fill.cost if fill.quantity > 0.0 else fill.cost)
        profit[n] = profit.get(n, Decimal(0)) + flow - to_money(fill.fee)
        if not held[n]:
            closed.append(float(profit.pop(n)))
    return np.array(closed)
