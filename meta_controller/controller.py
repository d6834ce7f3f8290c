"""What a controller says, whoever it is: the rules or the LLM, both held to meta_controller.bounds.

A proposal knows nothing of tracks, rows or validity; the job turns it into rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

Trend = Literal["down", "flat", "up"]
Volatility = Literal["low", "mid", "high"]
Regime = Literal["bull", "bear", "sideways", "volatile"]

TRENDS: tuple[Trend, ...] = ("down", "flat", "up")
VOLATILITIES: tuple[Volatility, ...] = ("low", "mid", "high")

SHORT_HORIZON_S = 4 * 3600
LONG_HORIZON_S = 24 * 3600  # the horizon that steers
# Odds of up against down, or the reverse, as a multiple of the usual ones, that name a trend. On BTC and ETH of 2019 to
# 2021 the pool leans so far up in 34 of 100 hours and so far down in 4; in 2022 down in 65.
LEANING = 1.15
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
    usual_odds: float = 1.0  # of up against down, of this forecaster in the months before

    @property
    def trend(self) -> Trend:
        return TRENDS[_most_likely(self.p_down, self.p_flat, self.p_up)]

    @property
    def volatility(self) -> Volatility:
        return VOLATILITIES[_most_likely(self.p_vol_low, self.p_vol_mid, self.p_vol_high)]

    @property
    def regime(self) -> Regime:
        """Follows from the probabilities by a fixed precedence: a trend names the regime, then high volatility.

        Most days move nowhere, so an honest forecast has flat as its likeliest class nearly always. What names a trend
        is which way it goes if it goes: the odds of up against down, as a multiple of those that were usual.
        """
        down = self.p_down * self.usual_odds
        if self.p_up > 0 and self.p_up >= LEANING * down:
            return "bull"
        if down > 0 and down >= LEANING * self.p_up:
            return "bear"
        return "volatile" if self.volatility == "high" else "sideways"


def call_of(horizon_s: int, probabilities: Sequence[float], reasons: str, usual_odds: float = 1.0) -> HorizonCall:
    """The call that six probabilities make (down, flat, up, low, mid, high). Its conviction is p_up - p_down, as far
    as the trend is certain at all: 0 for a third each, 1 for a sure rise."""
    down, flat, up, low, mid, high = probabilities
    certainty = (3.0 * max(down, flat, up) - 1.0) / 2.0
    return HorizonCall(horizon_s, down, flat, up, low, mid, high, (up - down) * certainty, reasons, usual_odds)


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
