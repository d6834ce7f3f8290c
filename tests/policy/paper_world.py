"""A small paper market: two instruments with hand-made candles, wallets, and orders as the trader writes them."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import numpy as np
import pytest
from psycopg.types.json import Json

from pipeline.operator import create_wallet, issue_command
from policy import run_trader
from policy.execution import sender
from policy.strategies.residual import Residual
from shared.clock import ReplayClock, from_unix, to_unix
from shared.db import load_queries
from shared.job import Outcome
from shared.rows import Candles
from shared.settings import Settings
from shared.version import CODE
from tests.helpers import NOON, DatabaseFor, store_candles
from tests.shared.spine_rows import insert

# Hours that sink a little towards 100, on little noise: no rising trend, so that the script alone decides, and so
# little volatility that a full position is more than max_position: what the script wants is that, or nothing.
HISTORY = 300
CALM = [100.1 + 0.005 * (HISTORY - k) + 0.1 * (k % 2) for k in range(HISTORY)]
A, B = "AAA/USDT", "BBB/USDT"
FIVE, HOUR_S = 300, 3600
MINUTE, HOUR, DELAY = timedelta(minutes=1), timedelta(hours=1), timedelta(seconds=120)

FILLS = """
SELECT i.symbol, f.side, f.quantity, f.price, f.cost, f.fee, f.fee_asset, f.filled_at
FROM fills f JOIN orders o ON o.id = f.order_id JOIN instruments i ON i.id = o.instrument_id
ORDER BY f.filled_at, f.side DESC, i.symbol
"""
EVENTS = "SELECT order_id, event, detail, at, recorded_at FROM order_events ORDER BY id"
DECISIONS = """
SELECT d.*, i.symbol, w.name AS wallet FROM decisions d JOIN instruments i ON i.id = d.instrument_id
JOIN wallets w ON w.id = d.wallet_id ORDER BY d.as_of, d.wallet_id, i.symbol
"""
ORDERS = """
SELECT o.*, i.symbol FROM orders o JOIN instruments i ON i.id = o.instrument_id ORDER BY o.recorded_at, i.symbol
"""


def candles(first_open: datetime, timeframe_s: int, opens: Sequence[float], close: float | None = None) -> Candles:
    """Gapless candles from ``first_open`` on; each closes at ``close``, or where it opened."""
    open_ = np.array(opens, dtype=float)
    closes = open_ if close is None else np.full(len(open_), close)
    as_of = to_unix(first_open) + timeframe_s * np.arange(1, len(open_) + 1)
    high, low, ones = np.maximum(open_, closes), np.minimum(open_, closes), np.ones(len(open_))
    return Candles.from_columns([as_of, open_, high, low, closes, ones, ones])


@dataclass
class PaperMarket:
    """The jobs and their operator, each logged in as its own role, in a database of this test's own."""

    database_for: DatabaseFor
    settings: Settings
    steered: bool = True  # False: the meta-controller never spoke, and nothing may be bought

    def store(self, symbol: str, timeframe_s: int, made: Candles) -> int:
        return store_candles(self.database_for, "test", symbol, timeframe_s, made)

    def wallet(self, name: str, at: datetime, resume: bool = True, symbols: Sequence[str] = (A, B),
               capital: float = 10_000.0) -> int:  # fmt: skip
        cli = self.database_for("cli")
        create_wallet(cli, self.settings, at, name, "test", symbols, capital)
        if resume:
            self.command(at, "resume", name)
        (row,) = cli.fetch("SELECT id FROM wallets WHERE name = %(name)s", {"name": name})
        return int(row["id"])

    def command(self, at: datetime, command: str, wallet: str = "w") -> None:
        issue_command(self.database_for("cli"), at, wallet, command, "a test", "test")

    def trade(self, at: datetime, settings: Settings | None = None) -> Outcome:
        recent = "SELECT FROM policy_config WHERE as_of > %(since)s"
        if self.steered and not self.rows(recent, since=at - timedelta(days=7)):
            insert_config(self, at - timedelta(days=6), **DEFAULT_STEERING, valid_until=at + timedelta(days=30))
        return run_trader.run_once(ReplayClock(at), self.database_for("policy"), settings or self.settings)

    def send(self, at: datetime) -> Outcome:
        return sender.run_once(ReplayClock(at), self.database_for("sender"))

    def rows(self, query: str, **parameters: Any) -> list[dict[str, Any]]:
        return self.database_for("cli").fetch(query, parameters)  # type: ignore[arg-type]

    def order(self, wallet: int, instrument: int, side: str, quantity: str, not_before: datetime = NOON + DELAY,
              deadline: datetime | None = None, price: float = 100.0, mode: str = "paper", volatility: float = 0.0,
              code_version: str = CODE, **bracket: Any) -> uuid.UUID:  # fmt: skip
        """An intent with its decision, each written down as the trader would; with the ``bracket_…`` columns given."""
        policy, queries, id_ = self.database_for("policy"), load_queries("policy"), uuid.uuid4()
        decided = {
            "wallet_id": wallet, "instrument_id": instrument, "as_of": not_before - DELAY, "source": str(id_),
            "wanted_weight": 0, "allowed_weight": 0, "baseline_weight": 0, "contributions": Json({}),
            "clamps": Json([]), "reason": "", "price": price, "quantity_held": 0, "cash": 0, "equity": 0, "units": 1,
            "paid_in": None, "recorded_at": not_before, **dict.fromkeys(SAID_BY_A_MODEL), "policy_config_id": None,
            "code_version": code_version, "settings_hash": "test",
        }  # fmt: skip
        row = policy.fetch_one(queries["insert_decision"], decided)
        assert row is not None
        intent = {
            "id": id_, "decision_id": row["id"], "wallet_id": wallet, "mode": mode, "instrument_id": instrument,
            "side": side, "quantity": Decimal(quantity), "reference_price": price, "volatility": volatility,
            "not_before": not_before, "deadline": deadline or not_before + HOUR, "recorded_at": not_before,
            "type": "market", "time_in_force": "gtc", "limit_price": None,
            "bracket_stop": None, "bracket_target": None, "bracket_trail": None,
        }  # fmt: skip
        policy.execute(queries["insert_order"], intent | bracket)
        return id_

    def settle(self) -> None:
        """What the trader does first: the orders take the state that the venue told."""
        for wallet in self.rows("SELECT id FROM wallets"):
            self.database_for("policy").execute(load_queries("policy")["settle_orders"], {"wallet_id": wallet["id"]})

    def events(self, order: uuid.UUID | None = None) -> list[str]:
        return [row["event"] for row in self.rows(EVENTS) if order in (None, row["order_id"])]

    def detail(self, order: uuid.UUID) -> str:
        """What the venue said last about an order."""
        return str([row["detail"] for row in self.rows(EVENTS) if row["order_id"] == order][-1])

    def fills(self) -> list[dict[str, Any]]:
        return self.rows(FILLS)

    def cash(self, wallet: int) -> Decimal:
        (row,) = self.rows("SELECT amount FROM cash WHERE wallet_id = %(id)s", id=wallet)
        return Decimal(row["amount"])

    def held(self, wallet: int) -> Mapping[int, Decimal]:
        rows = self.rows("SELECT instrument_id, quantity FROM positions WHERE wallet_id = %(id)s", id=wallet)
        return {row["instrument_id"]: row["quantity"] for row in rows}


