"""The paper jobs are the backtest: run_trader and sender on a real database and a replayed clock, with a model that
keeps trading, against policy.backtest of the same hours: the same decisions and the same fills."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from meta_controller.bounds import MAX_CHANGE
from policy import backtest, laboratory, run_trader
from policy.strategies.residual import Residual
from shared.clock import to_unix
from shared.rows import Candles
from shared.settings import Settings
from tests.helpers import NOON, DatabaseFor, random_candles
from tests.policy.paper_world import (
    DECISIONS,
    DELAY,
    FIVE,
    HOUR,
    HOUR_S,
    A,
    B,
    PaperMarket,
    insert_config,
    insert_embeddings,
    insert_model,
    insert_state,
)  # fmt: skip

SYMBOLS, CAPITAL = (A, B), 10_000.0
HISTORY = 300  # hours before the first decision
PATHS, STEPS = 2, 40  # of the default suite; the canary's own number is 10 paths of 100 steps
STARTED = NOON - timedelta(days=2)
STEERED = {
    "risk_aversion": (0.5, 3.0), "turnover_penalty": (0.0, 2.0), "target_volatility": (0.2, 0.8),
    "max_position": (0.1, 0.5),
}  # fmt: skip


@dataclass
class SeededModel:
    """Answers at random, the same to the same observation: so what is seen differently is decided differently."""

    id: int
    encoder_id: int
    known_from: datetime
    residual_scale: float = 1.0
    verdict: str = ""
    reach: float = 0.7
    model: Any = None

    def act(self, observation: Any) -> Residual:
        rng = np.random.default_rng(list(observation.tobytes()))
        n = len(observation)
        return Residual(rng.uniform(-1.0, 1.0, n), rng.uniform(0.5, 1.0, n), self.reach)

    def usable(self, *_: Any) -> tuple[Any, str]:
        """Stands in for policy.policy_model.usable_policy."""
        return self, ""


def hourly(base: Candles) -> Candles:
    """Hours from whole hours of 5m candles."""
    parts = [base[k : k + 12] for k in range(0, len(base) - 11, 12)]
    columns: list[Any] = [
        [int(part.as_of[-1]) for part in parts], [part.open[0] for part in parts], [part.high.max() for part in parts],
        [part.low.min() for part in parts], [part.close[-1] for part in parts], [part.volume.sum() for part in parts],
        [1 for _ in parts],
    ]  # fmt: skip
    return Candles.from_columns(columns)


def store_market(market: PaperMarket, seed: int, steps: int) -> list[int]:
    """5m candles of the traded hours with gaps in them, hours of all of it; the instruments' ids."""
    rng, ids = np.random.default_rng(seed), []
    last = to_unix(STARTED) + (steps + 1) * HOUR_S
    for n, symbol in enumerate(SYMBOLS):
        whole = random_candles((HISTORY + steps + 1) * 12, FIVE, 100 * seed + n, last, volatility=0.004)
        market.store(symbol, HOUR_S, hourly(whole))
        traded = whole[
            (whole.as_of > to_unix(STARTED) - HOUR_S) & ((rng.random(len(whole)) > 0.03) | (whole.as_of % HOUR_S == 0))
        ]
        ids.append(market.store(symbol, FIVE, traded))
    return ids


def store_knowledge(market: PaperMarket, model: SeededModel, instruments: list[int], seed: int, steps: int) -> None:
    """Embeddings, regimes and a steering that changes each hour, by up to what an hour may change."""
    rng = np.random.default_rng(seed)
    steering = {name: float(rng.uniform(*between)) for name, between in STEERED.items()}
    for step in range(steps + 1):
        moment = STARTED + step * HOUR
        insert_embeddings(market, model.encoder_id, instruments, moment)
        for horizon_s in (14_400, 86_400):
            up = float(rng.uniform(0.1, 0.6))
            insert_state(market, moment, horizon_s, p_up=up, p_down=0.7 - up)
        insert_config(market, moment, **steering, daily_loss_limit=0.2, max_drawdown=0.5)
        for name, (low, high) in STEERED.items():
            moved = steering[name] + MAX_CHANGE[name] * float(rng.uniform(-1.0, 1.0))
            steering[name] = min(max(moved, low), high)


def trade_hours(market: PaperMarket, steps: int) -> None:
    """What the schedule does around each decision, and once the order can have filled."""
    for step in range(steps + 1):
        moment = STARTED + step * HOUR
        market.send(moment)
        market.trade(moment + DELAY)
        market.send(moment + DELAY)
    market.send(STARTED + steps * HOUR + timedelta(minutes=59))


@pytest.mark.parametrize("seed", range(PATHS))
def test_paper_jobs_and_backtest_make_identical_decisions_and_fills(
    seed: int, settings: Settings, database_for: DatabaseFor, monkeypatch: pytest.MonkeyPatch
) -> None:
    market = PaperMarket(database_for, settings)
    instruments = store_market(market, seed + 1, STEPS)
    encoder = insert_model(market, "encoder")
    model = SeededModel(insert_model(market, "policy", encoder), encoder, STARTED - HOUR)
    model.model = SimpleNamespace(trained_to=model.known_from, metrics={})
    monkeypatch.setattr(run_trader, "usable_policy", model.usable)
    monkeypatch.setattr(laboratory, "load_policy", lambda *_: model)
    store_knowledge(market, model, instruments, seed, STEPS)
    market.wallet("w", STARTED - HOUR, symbols=SYMBOLS, capital=CAPITAL)
    trade_hours(market, STEPS)

    last = STARTED + STEPS * HOUR
    policy = database_for("policy")
    wallet = backtest.find_wallet(policy, last, "w")
    request = backtest.Request(wallet, STARTED, last, CAPITAL, "operator", shifts=0, rearm_days=None)
    result = backtest.run_backtest(policy, settings, request)
    expected = [
        (as_of, symbol, float(d.wanted[n]), float(d.allowed[n]), f"{d.source}: {d.plan.reasons[n]}", d.observation_hash)
        for as_of, d in zip(result.decision_times, result.decisions, strict=True)
        for n, symbol in enumerate(SYMBOLS)
    ]
    stored = market.rows(DECISIONS)
    names = ("as_of", "symbol", "wanted_weight", "allowed_weight", "reason", "observation_hash")
    assert [tuple(row[name] for name in names) for row in stored] == expected
    assert {row["reason"].split(":")[0] for row in stored} == {"policy"}

    amounts = ("quantity", "price", "cost", "fee")
    fills = [
        (to_unix(fill["filled_at"]), fill["symbol"], fill["side"], *(float(fill[name]) for name in amounts))
        for fill in market.fills()
        if fill["filled_at"] < last
    ]
    assert fills == [
        (
            f.filled_at,
            SYMBOLS[f.instrument],
            "buy" if f.quantity > 0 else "sell",
            abs(f.quantity),
            f.price,
            f.cost,
            f.fee,
        )
        for f in sorted(result.fills, key=lambda f: (f.filled_at, f.quantity > 0.0, f.instrument))
    ]
    assert len(fills) > STEPS / 2, "a test of parity needs trades"
