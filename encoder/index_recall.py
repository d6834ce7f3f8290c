"""How much of what an exact scan finds the active encoder's HNSW index finds too."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shared.analogs import SENT_MOMENT, search_moments
from shared.db import Database, load_queries
from shared.embeddings import SENT_VECTOR, vector_text
from shared.market_data import read_records

K = 50
QUESTIONS = 30


@dataclass(frozen=True, slots=True)
class IndexRecall:
    """Mean share of the ``k`` nearest found, over ``questions`` stored moments among ``rows``."""

    model_id: int
    k: int
    recall: float
    questions: int
    rows: int

    def __str__(self) -> str:
        return (
            f"HNSW index of encoder {self.model_id}: recall@{self.k} {self.recall:.4f} against exact scans "
            f"({self.questions} questions, {self.rows:,} rows)"
        )


def index_recall(database: Database, now: datetime) -> IndexRecall | str:
    """Of the active encoder's index; or why there is none to measure."""
    queries = load_queries("analogs")
    encoder = database.fetch_one(queries["active_encoder"])
    if encoder is None:
        return "no HNSW index to measure: no encoder is active in this database"
    indexed = database.fetch_one(queries["is_indexed"], {"model_id": encoder["id"]})
    if indexed is None or not indexed["indexed"]:
        return f"no HNSW index to measure: encoder {encoder['id']} has none yet; `make encoder-upgrade` builds it"
    params = {"model_id": encoder["id"], "timeframe_s": encoder["timeframe_s"], "until": now, "known_by": now}
    asked = read_records(database, queries["some_embeddings"], params | {"most": QUESTIONS}, SENT_VECTOR)
    if len(asked) < QUESTIONS:
        return f"no HNSW index to measure: encoder {encoder['id']} has {len(asked)} embeddings only"
    shares, rows = [], 0
    for vector in asked["values"].astype(np.float32):
        question = params | {"embedding": vector_text(vector)}
        moments = read_records(database, queries["scan_moments"], question, SENT_MOMENT)
        shares.append(recall(search_moments(database, question, K), moments, K))
        rows = len(moments)
    return IndexRecall(encoder["id"], K, round(float(np.mean(shares)), 4), len(asked), rows)


def recall(found: NDArray[Any], moments: NDArray[Any], k: int) -> float:
    """Of the k nearest ``moments``, the share ``found`` (both SENT_MOMENT); one as near as the k-th counts as it."""
    nearest = np.partition(moments["similarity"].astype(np.float64), -k)[-k]
    return float(np.count_nonzero(np.sort(found["similarity"])[-k:] >= nearest - 1e-9) / k)


def plain(measured: IndexRecall | str) -> Any:
    """For JSON."""
    return measured if isinstance(measured, str) else asdict(measured)
