"""The k most similar moments, spread over days and instruments; one model's only; nothing whose outcome was unknown."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, LiteralString

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from psycopg import sql
from psycopg.types.json import Json

from shared.analogs import (
    SENT_MOMENT,
    Analogs,
    NoEmbedding,
    choose,
    find_analogs,
    nearest_moments,
    search_moments,
)
from shared.clock import from_unix, to_unix
from shared.db import Database, load_queries
from shared.embeddings import vector_text
from shared.rows import FloatArray, IntArray
from tests.helpers import NOON, DatabaseFor, random_candles, store_candles
from tests.shared.spine_rows import own_database

HOUR, DAY = 3600, 86_400
HORIZONS = (HOUR, 4 * HOUR, DAY)
DAYS = 60
AT = to_unix(NOON)
INSERT_MODEL = """
INSERT INTO models (kind, onnx, sha256, schema, schema_hash, trained_from, trained_to, label_horizon_s, known_from,
                    provenance, metrics, status, recorded_at)
VALUES ('encoder', %(onnx)s, encode(sha256(%(onnx)s), 'hex'), %(schema)s, 'x', %(known_from)s - interval '9 days',
        %(known_from)s - interval '1 day', 86400, %(known_from)s, 'real', '{}', %(status)s, %(known_from)s)
RETURNING id
"""
INSERT_EMBEDDING = """
INSERT INTO embeddings VALUES (%(model_id)s, %(instrument_id)s, 3600, %(as_of)s, %(embedding)s::vector, 0.5,
                               %(known_from)s, %(known_from)s)
"""


def unit(values: NDArray[Any]) -> NDArray[np.float32]:
    return np.asarray(values / np.linalg.norm(values, axis=-1, keepdims=True), dtype=np.float32)


def insert_model(database: Database, name: bytes, known_from: datetime, status: str = "retired") -> int:
    row = {"onnx": name, "schema": Json({"timeframe_s": HOUR}), "known_from": known_from, "status": status}
    found = database.fetch_one(INSERT_MODEL, row)
    assert found is not None
    return int(found["id"])


def insert_embeddings(
    database: Database,
    model_id: int,
    instrument_id: int,
    as_of: IntArray,
    embeddings: NDArray[np.float32],
    known_from: datetime,
) -> None:
    rows = [
        {"model_id": model_id, "instrument_id": instrument_id, "as_of": from_unix(at), "embedding": vector_text(e),
         "known_from": max(from_unix(at), known_from)}
        for at, e in zip(as_of.tolist(), embeddings, strict=True)
    ]  # fmt: skip
    with database.transaction():
        database.execute_many(INSERT_EMBEDDING, rows)


# ── choosing ────────────────────────────────────────────────────────────────────────────────────────────


def slow_choice(
    similarity: FloatArray, instrument: IntArray, as_of: IntArray, k: int, most: int, one_a_day: bool
) -> list[int]:
    """The rules one by one, over everything in order; then again with no most."""
    order = sorted(range(len(as_of)), key=lambda i: (-similarity[i], as_of[i], instrument[i]))
    chosen: list[int] = []
    for cap in (most, k):
        for i in order:
            own = [j for j in chosen if instrument[j] == instrument[i]]
            if one_a_day and any(as_of[j] // DAY == as_of[i] // DAY for j in chosen):
                continue
            if len(own) >= cap or any(abs(as_of[j] - as_of[i]) < DAY for j in own):
                continue
            if len(chosen) < k:
                chosen.append(i)
    return [i for i in order if i in chosen]


@settings(max_examples=60)
@given(st.integers(0, 10**6), st.integers(1, 400), st.integers(1, 4), st.integers(1, 9), st.booleans(), st.booleans())
def test_the_choice_is_the_rules_applied_one_by_one(
    seed: int, n: int, instruments: int, k: int, one_a_day: bool, coarse: bool
) -> None:
    rng = np.random.default_rng(seed)
    cells = rng.choice(instruments * 900, min(n, instruments * 900), replace=False)
    instrument, as_of = cells % instruments, cells // instruments * HOUR
    similarity = rng.normal(0, 1, len(cells))
    similarity = np.round(similarity, 0 if coarse else 9)  # coarse: many are equal
    most = (k + 1) // 2 if len(np.unique(instrument)) > 1 else k
    expected = slow_choice(similarity, instrument, as_of, k, most, one_a_day)
    assert choose(similarity, instrument, as_of, k, one_a_day=one_a_day).tolist() == expected
    other = choose(similarity, instrument, as_of, k, most_of_one=1, one_a_day=one_a_day)
    assert other.tolist() == slow_choice(similarity, instrument, as_of, k, 1, one_a_day)


def test_nothing_to_choose_from_is_nothing_chosen() -> None:
    nothing = np.empty(0, dtype=np.int64)
    assert len(choose(np.empty(0), nothing, nothing, 5)) == 0


def test_one_moment_of_a_second_instrument_takes_nothing_from_the_first() -> None:
    """Half of k may be of one instrument only where the other half can be had."""
    as_of = np.arange(1_001) * DAY
    instrument = (np.arange(1_001) == 3).astype(np.int64)
    similarity = np.linspace(0, 1, 1_001)
    assert choose(similarity, instrument, as_of, 10).tolist() == [*range(1_000, 991, -1), 3]
    assert choose(similarity[instrument == 0], np.zeros(1_000, dtype=np.int64), as_of[:1_000], 10).size == 10


def test_the_shortlist_grows_until_enough_days_are_in_it() -> None:
    """9,000 hours of one day's neighbourhood are more similar than all other days."""
    as_of = np.concatenate([np.full(9_000, 1_000 * DAY), np.arange(20) * DAY])
    similarity = np.concatenate([np.full(9_000, 0.9), np.linspace(0.1, 0.2, 20)])
    chosen = choose(similarity, np.zeros(9_020, dtype=np.int64), as_of, 5)
    assert chosen.tolist() == [0, 9_019, 9_018, 9_017, 9_016]


