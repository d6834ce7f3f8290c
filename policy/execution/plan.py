"""From allowed weights to market orders: band, lots, minimum notional, one order in flight at a time."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from policy.observation import Book
from shared.rows import FloatArray
from shared.simulation.kernel import floor_to_step


@dataclass(frozen=True, slots=True)
class TradingRules:
    """Each instrument's tick, lot (base) and minimum order value (quote), [N]; the change of weight below
    which nothing is sent; the largest entry that the operator lets through, in quote (exits are not cut)."""

    tick: FloatArray
    lot: FloatArray
    min_notional: FloatArray
    no_trade_band: float
    max_order_notional: float


@dataclass(frozen=True, slots=True)
class Plan:
    """``quantity`` [N], signed, 0 for no order; ``reasons`` say why an order follows or why none does."""

    quantity: FloatArray
    reasons: list[str]


def plan(
    allowed: FloatArray,
    book: Book,
    prices: FloatArray,
    rules: TradingRules,
    in_flight: NDArray[np.bool_],
    tradable: NDArray[np.bool_],
) -> Plan:
    """The orders that bring the book to ``allowed`` [N]: sells whole lots of what is held, buys whole lots.

    Nothing is sent for an instrument with an order in flight, nor for one whose newest candle is missing: a
    position is held rather than sold on a price that is not known.
    """
    weights = book.weights(prices)
    quantities, reasons = [], []
    for n in range(len(allowed)):
        if in_flight[n]:
            quantity, reason = 0.0, "an earlier order is still open"
        elif not tradable[n]:
            quantity, reason = 0.0, "its newest candle is missing"
        else:
            quantity, reason = _one_order(float(allowed[n]), float(weights[n]), n, book, float(prices[n]), rules)
        quantities.append(quantity)
        reasons.append(reason)
    return Plan(np.array(quantities), reasons)


def _one_order(
    allowed: float, weight: float, n: int, book: Book, price: float, rules: TradingRules
) -> tuple[float, str]:
    change = allowed - weight
    held, lot, min_notional = float(book.held[n]), float(rules.lot[n]), float(rules.min_notional[n])
    leaves = allowed == 0.0 and held > 0.0
    if change == 0.0:
        return 0.0, "already there"
    if abs(change) < rules.no_trade_band and not leaves:
        return 0.0, f"change of weight {change:+.4f} is inside the band of {rules.no_trade_band:g}"
    if leaves:
        quantity = held
    else:
        value = abs(change) * book.equity
        quantity = floor_to_step((min(value, rules.max_order_notional) if change > 0 else value) / price, lot)
        quantity = quantity if change > 0 else min(quantity, held)
    if quantity == 0.0:
        return 0.0, f"change of weight {change:+.4f} is less than a lot of {lot:g}"
    if quantity * price < min_notional:
        return 0.0, f"order of {quantity * price:.2f} is below the venue's minimum of {min_notional:g}"
    verb = "buy" if change > 0 else "sell"
    return (quantity if change > 0 else -quantity), f"{verb} to move weight {weight:.4f} to {allowed:.4f}"
