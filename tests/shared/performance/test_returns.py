"""Each figure of daily returns against one worked out by hand, and the laws it keeps."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from shared.forecast_tests import FIXED_B, hac_lag
from shared.performance import returns
from shared.rows import FloatArray

GAIN_LOSS_GAIN = np.array([0.10, -0.05, 0.02])  # mean 7/300, sample variance 0.005633...
# Deviations from the mean 0.023333: 0.076667, -0.073333, -0.003333; their squares sum to 0.01126667.
DEVIATION = math.sqrt(0.01126666666666667 / 2)


def test_volatility_is_of_the_sample_and_a_year_of_365_days() -> None:
    assert returns.volatility(GAIN_LOSS_GAIN) == pytest.approx(DEVIATION * math.sqrt(365))
    assert returns.volatility(GAIN_LOSS_GAIN) == pytest.approx(1.43393, abs=1e-5)


def test_sharpe() -> None:
    assert returns.sharpe(GAIN_LOSS_GAIN) == pytest.approx(0.07 / 3 / DEVIATION * math.sqrt(365))
    assert returns.sharpe(GAIN_LOSS_GAIN) == pytest.approx(5.93938, abs=1e-5)


def test_sharpe_standard_error_after_lo_2002() -> None:
    daily = 0.07 / 3 / DEVIATION  # 0.310881
    expected = math.sqrt((1 + daily**2 / 2) / 3) * math.sqrt(365)
    assert returns.sharpe_standard_error(GAIN_LOSS_GAIN) == pytest.approx(expected)
    assert expected == pytest.approx(11.29363, abs=1e-5)


def test_the_standard_error_of_a_sharpe_of_zero_is_one_over_the_root_of_years() -> None:
    assert returns.sharpe_standard_error(np.tile([0.01, -0.01], 2 * 365)) == pytest.approx(1 / math.sqrt(4))


def test_sortino_takes_the_downside_over_all_days() -> None:
    downside = math.sqrt(0.05**2 / 3)
    assert returns.sortino(GAIN_LOSS_GAIN) == pytest.approx(0.07 / 3 / downside * math.sqrt(365))
    assert returns.sortino(GAIN_LOSS_GAIN) == pytest.approx(15.44237, abs=1e-5)


def test_hit_rate_leaves_out_days_without_change() -> None:
    assert returns.hit_rate(np.array([0.1, 0.0, -0.1, 0.2, 0.0])) == pytest.approx(2 / 3)
    assert returns.hit_rate(np.zeros(5)) is None


@given(st.lists(st.floats(-0.2, 0.2), min_size=2, max_size=60).map(np.array))
def test_sharpe_changes_sign_with_the_returns_and_leverage_leaves_it(daily: FloatArray) -> None:
    sharpe = returns.sharpe(daily)
    if sharpe is not None:
        assert returns.sharpe(-daily) == pytest.approx(-sharpe)
        assert returns.sharpe(daily * 2.0) == pytest.approx(sharpe)


# 40 days, so the tail is two: the worst -0.10 and -0.06, the best 0.09 and 0.05.
FORTY_DAYS = np.concatenate([[0.05, -0.10], np.full(36, 0.01), [0.09, -0.06]])
ODD = np.array([0.0, 0.0, 0.03])  # deviations -1, -1, 2 %: second moment 2, third 2, fourth 6


def test_value_at_risk_is_the_loss_of_the_last_day_of_the_worst_twentieth() -> None:
    assert returns.value_at_risk(FORTY_DAYS) == pytest.approx(0.06)
    assert returns.value_at_risk(FORTY_DAYS[:20]) == pytest.approx(0.10)


def test_expected_shortfall_is_the_mean_loss_of_the_worst_twentieth() -> None:
    assert returns.expected_shortfall(FORTY_DAYS) == pytest.approx(0.08)


def test_tail_ratio_sets_the_gain_beside_the_loss() -> None:
    assert returns.tail_ratio(FORTY_DAYS) == pytest.approx(0.05 / 0.06)
    assert returns.tail_ratio(np.full(40, 0.01)) is None


def test_a_tail_of_less_than_a_day_is_undefined() -> None:
    short = FORTY_DAYS[:19]
    assert (returns.value_at_risk(short), returns.expected_shortfall(short), returns.tail_ratio(short)) == (None,) * 3


def test_skewness_and_kurtosis_are_of_moments_over_n() -> None:
    assert returns.skewness(ODD) == pytest.approx(2 / 2**1.5)
    assert returns.kurtosis(ODD) == pytest.approx(6 / 2**2)
    assert returns.skewness(-ODD) == pytest.approx(-2 / 2**1.5)
    assert (returns.skewness(np.full(9, 0.01)), returns.kurtosis(np.full(9, 0.01))) == (None, None)


def test_profit_factor_is_gains_over_losses() -> None:
    assert returns.profit_factor(GAIN_LOSS_GAIN) == pytest.approx(0.12 / 0.05)
    assert returns.profit_factor(np.array([0.1, 0.0])) is None
    assert returns.profit_factor(np.array([-0.1])) == 0.0


def test_worst_day_and_the_worst_seven_days_in_a_row() -> None:
    eight = np.array([0.1, -0.1, 0.0, 0.0, 0.0, 0.0, 0.0, -0.2])
    assert returns.worst_day(eight) == -0.2
    assert returns.worst_week(eight) == pytest.approx(0.9 * 0.8 - 1)  # not 1.1 × 0.9
    assert (returns.worst_day(eight[:0]), returns.worst_week(eight[:6])) == (None, None)


def test_alpha_is_annual_and_beta_the_slope() -> None:
    benchmark = np.tile([0.02, -0.01], 20)
    fitted = returns.regression(0.001 + 2.0 * benchmark, benchmark)
    assert fitted is not None
    assert (fitted.alpha, fitted.beta) == (pytest.approx(0.365), pytest.approx(2.0))
    assert (fitted.alpha_standard_error, fitted.beta_standard_error) == (pytest.approx(0, abs=1e-9),) * 2


def test_the_errors_of_alpha_and_beta_are_the_sandwich_of_newey_and_west() -> None:
    rng = np.random.default_rng(5)
    benchmark = rng.standard_t(5, 200) * 0.02 + 0.01
    rest = np.convolve(rng.standard_normal(203), [1, 1, 1, 1], "valid") * np.abs(benchmark)
    fitted = returns.regression(benchmark + rest, benchmark)
    assert fitted is not None
    X = np.column_stack([np.ones(200), benchmark])
    e = benchmark + rest - X @ np.linalg.lstsq(X, benchmark + rest, rcond=None)[0]
    scores, lag = X * e[:, None], hac_lag(200, 1)
    middle = scores.T @ scores
    for j in range(1, lag + 1):
        gamma = scores[j:].T @ scores[:-j]
        middle += (1 - j / (lag + 1)) * (gamma + gamma.T)
    bread = np.linalg.inv(X.T @ X)
    widening = sum(c * ((lag + 1) / 200) ** i for i, c in enumerate(FIXED_B)) / FIXED_B[0]
    alpha, beta = np.sqrt(np.diag(bread @ middle @ bread)) * widening
    assert fitted.alpha_standard_error == pytest.approx(alpha * 365)
    assert fitted.beta_standard_error == pytest.approx(beta)


def test_alpha_needs_a_benchmark_that_moves_on_the_same_days() -> None:
    assert returns.regression(FORTY_DAYS, np.zeros(40)) is None
    assert returns.regression(FORTY_DAYS[:19], FORTY_DAYS[:19]) is None
    with pytest.raises(ValueError, match="they have 40 and 39"):
        returns.regression(FORTY_DAYS, FORTY_DAYS[1:])


def test_minimum_track_record() -> None:
    """Two values, so skew 0 and kurtosis 1: 1 + (1.645 / SR)², SR² = 0.005² / (0.015² × 100 / 99) = 0.11."""
    assert returns.minimum_track_record_days(np.tile([0.02, -0.01], 50)) == pytest.approx(1 + 1.644854**2 / 0.11)
    assert returns.minimum_track_record_days(np.tile([0.01, -0.02], 50)) is None


def test_returns_compound() -> None:
    assert returns.compound(np.array([0.1, -0.5])) == pytest.approx(1.1 * 0.5 - 1)
    assert returns.compound([]) == 0.0


@given(st.lists(st.floats(-0.2, 0.2), min_size=20, max_size=80).map(np.array))
def test_the_tail_is_ordered(daily: FloatArray) -> None:
    risk, shortfall, worst = returns.value_at_risk(daily), returns.expected_shortfall(daily), returns.worst_day(daily)
    assert risk is not None
    assert shortfall is not None
    assert worst is not None
    assert risk <= shortfall + 1e-12
    assert shortfall <= -worst + 1e-12
    assert np.mean(daily < -risk) < returns.TAIL


@given(st.lists(st.floats(-0.2, 0.2), min_size=3, max_size=80).map(np.array))
def test_kurtosis_is_at_least_one_and_the_squared_skew(daily: FloatArray) -> None:
    assume(daily.std() > 1e-6)
    skew, tails = returns.skewness(daily), returns.kurtosis(daily)
    assert skew is not None
    assert tails is not None
    assert tails >= 1 + skew**2 - 1e-6
