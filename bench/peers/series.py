"""The market on which every side runs: one regime-switching series, the same numbers in each process. numpy only."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
BARS = 525_600  # five years of 5m
BAR_S = 300
START = 1_577_836_800  # 2020-01-01
FLOATS = 84  # of an observation


@dataclass(frozen=True, slots=True)
class Bars:
    """OHLCV [B]; a bar opens at the close of the one before."""

    open: Floats
    high: Floats
    low: Floats
    close: Floats
    volume: Floats

    def __len__(self) -> int:
        return len(self.close)


def bars(n: int = BARS, seed: int = 7) -> Bars:
    """n 5m bars: drift and volatility change with regimes of 2,000 bars on average."""
    rng = np.random.default_rng(seed)
    regime = np.cumsum(rng.random(n) < 1 / 2_000)
    drift = rng.normal(0.0, 5e-5, regime[-1] + 1)[regime]
    volatility = rng.uniform(0.0005, 0.0025, regime[-1] + 1)[regime]
    close = 20_000.0 * np.exp(np.cumsum(drift + volatility * rng.standard_normal(n)))
    open_ = np.r_[20_000.0, close[:-1]]
    wick = volatility * rng.random((2, n))
    high, low = np.maximum(open_, close) * (1 + wick[0]), np.minimum(open_, close) * (1 - wick[1])
    return Bars(open_, high, low, close, rng.lognormal(3.0, 1.0, n))


def features(n: int, width: int = FLOATS, seed: int = 11) -> NDArray[np.float32]:
    """What a model could have said of each bar: n × ``width`` standard normals."""
    return np.random.default_rng(seed).standard_normal((n, width), dtype=np.float32)


def hourly_weights(close: Floats) -> Floats:
    """A weight in [0, 1] decided at the close of every twelfth bar (NaN at the others): how far the price is above
    its mean of 2,400 bars, in ten steps, so that most hours change nothing and some change a little."""
    total = np.r_[0.0, np.cumsum(close)]
    mean = (total[2_400:] - total[:-2_400]) / 2_400
    wanted = np.zeros(len(close))
    wanted[2_399:] = np.clip(np.round(0.5 + 10 * (close[2_399:] / mean - 1), 1), 0.0, 1.0)
    wanted[np.arange(len(close)) % 12 != 11] = np.nan
    return wanted
