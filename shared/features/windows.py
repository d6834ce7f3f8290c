"""Windows of candles on an unbroken grid: what every feature, and so every encoder, is computed from.

A window is a function of its own slots alone, however many candles are stored before or after it and however
many other windows are computed beside it; so an embedding written live has the bits of one written by a
back-fill. Logarithms are taken candle by candle before windows are cut, and sums run along contiguous slots.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from shared.clock import from_unix
from shared.rows import Candles, FloatArray, IntArray

WINDOW = 288  # slots: 24 hours of 5m candles, 12 days of 1h candles
LEAST_PRESENT = 260  # of 288: fewer than 90 % is doubt, and doubt is no embedding
COLUMNS = ("open", "high", "low", "close", "volume", "missing")


@dataclass(frozen=True, slots=True)
class Windows:
    """N windows of L slots, oldest slot first; arrays are float64 [N, L], C-contiguous.

    Prices are natural logarithms. A slot without a candle is flat at the close before it (before the
    window's first candle: at that one's open), has no volume and ``missing`` 1. ``as_of`` [N]: the last
    slots' closes in Unix seconds; there is always a candle in the last slot.
    """

    timeframe_s: int
    as_of: IntArray
    open: FloatArray
    high: FloatArray
    low: FloatArray
    close: FloatArray
    volume: FloatArray
    missing: FloatArray

    def __len__(self) -> int:
        return len(self.as_of)

    @property
    def length(self) -> int:
        return int(self.close.shape[1])

    def last(self, length: int) -> Windows:
        """The last ``length`` slots, as if nothing before them had ever been there."""
        return _as_if_first(self.timeframe_s, self.as_of, [getattr(self, name)[:, -length:] for name in COLUMNS])

    def select(self, chosen: slice | IntArray) -> Windows:
        """Some of the windows."""
        return replace(self, **{name: getattr(self, name)[chosen] for name in (*COLUMNS, "as_of")})

    @staticmethod
    def concatenate(parts: Sequence[Windows]) -> Windows:
        """All windows of ``parts`` in their order; ValueError when those are none or not of one timeframe."""
        timeframes = sorted({part.timeframe_s for part in parts})
        if len(timeframes) != 1:
            raise ValueError(f"only windows of one timeframe can be put together, not of {timeframes} s")
        columns = (np.concatenate([getattr(part, name) for part in parts]) for name in ("as_of", *COLUMNS))
        return Windows(timeframes[0], *columns)


def _as_if_first(timeframe_s: int, as_of: IntArray, columns: Sequence[FloatArray]) -> Windows:
    """Windows of copies of ``columns`` [N, L], the slots before each one's first candle flat at that candle's open."""
    w = Windows(timeframe_s, as_of, *(np.array(column, order="C") for column in columns))
    for row in np.flatnonzero(w.missing[:, 0]):
        first = int(np.argmin(w.missing[row]))
        for prices in (w.high, w.low, w.close, w.open):
            prices[row, :first] = w.open[row, first]
    return w


class Grid:
    """One instrument's candles laid out on their grid once, to cut any number of windows from."""

    def __init__(self, candles: Candles, timeframe_s: int) -> None:
        """ValueError for candles that are not on one grid of ``timeframe_s``."""
        self.timeframe_s = timeframe_s
        self._first = int(candles.as_of[0]) if len(candles) else 0
        slots, off_grid = np.divmod(candles.as_of - self._first, timeframe_s)
        if off_grid.any():
            at = from_unix(int(candles.as_of[np.argmax(off_grid > 0)]))
            raise ValueError(
                f"the candle that closes at {at.isoformat()} is not a multiple of {timeframe_s} s after the first one"
            )
        slots += WINDOW - 1  # room for a window at the first candle
        self._present = np.zeros(int(slots[-1]) + 1 if len(candles) else WINDOW, dtype=bool)
        self._present[slots] = True
        self._columns = self._lay_out(candles, slots)
        self._usable = self._enough_present()

    def _lay_out(self, candles: Candles, slots: IntArray) -> list[FloatArray]:
        """COLUMNS on all slots. A gap lies flat at the close before it; what comes before the first candle is
        only ever in windows that fill it themselves."""
        flat = np.concatenate([[0.0], np.log(candles.close)])[np.cumsum(self._present)]
        columns = []
        for values in (candles.open, candles.high, candles.low, candles.close):
            column = flat.copy()
            column[slots] = np.log(values)
            columns.append(column)
        volume = np.zeros(len(flat))
        volume[slots] = candles.volume
        return [*columns, volume, 1.0 - self._present]

    def _enough_present(self) -> NDArray[np.bool_]:
        """Of each slot from the first candle's on: whether its window is good enough."""
        counts = np.cumsum(self._present)
        inside = counts[WINDOW - 1 :].copy()
        inside[1:] -= counts[:-WINDOW]
        return np.asarray(self._present[WINDOW - 1 :] & (inside >= LEAST_PRESENT))

    def usable(self) -> IntArray:
        """The closes (Unix seconds) with a candle of their own and at least 260 of the 288 in their window."""
        return np.asarray(self._first + np.flatnonzero(self._usable) * self.timeframe_s, dtype=np.int64)

    def windows(self, closes: IntArray) -> Windows:
        """The windows that end at ``closes`` [N]; ValueError for one that is not among ``usable()``."""
        starts, off_grid = np.divmod(np.asarray(closes, dtype=np.int64) - self._first, self.timeframe_s)
        known = (off_grid == 0) & (starts >= 0) & (starts < len(self._usable))
        known[known] = self._usable[starts[known]]
        if not known.all():
            at = from_unix(int(closes[np.argmin(known)]))
            raise ValueError(f"there is no usable window that closes at {at.isoformat()}; ask usable() which there are")
        columns = [sliding_window_view(column, WINDOW)[starts] for column in self._columns]
        return _as_if_first(self.timeframe_s, np.asarray(closes, dtype=np.int64), columns)
