"""Paused by the operator or by the steering: no entries, exits go on."""

from __future__ import annotations

from policy.risk.context import RiskContext, no_entries
from shared.rows import FloatArray


def apply(proposed: FloatArray, context: RiskContext) -> tuple[FloatArray, str]:
    if context.wallet_paused:
        return no_entries(proposed, context), "the wallet is paused by its operator"
    if context.config.pause:
        return no_entries(proposed, context), "policy_config says pause"
    return proposed, ""
