"""The vocabulary: what a row is called and what its fields mean.

Times inside Python are aware UTC ``datetime`` for single moments and int64 Unix seconds in arrays.
Statistics and candles are float; money is ``Decimal`` (shared.money is the border).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

UNKNOWN_TRADES = -1


@dataclass(frozen=True, slots=True)
class Candles:
    """Closed candles of one instrument and timeframe, oldest first; every array has the same length n.

    ``as_of`` is the close time in Unix seconds (open time = as_of - timeframe_s). ``volume`` is in base
    units; ``trades`` is -1 where the venue does not say. Missing candles are absent, never filled.
    """

    as_of: IntArray
    open: FloatArray
    high: FloatArray
    low: FloatArray
    close: FloatArray
    volume: FloatArray
    trades: IntArray

    def __len__(self) -> int:
        return len(self.as_of)

    def __getitem__(self, index: slice | NDArray[Any]) -> Candles:
        """The candles that a slice, a boolean mask or an index array selects."""
        return Candles(*(getattr(self, name)[index] for name in CANDLE_FIELDS))

    @staticmethod
    def empty() -> Candles:
        return Candles.from_columns([[] for _ in CANDLE_FIELDS])

    @staticmethod
    def from_columns(columns: Sequence[Any]) -> Candles:
        """Columns in the order of the fields; anything numpy can turn into int64 and float64."""
        kinds: tuple[Any, ...] = (np.int64, *(np.float64,) * 5, np.int64)
        return Candles(*(np.ascontiguousarray(c, dtype=k) for c, k in zip(columns, kinds, strict=True)))

    @staticmethod
    def concatenate(parts: Sequence[Candles]) -> Candles:
        if not parts:
            return Candles.empty()
        return Candles(*(np.concatenate([getattr(p, name) for p in parts]) for name in CANDLE_FIELDS))


CANDLE_FIELDS = ("as_of", "open", "high", "low", "close", "volume", "trades")


@dataclass(frozen=True, slots=True)
class InstrumentRules:
    """What a venue demands of an order: prices on ``tick_size``, quantities on ``lot_size``, at least ``min_notional``
    in quote and ``min_quantity`` in base; ``status`` of the market: online, cancel_only, post_only, reduce_only or
    delisted."""

    tick_size: Decimal
    lot_size: Decimal
    min_notional: Decimal
    min_quantity: Decimal = Decimal(0)
    status: str = "online"


@dataclass(frozen=True, slots=True)
class Instrument:
    id: int
    venue: str
    symbol: str
    base_timeframe_s: int
    tick_size: Decimal
    lot_size: Decimal
    min_notional: Decimal
    provenance: str
    min_quantity: Decimal = Decimal(0)
    status: str = "online"


@dataclass(frozen=True, slots=True)
class MarketState:
    """One call of the regime for one horizon; probabilities of each triple sum to 1."""

    track: str
    as_of: datetime
    horizon_s: int
    p_down: float
    p_flat: float
    p_up: float
    p_vol_low: float
    p_vol_mid: float
    p_vol_high: float
    conviction: float
    regime: str
    source: str
    reasons: str
    valid_until: datetime
    known_from: datetime
    id: int = 0


@dataclass(frozen=True, slots=True)
class PolicyConfig:
    """One version of the steering. Weights and limits are fractions of equity; volatility is annualised."""

    track: str
    as_of: datetime
    source: str
    risk_aversion: float
    turnover_penalty: float
    drawdown_penalty: float
    target_volatility: float
    max_exposure: float
    max_position: float
    daily_loss_limit: float
    max_drawdown: float
    pause: bool
    strategy_weights: dict[str, float]
    reasons: str
    valid_until: datetime
    known_from: datetime
    id: int = 0


# What no steering may exceed: the CHECK constraints of policy_config, field by field (tested equal). The
# policy sees each number scaled so that its bounds are 0 and 1.
POLICY_CONFIG_BOUNDS: dict[str, tuple[float, float]] = {
    "risk_aversion": (0.5, 10.0),
    "turnover_penalty": (0.0, 10.0),
    "drawdown_penalty": (0.0, 10.0),
    "target_volatility": (0.05, 1.0),
    "max_exposure": (0.0, 1.0),
    "max_position": (0.0, 0.5),
    "daily_loss_limit": (0.005, 0.2),
    "max_drawdown": (0.02, 0.5),
}
