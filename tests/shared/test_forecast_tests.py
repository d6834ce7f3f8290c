"""Each test of forecasts against a slow formula or scipy, its laws, and its size under the null."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from shared.forecast_tests import (
    Estimate,
    _widening,
    clark_west,
    combine,
    coverage_error,
    diebold_mariano,
    estimate,
    hac_lag,
    newey_west,
)
from shared.rows import FloatArray

seeds = st.integers(0, 2**32 - 1)


def overlapping(rng: np.random.Generator, n: int, horizon: int) -> FloatArray:
    """Sums of ``horizon`` innovations made at every step: standard deviation 1, mean 0."""
    return np.convolve(rng.normal(0, 1, n + horizon - 1), np.ones(horizon), "valid") / math.sqrt(horizon)


@given(seeds, st.integers(1, 30), st.integers(0, 40))
def test_newey_west_is_the_weighted_sum_over_all_pairs(seed: int, n: int, lag: int) -> None:
    values = np.random.default_rng(seed).normal(0, 1, n)
    x = values - values.mean()
    slow = sum(max(0.0, 1 - abs(i - j) / (lag + 1)) * x[i] * x[j] for i in range(n) for j in range(n)) / n**2
    assert newey_west(values, lag) == pytest.approx(slow, abs=1e-12)


def test_the_lag_covers_the_horizon_and_grows_with_the_sample() -> None:
    assert hac_lag(100, 24) == 24
    assert hac_lag(10_000, 24) == 130
    assert hac_lag(10, 24) == 9
    assert hac_lag(1, 24) == 0


def test_p_values_are_the_normal_ones() -> None:
    e = Estimate(0.2, 0.01, 100)
    assert e.statistic == pytest.approx(2.0)
    assert e.p_above == pytest.approx(stats.norm.sf(2))
    assert e.p_two_sided == pytest.approx(2 * stats.norm.sf(2))
    assert Estimate(-0.2, 0.01, 100).p_above == pytest.approx(stats.norm.cdf(2))
    assert e.interval(0.95) == pytest.approx((0.2 - 1.959964 * 0.1, 0.2 + 1.959964 * 0.1))
    assert Estimate(0.0, 0.0, 9).p_two_sided == 1.0
    assert Estimate(0.1, 0.0, 9).p_above == 0.0
    assert math.isnan(combine([]).p_above)
    assert math.isnan(combine([]).p_two_sided)


def test_estimates_of_separate_spans_combine_like_one() -> None:
    rng = np.random.default_rng(1)
    parts = [rng.normal(0.1, 1, n) for n in (2000, 500, 4000)]
    together = combine([*(estimate(part, 1) for part in parts), estimate(np.empty(0), 1)])
    whole = np.concatenate(parts)
    assert together.n == len(whole)
    assert together.mean == pytest.approx(whole.mean())
    assert together.variance == pytest.approx(whole.var() / len(whole), rel=0.2)
    assert math.isnan(combine([]).mean)


def test_series_that_move_together_count_once() -> None:
    values = np.random.default_rng(2).normal(0.1, 1, 300)
    times = np.arange(300)
    alone = estimate(values, 1, times)
    twice = estimate(np.concatenate([values, values]), 1, np.concatenate([times, times]))
    assert twice.mean == pytest.approx(alone.mean)
    assert twice.variance == pytest.approx(alone.variance)
    shuffled = np.random.default_rng(3).permutation(300)
    assert estimate(values[shuffled], 1, times[shuffled]) == alone
    uneven = estimate(np.append(values, 9.0), 1, np.append(times, 5))
    assert uneven.mean == pytest.approx(np.append(values, 9.0).mean())


def test_diebold_mariano_is_symmetric_and_sees_the_better_one() -> None:
    rng = np.random.default_rng(4)
    good, bad = rng.chisquare(1, 500), 1.5 * rng.chisquare(1, 500)
    better, worse = diebold_mariano(good, bad, 1), diebold_mariano(bad, good, 1)
    assert better.mean == pytest.approx(-worse.mean)
    assert better.p_two_sided == pytest.approx(worse.p_two_sided)
    assert better.mean > 0
    assert better.p_two_sided < 0.01
    assert diebold_mariano(good, good, 1).p_two_sided == 1.0


def test_clark_west_by_hand() -> None:
    y, small, large = np.array([1.0, 2.0]), np.array([0.0, 0.0]), np.array([0.5, 3.0])
    assert clark_west(y, small, large, 1).mean == pytest.approx(np.mean([1 - (0.25 - 0.25), 4 - (1 - 9)]))
    assert clark_west(y, small, small, 1).p_above == pytest.approx(0.5)


def rejections(horizon: int, help_: float, trials: int = 300) -> float:
    """How often Clark–West at 5 % says that one more regressor, fitted on the first half, helps."""
    rng, rejected = np.random.default_rng(7), 0
    for _ in range(trials):
        n = 600
        x = overlapping(rng, n, horizon)
        y = help_ * x + overlapping(rng, n, horizon)
        slope = float(x[:300] @ y[:300] / (x[:300] @ x[:300]))
        test = clark_west(y[300:], np.zeros(300), slope * x[300:], horizon)
        rejected += test.p_above < 0.05
    return rejected / trials


def test_clark_west_keeps_its_size_under_overlap_and_has_power() -> None:
    assert rejections(12, 0.0) < 0.13
    assert rejections(1, 0.0) < 0.09
    assert rejections(1, 0.3) > 0.9


def test_the_coverage_test_knows_of_overlap() -> None:
    rng, hac, plain, trials = np.random.default_rng(8), 0, 0, 200
    for _ in range(trials):
        hits = np.abs(overlapping(rng, 1000, 24)) < 1.2815515655446004
        hac += coverage_error(hits, 0.8, 24).p_two_sided < 0.05
        plain += stats.binomtest(int(hits.sum()), 1000, 0.8).pvalue < 0.05
    assert hac / trials < 0.13
    assert plain / trials > 0.4
    assert coverage_error(np.abs(overlapping(rng, 5000, 4)) < 0.9, 0.8, 4).p_two_sided < 0.01


def test_more_series_at_some_moments_are_no_variance() -> None:
    """A second series that is there half of the time, in stretches, moves as the first: the evidence is the same."""
    values = np.random.default_rng(11).normal(5.0, 1, 2000)
    times = np.arange(2000)
    there = times % 200 < 100
    alone = estimate(values, 1, times)
    unbalanced = estimate(np.concatenate([values, values[there]]), 1, np.concatenate([times, times[there]]))
    assert unbalanced.variance == pytest.approx(alone.variance, rel=0.5)
    assert unbalanced.n == 2000
    level = estimate(np.full(300, 0.1), 1, np.concatenate([np.arange(200), np.arange(100)]))
    assert level.variance < 1e-20


def test_the_variance_is_widened_for_a_long_lag() -> None:
    values = np.random.default_rng(13).normal(0, 1, 400)
    assert estimate(values, 39).variance == pytest.approx(newey_west(values, 39) * _widening(0.1) ** 2)
    assert _widening(0.1) == pytest.approx(2.2605 / 1.96, rel=1e-3)


@pytest.mark.parametrize("b", [0.1, 0.5])
def test_the_critical_value_is_that_of_a_lag_that_grows_with_the_sample(b: float) -> None:
    """Kiefer and Vogelsang's, simulated: |mean| / standard error of white noise, its 95 % quantile."""
    rng, n = np.random.default_rng(12), 200
    lag = int(b * n) - 1
    noise = rng.normal(0, 1, (4000, n))
    statistics = [abs(x.mean()) / math.sqrt(newey_west(x, lag)) for x in noise]
    assert np.quantile(statistics, 0.95) == pytest.approx(1.96 * _widening(b), rel=0.06)
    assert _widening(0) == 1.0


def test_size_of_the_test_of_the_mean_under_the_null() -> None:
    rng = np.random.default_rng(10)
    rejected = [estimate(overlapping(rng, 2000, 24), 24).p_two_sided < 0.05 for _ in range(300)]
    assert np.mean(rejected) < 0.09
