"""The deflated Sharpe ratio against the example of its paper, and its laws."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.performance import deflation, returns
from shared.performance.deflation import deflated_sharpe, expected_best, probabilistic_sharpe, trials_until_below

ACTIVE = np.random.default_rng(1).standard_t(5, 1500) * 0.005 + 0.0006


def test_the_example_of_the_paper() -> None:
    """Bailey and López de Prado (2014): annual Sharpe 2.5, 1,250 days of 250 a year, skew -3, kurtosis 10, 100 trials
    whose annual ratios vary by 0.5: the best is expected at 0.1132 a day, the deflated ratio is 0.9004."""
    best = expected_best(100, 0.5 / 250)
    assert best == pytest.approx(0.1132, abs=5e-5)
    assert deflation.probability_above(2.5 / math.sqrt(250), 1250, -3.0, 10.0, best) == pytest.approx(0.9004, abs=5e-5)


def test_the_papers_strategy_would_have_passed_after_46_trials() -> None:
    best = expected_best(46, 0.5 / 250)
    assert deflation.probability_above(2.5 / math.sqrt(250), 1250, -3.0, 10.0, best) == pytest.approx(0.9505, abs=2e-4)


@pytest.mark.parametrize("trials", [10, 1000])
def test_the_expected_best_is_that_of_so_many_normal_draws(trials: int) -> None:
    drawn = np.random.default_rng(0).standard_normal((4000, trials)).max(axis=1).mean()
    assert expected_best(trials, 0.25) == pytest.approx(0.5 * drawn, rel=0.03)


def test_one_trial_deflates_nothing() -> None:
    found = deflated_sharpe(ACTIVE, 1)
    assert found is not None
    assert found.expected_best == 0
    assert found.probability == probabilistic_sharpe(ACTIVE)


def test_of_normal_returns_it_is_about_the_t_test() -> None:
    days = np.random.default_rng(2).normal(0.0004, 0.01, 4000)
    t = days.mean() / days.std(ddof=1) * math.sqrt(4000)
    assert probabilistic_sharpe(days) == pytest.approx(NormalDist().cdf(t), abs=2e-3)


def test_without_a_variance_trials_vary_as_skill_less_ones_of_the_span() -> None:
    found = deflated_sharpe(ACTIVE, 20)
    assert found is not None
    assert found.trial_variance == 1 / 1500
    assert found == deflated_sharpe(ACTIVE, 20, 1 / 1500)


def test_the_trials_until_below_are_the_first_at_which_it_is() -> None:
    trials = trials_until_below(ACTIVE)
    assert trials is not None
    assert trials > 2
    at, before = deflated_sharpe(ACTIVE, trials), deflated_sharpe(ACTIVE, trials - 1)
    assert at is not None
    assert before is not None
    assert at.probability < 0.95 <= before.probability


def test_what_is_no_better_than_luck_is_below_at_the_first_trial() -> None:
    assert trials_until_below(ACTIVE - ACTIVE.mean()) == 1


def test_what_no_number_of_trials_explains_is_none() -> None:
    assert trials_until_below(ACTIVE + 0.1) is None


def test_an_active_return_of_zero_has_no_ratio() -> None:
    assert deflated_sharpe(np.zeros(500), 10) is None
    assert trials_until_below(np.zeros(500)) is None


@given(st.integers(1, 10**9), st.integers(1, 10**9), st.floats(1e-6, 1e-2))
def test_more_trials_never_make_it_more_likely(one: int, other: int, variance: float) -> None:
    few, many = (deflated_sharpe(ACTIVE, trials, variance) for trials in sorted((one, other)))
    assert few is not None
    assert many is not None
    assert few.probability >= many.probability


@pytest.mark.parametrize(("trials", "variance"), [(0, 0.1), (2, -0.1), (2, math.nan)])
def test_no_trials_or_a_negative_variance_is_refused(trials: int, variance: float) -> None:
    with pytest.raises(ValueError, match="one trial or more"):
        expected_best(trials, variance)


def test_days_of_two_values_have_kurtosis_one_and_a_probability() -> None:
    days = np.tile([0.02, -0.01], 50)
    assert returns.kurtosis(days) == pytest.approx(1)
    daily = 0.005 / (0.015 * math.sqrt(100 / 99))
    assert probabilistic_sharpe(days) == pytest.approx(NormalDist().cdf(daily * math.sqrt(99)))
