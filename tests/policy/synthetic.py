"""Markets, books, steering and training data made of numbers alone: no database, no candles."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import numpy as np
from hypothesis import strategies as st

from policy.decision_path import Circumstances
from policy.execution.plan import TradingRules
from policy.observation import EMBEDDING_SIZE, HORIZONS_S, Book, Market, View, market_block, steering_of
from policy.risk.context import (
    NO_LIMITS,
    OFF,
    WORST_DAYS,
    Notes,
    OperatorLimits,
    PortfolioState,
    RiskContext,
    RiskParameters,
)
from policy.risk.history import CloseHistory, PortfolioHistory
from policy.strategies.residual import Residual
from shared.clock import to_unix
from shared.rows import POLICY_CONFIG_BOUNDS, FloatArray, MarketState, PolicyConfig
from shared.simulation import kernel
from tests.helpers import NOON

if TYPE_CHECKING:
    from policy.training_data import TrainingData

BAND, COST, REACH = 0.25, 0.0045, 0.5


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


def make_market(prices: Sequence[float], trend: Sequence[float], volatility: Sequence[float], seed: int = 0,
                complete: Sequence[bool] | None = None, **changes: Any) -> Market:  # fmt: skip
    """What is known of N instruments, each with an embedding of its own; of those not ``complete`` there is none."""
    n, rng = len(prices), np.random.default_rng(seed)
    vectors = rng.normal(size=(n, EMBEDDING_SIZE)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    whole = np.ones(n, dtype=bool) if complete is None else np.array(complete, dtype=bool)
    ood = np.where(whole, rng.uniform(0, 0.99, n), np.nan)
    trends, volatilities = np.array(trend, dtype=float), np.array(volatility, dtype=float)
    short, long = (make_state(horizon) for horizon in HORIZONS_S)
    block = np.zeros((n, 73), np.float32)
    block[whole] = market_block(vectors[whole], ood[whole], trends[whole], volatilities[whole], (short, long))
    market = Market(
        prices=np.array(prices, dtype=float), trend=trends, volatility=volatilities, ood=ood, block=block,
        complete=whole, tradable=np.ones(n, dtype=bool), doubts=tuple("" if w else "no embedding" for w in whole),
        states=(short, long), config=make_config(),
    )  # fmt: skip
    return replace(market, **changes)


def make_view(market: Market, book: Book | None = None, cost: float = COST, band: float = BAND) -> View:
    """Steered by the market's own config; without a ``book``, one that holds nothing."""
    prices = market.prices.tolist()
    return View(market, book or make_book([0.0] * len(prices), prices), cost, steering_of(market.config, band))


def steered(view: View, **changes: Any) -> View:
    """The same view under another config."""
    config = replace(view.market.config, **changes)
    return replace(view, market=replace(view.market, config=config), steering=steering_of(config, BAND))


def make_circumstances(n: int, **changes: Any) -> Circumstances:
    """Nothing in doubt, nothing in flight, no operator's limits; fine lots, orders from 10 on."""
    rules = TradingRules(np.full(n, 0.01), np.full(n, 1e-5), np.full(n, 10.0), BAND, float("inf"))
    free = Circumstances(NO_LIMITS, rules, np.zeros(n, dtype=bool), wallet_paused=False, doubts=("",) * n)
    return replace(free, **changes)


def said(action: Sequence[float], agreement: Sequence[float] | None = None, reach: float = REACH) -> Residual:
    """What a model answered; in full agreement if not told otherwise."""
    agreed = np.ones(len(action)) if agreement is None else np.array(agreement, dtype=float)
    return Residual(np.array(action, dtype=float), agreed, reach)


def make_context(weights: Sequence[float], rules: dict[str, float] | None = None, daily: Any = None, **changes: Any
                 ) -> RiskContext:  # fmt: skip
    """A wallet that holds these weights, under no limits but those in ``changes`` and ``rules``; ``daily`` [days, N]:
    its instruments' returns, the oldest first."""
    n = len(weights)
    returns = np.full((1, n), np.nan) if daily is None else np.array(daily, dtype=float).reshape(-1, n)
    free = RiskContext(
        max_position=1.0, max_exposure=1.0, daily_loss_limit=1.0, max_drawdown=1.0, max_step=1.0, day_return=0.0,
        drawdown=0.0, paused=False, held_weights=np.array(weights, dtype=float), ood=np.full(n, np.nan),
        doubtful=np.zeros(n, dtype=bool), rules=OFF._replace(**(rules or {})), spendable=float("inf"),
        confidence=np.ones(n), atr=np.full(n, np.nan), correlation=np.full((n, n), np.nan), tail=np.full(n, 1.0),
        daily=returns, day_row=len(returns) - 1, day_stride=1, column=np.arange(n), losses=np.zeros(WORST_DAYS),
        stopped_out=np.zeros(n, dtype=bool), since_fill_s=np.full(n, np.inf), age_s=np.zeros(n),
        symbol_caps=np.ones(n),
    )  # fmt: skip
    return free._replace(**changes)


