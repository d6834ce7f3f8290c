"""Views, books, steering and training data made of numbers alone: no database, no candles."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

import numpy as np
from hypothesis import strategies as st

from policy.execution.plan import TradingRules
from policy.inputs import Market
from policy.observation import HORIZONS_S, Book, View
from policy.risk.context import OperatorLimits, RiskContext
from policy.signals import Signal
from policy.simulator import BarGrid, Costs
from policy.trading_env import TrainingData
from shared.clock import from_unix, to_unix
from shared.rows import POLICY_CONFIG_BOUNDS, FloatArray, MarketState, PolicyConfig
from shared.simulation import kernel
from tests.helpers import NOON

FREE = OperatorLimits(max_position=1.0, max_exposure=1.0, daily_loss_limit=1.0, max_drawdown=1.0)


def make_config(**changes: Any) -> PolicyConfig:
    config = PolicyConfig(
        track="live", as_of=NOON, source="test", risk_aversion=1.0, turnover_penalty=1.0, drawdown_penalty=1.0,
        target_volatility=0.25, max_exposure=1.0, max_position=0.5, daily_loss_limit=0.05, max_drawdown=0.2,
        pause=False, strategy_weights={"drl": 1.0}, reasons="", valid_until=NOON + timedelta(hours=1), known_from=NOON,
    )  # fmt: skip
    return replace(config, **changes)


def make_state(horizon_s: int, **changes: Any) -> MarketState:
    state = MarketState(
        track="live", as_of=NOON, horizon_s=horizon_s, p_down=0.2, p_flat=0.3, p_up=0.5, p_vol_low=0.2, p_vol_mid=0.5,
        p_vol_high=0.3, conviction=0.4, regime="bull", source="test", reasons="",
        valid_until=NOON + timedelta(seconds=horizon_s), known_from=NOON,
    )  # fmt: skip
    return replace(state, **changes)


def make_book(held: Sequence[float], prices: Sequence[float], cash: float = 1000.0, **changes: Any) -> Book:
    """A book that never was worth more than now."""
    amounts = np.array(held, dtype=float)
    equity = kernel.equity(cash, amounts, np.array(prices, dtype=float))
    return replace(Book(cash, amounts, equity, equity, equity), **changes)


def make_context(weights: Sequence[float], **changes: Any) -> RiskContext:
    """A wallet worth 1000 that holds these weights, under no limits but those in ``changes``."""
    held = np.array(weights, dtype=float) * 10
    book = make_book(held, [100.0] * len(held), cash=1000 * (1 - sum(weights)))
    config = make_config(max_position=1.0, daily_loss_limit=1.0, max_drawdown=1.0)
    context = RiskContext(config, FREE, book, np.array(weights, dtype=float), None, wallet_paused=False, doubts="")
    return replace(context, **changes)


def make_view(signals: Sequence[Signal], config: PolicyConfig, book: Book, seed: int = 0) -> View:
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(len(signals), 64)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    short, long = (make_state(horizon) for horizon in HORIZONS_S)
    return View(tuple(signals), vectors, rng.uniform(size=len(signals)), (short, long), config, book)


# ── hypothesis ───────────────────────────────────────────────────────────────────────────────────────────────
SHARES = st.sampled_from([0.0, 1.0]) | st.floats(0.0, 1.0)
OODS = SHARES | st.floats(0.999, 1.0)


@st.composite
def configs(draw: st.DrawFn) -> PolicyConfig:
    """Any steering that the database would take."""
    numbers = {field: draw(st.sampled_from([low, high]) | st.floats(low, high))
               for field, (low, high) in POLICY_CONFIG_BOUNDS.items()}  # fmt: skip
    return make_config(**numbers, pause=draw(st.booleans()))


@st.composite
def books(draw: st.DrawFn, n: int) -> tuple[Book, FloatArray]:
    """A book and prices: rich, ruined or worth nothing, some instruments never priced."""
    prices = np.array(draw(st.lists(st.floats(1e-6, 1e5), min_size=n, max_size=n)))
    worth = draw(st.lists(st.just(0.0) | st.floats(0.0, 1e6), min_size=n, max_size=n))
    held = np.array(worth) / prices
    prices[[w == 0.0 and draw(st.booleans()) for w in worth]] = np.nan
    cash = draw(st.just(0.0) | st.floats(0.0, 1e6))
    equity = kernel.equity(cash, held, prices)
    factor = st.just(1.0) | st.floats(1.0, 3.0)
    peak = equity * draw(factor)
    return Book(cash, held, equity, draw(st.floats(0.3, 1.0)) * peak, peak), prices


@st.composite
def risk_contexts(draw: st.DrawFn, n: int) -> RiskContext:
    book, prices = draw(books(n))
    operator = OperatorLimits(draw(SHARES), draw(SHARES), draw(st.floats(0.005, 1.0)), draw(st.floats(0.02, 1.0)))
    doubts = draw(st.sampled_from(["", "no embeddings"]))
    ood = draw(st.none() | st.lists(OODS, min_size=n, max_size=n).map(np.array))
    return RiskContext(draw(configs()), operator, book, book.weights(prices), ood, draw(st.booleans()), doubts)


@st.composite
def views(draw: st.DrawFn) -> View:
    n = draw(st.integers(1, 4))
    book, prices = draw(books(n))
    signal = st.tuples(st.floats(-1, 1), st.just(0.0) | st.floats(0.01, 5))
    drawn = draw(st.lists(signal, min_size=n, max_size=n))
    signals = [
        Signal(float(price), trend, volatility) for price, (trend, volatility) in zip(prices, drawn, strict=True)
    ]
    return make_view(signals, draw(configs()), book)


# ── training data ────────────────────────────────────────────────────────────────────────────────────────────
def training_data(
    hours: int = 40, n: int = 2, seed: int = 0, blind: Sequence[int] = (), fee_bps: float = 40.0, base_s: int = 900
) -> TrainingData:
    """Random bars and random knowledge for so many hours; at the ``blind`` ones there were no embeddings."""
    rng = np.random.default_rng(seed)
    per_hour, start = 3600 // base_s, to_unix(NOON)
    path = np.round(100 * np.exp(np.cumsum(rng.normal(0, 0.004, (hours * per_hour + 1, n)), axis=0)), 2)
    times = [from_unix(start + 3600 * hour) for hour in range(hours)]
    markets = []
    for hour, at in enumerate(times):
        price = path[hour * per_hour]
        signals = [Signal(float(p), float(t), float(v))
                   for p, t, v in zip(price, rng.uniform(-1, 1, n), rng.uniform(0.2, 1.5, n), strict=True)]  # fmt: skip
        view = make_view(signals, make_config(as_of=at), make_book([0.0] * n, price), seed=1000 * seed + hour)
        seeing = hour not in blind
        markets.append(Market(
            view.signals, np.ones(n, dtype=bool), view.embeddings if seeing else None, view.ood if seeing else None,
            view.states, view.config, "" if seeing else "no embeddings",
        ))  # fmt: skip
    grid = BarGrid(start, base_s, np.ascontiguousarray(path[:-1]), np.ascontiguousarray(path[1:]))
    rules = TradingRules(np.full(n, 0.01), np.full(n, 1e-5), np.full(n, 10.0), 0.02, float("inf"))
    return TrainingData(times, markets, grid, rules, Costs(fee_bps, 5.0), delay_s=120, step_s=3600)
