"""After a protective stop closed a position: no way back in until the strategies have once wanted nothing of it."""

from __future__ import annotations

from policy.risk.context import Notes, RiskContext, no_entry
from shared.simulation.kernel import Floats


def apply(weights: Floats, context: RiskContext) -> None:
    for n in range(len(weights)):
        if context.stopped_out[n]:
            weights[n] = no_entry(weights[n], context.held_weights[n])


def because(n: int, context: RiskContext, notes: Notes) -> str:
    return "a protective stop closed it, and the signal has not changed since"
