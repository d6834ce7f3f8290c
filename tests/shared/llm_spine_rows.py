"""One valid row of each of the meta-controller's tables beside the spine, for tests/shared/spine_rows.py."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from psycopg.types.json import Json

HOUR = timedelta(hours=1)
Row = dict[str, Any]


def regime_rows(k: int, noon: datetime) -> dict[str, Row]:
    at = noon + k * HOUR
    return {
        "regime_fits": {
            "expert": "quadrant", "timeframe_s": 3600, "fitted_at": at, "bars": 100, "parameters": Json({}),
            "known_from": at, "recorded_at": at,
        },
        "regime_calls": {
            "expert": "pool", "as_of": at, "horizon_s": 86400, "p_down": 0.2, "p_flat": 0.3, "p_up": 0.5,
            "p_vol_low": 0.1, "p_vol_mid": 0.8, "p_vol_high": 0.1, "known_from": at, "recorded_at": at,
        },
        "regime_outcomes": {
            "as_of": at, "horizon_s": 3600, "trend": "up", "volatility": "mid", "log_return": 0.01, "realised": 0.02,
            "t_statistic": 0.5, "efficiency": 0.4, "known_from": at + HOUR, "recorded_at": at + HOUR,
        },
    }  # fmt: skip


def llm_rows(k: int, noon: datetime) -> dict[str, Row]:
    at = noon + k * HOUR
    return {
        "llm_calls": {
            "purpose": "strategist", "as_of": at, "model": "m", "endpoint": "127.0.0.1:1", "prompt": "strategist.v1",
            "prompt_sha256": "0" * 64, "inputs": Json({}), "request": Json({}), "statistics": Json({}),
            "status": "sent", "reserved_usd": 1, "recorded_at": at,
        },
        "memory_logs": {
            "llm_call_id": k, "as_of": at, "text_embedder": "local", "text_embedding": str([0.0625] * 256),
            "decision": Json({}), "known_from": at, "recorded_at": at,
        },
        "news_items": {
            "source": "test", "digest": f"{k:064x}", "published_at": at, "title": "a title", "body": "",
            "known_from": at, "recorded_at": at,
        },
        "news_sentiment": {
            "item_id": k, "llm_call_id": 1, "topic": "macro", "sentiment": -0.5, "relevance": 0.5, "known_from": at,
            "recorded_at": at,
        },
        "onchain_data": {
            "chain": "a", "metric": "fees", "as_of": at, "value": 1.5, "source": "test", "known_from": at,
            "recorded_at": at,
        },
        "llm_trust": {
            "as_of": at, "model": "m", "prompt": "strategist.v1", "calls": 0, "days": 0, "e_better": 1, "e_worse": 1,
            "temperature": 1, "weight": 0, "verdict": "test", "known_from": at, "recorded_at": at,
        },
    }  # fmt: skip
