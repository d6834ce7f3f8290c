"""Candles that are too far from the one before them to be believed at first sight.

A venue's bad candle and a crash look the same once; a crash is there at the second reading, too.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import numpy as np
from numpy.typing import NDArray

from candles.intake import Refused, describe, quarantine
from shared.alerts import raise_alert
from shared.clock import from_unix
from shared.db import Database, load_queries
from shared.market_data import BoolArray, read_candles
from shared.rows import Candles

# A candle further than this from the close before it is suspect. Liquid pairs have hardly ever moved by so much in
# five minutes; what did (LINK on 2020-03-12, LUNA's end) only costs one more reading.
SPIKE_FACTOR = 2.0
SPIKE = "spike"  # the reason in the quarantine
REFERENCE_S = 86_400  # a close that is older says nothing about where a price may be
PRICES = ("open", "high", "low", "close")


@dataclass(frozen=True, slots=True)
class Judged:
    """``believed`` holds the ``insisted`` ones, too: absurd, and the same at the second reading."""

    believed: Candles
    doubted: Candles
    insisted: Candles


def judge(
    database: Database,
    instrument_id: int,
    timeframe_s: int,
    sound: Candles,
    doubted: Candles | None,
    from_trades: bool,
    overlaps: bool,
) -> Judged:
    """Parts the sound candles of one answer, oldest first. ``doubted``: those of the first reading, at the second,
    which is only about them. ``overlaps``: the answer begins with candles that are stored, and needs no other."""
    reference = None if overlaps else _close_before(database, instrument_id, timeframe_s, int(sound.as_of[0]))
    suspects = find_suspects(sound, reference)
    insisted = np.zeros_like(suspects)
    if doubted is not None:
        asked = np.isin(sound.as_of, doubted.as_of)
        sound, suspects = sound[asked], suspects[asked]
        alike = same_prices(sound, doubted)
        insisted, suspects = suspects & alike, suspects & ~alike
    if suspects.any():  # what is stored was believed before; and nothing built from trades replaces it
        first, last = sound.as_of[suspects][[0, -1]].tolist()
        stored = read_candles(database, instrument_id, timeframe_s, first - timeframe_s, last)
        suspects &= ~(np.isin(sound.as_of, stored.as_of) if from_trades else same_prices(sound, stored))
    return Judged(sound[~suspects], sound[suspects], sound[insisted])


def tell(database: Database, venue: str, symbol: str, timeframe_s: int, found: Judged, now: datetime) -> None:
    """Quarantines what is doubted; an alert names what a person should look at although it is stored."""
    refused = [Refused(SPIKE, describe(found.doubted, i)) for i in range(len(found.doubted))]
    quarantine(database, venue, symbol, timeframe_s, venue, refused, now)
    if len(found.insisted):
        rows = "; ".join(describe(found.insisted, i) for i in range(len(found.insisted)))
        text = f"{symbol}: far from the candle before, but {venue} says it twice and it is stored: {rows}"
        raise_alert(database, now, "warning", f"backfill-spike:{venue}:{symbol}", text)


def _close_before(database: Database, instrument_id: int, timeframe_s: int, close: int) -> float | None:
    params = {
        "instrument_id": instrument_id,
        "timeframe_s": timeframe_s,
        "oldest": from_unix(max(close - max(REFERENCE_S, timeframe_s), 0)),
        "before": from_unix(close),
    }
    row = database.fetch_one(load_queries("candles")["close_before"], params)
    return None if row is None else float(row["close"])


def find_suspects(candles: Candles, reference: float | None) -> BoolArray:
    """True where a sound candle is absurdly far from the close before it, shape (len(candles),).

    ``candles``: oldest first; ``reference``: the close before the first one, if any. Only the step to a new level is
    suspect, neither what follows there nor a return to where the price was before a single suspect. A first candle
    without a reference is suspect with the second: nobody knows which of the two is the odd one.
    """
    before = np.empty(len(candles))
    before[1:], before[:1] = candles.close[:-1], np.nan if reference is None else reference
    suspects = _is_far(candles, before)
    if not suspects.any():
        return suspects
    for index in np.flatnonzero(suspects[1:]) + 1:
        returned = suspects[index - 1] and not np.isnan(before[index - 1])
        suspects[index] = not returned or _is_far(candles[index : index + 1], before[index - 1 : index]).any()
    if reference is None and len(candles) > 1:
        suspects[0] = suspects[1]
    return suspects


def same_prices(candles: Candles, others: Candles) -> BoolArray:
    """True where ``others`` (oldest first) hold a candle of that close with the same prices."""
    places = others.as_of.searchsorted(candles.as_of)
    same = places < len(others)
    found = others[places[same]]
    equal = found.as_of == candles.as_of[same]
    for name in PRICES:
        equal &= getattr(found, name) == getattr(candles, name)[same]
    same[same] = equal
    return np.asarray(same, dtype=np.bool_)


def _is_far(candles: Candles, reference: NDArray[np.float64]) -> BoolArray:
    far: BoolArray = (candles.high > reference * SPIKE_FACTOR) | (candles.low * SPIKE_FACTOR < reference)
    return far
