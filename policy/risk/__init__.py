"""The limits, in the order in which they apply. Each may only shrink what is proposed.

A rule is one file with two functions and one line here; the contract tests run over the registry.
``apply(weights, context)`` shrinks the proposed weights [N] in place, 0 <= after <= before, in the subset of Python
that numba compiles, since training and backtest run the same rules compiled. ``because(n, context, notes)`` says in
words what cut instrument ``n``.
"""

from __future__ import annotations

from types import ModuleType

from policy.risk import (
    balance,
    concentration,
    cooldown,
    correlated_exposure,
    daily_loss,
    drawdown_ladder,
    fresh_data,
    heat,
    kelly,
    max_drawdown,
    max_exposure,
    max_leverage,
    max_position,
    out_of_distribution,
    pause,
    position_timeout,
    rate_limit,
    stopped_out,
    symbol_limit,
    trade_risk,
    value_at_risk,
)
from policy.risk.context import Clamp, Notes, RiskContext
from shared.simulation.kernel import Floats

RULES: dict[str, ModuleType] = {
    "max_drawdown": max_drawdown,
    "drawdown_ladder": drawdown_ladder,
    "kelly": kelly,
    "trade_risk": trade_risk,
    "max_position": max_position,
    "symbol_limit": symbol_limit,
    "max_exposure": max_exposure,
    "max_leverage": max_leverage,
    "concentration": concentration,
    "correlated_exposure": correlated_exposure,
    "heat": heat,
    "out_of_distribution": out_of_distribution,
    "position_timeout": position_timeout,
    "stopped_out": stopped_out,
    "cooldown": cooldown,
    "daily_loss": daily_loss,
    "pause": pause,
    "fresh_data": fresh_data,
    "balance": balance,
    "rate_limit": rate_limit,
    "value_at_risk": value_at_risk,
}


def limit(weights: Floats, context: RiskContext) -> None:
    """What training runs compiled: every rule, in order, in place."""
    for rule in RULES.values():
        rule.apply(weights, context)


def limit_and_explain(wanted: Floats, context: RiskContext, notes: Notes) -> tuple[Floats, list[list[Clamp]]]:
    """What the rules allow of ``wanted`` [N], and for each instrument what clamped it, in order."""
    allowed = wanted.copy()
    clamps: list[list[Clamp]] = [[] for _ in wanted]
    limit(allowed, context)
    if (allowed == wanted).all():  # the usual case: since no rule may raise a weight, none of them did anything
        return allowed, clamps
    allowed = wanted.copy()
    for name, rule in RULES.items():
        proposed = allowed.copy()
        rule.apply(allowed, context)
        for n in (allowed < proposed).nonzero()[0]:
            clamps[n].append(Clamp(name, float(proposed[n]), float(allowed[n]), rule.because(n, context, notes)))
    return allowed, clamps
