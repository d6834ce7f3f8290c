"""The past moments most like one, and what followed them.

Decisions and verdicts take ``find_analogs``: an exact scan. ``search_moments`` asks the HNSW index, which may
miss some. Each query is about one model's embeddings: those of two models are never comparable.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import numpy as np
from numpy.typing import NDArray
from psycopg import sql

from shared.clock import from_unix
from shared.db import Database, load_queries
from shared.embeddings import SENT_VECTOR, vector_text
from shared.errors import SextantError
from shared.market_data import MICROSECONDS, POSTGRES_EPOCH_S, read_records
from shared.rows import FloatArray, IntArray

DAY_S = 86_400
SHORTLIST = 32  # moments looked at for each one wanted, before more are sorted
EF_SEARCH = 200
QUERIES_A_BLOCK = 64
SENT_MOMENT = np.dtype([("instrument", ">i4"), ("as_of", ">i8"), ("similarity", ">f8")])


class NoEmbedding(SextantError, LookupError):
    """A moment that the model has not seen, so that nothing can be compared with it."""


@dataclass(frozen=True, slots=True)
class Analogs:
    """n past moments, most similar first: ``instrument`` [n] ids, ``as_of`` [n] closes in Unix seconds, cosine
    ``similarity`` [n], and ``outcomes`` [n, H], the log returns over the horizons that followed."""

    instrument: IntArray
    as_of: IntArray
    similarity: FloatArray
    outcomes: FloatArray

    def __len__(self) -> int:
        return len(self.as_of)


def choose(
    similarity: NDArray[np.floating[Any]],
    instrument: IntArray,
    as_of: IntArray,
    k: int,
    most_of_one: int | None = None,
    one_a_day: bool = True,
) -> IntArray:
    """Indices of up to k moments, greedily from the most similar; of equals the older, then the lower id, is first.

    All arrays are [M]. Two moments of one instrument lie at least 24 hours apart; at most ``most_of_one`` (None:
    half of k) are of one instrument, and more only where the others have too few to make k; with ``one_a_day`` at
    most one is of a calendar day (UTC) over all instruments, because what moves one market moves the others in the
    same hours.
    """
    if most_of_one is None:
        several = len(instrument) > 0 and bool((instrument != instrument[0]).any())
        most_of_one = (k + 1) // 2 if several else k
    chosen = _take(similarity, instrument, as_of, k, most_of_one, one_a_day, [])
    if len(chosen) < k and most_of_one < k:
        chosen = _take(similarity, instrument, as_of, k, k, one_a_day, chosen)
    rows = np.array(chosen, dtype=np.int64)
    return rows[_in_order(similarity[rows], instrument[rows], as_of[rows])]


def _take(
    similarity: NDArray[np.floating[Any]],
    instrument: IntArray,
    as_of: IntArray,
    k: int,
    most_of_one: int,
    one_a_day: bool,
    before: list[int],
) -> list[int]:
    """Rows ``before`` and the most similar that may be beside them, up to k; looked for in growing shortlists, without
    the instruments of which there are enough."""
    left, wanted = np.arange(len(similarity)), SHORTLIST * k
    every_instrument, every_as_of = instrument, as_of
    while True:
        order = _most_similar(similarity, instrument, as_of, wanted)
        chosen = _spread(left[order], every_instrument, every_as_of, k, most_of_one, one_a_day, before)
        if len(chosen) == k or len(order) == len(left):
            return chosen
        which, count = np.unique(every_instrument[chosen], return_counts=True)
        keep = np.isin(instrument, which[count >= most_of_one], invert=True) | np.isin(left, chosen)
        left, similarity, instrument, as_of = left[keep], similarity[keep], instrument[keep], as_of[keep]
        wanted *= 4


def _most_similar(
    similarity: NDArray[np.floating[Any]], instrument: IntArray, as_of: IntArray, wanted: int
) -> IntArray:
    """Indices of the ``wanted`` most similar and all that equal the last of them, in order."""
    if wanted >= len(similarity):
        near = np.arange(len(similarity))
    else:
        near = np.flatnonzero(similarity >= np.partition(similarity, -wanted)[-wanted])
    return near[_in_order(similarity[near], instrument[near], as_of[near])]


def _in_order(similarity: NDArray[np.floating[Any]], instrument: IntArray, as_of: IntArray) -> IntArray:
    return np.lexsort((instrument, as_of, -similarity))


def _spread(
    order: IntArray,
    instrument: IntArray,
    as_of: IntArray,
    k: int,
    most_of_one: int,
    one_a_day: bool,
    before: list[int],
) -> list[int]:
    """Rows ``before``, then from ``order`` what may be beside them, up to k."""
    chosen: list[int] = []
    days: set[int] = set()
    taken: dict[int, list[int]] = {}

    def take(row: int, which: int, at: int) -> None:
        chosen.append(row)
        days.add(at // DAY_S)
        taken.setdefault(which, []).append(at)

    for row in before:
        take(row, int(instrument[row]), int(as_of[row]))
    for row, which, at in zip(order.tolist(), instrument[order].tolist(), as_of[order].tolist(), strict=True):
        if len(chosen) == k:
            break
        own = taken.get(which, [])
        if (one_a_day and at // DAY_S in days) or len(own) >= most_of_one or any(abs(at - t) < DAY_S for t in own):
            continue
        take(row, which, at)
    return chosen


def nearest_moments(
    library: NDArray[np.float32],
    instrument: IntArray,
    as_of: IntArray,
    asked: NDArray[np.float32],
    until: IntArray,
    k: int,
) -> IntArray:
    """For each of Q questions the indices [Q, k] of what ``choose`` takes among moments with as_of <= until.

    ``library`` [M, 64] and ``asked`` [Q, 64] are unit vectors; ``as_of`` [M] is ascending, ``until`` [Q]. Where
    there are fewer than k, the rest is -1.
    """
    if np.any(np.diff(as_of) < 0):
        raise ValueError("the library is not in order of time")
    found = np.full((len(asked), k), -1, dtype=np.int64)
    ends = np.searchsorted(as_of, until, side="right")
    for start in range(0, len(asked), QUERIES_A_BLOCK):
        similarity = asked[start : start + QUERIES_A_BLOCK] @ library.T
        for row, end in enumerate(ends[start : start + QUERIES_A_BLOCK]):
            chosen = choose(similarity[row, :end], instrument[:end], as_of[:end], k)
            found[start + row, : len(chosen)] = chosen
    return found


def find_analogs(
    database: Database,
    model_id: int,
    instrument_id: int,
    timeframe_s: int,
    at: datetime,
    horizons_s: Sequence[int],
    k: int = 50,
    known_by: datetime | None = None,
) -> Analogs:
    """What one model finds most like what it saw at ``at``, by an exact scan; fewer than k where there are fewer.

    Only moments whose longest horizon ended by ``at`` with all closes stored, and that were known by ``known_by``
    (None: ``at``); those of simulated instruments for a simulated one, of real ones for a real one. NoEmbedding when
    the model has none at ``at``.
    """
    params = _question(database, model_id, instrument_id, timeframe_s, at, horizons_s, known_by)
    queries = load_queries("analogs")
    like = [row["id"] for row in database.fetch(queries["instruments_like"], {"instrument_id": instrument_id})]
    moments = read_records(database, queries["scan_moments"], params, SENT_MOMENT)
    moments = moments[np.isin(moments["instrument"], like)]
    return _with_outcomes(database, moments, timeframe_s, horizons_s, k)


def search_moments(database: Database, params: dict[str, Any], most: int, ef_search: int = EF_SEARCH) -> NDArray[Any]:
    """The index's nearest ``most`` moments as SENT_MOMENT records; ``params``: those of the query search_moments."""
    queries = load_queries("analogs")
    search = sql.SQL(queries["search_moments"]).format(model_id=sql.Literal(params["model_id"]))
    with database.transaction(), database.connection.cursor(binary=True) as cursor:
        cursor.execute(queries["set_search"], {"ef_search": ef_search})
        row = cursor.execute(search, params | {"most": most}).fetchone()
    return np.frombuffer(row[0] if row and row[0] else b"", SENT_MOMENT)


