"""Reading embeddings as numpy arrays without a Python object a row."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from shared.clock import from_unix
from shared.db import Database, load_queries
from shared.rows import FloatArray, IntArray

EMBEDDING_SIZE = 64
# pgvector's binary form: the number of dimensions, 16 unused bits, then big-endian float4.
SENT_VECTOR = np.dtype([("size", ">i2"), ("unused", ">i2"), ("values", ">f4", (EMBEDDING_SIZE,))])


class Embeddings(NamedTuple):
    """One instrument's series, oldest first; moments without an embedding are absent."""

    as_of: IntArray  # [n], Unix seconds
    embedding: NDArray[np.float32]  # [n, 64]
    ood: FloatArray  # [n], percentile 0..1


def read_embeddings(
    database: Database,
    model_id: int,
    instrument_ids: Sequence[int],
    timeframe_s: int,
    after: int,
    until: int,
    known_by: datetime | None = None,
) -> dict[int, Embeddings]:
    """One model's embeddings with after < as_of <= until (Unix seconds), by instrument id.

    With ``known_by`` only those that anybody could have had by then. An instrument without any has an
    empty series.
    """
    rows = database.fetch(
        load_queries("embeddings")["read_embeddings"],
        {
            "model_id": model_id,
            "instrument_ids": list(instrument_ids),
            "timeframe_s": timeframe_s,
            "after": from_unix(after),
            "until": from_unix(until),
            "known_by": known_by,
        },
    )
    found = {row["instrument_id"]: _series(row) for row in rows}
    nothing = _series({"as_of": b"", "embedding": b"", "ood": b""})
    return {instrument_id: found.get(instrument_id, nothing) for instrument_id in instrument_ids}


def _series(row: dict[str, Any]) -> Embeddings:
    return Embeddings(
        np.frombuffer(row["as_of"], ">i8").astype(np.int64),
        np.frombuffer(row["embedding"], SENT_VECTOR)["values"].astype(np.float32),
        np.frombuffer(row["ood"], ">f8").astype(np.float64),
    )


def vector_text(embedding: NDArray[np.float32]) -> str:
    """pgvector's text form, each number as short as float32 allows: reading it back gives the same bits."""
    return "[" + ",".join(map(str, embedding)) + "]"
