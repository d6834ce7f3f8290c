"""What one day in VAR_ONE_IN costs or more (value at risk, 95 %), and what such days cost on average (CVaR), by
historical simulation: the proposed weights over the last VAR_DAYS daily returns. Scaled down alike, since both grow
with the weights.

Days on which a proposed instrument has no return are left out; with fewer than VAR_MIN_DAYS the past is too short to
say anything, and nothing is cut. Most decisions end at the first loop: CVaR is never more than the sum of the
instruments' own (Artzner et al., 1999), and value at risk, counted as here, is never more than CVaR.
"""

from __future__ import annotations

import math

from policy.risk.context import VAR_DAYS, VAR_MIN_DAYS, VAR_ONE_IN, WORST_DAYS, Notes, RiskContext
from shared.simulation.kernel import Floats


def apply(weights: Floats, context: RiskContext) -> None:
    rules, worst = context.rules, context.losses
    bound = 0.0
    for n in range(len(weights)):
        bound += weights[n] * context.tail[n]
    if bound <= min(rules.max_value_at_risk, rules.max_cvar):
        return
    days = 0
    for k in range(WORST_DAYS):
        worst[k] = -math.inf
    for day in range(VAR_DAYS):
        row = context.day_row - day * context.day_stride
        if row < 0:
            break
        loss = 0.0
        for n in range(len(weights)):
            if weights[n] > 0.0:
                loss -= weights[n] * context.daily[row, context.column[n]]
        if loss != loss:
            continue
        days += 1
        k = WORST_DAYS
        while k > 0 and worst[k - 1] < loss:
            k -= 1
        for later in range(WORST_DAYS - 1, k, -1):
            worst[later] = worst[later - 1]
        if k < WORST_DAYS:
            worst[k] = loss
    if days < VAR_MIN_DAYS:
        return
    beyond, shortfall = days // VAR_ONE_IN, 0.0
    for k in range(beyond):
        shortfall += worst[k] / beyond
    share = 1.0
    if worst[beyond] > rules.max_value_at_risk:
        share = rules.max_value_at_risk / worst[beyond]
    if shortfall * share > rules.max_cvar:
        share = rules.max_cvar / shortfall
    for n in range(len(weights)):
        weights[n] *= share


def because(n: int, context: RiskContext, notes: Notes) -> str:
    rules = context.rules
    return (
        f"one day in {VAR_ONE_IN} may cost {rules.max_value_at_risk:.3g} of equity, and such days "
        f"{rules.max_cvar:.3g} on average"
    )
