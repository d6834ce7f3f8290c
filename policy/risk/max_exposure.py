"""All positions together not above their share of equity: scaled down alike."""

from __future__ import annotations

from policy.risk.context import Notes, RiskContext
from shared.simulation.kernel import Floats


def apply(weights: Floats, context: RiskContext) -> None:
    total = 0.0
    for n in range(len(weights)):
        total += weights[n]
    if total <= context.max_exposure:
        return
    for n in range(len(weights)):
        weights[n] = min(weights[n], weights[n] * (context.max_exposure / total))


def because(n: int, context: RiskContext, notes: Notes) -> str:
    return f"all positions together may be at most {context.max_exposure:.3g} of equity"
