"""Paused by the operator or by the steering: no entries, exits go on."""

from __future__ import annotations

from policy.risk.context import Notes, RiskContext, no_entry
from shared.simulation.kernel import Floats


def apply(weights: Floats, context: RiskContext) -> None:
    if not context.paused:
        return
    for n in range(len(weights)):
        weights[n] = no_entry(weights[n], context.held_weights[n])


def because(n: int, context: RiskContext, notes: Notes) -> str:
    return "the wallet is paused by its operator" if notes.wallet_paused else "policy_config says pause"
