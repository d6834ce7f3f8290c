"""The learnt policy: a residual over trend × volatility target, so that zero training is the baseline."""

from __future__ import annotations

import numpy as np

from policy import decision_kernel
from policy.observation import View
from policy.strategies.residual import Residual
from shared.rows import FloatArray


def wanted_weights(view: View, residual: Residual | None) -> FloatArray | None:
    if residual is None:
        return None
    market, wanted = view.market, np.zeros(len(view.market.trend))
    action = np.where(market.complete, residual.action, 0.0)  # nothing was seen of the others: the baseline speaks
    agreement = np.where(market.complete, residual.agreement, 1.0)
    decision_kernel.want(market.trend, market.volatility, action, agreement, residual.reach, view.steering, wanted)
    return wanted
