"""No single position above the share of equity that the operator allows its symbol; max_position bounds it besides."""

from __future__ import annotations

from policy.risk.context import Notes, RiskContext
from shared.simulation.kernel import Floats


def apply(weights: Floats, context: RiskContext) -> None:
    for n in range(len(weights)):
        weights[n] = min(weights[n], context.symbol_caps[n])


def because(n: int, context: RiskContext, notes: Notes) -> str:
    return f"a position of this symbol may be at most {context.symbol_caps[n]:.3g} of equity"
