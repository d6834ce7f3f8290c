from __future__ import annotations

from dataclasses import asdict, replace
from datetime import UTC, datetime

import numpy as np
import pytest

from meta_controller.bounds import OPERATOR_LIMITS, check
from meta_controller.controller import (
    LONG_HORIZON_S,
    TRENDS,
    VOLATILITIES,
    Controller,
    HorizonCall,
    MarketWindow,
    Proposal,
)
from meta_controller.market_index import LEAST_BARS, WINDOW_BARS
from meta_controller.rules import STEERING, TARGET_VOLATILITY, Rules, steer
from shared.settings import RiskSettings

AS_OF = datetime(2024, 6, 1, 12, tzinfo=UTC)
TIGHT = RiskSettings(max_position=0.1, max_exposure=0.2, daily_loss_limit=0.01, max_drawdown=0.05)


def propose(drift: float, risk: RiskSettings | None = None, wilder: float = 1.0, bars: int = WINDOW_BARS) -> Proposal:
    returns = 0.005 * (np.random.default_rng(5).standard_normal(bars - 1) + drift)
    returns[-150:] *= wilder
    controller: Controller = Rules(risk or RiskSettings())
    return controller.propose(MarketWindow(AS_OF, 3600, returns, instruments=2))


def call_of(trend: str, volatility: str) -> HorizonCall:
    down, flat, up = (0.8 if name == trend else 0.1 for name in TRENDS)
    low, mid, high = (0.8 if name == volatility else 0.1 for name in VOLATILITIES)
    return HorizonCall(LONG_HORIZON_S, down, flat, up, low, mid, high, 0.0, "made up")


@pytest.mark.parametrize("drift", [-0.5, 0.0, 0.5])
@pytest.mark.parametrize("wilder", [0.3, 1.0, 3.0])
@pytest.mark.parametrize("bars", [LEAST_BARS, WINDOW_BARS])
def test_the_rules_stay_within_bounds(drift: float, wilder: float, bars: int) -> None:
    assert check(propose(drift, wilder=wilder, bars=bars)) == []


@pytest.mark.parametrize("trend", TRENDS)
@pytest.mark.parametrize("volatility", VOLATILITIES)
def test_every_state_has_its_steering(trend: str, volatility: str) -> None:
    steering = steer(call_of(trend, volatility))
    regime = {"down": "bear", "up": "bull"}.get(trend, "volatile" if volatility == "high" else "sideways")
    assert steering == replace(STEERING[regime], target_volatility=TARGET_VOLATILITY[volatility])  # type: ignore[index]


def test_bear_and_volatile_hold_less_than_bull_and_sideways() -> None:
    for name in ("max_exposure", "max_position", "daily_loss_limit"):
        calm = min(getattr(STEERING["bull"], name), getattr(STEERING["sideways"], name))
        assert max(getattr(STEERING["bear"], name), getattr(STEERING["volatile"], name)) < calm


def test_the_wilder_the_market_the_lower_the_target() -> None:
    targets = [propose(0.0, wilder=wilder).steering.target_volatility for wilder in (0.3, 1.0, 3.0)]
    assert targets == [0.45, 0.35, 0.25]


@pytest.mark.parametrize("drift", [-0.5, 0.0, 0.5])
def test_the_operators_limits_are_never_exceeded(drift: float) -> None:
    free, tight = propose(drift).steering, propose(drift, TIGHT).steering
    for name in OPERATOR_LIMITS:
        assert getattr(tight, name) == min(getattr(free, name), getattr(TIGHT, name))
    assert {k: v for k, v in asdict(free).items() if k not in OPERATOR_LIMITS} == {
        k: v for k, v in asdict(tight).items() if k not in OPERATOR_LIMITS
    }


def test_the_reasons_are_one_sentence_with_its_numbers() -> None:
    reasons = propose(0.5).reasons
    assert reasons.startswith("bull, as the 24h call is trend up (t +")
    assert reasons.endswith("target volatility 0.35, exposure up to 1.00")
    assert "\n" not in reasons