def _question(
    database: Database,
    model_id: int,
    instrument_id: int,
    timeframe_s: int,
    at: datetime,
    horizons_s: Sequence[int],
    known_by: datetime | None,
) -> dict[str, Any]:
    params: dict[str, Any] = {
        "model_id": model_id,
        "instrument_id": instrument_id,
        "timeframe_s": timeframe_s,
        "at": at,
        "until": at - timedelta(seconds=max(horizons_s)),
        "known_by": known_by or at,
    }
    sent = read_records(database, load_queries("analogs")["embedding_at"], params, SENT_VECTOR)
    if not len(sent):
        raise NoEmbedding(
            f"encoder {model_id} has no embedding of instrument {instrument_id} at {at:%Y-%m-%d %H:%M} that was known "
            f"by {params['known_by']:%Y-%m-%d %H:%M}; run `make run-encoder FROM={at:%Y-%m-%dT%H:%M} "
            f"TO={at:%Y-%m-%dT%H:%M}`"
        )
    return params | {"embedding": vector_text(sent["values"][0].astype(np.float32))}


def _with_outcomes(
    database: Database, moments: NDArray[Any], timeframe_s: int, horizons_s: Sequence[int], k: int
) -> Analogs:
    """The k chosen among the moments whose outcomes are all known.

    Closes are looked up for those chosen only; while one of them has none it is struck out and the choice made
    anew, which gives the choice among the others.
    """
    instrument = moments["instrument"].astype(np.int64)
    as_of = moments["as_of"].astype(np.int64) // MICROSECONDS + POSTGRES_EPOCH_S
    similarity = moments["similarity"].astype(np.float64)
    while True:
        chosen = choose(similarity, instrument, as_of, k)
        outcomes = read_outcomes(database, instrument[chosen], as_of[chosen], timeframe_s, horizons_s)
        unknown = np.isnan(outcomes).any(axis=1)
        if not unknown.any():
            return Analogs(instrument[chosen], as_of[chosen], similarity[chosen], outcomes)
        left = np.ones(len(as_of), dtype=bool)
        left[chosen[unknown]] = False
        instrument, as_of, similarity = instrument[left], as_of[left], similarity[left]


def read_outcomes(
    database: Database, instrument: IntArray, as_of: IntArray, timeframe_s: int, horizons_s: Sequence[int]
) -> FloatArray:
    """Log returns [n, H] over the horizons after n moments, NaN where a close is missing."""
    params = {
        "instrument_ids": instrument.tolist(),
        "as_of": [from_unix(at) for at in as_of.tolist()],
        "timeframe_s": timeframe_s,
        "horizons_s": list(horizons_s),
    }
    sent = read_records(database, load_queries("analogs")["outcomes"], params, np.dtype(">f8"))
    return sent.astype(np.float64).reshape(len(as_of), len(horizons_s))
