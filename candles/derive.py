"""Coarser candles from finer ones: of closed bars only, and only where none is missing."""

from __future__ import annotations

import numpy as np

from shared.rows import UNKNOWN_TRADES, Candles


def derive_candles(base: Candles, base_s: int, target_s: int) -> Candles:
    """The candles of ``target_s`` that ``base`` (of ``base_s``, sorted, unique) completes.

    A derived candle needs every base candle it is made of: an hour with a hole is a hole.
    """
    if target_s % base_s or target_s <= base_s:
        raise ValueError(f"{target_s} s candles cannot be made of {base_s} s candles")
    per_target = target_s // base_s
    group = -(-base.as_of // target_s)  # index of the target candle whose close is group * target_s
    starts = np.flatnonzero(np.r_[True, group[1:] != group[:-1]]) if len(base) else np.array([], dtype=np.int64)
    starts = starts[np.diff(np.r_[starts, len(base)]) == per_target]
    if not len(starts):
        return Candles.empty()
    rows = starts[:, None] + np.arange(per_target)  # [n, per_target] rows of base
    trades = base.trades[rows]
    return Candles.from_columns(
        [
            base.as_of[rows[:, -1]],
            base.open[starts],
            base.high[rows].max(axis=1),
            base.low[rows].min(axis=1),
            base.close[rows[:, -1]],
            base.volume[rows].sum(axis=1),
            np.where((trades < 0).any(axis=1), UNKNOWN_TRADES, trades.sum(axis=1)),
        ]
    )
