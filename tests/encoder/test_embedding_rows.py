"""Embeddings as rows: every bit comes back, several writers at once write each row once."""

from __future__ import annotations

import threading
from datetime import timedelta

import numpy as np
import pytest
from psycopg.errors import ForeignKeyViolation

from encoder.embedding_rows import Moments, embedded_closes, write_embeddings
from encoder.inference import Embedded
from shared.clock import from_unix, to_unix
from shared.db import Database, role_url
from shared.embeddings import read_embeddings
from shared.model_store import model_by_id
from shared.settings import Settings
from tests.encoder.small_encoder import save_encoder
from tests.helpers import NOON, DatabaseFor, random_candles, store_candles

HOUR = 3600
CANDLES = random_candles(520, HOUR, 1, end=to_unix(NOON) + 60 * HOUR)
ADD_EMBEDDINGS = """
INSERT INTO embeddings SELECT %(model_id)s, instrument_id, timeframe_s, as_of,
    array_fill(extract(epoch FROM as_of)::float4 / 1e9, ARRAY[64])::vector, 0.5, as_of, as_of FROM market_data
"""


@pytest.fixture
def ids(database_for: DatabaseFor) -> dict[str, int]:
    return {symbol: store_candles(database_for, "test", symbol, HOUR, CANDLES) for symbol in ("AAA/USDT", "BBB/USDT")}


def test_two_writers_at_once_write_each_row_once(
    database_for: DatabaseFor, settings: Settings, ids: dict[str, int]
) -> None:
    model = model_by_id(database_for("encoder"), save_encoder(database_for))
    closes = to_unix(NOON) - HOUR * np.arange(400)
    moments = Moments(np.full(400, ids["AAA/USDT"]), closes)
    embedded = Embedded(np.full((400, 64), 0.125, np.float32), np.full(400, 0.5))
    written, start = [], threading.Barrier(4)

    def write() -> None:
        database = Database(role_url(settings, "encoder"))
        start.wait()
        written.append(write_embeddings(database, model, HOUR, moments, embedded, NOON))
        database.close()

    threads = [threading.Thread(target=write) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(written) == [0, 0, 0, 400]
    span = (NOON - timedelta(days=30), NOON)
    assert (
        embedded_closes(database_for("policy"), model.id, ids["AAA/USDT"], HOUR, *span).tolist()
        == closes[::-1].tolist()
    )


def test_what_was_written_stays_and_the_rest_is_added(database_for: DatabaseFor, ids: dict[str, int]) -> None:
    encoder = database_for("encoder")
    model = model_by_id(encoder, save_encoder(database_for))
    closes, (a, b) = to_unix(NOON) + HOUR * np.arange(20, 24), ids.values()

    def write(instrument_id: int, chosen: list[int], value: float) -> int:
        n = len(chosen)
        embedded = Embedded(np.full((n, 64), value, np.float32), np.full(n, value))
        return write_embeddings(
            encoder, model, HOUR, Moments(np.full(n, instrument_id), closes[chosen]), embedded, NOON
        )

    assert write(a, [1], 0.25) == 1
    assert write(a, [0, 1, 2], 0.5) == 2
    assert write(b, [1], 0.75) == 1
    assert write(a, [], 0.5) == 0
    rows = encoder.fetch("SELECT instrument_id, as_of, ood, known_from, recorded_at FROM embeddings ORDER BY 1, 2")
    assert [(row["instrument_id"], row["ood"]) for row in rows] == [(a, 0.5), (a, 0.25), (a, 0.5), (b, 0.75)]
    assert [row["as_of"] for row in rows] == [from_unix(closes[i]) for i in (0, 1, 2, 1)]
    assert [row["known_from"] for row in rows] == [row["as_of"] for row in rows]
    assert {row["recorded_at"] for row in rows} == {NOON}


def test_an_embedding_of_no_candle_is_refused_whole(database_for: DatabaseFor, ids: dict[str, int]) -> None:
    encoder = database_for("encoder")
    model = model_by_id(encoder, save_encoder(database_for))
    closes = to_unix(NOON) + np.array([0, HOUR // 2])
    embedded = Embedded(np.full((2, 64), 0.125, np.float32), np.full(2, 0.5))
    with pytest.raises(ForeignKeyViolation):
        write_embeddings(encoder, model, HOUR, Moments(np.full(2, ids["AAA/USDT"]), closes), embedded, NOON)
    assert encoder.fetch("SELECT FROM embeddings") == []


def test_reading_gives_each_asked_instrument_its_span_as_known_then(
    database_for: DatabaseFor, ids: dict[str, int]
) -> None:
    model_id = save_encoder(database_for)
    database_for("owner").execute(ADD_EMBEDDINGS, {"model_id": model_id})
    a, b = ids.values()
    noon = to_unix(NOON)
    found = read_embeddings(database_for("policy"), model_id, [a, b, 999], HOUR, noon, noon + 9 * HOUR)
    assert list(found) == [a, b, 999]
    assert found[a].as_of.tolist() == [noon + hour * HOUR for hour in range(1, 10)]
    assert found[a].embedding.shape == (9, 64)
    assert found[a].embedding[:, 63].tolist() == (found[a].as_of.astype(np.float32) / np.float32(1e9)).tolist()
    assert found[a].ood.tolist() == [0.5] * 9
    assert found[999].embedding.shape == (0, 64)
    known = read_embeddings(
        database_for("policy"), model_id, [b], HOUR, noon, noon + 9 * HOUR, known_by=NOON + timedelta(hours=3)
    )
    assert len(known[b].as_of) == 3
    assert len(read_embeddings(database_for("policy"), model_id + 1, [b], HOUR, 0, noon)[b].as_of) == 0


def test_the_vectors_come_back_with_every_bit(database_for: DatabaseFor, ids: dict[str, int]) -> None:
    encoder = database_for("encoder")
    model = model_by_id(encoder, save_encoder(database_for))
    values = np.random.default_rng(0).normal(0, 1, 64).astype(np.float32) * np.float32(10.0) ** np.arange(-32, 32)
    embedded = Embedded(values.astype(np.float32)[None], np.array([1 / 3]))
    instrument_id, noon = ids["AAA/USDT"], to_unix(NOON)
    write_embeddings(encoder, model, HOUR, Moments(np.array([instrument_id]), np.array([noon])), embedded, NOON)
    series = read_embeddings(database_for("policy"), model.id, [instrument_id], HOUR, 0, noon)[instrument_id]
    assert series.embedding.tobytes() == embedded.embedding.tobytes()
    assert series.ood.tolist() == [1 / 3]
