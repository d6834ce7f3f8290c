"""Trend × volatility target: hold more of what rises steadily, less of what swings. The named baseline."""

from __future__ import annotations

import numpy as np

from policy import decision_kernel
from policy.observation import View
from policy.strategies.residual import Residual
from shared.rows import FloatArray


def wanted_weights(view: View, residual: Residual | None = None) -> FloatArray:
    market, n = view.market, len(view.market.trend)
    wanted = np.zeros(n)
    decision_kernel.want(market.trend, market.volatility, np.zeros(n), np.ones(n), 0.0, view.steering, wanted)
    return wanted
