"""From allowed weights to market orders, in words and numbers; the arithmetic is in policy.decision_kernel."""

from __future__ import annotations

from dataclasses import dataclass

from policy import decision_kernel as kernel
from shared.rows import FloatArray


@dataclass(frozen=True, slots=True)
class TradingRules:
    """Each instrument's tick, lot (base) and minimum order value (quote), [N]; the change of weight, as a share of a
    full position and at turnover penalty 1, below which nothing is sent; the largest entry that the operator lets
    through, in quote (exits are not cut)."""

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


@dataclass(frozen=True, slots=True)
class Sizing:
    """The numbers one instrument's order was planned with; they say its reason."""

    allowed: float
    weight: float
    quantity: float
    price: float
    lot: float
    min_notional: float
    band: float


def in_words(code: int, s: Sizing) -> str:
    """The one reason why an order follows or why none does."""
    change = s.allowed - s.weight
    match code:
        case kernel.IN_FLIGHT:
            return "an earlier order is still open"
        case kernel.NO_CANDLE:
            return "its newest candle is missing"
        case kernel.NO_PRICE:
            return "it never had a price"
        case kernel.ALREADY_THERE:
            return "already there"
        case kernel.IN_BAND:
            return f"change of weight {change:+.4f} is inside the band of {s.band:.4g}"
        case kernel.BELOW_LOT:
            return f"change of weight {change:+.4f} is less than a lot of {s.lot:g}"
        case kernel.BELOW_MINIMUM:
            return f"an order to change the weight by {change:+.4f} is below the venue's minimum of {s.min_notional:g}"
    verb = "buy" if code == kernel.BUY else "sell"
    return f"{verb} to move weight {s.weight:.4f} to {s.allowed:.4f}"
