"""Training windows with their labels, and the split in time that keeps the score honest."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from encoder.schema import HORIZONS_S
from shared.features import CHANNELS, CLIP, WINDOW, Grid, compute_channels, compute_features
from shared.job import JobError
from shared.rows import Candles, FloatArray, IntArray

LABEL_HORIZON_S = max(HORIZONS_S)
LEAST_WINDOWS = 200
MOST_WINDOWS = 150_000  # of more closes only so many, evenly spread, are used
HELD_OUT = 0.15
SMALLEST_VOLATILITY = 1e-6
PARKINSON = math.sqrt(4 * math.log(2))
BLOCK = 1024  # windows measured at a time

# Labels, each a column; the first are what embeddings are asked for.
LOG_VOLATILITY = slice(0, len(HORIZONS_S))
LABELS = (
    *(f"log_volatility_{h}s" for h in HORIZONS_S),
    "path_14400s",
    "path_86400s",
    "log_range_14400s",
    "log_range_86400s",
    "log_volume_86400s",
)
LOG_RANGES = slice(5, 7)


@dataclass(frozen=True, slots=True)
class TrainingSet:
    """N windows in order of time, over several series.

    ``series`` [N]: which grid a window is of; ``as_of`` [N]: its close; ``features`` float32 [N, F];
    ``labels`` float32 [N, K] in the order of LABELS. Channels are cut when they are asked for: they would
    fill the memory.
    """

    grids: tuple[Grid, ...]
    series: IntArray
    as_of: IntArray
    features: NDArray[np.float32]
    labels: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.as_of)

    def select(self, chosen: NDArray[np.bool_] | IntArray) -> TrainingSet:
        cut = {name: getattr(self, name)[chosen] for name in ("series", "as_of", "features", "labels")}
        return replace(self, **cut)

    def channels(self, chosen: IntArray) -> NDArray[np.float32]:
        """float32 [len(chosen), C, L]"""
        channels = np.empty((len(chosen), len(CHANNELS), WINDOW), np.float32)
        for k in np.unique(self.series[chosen]):
            of_k = self.series[chosen] == k
            channels[of_k] = compute_channels(self.grids[k].windows(self.as_of[chosen[of_k]]))
        return channels


def candles_between(candles: Candles, after: int, until: int) -> Candles:
    """The candles with after < as_of <= until (Unix seconds)."""
    return candles[(candles.as_of > after) & (candles.as_of <= until)]


def build_training_set(series: Sequence[Candles], timeframe_s: int, most_windows: int = MOST_WINDOWS) -> TrainingSet:
    """Every window that has its label, too, within these candles; JobError when there are fewer than 200."""
    total = sum(map(len, series))
    stride = max(1.0, total / most_windows)  # not rounded: or all windows might end at the same minute of the hour
    grids = tuple(Grid(candles, timeframe_s) for candles in series)
    parts = [_measure(k, grid, candles, stride) for k, (grid, candles) in enumerate(zip(grids, series, strict=True))]
    which, as_of, features, labels = (np.concatenate(column) for column in zip(*parts, strict=True))
    if len(as_of) < LEAST_WINDOWS:
        raise JobError(
            f"{len(as_of)} training windows, at least {LEAST_WINDOWS} are needed: there are {total} candles of "
            f"{timeframe_s} s in {len(series)} series, and each window takes {WINDOW} and its label "
            f"{LABEL_HORIZON_S // timeframe_s} more without gaps; run `make backfill` for a longer span, or widen "
            "--from/--to"
        )
    order = np.lexsort((which, as_of))
    return TrainingSet(grids, which[order], as_of[order], features[order], labels[order])


def split_in_time(data: TrainingSet) -> tuple[TrainingSet, TrainingSet]:
    """The windows to fit and the last 15 % to score; no label of the first reaches into the second."""
    cut = data.as_of[int(len(data) * (1 - HELD_OUT))]
    return data.select(data.as_of + LABEL_HORIZON_S <= cut), data.select(data.as_of >= cut)


Measured = tuple[IntArray, IntArray, NDArray[np.float32], NDArray[np.float32]]


def _measure(k: int, grid: Grid, candles: Candles, stride: float) -> Measured:
    """series, as_of, features and labels of one grid's windows."""
    closes, labels = label(candles, grid.timeframe_s)
    chosen = np.flatnonzero(np.isin(closes, grid.usable()))
    chosen = chosen[np.arange(0, len(chosen), stride).astype(np.int64)]
    closes, labels = closes[chosen], labels[chosen]
    blocks = [compute_features(grid.windows(closes[i : i + BLOCK])) for i in range(0, len(closes), BLOCK)]
    features = np.concatenate(blocks) if blocks else compute_features(grid.windows(closes))
    return np.full(len(closes), k), closes, features, labels.astype(np.float32)


