"""After losing too much since UTC midnight: no entries until the next midnight."""

from __future__ import annotations

from policy.risk.context import Notes, RiskContext, no_entry
from shared.simulation.kernel import Floats


def apply(weights: Floats, context: RiskContext) -> None:
    if -context.day_return < context.daily_loss_limit:
        return
    for n in range(len(weights)):
        weights[n] = no_entry(weights[n], context.held_weights[n])


def because(n: int, context: RiskContext, notes: Notes) -> str:
    loss, limit = -context.day_return, context.daily_loss_limit
    return f"lost {loss:.2%} today; no entries beyond {limit:.2%} until UTC midnight"
