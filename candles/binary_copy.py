"""Candles as the bytes of PostgreSQL's binary COPY (shared/binary_copy.py)."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shared.binary_copy import copy_in, encode, new_rows, sent_time, sent_times
from shared.db import Database, load_queries
from shared.rows import CANDLE_FIELDS, UNKNOWN_TRADES, Candles

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
    copy_in(database, load_queries("candles")["copy_candles"], data)


def encode_candles(instrument_id: int, timeframe_s: int, candles: Candles, source: str, recorded_at: datetime) -> bytes:
    """The whole input of the query copy_candles: first the candles whose number of trades is known, then the others.

    ValueError for a number of trades that its column cannot hold.
    """
    if len(candles) and candles.trades.max() > LARGEST_INTEGER:
        raise ValueError(f"a candle of {candles.trades.max()} trades: market_data holds at most {LARGEST_INTEGER}")
    constants = {
        "instrument_id": instrument_id,
        "timeframe_s": timeframe_s,
        "recorded_at": sent_time(recorded_at),
        "source": np.frombuffer(source.encode(), np.uint8),
    }
    unknown = candles.trades == UNKNOWN_TRADES
    return encode(_rows(candles[~unknown], constants, True), _rows(candles[unknown], constants, False))


def _rows(candles: Candles, constants: dict[str, Any], trades_known: bool) -> NDArray[Any]:
    kinds: dict[str, Any] = {**COLUMN_KINDS, "source": (np.uint8, len(constants["source"]))}
    if not trades_known:
        kinds["trades"] = None
    rows = new_rows(len(candles), kinds)
    for name, value in constants.items():
        rows[name] = value
    rows["as_of"] = sent_times(candles.as_of)
    for name in CANDLE_FIELDS[1:-1]:
        rows[name] = getattr(candles, name)
    if trades_known:
        rows["trades"] = candles.trades
    return rows
