"""No single position above its share of equity."""

from __future__ import annotations

import numpy as np

from policy.risk.context import RiskContext
from shared.rows import FloatArray


def apply(proposed: FloatArray, context: RiskContext) -> tuple[FloatArray, str]:
    cap = min(context.config.max_position, context.operator.max_position)
    return np.minimum(proposed, cap), f"a position may be at most {cap:.3g} of equity"
