"""After a fill no entry into the same instrument for a while; it may still be left."""

from __future__ import annotations

from policy.risk.context import Notes, RiskContext, no_entry
from shared.simulation.kernel import Floats


def apply(weights: Floats, context: RiskContext) -> None:
    for n in range(len(weights)):
        if context.since_fill_s[n] < context.rules.cooldown_s:
            weights[n] = no_entry(weights[n], context.held_weights[n])


def because(n: int, context: RiskContext, notes: Notes) -> str:
    minutes, since = context.rules.cooldown_s / 60.0, context.since_fill_s[n] / 60.0
    return f"traded {since:.0f} minutes ago; no entries within {minutes:.0f}"
