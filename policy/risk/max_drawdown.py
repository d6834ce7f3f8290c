"""Too far below the peak since the wallet was last resumed: into cash, until an operator resumes it anew."""

from __future__ import annotations

import numpy as np

from policy.risk.context import RiskContext
from shared.rows import FloatArray


def apply(proposed: FloatArray, context: RiskContext) -> tuple[FloatArray, str]:
    limit = min(context.config.max_drawdown, context.operator.max_drawdown)
    drawdown = context.book.drawdown
    if drawdown < limit:
        return proposed, ""
    return np.zeros_like(proposed), f"{drawdown:.2%} below the peak (limit {limit:.2%}); in cash until resumed"
