"""A fraction of the Kelly bet, times the confidence; nothing where the edge is not positive (Kelly, 1956).

f = fraction × (p·b − (1 − p)) ÷ b with p the probability of winning and b the payoff. Only where the operator gives
both: a policy that does not know its edge cannot bet by it.
"""

from __future__ import annotations

from policy.risk.context import Notes, RiskContext
from shared.simulation.kernel import Floats


def apply(weights: Floats, context: RiskContext) -> None:
    p, payoff = context.rules.kelly_win_probability, context.rules.kelly_payoff
    if p <= 0.0:
        return
    bet = max(context.rules.kelly_fraction * (p * payoff - (1.0 - p)) / payoff, 0.0)
    for n in range(len(weights)):
        weights[n] = min(weights[n], bet * context.confidence[n])


def because(n: int, context: RiskContext, notes: Notes) -> str:
    rules = context.rules
    return (
        f"{rules.kelly_fraction:.3g} of the Kelly bet on p {rules.kelly_win_probability:.3g} and payoff "
        f"{rules.kelly_payoff:.3g}, times confidence {context.confidence[n]:.3g}"
    )
