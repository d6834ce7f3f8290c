"""Each figure against one worked out by hand, and the laws it keeps."""

from __future__ import annotations

import math
from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.performance import DAY_S, YEAR_S, metrics, summarise
from shared.rows import FloatArray, IntArray

MIDNIGHT = 20_000 * DAY_S  # a UTC midnight in 2024
equities = st.lists(st.floats(1.0, 1e6), min_size=2, max_size=60).map(np.array)
gaps = st.lists(st.integers(1, 3 * DAY_S), min_size=60, max_size=60)


def midnights(days: int) -> IntArray:
    return MIDNIGHT + DAY_S * np.arange(days, dtype=np.int64)


def curve_at(gaps: list[int], equity: FloatArray) -> IntArray:
    return MIDNIGHT + np.cumsum(np.array(gaps[: len(equity)], dtype=np.int64))


def test_the_day_takes_the_last_equity_at_or_before_each_utc_midnight() -> None:
    times = MIDNIGHT + np.array([-600, -1, 0, 300, DAY_S - 300, DAY_S + 300, 2 * DAY_S], dtype=np.int64)
    at, equity = metrics.daily_equity(times, np.array([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]))
    assert at.tolist() == [MIDNIGHT, MIDNIGHT + DAY_S, MIDNIGHT + 2 * DAY_S]
    assert equity.tolist() == [3.0, 5.0, 7.0]


def test_what_comes_before_the_first_and_after_the_last_midnight_belongs_to_no_day() -> None:
    times = MIDNIGHT + np.array([-300, 300, DAY_S - 300], dtype=np.int64)
    assert metrics.daily_equity(times, np.array([1.0, 2.0, 3.0]))[1].tolist() == [1.0]
    assert len(metrics.daily_returns(times, np.array([1.0, 2.0, 3.0]))) == 0


def test_a_day_without_points_has_a_return_of_zero() -> None:
    times = MIDNIGHT + DAY_S * np.array([0, 1, 3], dtype=np.int64)
    assert metrics.daily_returns(times, np.array([100.0, 110.0, 99.0])).tolist() == pytest.approx([0.1, 0.0, -0.1])


def test_total_return() -> None:
    assert metrics.total_return(np.array([100.0, 50.0, 121.0])) == pytest.approx(0.21)


def test_cagr_of_two_years_is_the_root_of_the_growth() -> None:
    times = np.array([MIDNIGHT, MIDNIGHT + 2 * YEAR_S], dtype=np.int64)
    assert metrics.cagr(times, np.array([100.0, 121.0])) == pytest.approx(0.10)


def test_cagr_that_no_number_holds_is_undefined() -> None:
    times = np.array([MIDNIGHT, MIDNIGHT + 300], dtype=np.int64)
    assert metrics.cagr(times, np.array([1.0, 2.0])) is None


def test_max_drawdown() -> None:
    equity = np.array([100.0, 120.0, 90.0, 130.0, 110.0])
    assert metrics.drawdowns(equity).tolist() == pytest.approx([0, 0, 0.25, 0, 20 / 130])
    assert metrics.max_drawdown(equity) == pytest.approx(0.25)


@pytest.mark.parametrize(
    ("equity", "days"),
    [
        ([100.0, 120.0, 90.0, 120.0, 130.0], 2),  # from the high on day 1 to its return on day 3
        ([100.0, 120.0, 90.0, 95.0, 110.0], 3),  # never returned: to the end
        ([100.0, 90.0], 1),
        ([100.0, 100.0, 110.0, 110.0], 0),
        ([100.0, 90.0, 101.0, 100.0, 100.5], 2),
    ],
)
def test_longest_drawdown(equity: list[float], days: int) -> None:
    assert metrics.longest_drawdown_s(midnights(len(equity)), np.array(equity)) == days * DAY_S


