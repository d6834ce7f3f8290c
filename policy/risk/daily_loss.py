"""After losing too much since UTC midnight: no entries until the next midnight."""

from __future__ import annotations

from policy.risk.context import RiskContext, no_entries
from shared.rows import FloatArray


def apply(proposed: FloatArray, context: RiskContext) -> tuple[FloatArray, str]:
    limit = min(context.config.daily_loss_limit, context.operator.daily_loss_limit)
    loss = -context.book.day_return
    if loss < limit:
        return proposed, ""
    return no_entries(proposed, context), f"lost {loss:.2%} today; no entries beyond {limit:.2%} until UTC midnight"
