"""What closes say about risk: returns over days, ranges, correlations and tails, each from its own window only."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policy.risk.context import DEFAULTS, OFF, VAR_DAYS
from policy.risk.history import WINDOW_DAYS, CloseHistory, PortfolioHistory
from policy.risk_report import value_at_risk
from policy.signals import TREND_DAYS
from shared.rows import FloatArray


def closes_of(days: int, stride: int, n: int = 2, seed: int = 0) -> FloatArray:
    rng = np.random.default_rng(seed)
    walk: FloatArray = 100.0 * np.exp(np.cumsum(rng.normal(0.0, 0.02, (days * stride, n)), axis=0))
    return walk


def test_a_daily_return_is_from_the_close_a_day_before() -> None:
    closes = np.array([[100.0], [50.0], [110.0], [np.nan], [121.0], [60.0]])
    daily = CloseHistory(closes, 2).daily[:, 0]
    np.testing.assert_allclose(daily, [np.nan, np.nan, 0.1, np.nan, 0.1, np.nan], rtol=1e-12)
    assert np.isnan(CloseHistory(closes[:1], 2).daily).all()


def test_a_days_return_is_known_where_candles_closed_in_it_and_in_the_day_before() -> None:
    """Two bars a day: one of them is enough, and a day without any hides its own return and the next."""
    closes = np.linspace(100.0, 120.0, 12)[:, None]
    present = np.ones((12, 1), dtype=np.bool_)
    present[[1, 2, 7, 8]] = False  # a day from the afternoon of 0 on, and one from the afternoon of 3 on
    past = CloseHistory(closes, 2)
    known = past.of_days_with_candles(present)
    hidden = [0, 1, 2, 4, 8, 10]  # the first needs a day before it
    assert np.flatnonzero(np.isnan(known.daily[:, 0])).tolist() == hidden
    rest = [row for row in range(12) if row not in hidden]
    assert known.daily[rest].tolist() == past.daily[rest].tolist()
    assert np.isfinite(past.daily[2:]).all()  # the rules' own stays as it is
    assert np.isnan(CloseHistory(closes[:2], 2).of_days_with_candles(present[:2]).daily).all()


def test_a_true_range_spans_a_day_and_the_close_before_it() -> None:
    """Each day 100, then 110: with the close before it a day spans 10, and 10 more where it begins with a leap."""
    closes = np.tile([[100.0], [110.0]], (20, 1))
    ranges = CloseHistory(closes, 2).ranges
    assert np.isnan(ranges[: 2 * 14]).all()
    np.testing.assert_allclose(ranges[2 * 14 :, 0], np.tile([0.1, 10 / 110], 6), rtol=1e-12)
    leap = closes.copy()
    leap[20:] += 10.0  # at 18:00 of day 9 it was 110, at 06:00 of day 10 it is 110, then 120
    np.testing.assert_allclose(CloseHistory(leap, 2).ranges[-1, 0], 10 / 120, rtol=1e-12)
    gap = closes.copy()
    gap[21:] *= 2.0  # from 100 to 220 within a day
    expected = (13 * 10 + 10) / 14 / closes[-1, 0]
    assert CloseHistory(gap, 2).ranges[-1, 0] == pytest.approx(((4 * 10 + 120) + 9 * 20) / 14 / 220)
    assert expected == pytest.approx(CloseHistory(closes, 2).ranges[-1, 0])


def test_too_few_closes_have_no_range() -> None:
    assert np.isnan(CloseHistory(closes_of(14, 2), 2).ranges).all()
    assert np.isfinite(CloseHistory(closes_of(15, 2), 2).ranges[-2:]).all()


def test_correlations_are_of_ninety_daily_returns() -> None:
    closes = closes_of(120, 3, n=3)
    closes[:, 2] = 1e4 / closes[:, 0]
    past = CloseHistory(closes, 3)
    expected: FloatArray = np.array(np.corrcoef(past.daily[-1 : -3 * 90 : -3].T))
    np.testing.assert_allclose(past.correlations(len(closes) - 1), expected, rtol=1e-9)
    assert expected[0, 2] < -0.98


@pytest.mark.parametrize(("days", "known"), [(30, False), (31, True)])
def test_a_correlation_needs_thirty_days_that_both_know(days: int, known: bool) -> None:
    closes = closes_of(100, 1)
    closes[: 100 - days, 1] = np.nan
    between = CloseHistory(closes, 1).correlations(99)
    assert np.isfinite(between).tolist() == [[True, known], [known, known]]
    assert between[0, 0] == pytest.approx(1.0)


def test_what_never_moves_correlates_with_nothing() -> None:
    closes = closes_of(100, 1)
    closes[:, 1] = 7.0
    assert np.isnan(CloseHistory(closes, 1).correlations(99)[1]).all()


def test_what_always_moves_alike_correlates_with_nothing() -> None:
    """Its returns differ by rounding only."""
    closes = closes_of(100, 1)
    for growth in np.linspace(1.001, 1.03, 20):  # for rounding may make the spread 0, or less
        closes[:, 1] = 3.0 * growth ** np.arange(100)
        assert np.isnan(CloseHistory(closes, 1).correlations(99)[1]).all()
    closes[:, 1] *= 1.0 + 1e-4 * (np.arange(100) % 2)
    assert np.isfinite(CloseHistory(closes, 1).correlations(99)).all()


def test_tails_are_each_instruments_cvar_where_all_are_known() -> None:
    past = CloseHistory(closes_of(VAR_DAYS + 2, 2), 2)
    row = 2 * (VAR_DAYS + 2) - 1
    for n in (0, 1):
        returns = past.daily[row::-2, n][:VAR_DAYS]
        assert past.tails[row, n] == pytest.approx(value_at_risk(returns)[1])


def test_tails_are_the_worst_day_where_anybody_is_younger_and_nothing_where_too_young() -> None:
    closes = closes_of(VAR_DAYS + 1, 1, n=3)
    closes[:100, 1], closes[: VAR_DAYS - 59, 2] = np.nan, np.nan
    past = CloseHistory(closes, 1)
    worst = -np.nanmin(past.daily, axis=0)
    np.testing.assert_allclose(past.tails[-1], [worst[0], worst[1], 0.0], rtol=1e-12)
    closes[VAR_DAYS - 60, 2] = closes[-1, 2]  # a day older: 60 returns
    older = CloseHistory(closes, 1)
    assert older.tails[-1, 2] == pytest.approx(-np.nanmin(older.daily[:, 2]))


def test_where_the_grid_begins_nothing_is_known_of_before() -> None:
    past = CloseHistory(closes_of(100, 1), 1)
    assert past.tails[:60].tolist() == [[0.0, 0.0]] * 60
    np.testing.assert_allclose(past.tails[60], -past.daily[1:61].min(axis=0), rtol=1e-12)
    assert np.isnan(past.correlations(29)).all()
    assert np.isfinite(past.correlations(30)).all()


def test_what_hardly_moves_correlates_all_the_same() -> None:
    closes = closes_of(100, 1)
    closes[:, 1] = 1.0 + 1e-5 * (closes[:, 0] / 100.0 - 1.0)
    assert CloseHistory(closes, 1).correlations(99)[0, 1] > 0.9


def test_a_tail_is_never_a_gain() -> None:
    """Of what only rises; its rule multiplies weights by it."""
    rising: FloatArray = np.array(1.01 ** np.arange(VAR_DAYS + 1)[:, None], dtype=float)
    assert CloseHistory(rising, 1).tails[-1].tolist() == [0.0]
    assert CloseHistory(rising[-80:], 1).tails[-1].tolist() == [0.0]


@given(st.integers(0, 9), st.sampled_from([1, 4]), st.integers(0, 60))
@settings(max_examples=20, deadline=None)
def test_more_closes_before_and_after_change_nothing(seed: int, stride: int, first: int) -> None:
    """To the bit, from the longest window on."""
    closes = closes_of(VAR_DAYS + 70, stride, seed=seed)
    at = (VAR_DAYS + 1) * stride + first
    whole = CloseHistory(closes, stride, first=at - 3)
    begin = at - VAR_DAYS * stride
    part = CloseHistory(closes[begin : at + 1], stride, first=at - begin)
    assert part.tails[-1].tobytes() == whole.tails[at].tobytes()
    assert part.ranges[-1].tobytes() == whole.ranges[at].tobytes()
    assert part.correlations(at - begin).tobytes() == whole.correlations(at).tobytes()
    assert (whole.tails[at] > 0.0).all()
    assert not whole.tails[: at - 3].any()


@given(st.integers(0, 30), st.floats(0.0, 1.0))
@settings(max_examples=30, deadline=None)
def test_a_portfolios_cvar_and_value_at_risk_are_within_its_tails(seed: int, share: float) -> None:
    """What the rule relies on; here some are younger than others."""
    closes = closes_of(VAR_DAYS + 1, 1, seed=seed)
    closes[: (seed % 3) * 60, 0] = np.nan
    past = CloseHistory(closes, 1)
    weights = np.array([share, 1.0 - share])
    returns = past.daily[1:][:, weights > 0.0] @ weights[weights > 0.0]
    risk, shortfall = value_at_risk(returns[np.isfinite(returns)])
    assert risk <= shortfall <= past.tails[-1] @ weights + 1e-12


def test_only_what_a_rule_asks_for_is_known() -> None:
    past = PortfolioHistory(CloseHistory(closes_of(VAR_DAYS + 5, 1), 1), VAR_DAYS + 4)
    assert np.isnan(past.ranges(OFF)).tolist() == [True, True]
    assert np.isfinite(past.ranges(OFF._replace(atr_multiple=1.0))).all()
    assert np.isnan(past.correlations(OFF)).tolist() == [[True] * 2] * 2
    assert np.isfinite(past.correlations(OFF._replace(max_correlated_exposure=0.9))).all()
    assert past.tails(OFF).tolist() == [0.0, 0.0]
    for rules in (DEFAULTS, OFF._replace(max_value_at_risk=0.5), OFF._replace(max_cvar=0.5)):
        assert (past.tails(rules) > 0.0).all()
    assert past.tails(OFF._replace(max_cvar=1.0)).tolist() == [0.0, 0.0]


def test_of_an_unknown_past_nothing_is_known() -> None:
    past = PortfolioHistory.unknown(2)
    rules = DEFAULTS._replace(atr_multiple=1.0, max_correlated_exposure=0.5)
    assert np.isnan(past.ranges(rules)).tolist() == [True, True]
    assert np.isnan(past.correlations(rules)).tolist() == [[True, True]] * 2
    assert past.tails(rules).tolist() == [0.0, 0.0]
    assert np.isnan(past.closes.daily).tolist() == [[True, True]]


def test_a_trader_and_a_long_backtest_look_back_equally_far() -> None:
    assert WINDOW_DAYS == TREND_DAYS
    closes = np.arange(2.0 * 500)[:, None] + 1.0
    long = PortfolioHistory(CloseHistory(closes, 2), 900)
    assert long.window[:, 0].tolist() == closes[901 - 720 : 901, 0].tolist()
    assert PortfolioHistory(CloseHistory(closes, 2), 3).window[:, 0].tolist() == [1.0, 2.0, 3.0, 4.0]
