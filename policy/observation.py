"""What the policy sees, built by one function for training, backtest and live; its schema is hashed.

Blocks, in order: embedding and ood of each instrument ⊕ its trend, volatility and baseline weight ⊕ market
state of both horizons ⊕ policy config ⊕ the book.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from policy.signals import Signal
from shared.rows import POLICY_CONFIG_BOUNDS, FloatArray, MarketState, PolicyConfig

EMBEDDING_SIZE = 64
HORIZONS_S = (14_400, 86_400)
STATE_FIELDS = ("p_down", "p_flat", "p_up", "p_vol_low", "p_vol_mid", "p_vol_high", "conviction")
SIGNAL_FIELDS = ("trend", "log_volatility", "baseline_weight")
BOOK_FIELDS = ("cash_share", "drawdown", "day_return")


@dataclass(frozen=True, slots=True)
class Book:
    """A wallet at one moment: N held quantities, cash and equity in quote."""

    cash: float
    held: FloatArray
    equity: float
    day_start_equity: float
    peak_equity: float

    def weights(self, prices: FloatArray) -> FloatArray:
        """Position values as fractions of equity, [N]; zero for what is not held, whether or not it has a price,
        and for a wallet that is worth nothing."""
        value = np.multiply(self.held, prices, out=np.zeros_like(self.held), where=self.held != 0.0)
        return value / self.equity if self.equity > 0 else np.zeros_like(self.held)

    @property
    def drawdown(self) -> float:
        """How far below the peak, as a fraction of it; none for a wallet that never was worth anything."""
        return 1.0 - self.equity / self.peak_equity if self.peak_equity > 0 else 0.0

    @property
    def day_return(self) -> float:
        """What was gained since UTC midnight, as a fraction of the equity then; negative for a loss."""
        return self.equity / self.day_start_equity - 1.0 if self.day_start_equity > 0 else 0.0


@dataclass(frozen=True, slots=True)
class View:
    """All that is known at one decision, for N instruments. None: that input was not there."""

    signals: tuple[Signal, ...]
    embeddings: NDArray[np.float32] | None  # [N, 64], unit length
    ood: FloatArray | None  # [N], percentiles
    states: tuple[MarketState, MarketState] | None  # of HORIZONS_S
    config: PolicyConfig
    book: Book

    @property
    def prices(self) -> FloatArray:
        return np.array([signal.price for signal in self.signals])

    @property
    def complete(self) -> bool:
        return self.embeddings is not None and self.ood is not None and self.states is not None


def policy_schema(symbols: Sequence[str], timeframe_s: int, encoder_schema_hash: str) -> dict[str, Any]:
    """Names of everything that goes in and comes out, in order; a model fits only its own schema."""
    return {
        "kind": "policy",
        "timeframe_s": timeframe_s,
        "encoder_schema_hash": encoder_schema_hash,
        "observation": observation_names(symbols),
        "config_seen_as_0_and_1": {field: list(bounds) for field, bounds in POLICY_CONFIG_BOUNDS.items()},
        "action": [f"residual[{symbol}]" for symbol in symbols],
    }


def observation_names(symbols: Sequence[str]) -> list[str]:
    names = [f"embedding[{symbol}][{i}]" for symbol in symbols for i in range(EMBEDDING_SIZE)]
    names += [f"ood[{symbol}]" for symbol in symbols]
    names += [f"{field}[{symbol}]" for symbol in symbols for field in SIGNAL_FIELDS]
    names += [f"{field}[{horizon}]" for horizon in HORIZONS_S for field in STATE_FIELDS]
    names += [f"config.{field}" for field in POLICY_CONFIG_BOUNDS]
    names += [f"weight[{symbol}]" for symbol in symbols]
    return names + [f"book.{field}" for field in BOOK_FIELDS]


def observe(view: View, baseline: FloatArray) -> NDArray[np.float32]:
    """The observation vector [D] of a complete view; every entry is roughly within ±3."""
    if view.embeddings is None or view.ood is None or view.states is None:
        raise ValueError("an incomplete view has no observation; ask view.complete first")
    signals = [
        (s.trend, math.log(max(s.volatility, 0.01) / 0.5), weight)
        for s, weight in zip(view.signals, baseline, strict=True)
    ]
    states = [[getattr(state, field) for field in STATE_FIELDS] for state in view.states]
    config = [
        (getattr(view.config, field) - zero) / (one - zero) for field, (zero, one) in POLICY_CONFIG_BOUNDS.items()
    ]
    book = view.book
    vector = np.concatenate(
        [
            view.embeddings.ravel() * math.sqrt(EMBEDDING_SIZE),  # unit vectors: entries of size 1
            view.ood,
            np.ravel(signals),
            np.ravel(states),
            config,
            book.weights(view.prices),
            [
                book.cash / book.equity if book.equity > 0 else 0.0,
                10 * (0.0 - book.drawdown),
                10 * book.day_return,
            ],
        ]
    )
    clipped: NDArray[np.float32] = np.clip(vector, -5, 5).astype(np.float32)
    return clipped


def observation_hash(observation: NDArray[np.float32]) -> str:
    return hashlib.sha256(observation.tobytes()).hexdigest()
