"""One valid row of every table, so that a test can write it, spoil it, or be refused it.

``seed`` writes the first rows of each table as the role that owns it; ``next_row`` is one that the seeded database
would take. It refers to seeded rows by their ids, so it stays valid however often an insert was rolled back.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from psycopg import sql
from psycopg.types.json import Json

from shared.db import Connection, Database, connect, owner_url, role_url
from shared.embedded_db import ensure_running
from shared.schema import apply_schema
from shared.settings import Settings, load_settings
from tests.conftest import TEMPLATE, UNIVERSE
from tests.shared.llm_spine_rows import llm_rows, regime_rows
from tests.shared.trading_spine_rows import desk_rows

NOON = datetime(2024, 6, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
ROLES = ("candles", "encoder", "meta_controller", "policy", "sender", "cli")
Row = dict[str, Any]

# The role that writes each table; the shared ones by the role whose rows ``rows`` gives.
WRITERS = {
    "instruments": "candles", "market_data": "candles", "models": "encoder", "embeddings": "encoder",
    "regime_fits": "meta_controller", "regime_calls": "meta_controller", "regime_outcomes": "meta_controller",
    "market_state": "meta_controller", "policy_config": "meta_controller", "llm_calls": "meta_controller",
    "memory_logs": "meta_controller", "news_items": "meta_controller", "news_sentiment": "meta_controller",
    "onchain_data": "meta_controller", "llm_trust": "meta_controller", "wallets": "cli", "limits": "cli",
    "cash_flows": "cli", "commands": "cli", "decisions": "policy", "orders": "policy", "approvals": "owner",
    "order_events": "sender", "candle_revisions": "candles", "quarantine": "candles", "gap_checks": "candles",
    "venue_checks": "candles", "fills": "sender", "job_runs": "policy", "alerts": "policy", "backtests": "policy",
    "trainings": "encoder", "encoder_checks": "encoder", "encoder_evaluations": "encoder",
    "evaluation_folds": "policy", "evaluations": "policy", "canary_runs": "policy", "promotions": "owner",
    "instrument_rules": "owner", "live_grants": "cli", "operator_checks": "cli", "risk_events": "policy",
    "sender_sessions": "owner", "order_lookups": "sender", "external_fills": "sender", "reconciliations": "sender",
    "key_checks": "sender", "alert_deliveries": "cli",
}  # fmt: skip
SEEDED = dict.fromkeys(WRITERS, 2) | {
    "alerts": 3,
    "instruments": 3,
    "market_data": 3,
    "wallets": 3,
    "decisions": 3,
    "approvals": 1,
    "order_events": 1,
    "llm_calls": 3,
    "news_items": 3,
}


# Where two roles write a table, by row: what the second one's rows have otherwise.
AS_WRITTEN_BY: dict[tuple[str, str], Row] = {
    ("models", "policy"): {"kind": "policy", "encoder_id": 1},
    ("orders", "sender"): {"decision_id": None, "side": "sell", "purpose": "protect", "because": "test"},
    ("cash_flows", "sender"): {"wallet_id": 3, "kind": "deposit"},
}


def order_id(k: int) -> uuid.UUID:
    return uuid.UUID(int=k)


def rows(k: int) -> dict[str, Row]:
    """The k-th row of every table, in the order in which they may be inserted."""
    beside = regime_rows(k, NOON) | llm_rows(k, NOON)
    traded = _operator_rows(k) | _trading_rows(k) | desk_rows(k, NOON)
    return _market_rows(k) | _steering_rows(k) | beside | traded | _side_rows(k)


def _market_rows(k: int) -> dict[str, Row]:
    onnx = f"model {k}".encode()
    return {
        "instruments": {
            "venue": "test", "symbol": f"A{k}/USDT", "base_timeframe_s": 300, "tick_size": "0.01",
            "lot_size": "0.00001", "min_notional": 10, "provenance": "real", "recorded_at": NOON,
        },
        "market_data": {
            "instrument_id": 1, "timeframe_s": 300, "as_of": NOON + k * HOUR, "open": 100.0, "high": 101.0,
            "low": 99.0, "close": 100.5, "volume": 3.0, "trades": 7, "source": "test", "recorded_at": NOON + k * HOUR,
        },
        "candle_revisions": {
            "instrument_id": 1, "timeframe_s": 300, "as_of": NOON + HOUR, "open": 100.0, "high": 101.0, "low": 99.0,
            "close": 100.0, "volume": 2.0, "trades": 6, "source": "test", "recorded_at": NOON,
            "replaced_at": NOON + k * HOUR,
        },
        "quarantine": {
            "venue": "test", "symbol": "A0/USDT", "timeframe_s": 300, "source": "file:a.csv", "line": k,
            "reason": "price", "raw": "0,0,0,0", "recorded_at": NOON,
        },
        "gap_checks": {
            "instrument_id": 1, "timeframe_s": 300, "after": NOON, "until": NOON + (k + 1) * HOUR, "finding": "none",
            "recorded_at": NOON,
        },
        "venue_checks": {
            "venue": "test", "status": "online", "clock_skew_s": 0.1, "round_trip_s": 0.2,
            "recorded_at": NOON + k * HOUR,
        },
        "models": {
            "kind": "encoder", "onnx": onnx, "sha256": hashlib.sha256(onnx).hexdigest(), "schema": Json({}),
            "schema_hash": "", "trained_from": NOON - HOUR, "trained_to": NOON, "label_horizon_s": 3600,
            "known_from": NOON + HOUR, "provenance": "real", "metrics": Json({}), "status": "candidate",
            "recorded_at": NOON,
        },
        "embeddings": {
            "model_id": 1, "instrument_id": 1, "timeframe_s": 300, "as_of": NOON + k * HOUR,
            "embedding": str([0.125] * 64), "ood": 0.5, "known_from": NOON + k * HOUR, "recorded_at": NOON,
        },
    }  # fmt: skip


def _steering_rows(k: int) -> dict[str, Row]:
    told = {"track": "live", "as_of": NOON + k * HOUR, "source": "rules", "reasons": "", "recorded_at": NOON,
            "valid_until": NOON + (k + 1) * HOUR, "known_from": NOON + k * HOUR}  # fmt: skip
    return {
        "market_state": told | {
            "horizon_s": 86400, "p_down": 0.2, "p_flat": 0.3, "p_up": 0.5, "p_vol_low": 0.1, "p_vol_mid": 0.8,
            "p_vol_high": 0.1, "conviction": 0.5, "regime": "bull",
        },
        "policy_config": told | {
            "risk_aversion": 1, "turnover_penalty": 1, "drawdown_penalty": 1, "target_volatility": 0.25,
            "max_exposure": 0.8, "max_position": 0.4, "daily_loss_limit": 0.05, "max_drawdown": 0.2, "pause": False,
            "strategy_weights": Json({"drl": 1.0}),
        },
    }  # fmt: skip


def _operator_rows(k: int) -> dict[str, Row]:
    return {
        "wallets": {
            "name": f"wallet-{k}", "venue": "test", "mode": "live" if k == 3 else "paper", "quote": "USDT",
            "track": "live", "taker_fee_bps": 40, "slippage_bps": 5, "impact": 1, "recorded_at": NOON,
        },
        "limits": {
            "wallet_id": k, "symbols": ["A1/USDT", "A2/USDT"], "max_order_notional": 1000, "max_orders_a_day": 5,
            "recorded_at": NOON,
        },
        "cash_flows": {
            "wallet_id": 1, "asset": "USDT", "amount": 5000, "reference": f"deposit-{k}", "at": NOON,
            "recorded_at": NOON,
        },
        "commands": {
            "wallet_id": 1, "command": "resume", "reason": "test", "issuer": "test", "idempotency_key": f"key-{k}",
            "issued_at": NOON, "expires_at": NOON + HOUR,
        },
    }  # fmt: skip


def _trading_rows(k: int) -> dict[str, Row]:
    return {
        "decisions": {
            "wallet_id": 1, "instrument_id": 1, "as_of": NOON + k * HOUR, "source": "policy", "wanted_weight": 0.5,
            "allowed_weight": 0.25, "clamps": Json([]), "reason": "test", "price": 100.0, "quantity_held": 0,
            "cash": 5000, "equity": 5000.0, "baseline_weight": 0.5, "code_version": "test", "settings_hash": "test",
            "recorded_at": NOON,
        },
        "orders": {
            "id": order_id(k), "decision_id": k, "wallet_id": 1, "mode": "paper", "instrument_id": 1, "side": "buy",
            "type": "market", "quantity": 2, "reference_price": 100.0, "volatility": 0.6, "not_before": NOON,
            "deadline": NOON + HOUR, "recorded_at": NOON,
        },
        "approvals": {
            "order_id": order_id(k), "epoch": None, "limits_recorded_at": NOON, "approved_at": NOON,
        },
        "order_events": {
            "order_id": order_id(k), "event": "accepted" if k == 1 else "rejected", "detail": "test", "at": NOON,
            "recorded_at": NOON,
        },
        "fills": {
            "wallet_id": 1, "venue_trade_id": f"trade-{k}", "order_id": order_id(1), "side": "buy", "quantity": 1,
            "price": 100, "cost": 100, "fee": "0.4", "fee_asset": "USDT", "filled_at": NOON, "recorded_at": NOON,
        },
    }  # fmt: skip


def _side_rows(k: int) -> dict[str, Row]:
    return {
        "job_runs": {"job": f"job-{k}", "clock_at": NOON, "started_at": NOON, "status": "running"},
        "alerts": {"severity": "info", "key": f"key-{k}", "message": "", "day": NOON.date(), "recorded_at": NOON},
        "backtests": {
            "span_from": NOON, "span_to": NOON + k * HOUR, "parameters": Json({}), "in_sample": False,
            "metrics": Json({}), "recorded_at": NOON,
        },
        "trainings": {
            "kind": "encoder", "reason": "test", "requested_by": "test", "command_id": None,
            "status": "failed", "requested_at": NOON, "ended_at": NOON + HOUR, "error": "test",
        },
        "encoder_checks": {
            "model_id": 1, "as_of": NOON + k * HOUR, "stale_days": 1.0, "drift_share": 0.1, "psi_max": 0.2,
            "ood_share": 0.01, "error_ratio": 1.0, "verdict": "good", "recorded_at": NOON + k * HOUR,
        },
        "encoder_evaluations": {
            "recipe_hash": "abc", "model_id": 1, "timeframe_s": 3600, "symbols": ["test:A1/USDT"],
            "evaluated_from": NOON, "evaluated_to": NOON + k * HOUR, "folds": 4, "results": Json({}),
            "verdict": "test", "recorded_at": NOON,
        },
    } | _evidence_rows(k)  # fmt: skip


def _evidence_rows(k: int) -> dict[str, Row]:
    return {
        "evaluation_folds": {
            "key": "abc", "fold": k, "contestant": "cash", "kind": "baseline", "symbols": ["A1/USDT"],
            "test_from": NOON, "test_to": NOON + HOUR, "returns": [0.0, 0.01], "metrics": Json({}), "model": None,
            "seconds": 1.0, "recorded_at": NOON,
        },
        "evaluations": {
            "key": "abc", "recipe_hash": "abc", "profile": "full", "provenance": "real", "evaluated_from": NOON,
            "evaluated_to": NOON + HOUR, "folds": 4, "seeds": 3, "results": Json({}), "verdict": "not worse",
            "recorded_at": NOON + k * HOUR,
        },
        "canary_runs": {
            "recipe_hash": "abc", "green": True, "results": Json({}), "seconds": 1.0, "recorded_at": NOON,
        },
        "promotions": {
            "model_id": 1, "evaluation_id": 1, "canary_run_id": 1, "verdict": "baseline wins", "residual": 0.0,
            "reason": "test", "issuer": "test", "promoted_at": NOON,
        },
    }  # fmt: skip


def insert(connection: Connection, table: str, row: Mapping[str, Any]) -> int:
    statement = sql.SQL("INSERT INTO {} ({}) VALUES ({})").format(
        sql.Identifier(table),
        sql.SQL(", ").join(map(sql.Identifier, row)),
        sql.SQL(", ").join(map(sql.Placeholder, row)),
    )
    return connection.execute(statement, row).rowcount


def next_row(table: str, writer: str | None = None) -> Row:
    """A valid row of ``table`` beside the seeded ones, as its ``writer`` may write it."""
    return rows(SEEDED[table] + 1)[table] | AS_WRITTEN_BY.get((table, writer or ""), {})


def seed(database_for: Callable[[str], Database]) -> None:
    for table, writer in WRITERS.items():
        for k in range(1, SEEDED[table] + 1):
            assert insert(database_for(writer).connection, table, rows(k)[table]) == 1


@contextmanager
def own_database(home: Path, name: str) -> Iterator[tuple[Settings, Callable[[str], Database]]]:
    """A database for a whole module: its settings, and each role's log-in ("owner" is the owner's)."""
    server = ensure_running(home)
    admin = connect(server.url("postgres", server.superuser_password, "postgres"))
    name = f"{name}_{uuid.uuid4().hex[:12]}"
    admin.execute(
        sql.SQL("CREATE DATABASE {} OWNER sextant TEMPLATE {}").format(sql.Identifier(name), sql.Identifier(TEMPLATE))
    )
    settings = load_settings(home=home, db_name=name, universe=UNIVERSE)
    with connect(owner_url(settings)) as connection:
        apply_schema(connection, {})  # what a copy does not take over from its template: rights on the database itself
    opened: dict[str, Database] = {}

    def database_for(layer: str) -> Database:
        if layer not in opened:
            opened[layer] = Database(owner_url(settings) if layer == "owner" else role_url(settings, layer))
        return opened[layer]

    yield settings, database_for
    for database in opened.values():
        database.close()
    admin.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))
    admin.close()
