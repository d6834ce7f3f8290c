"""Trend and volatility depend on exactly their window: not on what came before it, nor after."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policy.signals import (
    CROSSOVER_WEIGHTS,
    FORECAST_CAP,
    MIN_DAYS,
    MIN_PRESENT,
    TREND_DAYS,
    VOLATILITY_DAYS,
    VOLATILITY_SPAN,
    ClosesOnGrid,
    Signal,
    signal_window,
)
from shared.rows import Candles
from tests.helpers import random_candles

HOUR, DAY = 3600, 24
WINDOW = signal_window(HOUR)
SERIES = random_candles(WINDOW + 400, HOUR, seed=3, volatility=0.01)


def signal_at(candles: Candles, t: int, first: int | None = None, last: int | None = None) -> Signal | None:
    """The signal at ``t`` of a grid that serves [first, last], which is ``t`` alone if not told otherwise."""
    return ClosesOnGrid(candles, HOUR, t if first is None else first, t if last is None else last).signal(t)


def signal_of(candles: Candles) -> Signal:
    """At the last close."""
    found = signal_at(candles, int(candles.as_of[-1]))
    assert found is not None
    return found


def geometric(n: int, growth: float, volatility: float = 0.001) -> Candles:
    """n candles that each close ``growth`` higher, on a little noise, so that volatility is not zero."""
    base = random_candles(n, HOUR, seed=1, volatility=volatility)
    factor = np.exp(growth * np.arange(n))
    prices = [getattr(base, name) * factor for name in ("open", "high", "low", "close")]
    return Candles(base.as_of, *prices, base.volume, base.trades)


def without(candles: Candles, gone: np.ndarray | slice | list[int]) -> Candles:  # type: ignore[type-arg]
    keep = np.ones(len(candles), dtype=bool)
    keep[gone] = False
    return candles[keep]


def test_the_window_is_a_year_of_daily_closes() -> None:
    assert signal_window(HOUR) == 360 * 24
    assert signal_window(300) == 360 * 288
    assert CROSSOVER_WEIGHTS.shape == (4, TREND_DAYS)


@given(
    index=st.integers(WINDOW, len(SERIES) - 1),
    extra=st.integers(0, 300),
    later=st.integers(0, 300),
    before=st.integers(0, 200),
)
@settings(max_examples=60, deadline=None)
def test_a_signal_is_a_function_of_its_window_bit_for_bit(index: int, extra: int, later: int, before: int) -> None:
    """Whatever else was loaded, and whatever span the grid serves."""
    t = int(SERIES.as_of[index])
    exact = SERIES[index + 1 - WINDOW : index + 1]
    wider = SERIES[max(0, index + 1 - WINDOW - extra) : index + 1 + later]
    signal = signal_at(exact, t)
    assert signal is not None
    assert signal_at(wider, t) == signal
    assert signal_at(wider, t, first=t - before * HOUR, last=t + later * HOUR) == signal


def test_each_candle_of_the_window_counts_and_none_before_it() -> None:
    """The oldest daily close is in; the bar before the window is out."""
    candles, t = SERIES[-WINDOW - 1 :], int(SERIES.as_of[-1])
    signal = signal_at(candles, t)
    for index, counts in ((0, False), (DAY, True), (-1, True), (-2, True), (-VOLATILITY_DAYS * DAY, True)):
        close = candles.close.copy()
        close[index] *= 1.5
        moved = Candles(candles.as_of, candles.open, candles.high, candles.low, close, candles.volume, candles.trades)
        assert (signal_at(moved, t) != signal) == counts, index


@given(
    gone=st.lists(st.integers(0, 20 * DAY - 2), max_size=30, unique=True),
    length=st.integers(11 * DAY, 20 * DAY),
)
@settings(max_examples=40, deadline=None)
def test_a_hole_is_filled_with_the_close_before_it(gone: list[int], length: int) -> None:
    series = SERIES[-length:]
    kept = [k for k in gone if k < length - 1]
    holes, filled = without(series, kept), series.close.copy()
    for k in sorted(kept):
        filled[k] = filled[k - 1] if k > 0 else math.nan
    whole = Candles(series.as_of, series.open, series.high, series.low, filled, series.volume, series.trades)
    first = next(k for k in range(length) if not math.isnan(filled[k]))
    t = int(series.as_of[-1])
    assert signal_at(holes, t) == signal_at(whole[first:], t) or len(kept) > 0.1 * length


def test_before_its_first_close_a_young_series_counts_as_flat() -> None:
    young = SERIES[-100 * DAY :]
    flat = np.full(WINDOW - len(young), young.close[0])
    as_of = np.r_[young.as_of[0] - HOUR * np.arange(len(flat), 0, -1), young.as_of]
    closes, ones = np.r_[flat, young.close], np.ones(len(as_of))
    old = Candles.from_columns([as_of, closes, closes, closes, closes, ones, ones])
    assert signal_of(young) == signal_of(old)


def test_crossovers_of_a_random_walk_have_unit_deviation() -> None:
    rng = np.random.default_rng(0)
    walks = np.cumsum(rng.normal(0, 1, (4000, TREND_DAYS)), axis=1)
    assert (walks @ CROSSOVER_WEIGHTS.T).std(axis=0) == pytest.approx([1, 1, 1, 1], abs=0.05)


def test_a_crossover_knows_no_level() -> None:
    np.testing.assert_allclose(CROSSOVER_WEIGHTS.sum(axis=1), 0.0, atol=1e-14)


def test_a_rising_market_has_a_positive_trend_and_a_falling_one_a_negative() -> None:
    for growth, sign in ((0.0005, 1), (-0.0005, -1)):
        candles = geometric(WINDOW, growth)
        signal = signal_of(candles)
        assert sign * signal.trend > 0.5
        assert signal.price == candles.close[-1]


@given(seed=st.integers(0, 10), growth=st.floats(-0.01, 0.01), days=st.integers(MIN_DAYS, 60))
@settings(max_examples=30, deadline=None)
def test_a_trend_is_within_one(seed: int, growth: float, days: int) -> None:
    signal = signal_of(geometric(days * DAY, growth))
    assert -1.0 <= signal.trend <= 1.0
    assert signal.volatility > 0


def test_a_steep_trend_is_capped_crossover_by_crossover() -> None:
    """A year up and twelve days down, both beyond all measure: two crossovers say -2, two say +2 still."""
    growth = np.r_[np.full(WINDOW - 12 * DAY, 0.003), np.full(12 * DAY, -0.02)]
    closes, ones = np.exp(np.cumsum(growth + np.resize([0.0005, -0.0005], WINDOW))), np.ones(WINDOW)
    candles = Candles.from_columns([SERIES.as_of[-WINDOW:], closes, closes, closes, closes, ones, ones])
    assert FORECAST_CAP == 2.0
    assert signal_of(candles[: WINDOW - 12 * DAY]).trend == 1.0
    assert signal_of(candles).trend == 0.0


def test_volatility_is_annualised() -> None:
    candles = random_candles(WINDOW, HOUR, seed=5, volatility=0.01)
    assert signal_of(candles).volatility == pytest.approx(0.01 * np.sqrt(365 * 24), rel=0.15)


def test_volatility_by_hand() -> None:
    """One return of 10 % in the newest bar of a flat season: its weight in the EWMA."""
    days = VOLATILITY_DAYS + 5
    closes = np.r_[np.full(days * DAY - 1, 100.0), 110.0]
    ones, as_of = np.ones(len(closes)), SERIES.as_of[-len(closes) :]
    signal = signal_of(Candles.from_columns([as_of, closes, closes, closes, closes, ones, ones]))
    alpha, n = 2 / (VOLATILITY_SPAN * DAY + 1), VOLATILITY_DAYS * DAY - 1
    newest = alpha / (1 - (1 - alpha) ** n)
    assert signal.volatility == pytest.approx(math.sqrt(newest * 365 * 24) * math.log(1.1))


def test_a_flat_market_has_neither_trend_nor_volatility() -> None:
    flat, ones = np.full(20 * DAY, 100.0), np.ones(20 * DAY)
    candles = Candles.from_columns([SERIES.as_of[-20 * DAY :], flat, flat, flat, flat, ones, ones])
    assert signal_of(candles) == Signal(price=100.0, trend=0.0, volatility=0.0)


def test_a_younger_shock_counts_for_more() -> None:
    """At every age, not only past the edge of a window."""
    flat, found = np.full(40 * DAY, 100.0), []
    for age in (1, 12, 3 * DAY, 10 * DAY, 25 * DAY):
        closes, ones = flat.copy(), np.ones(len(flat))
        closes[-age:] *= 1.1
        candles = Candles.from_columns([SERIES.as_of[-len(flat) :], closes, closes, closes, closes, ones, ones])
        found.append(signal_of(candles).volatility)
    assert found == sorted(found, reverse=True)
    assert found[-1] > 0


def recent_holes(share: float) -> Candles:
    """The newest candle is there; of the last 30 days this share is not."""
    month = VOLATILITY_DAYS * DAY
    gone = len(SERIES) - 2 - np.arange(round(share * month))
    return without(SERIES, gone)


@pytest.mark.parametrize(
    ("what", "known"),
    [
        ("the newest candle is missing", False),
        ("one bar too young", False),
        ("just old enough", True),
        ("as many holes as may be", True),
        ("a hole too many", False),
        ("as many holes, but long ago", True),
        ("no candle at all", False),
    ],
)
def test_doubtful_windows_have_no_signal(what: str, known: bool) -> None:
    month = VOLATILITY_DAYS * DAY
    doubtful = {
        "the newest candle is missing": SERIES[:-1],
        "one bar too young": SERIES[-(MIN_DAYS * DAY - 1) :],
        "just old enough": SERIES[-MIN_DAYS * DAY :],
        "as many holes as may be": recent_holes(1 - MIN_PRESENT),
        "a hole too many": recent_holes(1 - MIN_PRESENT + 1 / month),
        "as many holes, but long ago": without(SERIES, slice(len(SERIES) - 3 * month, len(SERIES) - 2 * month)),
        "no candle at all": SERIES[:0],
    }[what]
    assert (signal_at(doubtful, int(SERIES.as_of[-1])) is not None) == known


def test_the_last_close_is_known_without_a_signal_and_not_beyond_the_window() -> None:
    t = int(SERIES.as_of[-1])
    late = ClosesOnGrid(SERIES[:-5], HOUR, t, t)
    assert late.signal(t) is None
    assert late.last_close(t) == SERIES.close[-6]
    assert math.isnan(ClosesOnGrid(SERIES[:0], HOUR, t, t).last_close(t))
    ancient = ClosesOnGrid(SERIES[:1], HOUR, int(SERIES.as_of[0]), t)
    assert ancient.last_close(int(SERIES.as_of[0]) + (WINDOW - 1) * HOUR) == SERIES.close[0]
    assert math.isnan(ancient.last_close(int(SERIES.as_of[0]) + WINDOW * HOUR))


def test_candles_off_the_served_span_are_not_looked_at() -> None:
    t = int(SERIES.as_of[-200])
    assert signal_at(SERIES, t) == signal_at(SERIES[: len(SERIES) - 199], t)
