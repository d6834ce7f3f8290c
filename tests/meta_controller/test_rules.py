from __future__ import annotations

from dataclasses import asdict, replace

import pytest

from meta_controller import rules
from meta_controller.bounds import OPERATOR_LIMITS, check
from meta_controller.controller import LONG_HORIZON_S, SHORT_HORIZON_S, TRENDS, VOLATILITIES, HorizonCall, Proposal
from meta_controller.rules import STEERING, TARGET_VOLATILITY, steer
from shared.settings import RiskSettings

TIGHT = RiskSettings(max_position=0.1, max_exposure=0.2, daily_loss_limit=0.01, max_drawdown=0.05)


def call_of(trend: str, volatility: str, horizon_s: int = LONG_HORIZON_S) -> HorizonCall:
    down, flat, up = (0.8 if name == trend else 0.1 for name in TRENDS)
    low, mid, high = (0.8 if name == volatility else 0.1 for name in VOLATILITIES)
    return HorizonCall(horizon_s, down, flat, up, low, mid, high, 0.0, "made up")


def propose(trend: str, volatility: str, risk: RiskSettings | None = None) -> Proposal:
    """The short call says the opposite of the long one: only the long one steers."""
    short = call_of("up" if trend == "down" else "down", "low" if volatility == "high" else "high", SHORT_HORIZON_S)
    return rules.propose((short, call_of(trend, volatility)), 2, risk or RiskSettings())


@pytest.mark.parametrize("trend", TRENDS)
@pytest.mark.parametrize("volatility", VOLATILITIES)
def test_the_rules_stay_within_bounds_and_follow_the_long_call(trend: str, volatility: str) -> None:
    proposal = propose(trend, volatility)
    assert check(proposal) == []
    assert proposal.steering == steer(call_of(trend, volatility))


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
    targets = [propose("flat", volatility).steering.target_volatility for volatility in VOLATILITIES]
    assert targets == [0.45, 0.35, 0.25]


@pytest.mark.parametrize("trend", TRENDS)
def test_the_operators_limits_are_never_exceeded(trend: str) -> None:
    free, tight = propose(trend, "mid").steering, propose(trend, "mid", TIGHT).steering
    for name in OPERATOR_LIMITS:
        assert getattr(tight, name) == min(getattr(free, name), getattr(TIGHT, name))
    assert {k: v for k, v in asdict(free).items() if k not in OPERATOR_LIMITS} == {
        k: v for k, v in asdict(tight).items() if k not in OPERATOR_LIMITS
    }


def test_the_reasons_are_one_sentence_with_its_numbers() -> None:
    reasons = propose("up", "mid").reasons
    told = "bull in the index of 2: over 24h up against down 8.00 times as likely as usual, volatility mid;"
    assert reasons.startswith(told)
    assert reasons.endswith("target volatility 0.35, exposure up to 1.00")
    assert "\n" not in reasons
