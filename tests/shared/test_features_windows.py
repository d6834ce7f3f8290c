"""Windows on a grid: which there are, and what stands in a slot that has no candle."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.features import LEAST_PRESENT, WINDOW, Grid, Windows
from shared.features.windows import COLUMNS
from shared.rows import Candles
from tests.helpers import random_candles
from tests.shared.feature_series import HOUR, rough_candles, whole


def without(candles: Candles, *missing: int) -> Candles:
    """The candles but those at these positions."""
    return candles[np.delete(np.arange(len(candles)), missing)]


# ── which windows there are ─────────────────────────────────────────────────────────────────────────────
@given(
    n=st.integers(1, 700),
    missing=st.sets(st.integers(0, 699), max_size=60),
    run=st.tuples(st.integers(0, 699), st.integers(0, 60)),
    timeframe_s=st.sampled_from([300, HOUR]),
)
def test_a_close_is_usable_with_its_own_candle_and_260_of_288(
    n: int, missing: set[int], run: tuple[int, int], timeframe_s: int
) -> None:
    gone = missing | set(range(run[0], sum(run)))
    kept = [i for i in range(n) if i not in gone]
    candles = random_candles(n, timeframe_s)[np.array(kept, dtype=int)]
    closes = candles.as_of.tolist()
    expected = [
        at for at in closes if sum(at - WINDOW * timeframe_s < other <= at for other in closes) >= LEAST_PRESENT
    ]
    usable = Grid(candles, timeframe_s).usable()
    assert usable.dtype == np.int64
    assert usable.tolist() == expected


def test_the_first_usable_close_is_that_of_the_260th_candle() -> None:
    candles = random_candles(LEAST_PRESENT, HOUR)
    assert Grid(candles, HOUR).usable().tolist() == candles.as_of[-1:].tolist()
    assert Grid(candles[1:], HOUR).usable().size == 0
    assert Grid(Candles.empty(), HOUR).usable().size == 0


def test_candles_off_the_grid_are_refused() -> None:
    candles = random_candles(WINDOW, HOUR)
    candles.as_of[50] -= 60
    with pytest.raises(ValueError, match=r"T\d\d:59:00.* is not a multiple of 3600 s after the first"):
        Grid(candles, HOUR)


NOT_USABLE = {
    "off the grid": -1,
    "no candle": -10 * HOUR,
    "too many gaps": -40 * HOUR,
    "after the last": HOUR,
    "before the first": -580 * HOUR,
}


@pytest.mark.parametrize("case", NOT_USABLE)
def test_windows_that_are_not_usable_are_refused(case: str) -> None:
    candles = without(random_candles(560, HOUR), *range(250, 279), 549)
    grid = Grid(candles, HOUR)
    good = int(candles.as_of[-1])
    assert grid.usable()[-1] == good
    with pytest.raises(ValueError, match="no usable window that closes at"):
        grid.windows(np.array([good, good + NOT_USABLE[case]]))


# ── what stands in them ─────────────────────────────────────────────────────────────────────────────────
def assert_same(one: Windows, other: Windows) -> None:
    for name in (*COLUMNS, "as_of"):
        assert getattr(one, name).tobytes() == getattr(other, name).tobytes(), name


def test_a_window_holds_the_logarithms_of_its_candles() -> None:
    candles = random_candles(400, HOUR)
    windows = Grid(candles, HOUR).windows(candles.as_of[[350, 399]])
    assert windows.as_of.tolist() == candles.as_of[[350, 399]].tolist()
    assert (len(windows), windows.length, windows.timeframe_s) == (2, WINDOW, HOUR)
    for name in ("open", "high", "low", "close"):
        assert getattr(windows, name)[0].tolist() == np.log(getattr(candles, name)[63:351]).tolist()
        assert getattr(windows, name)[1].tolist() == np.log(getattr(candles, name)[112:]).tolist()
    assert windows.volume[1].tolist() == candles.volume[112:].tolist()
    assert not windows.missing.any()


def test_columns_are_contiguous_and_a_windows_own() -> None:
    candles = rough_candles(600, seed=1)
    grid = Grid(candles, HOUR)
    before = grid.windows(grid.usable())
    scratched = grid.windows(grid.usable())
    for name in COLUMNS:
        for windows in (scratched, scratched.last(WINDOW), scratched.last(24)):
            column = getattr(windows, name)
            assert column.flags.c_contiguous
            assert column.dtype == np.float64
        getattr(scratched.last(WINDOW), name)[:] = -1.0
    assert_same(before, scratched)
    for name in COLUMNS:
        getattr(scratched, name)[:] = -1.0
    assert_same(before, grid.windows(grid.usable()))


def test_a_missing_candle_is_flat_at_the_close_before_without_volume_and_flagged() -> None:
    candles = random_candles(WINDOW, HOUR)
    windows = Grid(without(candles, 40, 41), HOUR).windows(candles.as_of[-1:])
    assert np.flatnonzero(windows.missing[0]).tolist() == [40, 41]
    for name in ("open", "high", "low", "close"):
        assert (getattr(windows, name)[0, 40:42] == np.log(candles.close[39])).all()
    assert windows.volume[0, 40:42].tolist() == [0, 0]
    assert windows.open[0, 42] == np.log(candles.open[42])


@pytest.mark.parametrize("older", [0, 1, 200], ids=["series begins", "one older", "many older"])
def test_candles_missing_at_the_beginning_are_flat_at_the_first_open(older: int) -> None:
    candles = without(random_candles(older + WINDOW, HOUR), *range(older, older + 3))
    windows = Grid(candles, HOUR).windows(candles.as_of[-1:])
    assert windows.missing[0, :4].tolist() == [1, 1, 1, 0]
    for name in ("open", "high", "low", "close"):
        assert (getattr(windows, name)[0, :3] == np.log(candles.open[older])).all()
    assert windows.volume[0, :3].tolist() == [0, 0, 0]


@given(seed=st.integers(0, 50), length=st.integers(1, WINDOW))
def test_the_last_slots_are_laid_out_as_if_nothing_had_been_before(seed: int, length: int) -> None:
    candles = rough_candles(420, seed)
    short = Grid(candles, HOUR).windows(candles.as_of[-1:]).last(length)
    inside = candles[candles.as_of > candles.as_of[-1] - length * HOUR]
    assert short.length == length
    assert int(WINDOW - short.missing.sum()) - (WINDOW - length) == len(inside)
    first = int(np.argmin(short.missing[0]))
    for name in ("open", "high", "low", "close"):
        assert (getattr(short, name)[0, :first] == np.log(inside.open[0])).all()
        assert getattr(short, name)[0, first] == np.log(getattr(inside, name)[0])
        present = short.missing[0] == 0
        assert getattr(short, name)[0, present].tolist() == np.log(getattr(inside, name)).tolist()
    assert_same(
        short.last(max(1, length // 2)), Grid(candles, HOUR).windows(candles.as_of[-1:]).last(max(1, length // 2))
    )


def test_some_of_the_windows_are_chosen_in_the_order_asked_for() -> None:
    candles = rough_candles(500, seed=2)
    grid = Grid(candles, HOUR)
    windows, closes = grid.windows(grid.usable()), grid.usable()
    assert_same(windows.select(slice(3, 9)), grid.windows(closes[3:9]))
    assert_same(windows.select(np.array([5, 1])), grid.windows(closes[[5, 1]]))


def test_windows_are_put_together_in_their_order() -> None:
    grid = Grid(rough_candles(500, seed=2), HOUR)
    closes = grid.usable()
    parts = [grid.windows(closes[chosen]) for chosen in (slice(5, 9), slice(0, 0), slice(0, 3))]
    assert_same(Windows.concatenate(parts), grid.windows(closes[[5, 6, 7, 8, 0, 1, 2]]))
    assert Windows.concatenate(parts).timeframe_s == HOUR
    assert_same(Windows.concatenate(parts[:1]), parts[0])


def test_windows_of_several_timeframes_and_no_windows_are_not_put_together() -> None:
    parts = [whole(), replace(whole(), timeframe_s=300)]
    with pytest.raises(ValueError, match=r"only windows of one timeframe can be put together, not of \[300, 3600\] s"):
        Windows.concatenate(parts)
    with pytest.raises(ValueError, match="one timeframe"):
        Windows.concatenate([])


def test_every_array_of_a_window_is_among_its_columns() -> None:
    assert {field.name for field in fields(whole())} == {*COLUMNS, "as_of", "timeframe_s"}
