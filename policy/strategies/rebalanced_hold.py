"""Rebalanced hold: equal weights of everything that trades, brought back to them at the wallet's costs."""

from __future__ import annotations

from policy.observation import View
from policy.strategies.residual import Residual
from shared.rows import FloatArray


def wanted_weights(view: View, residual: Residual | None = None) -> FloatArray:
    tradable = view.market.tradable
    weights: FloatArray = tradable / max(int(tradable.sum()), 1)
    return weights
