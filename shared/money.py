"""The border between money (Decimal, as NUMERIC(28,8)) and the kernel's floats: one function each way.

Below 2^26 (67 million) neighbouring doubles are less than 1e-8 apart, so that every 8-decimal amount has a
double of its own: crossing and coming back loses nothing. Beyond that the border refuses rather than rounds.
"""

from __future__ import annotations

from decimal import Decimal

QUANTUM = Decimal("0.00000001")
LARGEST_EXACT = 2.0**26


def to_money(value: float) -> Decimal:
    """The 8-decimal amount nearest to ``value``; OverflowError where doubles cannot hold it exactly."""
    if not abs(value) < LARGEST_EXACT:
        raise OverflowError(f"{value!r} is not an amount below {LARGEST_EXACT:.0f}; it could not be kept exactly")
    return Decimal(repr(float(value))).quantize(QUANTUM)


def to_float(amount: Decimal) -> float:
    """The double nearest to ``amount``; OverflowError where doubles cannot hold it exactly."""
    if not abs(amount) < LARGEST_EXACT:
        raise OverflowError(f"{amount} is not an amount below {LARGEST_EXACT:.0f}; it could not be kept exactly")
    return float(amount)
