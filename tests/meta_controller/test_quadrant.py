from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from meta_controller.controller import LONG_HORIZON_S, SHORT_HORIZON_S, HorizonCall
from meta_controller.market_index import WINDOW_BARS
from meta_controller.regimes import EXPERTS
from meta_controller.regimes.quadrant import (
    DWELL_BARS,
    LEAST_RETURNS,
    MACHINE_BARS,
    REFERENCE_BARS,
    TREND,
    VOLATILITY,
    Ladder,
    call_regimes,
    ewma,
    held_class,
    probabilities,
)
from shared.rows import FloatArray, IntArray

SEGMENT_BARS = 20 * 24
SETTLING_BARS = 48
HOURS_APART = 5  # below the dwell, so that no held class falls between two calls

ladders = st.sampled_from([TREND, VOLATILITY])
values = st.floats(-1000, 1000)


def noise(n: int, seed: int = 0, drift: float = 0.0) -> FloatArray:
    return 0.005 * (np.random.default_rng(seed).standard_normal(n) + drift)


def long_call(returns: FloatArray) -> HorizonCall:
    return next(call for call in call_regimes(returns) if call.horizon_s == LONG_HORIZON_S)


@given(value=values, held=st.sampled_from([0, 1, 2]), ladder=ladders)
def test_the_held_class_has_the_most_mass(value: float, held: int, ladder: Ladder) -> None:
    found = probabilities(min(max(value, -40.0), 100.0), held, ladder)
    assert abs(sum(found) - 1.0) < 1e-12
    assert all(found[held] > p for n, p in enumerate(found) if n != held)


def test_the_further_inside_the_surer() -> None:
    ups = [probabilities(t, 2, TREND)[2] for t in (0.5, 1.0, 2.0, 4.0)]
    assert ups == sorted(ups)
    assert ups[0] < ups[-1]


@pytest.mark.parametrize(
    ("walk", "held"),
    [
        ([0.0] * 10 + [0.8], 2),  # entered at the edge
        ([0.0] * 10 + [0.8] * 10 + [0.1] * 10, 2),  # kept while the evidence does not turn
        ([0.0] * 10 + [0.8] * 10 + [-0.1] * 10, 1),  # left when it does
        ([0.0] * 10 + [0.7] * 10, 1),  # not entered before the edge
        ([0.0] * 10 + [0.8] * 10 + [-0.8], 0),  # across to the opposite
    ],
)
def test_a_trend_is_entered_late_and_left_later(walk: list[float], held: int) -> None:
    assert held_class(walk, TREND) == held


def test_a_class_is_held_for_the_dwell() -> None:
    entered = [50.0] * 10 + [90.0]
    assert held_class(entered + [50.0] * (DWELL_BARS - 1), VOLATILITY) == 2
    assert held_class(entered + [50.0] * DWELL_BARS, VOLATILITY) == 1


def test_a_market_that_does_not_move_is_flat_and_mid() -> None:
    for call in call_regimes(np.zeros(WINDOW_BARS - 1)):
        assert (call.trend, call.volatility, call.regime, call.conviction) == ("flat", "mid", "sideways", 0.0)


def test_a_rise_is_up_and_its_mirror_image_is_down() -> None:
    returns = noise(WINDOW_BARS - 1, drift=0.4)
    for rise, fall in zip(call_regimes(returns), call_regimes(-returns), strict=True):
        assert (rise.trend, rise.regime, fall.trend, fall.regime) == ("up", "bull", "down", "bear")
        assert rise.conviction > 0
        assert (fall.p_down, fall.p_flat, fall.p_up) == pytest.approx((rise.p_up, rise.p_flat, rise.p_down), abs=1e-12)
        assert fall.conviction == pytest.approx(-rise.conviction, abs=1e-12)


def test_volatility_is_high_after_a_calm_time_and_low_after_a_wild_one() -> None:
    returns = noise(WINDOW_BARS - 1)
    wilder, calmer = returns.copy(), returns.copy()
    wilder[-200:] *= 3
    calmer[-200:] /= 3
    assert {call.volatility for call in call_regimes(wilder)} == {"high"}
    assert {call.volatility for call in call_regimes(calmer)} == {"low"}


