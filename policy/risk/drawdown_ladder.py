"""On the way to max_drawdown exposure shrinks by steps: to three quarters, a half, a quarter of what is wanted.

The first step is at ``ladder_from`` of max_drawdown, the others divide the rest of the way into three.
"""

from __future__ import annotations

from policy.risk.context import Notes, RiskContext
from shared.simulation.kernel import Floats


def apply(weights: Floats, context: RiskContext) -> None:
    first = context.rules.ladder_from
    if first >= 1.0 or context.drawdown < first * context.max_drawdown:
        return
    step = (1.0 - first) * context.max_drawdown / 3.0
    share = 0.75
    if context.drawdown >= first * context.max_drawdown + 2.0 * step:
        share = 0.25
    elif context.drawdown >= first * context.max_drawdown + step:
        share = 0.5
    for n in range(len(weights)):
        weights[n] *= share


def because(n: int, context: RiskContext, notes: Notes) -> str:
    return f"{context.drawdown:.2%} below the peak, on the way to {context.max_drawdown:.2%}: only part of it"
