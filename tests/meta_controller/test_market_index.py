from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meta_controller.market_index import LEAST_BARS, WINDOW_BARS, NoCall, ShortHistory, close_grid, index_returns
from meta_controller.regimes.quadrant import call_regimes
from shared.rows import FloatArray
from tests.helpers import random_candles

NAN = np.nan


def walk(bars: int, instruments: int = 2, seed: int = 0) -> FloatArray:
    closes: FloatArray = 100 * np.exp(np.random.default_rng(seed).normal(0, 0.01, (instruments, bars)).cumsum(axis=1))
    return closes


def test_the_index_earns_the_mean_of_its_instruments() -> None:
    closes = walk(300)
    returns, instruments = index_returns(closes)
    assert instruments == 2
    assert returns == pytest.approx(np.log((closes[:, 1:] / closes[:, :-1]).mean(axis=0)))


def test_a_missing_bar_contributes_nothing_and_the_next_catches_up() -> None:
    closes = walk(300, instruments=1)
    whole, _ = index_returns(closes)
    closes[0, 100] = NAN
    holed, _ = index_returns(closes)
    assert holed[99] == 0.0
    assert holed[100] == pytest.approx(whole[99] + whole[100])
    assert np.delete(holed, [99, 100]) == pytest.approx(np.delete(whole, [99, 100]))


def test_an_instrument_with_too_few_bars_is_left_out() -> None:
    closes = walk(300)
    closes[1, :61] = NAN  # 239 of 300 bars
    alone, instruments = index_returns(closes)
    assert instruments == 1
    assert np.array_equal(alone, index_returns(closes[:1])[0])
    closes[1, 60] = 100.0  # 240 of 300 bars
    assert index_returns(closes)[1] == 2


def test_the_index_begins_with_its_first_bar() -> None:
    closes = walk(WINDOW_BARS)
    closes[:, : WINDOW_BARS - 250] = NAN
    assert len(index_returns(closes)[0]) == 249


def test_fewer_bars_than_needed_are_no_call() -> None:
    assert len(index_returns(walk(LEAST_BARS))[0]) == LEAST_BARS - 1
    with pytest.raises(ShortHistory, match="199 bars of history, at least 200"):
        index_returns(walk(LEAST_BARS - 1))


def test_a_window_of_holes_is_no_call() -> None:
    closes = walk(WINDOW_BARS)
    closes[:, 300:700] = NAN
    with pytest.raises(ShortHistory, match="80%"):
        index_returns(closes)


def test_a_last_bar_that_is_missing_is_no_call() -> None:
    closes = walk(300)
    closes[:, -1] = NAN
    with pytest.raises(NoCall, match="no instrument of the universe"):
        index_returns(closes)
    closes[1, -1], closes[1, :100] = 100.0, NAN  # only an instrument outside the index has it
    with pytest.raises(NoCall, match="no instrument of the index"):
        index_returns(closes)


def test_candles_fall_on_their_slots() -> None:
    candles = random_candles(10, 3600, end=36000)
    kept = np.array([True] * 3 + [False] + [True] * 6)
    grid = close_grid([candles[kept], candles], 7200, 3600, 5)
    assert np.array_equal(grid[1], candles.close[1:6])
    assert np.array_equal(grid[0], np.where(kept, candles.close, NAN)[1:6], equal_nan=True)


@settings(max_examples=25, deadline=None)
@given(data=st.data(), seed=st.integers(0, 2**16), holes=st.floats(0, 0.15))
def test_a_call_is_a_function_of_exactly_its_window(data: st.DataObject, seed: int, holes: float) -> None:
    """Bars after t, and bars older than the window, may be anything: the call at t is the same, bit for bit."""
    rng = np.random.default_rng(seed)
    before, after = data.draw(st.integers(0, 30)), data.draw(st.integers(0, 30))
    closes = walk(before + WINDOW_BARS + after, seed=seed)
    closes[rng.random(closes.shape) < holes] = NAN
    window = slice(before, before + WINDOW_BARS)
    closes[:, window.stop - 1] = 100.0
    alone = call_regimes(index_returns(closes[:, window].copy())[0])
    closes[:, : window.start] = rng.uniform(1, 1000, (2, before))
    closes[:, window.stop :] = rng.uniform(1, 1000, (2, after))
    assert call_regimes(index_returns(closes[:, window])[0]) == alone
