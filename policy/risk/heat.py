"""Heat: what all positions lose together if each falls to its stop, at most so much of equity; scaled down alike."""

from __future__ import annotations

from policy.risk.context import Notes, RiskContext, stop_of
from shared.simulation.kernel import Floats


def apply(weights: Floats, context: RiskContext) -> None:
    heat = 0.0
    for n in range(len(weights)):
        heat += weights[n] * stop_of(n, context)
    if heat <= context.rules.max_heat:
        return
    for n in range(len(weights)):
        weights[n] *= context.rules.max_heat / heat


def because(n: int, context: RiskContext, notes: Notes) -> str:
    return f"all stops together may cost at most {context.rules.max_heat:.3g} of equity"
