"""An instrument and those it is correlated with hold at most so much of equity together.

Around each instrument: all whose daily returns correlate with its own by ``correlated_from`` or more. A correlation
that is not known counts as CORRELATION, for crypto falls together. A group above the limit is scaled down alike, the
first instrument's first; what that leaves is all that the next one looks at.
"""

from __future__ import annotations

from policy.decision_kernel import CORRELATION
from policy.risk.context import Notes, RiskContext
from shared.simulation.kernel import Floats


def apply(weights: Floats, context: RiskContext) -> None:
    limit, least = context.rules.max_correlated_exposure, context.rules.correlated_from
    if limit >= 1.0:
        return
    for n in range(len(weights)):
        total = 0.0
        for m in range(len(weights)):
            between = context.correlation[n, m]
            if m == n or between >= least or (between != between and least <= CORRELATION):
                total += weights[m]
        if total <= limit:
            continue
        for m in range(len(weights)):
            between = context.correlation[n, m]
            if m == n or between >= least or (between != between and least <= CORRELATION):
                weights[m] *= limit / total


def because(n: int, context: RiskContext, notes: Notes) -> str:
    rules = context.rules
    return (
        f"instruments correlated by {rules.correlated_from:.3g} or more may hold "
        f"{rules.max_correlated_exposure:.3g} of equity together"
    )
