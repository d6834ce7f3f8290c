"""One valid row of every table of trading that has no decision or fill in it: the sender's, the operator's."""

from __future__ import annotations

import uuid
from datetime import datetime, timedelta
from typing import Any

from psycopg.types.json import Json

HOUR = timedelta(hours=1)
Row = dict[str, Any]


def desk_rows(k: int, noon: datetime) -> dict[str, Row]:
    """The k-th row of each; they speak about wallet 1, instrument 1 and the seeded orders."""
    at = noon + k * HOUR
    return {
        "instrument_rules": {
            "instrument_id": 1, "tick_size": "0.01", "lot_size": "0.00001", "min_notional": 10, "min_quantity": 0,
            "status": "online", "recorded_at": at,
        },
        "live_grants": {
            "wallet_id": 1, "granted": False, "checks": Json([]), "capital": 5000, "reason": "test", "recorded_at": at,
        },
        "operator_checks": {"kind": "backup", "passed": True, "details": Json({}), "recorded_at": at},
        "risk_events": {
            "wallet_id": 1, "instrument_id": 1, "decision_id": 1, "kind": "clamp", "rule": "max_position",
            "as_of": noon, "before": 0.5, "after": 0.25, "because": "test", "recorded_at": at,
        },
        "sender_sessions": {
            "wallet_id": k, "epoch": 1, "nonce": 1, "holder": "test:1", "started_at": at,
        },
        "order_lookups": {"order_id": uuid.UUID(int=1), "found": False, "recorded_at": at},
        "external_fills": {
            "wallet_id": 1, "venue_trade_id": f"strange-{k}", "venue_order_id": "O1", "symbol": "A1/USDT",
            "side": "buy", "quantity": 1, "price": 100, "cost": 100, "fee": "0.4", "fee_asset": "USDT",
            "filled_at": noon, "recorded_at": at,
        },
        "reconciliations": {
            "wallet_id": 1, "matched": 3, "unmatched": 0, "findings": Json([]), "recorded_at": at,
        },
        "key_checks": {
            "wallet_id": 1, "trade": True, "withdraw": False, "ip_restricted": None, "nonce_window": 0,
            "recorded_at": at,
        },
        "alert_deliveries": {
            "alert_id": k, "channel": "abc", "attempts": 1, "delivered_at": None, "error": None, "recorded_at": at,
        },
    }  # fmt: skip
