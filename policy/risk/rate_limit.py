"""A position grows by no more than so much in one decision; it may shrink at once."""

from __future__ import annotations

from policy.risk.context import Notes, RiskContext
from shared.simulation.kernel import Floats


def apply(weights: Floats, context: RiskContext) -> None:
    for n in range(len(weights)):
        weights[n] = min(weights[n], max(context.held_weights[n], 0.0) + context.max_step)


def because(n: int, context: RiskContext, notes: Notes) -> str:
    return f"a position may grow by at most {context.max_step:.3g} of equity in one decision"
