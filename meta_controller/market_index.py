"""The market as one series: the equal-weight index of the universe's instruments, on a grid without holes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from shared.rows import Candles, FloatArray

WINDOW_BARS = 1440  # L: 60 days of hourly bars; a call is a function of exactly these
LEAST_BARS = 200  # fewer closes than these: no call
LEAST_COVERAGE = 0.8  # an instrument with a smaller share of the window's bars is left out of the index


class NoCall(Exception):
    """There is nothing to base a call on at this moment; the message says what is missing."""


class ShortHistory(NoCall):
    """Too few bars, which only more candles can mend: worth a person's look."""


def close_grid(series: Sequence[Candles], first: int, timeframe_s: int, bars: int) -> FloatArray:
    """The closes of each series at first, first + timeframe_s, …: shape (len(series), bars), NaN where missing.

    ``first`` is a close time in Unix seconds; candles outside the grid's span are left out.
    """
    grid = np.full((len(series), bars), np.nan)
    for row, candles in zip(grid, series, strict=True):
        slots = (candles.as_of - first) // timeframe_s
        inside = (slots >= 0) & (slots < bars)
        row[slots[inside]] = candles.close[inside]
    return grid


def index_returns(closes: FloatArray) -> tuple[FloatArray, int]:
    """The index's log returns, oldest first, and how many instruments it holds.

    ``closes``, shape (instruments, n), is a grid whose last column is the bar spoken about; the returns have
    shape (m,) with m < n: they begin after the first bar that any instrument has. The index is rebalanced
    to equal weights every bar; a missing bar contributes a zero return, and the next return is measured from
    the last close there was. NoCall when the last bar is missing, ShortHistory when there are too few.
    """
    present = ~np.isnan(closes)
    if not present[:, -1].any():
        raise NoCall("no instrument of the universe has a candle at this close yet; it is called once there is one")
    first = int(present.any(axis=0).argmax())
    counts = present.sum(axis=1)
    kept = counts >= LEAST_COVERAGE * (closes.shape[1] - first)
    if not kept.any():
        raise ShortHistory(f"no instrument has {LEAST_COVERAGE:.0%} of the window's bars; `make backfill` closes gaps")
    if not present[kept, -1].any():
        raise NoCall("no instrument of the index has a candle at this close yet; it is called once there is one")
    if (bars := int(present[kept].any(axis=0).sum())) < LEAST_BARS:
        raise ShortHistory(f"{bars} bars of history, at least {LEAST_BARS} are needed; `make backfill` fetches more")
    return _equal_weight(closes[kept, first:], present[kept, first:]), int(kept.sum())


def _equal_weight(closes: FloatArray, present: np.typing.NDArray[np.bool_]) -> FloatArray:
    last_seen = np.maximum.accumulate(np.where(present, np.arange(closes.shape[1]), 0), axis=1)
    filled = np.take_along_axis(closes, last_seen, axis=1)
    simple = filled[:, 1:] / filled[:, :-1] - 1.0
    simple[np.isnan(simple)] = 0.0  # before an instrument's first bar
    returns: FloatArray = np.log1p(simple.mean(axis=0))
    return returns
