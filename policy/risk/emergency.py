"""What stops a wallet until its operator resumes it with a reason.

The rules hold each limit at every decision. What is found here is a book far beyond one all the same: something is
wrong that cutting the next weights does not mend. Five triggers, each on what is held:

- drawdown: as max_drawdown, which empties the book at the same moment.
- daily_loss: DAILY_LOSS times the operator's limit. At the limit itself entries end until UTC midnight only.
- leverage: LEVERAGE times the operator's.
- correlation: CORRELATED times the exposure that correlated instruments may hold.
- critical_risk: heat above HEAT_CEILING, or a value at risk or CVaR of CRITICAL times its limit.

A limit that is off triggers nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

from policy.risk.context import HEAT_CEILING, OperatorLimits, RiskContext
from policy.risk_report import Risk, risk_of

DAILY_LOSS = 1.5
LEVERAGE = 1.05  # a book that only buys with cash cannot get there
CORRELATED = 1.25
CRITICAL = 1.5


@dataclass(frozen=True, slots=True)
class Stop:
    """One trigger, and what pulled it: the rule and the reason of a risk_events row of kind 'stop'."""

    rule: str
    because: str


def triggers(context: RiskContext, operator: OperatorLimits) -> list[Stop]:
    """What stops the wallet that ``context`` describes; nothing where all is well. Of steering's stricter bounds only
    max_drawdown counts, as it does in the rule: an operator's stop answers to the operator's limits."""
    risk, rules = risk_of(context.held_weights, context), context.rules
    loss, daily = -context.day_return, DAILY_LOSS * operator.daily_loss_limit
    correlated = CORRELATED * rules.max_correlated_exposure
    found = []
    if context.drawdown >= context.max_drawdown:
        found.append(
            Stop("drawdown", f"{context.drawdown:.2%} below the peak; the limit is {context.max_drawdown:.2%}")
        )
    if loss >= daily:
        found.append(Stop("daily_loss", f"lost {loss:.2%} today; a loss of {daily:.2%} needs an operator"))
    if risk.exposure > LEVERAGE * rules.max_leverage:
        found.append(Stop("leverage", f"leverage is {risk.exposure:.3g}; the limit is {rules.max_leverage:.3g}"))
    if rules.max_correlated_exposure < 1.0 and risk.correlated > correlated:
        found.append(
            Stop(
                "correlation",
                f"correlated instruments hold {risk.correlated:.3g} of equity; the limit is "
                f"{rules.max_correlated_exposure:.3g}",
            )
        )
    return found + _critical(risk, context)


def _critical(risk: Risk, context: RiskContext) -> list[Stop]:
    """At most one: the first of heat, value at risk and CVaR that is far too high. NaN is not."""
    rules = context.rules
    measures = (
        ("heat", risk.heat, max(HEAT_CEILING, rules.max_heat)),
        ("the daily value at risk", risk.value_at_risk, CRITICAL * rules.max_value_at_risk),
        ("the daily CVaR", risk.cvar, CRITICAL * rules.max_cvar),
    )
    for name, value, most in measures:
        if value > most:
            return [Stop("critical_risk", f"{name} is {value:.3g} of equity; {most:.3g} is critical")]
    return []
