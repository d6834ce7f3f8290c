"""Entries cost no more than cash, less what open orders may still cost, plus what this decision's exits bring in.

Where that is not enough every entry shrinks by the same factor; what is held already is not touched.
"""

from __future__ import annotations

from policy.risk.context import Notes, RiskContext
from shared.simulation.kernel import Floats

ROUNDING = 1e-9  # of equity: cash and positions sum to it but for rounding


def apply(weights: Floats, context: RiskContext) -> None:
    entries, exits = 0.0, 0.0
    for n in range(len(weights)):
        growth = weights[n] - context.held_weights[n]
        entries += max(growth, 0.0)
        exits += max(-growth, 0.0)
    affordable = max(context.spendable + exits, 0.0)
    if entries <= affordable + ROUNDING:
        return
    for n in range(len(weights)):  # not where less is wanted than is held: there the minimum is what is wanted
        held = context.held_weights[n]
        weights[n] = min(weights[n], held + (weights[n] - held) * (affordable / entries))


def because(n: int, context: RiskContext, notes: Notes) -> str:
    return f"there is {max(context.spendable, 0.0):.3g} of equity in cash that no open order has reserved"
