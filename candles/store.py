"""Writing candles: what is new is appended, what changed is revised, and coarser candles follow.

A revised candle keeps its former values in candle_revisions. Candles are equal when their five numbers are, bit
for bit; a number of trades is revised by another one and never by "unknown". What the venue itself gave is replaced
by the venue only, what a file gave also by a file, and a derived candle by anything: an export may end in a candle that
was still open. Where a candle was derived and another source has it, too, their volumes are sums in different order:
they are equal within rounding, and the derived candle stays as it is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields, replace
from datetime import datetime
from decimal import Decimal
from typing import Any

import numpy as np
from numpy.typing import NDArray

from candles.binary_copy import copy_candles
from candles.derive import derive_candles
from shared.clock import from_unix, to_unix
from shared.db import Database, load_queries
from shared.job import JobError
from shared.market_data import SENT_CANDLE, read_candles, read_records, sent_candles
from shared.rows import CANDLE_FIELDS, UNKNOWN_TRADES, Candles, Instrument, InstrumentRules, IntArray

ROWS_A_STATEMENT = 20_000
STORED_CANDLE = np.dtype([*SENT_CANDLE, ("rank", np.int8)])
RankArray = NDArray[np.int8]
DERIVED, FILE, VENUE = 0, 1, 2  # ranks of sources; the query stored_candles knows them, too
PRICES = CANDLE_FIELDS[1:5]
SUM_ROUNDING = 1e-9  # relative; a sum of a few hundred volumes, in float64 or as text of eight decimals, is far closer


@dataclass(frozen=True, slots=True)
class Written:
    """``kept`` are stored candles that differ and stay: their source ranks higher."""

    new: int = 0
    revised: int = 0
    kept: int = 0

    def __add__(self, other: Written) -> Written:
        return Written(self.new + other.new, self.revised + other.revised, self.kept + other.kept)


@dataclass(frozen=True, slots=True)
class Target:
    """The series that candles go to, and what is written beside them."""

    instrument_id: int
    timeframe_s: int
    source: str
    recorded_at: datetime

    @property
    def rank(self) -> int:
        kind, colon, _ = self.source.partition(":")
        return {"derived": DERIVED, "file": FILE}.get(kind, VENUE) if colon else VENUE

    def params(self, **others: Any) -> dict[str, Any]:
        return {
            "instrument_id": self.instrument_id,
            "timeframe_s": self.timeframe_s,
            "source": self.source,
            "recorded_at": self.recorded_at,
        } | others


@dataclass(frozen=True, slots=True)
class Difference:
    """What writing candles would change."""

    new: Candles
    revised: Candles
    kept: int


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
    """The instrument's row, made at first sight; a known instrument keeps its rules.

    JobError where it is known with candles of the other provenance.
    """
    params = {
        "venue": venue,
        "symbol": symbol,
        "timeframe_s": timeframe_s,
        "provenance": provenance,
        "recorded_at": recorded_at,
    } | asdict(rules)
    added = database.fetch_rows(Instrument, load_queries("candles")["add_instrument"], params)
    if not added:
        raise _mixed(venue, symbol, provenance)
    return added[0]


def refresh_rules(
    database: Database, instrument: Instrument, rules: InstrumentRules, recorded_at: datetime
) -> Instrument:
    """The instrument under the venue's rules of today: a file states none, and venues change theirs."""
    changed = replace(instrument, **asdict(rules))
    if changed != instrument:
        params = {"id": instrument.id, "recorded_at": recorded_at} | asdict(rules)
        database.execute(load_queries("candles")["refresh_rules"], params)
    return changed


def delist(database: Database, instrument: Instrument, recorded_at: datetime) -> Instrument:
    """The instrument as one that its venue no longer lists; its last rules stay known."""
    rules = InstrumentRules(**{field.name: getattr(instrument, field.name) for field in fields(InstrumentRules)})
    return refresh_rules(database, instrument, replace(rules, status="delisted"), recorded_at)


def _mixed(venue: str, symbol: str, provenance: str) -> JobError:
    other = "real" if provenance == "simulated" else "simulated"
    return JobError(
        f"{venue} {symbol}: the candles stored here are {other}, these are {provenance}, and they never mix: "
        "set SEXTANT_HOME to another folder for a rehearsal, or `make db-reset`"
    )


