"""Too far below the peak since the wallet was last resumed: into cash, until an operator resumes it anew."""

from __future__ import annotations

from policy.risk.context import Notes, RiskContext
from shared.simulation.kernel import Floats


def apply(weights: Floats, context: RiskContext) -> None:
    if context.drawdown < context.max_drawdown:
        return
    for n in range(len(weights)):
        weights[n] = 0.0


def because(n: int, context: RiskContext, notes: Notes) -> str:
    return f"{context.drawdown:.2%} below the peak (limit {context.max_drawdown:.2%}); in cash until resumed"
