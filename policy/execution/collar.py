"""The price that an order must not be filled beyond."""

from __future__ import annotations

from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal


def collar(side: str, close: float, slippage: float, tick: Decimal) -> Decimal:
    """``close`` and at most ``slippage`` (a fraction) against the taker, on the tick that is nearer to the close: what
    a buy pays at most, what a sale brings at least; never below one tick."""
    away = 1 + Decimal(str(slippage)) if side == "buy" else 1 - Decimal(str(slippage))
    ticks = Decimal(repr(close)) * away / tick
    return max(ticks.to_integral_value(ROUND_FLOOR if side == "buy" else ROUND_CEILING), Decimal(1)) * tick
