"""Causal, scale-free features: each a function of exactly its last candles, in one explicit registry.

FEATURES are numbers, one a window; CHANNELS are series, one value a slot. An encoder reads both; strategies
and forecasters read the first. To add one: docs/add-a-feature.md.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from shared.features.activity import ACTIVITY
from shared.features.channels import CHANNELS, Channel, scale
from shared.features.feature import Feature
from shared.features.trend import TREND
from shared.features.volatility import VOLATILITY
from shared.features.windows import LEAST_PRESENT, WINDOW, Grid, Windows

__all__ = [
    "CHANNELS",
    "CLIP",
    "FEATURES",
    "LEAST_PRESENT",
    "WINDOW",
    "Channel",
    "Feature",
    "Grid",
    "Windows",
    "compute_channels",
    "compute_features",
]

FEATURES: dict[str, Feature] = {**VOLATILITY, **TREND, **ACTIVITY}
CLIP = 8.0


def compute_features(windows: Windows) -> NDArray[np.float32]:
    """float32 [N, F] in the order of FEATURES, clipped to ±8."""
    by_length = {length: windows.last(length) for length in {feature.length for feature in FEATURES.values()}}
    columns = np.empty((len(windows), len(FEATURES)))
    for column, feature in enumerate(FEATURES.values()):
        columns[:, column] = feature.compute(by_length[feature.length])
    return np.clip(columns, -CLIP, CLIP).astype(np.float32)


def compute_channels(windows: Windows) -> NDArray[np.float32]:
    """float32 [N, C, L] in the order of CHANNELS, clipped to ±8."""
    scaled = scale(windows)
    channels = np.empty((len(windows), len(CHANNELS), WINDOW), dtype=np.float32)
    for row, channel in enumerate(CHANNELS.values()):
        channels[:, row] = np.clip(channel(scaled), -CLIP, CLIP)
    return channels
