"""The deciders, by name. Adding one is one file and one line here; policy_config weighs them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import numpy as np

from policy.observation import View
from policy.strategies import drl, trend_vol_target
from shared.rows import FloatArray


class Strategy(Protocol):
    def __call__(self, view: View, action: FloatArray | None) -> FloatArray | None:
        """Wanted weights [N] in [0, 1], or None when the strategy has no opinion.

        ``action`` [N] in [-1, 1] is what the policy model said, None when there is none to ask.
        """
        ...


BASELINE = "trend_vol_target"
STRATEGIES: dict[str, Strategy] = {
    "drl": drl.wanted_weights,
    BASELINE: trend_vol_target.wanted_weights,
}


def blend(opinions: Mapping[str, FloatArray], strategy_weights: Mapping[str, float]) -> FloatArray:
    """The opinions' mean, weighted by ``strategy_weights`` among those that have one, [N]."""
    weights = {name: strategy_weights.get(name, 0.0) for name in opinions}
    total = sum(weights.values())
    if total <= 0:
        return opinions[BASELINE]
    blended: FloatArray = np.sum([opinions[name] * (weight / total) for name, weight in weights.items()], axis=0)
    return np.clip(blended, 0.0, 1.0)
