"""The door for candles from a venue: what is sound passes, the rest goes into quarantine with its reason."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import numpy as np

from candles.validate import KEPT, REASONS, Refused, count_reasons, excerpt, reason_codes
from shared.clock import to_unix
from shared.db import Database, load_queries
from shared.rows import CANDLE_FIELDS, Candles

__all__ = ["Refused", "admit", "describe", "quarantine"]


def admit(
    database: Database, venue: str, symbol: str, timeframe_s: int, candles: Candles, now: datetime
) -> tuple[Candles, dict[str, int]]:
    """The sound candles among those a venue gave, and how many were refused, by reason; these are quarantined."""
    codes = reason_codes(candles, timeframe_s, to_unix(now))
    bad = np.flatnonzero(codes)
    refused = [Refused(REASONS[codes[i] - 1], describe(candles, int(i))) for i in bad.tolist()]
    quarantine(database, venue, symbol, timeframe_s, venue, refused, now)
    return candles[codes == KEPT], count_reasons(codes)


def describe(candles: Candles, index: int) -> str:
    return " ".join(f"{name}={getattr(candles, name)[index]}" for name in CANDLE_FIELDS)


def quarantine(
    database: Database,
    venue: str,
    symbol: str,
    timeframe_s: int,
    source: str,
    refused: Sequence[Refused],
    recorded_at: datetime,
) -> int:
    """Keeps what was refused; returns how many of it had not been seen before."""
    if not refused:
        return 0
    params = {
        "venue": venue,
        "symbol": symbol,
        "timeframe_s": timeframe_s,
        "source": source,
        "line": [r.line for r in refused],
        "reason": [r.reason for r in refused],
        "raw": [excerpt(r.raw) for r in refused],
        "recorded_at": recorded_at,
    }
    return database.execute(load_queries("candles")["quarantine_rows"], params)
