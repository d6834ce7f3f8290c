"""What the risk rules may look at."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from policy.decision_kernel import Bools
from shared.simulation.kernel import Floats


@dataclass(frozen=True, slots=True)
class Clamp:
    """One rule's cut of one weight."""

    rule: str
    before: float
    after: float
    because: str


@dataclass(frozen=True, slots=True)
class OperatorLimits:
    """The operator's own bounds; steering may be stricter, never looser. Fractions of equity; ``max_step`` is the most
    by which a weight may grow in one decision."""

    max_position: float
    max_exposure: float
    daily_loss_limit: float
    max_drawdown: float
    max_step: float = 1.0


NO_LIMITS = OperatorLimits(max_position=1.0, max_exposure=1.0, daily_loss_limit=1.0, max_drawdown=1.0)


class RiskContext(NamedTuple):
    """Numbers only, so that the rules can be compiled. Limits are the stricter of steering's and the operator's;
    ``held_weights`` [N]; ``ood`` [N], how unusual each instrument's window is, percentiles, NaN when unknown;
    ``doubtful`` [N]: something of this instrument is missing or stale."""

    max_position: float
    max_exposure: float
    daily_loss_limit: float
    max_drawdown: float
    max_step: float
    day_return: float
    drawdown: float
    paused: bool
    held_weights: Floats
    ood: Floats
    doubtful: Bools


@dataclass(frozen=True, slots=True)
class Notes:
    """What the reasons are put into words with: who paused, and what is in doubt about each instrument [N]."""

    wallet_paused: bool
    doubts: tuple[str, ...]


def no_entry(proposed: float, held: float) -> float:
    """A position may shrink but not grow."""
    return min(proposed, max(held, 0.0))
