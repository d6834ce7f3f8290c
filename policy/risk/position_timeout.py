"""A position that is held for longer than so long is left."""

from __future__ import annotations

from policy.risk.context import Notes, RiskContext
from shared.simulation.kernel import Floats


def apply(weights: Floats, context: RiskContext) -> None:
    if context.rules.position_timeout_s <= 0.0:
        return
    for n in range(len(weights)):
        if context.age_s[n] > context.rules.position_timeout_s:
            weights[n] = 0.0


def because(n: int, context: RiskContext, notes: Notes) -> str:
    hours, limit = context.age_s[n] / 3600.0, context.rules.position_timeout_s / 3600.0
    return f"held for {hours:.1f} hours; no position is held for longer than {limit:.1f}"
