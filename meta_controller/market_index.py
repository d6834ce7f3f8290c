"""The market as one series: the equal-weight index of the universe's instruments, on a grid without holes.

History is laid out in blocks of a week. All that is said about a moment is a function of the candles from REACH_S
before its block's start up to the moment itself, so one run and a batch pass over years see the same arrays.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shared.rows import Candles, FloatArray, IntArray

DAY_S = 86_400
BLOCK_S = 7 * DAY_S
REACH_S = 540 * DAY_S  # before a block: a year to learn from, after half a year for the terciles of its first day
MEMBERSHIP_S = 60 * DAY_S  # before a block: what an instrument's coverage is measured over
LEAST_BARS = 200  # fewer bars than these: no call
LEAST_COVERAGE = 0.8  # an instrument with a smaller share of its bars is left out of the index


class NoCall(Exception):
    """There is nothing to base a call on at this moment; the message says what is missing."""


class ShortHistory(NoCall):
    """Too few bars, which only more candles can mend: worth a person's look."""


@dataclass(frozen=True, slots=True)
class MarketHistory:
    """The index, oldest bar first: bar i closes at first + i·timeframe_s (Unix seconds); every array is [n].

    ``returns`` are log returns, 0 where no member has the bar. ``variance`` is the members' mean Parkinson variance
    of the bar, (ln high/low)² / (4 ln 2): what the range says of it; the squared return where no member has the bar.
    ``present`` is False there. ``instruments``: the members, by their row in what was read.
    """

    first: int
    timeframe_s: int
    returns: FloatArray
    variance: FloatArray
    present: NDArray[np.bool_]
    instruments: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.returns)

    @property
    def as_of(self) -> IntArray:
        return self.first + self.timeframe_s * np.arange(len(self), dtype=np.int64)

    def bars(self, seconds: int) -> int:
        """How many bars a span is, at least one."""
        return max(1, seconds // self.timeframe_s)

    def rows_of(self, moments: Sequence[int]) -> dict[int, int]:
        """The row of each of those of ``moments`` that a bar closes at."""
        rows = {t: divmod(t - self.first, self.timeframe_s) for t in moments}
        return {t: row for t, (row, rest) in rows.items() if rest == 0 and 0 <= row < len(self)}

    def upto(self, as_of: int) -> MarketHistory:
        """The bars that close at or before ``as_of``."""
        end = max(0, (as_of - self.first) // self.timeframe_s + 1)
        return MarketHistory(self.first, self.timeframe_s, self.returns[:end], self.variance[:end],
                             self.present[:end], self.instruments)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Grid:
    """The universe's candles on a common grid: column i closes at first + i·timeframe_s; NaN where missing.

    ``close`` and ``variance`` (Parkinson's, of each bar) are [instruments, bars].
    """

    first: int
    timeframe_s: int
    close: FloatArray
    variance: FloatArray

    @staticmethod
    def of(series: Sequence[Candles], first: int, timeframe_s: int, bars: int) -> Grid:
        """Candles outside the grid's span are left out."""
        close, variance = np.full((2, len(series), bars), np.nan)
        for row, candles in enumerate(series):
            slots = (candles.as_of - first) // timeframe_s
            inside = (slots >= 0) & (slots < bars)
            at = slots[inside]
            close[row, at] = candles.close[inside]
            variance[row, at] = np.log(candles.high[inside] / candles.low[inside]) ** 2 / (4.0 * np.log(2.0))
        return Grid(first, timeframe_s, close, variance)

    def closes(self, instruments: Sequence[int], whole: bool) -> IntArray:
        """When the bars that any of ``instruments`` (rows) has close, Unix seconds in order; with ``whole`` the newest
        of them only where all have it, for the others' candles may be on their way."""
        there = ~np.isnan(self.close[list(instruments)])
        columns = np.flatnonzero(there.any(axis=0))
        if whole and len(columns) and not there[:, columns[-1]].all():
            columns = columns[:-1]
        return self.first + self.timeframe_s * columns


def block_start(as_of: int) -> int:
    """The start of the week that ``as_of`` lies in: the last multiple of BLOCK_S before it (a week owns its end)."""
    return (as_of - 1) // BLOCK_S * BLOCK_S


def index_history(grid: Grid, start: int, last: int) -> MarketHistory:
    """The index of the block that begins at ``start``, with its reach, up to ``last`` (Unix seconds).

    Members are chosen at the block's start: they have LEAST_COVERAGE of the bars of the MEMBERSHIP_S before it, or of
    those since any instrument's first; where no candle is so old, of the block's own bars up to its first LEAST_BARS.
    The index is rebalanced to equal weights every bar over the members that have begun; a missing bar is a return of
    0, and the next one is measured from the last close there was. ShortHistory where there are no members.
    """
    lo = max(0, (start - REACH_S - grid.first) // grid.timeframe_s + 1)
    hi = (last - grid.first) // grid.timeframe_s + 1
    close, variance = grid.close[:, lo:hi], grid.variance[:, lo:hi]
    begin = grid.first + lo * grid.timeframe_s
    anchor = (start - begin) // grid.timeframe_s + 1  # columns up to the block's start
    members = _members(~np.isnan(close), anchor, MEMBERSHIP_S // grid.timeframe_s)
    if not len(members):
        raise ShortHistory(f"no instrument has {LEAST_COVERAGE:.0%} of the bars; `make backfill` closes gaps")
    return _equal_weight(close[members], variance[members], begin, grid.timeframe_s, members)


def _members(present: NDArray[np.bool_], anchor: int, reach: int) -> NDArray[np.intp]:
    """Rows of ``present`` [instruments, bars] with enough of the bars before column ``anchor``."""
    seen = present[:, max(0, anchor - reach) : max(anchor, 0)]
    if not seen.any():
        seen = present[:, max(anchor, 0) :]
        first = int(seen.any(axis=0).argmax()) if seen.any() else 0
        seen = seen[:, first : first + LEAST_BARS]
    if not seen.any():
        return np.empty(0, np.intp)
    seen = seen[:, int(seen.any(axis=0).argmax()) :]
    return np.flatnonzero(seen.sum(axis=1) >= LEAST_COVERAGE * seen.shape[1])


def _equal_weight(
    close: FloatArray, variance: FloatArray, begin: int, timeframe_s: int, members: NDArray[np.intp]
) -> MarketHistory:
    present = ~np.isnan(close)
    first = int(present.any(axis=0).argmax())
    close, variance, present = close[:, first:], variance[:, first:], present[:, first:]
    last_seen = np.maximum.accumulate(np.where(present, np.arange(close.shape[1]), 0), axis=1)
    filled = np.take_along_axis(close, last_seen, axis=1)
    simple = filled[:, 1:] / filled[:, :-1] - 1.0
    begun = ~np.isnan(simple)
    returns = np.log1p(np.where(begun, simple, 0.0).sum(axis=0) / begun.sum(axis=0).clip(1))
    there = present[:, 1:]
    ranges = np.where(there, variance[:, 1:], 0.0).sum(axis=0) / there.sum(axis=0).clip(1)
    any_there = np.asarray(there.any(axis=0), bool)
    bar_variance = np.where(any_there, ranges, returns * returns)
    begin += (first + 1) * timeframe_s
    return MarketHistory(begin, timeframe_s, returns, bar_variance, any_there, tuple(members.tolist()))
