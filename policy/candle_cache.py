"""The candles of a wallet's instruments, kept between the ticks of one process: each tick reads only what is new.

A window of 360 days is read again only where something in it may have changed: a candle was revised (each revision is a
row of candle_revisions), or one was filled in before the series' first; a series with a hole is never kept, for the
hole may be filled. Kept for each database apart, as loaded models are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import numpy as np

from shared.clock import from_unix
from shared.db import Database, load_queries
from shared.market_data import SENT_CANDLE, read_candles, sent_candles
from shared.rows import Candles

SENT = np.dtype(SENT_CANDLE)


@dataclass(frozen=True, slots=True)
class Kept:
    candles: Candles
    revision: int  # the newest of its revisions when it was read


_KEPT: WeakKeyDictionary[Database, dict[tuple[int, int], Kept]] = WeakKeyDictionary()


def newest_windows(
    database: Database, instrument_ids: Sequence[int], timeframe_s: int, after: int, until: int
) -> list[Candles]:
    """What ``read_candles`` gives of each instrument for after < as_of <= until (Unix seconds), to the bit."""
    kept = _KEPT.setdefault(database, {})
    known = [kept.get((id_, timeframe_s)) for id_ in instrument_ids]
    spans = [(k.candles.as_of[0], k.candles.as_of[-1]) if k else (until, after) for k in known]
    rows = database.fetch(load_queries("candle_cache")["news"], {
        "ids": list(instrument_ids), "timeframe_s": timeframe_s, "until": from_unix(until), "after": from_unix(after),
        "first": [from_unix(int(first)) for first, _ in spans], "last": [from_unix(int(last)) for _, last in spans],
    })  # fmt: skip
    by_id = {row["id"]: row for row in rows}
    found = []
    for id_, old in zip(instrument_ids, known, strict=True):
        news = by_id[id_]
        if old is None or news["revision"] != old.revision or news["earlier"] or old.candles.as_of[-1] > until:
            candles = read_candles(database, id_, timeframe_s, after, until)
        else:
            candles = Candles.concatenate([old.candles, sent_candles(np.frombuffer(news["candles"] or b"", SENT))])
            candles = candles[candles.as_of > after]
        if len(candles) and (np.diff(candles.as_of) == timeframe_s).all():
            kept[id_, timeframe_s] = Kept(candles, news["revision"])
        else:
            kept.pop((id_, timeframe_s), None)
        found.append(candles)
    return found