def test_turnover_sums_both_sides_over_mean_equity_and_years() -> None:
    times = np.array([MIDNIGHT, MIDNIGHT + YEAR_S // 2], dtype=np.int64)
    assert metrics.turnover_per_year(times, np.array([90.0, 110.0]), 300.0) == pytest.approx(6.0)


def test_a_constant_curve_has_no_ratios() -> None:
    summary = summarise(midnights(10), np.full(10, 10_000.0), 0.0, 0.0, 0)
    assert (summary.total_return, summary.volatility, summary.max_drawdown, summary.longest_drawdown_s) == (0, 0, 0, 0)
    assert (summary.sharpe, summary.sharpe_standard_error, summary.sortino, summary.hit_rate) == (None,) * 4


def test_steady_growth_has_no_volatility_and_so_no_ratios() -> None:
    summary = summarise(midnights(30), 100.0 * 1.001 ** np.arange(30), 0.0, 0.0, 0)
    assert summary.volatility == pytest.approx(0.0, abs=1e-12)
    assert (summary.sharpe, summary.sortino) == (None, None)


def test_one_day_is_too_short_for_deviations() -> None:
    summary = summarise(midnights(2), np.array([100.0, 110.0]), 0.0, 0.0, 0)
    assert summary.days == 1
    assert (summary.volatility, summary.sharpe, summary.sortino) == (None, None, None)


@pytest.mark.parametrize("points", [0, 1])
def test_without_a_span_everything_is_undefined(points: int) -> None:
    summary = summarise(midnights(points), np.full(points, 100.0), 0.0, 0.0, 0)
    given = {"start", "end", "days", "traded", "fees", "trades"}
    assert {name: value for name, value in asdict(summary).items() if name not in given and value is not None} == {}
    assert summary.days == 0


def test_summary_carries_what_was_traded() -> None:
    summary = summarise(midnights(3), np.array([1.0, 2.0, 3.0]), 7.0, 0.5, 4)
    assert (summary.traded, summary.fees, summary.trades) == (7.0, 0.5, 4)
    assert (summary.start, summary.end) == (MIDNIGHT, MIDNIGHT + 2 * DAY_S)


@pytest.mark.parametrize(
    ("times", "equity", "problem"),
    [
        ([1, 2], [1.0], "2 times and 1 equities"),
        ([2, 2], [1.0, 1.0], "must increase"),
        ([1, 2], [1.0, math.nan], "is nan at Unix time 2"),
        ([1, 2], [0.0, 1.0], "is 0.0 at Unix time 1"),
    ],
)
def test_what_is_no_curve_is_refused(times: list[int], equity: list[float], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        summarise(np.array(times, dtype=np.int64), np.array(equity), 0.0, 0.0, 0)


def test_calmar_is_growth_over_the_deepest_fall() -> None:
    times = MIDNIGHT + YEAR_S * np.arange(3, dtype=np.int64)
    assert metrics.calmar(times, np.array([100.0, 80.0, 121.0])) == pytest.approx(0.10 / 0.20)
    assert metrics.calmar(times, np.array([100.0, 110.0, 121.0])) is None


def test_ulcer_index_is_the_root_mean_square_of_the_drawdowns_at_midnights() -> None:
    times = np.insert(midnights(4), 1, MIDNIGHT + 300)  # what lies between midnights does not count
    equity = np.array([100.0, 20.0, 90.0, 100.0, 80.0])
    assert metrics.ulcer_index(times, equity) == pytest.approx(math.sqrt((0.1**2 + 0.2**2) / 4))
    assert metrics.ulcer_index(times[:1], equity[:1]) is None


def test_cost_share_is_of_what_would_have_been_gained() -> None:
    assert metrics.cost_share(np.array([100.0, 110.0]), 5.0) == pytest.approx(5 / 15)
    assert metrics.cost_share(np.array([100.0, 98.0]), 5.0) == pytest.approx(5 / 3)
    assert metrics.cost_share(np.array([100.0, 90.0]), 5.0) is None


def test_exposure_is_the_mean_gross_weight() -> None:
    assert metrics.exposure(np.array([0.0, 0.5, 1.0])) == 0.5
    assert metrics.exposure(np.empty(0)) is None


def test_summary_holds_what_the_optional_figures_need() -> None:
    benchmark = np.tile([0.02, -0.01], 20)
    equity = 100.0 * np.cumprod(np.append(1.0, 1.0 + 0.5 * benchmark))
    summary = summarise(
        midnights(41), equity, 50.0, 0.5, 4, slippage=0.25, weights=np.array([0.2, 0.4]),
        trade_profits=np.array([3.0, -1.0, 2.0]), benchmark=benchmark,
    )  # fmt: skip
    assert summary.cost_share == pytest.approx(0.75 / (equity[-1] - equity[0] + 0.75))
    assert (summary.trade_hit_rate, summary.trade_profit_factor) == (pytest.approx(2 / 3), 5.0)
    assert (summary.exposure, summary.trades_per_day) == (pytest.approx(0.3), pytest.approx(0.1))
    assert summary.regression is not None
    assert summary.regression.beta == pytest.approx(0.5)


def test_costs_that_are_not_known_have_no_share() -> None:
    assert summarise(midnights(3), np.array([1.0, 2.0, 3.0]), 7.0, 0.5, 4).cost_share is None


def test_there_are_twenty_statistics_and_more() -> None:
    """Each is defined for a book of a year (feature row M63)."""
    days = np.random.default_rng(2).normal(0.002, 0.02, 365)
    summary = asdict(summarise(
        midnights(366), 100.0 * np.cumprod(np.append(1.0, 1.0 + days)), 50.0, 0.5, 4, slippage=0.25,
        weights=np.ones(3), trade_profits=np.array([3.0, -1.0]), benchmark=np.roll(days, 1),
    ))  # fmt: skip
    assert [name for name, value in summary.items() if value is None] == []
    assert len(summary) >= 30


@given(equities, gaps, st.sampled_from([0.125, 2.0, 1024.0]))
def test_the_unit_of_money_changes_no_ratio(equity: FloatArray, gaps: list[int], scale: float) -> None:
    times = curve_at(gaps, equity)
    once = asdict(summarise(times, equity, 1000.0, 1.0, 3))
    scaled = asdict(summarise(times, equity * scale, 1000.0 * scale, 1.0, 3))
    assert scaled | {"traded": 1000.0} == once


@given(equities, gaps)
def test_a_drawdown_is_a_fraction_and_lasts_no_longer_than_the_curve(equity: FloatArray, gaps: list[int]) -> None:
    times = curve_at(gaps, equity)
    deepest, longest = metrics.max_drawdown(equity), metrics.longest_drawdown_s(times, equity)
    assert deepest is not None
    assert longest is not None
    assert 0.0 <= deepest <= 1.0
    assert 0 <= longest <= times[-1] - times[0]
    assert (deepest == 0.0) == (longest == 0)


@given(equities, gaps)
def test_daily_returns_compound_to_the_return_between_the_midnights(equity: FloatArray, gaps: list[int]) -> None:
    times = curve_at(gaps, equity)
    _, daily = metrics.daily_equity(times, equity)
    if len(daily) >= 2:
        assert np.prod(1.0 + metrics.daily_returns(times, equity)) == pytest.approx(daily[-1] / daily[0])
