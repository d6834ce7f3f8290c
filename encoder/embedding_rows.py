"""Embeddings as rows: written by PostgreSQL's binary COPY (shared/binary_copy.py), each of them once."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np

from encoder.inference import Embedded
from shared.binary_copy import copy_in, encode, new_rows, sent_time, sent_times
from shared.clock import from_unix
from shared.db import Database, load_queries
from shared.embeddings import EMBEDDING_SIZE, SENT_VECTOR
from shared.market_data import BoolArray, read_records
from shared.model_store import Model
from shared.rows import IntArray

# The columns of the query copy_embeddings.
COLUMNS: dict[str, np.dtype[Any]] = {
    "model_id": np.dtype(">i8"),
    "instrument_id": np.dtype(">i4"),
    "timeframe_s": np.dtype(">i4"),
    "as_of": np.dtype(">i8"),
    "embedding": SENT_VECTOR,
    "ood": np.dtype(">f8"),
    "known_from": np.dtype(">i8"),
    "recorded_at": np.dtype(">i8"),
}


@dataclass(frozen=True, slots=True)
class Moments:
    """The closes that embeddings speak about: ``instrument_id`` and ``as_of`` (Unix seconds), each [N]."""

    instrument_id: IntArray
    as_of: IntArray

    def __len__(self) -> int:
        return len(self.as_of)


def embedded_closes(
    database: Database, model_id: int, instrument_id: int, timeframe_s: int, first: datetime, last: datetime
) -> IntArray:
    """The closes in [first, last] that a model has embedded, oldest first."""
    params = {"model_id": model_id, "instrument_id": instrument_id, "timeframe_s": timeframe_s}
    sent = read_records(
        database, load_queries("encoder")["embedded_closes"], params | {"first": first, "last": last}, np.dtype(">i8")
    )
    return sent.astype(np.int64)


def write_embeddings(
    database: Database, model: Model, timeframe_s: int, moments: Moments, embedded: Embedded, recorded_at: datetime
) -> int:
    """Stores what is not stored yet, in one transaction; what was written stays as it was. The number written.

    Several writers may come at once (a back-fill and the hourly job): they take turns.
    """
    if not len(moments):
        return 0
    with database.transaction():
        database.execute(load_queries("encoder")["take_turn_at_embeddings"])
        new = ~_stored(database, model.id, timeframe_s, moments)
        data = encode_embeddings(
            model,
            timeframe_s,
            Moments(moments.instrument_id[new], moments.as_of[new]),
            Embedded(embedded.embedding[new], embedded.ood[new]),
            recorded_at,
        )
        copy_in(database, load_queries("encoder")["copy_embeddings"], data)
        if new.any():
            database.fetch(load_queries("encoder")["announce_embeddings"], {"model_id": model.id})
    return int(np.count_nonzero(new))


def _stored(database: Database, model_id: int, timeframe_s: int, moments: Moments) -> BoolArray:
    stored = np.zeros(len(moments), dtype=bool)
    for instrument_id in np.unique(moments.instrument_id).tolist():
        own = moments.instrument_id == instrument_id
        first, last = from_unix(moments.as_of[own].min()), from_unix(moments.as_of[own].max())
        known = embedded_closes(database, model_id, instrument_id, timeframe_s, first, last)
        stored[own] = np.isin(moments.as_of[own], known)
    return stored


def encode_embeddings(
    model: Model, timeframe_s: int, moments: Moments, embedded: Embedded, recorded_at: datetime
) -> bytes:
    """The whole input of the query copy_embeddings. Known from its close, or with the model if that is later."""
    rows = new_rows(len(moments), COLUMNS)
    rows["model_id"], rows["timeframe_s"] = model.id, timeframe_s
    rows["instrument_id"] = moments.instrument_id
    rows["as_of"] = sent_times(moments.as_of)
    rows["embedding"]["size"], rows["embedding"]["unused"] = EMBEDDING_SIZE, 0
    rows["embedding"]["values"] = embedded.embedding
    rows["ood"] = embedded.ood
    rows["known_from"] = np.maximum(rows["as_of"], sent_time(model.known_from))
    rows["recorded_at"] = sent_time(recorded_at)
    return encode(rows)