@settings(max_examples=25)
@given(st.integers(0, 10**6))
def test_searching_in_memory_is_choosing_among_what_was_known(seed: int) -> None:
    """Of numbers whose products float32 holds exactly: in whatever order they are summed, two are alike or are not."""
    rng = np.random.default_rng(seed)
    library, asked = (np.asarray(rng.integers(-8, 9, (n, 64)) / 64, dtype=np.float32) for n in (300, 70))
    as_of = np.sort(rng.integers(0, 900, 300)) * HOUR
    instrument = np.arange(300) % 3
    until = rng.integers(-100, 900, 70) * HOUR
    found = nearest_moments(library, instrument, as_of, asked, until, 6)
    for q in range(70):
        known = as_of <= until[q]
        expected = choose((asked[q] @ library.T)[known], instrument[known], as_of[known], 6).tolist()
        row = found[q].tolist()
        assert row[: len(expected)] == expected
        assert set(row[len(expected) :]) <= {-1}
    with pytest.raises(ValueError, match="order of time"):
        nearest_moments(library, instrument, as_of[::-1], asked, until, 6)


# ── the database ────────────────────────────────────────────────────────────────────────────────────────


class World:
    """Two instruments of 60 days; model ``own`` sees them every 3 hours; model ``other`` sees every moment exactly
    as ``own`` sees the present; ``late`` is known from noon only."""

    def __init__(self, database_for: DatabaseFor) -> None:
        self.encoder = database_for("encoder")
        self.owner = database_for("owner")
        rng = np.random.default_rng(9)
        self.candles = [random_candles((DAYS + 2) * 24, HOUR, seed, end=AT + 2 * DAY) for seed in (1, 2)]
        self.candles[1] = self.candles[1][self.candles[1].as_of != AT - 20 * DAY + 4 * HOUR]
        self.ids = [
            store_candles(database_for, "test", name, HOUR, candles)
            for name, candles in zip(("AAA/USDT", "BBB/USDT"), self.candles, strict=True)
        ]
        start = from_unix(AT - 90 * DAY)
        self.own = insert_model(self.encoder, b"own", start, "active")
        self.other = insert_model(self.encoder, b"other", start)
        self.late = insert_model(self.encoder, b"late", NOON)
        self.as_of = AT - np.arange(DAYS * 8)[::-1] * 3 * HOUR
        self.seen = [unit(rng.normal(0, 1, (len(self.as_of), 64))) for _ in self.ids]
        self.present = self.seen[0][-1]
        for instrument, seen in zip(self.ids, self.seen, strict=True):
            insert_embeddings(self.encoder, self.own, instrument, self.as_of, seen, start)
            everywhere = np.tile(self.present, (len(self.as_of), 1))
            insert_embeddings(self.encoder, self.other, instrument, self.as_of, everywhere, start)
            insert_embeddings(self.encoder, self.late, instrument, self.as_of, seen, NOON)

    def find(self, model: int | None = None, at: int = AT, k: int = 10, **more: Any) -> Analogs:
        return find_analogs(self.encoder, model or self.own, self.ids[0], HOUR, from_unix(at), HORIZONS, k, **more)

    def by_hand(self, k: int, at: int = AT, seen: NDArray[np.float32] | None = None) -> list[tuple[int, int]]:
        asked = self.seen[0][np.searchsorted(self.as_of, at)] if seen is None else seen
        moments, similarity = [], []
        for instrument, embeddings, candles in zip(self.ids, self.seen, self.candles, strict=True):
            closes = set(candles.as_of.tolist())
            for t, embedding in zip(self.as_of.tolist(), embeddings, strict=True):
                if t + DAY <= at and all(t + h in closes for h in (0, *HORIZONS)):
                    moments.append((instrument, t))
                    similarity.append(float(embedding.astype(np.float64) @ asked.astype(np.float64)))
        which, as_of = (np.array(column) for column in zip(*moments, strict=True))
        chosen = slow_choice(np.array(similarity), which, as_of, k, (k + 1) // 2, True)
        return [moments[i] for i in chosen]


@pytest.fixture(scope="module")
def world(home: Path) -> Iterator[World]:
    with own_database(home, "analogs") as (_, database_for):
        yield World(database_for)


def moments_of(analogs: Analogs) -> list[tuple[int, int]]:
    return list(zip(analogs.instrument.tolist(), analogs.as_of.tolist(), strict=True))


@pytest.mark.parametrize("k", [1, 7, 50])
def test_the_scan_finds_what_comparing_each_row_by_hand_finds(world: World, k: int) -> None:
    found = world.find(k=k)
    assert moments_of(found) == world.by_hand(k)
    assert (np.diff(found.similarity) <= 0).all()
    for instrument, at, similarity in zip(found.instrument, found.as_of, found.similarity, strict=True):
        seen = world.seen[world.ids.index(instrument)][np.searchsorted(world.as_of, at)]
        assert similarity == pytest.approx(float(seen @ world.present), abs=1e-6)


WHERE: LiteralString = "model_id = %(model_id)s AND instrument_id = %(instrument_id)s AND as_of = %(as_of)s"
READ: LiteralString = "SELECT embedding::text AS embedding FROM embeddings WHERE " + WHERE
WRITE: LiteralString = "UPDATE embeddings SET embedding = %(embedding)s::vector WHERE " + WHERE


@contextmanager
def embedded_as(owner: Database, row: dict[str, Any], embedding: NDArray[np.float32]) -> Iterator[None]:
    """Another embedding for one moment, as long as the block lasts."""
    before = owner.fetch_one(READ, row)
    assert before is not None
    assert owner.execute(WRITE, row | {"embedding": vector_text(embedding)}) == 1
    try:
        yield
    finally:
        owner.execute(WRITE, row | before)


def test_a_planted_analog_comes_first_with_what_followed_it(world: World) -> None:
    planted = AT - 30 * DAY
    rows = {"model_id": world.own, "instrument_id": world.ids[1], "as_of": from_unix(planted)}
    near = unit(world.present + 0.01 * unit(np.ones(64)))
    with embedded_as(world.owner, rows, near):
        found = world.find()
        assert moments_of(found)[0] == (world.ids[1], planted)
    candles = world.candles[1]
    close = dict(zip(candles.as_of.tolist(), candles.close.tolist(), strict=True))
    expected = [np.log(close[planted + h] / close[planted]) for h in HORIZONS]
    assert found.outcomes[0] == pytest.approx(expected)


def test_rows_of_another_model_are_never_found_though_nothing_is_nearer(world: World) -> None:
    assert moments_of(world.find()) == world.by_hand(10)
    exact = world.find(world.other)
    assert exact.similarity == pytest.approx(1.0, abs=1e-6)
    assert exact.as_of.tolist() == sorted(exact.as_of.tolist())  # all are equal: older first


@pytest.mark.parametrize("back", [0, 3, 27, 240])
def test_no_analog_has_an_outcome_that_was_unknown(world: World, back: int) -> None:
    at = AT - back * HOUR
    found = world.find(at=at, k=50)
    assert (found.as_of + DAY <= at).all()
    assert moments_of(found) == world.by_hand(50, at)
    assert np.isfinite(found.outcomes).all()


def test_a_moment_without_the_close_that_its_outcome_needs_is_passed_over(world: World) -> None:
    """BBB has no candle four hours after this moment; planted nearest, it is still not taken."""
    lost = AT - 20 * DAY
    row = {"model_id": world.own, "instrument_id": world.ids[1], "as_of": from_unix(lost)}
    with embedded_as(world.owner, row, world.present):
        found = world.find()
    assert (world.ids[1], lost) not in moments_of(found)
    assert len(found) == 10


def test_what_was_not_known_yet_is_not_found(world: World) -> None:
    """Embeddings of a model trained until noon did not exist before, whatever moments they are about."""
    assert moments_of(world.find(world.late)) == world.by_hand(10)
    before = AT - 3 * HOUR
    with pytest.raises(NoEmbedding, match=r"run `make run-encoder FROM=2024-06-01T09:00 TO=2024-06-01T09:00`"):
        world.find(world.late, at=before)
    assert moments_of(world.find(world.late, at=before, known_by=NOON)) == world.by_hand(10, before)
    with pytest.raises(NoEmbedding):
        world.find(at=AT + HOUR)


def test_a_row_that_was_known_late_is_not_found_before(world: World) -> None:
    """The nearest moment, as if it had been embedded only an hour after the question."""

    def nearest(known_by: datetime) -> tuple[int, int]:
        return moments_of(world.find(k=5, known_by=known_by))[0]

    first = nearest(NOON)
    row = {"model_id": world.own, "instrument_id": first[0], "as_of": from_unix(first[1])}
    before = world.owner.fetch_one("SELECT known_from FROM embeddings WHERE " + WHERE, row)
    assert before is not None
    late = "UPDATE embeddings SET known_from = %(known_from)s WHERE " + WHERE
    world.owner.execute(late, row | {"known_from": NOON + timedelta(hours=1)})
    try:
        assert nearest(NOON) != first
        assert nearest(NOON + timedelta(hours=1)) == first
    finally:
        world.owner.execute(late, row | before)


def test_a_simulated_market_is_no_analog_of_a_real_one_nor_the_reverse(world: World) -> None:
    relabel: LiteralString = "UPDATE instruments SET provenance = %(provenance)s WHERE id = %(id)s"
    other = {"id": world.ids[1]}
    world.owner.execute(relabel, other | {"provenance": "simulated"})
    try:
        for own in (0, 1):
            asked = (world.encoder, world.own, world.ids[own], HOUR, NOON, HORIZONS, 10)
            assert find_analogs(*asked).instrument.tolist() == [world.ids[own]] * 10
    finally:
        world.owner.execute(relabel, other | {"provenance": "real"})
    assert set(world.find().instrument.tolist()) == set(world.ids)


def test_analogs_are_one_a_day_and_of_both_instruments(world: World) -> None:
    found = world.find(k=20)
    assert len(found) == len({at // DAY for at in found.as_of.tolist()}) == 20
    assert np.bincount(found.instrument == world.ids[0]).max() <= 10


def test_no_close_after_the_moment_changes_what_is_found(world: World) -> None:
    before = world.find(k=30)
    poison = "UPDATE market_data SET close = high WHERE as_of > %(at)s"
    assert world.owner.execute(poison, {"at": NOON}) == 2 * 48
    after = world.find(k=30)
    assert moments_of(before) == moments_of(after)
    assert np.array_equal(before.outcomes, after.outcomes)


# ── the index ───────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def indexed(home: Path) -> Iterator[World]:
    """A world of its own: of rows that were updated before, as by the tests above, PostgreSQL leaves a new index alone
    while any older transaction of the whole server is open (pg_index.indcheckxmin)."""
    with own_database(home, "analogs_indexed") as (_, database_for):
        world = World(database_for)
        world.encoder.execute("SELECT build_analog_index(%(model)s)", {"model": world.own})
        yield world


@pytest.mark.parametrize(("query", "uses"), [("search_moments", True), ("scan_moments", False)])
def test_browsing_uses_the_models_own_index_and_the_scan_uses_none(indexed: World, query: str, uses: bool) -> None:
    params = {"model_id": indexed.own, "timeframe_s": HOUR, "until": NOON, "known_by": NOON, "most": 20}
    params["embedding"] = vector_text(indexed.present)
    statement = sql.SQL(load_queries("analogs")[query]).format(model_id=sql.Literal(indexed.own))
    connection = indexed.owner.connection
    with connection.transaction(force_rollback=True):
        connection.execute("SET LOCAL enable_seqscan = off")  # the table is small: a forced plan shows what can be
        connection.execute("SET LOCAL enable_sort = off")
        lines = connection.execute(sql.SQL("EXPLAIN ") + statement, params).fetchall()
    assert (f"embeddings_of_{indexed.own}" in str(lines)) == uses


def test_recall_of_the_index_is_that_of_the_nearest_rows(indexed: World) -> None:
    params = {"model_id": indexed.own, "timeframe_s": HOUR, "until": NOON, "known_by": NOON}
    params["embedding"] = vector_text(indexed.present)
    near = search_moments(indexed.encoder, params, 50)
    assert near.dtype == SENT_MOMENT
    rows = np.concatenate([seen @ indexed.present for seen in indexed.seen])
    assert np.sort(near["similarity"]) == pytest.approx(np.sort(rows)[-50:], abs=1e-6)


def test_the_model_is_named_in_every_query_about_embeddings() -> None:
    for name, query in load_queries("analogs").items():
        if "FROM embeddings" in query:
            assert "model_id = %(model_id)s" in query or "model_id = {model_id}" in query, name


def test_settings_of_a_search_end_with_it(indexed: World) -> None:
    params = {"model_id": indexed.own, "timeframe_s": HOUR, "until": NOON, "known_by": NOON}
    search_moments(indexed.encoder, params | {"embedding": vector_text(indexed.present)}, 2, ef_search=77)
    row = indexed.encoder.fetch_one("SELECT current_setting('hnsw.ef_search') AS ef")
    assert row is not None
    assert row["ef"] != "77"