def at(text: str) -> datetime:
    """A time on the day of NOON; 25:00 is an hour past its end."""
    hours, minutes, *seconds = map(int, text.split(":"))
    return NOON.replace(hour=0) + timedelta(hours=hours, minutes=minutes, seconds=sum(seconds))


def opened(row: Mapping[str, Any]) -> str:
    return f"{from_unix(to_unix(row['filled_at'])):%H:%M}"


STATE = {
    "p_down": 0.2, "p_flat": 0.3, "p_up": 0.5, "p_vol_low": 0.1, "p_vol_mid": 0.8, "p_vol_high": 0.1,
    "conviction": 0.5, "regime": "bull", "source": "test", "reasons": "a test",
}  # fmt: skip
CONFIG = {
    "source": "test", "risk_aversion": 1.0, "turnover_penalty": 1.0, "drawdown_penalty": 1.0,
    "target_volatility": 0.25, "max_exposure": 1.0, "max_position": 0.125, "daily_loss_limit": 0.05,
    "max_drawdown": 0.15, "pause": False, "reasons": "a test",
}  # fmt: skip
DEFAULT_STEERING = {"target_volatility": 0.2, "max_exposure": 0.5, "max_position": 0.5}
SAID_BY_A_MODEL = (
    "model_id", "encoder_id", "market_state_id", "market_state_short_id", "observation_hash", "action", "agreement",
)  # fmt: skip
FAKE_ONNX = {"encoder": b"an encoder", "policy": b"a policy"}


def insert_state(market: PaperMarket, at: datetime, horizon_s: int, **changes: Any) -> int:
    """One call of the regime on track live; its id."""
    row = STATE | {"track": "live", "as_of": at, "horizon_s": horizon_s, "valid_until": at + HOUR, "known_from": at}
    row |= {"recorded_at": at} | changes
    meta = market.database_for("meta_controller")
    assert meta.execute(load_queries("meta_controller")["insert_market_state"], row) == 1
    return _newest_id(market, "market_state")


