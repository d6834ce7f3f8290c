"""Reading candles and instruments: numpy arrays without a Python object a row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, LiteralString

import numpy as np
from numpy.typing import NDArray

from shared.clock import from_unix
from shared.db import Database, Params, load_queries
from shared.errors import SextantError
from shared.rows import CANDLE_FIELDS, Candles, Instrument, IntArray

BoolArray = NDArray[np.bool_]

# A timestamptz in binary form is int64 microseconds since 2000-01-01 UTC.
POSTGRES_EPOCH_S = 946_684_800
MICROSECONDS = 1_000_000
# A candle as the query read_candles sends it: big-endian, trades -1 where NULL.
SENT_CANDLE = [("as_of", ">i8"), *((name, ">f8") for name in CANDLE_FIELDS[1:-1]), ("trades", ">i4")]


class UnknownInstrument(SextantError, LookupError):
    """An instrument that no candle was ever stored for."""


def read_candles(database: Database, instrument_id: int, timeframe_s: int, after: int, until: int) -> Candles:
    """The stored candles with after < as_of <= until (Unix seconds), oldest first, gaps left out."""
    params = {
        "instrument_id": instrument_id,
        "timeframe_s": timeframe_s,
        "after": from_unix(after),
        "until": from_unix(until),
    }
    return sent_candles(read_records(database, load_queries("shared")["read_candles"], params, np.dtype(SENT_CANDLE)))


def read_records(database: Database, query: LiteralString, params: Params, kind: np.dtype[Any]) -> NDArray[Any]:
    """The records of a query that gives all its rows as one byte string (NULL for none), read-only."""
    with database.connection.cursor(binary=True) as cursor:  # in text form each byte would travel as two
        row = cursor.execute(query, params).fetchone()
    return np.frombuffer(row[0] if row and row[0] else b"", kind)


def sent_candles(records: NDArray[Any]) -> Candles:
    """Records whose first fields are SENT_CANDLE."""
    as_of, *others = (records[name] for name in CANDLE_FIELDS)
    return Candles.from_columns([as_of.astype(np.int64) // MICROSECONDS + POSTGRES_EPOCH_S, *others])


def gap_mask(as_of: IntArray, timeframe_s: int) -> BoolArray:
    """True where at least one candle is missing right before this one; the first has none before it.

    ``as_of``, shape (n,), are the closes of one series, oldest first.
    """
    mask = np.zeros(len(as_of), bool)
    mask[1:] = np.diff(as_of) > timeframe_s
    return mask


def find_instruments(database: Database, venue: str, symbols: Sequence[str]) -> list[Instrument]:
    """The instruments of ``symbols`` in that order; UnknownInstrument names those without candles."""
    rows = database.fetch_rows(
        Instrument, load_queries("shared")["find_instruments"], {"venue": venue, "symbols": list(symbols)}
    )
    by_symbol = {row.symbol: row for row in rows}
    missing = [symbol for symbol in symbols if symbol not in by_symbol]
    if missing:
        raise UnknownInstrument(
            f"no candles of {', '.join(missing)} on {venue} are stored; run `make backfill` or `make import-csv FILE=…`"
        )
    return [by_symbol[symbol] for symbol in symbols]
