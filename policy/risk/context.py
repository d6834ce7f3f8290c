"""What the risk rules may look at."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from policy.observation import Book
from shared.rows import FloatArray, PolicyConfig


@dataclass(frozen=True, slots=True)
class Clamp:
    """One rule's cut of one weight."""

    rule: str
    before: float
    after: float
    because: str


@dataclass(frozen=True, slots=True)
class OperatorLimits:
    """The operator's own bounds; steering may be stricter, never looser. Fractions of equity."""

    max_position: float
    max_exposure: float
    daily_loss_limit: float
    max_drawdown: float


NO_LIMITS = OperatorLimits(max_position=1.0, max_exposure=1.0, daily_loss_limit=1.0, max_drawdown=1.0)


@dataclass(frozen=True, slots=True)
class RiskContext:
    """``held_weights`` [N]; ``ood`` [N], how unusual each instrument's window is, percentiles, None when unknown;
    ``doubts`` says what is missing or stale, empty when nothing is.
    """

    config: PolicyConfig
    operator: OperatorLimits
    book: Book
    held_weights: FloatArray
    ood: FloatArray | None
    wallet_paused: bool
    doubts: str


def no_entries(proposed: FloatArray, context: RiskContext) -> FloatArray:
    """Positions may shrink but not grow."""
    allowed: FloatArray = np.minimum(proposed, np.maximum(context.held_weights, 0.0))
    return allowed
