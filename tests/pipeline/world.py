"""A small world to run the whole loop in: two made-up instruments, models trained for a moment, one wallet."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
from numpy.typing import NDArray

from candles.store import default_rules
from pipeline import demo
from pipeline.demo import Plan
from pipeline.replay import Databases
from policy.decision_kernel import OBSERVATION_SIZE
from policy.observation import policy_schema
from policy.policy_export import export_ensemble
from shared.clock import to_unix
from shared.exchanges.recorded import RecordedExchange
from shared.model_store import active_model, model_by_id, save_model
from shared.rows import Candles
from shared.settings import TIMEFRAMES, Settings
from tests.helpers import random_candles

SYMBOLS = ("AAA/USDT", "BBB/USDT")
START = datetime(2024, 3, 1, tzinfo=UTC)
ENCODER_LEARNT = timedelta(days=18)  # a window alone is 12 days
POLICY_LEARNT = timedelta(days=11)  # begins a day later
HOURS = 16  # that are traded by who copies the trained world
TRADES_FROM = START + ENCODER_LEARNT + timedelta(days=1) + POLICY_LEARNT


def small(settings: Settings, base_timeframe: str) -> Settings:
    """The same settings with moments of training instead of minutes."""
    return settings.model_copy(
        update={
            "universe": settings.universe.model_copy(update={"base_timeframe": base_timeframe}),
            "encoder": settings.encoder.model_copy(update={"train_steps": 3, "batch_size": 32}),
            "policy": settings.policy.model_copy(update={"pathwise_steps": 3, "ppo_steps": 64, "seeds": 1}),
        }
    )


def make_series(base_timeframe: str, hours: int) -> dict[str, Candles]:
    """Gapless candles from START until ``hours`` after trading begins."""
    base_s = TIMEFRAMES[base_timeframe]
    end = to_unix(TRADES_FROM) + hours * 3600
    n = (end - to_unix(START)) // base_s
    volatility = 0.006 * (base_s / 3600) ** 0.5
    return {s: random_candles(n, base_s, seed, end, volatility) for seed, s in enumerate(SYMBOLS, start=11)}


def make_plan(series: dict[str, Candles], base_timeframe: str, hours: int) -> Plan:
    rules = {symbol: default_rules(100.0) for symbol in SYMBOLS}
    exchange = RecordedExchange("test", "real", TIMEFRAMES[base_timeframe], series, rules)
    encoder_to = START + ENCODER_LEARNT
    return Plan(
        exchange, SYMBOLS, base_timeframe, START, encoder_to, encoder_to + timedelta(days=1), TRADES_FROM,
        TRADES_FROM + timedelta(hours=hours),
    )  # fmt: skip


def random_net(seed: int) -> dict[str, NDArray[np.float32]]:
    """A net that always wants something else: nothing learnt, but every path of trading is walked."""
    rng = np.random.default_rng(seed)
    sizes = ((32, OBSERVATION_SIZE, 0.1), (32, 32, 0.3), (1, 32, 0.5))
    weights = {
        f"weight_{k}": rng.normal(0.0, scale, (o, i)).astype(np.float32) for k, (o, i, scale) in enumerate(sizes)
    }
    return weights | {f"bias_{k}": rng.normal(0.0, 0.1, o).astype(np.float32) for k, (o, _, _) in enumerate(sizes)}


def install_random_policy(databases: Databases, settings: Settings, plan: Plan, seed: int = 5) -> int:
    """Makes two random nets the active policy, as if they had been trained on the policy's span."""
    database = databases["policy"]
    encoder = active_model(database, "encoder")
    assert encoder is not None
    schema = policy_schema(settings.universe.decision_timeframe_s, encoder.schema_hash, reach=1.0)
    return save_model(
        database,
        kind="policy",
        onnx=export_ensemble([random_net(seed), random_net(seed + 1)]),
        schema=schema,
        trained_from=plan.policy_from,
        trained_to=plan.train_to,
        label_horizon_s=0,
        provenance="real",
        encoder_id=model_by_id(database, encoder.id).id,
        metrics={},
        recorded_at=plan.train_to,
    )


def prepare(databases: Databases, settings: Settings, plan: Plan) -> None:
    """Everything up to the first traded candle: candles, encoder, embeddings, regimes, policy, wallet."""
    demo._prepare(plan, settings, databases, progress=False)
    demo._train(plan, settings, databases, progress=False)
    demo._open_wallet(plan, settings, databases)


def poison(series: dict[str, Candles], after: datetime, kind: str) -> dict[str, Candles]:
    """The same candles up to ``after``; from then on another future."""
    return {symbol: _poisoned(candles, to_unix(after), kind) for symbol, candles in series.items()}


def _poisoned(candles: Candles, after: int, kind: str) -> Candles:
    past, future = candles[candles.as_of <= after], candles[candles.as_of > after]
    if kind == "crash":
        scaled = [getattr(future, name) * 0.3 for name in ("open", "high", "low", "close")]
        future = Candles(future.as_of, *scaled, future.volume, future.trades)
    elif kind == "reversed":
        future = Candles(future.as_of, *(getattr(future, n)[::-1] for n in Candles.__slots__[1:]))
    elif kind == "gone":
        future = future[1::3]
    else:
        flat = np.full(len(future), float(past.close[-1]))
        future = Candles(future.as_of, flat, flat, flat, flat, np.zeros(len(future)), future.trades)
    return Candles.concatenate([past, future])
