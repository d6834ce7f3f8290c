"""What is missing of a series: the span wanted, minus what is stored, minus what the venue is known not to have.

A span (after, until] holds the candles with after < as_of <= until, in Unix seconds, like everywhere else. What the
venue does not have is a row of gap_checks, written only after it answered (finding 'none') or where it serves
nothing so old and cannot build it ('out-of-reach'). The view candle_gaps shows the holes with these findings.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

import numpy as np

from shared.clock import from_unix
from shared.db import Database, load_queries
from shared.market_data import MICROSECONDS, POSTGRES_EPOCH_S
from shared.rows import IntArray

Finding = Literal["none", "out-of-reach"]
Spans = IntArray  # [n, 2]: after and until of each span, oldest first, neither touching nor overlapping

NO_TIMES: IntArray = np.empty(0, dtype=np.int64)
NO_SPANS: Spans = np.empty((0, 2), dtype=np.int64)


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of a span: the closes of its stored candles, sorted, and the spans that the venue was asked for
    in vain (in any order, overlapping as they like)."""

    held: IntArray
    checked: Spans


def missing_spans(held: IntArray, checked: Spans, after: int, until: int, timeframe_s: int) -> Spans:
    """The spans inside (after, until] whose candles are neither among ``held`` (closes, any order) nor ``checked``
    (spans in any order, overlapping as they like). O(candles in the span + len(held) + len(checked))."""
    first = after // timeframe_s
    n = until // timeframe_s - first
    if n <= 0:
        return NO_SPANS
    slots = held // timeframe_s - first - 1
    starts, ends = (np.clip(checked // timeframe_s - first, 0, n)).T
    depth = np.zeros(n + 1, dtype=np.int64)  # how many checks cover a candle, as differences
    np.add.at(depth, starts, 1)
    np.add.at(depth, ends, -1)
    missing = np.cumsum(depth)[:n] == 0
    missing[slots[(slots >= 0) & (slots < n)]] = False
    edges = np.flatnonzero(np.diff(np.r_[False, missing, False])).reshape(-1, 2)
    return np.asarray((first + edges) * timeframe_s, dtype=np.int64)


def clip_spans(spans: Spans, after: int, until: int) -> Spans:
    """The parts of ``spans`` inside (after, until]."""
    clipped = np.clip(spans, after, until)
    return clipped[clipped[:, 0] < clipped[:, 1]]


def plan_pages(missing: Spans, page_s: int, bridge_s: int) -> list[tuple[int, int]]:
    """The questions (since, until] that cover ``missing``, newest first, none longer than ``page_s``.

    Holes that are at most ``bridge_s`` apart share a question where it is long enough: what lies between them is
    asked again, which costs less than one more question.
    """
    pages: list[tuple[int, int]] = []
    since = oldest = None  # of the newest page so far: where it begins, and where it could begin at the earliest
    for after, until in missing[::-1].tolist():
        if since is not None and oldest is not None and until > oldest and since - until <= bridge_s:
            since = until = max(after, oldest)
            pages[-1] = (since, pages[-1][1])
        while after < until:
            oldest = until - page_s
            since = max(after, oldest)
            pages.append((since, until))
            until = since
    return pages


def joined_holes(known: Known, timeframe_s: int) -> Spans:
    """The holes between two stored candles that several checks cover together and no single one does."""
    after, until = known.held[:-1], known.held[1:] - timeframe_s
    inner = after < until
    after, until = after[inner], until[inner]
    if not len(after) or not len(known.checked):
        return NO_SPANS
    by_start = known.checked[np.argsort(known.checked[:, 0], kind="stable")]
    furthest = np.maximum.accumulate(by_start[:, 1])  # where the checks that begin at or before this one reach
    place = np.searchsorted(by_start[:, 0], after, side="right") - 1
    alone = (place >= 0) & (furthest[place] >= until)
    open_spans = missing_spans(known.held, known.checked, int(known.held[0]), int(known.held[-1]), timeframe_s)
    in_part = np.searchsorted(open_spans[:, 1], after, side="right") < np.searchsorted(open_spans[:, 0], until)
    return np.column_stack([after, until])[~alone & ~in_part]


def read_known(database: Database, instrument_id: int, timeframe_s: int, after: int, until: int) -> Known:
    """What is known of (after, until], with the stored candles next to it on either side."""
    span = {"after": from_unix(after), "until": from_unix(until)}
    params = {"instrument_id": instrument_id, "timeframe_s": timeframe_s, **span}
    with database.connection.cursor(binary=True) as cursor:  # in text form each byte would travel as two
        row = cursor.execute(load_queries("candles")["held_and_checked"], params).fetchone()
    held, checked = (np.frombuffer(sent or b"", ">i8").astype(np.int64) for sent in row or (b"", b""))
    return Known(held // MICROSECONDS + POSTGRES_EPOCH_S, checked.reshape(-1, 2) // MICROSECONDS + POSTGRES_EPOCH_S)


def record_finding(
    database: Database,
    instrument_id: int,
    timeframe_s: int,
    absent: Spans,
    finding: Finding,
    known: Known,
    at: datetime,
) -> None:
    """Writes that the venue does not have ``absent``. A hole that is now checked piece by piece gets a row of its
    own: candle_gaps takes a hole for checked where one row covers the whole of it."""
    _insert(database, "record_gap_checks", instrument_id, timeframe_s, absent, {"finding": finding}, at)
    joined = joined_holes(Known(known.held, np.concatenate([known.checked, absent])), timeframe_s)
    _insert(database, "join_gap_checks", instrument_id, timeframe_s, joined, {}, at)


def _insert(
    database: Database,
    query: str,
    instrument_id: int,
    timeframe_s: int,
    spans: Spans,
    params: dict[str, Any],
    at: datetime,
) -> None:
    if len(spans):
        after, until = spans.T.tolist()
        series = {"instrument_id": instrument_id, "timeframe_s": timeframe_s, "recorded_at": at}
        database.execute(load_queries("candles")[query], series | {"after": after, "until": until} | params)
