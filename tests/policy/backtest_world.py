"""A past without a database: random bars and random knowledge, put where the backtest would read rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from decimal import Decimal
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from policy import laboratory
from policy.backtest import run_backtest
from policy.laboratory import Laboratory, Request
from policy.observation import Market
from policy.result import BacktestResult
from policy.strategies.residual import Residual
from shared.clock import from_unix, to_unix
from shared.db import Database
from shared.rows import Candles, FloatArray, Instrument
from shared.settings import Settings, load_settings
from tests.helpers import NOON
from tests.policy.synthetic import make_config, make_market

HOUR_S, BASE_S, CAPITAL = 3600, 900, 10_000.0
WALLET = {
    "id": 1, "name": "w", "venue": "test", "quote": "USDT", "track": "live", "symbols": ["A/USDT", "B/USDT"],
    "taker_fee_bps": Decimal(40), "slippage_bps": Decimal(5), "impact": Decimal(1),
    "max_order_notional": Decimal(100_000),
}  # fmt: skip
NOBODY: Any = None  # in the place of a database that nobody asks


@dataclass
class Model:
    """A policy model that answers at random, the same to the same observation."""

    id: int = 4
    encoder_id: int = 3
    residual_scale: float = 1.0
    verdict: str = ""
    known_from: datetime = NOON
    reach: float = 0.5
    model: Any = field(default_factory=lambda: SimpleNamespace(trained_to=NOON, metrics={}))

    def act(self, observation: FloatArray) -> Residual:
        rng = np.random.default_rng(abs(int(observation.sum() * 1e3)))
        n = len(observation)
        return Residual(rng.uniform(-1, 1, n), rng.uniform(0.5, 1, n), self.reach)


@dataclass
class Past:
    """``hours`` of bars of ``BASE_S`` from NOON on, and what was known at each hour; the tests may change both."""

    closes: FloatArray  # [B, N]
    opens: FloatArray
    volume: FloatArray
    markets: list[Market]
    policy: Model | None
    settings: Settings

    @property
    def last(self) -> datetime:
        return NOON + timedelta(hours=len(self.markets) - 1)

    def request(self, **changes: Any) -> Request:
        return replace(Request(WALLET, NOON, self.last, CAPITAL, "off", config="recorded"), **changes)

    def laboratory(self, **changes: Any) -> Laboratory:
        return Laboratory(NOBODY, self.settings, self.request(**changes))

    def run(self, **changes: Any) -> BacktestResult:
        return run_backtest(NOBODY, self.settings, self.request(**changes))

    def steer(self, **changes: Any) -> None:
        self.markets = [replace(m, config=replace(m.config, **changes)) for m in self.markets]

    def know(self, hour: int, **changes: Any) -> None:
        self.markets[hour] = replace(self.markets[hour], **changes)

    # What the laboratory reads, as it asks for it.
    def find_instruments(self, database: Database, venue: str, symbols: Sequence[str]) -> list[Instrument]:
        step = (Decimal("0.01"), Decimal("0.00001"), Decimal(10))
        return [Instrument(k, venue, symbol, BASE_S, *step, "real") for k, symbol in enumerate(symbols)]

    def read_candles(self, database: Database, instrument_id: int, base_s: int, after: int, until: int) -> Candles:
        opens, closes = self.opens[:, instrument_id], self.closes[:, instrument_id]
        there = ~np.isnan(closes)
        as_of = to_unix(NOON) + base_s * np.arange(1, len(opens) + 1)
        high, low = np.maximum(opens, closes), np.minimum(opens, closes)
        columns = [as_of, opens, high, low, closes, self.volume[:, instrument_id], np.ones(len(opens))]
        return Candles.from_columns([column[there] for column in columns])

    def at(self, as_of: datetime) -> Market:
        return self.markets[(to_unix(as_of) - to_unix(NOON)) // HOUR_S]


def make_past(monkeypatch: pytest.MonkeyPatch, hours: int = 72, n: int = 2, seed: int = 0, drift: float = 0.0) -> Past:
    """A random market, and the laboratory reading it."""
    rng, per_hour = np.random.default_rng(seed), HOUR_S // BASE_S
    bars = hours * per_hour
    path = np.round(100 * np.exp(np.cumsum(rng.normal(drift, 0.004, (bars + 1, n)), axis=0)), 2)
    markets = []
    for hour in range(hours + 1):
        market = make_market(
            path[hour * per_hour].tolist(),
            rng.uniform(-0.5, 1, n).tolist(),
            rng.uniform(0.2, 1.5, n).tolist(),
            seed=hour,
        )
        config = make_config(as_of=from_unix(to_unix(NOON) + hour * HOUR_S), target_volatility=0.5)
        markets.append(replace(market, config=config))
    settings = load_settings(universe={"venue": "test", "symbols": WALLET["symbols"]})
    past = Past(path[1:].copy(), path[:-1].copy(), rng.lognormal(3, 1, (bars, n)), markets, Model(), settings)
    monkeypatch.setattr(laboratory, "find_instruments", past.find_instruments)
    monkeypatch.setattr(laboratory, "read_candles", past.read_candles)
    monkeypatch.setattr(laboratory, "load_policy", lambda *_: past.policy)
    monkeypatch.setattr(laboratory, "Inputs", lambda *_, **__: past)
    return past
