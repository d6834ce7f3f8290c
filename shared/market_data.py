"""Reading candles and instruments: numpy arrays without a Python object a row."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from shared.clock import from_unix
from shared.db import Database, load_queries
from shared.errors import SextantError
from shared.rows import Candles, Instrument

CANDLE_KINDS = (">i8", ">f8", ">f8", ">f8", ">f8", ">f8", ">i4")


class UnknownInstrument(SextantError, LookupError):
    """An instrument that no candle was ever stored for."""


def read_candles(database: Database, instrument_id: int, timeframe_s: int, after: int, until: int) -> Candles:
    """The stored candles with after < as_of <= until (Unix seconds), oldest first, gaps left out."""
    row = database.fetch_one(
        load_queries("shared")["read_candles"],
        {
            "instrument_id": instrument_id,
            "timeframe_s": timeframe_s,
            "after": from_unix(after),
            "until": from_unix(until),
        },
    )
    if row is None or row["as_of"] is None:
        return Candles.empty()
    columns = (np.frombuffer(row[name], kind) for name, kind in zip(Candles.__slots__, CANDLE_KINDS, strict=True))
    return Candles.from_columns(list(columns))


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
