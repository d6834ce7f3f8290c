"""The window as a picture: what the encoder's patches are cut from, one value a slot.

A channel's docstring is its formula; prices in it are logarithms where their differences are meant.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from shared.features.feature import DAY_S, SMALLEST, decay, location_of_close, lower_wick, ratio, upper_wick
from shared.features.windows import WINDOW, Windows
from shared.rows import FloatArray, IntArray

HALF_LIFE = 48.0  # slots
WEIGHTS = decay(WINDOW, HALF_LIFE)


class Scaled(NamedTuple):
    """What the channels share. ``returns`` [N, L]: ln(close / close before), the first from its own open;
    ``sigma`` [N, 1] = sqrt(Σ w·return²), w halving every 48 slots of age, Σ w = 1; at least 1e-6."""

    w: Windows
    returns: FloatArray
    sigma: FloatArray
    closes: IntArray  # [N, L], Unix seconds


Channel = Callable[[Scaled], FloatArray]  # → [N, L]


def scale(w: Windows) -> Scaled:
    """Of whole windows (L = 288)."""
    returns = np.diff(w.close, axis=1, prepend=w.open[:, :1])
    sigma = np.sqrt((returns * returns * WEIGHTS).sum(axis=1, keepdims=True))
    closes = w.as_of[:, None] - w.timeframe_s * np.arange(WINDOW)[::-1]
    return Scaled(w, returns, np.maximum(sigma, SMALLEST), closes)


def scaled_return(x: Scaled) -> FloatArray:
    """return / sigma"""
    return x.returns / x.sigma


def log_absolute_return(x: Scaled) -> FloatArray:
    """ln(|return| / sigma + 0.1)"""
    return np.log(np.abs(x.returns) / x.sigma + 0.1)


def log_range(x: Scaled) -> FloatArray:
    """ln((high - low) / sigma + 0.1)"""
    return np.log((x.w.high - x.w.low) / x.sigma + 0.1)


def close_location(x: Scaled) -> FloatArray:
    """(2·close - high - low) / (high - low); 0 without range"""
    return location_of_close(x.w)


def wick_balance(x: Scaled) -> FloatArray:
    """(min(open, close) - low - (high - max(open, close))) / (high - low); 0 without range"""
    return lower_wick(x.w) - upper_wick(x.w)


def path(x: Scaled) -> FloatArray:
    """(close - last close) / (sigma · sqrt(288))"""
    return (x.w.close - x.w.close[:, -1:]) / (x.sigma * math.sqrt(WINDOW))


def relative_volume(x: Scaled) -> FloatArray:
    """ln(volume / mean volume of the window + 0.01); the ratio is 1 in a window without volume"""
    return np.log(ratio(x.w.volume, x.w.volume.mean(axis=1, keepdims=True), 1.0) + 0.01)


def missing(x: Scaled) -> FloatArray:
    """1 where there is no candle, else 0"""
    return x.w.missing


def day_sine(x: Scaled) -> FloatArray:
    """sin(2π · share of the day gone by at the slot's close, UTC)"""
    return np.asarray(np.sin((x.closes % DAY_S) * (2 * np.pi / DAY_S)))


def day_cosine(x: Scaled) -> FloatArray:
    """cos(2π · share of the day gone by at the slot's close, UTC)"""
    return np.asarray(np.cos((x.closes % DAY_S) * (2 * np.pi / DAY_S)))


CHANNELS: dict[str, Channel] = {
    "scaled_return": scaled_return,
    "log_absolute_return": log_absolute_return,
    "log_range": log_range,
    "close_location": close_location,
    "wick_balance": wick_balance,
    "path": path,
    "relative_volume": relative_volume,
    "missing": missing,
    "day_sine": day_sine,
    "day_cosine": day_cosine,
}
