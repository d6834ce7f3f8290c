"""Candles that features are tested on: gaps, still candles, hours without volume."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from shared.features import FEATURES, WINDOW, Grid, Windows
from shared.rows import Candles, FloatArray
from tests.helpers import random_candles

HOUR = 3600
PRICES = ("open", "high", "low", "close")


def rough_candles(n: int, seed: int, timeframe_s: int = HOUR, end: int | None = None) -> Candles:
    """n slots of a random walk of which some 3 % are missing, alone and in runs, some stand still, some trade nothing.
    The last one is there."""
    rng = np.random.default_rng(seed)
    candles = random_candles(n, timeframe_s, seed, end)
    columns = {name: getattr(candles, name).copy() for name in (*PRICES, "volume")}
    still = rng.random(n) < 0.03
    for name in PRICES:
        columns[name][still] = columns["close"][still]
    columns["volume"][rng.random(n) < 0.03] = 0.0
    gone = rng.random(n) < 0.02
    for start in rng.integers(0, n, n // 200):
        gone[start : start + 3] = True
    gone[-1] = False
    return replace(candles, **columns)[~gone]


def with_prices(candles: Candles, scale: float) -> Candles:
    return replace(candles, **{name: getattr(candles, name) * scale for name in PRICES})


def last_window(candles: Candles, timeframe_s: int = HOUR) -> Windows:
    """The one that ends at the last candle."""
    return Grid(candles, timeframe_s).windows(candles.as_of[-1:])


def whole(n: int = WINDOW, seed: int = 0) -> Windows:
    """The last window of n candles without gaps."""
    return last_window(random_candles(n, HOUR, seed))


def unclipped(name: str, windows: Windows) -> FloatArray:
    """One feature in float64, [N]"""
    feature = FEATURES[name]
    return feature.compute(windows.last(feature.length))