def known_series(
    database: Database, venue: str, symbols: Sequence[str], timeframe_s: int, provenance: str
) -> dict[str, tuple[Instrument, int | None]]:
    """The known instruments among ``symbols``, each with its last stored close (Unix seconds) at ``timeframe_s``.

    JobError where one holds candles of another provenance than those that are coming.
    """
    params = {"venue": venue, "symbols": list(symbols), "timeframe_s": timeframe_s}
    rows = database.fetch(load_queries("candles")["known_series"], params)
    for row in rows:
        if row["provenance"] != provenance:
            raise _mixed(venue, row["symbol"], provenance)
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
    """Stores valid candles and the ``derive_to_s`` candles that they complete or revise, all or none.

    Joins the caller's transaction, and locks the instrument until that ends: who writes several instruments in
    one transaction does so in the order of their ids, or two such writers may wait for each other. ``newest`` is
    the series' newest close, these included, where the caller knows it: it spares a look. ValueError for candles
    out of order or repeated.
    """
    if (np.diff(candles.as_of) <= 0).any():
        raise ValueError(f"candles of {instrument.symbol} are not in order, or one is there twice; sort them first")
    to = Target(instrument.id, timeframe_s, source, recorded_at)
    coarse = Target(instrument.id, derive_to_s, f"derived:{timeframe_s}", recorded_at)
    derives = derive_to_s > timeframe_s and derive_to_s % timeframe_s == 0
    written, closes, coarse_closes = Written(), [], []
    with database.transaction():
        database.execute(load_queries("candles")["lock_series"], {"instrument_id": instrument.id})
        for part in _parts(candles, timeframe_s, derive_to_s if derives else timeframe_s):
            counts, touched = _upsert(database, to, part)
            written += counts
            closes.append(touched)
            if derives:
                coarse_closes.append(_derive(database, to, coarse, touched, newest))
            advance(len(part))
        _announce(database, to, closes)
        _announce(database, coarse, coarse_closes)
    return written


def _parts(candles: Candles, timeframe_s: int, whole_s: int) -> Iterator[Candles]:
    """Stretches of at most ROWS_A_STATEMENT slots, so that what is stored there fits in memory, too. No border
    lies inside a candle of ``whole_s``: it is derived once, when all of it is there."""
    stretch_s = max(ROWS_A_STATEMENT * timeframe_s // whole_s, 1) * whole_s
    borders = np.flatnonzero(np.diff((candles.as_of - 1) // stretch_s)) + 1
    for start, end in zip([0, *borders.tolist()], [*borders.tolist(), len(candles)], strict=True):
        if end > start:
            yield candles[start:end]


def _upsert(database: Database, to: Target, candles: Candles) -> tuple[Written, IntArray]:
    """Writes what differs from what is stored; returns the closes of what is new or revised, too."""
    queries = load_queries("candles")
    span = {"first": from_unix(int(candles.as_of[0])), "last": from_unix(int(candles.as_of[-1]))}
    records = read_records(database, queries["stored_candles"], to.params(**span), STORED_CANDLE)
    found = compare(candles, sent_candles(records), records["rank"], to.rank)
    if len(found.new):
        copy_candles(database, to.instrument_id, to.timeframe_s, found.new, to.source, to.recorded_at)
    if len(found.revised):
        columns = {name: getattr(found.revised, name).tolist() for name in CANDLE_FIELDS}
        database.execute(queries["revise_candles"], to.params(**columns))
    touched = np.union1d(found.new.as_of, found.revised.as_of)
    return Written(len(found.new), len(found.revised), found.kept), touched


def compare(candles: Candles, stored: Candles, ranks: RankArray, rank: int) -> Difference:
    """What of ``candles``, of a source of that ``rank``, is new or differs from ``stored`` (both sorted, unique).

    ``ranks``, shape (len(stored),), are those of the stored candles' sources.
    """
    places = stored.as_of.searchsorted(candles.as_of)
    known = np.zeros(len(candles), bool)
    inside = places < len(stored)
    known[inside] = stored.as_of[places[inside]] == candles.as_of[inside]
    again, former, held = candles[known], stored[places[known]], ranks[places[known]]
    again = replace(again, trades=np.where(again.trades == UNKNOWN_TRADES, former.trades, again.trades))
    differs = again.volume.view(np.int64) != former.volume.view(np.int64)  # as bits: 0.0 and -0.0 are not the same
    rounded = np.abs(again.volume - former.volume) <= SUM_ROUNDING * former.volume
    differs &= ~(rounded & ((held == DERIVED) != (rank == DERIVED)))
    differs |= again.trades != former.trades
    for name in PRICES:
        differs |= getattr(again, name).view(np.int64) != getattr(former, name).view(np.int64)
    kept = differs & (held > rank)
    return Difference(candles[~known], again[differs & ~kept], int(np.count_nonzero(kept)))


def _derive(database: Database, base: Target, coarse: Target, touched: IntArray, newest: int | None) -> IntArray:
    """Writes the coarser candles that the base candles closed at ``touched`` are part of; returns their closes."""
    step = coarse.timeframe_s
    closes = np.unique(-(-touched // step) * step)
    if newest is not None:
        closes = closes[closes <= newest]  # later ones are not over yet
    if not len(closes):
        return closes
    whole = read_candles(database, base.instrument_id, base.timeframe_s, int(closes[0]) - step, int(closes[-1]))
    derived = derive_candles(whole, base.timeframe_s, step)
    return _upsert(database, coarse, derived)[1] if len(derived) else derived.as_of


def _announce(database: Database, to: Target, closes: Sequence[IntArray]) -> None:
    newest = max((int(part[-1]) for part in closes if len(part)), default=None)
    if newest is not None:
        database.execute(load_queries("candles")["announce_candles"], to.params(newest=newest))
