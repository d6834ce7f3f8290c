"""Something the decision needs is missing or stale: doubt stops entries, never exits."""

from __future__ import annotations

from policy.risk.context import RiskContext, no_entries
from shared.rows import FloatArray


def apply(proposed: FloatArray, context: RiskContext) -> tuple[FloatArray, str]:
    return (no_entries(proposed, context), context.doubts) if context.doubts else (proposed, "")
