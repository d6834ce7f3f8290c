"""Something that an instrument's decision needs is missing or stale: doubt stops its entries, never exits."""

from __future__ import annotations

from policy.risk.context import Notes, RiskContext, no_entry
from shared.simulation.kernel import Floats


def apply(weights: Floats, context: RiskContext) -> None:
    for n in range(len(weights)):
        if context.doubtful[n]:
            weights[n] = no_entry(weights[n], context.held_weights[n])


def because(n: int, context: RiskContext, notes: Notes) -> str:
    return notes.doubts[n]
