"""What the policy sees, built by the same functions for training, backtest and live; its schema is hashed.

One row an instrument, the same for every symbol, so that one model serves any portfolio. Blocks, in order:
embedding ⊕ ood ⊕ trend and volatility forecast ⊕ market state (the market's side, known before the book is) ⊕ policy
config ⊕ the book and what trading costs.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from policy.decision_kernel import MARKET_SIZE, OBSERVATION_LIMIT, OBSERVATION_SIZE, Bools, Steering
from policy.risk.history import PortfolioHistory
from shared.rows import POLICY_CONFIG_BOUNDS, FloatArray, MarketState, PolicyConfig

EMBEDDING_SIZE = 64
HORIZONS_S = (14_400, 86_400)
STATE_FIELDS = ("p_up_less_p_down", "p_vol_low", "p_vol_high")
SIGNAL_FIELDS = ("trend", "log_volatility")
CONFIG_FIELDS = (
    "risk_aversion", "turnover_penalty", "drawdown_penalty", "target_volatility", "max_exposure", "max_position",
)  # fmt: skip
BOOK_FIELDS = ("own_share", "exposure_share", "drawdown", "day_return", "cost")
CONFIG_LOW = np.array([POLICY_CONFIG_BOUNDS[field][0] for field in CONFIG_FIELDS])
CONFIG_SPAN = np.array([POLICY_CONFIG_BOUNDS[field][1] for field in CONFIG_FIELDS]) - CONFIG_LOW
# What the policy is not shown of it: its weights are scaled by these afterwards (policy.decision_kernel).
STRUCTURAL = ("config.risk_aversion", "config.target_volatility")


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
class Market:
    """All that is known at one moment about N instruments: everything but the book.

    ``prices`` are NaN where there never was one, ``ood`` where there is no embedding; ``trend`` and ``volatility`` are
    0 where too little is known. ``block`` [N, MARKET_SIZE] float32 is the market's side of the observation, of use
    where ``complete``. ``doubts`` [N] name what is missing or stale, empty when nothing is. ``history`` is what the
    risk rules know of returns over days, None where nothing is."""

    prices: FloatArray
    trend: FloatArray
    volatility: FloatArray
    ood: FloatArray
    block: NDArray[np.float32]
    complete: Bools
    tradable: Bools
    doubts: tuple[str, ...]
    states: tuple[MarketState, MarketState] | None
    config: PolicyConfig
    history: PortfolioHistory | None = field(default=None, repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class View:
    """What one decision is made from: the market, the book, what trading costs a side (as a fraction), and the
    steering as numbers."""

    market: Market
    book: Book
    cost: float
    steering: Steering


def steering_of(config: PolicyConfig, no_trade_band: float) -> Steering:
    return Steering(
        risk_aversion=config.risk_aversion,
        turnover_penalty=config.turnover_penalty,
        drawdown_penalty=config.drawdown_penalty,
        target_volatility=config.target_volatility,
        max_exposure=config.max_exposure,
        max_position=config.max_position,
        daily_loss_limit=config.daily_loss_limit,
        max_drawdown=config.max_drawdown,
        band=band_of(config.turnover_penalty, no_trade_band),
    )


def band_of(turnover_penalty: float, no_trade_band: float) -> float:
    """As a share of a full position; grows with the cube root of what turnover counts."""
    return float(no_trade_band * turnover_penalty ** (1.0 / 3.0))


def market_block(
    embeddings: NDArray[np.float32],
    ood: FloatArray,
    trend: FloatArray,
    volatility: FloatArray,
    states: tuple[MarketState, MarketState],
) -> NDArray[np.float32]:
    """[N, MARKET_SIZE]: embeddings [N, 64] are unit vectors, scaled to entries of size 1; every entry within ±5."""
    n = len(trend)
    state = [v for s in states for v in (s.p_up - s.p_down, s.p_vol_low, s.p_vol_high)]
    block = np.empty((n, MARKET_SIZE), np.float32)
    block[:, :EMBEDDING_SIZE] = embeddings * np.float32(math.sqrt(EMBEDDING_SIZE))
    block[:, EMBEDDING_SIZE] = ood
    block[:, EMBEDDING_SIZE + 1] = trend
    block[:, EMBEDDING_SIZE + 2] = np.log(np.maximum(volatility, 0.01) / 0.5)
    block[:, EMBEDDING_SIZE + 3 :] = state
    clipped: NDArray[np.float32] = np.clip(block, -OBSERVATION_LIMIT, OBSERVATION_LIMIT)
    return clipped


def policy_schema(timeframe_s: int, encoder_schema_hash: str, reach: float) -> dict[str, Any]:
    """Names of everything that goes in and comes out, in order; a model fits only its own schema."""
    return {
        "kind": "policy",
        "timeframe_s": timeframe_s,
        "encoder_schema_hash": encoder_schema_hash,
        "observation": observation_names(),
        "config_seen_as_0_and_1": {field: list(POLICY_CONFIG_BOUNDS[field]) for field in CONFIG_FIELDS},
        "not_shown": list(STRUCTURAL),
        "action": ["action", "agreement"],
        "reach": reach,
    }


def observation_names() -> list[str]:
    """Of one instrument's row."""
    names = [f"embedding[{i}]" for i in range(EMBEDDING_SIZE)] + ["ood", *SIGNAL_FIELDS]
    names += [f"{field}[{horizon}]" for horizon in HORIZONS_S for field in STATE_FIELDS]
    names += [f"config.{field}" for field in CONFIG_FIELDS] + [f"book.{field}" for field in BOOK_FIELDS]
    assert len(names) == OBSERVATION_SIZE
    return names


def observation_hash(observation: NDArray[np.float32]) -> str:
    return hashlib.sha256(observation.tobytes()).hexdigest()
