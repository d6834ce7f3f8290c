"""Fixed percentage: what a position loses down to its stop is at most so much of equity, times the confidence.

A weight w loses w × stop distance. In quantities: equity × risk ÷ |entry − stop|. A stop that is some average true
ranges away halves the position where they double.
"""

from __future__ import annotations

from policy.risk.context import Notes, RiskContext, stop_of
from shared.simulation.kernel import Floats


def apply(weights: Floats, context: RiskContext) -> None:
    if context.rules.trade_risk >= 1.0:
        return
    for n in range(len(weights)):
        weights[n] = min(weights[n], context.rules.trade_risk * context.confidence[n] / stop_of(n, context))


def because(n: int, context: RiskContext, notes: Notes) -> str:
    risk, confidence = context.rules.trade_risk, context.confidence[n]
    return f"may lose {risk:.3g} of equity × confidence {confidence:.3g} down to a stop {stop_of(n, context):.2%} below"