def test_a_wild_market_without_a_trend_is_volatile() -> None:
    call = HorizonCall(LONG_HORIZON_S, 0.2, 0.6, 0.2, 0.1, 0.2, 0.7, 0.0, "made up")
    assert call.regime == "volatile"


def test_price_scale_is_no_evidence() -> None:
    returns = noise(WINDOW_BARS - 1, seed=4)
    for small, large in zip(call_regimes(returns), call_regimes(returns * 4.0), strict=True):
        assert small.p_up == pytest.approx(large.p_up)
        assert small.p_vol_high == pytest.approx(large.p_vol_high)


def test_the_average_is_the_recursive_one() -> None:
    returns = np.abs(noise(400))
    gain = 1 - 0.5 ** (1 / 12)
    mean = weight = 0.0
    for value in returns:
        mean, weight = mean + gain * (value - mean), weight + gain * (1 - weight)
    assert ewma(returns, 12)[-1] == pytest.approx(mean / weight, rel=1e-12)


def test_a_short_history_is_called_and_a_shorter_one_refused() -> None:
    returns = noise(LEAST_RETURNS)
    assert [call.horizon_s for call in call_regimes(returns)] == [SHORT_HORIZON_S, LONG_HORIZON_S]
    with pytest.raises(ValueError, match="at least 160"):
        call_regimes(returns[1:])


def test_the_window_is_used_to_the_last_bar() -> None:
    assert MACHINE_BARS + REFERENCE_BARS - 1 == WINDOW_BARS - 1


def test_calls_say_their_numbers() -> None:
    call = long_call(noise(WINDOW_BARS - 1, drift=0.4))
    assert "trend up (t +" in call.reasons
    assert "over 120 bars" in call.reasons
    assert "percentile" in call.reasons


def test_every_expert_calls_both_horizons() -> None:
    for expert in EXPERTS.values():
        assert [call.horizon_s for call in expert(noise(400))] == [SHORT_HORIZON_S, LONG_HORIZON_S]


def segments(seed: int, count: int = 48) -> tuple[FloatArray, IntArray, IntArray]:
    """Returns, true trend (0 down, 2 up) and true volatility (0 low, 2 high) of 20-day segments.

    The drift's t-statistic over a segment is ±3, by lot; the volatility alternates between 1 and 2.
    """
    rng = np.random.default_rng(seed)
    trend = np.repeat(rng.choice([-1, 1], count), SEGMENT_BARS)
    wild = np.repeat(np.arange(count) % 2, SEGMENT_BARS)
    shocks = rng.standard_normal(count * SEGMENT_BARS) + trend * 3 / np.sqrt(SEGMENT_BARS)
    returns: FloatArray = 0.005 * (1 + wild) * shocks
    return returns, (trend + 1).astype(np.int64), (2 * wild).astype(np.int64)


def test_synthetic_segments_are_told_apart() -> None:
    returns, trend, wild = segments(seed=11)
    ends = np.arange(WINDOW_BARS - 1, len(returns), HOURS_APART)
    calls = [long_call(returns[end - WINDOW_BARS + 2 : end + 1]) for end in ends]
    settled = ends % SEGMENT_BARS >= SETTLING_BARS
    trends = np.array([("down", "flat", "up").index(call.trend) for call in calls])
    volatilities = np.array([("low", "mid", "high").index(call.volatility) for call in calls])
    regimes = [call.regime for call in calls]
    switches = sum(a != b for a, b in zip(regimes[1:], regimes[:-1], strict=True))
    right = (trends == trend[ends])[settled].mean(), (volatilities == wild[ends])[settled].mean()
    a_day = switches / (len(calls) * HOURS_APART / 24)
    print(f"trend {right[0]:.1%} right, volatility {right[1]:.1%}, {a_day:.2f} changes of regime a day")
    assert min(right) >= 0.8
    assert a_day < 1.0
