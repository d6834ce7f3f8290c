"""Buy and hold: equal values of everything that has a price, bought once, then left to drift."""

from __future__ import annotations

import numpy as np

from policy.observation import View
from policy.strategies.residual import Residual
from shared.rows import FloatArray


def wanted_weights(view: View, residual: Residual | None = None) -> FloatArray:
    weights = view.book.weights(view.market.prices)
    if weights.any():
        return np.clip(weights, 0.0, 1.0)
    tradable = view.market.tradable
    return tradable / max(int(tradable.sum()), 1)
