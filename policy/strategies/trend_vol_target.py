"""Trend × volatility target: hold more of what rises steadily, less of what swings. The named baseline.

weight = max(trend, 0) × target volatility ÷ (own volatility × √N): N uncorrelated positions at full trend
would meet the target; correlated ones exceed it, which the risk rules cap.
"""

from __future__ import annotations

import math

import numpy as np

from policy.observation import View
from shared.rows import FloatArray


def wanted_weights(view: View, action: FloatArray | None = None) -> FloatArray:
    scale = view.config.target_volatility / math.sqrt(len(view.signals))
    weights = [max(s.trend, 0.0) * scale / s.volatility if s.volatility > 0 else 0.0 for s in view.signals]
    capped: FloatArray = np.clip(np.array(weights), 0.0, view.config.max_position)
    return capped
