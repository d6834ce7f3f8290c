"""Candles in whole numbers: ticks, units of volume, and their products, which outgrow 64 bits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields

import numpy as np

from shared.rows import IntArray


@dataclass(frozen=True, slots=True)
class Columns:
    """``opened`` in Unix seconds; ``notional`` is sum of price × volume, as Python integers."""

    opened: IntArray
    open: IntArray
    high: IntArray
    low: IntArray
    close: IntArray
    volume: IntArray
    notional: np.ndarray
    count: IntArray

    def rows(self) -> Iterator[tuple[int, ...]]:
        return zip(*(column.tolist() for column in self._all()), strict=True)

    def between(self, since: int, until: int) -> Columns:
        """Those with since <= opened < until."""
        start, stop = np.searchsorted(self.opened, (since, until)).tolist()
        return Columns(*(column[start:stop] for column in self._all()))

    def regroup(self, timeframe_s: int) -> Columns:
        """The same trades in wider candles."""
        opened, first = np.unique(self.opened // timeframe_s * timeframe_s, return_index=True)
        return Columns(
            opened=opened,
            open=self.open[first],
            high=np.maximum.reduceat(self.high, first),
            low=np.minimum.reduceat(self.low, first),
            close=self.close[_last(first, len(self.close))],
            volume=np.add.reduceat(self.volume, first),
            notional=np.add.reduceat(self.notional, first),
            count=np.add.reduceat(self.count, first),
        )

    def _all(self) -> list[np.ndarray]:
        return [getattr(self, field.name) for field in fields(self)]


def aggregate(opened: IntArray, first: IntArray, price: IntArray, volume: IntArray) -> Columns:
    """Candles of trades in order, the one opened at ``opened[i]`` beginning with trade ``first[i]``; none is empty."""
    one_each = Columns(
        opened=np.repeat(opened, np.diff(first, append=len(price))),
        open=price,
        high=price,
        low=price,
        close=price,
        volume=volume,
        notional=price.astype(object) * volume,
        count=np.ones(len(price), dtype=np.int64),
    )
    return one_each.regroup(1)


def concatenate(parts: Sequence[Columns]) -> Columns:
    return Columns(*(np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(Columns)))


def _last(first: IntArray, length: int) -> IntArray:
    """Index of the last member of each group, from those of the first ones."""
    return np.append(first[1:], length) - 1
