"""No single position above its share of equity."""

from __future__ import annotations

from policy.risk.context import Notes, RiskContext
from shared.simulation.kernel import Floats


def apply(weights: Floats, context: RiskContext) -> None:
    for n in range(len(weights)):
        weights[n] = min(weights[n], context.max_position)


def because(n: int, context: RiskContext, notes: Notes) -> str:
    return f"a position may be at most {context.max_position:.3g} of equity"
