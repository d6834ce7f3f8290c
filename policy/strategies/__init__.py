"""The deciders, by name. Adding one is one file and one line here; policy_config weighs them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import numpy as np

from policy.observation import View
from policy.strategies import buy_and_hold, cash, drl, min_variance, rebalanced_hold, trend_vol_target, vol_target
from policy.strategies.residual import Residual
from shared.rows import FloatArray


class Strategy(Protocol):
    def __call__(self, view: View, residual: Residual | None) -> FloatArray | None:
        """Wanted weights [N] in [0, 1], or None when the strategy has no opinion.

        ``residual`` is what the policy model said, None when there is none to ask.
        """
        ...


BASELINE = "trend_vol_target"
STRATEGIES: dict[str, Strategy] = {
    "drl": drl.wanted_weights,
    BASELINE: trend_vol_target.wanted_weights,
    "vol_target": vol_target.wanted_weights,
    "min_variance": min_variance.wanted_weights,
    "buy_and_hold": buy_and_hold.wanted_weights,
    "rebalanced_hold": rebalanced_hold.wanted_weights,
    "cash": cash.wanted_weights,
}


def opinions_of(view: View, residual: Residual | None, strategy_weights: Mapping[str, float]) -> dict[str, FloatArray]:
    """What the strategies that have a weight want, and the baseline, which speaks where nobody else does."""
    asked = [name for name in STRATEGIES if strategy_weights.get(name, 0.0) > 0.0 or name == BASELINE]
    spoken = {name: STRATEGIES[name](view, residual) for name in asked}
    return {name: weights for name, weights in spoken.items() if weights is not None}


def contributions_of(
    opinions: Mapping[str, FloatArray], strategy_weights: Mapping[str, float]
) -> dict[str, FloatArray]:
    """Each strategy's part [N] of what is wanted: its opinion, by its share of ``strategy_weights`` among those that
    have one; the baseline's alone where none of them has."""
    weights = {name: weight for name in opinions if (weight := strategy_weights.get(name, 0.0)) > 0.0}
    if not weights:
        return {BASELINE: opinions[BASELINE]}
    total = sum(weights.values())
    return {name: opinions[name] * (weight / total) for name, weight in weights.items()}


def blend(contributions: Mapping[str, FloatArray]) -> FloatArray:
    """What all strategies together want, [N] in [0, 1]."""
    together: FloatArray = np.sum(list(contributions.values()), axis=0)
    return np.clip(together, 0.0, 1.0)
