"""Data that the tests make for themselves."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

import numpy as np

from shared.clock import from_unix, to_unix
from shared.db import Database
from shared.rows import UNKNOWN_TRADES, Candles

DatabaseFor = Callable[[str], Database]
NOON = datetime(2024, 6, 1, 12, tzinfo=UTC)

INSERT_INSTRUMENT = """
INSERT INTO instruments (venue, symbol, base_timeframe_s, tick_size, lot_size, min_notional, provenance, recorded_at)
VALUES (%(venue)s, %(symbol)s, %(timeframe_s)s, 0.01, 0.00001, 10, %(provenance)s, %(at)s)
ON CONFLICT (venue, symbol) DO UPDATE SET base_timeframe_s = LEAST(instruments.base_timeframe_s, %(timeframe_s)s)
RETURNING id
"""

INSERT_CANDLE = """
INSERT INTO market_data (instrument_id, timeframe_s, as_of, open, high, low, close, volume, trades, source, recorded_at)
VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, 'test', %s)
"""


def random_candles(
    n: int, timeframe_s: int, seed: int = 0, end: int | None = None, volatility: float = 0.002
) -> Candles:
    """A random walk of n gapless candles whose last one closes at ``end`` (Unix seconds)."""
    rng = np.random.default_rng(seed)
    end = to_unix(NOON) if end is None else end
    returns = rng.normal(0, volatility, n)
    close = np.round(100 * np.exp(np.cumsum(returns)), 2)
    open_ = np.concatenate([[100.0], close[:-1]])
    wick = np.abs(rng.normal(0, volatility / 2, (2, n)))
    high = np.round(np.maximum(open_, close) * (1 + wick[0]), 2)
    low = np.round(np.minimum(open_, close) * (1 - wick[1]), 2)
    as_of = end - timeframe_s * np.arange(n - 1, -1, -1)
    volume = np.round(rng.lognormal(2, 1, n), 6)
    return Candles.from_columns([as_of, open_, np.maximum(high, np.maximum(open_, close)),
                                 np.minimum(low, np.minimum(open_, close)), close, volume,
                                 np.full(n, UNKNOWN_TRADES)])  # fmt: skip


def store_candles(
    database_for: DatabaseFor, venue: str, symbol: str, timeframe_s: int, candles: Candles, provenance: str = "real"
) -> int:
    """Inserts the instrument and its candles as role candles; returns the instrument's id."""
    database = database_for("candles")
    at = from_unix(int(candles.as_of[-1]) if len(candles) else 0)
    instrument = {"venue": venue, "symbol": symbol, "timeframe_s": timeframe_s, "provenance": provenance, "at": at}
    row = database.fetch_one(INSERT_INSTRUMENT, instrument)
    assert row is not None
    columns = (getattr(candles, name).tolist() for name in Candles.__slots__)
    rows = [
        (row["id"], timeframe_s, from_unix(as_of), *prices, None if trades < 0 else trades, from_unix(as_of))
        for as_of, *prices, trades in zip(*columns, strict=True)
    ]
    with database.transaction(), database.connection.cursor() as cursor:
        cursor.executemany(INSERT_CANDLE, rows)
    return int(row["id"])