def make_notes(n: int, wallet_paused: bool = False, doubt: str = "no embedding") -> Notes:
    return Notes(wallet_paused, (doubt,) * n)


# ── hypothesis ───────────────────────────────────────────────────────────────────────────────────────────────
SHARES = st.sampled_from([0.0, 1.0]) | st.floats(0.0, 1.0)
OODS = SHARES | st.floats(0.999, 1.0) | st.just(float("nan"))
TIMES = st.sampled_from([0.0, float("inf")]) | st.floats(0.0, 1e6)
ACTIONS = st.sampled_from([-1.0, 0.0, 1.0]) | st.floats(-1, 1)


def columns(values: st.SearchStrategy[float], n: int) -> st.SearchStrategy[FloatArray]:
    return st.lists(values, min_size=n, max_size=n).map(lambda drawn: np.array(drawn, dtype=float))


def flags(n: int) -> st.SearchStrategy[Any]:
    return st.lists(st.booleans(), min_size=n, max_size=n).map(lambda drawn: np.array(drawn, dtype=bool))


@st.composite
def configs(draw: st.DrawFn) -> PolicyConfig:
    """Any steering that the database would take."""
    numbers = {field: draw(st.sampled_from([low, high]) | st.floats(low, high))
               for field, (low, high) in POLICY_CONFIG_BOUNDS.items()}  # fmt: skip
    return make_config(**numbers, pause=draw(st.booleans()))


@st.composite
def books(draw: st.DrawFn, n: int) -> tuple[Book, FloatArray]:
    """A book and prices: rich, ruined or worth nothing, some instruments never priced."""
    prices = draw(columns(st.floats(1e-6, 1e5), n))
    worth = draw(columns(st.just(0.0) | st.floats(0.0, 1e6), n))
    held = worth / prices
    prices[[w == 0.0 and draw(st.booleans()) for w in worth]] = np.nan
    cash = draw(st.just(0.0) | st.floats(0.0, 1e6))
    equity = kernel.equity(cash, held, prices)
    factor = st.just(1.0) | st.floats(1.0, 3.0)
    peak = equity * draw(factor)
    return Book(cash, held, equity, draw(st.floats(0.3, 1.0)) * peak, peak), prices


@st.composite
def risk_parameters(draw: st.DrawFn) -> RiskParameters:
    """Any that settings allow, and rules that are off."""
    shares, times = st.floats(0.01, 1.0), st.just(0.0) | st.floats(1.0, 1e6)
    return RiskParameters(
        max_leverage=draw(st.floats(0.1, 1.9)), max_heat=draw(st.floats(0.01, 0.2)),
        stop_distance=draw(st.floats(0.01, 0.5)), atr_multiple=draw(st.just(0.0) | st.floats(0.5, 5.0)),
        trade_risk=draw(shares), kelly_fraction=draw(shares), kelly_win_probability=draw(st.just(0.0) | shares),
        kelly_payoff=draw(st.floats(0.1, 5.0)), max_correlated_exposure=draw(shares),
        correlated_from=draw(st.floats(0.0, 1.0)), max_concentration=draw(shares), max_value_at_risk=draw(shares),
        max_cvar=draw(shares), ladder_from=draw(shares), cooldown_s=draw(times), position_timeout_s=draw(times),
    )  # fmt: skip


