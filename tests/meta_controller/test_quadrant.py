from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from meta_controller.market_index import MarketHistory
from meta_controller.regimes.expert import Calls
from meta_controller.regimes.quadrant import (
    EXPERT,
    TREND,
    VOLATILITY,
    Ladder,
    ewma,
    held_classes,
    probabilities,
    trend_t,
    volatility_percentiles,
)
from shared.rows import FloatArray, IntArray

DAYS, DAY = 240, 24  # of the histories here, in bars of an hour
SEGMENT_BARS = 20 * DAY
SETTLING_BARS = 2 * DAY
DWELL = 6
SHORT, LONG = 0, 1

ladders = st.sampled_from([TREND, VOLATILITY])
values = st.floats(-1000, 1000)


def noise(n: int = DAYS * DAY, seed: int = 0, drift: float = 0.0) -> FloatArray:
    return 0.005 * (np.random.default_rng(seed).standard_normal(n) + drift)


def history_of(returns: FloatArray) -> MarketHistory:
    return MarketHistory(1_600_002_000, 3600, returns, returns**2, np.ones(len(returns), np.bool_), (0,))


def calls(returns: FloatArray, bars: int = 1) -> Calls:
    return EXPERT.call(history_of(returns), {}, bars)


def trends(found: Calls) -> IntArray:
    """[bars, horizons]"""
    return np.asarray(found[..., :3].argmax(axis=-1))


def volatilities(found: Calls) -> IntArray:
    return np.asarray(found[..., 3:].argmax(axis=-1))


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
    assert held_classes(walk, TREND, DWELL)[-1] == held


def test_a_class_is_held_for_the_dwell() -> None:
    entered = [50.0] * 10 + [90.0] + [50.0] * DWELL
    assert held_classes(entered, VOLATILITY, DWELL) == [1] * 10 + [2] * DWELL + [1]


@given(st.lists(st.floats(0, 100), min_size=20, max_size=200), st.integers(1, 12))
def test_no_class_is_left_before_the_dwell_is_over(walk: list[float], dwell: int) -> None:
    held = np.array(held_classes(walk, VOLATILITY, dwell))
    changes = np.flatnonzero(np.diff(held))
    assert (np.diff(changes) >= dwell).all()


def test_a_market_that_does_not_move_is_flat_and_mid() -> None:
    found = calls(np.zeros(DAYS * DAY), 168)
    assert (trends(found) == 1).all()
    assert (volatilities(found) == 1).all()
    assert found[..., 0] == pytest.approx(found[..., 2], abs=1e-12)


def test_a_rise_is_up_and_its_mirror_image_is_down() -> None:
    returns = noise(drift=0.4)
    rise, fall = calls(returns), calls(-returns)
    assert (trends(rise) == 2).all()
    assert (trends(fall) == 0).all()
    assert rise[..., :3] == pytest.approx(fall[..., 2::-1], abs=1e-12)


def test_volatility_is_high_after_a_calm_time_and_low_after_a_wild_one() -> None:
    wilder, calmer = noise(), noise()
    wilder[-200:] *= 3
    calmer[-200:] /= 3
    assert (volatilities(calls(wilder)) == 2).all()
    assert (volatilities(calls(calmer)) == 0).all()


def test_volatility_is_compared_with_the_half_year_before_it() -> None:
    """100 wild days are no longer high after 90 more of them; 50 days of reference would have forgotten the calm."""
    returns = noise()
    returns[-100 * DAY :] *= 3
    found = volatilities(calls(returns, 100 * DAY))[:, LONG]
    assert (found[20 * DAY : 60 * DAY] == 2).all()
    returns[: -100 * DAY] *= 3
    assert not (volatilities(calls(returns, 100 * DAY))[20 * DAY : 60 * DAY, LONG] == 2).all()


def test_price_scale_is_no_evidence() -> None:
    returns = noise(seed=4)
    assert calls(returns) == pytest.approx(calls(returns * 4.0), abs=1e-9)


def test_the_average_is_the_recursive_one() -> None:
    returns = np.abs(noise(400))
    gain = 1 - 0.5 ** (1 / 12)
    mean = weight = 0.0
    for value in returns:
        mean, weight = mean + gain * (value - mean), weight + gain * (1 - weight)
    assert ewma(returns, 12)[-1] == pytest.approx(mean / weight, rel=1e-12)


def test_the_trend_is_a_t_statistic_of_scaled_returns() -> None:
    returns = noise(400)
    volatility = np.full(400, 0.01)
    last = returns[-120:]
    assert trend_t(returns, volatility, 120)[-1] == pytest.approx(last.sum() / np.sqrt((last**2).sum()), rel=1e-9)
    assert trend_t(returns, volatility, 120)[0] == pytest.approx(np.sign(returns[0]))


def test_a_percentile_is_that_of_a_lognormal() -> None:
    volatility = np.exp(np.random.default_rng(0).standard_normal(5000))
    found = volatility_percentiles(volatility, 4000)[-1000:]
    assert np.quantile(found, [0.1, 0.5, 0.9]) == pytest.approx([10, 50, 90], abs=3)


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
    known = np.arange(180 * DAY, len(returns))
    found = calls(returns, len(known))
    held_trend, held_volatility = trends(found)[:, LONG], volatilities(found)[:, LONG]
    settled = known % SEGMENT_BARS >= SETTLING_BARS
    right = (held_trend == trend[known])[settled].mean(), (held_volatility == wild[known])[settled].mean()
    regime = np.where(held_trend != 1, held_trend, 3 + (held_volatility == 2))  # as HorizonCall.regime
    a_day = (np.diff(regime) != 0).mean() * DAY
    print(f"trend {right[0]:.1%} right, volatility {right[1]:.1%}, {a_day:.2f} changes of regime a day")
    assert right[0] >= 0.8
    assert right[1] >= 0.9
    assert a_day < 1.0


def test_the_short_horizon_sees_a_turn_first() -> None:
    returns = noise(drift=0.5)
    returns[-72:] -= 2 * 0.5 * 0.005
    down = trends(calls(returns, 72)) == 0
    assert down[:, SHORT].argmax() < down[:, LONG].argmax() or not down[:, LONG].any()
    assert down[-1, SHORT]
