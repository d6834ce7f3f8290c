"""Training windows with their labels, and the split in time that keeps the score honest."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shared.features import FEATURES, WINDOW, Window, features_of, lay_out
from shared.job import JobError
from shared.rows import Candles, FloatArray, IntArray

HORIZONS = (4, 24)  # candles ahead
LABEL_HORIZON = max(HORIZONS)
LOG_VOLATILITY_LABELS, PATH_LABEL = slice(0, 2), 2  # columns of the labels
PAST_HORIZONS = (4, 24, WINDOW)  # candles back, as in HAR (Corsi 2009)
LEAST_WINDOWS = 200
MOST_WINDOWS = 100_000  # 460 MB of features; of more closes only every k-th is used
HELD_OUT = 0.15
SMALLEST_VOLATILITY = 1e-6
CLIP = 8.0


@dataclass(frozen=True, slots=True)
class Dataset:
    """N windows in order of time. ``labels`` [N, 3]: ln realised volatility a candle over the next 4 and
    24 candles, Σ of the next 24 returns / (sigma·sqrt(24)). ``past`` [N, 3]: ln realised volatility over
    the last 4, 24 and 96 candles."""

    as_of: IntArray
    windows: NDArray[np.float32]  # [N, C, L]
    labels: FloatArray
    past: FloatArray

    def __len__(self) -> int:
        return len(self.as_of)

    def select(self, chosen: NDArray[np.bool_] | IntArray) -> Dataset:
        return Dataset(self.as_of[chosen], self.windows[chosen], self.labels[chosen], self.past[chosen])


def candles_between(candles: Candles, after: int, until: int) -> Candles:
    """The candles with after < as_of <= until (Unix seconds)."""
    return candles[(candles.as_of > after) & (candles.as_of <= until)]


def build_dataset(series: Sequence[Candles], timeframe_s: int) -> Dataset:
    """Every window that has its label, too, within these candles; JobError when there are fewer than 200."""
    total = sum(map(len, series))
    stride = max(1, math.ceil(total / MOST_WINDOWS))
    windows = np.empty((total // stride + len(series), len(FEATURES), WINDOW), np.float32)
    rows: list[tuple[int, FloatArray, FloatArray]] = []
    for candles in series:
        for window, future in _labelled(candles, timeframe_s, stride):
            windows[len(rows)] = features_of(window)
            rows.append((int(window.as_of[-1]), _labels(window, future), _past(window)))
    if len(rows) < LEAST_WINDOWS:
        raise JobError(
            f"{len(rows)} training windows, at least {LEAST_WINDOWS} are needed: there are {total} candles of "
            f"{timeframe_s} s in {len(series)} series, and each window takes {WINDOW} and its label {LABEL_HORIZON} "
            "more without gaps; run `make backfill` for a longer span, or widen --from/--to"
        )
    as_of, labels, past = (np.array(column) for column in zip(*rows, strict=True))
    return Dataset(as_of, windows[: len(rows)], labels, past).select(np.argsort(as_of, kind="stable"))


def split_in_time(data: Dataset, timeframe_s: int) -> tuple[Dataset, Dataset]:
    """The windows to fit and the last 15 % to score; no label of the first reaches into the second."""
    cut = data.as_of[int(len(data) * (1 - HELD_OUT))]
    return data.select(data.as_of + LABEL_HORIZON * timeframe_s <= cut), data.select(data.as_of >= cut)


def _labelled(candles: Candles, timeframe_s: int, stride: int) -> Iterator[tuple[Window, FloatArray]]:
    """Each window that has one, with the 24 returns after it; gaps in those are not filled but skipped."""
    returns = np.diff(np.log(candles.close), prepend=np.nan)
    for index in range(0, len(candles) - LABEL_HORIZON, stride):
        as_of = int(candles.as_of[index])
        if candles.as_of[index + LABEL_HORIZON] != as_of + LABEL_HORIZON * timeframe_s:
            continue
        window = lay_out(candles, as_of, timeframe_s)
        if window is not None:
            yield window, returns[index + 1 : index + 1 + LABEL_HORIZON]


def _labels(window: Window, future: FloatArray) -> FloatArray:
    path = future.sum() / (window.sigma * math.sqrt(LABEL_HORIZON))
    return np.array([*(_log_volatility(future[:h]) for h in HORIZONS), np.clip(path, -CLIP, CLIP)])


def _past(window: Window) -> FloatArray:
    return np.array([_log_volatility(window.returns[-h:]) for h in PAST_HORIZONS])


def _log_volatility(returns: FloatArray) -> float:
    """ln of the root mean square return"""
    return math.log(max(math.sqrt(float((returns * returns).mean())), SMALLEST_VOLATILITY))
