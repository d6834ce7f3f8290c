"""Concentration: the sum of squared weights (Herfindahl-Hirschman), at most so much; scaled down alike.

It is 1 for all of equity in one instrument and 1 ÷ N for equity in N equal parts; cash concentrates nothing.
"""

from __future__ import annotations

import math

from policy.risk.context import Notes, RiskContext
from shared.simulation.kernel import Floats


def apply(weights: Floats, context: RiskContext) -> None:
    if context.rules.max_concentration >= 1.0:
        return
    squares = 0.0
    for n in range(len(weights)):
        squares += weights[n] * weights[n]
    if squares <= context.rules.max_concentration:
        return
    for n in range(len(weights)):
        weights[n] *= math.sqrt(context.rules.max_concentration / squares)


def because(n: int, context: RiskContext, notes: Notes) -> str:
    return f"the squares of all weights may sum to {context.rules.max_concentration:.3g}"