def label(candles: Candles, timeframe_s: int) -> tuple[IntArray, FloatArray]:
    """The closes whose next 24 hours have every candle, and their labels [n, K].

    log_volatility: ln of the root mean square return of a candle over the horizon (of one candle: Parkinson's
    ln(high/low) / sqrt(4 ln 2)). path: Σ returns / (root mean square return of the 48 candles before · sqrt(n)),
    clipped to ±8. log_range: ln(highest / lowest) over the horizon, a candle's share. log_volume: ln of the mean
    volume against that of the 48 candles before.
    """
    n = LABEL_HORIZON_S // timeframe_s
    count = len(candles) - n
    if count <= 48:
        return np.empty(0, np.int64), np.empty((0, len(LABELS)))
    whole = candles.as_of[n:] == candles.as_of[:-n] + n * timeframe_s
    close = np.log(candles.close)
    r = np.diff(close, prepend=close[0])
    columns = [_log_volatility(candles, r, h // timeframe_s) for h in HORIZONS_S]
    before = np.sqrt(_trailing_mean(r * r, 48))[:count]
    for h in HORIZONS_S[1:]:
        m = h // timeframe_s
        path = (close[m:] - close[:-m])[:count] / (np.maximum(before, SMALLEST_VOLATILITY) * math.sqrt(m))
        columns.append(np.clip(path, -CLIP, CLIP))
    for h in HORIZONS_S[1:]:
        m = h // timeframe_s
        high = sliding_window_view(candles.high[1:], m).max(axis=1)[:count]
        low = sliding_window_view(candles.low[1:], m).min(axis=1)[:count]
        columns.append(np.log(np.maximum(np.log(high / low) / math.sqrt(m), SMALLEST_VOLATILITY)))
    ahead = sliding_window_view(candles.volume[1:], n).mean(axis=1)[:count]
    recent = _trailing_mean(candles.volume, 48)[:count]
    relative = np.divide(ahead, recent, out=np.ones(count), where=recent > 0)
    columns.append(np.clip(np.log(relative + 0.01), -CLIP, CLIP))
    return candles.as_of[:count][whole], np.column_stack([c[:count] for c in columns])[whole]


def _log_volatility(candles: Candles, r: FloatArray, m: int) -> FloatArray:
    """Of the m candles after each one; shorter by m."""
    if m == 1:
        volatility = np.log(candles.high[1:] / candles.low[1:]) / PARKINSON
    else:
        volatility = np.sqrt(sliding_window_view(r[1:] * r[1:], m).mean(axis=1))
    return np.asarray(np.log(np.maximum(volatility, SMALLEST_VOLATILITY)))


def _trailing_mean(values: FloatArray, n: int) -> FloatArray:
    """Of each value and up to n - 1 before it."""
    total = np.concatenate([[0.0], np.cumsum(values)])
    first = np.maximum(np.arange(len(values)) - n + 1, 0)
    return np.asarray((total[1:] - total[first]) / (np.arange(len(values)) - first + 1))
