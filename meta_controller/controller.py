"""What a controller says, whoever it is: the rules today, the LLM later, both held to meta_controller.bounds.

A proposal knows nothing of tracks, rows or validity; the job turns it into rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, Protocol

from shared.rows import FloatArray

Trend = Literal["down", "flat", "up"]
Volatility = Literal["low", "mid", "high"]
Regime = Literal["bull", "bear", "sideways", "volatile"]

TRENDS: tuple[Trend, ...] = ("down", "flat", "up")
VOLATILITIES: tuple[Volatility, ...] = ("low", "mid", "high")

SHORT_HORIZON_S = 4 * 3600
LONG_HORIZON_S = 24 * 3600  # the horizon that steers
HORIZONS_S = (SHORT_HORIZON_S, LONG_HORIZON_S)


@dataclass(frozen=True, slots=True)
class HorizonCall:
    """One call of the regime for one horizon; each triple of probabilities sums to 1, conviction is in -1..1."""

    horizon_s: int
    p_down: float
    p_flat: float
    p_up: float
    p_vol_low: float
    p_vol_mid: float
    p_vol_high: float
    conviction: float
    reasons: str

    @property
    def trend(self) -> Trend:
        return TRENDS[_most_likely(self.p_down, self.p_flat, self.p_up)]

    @property
    def volatility(self) -> Volatility:
        return VOLATILITIES[_most_likely(self.p_vol_low, self.p_vol_mid, self.p_vol_high)]

    @property
    def regime(self) -> Regime:
        """Follows from the probabilities by a fixed precedence: a trend names the regime, then high volatility."""
        if self.trend != "flat":
            return "bear" if self.trend == "down" else "bull"
        return "volatile" if self.volatility == "high" else "sideways"


def _most_likely(*probabilities: float) -> int:
    return max(range(len(probabilities)), key=probabilities.__getitem__)


@dataclass(frozen=True, slots=True)
class Steering:
    """How the policy is to steer: the columns of policy_config that a controller decides, in their units."""

    risk_aversion: float
    turnover_penalty: float
    drawdown_penalty: float
    target_volatility: float  # a year
    max_exposure: float  # of equity
    max_position: float  # of equity
    daily_loss_limit: float  # of equity
    max_drawdown: float  # from the peak
    pause: bool  # no entries
    strategy_weights: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Proposal:
    """All that a controller has to say about one moment: one call a horizon, the steering, and why."""

    calls: tuple[HorizonCall, ...]
    steering: Steering
    reasons: str


@dataclass(frozen=True, slots=True)
class MarketWindow:
    """What is known of the market at ``as_of``: the equal-weight index's log returns, oldest first, shape (n,).

    One return a bar of ``timeframe_s``, the last one ending at ``as_of``; ``instruments`` are in the index.
    """

    as_of: datetime
    timeframe_s: int
    returns: FloatArray
    instruments: int


class Controller(Protocol):
    """The seat that the rules and the LLM take. ``source`` is the name that its rows carry."""

    @property
    def source(self) -> str: ...

    def propose(self, window: MarketWindow) -> Proposal:
        """Reads and thinks, writes nothing. What it says counts only after bounds.check found nothing in it."""
        ...
