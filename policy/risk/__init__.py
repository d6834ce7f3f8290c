"""The limits, in the order in which they apply. Each may only shrink what is proposed.

A rule is one file with two functions and one line here; the contract tests run over the registry.
``apply(weights, context)`` shrinks the proposed weights [N] in place, 0 <= after <= before, in the subset of Python
that numba compiles, since training and backtest run the same rules compiled. ``because(n, context, notes)`` says in
words what cut instrument ``n``.
"""

from __future__ import annotations

from types import ModuleType

from policy.risk import (
    daily_loss,
    fresh_data,
    max_drawdown,
    max_exposure,
    max_position,
    out_of_distribution,
    pause,
    rate_limit,
)
from policy.risk.context import Clamp, Notes, RiskContext
from shared.simulation.kernel import Floats

RULES: dict[str, ModuleType] = {
    "max_drawdown": max_drawdown,
    "max_position": max_position,
    "max_exposure": max_exposure,
    "out_of_distribution": out_of_distribution,
    "daily_loss": daily_loss,
    "pause": pause,
    "fresh_data": fresh_data,
    "rate_limit": rate_limit,
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