@st.composite
def histories(draw: st.DrawFn, n: int) -> PortfolioHistory:
    """A random walk's closes, or too few of them; the first instrument may be younger than the others."""
    stride, days, seed = draw(st.sampled_from([1, 3])), draw(st.sampled_from([1, 20, 80, 300])), draw(st.integers(0, 9))
    rng = np.random.default_rng(seed)
    common = rng.normal(0.0, 0.05, (days * stride, 1))
    closes = np.exp(np.cumsum(common + rng.normal(0.0, 0.05, (days * stride, n)), axis=0))
    closes[: draw(st.sampled_from([0, days * stride // 2])), 0] = np.nan
    row = draw(st.integers(0, len(closes) - 1))
    return PortfolioHistory(CloseHistory(closes, stride), row)


@st.composite
def risk_contexts(draw: st.DrawFn, n: int) -> RiskContext:
    """Any wallet in any market, under any limits; what is known of the past fits together."""
    bounds: list[Any] = [
        draw(SHARES),
        draw(SHARES),
        draw(st.floats(0.005, 1.0)),
        draw(st.floats(0.02, 1.0)),
        draw(SHARES),
    ]
    state: list[Any] = [draw(st.floats(-1.0, 2.0)), draw(SHARES), draw(st.booleans())]
    rules, past = draw(risk_parameters()), draw(histories(n))
    of_each: list[Any] = [draw(columns(SHARES, n)), draw(columns(OODS, n)), draw(flags(n))]
    known: list[Any] = [
        rules, draw(st.floats(-0.5, 1.0)), draw(columns(SHARES, n)), past.ranges(rules), past.correlations(rules),
        past.tails(rules), past.closes.daily, past.row, past.closes.stride, np.arange(n), np.zeros(WORST_DAYS),
    ]  # fmt: skip
    traded: list[Any] = [draw(flags(n)), draw(columns(TIMES, n)), draw(columns(TIMES, n)), draw(columns(SHARES, n))]
    return RiskContext(*bounds, *state, *of_each, *known, *traded)


@st.composite
def views(draw: st.DrawFn) -> View:
    """Any book in any market: some instruments without a price, an embedding or a candle."""
    n = draw(st.integers(1, 4))
    book, prices = draw(books(n))
    priced = np.isfinite(prices)
    tradable = priced & draw(flags(n))
    complete = tradable & draw(flags(n))
    trend, volatility = draw(columns(st.floats(-1, 1), n)), draw(columns(st.just(0.0) | st.floats(0.01, 5), n))
    market = make_market(
        prices.tolist(), np.where(tradable, trend, 0.0).tolist(), np.where(tradable, volatility, 0.0).tolist(),
        seed=draw(st.integers(0, 9)), complete=complete.tolist(), tradable=tradable, config=draw(configs()),
        history=draw(histories(n)),
    )  # fmt: skip
    return make_view(market, book, cost=draw(st.floats(0, 0.01)))


@st.composite
def residuals(draw: st.DrawFn, n: int) -> Residual:
    return Residual(draw(columns(ACTIONS, n)), draw(columns(SHARES, n)), draw(st.floats(0.05, 1.0)))


@st.composite
def asked(draw: st.DrawFn) -> tuple[View, Residual]:
    """A view, and what the model answered to it."""
    view = draw(views())
    return view, draw(residuals(len(view.market.trend)))


@st.composite
def operators(draw: st.DrawFn) -> OperatorLimits:
    return OperatorLimits(
        draw(SHARES), draw(SHARES), draw(st.floats(0.005, 1.0)), draw(st.floats(0.02, 1.0)), draw(SHARES),
        draw(risk_parameters()),
    )  # fmt: skip


@st.composite
def circumstances(draw: st.DrawFn, n: int) -> Circumstances:
    doubts = tuple(draw(st.sampled_from(["", "", "no embedding"])) for _ in range(n))
    lot, least = draw(columns(st.sampled_from([1e-8, 1e-5, 0.001, 1.0]), n)), draw(st.sampled_from([0.0, 10.0]))
    most = draw(st.sampled_from([500.0, float("inf")]))
    rules = TradingRules(np.full(n, 0.01), lot, np.full(n, least), BAND, most)
    state = PortfolioState(draw(st.floats(0.0, 1e5)), draw(flags(n)), draw(columns(TIMES, n)), draw(columns(TIMES, n)))
    return Circumstances(draw(operators()), rules, draw(flags(n)), draw(st.booleans()), doubts, state)


# ── training data ────────────────────────────────────────────────────────────────────────────────────────────
def training_data(
    hours: int = 40, n: int = 2, seed: int = 0, blind: Sequence[int] = (), base_s: int = 900
) -> TrainingData:
    """Random bars and random knowledge for so many hours; at the ``blind`` ones there were no embeddings."""
    from policy.simulator import BarGrid  # not above: it compiles the kernel, which few tests need
    from policy.training_data import TrainingData

    rng = np.random.default_rng(seed)
    per_hour, start = 3600 // base_s, to_unix(NOON)
    path = np.round(100 * np.exp(np.cumsum(rng.normal(0, 0.004, (hours * per_hour + 1, n)), axis=0)), 2)
    times = [start + 3600 * hour for hour in range(hours)]
    markets = [
        make_market(
            path[hour * per_hour].tolist(), rng.uniform(-1, 1, n).tolist(), rng.uniform(0.2, 1.5, n).tolist(),
            seed=1000 * seed + hour, complete=[hour not in blind] * n,
        )
        for hour in range(hours)
    ]  # fmt: skip
    opens, closes = np.ascontiguousarray(path[:-1]), np.ascontiguousarray(path[1:])
    wick = rng.uniform(0, 0.002, (2, *opens.shape))
    grid = BarGrid(
        start=start, base_s=base_s, open=opens, high=np.round(np.maximum(opens, closes) * (1 + wick[0]), 2),
        low=np.round(np.minimum(opens, closes) * (1 - wick[1]), 2), close=closes,
        volume=rng.lognormal(8, 1, opens.shape),
    )  # fmt: skip
    rules = TradingRules(np.full(n, 0.01), np.full(n, 1e-5), np.full(n, 10.0), BAND, float("inf"))
    return TrainingData.of([f"S{k}" for k in range(n)], times, markets, grid, rules, 3600)
