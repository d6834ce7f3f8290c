"""The policy's own weights at other times: what chance and exposure alone would have earned."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from policy.shifted_weights import draw_shifts, run_shifts, too_short
from policy.simulator import Costs
from policy.weight_path import WeightPaths, occasions_at_closes
from shared.performance import DAY_S
from tests.policy.backtest_world import make_past
from tests.policy.test_weight_path import grid, rules

HOUR_S = 3600
COSTS = Costs(fee_bps=10.0, slippage_bps=5.0, impact=0.0)


@given(days=st.integers(90, 400), step_s=st.sampled_from([HOUR_S, 4 * HOUR_S, DAY_S]), seed=st.integers(0, 99))
def test_shifts_are_thirty_days_or_more_either_way_and_differ(days: int, step_s: int, seed: int) -> None:
    moments = days * DAY_S // step_s
    drawn = draw_shifts(moments, step_s, 200, seed)
    assert len(set(drawn.tolist())) == len(drawn) == min(200, moments - 2 * 30 * DAY_S // step_s + 1)
    assert drawn.min() * step_s >= 30 * DAY_S
    assert (moments - drawn.max()) * step_s >= 30 * DAY_S
    assert drawn.tolist() == draw_shifts(moments, step_s, 200, seed).tolist()


def test_another_seed_draws_other_shifts() -> None:
    assert draw_shifts(5000, HOUR_S, 50, 1).tolist() != draw_shifts(5000, HOUR_S, 50, 2).tolist()


def test_under_ninety_days_there_are_none_and_it_is_said() -> None:
    assert too_short(np.arange(90 * 24 - 1), HOUR_S) == "span too short for shifts: 89 days, 90 needed"
    assert too_short(np.arange(90 * 24), HOUR_S) == ""
    with pytest.raises(ValueError, match="too few"):
        draw_shifts(59, DAY_S, 10, 0)


def test_a_policy_that_knows_the_next_bar_beats_its_own_shifts_and_a_blind_one_does_not() -> None:
    bars = grid(24 * 120, 1, seed=3)
    bars = type(bars)(bars.start, HOUR_S, bars.open, bars.high, bars.low, bars.close, bars.volume)
    occasions = occasions_at_closes(bars, 0.5, band=0.05)
    ahead = np.r_[bars.close[24:, 0] > bars.close[:-24, 0], np.zeros(24, bool)]
    seeing = np.where(ahead, 0.8, 0.0)[:, None]
    drawn = draw_shifts(len(seeing), HOUR_S, 100, 0)
    paths = WeightPaths(bars, rules(1), occasions)
    found, equities = run_shifts(paths, seeing, occasions.times, COSTS, drawn)
    assert found.percentile == 1.0
    blind, _ = run_shifts(paths, np.roll(seeing, -24 * 60, axis=0), occasions.times, COSTS, drawn)
    assert blind.percentile is not None
    assert blind.percentile < 0.99
    assert (found.low <= found.median).all()
    assert (found.median <= found.high).all()
    assert len(found.times) == len(found.low) == equities.shape[1] == 121
    assert (np.diff(found.times) > 0).all()


def test_each_shift_is_what_the_rolled_weights_earn() -> None:
    bars = grid(24 * 100, 2, seed=4)
    bars = type(bars)(bars.start, HOUR_S, bars.open, bars.high, bars.low, bars.close, bars.volume)
    occasions = occasions_at_closes(bars, 0.5)
    weights = np.random.default_rng(4).uniform(0, 0.5, (24 * 100, 2))
    paths = WeightPaths(bars, rules(2), occasions)
    found, _ = run_shifts(paths, weights, occasions.times, COSTS, np.array([24 * 40]))
    rolled = paths.run(np.roll(weights, -24 * 40, axis=0), COSTS)
    assert found.returns.tolist() == [rolled.closed / rolled.equity[0] - 1.0]


def test_the_backtest_of_a_long_span_has_shifts_and_of_a_short_one_says_why_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    past = make_past(monkeypatch, hours=24 * 91)
    result = past.run(strategy="random", shifts=40)
    assert [curve.name for curve in result.curves] == ["policy"]
    assert result.shifts is not None
    assert len(result.shifts.sharpes) == 40
    assert result.shifts.percentile is not None
    assert 0.0 <= result.shifts.percentile <= 1.0
    again = past.run(strategy="random", shifts=40).shifts
    assert again is not None
    assert again.sharpes.tolist() == result.shifts.sharpes.tolist()
    short = make_past(monkeypatch, hours=72).run()
    assert short.shifts is None
    assert short.shifts_refused == "span too short for shifts: 3 days, 90 needed"
