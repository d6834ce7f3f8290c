"""Stored embeddings beside what followed: the ln volatility of the next 24 hours, as far as it is known."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import numpy as np

from encoder.dataset import LABEL_HORIZON_S, LABELS, label
from shared.clock import to_unix
from shared.db import Database, load_queries
from shared.embeddings import read_embeddings
from shared.features import WINDOW
from shared.market_data import BoolArray, read_candles
from shared.rows import FloatArray, IntArray

LOG_VOLATILITY_24H = LABELS.index("log_volatility_86400s")


@dataclass(frozen=True, slots=True)
class Seen:
    """What one model saw: N moments, instrument by instrument, oldest first.

    ``as_of`` [N] in Unix seconds; ``embedding`` float64 [N, 64]; ``ood`` [N]; ``outcome`` [N]: ln of the root mean
    square return of a candle over the 24 hours after, NaN where they are not over or lack candles.
    """

    instrument_id: IntArray
    as_of: IntArray
    embedding: FloatArray
    ood: FloatArray
    outcome: FloatArray

    def __len__(self) -> int:
        return len(self.as_of)

    def select(self, chosen: BoolArray | IntArray) -> Seen:
        return Seen(*(getattr(self, name)[chosen] for name in self.__slots__))


def read_seen(database: Database, model_id: int, timeframe_s: int, after: datetime, until: datetime) -> Seen:
    """One model's embeddings with after < as_of <= until, with the outcomes known at ``until``."""
    span = {"model_id": model_id, "after": after, "until": until}
    ids = [row["instrument_id"] for row in database.fetch(load_queries("encoder")["instruments_of_model"], span)]
    start, end = to_unix(after), to_unix(until)
    series = read_embeddings(database, model_id, ids, timeframe_s, start, end)
    columns = [
        (np.full(len(s.as_of), i), s.as_of, s.embedding, s.ood, _outcomes(database, i, timeframe_s, s.as_of, end))
        for i, s in series.items()
    ]
    nothing = (np.empty(0, np.int64), np.empty(0, np.int64), np.empty((0, 64)), np.empty(0), np.empty(0))
    instrument_id, as_of, embedding, ood, outcome = (
        np.concatenate(part) for part in zip(nothing, *columns, strict=True)
    )
    return Seen(instrument_id, as_of, embedding.astype(np.float64), ood, outcome)


def _outcomes(database: Database, instrument_id: int, timeframe_s: int, as_of: IntArray, until: int) -> FloatArray:
    """Of the closes ``as_of`` [N], oldest first."""
    last = min(until, int(as_of[-1]) + LABEL_HORIZON_S)
    first = int(as_of[0]) - WINDOW * timeframe_s  # labels are relative to candles before
    candles = read_candles(database, instrument_id, timeframe_s, first, last)
    closes, labels = label(candles, timeframe_s)
    outcome = np.full(len(as_of), np.nan)
    if len(closes):
        at = np.minimum(np.searchsorted(closes, as_of), len(closes) - 1)
        known = closes[at] == as_of
        outcome[known] = labels[at[known], LOG_VOLATILITY_24H]
    return outcome


def known_before(seen: Seen, moment: datetime) -> BoolArray:
    """[N]: whether a moment's outcome was known before ``moment``."""
    return ~np.isnan(seen.outcome) & (seen.as_of + LABEL_HORIZON_S <= moment.timestamp())
