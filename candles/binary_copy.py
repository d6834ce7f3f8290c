"""Candles as the bytes of PostgreSQL's binary COPY, made by numpy: no Python object a row.

The format (PostgreSQL's documentation of COPY, "Binary Format"): a header; each row as the number of its fields
and each field as its length and its bytes, big-endian; a trailer. NULL is length -1 without bytes.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import numpy as np

from shared.clock import from_unix
from shared.db import Database, load_queries
from shared.market_data import MICROSECONDS, POSTGRES_EPOCH_S
from shared.rows import CANDLE_FIELDS, UNKNOWN_TRADES, Candles

HEADER = b"PGCOPY\n\xff\r\n\0" + bytes(8)  # signature, no flags, no extension
TRAILER = b"\xff\xff"
NULL_LENGTH = -1
LARGEST_INTEGER = 2**31 - 1

# The columns of the query copy_candles but for ``source``, whose length differs from call to call.
COLUMN_KINDS = {
    "instrument_id": ">i4",
    "timeframe_s": ">i4",
    "as_of": ">i8",
    "open": ">f8",
    "high": ">f8",
    "low": ">f8",
    "close": ">f8",
    "volume": ">f8",
    "trades": ">i4",
    "recorded_at": ">i8",
}


def copy_candles(
    database: Database, instrument_id: int, timeframe_s: int, candles: Candles, source: str, recorded_at: datetime
) -> None:
    """Appends candles to market_data; DatabaseError when one of them is stored already, or not sound."""
    data = encode_candles(instrument_id, timeframe_s, candles, source, recorded_at)
    with database.connection.cursor() as cursor, cursor.copy(load_queries("candles")["copy_candles"]) as copy:
        copy.write(data)


def encode_candles(instrument_id: int, timeframe_s: int, candles: Candles, source: str, recorded_at: datetime) -> bytes:
    """The whole input of the query copy_candles: first the candles whose number of trades is known, then the others.

    ValueError for a number of trades that its column cannot hold.
    """
    if len(candles) and candles.trades.max() > LARGEST_INTEGER:
        raise ValueError(f"a candle of {candles.trades.max()} trades: market_data holds at most {LARGEST_INTEGER}")
    constants = {
        "instrument_id": instrument_id,
        "timeframe_s": timeframe_s,
        "recorded_at": (recorded_at - from_unix(POSTGRES_EPOCH_S)) // timedelta(microseconds=1),
        "source": np.frombuffer(source.encode(), np.uint8),
    }
    unknown = candles.trades == UNKNOWN_TRADES
    return HEADER + _rows(candles[~unknown], constants, True) + _rows(candles[unknown], constants, False) + TRAILER


def _rows(candles: Candles, constants: dict[str, Any], trades_known: bool) -> bytes:
    kinds: dict[str, Any] = {**COLUMN_KINDS, "source": (np.uint8, len(constants["source"]))}
    if not trades_known:
        kinds["trades"] = (np.uint8, 0)
    fields = [field for name, kind in kinds.items() for field in ((_length(name), ">i4"), (name, kind))]
    rows = np.empty(len(candles), [("fields", ">i2"), *fields])
    rows["fields"] = len(kinds)
    for name in kinds:
        rows[_length(name)] = rows.dtype[name].itemsize
    for name, value in constants.items():
        rows[name] = value
    rows["as_of"] = (candles.as_of - POSTGRES_EPOCH_S) * MICROSECONDS
    for name in CANDLE_FIELDS[1:-1]:
        rows[name] = getattr(candles, name)
    if trades_known:
        rows["trades"] = candles.trades
    else:
        rows[_length("trades")] = NULL_LENGTH
    return rows.tobytes()


def _length(name: str) -> str:
    return f"{name}_length"
