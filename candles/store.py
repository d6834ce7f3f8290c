"""Writing candles: what is new is inserted, what changed is revised, and coarser candles follow."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from candles.derive import derive_candles
from shared.clock import to_unix
from shared.db import Database, load_queries
from shared.market_data import read_candles
from shared.rows import CANDLE_FIELDS, Candles, Instrument, InstrumentRules

ROWS_A_STATEMENT = 10_000


@dataclass(frozen=True, slots=True)
class Written:
    new: int = 0
    revised: int = 0

    def __add__(self, other: Written) -> Written:
        return Written(self.new + other.new, self.revised + other.revised)


def default_rules(price: float) -> InstrumentRules:
    """Trading rules for a file that states none: ticks of a millionth of the price's decade, lots worth at
    most one unit of the quote currency (BTC at 50,000: tick 0.01, lot 0.00001)."""
    decade = math.floor(math.log10(price))
    tick, lot = Decimal(10) ** max(decade - 6, -8), Decimal(10) ** max(-decade - 1, -8)
    return InstrumentRules(tick_size=tick, lot_size=lot, min_notional=Decimal(10))


def add_instrument(
    database: Database,
    venue: str,
    symbol: str,
    timeframe_s: int,
    rules: InstrumentRules,
    provenance: str,
    recorded_at: datetime,
) -> Instrument:
    """The instrument's row, made at first sight; a known instrument keeps its rules."""
    params = {
        "venue": venue,
        "symbol": symbol,
        "timeframe_s": timeframe_s,
        "tick_size": rules.tick_size,
        "lot_size": rules.lot_size,
        "min_notional": rules.min_notional,
        "provenance": provenance,
        "recorded_at": recorded_at,
    }
    return database.fetch_rows(Instrument, load_queries("candles")["add_instrument"], params)[0]


def known_series(
    database: Database, venue: str, symbols: Sequence[str], timeframe_s: int
) -> dict[str, tuple[Instrument, int | None]]:
    """The known instruments among ``symbols``, each with its last stored close (Unix seconds) at ``timeframe_s``."""
    params = {"venue": venue, "symbols": list(symbols), "timeframe_s": timeframe_s}
    rows = database.fetch(load_queries("candles")["known_series"], params)
    lasts = [row.pop("last") for row in rows]
    return {row["symbol"]: (Instrument(**row), last and to_unix(last)) for row, last in zip(rows, lasts, strict=True)}


def write_candles(
    database: Database,
    instrument: Instrument,
    timeframe_s: int,
    candles: Candles,
    derive_to_s: int,
    source: str,
    recorded_at: datetime,
    newest: int | None = None,
    advance: Callable[[int], object] = lambda rows: None,
) -> Written:
    """Stores valid candles and the ``derive_to_s`` candles that they complete; the caller's transaction.

    ``newest`` is the series' newest close, these included, where the caller knows it: it spares a look.
    """
    written = Written()
    for start in range(0, len(candles), ROWS_A_STATEMENT):
        part = candles[start : start + ROWS_A_STATEMENT]
        written += _upsert(database, instrument.id, timeframe_s, part, source, recorded_at)
        advance(len(part))
    if timeframe_s >= derive_to_s or derive_to_s % timeframe_s or written == Written():
        return written
    first = (int(candles.as_of[0]) - 1) // derive_to_s * derive_to_s
    if newest is None or first + derive_to_s <= newest:  # else the first coarser candle is not over yet
        last = -(-int(candles.as_of[-1]) // derive_to_s) * derive_to_s
        base = read_candles(database, instrument.id, timeframe_s, first, last)
        derived = derive_candles(base, timeframe_s, derive_to_s)
        if len(derived):
            _upsert(database, instrument.id, derive_to_s, derived, f"derived:{timeframe_s}", recorded_at)
    return written


def _upsert(
    database: Database, instrument_id: int, timeframe_s: int, candles: Candles, source: str, recorded_at: datetime
) -> Written:
    columns = {name: getattr(candles, name).tolist() for name in CANDLE_FIELDS}
    params = {
        "instrument_id": instrument_id,
        "timeframe_s": timeframe_s,
        "source": source,
        "recorded_at": recorded_at,
        **columns,
    }
    rows = database.fetch(load_queries("candles")["write_candles"], params)
    new = sum(row["is_new"] for row in rows)
    return Written(new, len(rows) - new)
