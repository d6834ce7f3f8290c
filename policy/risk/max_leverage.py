"""All positions together not above so many times the equity: scaled down alike."""

from __future__ import annotations

from policy.risk.context import Notes, RiskContext
from shared.simulation.kernel import Floats

ROUNDING = 1e-9  # weights that were scaled to a sum miss it by so little


def apply(weights: Floats, context: RiskContext) -> None:
    total = 0.0
    for n in range(len(weights)):
        total += weights[n]
    if total <= context.rules.max_leverage * (1.0 + ROUNDING):
        return
    for n in range(len(weights)):
        weights[n] *= context.rules.max_leverage / total


def because(n: int, context: RiskContext, notes: Notes) -> str:
    return f"the leverage may be at most {context.rules.max_leverage:.3g}"
