"""The learnt policy: a residual over trend × volatility target, so that zero training is the baseline.

Steering is structural: the residual's reach shrinks with risk aversion and is cut at max_position, so a new
policy_config acts at the next tick without retraining.
"""

from __future__ import annotations

import numpy as np

from policy.observation import View
from policy.strategies import trend_vol_target
from shared.rows import FloatArray

REACH = 0.25  # of max_position, at risk aversion 1


def wanted_weights(view: View, action: FloatArray | None) -> FloatArray | None:
    if action is None:
        return None
    config = view.config
    reach = REACH * config.max_position / max(config.risk_aversion, 1.0)
    residual = reach * np.clip(np.asarray(action, dtype=np.float64), -1.0, 1.0)
    return np.clip(trend_vol_target.wanted_weights(view) + residual, 0.0, config.max_position)
