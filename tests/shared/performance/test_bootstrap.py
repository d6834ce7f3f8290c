"""The bootstrap against arch, by its laws, and against what theory says of independent returns."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.performance import bootstrap, returns
from shared.performance.bootstrap import interval, paired_difference, resample, stationary_indices
from shared.rows import FloatArray


def autoregressive(phi: float, n: int, seed: int) -> FloatArray:
    shocks, series = np.random.default_rng(seed).standard_normal(n), np.zeros(n)
    for t in range(1, n):
        series[t] = phi * series[t - 1] + shocks[t]
    return series


@pytest.mark.parametrize("phi", [-0.4, 0.0, 0.3, 0.9])
@pytest.mark.parametrize("n", [60, 100, 731, 2500])
def test_the_block_length_is_that_of_arch(phi: float, n: int) -> None:
    from arch.bootstrap import optimal_block_length

    series = autoregressive(phi, n, seed=n)
    expected = float(optimal_block_length(series)["stationary"].iloc[0])
    assert bootstrap.block_length(series) == pytest.approx(expected)


def test_a_series_without_variance_has_blocks_of_one_day() -> None:
    assert bootstrap.block_length(np.full(100, 0.01)) == 1.0


def test_blocks_have_the_asked_mean_length_run_on_and_wrap_around() -> None:
    drawn = stationary_indices(50, 8.0, 4000, np.random.default_rng(1))
    follows = (drawn[:, 1:] - drawn[:, :-1]) % 50 == 1
    assert np.mean(~follows) == pytest.approx(1 / 8 * 49 / 50, rel=0.03)  # a new block may begin on the next day
    assert np.any((drawn[:, :-1] == 49) & (drawn[:, 1:] == 0))
    assert np.bincount(drawn.ravel(), minlength=50) == pytest.approx(np.full(50, 4000), rel=0.15)


def test_a_replicate_holds_drawn_seeds_in_equal_parts_anew_in_each_fold() -> None:
    folds = np.array([7, 7, 7, 8, 8, 9])
    policy = np.array([0.0, 1.0, 5.0])[:, None] + 100.0 * np.arange(6.0)  # the seed's mark + 100 × day
    thirds = {a + b + c for a in (0, 1, 5) for b in (0, 1, 5) for c in (0, 1, 5)}
    found, differ = set(), False
    for rows in resample(policy, folds, 2.0, 300, np.random.default_rng(1)):
        for row in rows:
            days, marks = row // 100, np.round(row % 100 * 3).astype(int)
            of_fold = [set(marks[folds[days.astype(int)] == fold]) for fold in (7, 8, 9)]
            assert all(len(one) <= 1 for one in of_fold)
            found |= set(marks.tolist())
            differ |= len(set().union(*of_fold)) > 1
    assert found == thirds
    assert differ


def test_the_drawn_differences_are_those_of_drawn_returns() -> None:
    """Sums of how often each day was drawn, against the ratios of the days themselves; the same random numbers."""
    rng = np.random.default_rng(2)
    policy, baseline, folds = rng.normal(0.001, 0.02, (3, 90)), rng.normal(0, 0.02, 90), np.arange(90) // 40
    fast = bootstrap._drawn_differences(policy, baseline, folds, 6.0, 150, np.random.default_rng(3))
    rows = np.concatenate(list(resample(policy, folds, 6.0, 150, np.random.default_rng(3))))
    baselines = resample(baseline[None], np.zeros(90, np.int64), 6.0, 100, np.random.default_rng(3))
    slow = bootstrap.sharpes(rows[:100]) - bootstrap.sharpes(next(baselines))
    assert fast[:100] == pytest.approx(slow)
    assert len(fast) == 150


def test_deviations_are_widened_as_those_of_the_hac_errors() -> None:
    share = (math.ceil(1.3 * math.sqrt(1460)) + 1) / 1460
    expected = (1.96 + 2.9694 * share + 0.416 * share**2 - 0.5324 * share**3) / 1.96
    assert bootstrap.widening(1460) == pytest.approx(expected)
    assert 1.04 < expected < 1.06


def test_the_interval_of_a_sharpe_ratio_is_as_wide_as_lo_says() -> None:
    daily = np.random.default_rng(3).normal(0.001, 0.02, 1500)
    found = interval(returns.sharpe, daily)
    assert found is not None
    assert found.point == pytest.approx(returns.sharpe(daily))
    assert (found.high - found.low) / (2 * 1.96) == pytest.approx(returns.sharpe_standard_error(daily), rel=0.1)


def test_seeds_that_differ_widen_the_interval() -> None:
    one = np.random.default_rng(3).normal(0.001, 0.02, 800)
    same, apart = (np.stack([one - shift, one, one + shift]) for shift in (0.0, 0.003))
    narrow, wide = (interval(returns.sharpe, seeds, replicates=400) for seeds in (same, apart))
    assert narrow is not None
    assert wide is not None
    assert wide.high - wide.low > 1.5 * (narrow.high - narrow.low)
    assert wide.point == pytest.approx(narrow.point)


def test_a_figure_that_is_undefined_has_no_interval() -> None:
    assert interval(returns.sharpe, np.zeros(100), replicates=50) is None


def test_a_policy_that_is_its_baseline_differs_in_no_replicate() -> None:
    baseline = np.random.default_rng(4).normal(0.001, 0.02, 500)
    difference = paired_difference(np.stack([baseline] * 3), baseline, replicates=200)
    assert (difference.point, difference.low, difference.high) == pytest.approx((0, 0, 0), abs=1e-9)
    assert (difference.p_above_0, difference.p_above_minus_02) == (0, 1)


def test_leverage_makes_no_difference_and_days_are_paired() -> None:
    baseline = np.random.default_rng(4).normal(0.001, 0.02, 500)
    difference = paired_difference(2.0 * baseline, baseline, replicates=200)
    assert max(abs(difference.low), abs(difference.high)) < 1e-9  # unpaired, it would be about 2 either way


def test_what_is_better_every_day_is_better_surely() -> None:
    baseline = np.random.default_rng(4).normal(0.0, 0.02, 500)
    difference = paired_difference(baseline + 0.001, baseline, replicates=200)
    assert difference.p_above_0 == 1
    assert difference.low > 0
    assert difference.point == pytest.approx(0.001 / baseline.std(ddof=1) * math.sqrt(365))


def test_the_spread_of_the_difference_is_that_of_its_influence() -> None:
    """The delta method and the bootstrap agree where days are independent."""
    rng = np.random.default_rng(6)
    baseline = rng.normal(0.001, 0.01, 2000)
    policy = baseline + rng.normal(0.0, 0.005, 2000)
    difference = paired_difference(policy, baseline)
    error = bootstrap.sharpe_influence(policy, baseline).std() / math.sqrt(2000) * math.sqrt(365)
    assert (difference.high - difference.low) / (2 * 1.96) == pytest.approx(error, rel=0.1)


@settings(max_examples=15)
@given(st.integers(0, 10_000), st.integers(1, 3), st.integers(60, 120))
def test_the_same_seed_gives_the_same_bits_and_probabilities_are_ordered(seed: int, seeds: int, days: int) -> None:
    rng = np.random.default_rng(seed)
    policy, baseline = rng.normal(0, 0.02, (seeds, days)), rng.normal(0, 0.02, days)
    folds = np.arange(days) // 30
    once = paired_difference(policy, baseline, folds, replicates=300, seed=seed)
    assert once == paired_difference(policy, baseline, folds, replicates=300, seed=seed)
    assert once.low <= once.high
    assert 0 <= once.p_above_0 <= once.p_above_minus_02 <= 1


@pytest.mark.parametrize(
    ("policy", "baseline", "problem"),
    [
        (np.zeros((2, 99)), np.zeros(100), r"not \(2, 99\) and \(100,\)"),
        (np.zeros((2, 59)), np.zeros(59), "at least 60 days, not 59"),
        (np.full((1, 60), math.nan), np.zeros(60), "must be finite"),
    ],
)
def test_what_cannot_be_compared_is_refused(policy: FloatArray, baseline: FloatArray, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        paired_difference(policy, baseline)


def test_each_day_needs_its_fold() -> None:
    with pytest.raises(ValueError, match="100 days and 99 folds"):
        paired_difference(np.zeros((1, 100)), np.zeros(100), np.zeros(99, np.int64))