def insert_config(market: PaperMarket, at: datetime, **changes: Any) -> int:
    """One version of the steering on track live, valid for an hour; its id."""
    row = CONFIG | {"track": "live", "as_of": at, "valid_until": at + HOUR, "known_from": at, "recorded_at": at}
    row |= {"strategy_weights": Json({"drl": 1.0})} | changes
    meta = market.database_for("meta_controller")
    assert meta.execute(load_queries("meta_controller")["insert_policy_config"], row) == 1
    return _newest_id(market, "policy_config")


def _newest_id(market: PaperMarket, table: str) -> int:
    return int(market.rows(f"SELECT max(id) AS id FROM {table}")[0]["id"])


def insert_model(market: PaperMarket, kind: str, encoder_id: int | None = None) -> int:
    """A model's row; nobody will run its bytes."""
    onnx = FAKE_ONNX[kind]
    row = {
        "kind": kind, "onnx": onnx, "sha256": hashlib.sha256(onnx).hexdigest(), "schema": Json({}), "schema_hash": "",
        "trained_from": NOON - 1000 * HOUR, "trained_to": NOON - 900 * HOUR, "label_horizon_s": 0,
        "known_from": NOON - 900 * HOUR, "provenance": "real", "metrics": Json({}), "status": "active",
        "encoder_id": encoder_id, "recorded_at": NOON,
    }  # fmt: skip
    database = market.database_for(kind)
    assert insert(database.connection, "models", row) == 1
    return _newest_id(market, "models")


def insert_embeddings(market: PaperMarket, model_id: int, instruments: Sequence[int], at: datetime) -> None:
    """What the encoder saw of each instrument in the hour that closes at ``at``; the candle must be there."""
    encoder = market.database_for("encoder")
    for n, instrument in enumerate(instruments):
        row = {
            "model_id": model_id, "instrument_id": instrument, "timeframe_s": HOUR_S, "as_of": at,
            "embedding": str([1.0 if k == n else 0.0 for k in range(64)]), "ood": 0.5, "known_from": at,
            "recorded_at": at,
        }  # fmt: skip
        assert insert(encoder.connection, "embeddings", row) == 1


@dataclass
class ScriptedPolicy:
    """A policy model that says what the test wrote down for each hour, and keeps what it was shown.

    An action of 1 wants all it may have, one of 0 or -1 nothing: no trend rises."""

    id: int
    encoder_id: int
    residual_scale: float = 1.0
    agreement: float = 1.0
    script: dict[datetime, tuple[float, ...]] = field(default_factory=dict)
    seen: dict[datetime, Any] = field(default_factory=dict)
    asked_at: datetime | None = None

    def act(self, observation: Any) -> Residual:
        assert self.asked_at is not None
        self.seen[self.asked_at] = observation.copy()
        action = np.array(self.script[self.asked_at])
        return Residual(action, np.full(len(action), self.agreement), reach=0.5)

    def usable(self, database: object, timeframe_s: int, as_of: datetime) -> tuple[Any, str]:
        """Stands in for policy.policy_model.usable_policy."""
        self.asked_at = as_of
        return self, ""


def install_scripted_policy(market: PaperMarket, monkeypatch: pytest.MonkeyPatch) -> ScriptedPolicy:
    """Puts one in the place of the active policy model; its rows are real."""
    encoder_id = insert_model(market, "encoder")
    scripted = ScriptedPolicy(insert_model(market, "policy", encoder_id), encoder_id)
    monkeypatch.setattr(run_trader, "usable_policy", scripted.usable)
    return scripted


def store_flat(market: PaperMarket, symbol: str, opens: dict[str, float] | None = None) -> int:
    """Calm hours, from NOON to 18:00 at 100, and 5m candles of the day that close at 100 and open there too, or at
    ``opens``."""
    market.store(symbol, HOUR_S, candles(NOON - HISTORY * HOUR, HOUR_S, [*CALM, *[100.0] * 6]))
    first = NOON - 10 * MINUTE
    at_open = {at(text): price for text, price in (opens or {}).items()}
    made = [at_open.get(first + n * 5 * MINUTE, 100.0) for n in range(6 * 12 + 2)]
    return market.store(symbol, FIVE, candles(first, FIVE, made, close=100.0))


def prepare(market: PaperMarket, policy: ScriptedPolicy, instruments: list[int], script: dict[str, Any]) -> None:
    """Embeddings, regime and steering for each hour of the script."""
    for text, action in script.items():
        moment = at(text)
        policy.script[moment] = action
        insert_embeddings(market, policy.encoder_id, instruments, moment)
        for horizon_s in (14_400, 86_400):
            insert_state(market, moment, horizon_s)
        insert_config(market, moment)


def live_through(market: PaperMarket, first: str, last: str) -> None:
    """Every 5 minutes what the schedule does: settle, trade after the delay, send."""
    moment = at(first)
    while moment <= at(last):
        market.send(moment)
        market.trade(moment + DELAY)
        market.send(moment + DELAY)
        moment += 5 * MINUTE
