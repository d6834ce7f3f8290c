"""The limits, in the order in which they apply. Each may only shrink what is proposed.

A rule is pure: ``rule(proposed, context) -> allowed`` with 0 <= allowed <= proposed, elementwise. Adding one
is one file and one line here; the contract tests run over the registry.
"""

from __future__ import annotations

from collections.abc import Callable

from policy.risk import daily_loss, fresh_data, max_drawdown, max_exposure, max_position, out_of_distribution, pause
from policy.risk.context import Clamp, RiskContext
from shared.rows import FloatArray

Rule = Callable[[FloatArray, RiskContext], tuple[FloatArray, str]]

RULES: dict[str, Rule] = {
    "max_drawdown": max_drawdown.apply,
    "max_position": max_position.apply,
    "max_exposure": max_exposure.apply,
    "out_of_distribution": out_of_distribution.apply,
    "daily_loss": daily_loss.apply,
    "pause": pause.apply,
    "fresh_data": fresh_data.apply,
}


def limit(wanted: FloatArray, context: RiskContext) -> tuple[FloatArray, list[list[Clamp]]]:
    """What the rules allow of ``wanted`` [N], and for each instrument what clamped it, in order."""
    allowed = wanted
    clamps: list[list[Clamp]] = [[] for _ in wanted]
    for name, rule in RULES.items():
        proposed, (allowed, because) = allowed, rule(allowed, context)
        for n in (allowed < proposed).nonzero()[0]:
            clamps[n].append(Clamp(name, float(proposed[n]), float(allowed[n]), because))
    return allowed, clamps
