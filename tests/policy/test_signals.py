"""Trend and volatility depend on exactly their window: not on what came before it, nor after."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policy.signals import CROSSOVER_SD, FAST, MIN_HISTORY, SIGNAL_WINDOW, SLOW, compute_signal
from shared.rows import Candles
from tests.helpers import random_candles

HOUR = 3600
SERIES = random_candles(SIGNAL_WINDOW + 200, HOUR, seed=3, volatility=0.01)


def geometric(n: int, growth: float) -> Candles:
    """n candles that each close ``growth`` higher, on a little noise, so that volatility is not zero."""
    base = random_candles(n, HOUR, seed=1, volatility=0.001)
    factor = np.exp(growth * np.arange(n))
    prices = [getattr(base, name) * factor for name in ("open", "high", "low", "close")]
    return Candles(base.as_of, *prices, base.volume, base.trades)


@given(index=st.integers(SIGNAL_WINDOW, len(SERIES) - 1), extra=st.integers(0, 150), later=st.integers(0, 150))
@settings(max_examples=60, deadline=None)
def test_a_signal_is_a_function_of_its_window_bit_for_bit(index: int, extra: int, later: int) -> None:
    as_of = int(SERIES.as_of[index])
    exact = SERIES[index + 1 - SIGNAL_WINDOW : index + 1]
    wider = SERIES[max(0, index + 1 - SIGNAL_WINDOW - extra) : index + 1 + later]
    signal = compute_signal(exact, as_of, HOUR)
    assert signal is not None
    assert compute_signal(wider, as_of, HOUR) == signal


def test_crossovers_of_a_random_walk_have_unit_deviation() -> None:
    rng = np.random.default_rng(0)
    walks = np.cumsum(rng.normal(0, 1, (4000, SIGNAL_WINDOW)), axis=1)
    walks -= walks[:, :1]  # the window's first close is its origin: an EWMA knows no returns before it
    crossovers = walks @ (FAST - SLOW).T / CROSSOVER_SD
    assert crossovers.std(axis=0) == pytest.approx([1, 1, 1], abs=0.05)


def test_a_rising_market_has_a_positive_trend_and_a_falling_one_a_negative() -> None:
    for growth, sign in ((0.002, 1), (-0.002, -1)):
        candles = geometric(SIGNAL_WINDOW, growth)
        signal = compute_signal(candles, int(candles.as_of[-1]), HOUR)
        assert signal is not None
        assert sign * signal.trend > 0.5
        assert signal.price == candles.close[-1]


def test_volatility_is_annualised() -> None:
    candles = random_candles(SIGNAL_WINDOW, HOUR, seed=5, volatility=0.01)
    signal = compute_signal(candles, int(candles.as_of[-1]), HOUR)
    assert signal is not None
    assert signal.volatility == pytest.approx(0.01 * np.sqrt(365 * 24), rel=0.25)


@pytest.mark.parametrize("what", ["the newest candle is missing", "too young", "too many holes"])
def test_doubtful_windows_have_no_signal(what: str) -> None:
    as_of = int(SERIES.as_of[-1])
    doubtful = {
        "the newest candle is missing": SERIES[:-1],
        "too young": SERIES[-(MIN_HISTORY - 1) :],
        "too many holes": SERIES[np.arange(len(SERIES)) % 5 != 0],
    }[what]
    assert compute_signal(doubtful, as_of, HOUR) is None


def test_a_young_series_has_a_signal_and_a_hole_is_filled_with_the_close_before() -> None:
    as_of = int(SERIES.as_of[-1])
    assert compute_signal(SERIES[-MIN_HISTORY:], as_of, HOUR) is not None
    keep = np.ones(len(SERIES), dtype=bool)
    keep[-10] = False
    filled = Candles(*(getattr(SERIES, name).copy() for name in Candles.__slots__))
    filled.close[-10] = filled.close[-11]
    assert compute_signal(SERIES[keep], as_of, HOUR) == compute_signal(filled, as_of, HOUR)
