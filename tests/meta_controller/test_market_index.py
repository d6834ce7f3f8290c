from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meta_controller.market_index import (
    BLOCK_S,
    LEAST_BARS,
    MEMBERSHIP_S,
    REACH_S,
    Grid,
    ShortHistory,
    block_start,
    index_history,
)
from tests.helpers import random_candles
from tests.meta_controller.markets import HOUR_S, START, WEEK, grid_of, history_of, wandering

NAN = np.nan
BEFORE = 10 * WEEK  # bars before the block of these tests
MEMBERSHIP = MEMBERSHIP_S // HOUR_S


def grid(bars: int = BEFORE + WEEK, instruments: int = 2, seed: int = 0) -> Grid:
    """Bars that end with the block at START."""
    return grid_of(wandering(bars, seed, instruments), START + BLOCK_S - (bars - 1) * HOUR_S)


def test_a_block_owns_its_end_and_not_its_start() -> None:
    assert block_start(START + 1) == block_start(START + BLOCK_S) == START
    assert block_start(START) == START - BLOCK_S


def test_the_index_earns_the_mean_of_its_instruments() -> None:
    made = grid()
    history = index_history(made, START, START + BLOCK_S)
    assert history.instruments == (0, 1)
    assert history.as_of[-1] == START + BLOCK_S
    assert history.returns == pytest.approx(np.log((made.close[:, 1:] / made.close[:, :-1]).mean(axis=0)))
    assert history.variance == pytest.approx(made.variance[:, 1:].mean(axis=0))
    assert history.present.all()


def test_a_missing_bar_contributes_nothing_and_the_next_catches_up() -> None:
    whole, holed = grid(instruments=1), grid(instruments=1)
    holed.close[0, 100] = holed.variance[0, 100] = NAN
    a, b = (index_history(g, START, START + BLOCK_S) for g in (whole, holed))
    assert (b.returns[99], b.present[99]) == (0.0, False)
    assert b.returns[100] == pytest.approx(a.returns[99] + a.returns[100])
    assert np.delete(b.returns, [99, 100]) == pytest.approx(np.delete(a.returns, [99, 100]))


def test_an_instrument_with_too_few_bars_before_the_block_is_left_out() -> None:
    made = grid()
    seen = slice(BEFORE - MEMBERSHIP, BEFORE)
    made.close[1, seen][: MEMBERSHIP // 5 + 1] = NAN
    assert index_history(made, START, START + BLOCK_S).instruments == (0,)
    made = grid()
    made.close[1, seen][: MEMBERSHIP // 5] = NAN
    assert index_history(made, START, START + BLOCK_S).instruments == (0, 1)


def test_an_instrument_that_joins_late_counts_from_its_first_bar() -> None:
    made = grid()
    made.close[1, :200] = made.variance[1, :200] = NAN
    history = index_history(made, START, START + BLOCK_S)
    own = np.log(made.close[0, 1:] / made.close[0, :-1])
    assert history.returns[:200] == pytest.approx(own[:200])
    assert history.returns[200:] != pytest.approx(own[200:])


def test_a_first_week_has_its_own_members() -> None:
    made = grid(bars=WEEK - 20)  # nothing before the block
    assert index_history(made, START, START + BLOCK_S).instruments == (0, 1)
    made.close[1, : LEAST_BARS // 2] = NAN
    assert index_history(made, START, START + BLOCK_S).instruments == (0,)


def test_no_members_are_a_short_history() -> None:
    made = grid()
    made.close[:, BEFORE - MEMBERSHIP : BEFORE - 10][:, ::2] = NAN
    with pytest.raises(ShortHistory, match="80%"):
        index_history(made, START, START + BLOCK_S)


def test_history_reaches_back_so_far_and_no_farther() -> None:
    bars = (REACH_S + BLOCK_S) // HOUR_S + 50
    history = index_history(grid(bars, 1), START, START + BLOCK_S)
    assert history.first == START - REACH_S + 2 * HOUR_S
    shorter = index_history(grid(bars - 40, 1), START, START + BLOCK_S)
    assert len(shorter) == len(history)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, WEEK), st.integers(0, 50), st.floats(0.0, 0.15))
def test_a_bars_index_is_the_same_whenever_in_its_block_it_is_looked_at(bars: int, seed: int, holes: float) -> None:
    made = grid(seed=seed)
    rng = np.random.default_rng(seed)
    gone = rng.random(made.close.shape) < holes
    made.close[gone] = made.variance[gone] = NAN
    whole = index_history(made, START, START + BLOCK_S)
    early = index_history(made, START, START + bars * HOUR_S)
    for name in ("returns", "variance", "present"):
        assert getattr(early, name).tobytes() == getattr(whole, name)[: len(early)].tobytes()
    assert whole.upto(START + bars * HOUR_S).returns.tobytes() == early.returns.tobytes()


def test_candles_fall_on_their_slots() -> None:
    candles = random_candles(10, 3600, end=36000)
    kept = np.array([True] * 3 + [False] + [True] * 6)
    made = Grid.of([candles[kept], candles], 7200, 3600, 5)
    missing = np.array([False, False, True, False, False])
    assert np.array_equal(np.isnan(made.close), np.stack([missing, np.zeros(5, bool)]))
    assert np.array_equal(made.close[1], candles.close[1:6])
    parkinson = np.log(candles.high[1:6] / candles.low[1:6]) ** 2 / (4 * np.log(2))
    assert made.variance[1] == pytest.approx(parkinson)
    assert np.array_equal(np.isnan(made.variance[0]), missing)


def test_a_moment_has_the_row_of_the_bar_that_closes_at_it_or_none() -> None:
    history = history_of(wandering(10)[0], first=7200)
    assert history.rows_of([3600, 7200, 9000, 10800, 7200 + 9 * 3600, 7200 + 10 * 3600]) == {
        7200: 0, 10800: 1, 7200 + 9 * 3600: 9,
    }  # fmt: skip


def test_a_bar_has_closed_where_any_instrument_has_it_and_the_newest_where_all_have() -> None:
    grid = grid_of(wandering(5))
    grid.close[0, 3:], grid.close[1, 1:4] = np.nan, np.nan
    closes = [((grid.closes(rows, whole=True) - grid.first) // HOUR_S).tolist() for rows in ([0], [1], [0, 1])]
    assert closes == [[0, 1, 2], [0, 4], [0, 1, 2]]
    assert grid.closes([0, 1], whole=False)[-1] == grid.first + 4 * HOUR_S
