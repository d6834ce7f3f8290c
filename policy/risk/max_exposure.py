"""All positions together not above their share of equity: scaled down alike."""

from __future__ import annotations

import numpy as np

from policy.risk.context import RiskContext
from shared.rows import FloatArray


def apply(proposed: FloatArray, context: RiskContext) -> tuple[FloatArray, str]:
    cap = min(context.config.max_exposure, context.operator.max_exposure)
    total = float(proposed.sum())
    allowed = np.minimum(proposed, proposed * (cap / total)) if total > cap else proposed
    return allowed, f"exposure {total:.3g} may be at most {cap:.3g} of equity"
