"""Missing is what is neither stored nor known not to be there; every hole of which the venue was asked is known."""

from __future__ import annotations

import itertools
from datetime import timedelta

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from candles.gaps import (
    NO_SPANS,
    NO_TIMES,
    Known,
    clip_spans,
    joined_holes,
    missing_spans,
    plan_pages,
    read_known,
    record_finding,
)
from shared.clock import from_unix, to_unix
from shared.db import Database
from shared.rows import IntArray
from tests.helpers import NOON, DatabaseFor, random_candles, store_candles

STEP = 300
SLOTS = 60

slots = st.integers(0, SLOTS)
spans = st.lists(st.tuples(slots, slots).map(sorted).filter(lambda s: s[0] < s[1]), max_size=8)
holes = st.sets(st.integers(1, SLOTS))


def times(found: set[int]) -> IntArray:
    return np.array(sorted(found), dtype=np.int64) * STEP


def as_spans(pairs: list[list[int]]) -> IntArray:
    return np.array(pairs, dtype=np.int64).reshape(-1, 2) * STEP


def members(found: IntArray) -> list[int]:
    """The slots of all spans, one after another: twice where two of them overlap."""
    return [slot for after, until in (found // STEP).tolist() for slot in range(after + 1, until + 1)]


def runs(found: set[int]) -> IntArray:
    return missing_spans(times(set(range(1, SLOTS + 1)) - found), NO_SPANS, 0, SLOTS * STEP, STEP)


@given(holes, spans, slots, slots)
def test_missing_is_what_is_neither_stored_nor_checked(
    held: set[int], checked: list[list[int]], after: int, until: int
) -> None:
    found = missing_spans(times(held), as_spans(checked), after * STEP, until * STEP, STEP)
    known = held | {slot for a, u in checked for slot in range(a + 1, u + 1)}
    assert members(found) == [slot for slot in range(after + 1, until + 1) if slot not in known]
    assert (found[1:, 0] > found[:-1, 1]).all(), "touching spans are one"


def test_a_span_off_the_grid_holds_the_closes_inside_it() -> None:
    assert missing_spans(NO_TIMES, NO_SPANS, STEP + 1, 3 * STEP + 1, STEP).tolist() == [[STEP, 3 * STEP]]


@given(holes, slots, slots)
def test_clipped_spans_keep_what_lies_inside(found: set[int], after: int, until: int) -> None:
    clipped = clip_spans(runs(found), after * STEP, max(after, until) * STEP)
    assert members(clipped) == [slot for slot in sorted(found) if after < slot <= until]


@given(holes, st.integers(1, 20), st.integers(0, 20))
def test_pages_cover_what_is_missing_newest_first_and_none_is_too_long(found: set[int], page: int, bridge: int) -> None:
    missing = runs(found)
    pages = plan_pages(missing, page * STEP, bridge * STEP)
    asked = members(np.array(pages, dtype=np.int64).reshape(-1, 2))
    assert set(asked) >= found
    assert len(asked) == len(set(asked)), "nothing is asked twice"
    assert all(0 < until - since <= page * STEP for since, until in pages)
    assert pages == sorted(pages, reverse=True)
    assert all(since // STEP + 1 in found and until // STEP in found for since, until in pages), "no page is wider"
    between = set(asked) - found
    assert all(b <= bridge for b in (int(u - a) // STEP for a, u in runs(between).tolist()))
    assert len(pages) <= sum(-(-(u - a) // (page * STEP)) for a, u in missing.tolist())


def test_holes_close_to_each_other_share_a_page() -> None:
    missing = as_spans([[1, 2], [4, 5], [20, 21]])
    assert plan_pages(missing, 10 * STEP, 2 * STEP) == [(20 * STEP, 21 * STEP), (STEP, 5 * STEP)]
    assert len(plan_pages(missing, 10 * STEP, STEP)) == 3


@given(holes.filter(bool), spans)
def test_a_hole_is_joined_where_several_checks_cover_it_and_none_alone(
    held: set[int], checked: list[list[int]]
) -> None:
    ordered = sorted(held)
    inner = [(a, b - 1) for a, b in itertools.pairwise(ordered) if b - 1 > a]
    covered = {slot for a, u in checked for slot in range(a + 1, u + 1)}
    expected = [
        [a, u]
        for a, u in inner
        if covered >= set(range(a + 1, u + 1)) and not any(c <= a and d >= u for c, d in checked)
    ]
    assert (joined_holes(Known(times(held), as_spans(checked)), STEP) // STEP).tolist() == expected


@pytest.fixture
def database(database_for: DatabaseFor) -> Database:
    return database_for("candles")


def holed(database_for: DatabaseFor, *missing: int) -> int:
    candles = random_candles(100, STEP)
    return store_candles(database_for, "test", "AAA/USDT", STEP, candles[np.delete(np.arange(100), missing)])


def findings(database: Database) -> list[tuple[int, str | None]]:
    rows = database.fetch("SELECT missing, finding FROM candle_gaps ORDER BY after")
    return [(row["missing"], row["finding"]) for row in rows]


def close(index: int) -> int:
    return to_unix(NOON) - (99 - index) * STEP


def record(database: Database, instrument_id: int, after: int, until: int, finding: str = "none") -> None:
    known = read_known(database, instrument_id, STEP, after, until)
    absent = missing_spans(known.held, known.checked, after, until, STEP)
    record_finding(database, instrument_id, STEP, absent, finding, known, NOON)  # type: ignore[arg-type]


def test_what_is_known_of_a_span_reaches_to_its_neighbours(database_for: DatabaseFor, database: Database) -> None:
    instrument_id = holed(database_for, 10, 11, 12, 40)
    known = read_known(database, instrument_id, STEP, close(10), close(11))
    assert known.held.tolist() == [close(9), close(13)]
    assert not len(known.checked)
    record(database, instrument_id, close(9), close(10))
    record(database, instrument_id, close(39), close(40))
    known = read_known(database, instrument_id, STEP, close(11), close(12))
    assert known.checked.tolist() == [[close(9), close(10)]]
    assert not len(read_known(database, instrument_id, STEP, close(50), close(60)).checked)
    whole = read_known(database, instrument_id, STEP, 0, to_unix(NOON + timedelta(days=1)))
    assert (len(whole.held), len(whole.checked)) == (96, 2)
    assert read_known(database, instrument_id + 1, STEP, 0, close(99)).held.tolist() == []
    assert read_known(database, instrument_id, 3600, 0, close(99)).held.tolist() == []


def test_a_hole_is_known_once_all_of_it_was_asked_in_whatever_pieces(
    database_for: DatabaseFor, database: Database
) -> None:
    instrument_id = holed(database_for, 10, 11, 12, 40)
    record(database, instrument_id, close(20), close(60))
    assert findings(database) == [(3, None), (1, "none")]
    record(database, instrument_id, close(11), close(20))
    record(database, instrument_id, close(0), close(10))
    assert findings(database) == [(3, None), (1, "none")]
    record(database, instrument_id, close(10), close(11), "out-of-reach")
    assert findings(database) == [(3, "out-of-reach"), (1, "none")], "the weaker finding holds for the whole"
    rows = database.fetch("SELECT after, until, recorded_at FROM gap_checks ORDER BY id")
    assert (rows[-1]["after"], rows[-1]["until"]) == (from_unix(close(9)), from_unix(close(12)))
    assert {row["recorded_at"] for row in rows} == {NOON}
    for _ in range(2):
        record(database, instrument_id, close(0), close(60))
    assert len(database.fetch("SELECT id FROM gap_checks")) == len(rows), "what is known is not written again"
