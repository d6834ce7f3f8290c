"""Hourly runs and one batch pass write the same rows; twice changes nothing; what is missing is said."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import pytest

from encoder import run_encoder, train_encoder
from encoder.run_encoder import run_once
from encoder.schema import encoder_schema
from encoder.train_encoder import train
from shared.clock import ReplayClock, to_unix
from shared.db import Database
from shared.embeddings import read_embeddings, vector_text
from shared.features import window_features
from shared.job import JobError, UsageError
from shared.model_store import active_model, save_model
from shared.rows import Candles
from shared.settings import PROJECT, Settings
from tests.helpers import NOON, DatabaseFor, random_candles, store_candles

HOUR = 3600
END = NOON + timedelta(hours=60)
ALL_BUT_RECORDED_AT = """
SELECT model_id, instrument_id, timeframe_s, as_of, embedding::text AS embedding, ood, known_from
FROM embeddings ORDER BY instrument_id, as_of
"""
ADD_EMBEDDINGS = """
INSERT INTO embeddings SELECT %(model_id)s, instrument_id, timeframe_s, as_of,
    array_fill(extract(epoch FROM as_of)::float4 / 1e9, ARRAY[64])::vector, 0.5, as_of, as_of FROM market_data
"""

POISON_AFTER = """
UPDATE market_data SET open = open * 3, high = high * 4, low = low / 2, close = close * 2, volume = 7
WHERE as_of > %(at)s
"""

SERIES = {
    "AAA/USDT": random_candles(520, HOUR, 1, end=to_unix(END)),
    "BBB/USDT": random_candles(520, HOUR, 2, end=to_unix(END))[np.delete(np.arange(520), [440, 441, 505])],
}


@pytest.fixture(scope="module")
def onnx_bytes() -> bytes:
    return train(
        list(SERIES.values()),
        timeframe_s=HOUR,
        trained_from=NOON - timedelta(days=30),
        trained_to=NOON,
        steps=3,
        batch_size=16,
        seed=7,
        progress=False,
    )[0]


@pytest.fixture
def save_encoder(database_for: DatabaseFor, onnx_bytes: bytes) -> Callable[..., int]:
    def save(timeframe_s: int = HOUR, horizon_s: int = 10 * HOUR) -> int:
        return save_model(
            database_for("encoder"),
            kind="encoder",
            onnx=onnx_bytes,
            schema=encoder_schema(timeframe_s),
            trained_from=NOON - timedelta(days=30),
            trained_to=NOON,
            label_horizon_s=horizon_s,
            provenance="real",
            encoder_id=None,
            metrics={},
            recorded_at=NOON,
        )

    return save


@pytest.fixture
def ids(database_for: DatabaseFor) -> dict[str, int]:
    return {symbol: store_candles(database_for, "test", symbol, HOUR, candles) for symbol, candles in SERIES.items()}


def at(hours: float) -> ReplayClock:
    return ReplayClock(NOON + timedelta(hours=hours))


def stored(database: Database) -> list[dict[str, Any]]:
    return database.fetch(ALL_BUT_RECORDED_AT)


@pytest.mark.usefixtures("ids")
def test_hourly_runs_and_one_batch_pass_write_the_same_rows(
    database_for: DatabaseFor, settings: Settings, save_encoder: Callable[..., int]
) -> None:
    save_encoder()
    encoder = database_for("encoder")
    for hour in range(30):
        run_once(at(hour + 0.02), encoder, settings)
    hourly = stored(encoder)
    database_for("owner").execute("DELETE FROM embeddings")
    span = (NOON - timedelta(hours=47), NOON + timedelta(hours=29))
    run_once(at(40), encoder, settings, span)
    assert stored(encoder) == hourly
    assert len(hourly) == 2 * 77 - 2  # a missing candle has no row; in BBB/USDT two are missing here
    assert {row["known_from"] - row["as_of"] for row in hourly if row["as_of"] > NOON + timedelta(hours=10)} == {
        timedelta(0)
    }
    assert min(row["known_from"] for row in hourly) == NOON + timedelta(hours=10)  # the model's own


@pytest.mark.usefixtures("ids")
def test_twice_changes_nothing(database_for: DatabaseFor, settings: Settings, save_encoder: Callable[..., int]) -> None:
    save_encoder()
    encoder = database_for("encoder")
    assert run_once(at(30), encoder, settings).status == "done"
    first = encoder.fetch("SELECT * FROM embeddings ORDER BY instrument_id, as_of")
    assert run_once(at(30.5), encoder, settings).status == "nothing"
    span = (NOON + timedelta(hours=20), NOON + timedelta(hours=30))
    assert run_once(at(31), encoder, settings, span).result["embedded"] == 0
    assert encoder.fetch("SELECT * FROM embeddings ORDER BY instrument_id, as_of") == first


def test_candles_after_now_are_not_seen(
    database_for: DatabaseFor, settings: Settings, save_encoder: Callable[..., int], ids: dict[str, int]
) -> None:
    save_encoder()
    encoder = database_for("encoder")
    run_once(at(20.5), encoder, settings)
    before = stored(encoder)
    assert max(row["as_of"] for row in before) == NOON + timedelta(hours=20)
    database_for("owner").execute("DELETE FROM embeddings")
    database_for("owner").execute(POISON_AFTER, {"at": NOON + timedelta(hours=20.5)})
    run_once(at(20.5), encoder, settings)
    assert stored(encoder) == before


def test_a_stored_embedding_is_what_the_model_gives_to_the_bit(
    database_for: DatabaseFor, settings: Settings, save_encoder: Callable[..., int], ids: dict[str, int]
) -> None:
    model_id = save_encoder()
    encoder = database_for("encoder")
    run_once(at(30), encoder, settings)
    model = active_model(encoder, "encoder")
    assert model is not None
    series = read_embeddings(encoder, model_id, [ids["AAA/USDT"]], HOUR, 0, to_unix(END))[ids["AAA/USDT"]]
    for row in (0, -1):
        window = window_features(SERIES["AAA/USDT"], int(series.as_of[row]), HOUR)
        assert window is not None
        embedding, ood = model.run({"window": window[None]})
        assert series.embedding[row].tobytes() == embedding[0].tobytes()
        assert series.ood[row] == ood[0]


@pytest.mark.usefixtures("ids")
def test_an_encoder_that_slept_catches_up_since_its_newest_row(
    database_for: DatabaseFor, settings: Settings, save_encoder: Callable[..., int]
) -> None:
    save_encoder()
    encoder = database_for("encoder")
    run_once(at(-20), encoder, settings)
    run_once(at(55), encoder, settings)
    rows = [row["as_of"] for row in stored(encoder) if row["instrument_id"] == stored(encoder)[0]["instrument_id"]]
    assert rows == [NOON + timedelta(hours=hour) for hour in range(-20 - 47, 56)]


@pytest.mark.usefixtures("ids")
def test_a_run_at_a_past_moment_does_not_look_at_later_rows(
    database_for: DatabaseFor, settings: Settings, save_encoder: Callable[..., int]
) -> None:
    save_encoder()
    encoder = database_for("encoder")
    run_once(at(50), encoder, settings)
    assert run_once(at(-60), encoder, settings).result["embedded"] == 2 * 48


def test_without_an_encoder_there_is_nothing_to_do_and_an_alert(database_for: DatabaseFor, settings: Settings) -> None:
    outcome = run_once(at(0), database_for("encoder"), settings)
    assert outcome.status == "nothing"
    assert "make train-encoder" in outcome.result["because"]
    assert [row["key"] for row in database_for("encoder").fetch("SELECT key FROM alerts")] == ["no-encoder"]


def test_a_refused_encoder_is_an_error_and_an_alert(
    database_for: DatabaseFor, settings: Settings, save_encoder: Callable[..., int]
) -> None:
    save_encoder(timeframe_s=14_400)
    with pytest.raises(JobError, match="timeframe_s is 14400, this program wants 3600"):
        run_once(at(0), database_for("encoder"), settings)
    assert database_for("encoder").fetch("SELECT key FROM alerts") == [{"key": "job-failed:run_encoder"}]


def test_a_symbol_without_candles_is_a_warning_and_the_others_go_on(
    database_for: DatabaseFor, settings: Settings, save_encoder: Callable[..., int]
) -> None:
    save_encoder()
    store_candles(database_for, "test", "BBB/USDT", HOUR, SERIES["BBB/USDT"])
    outcome = run_once(at(10), database_for("encoder"), settings)
    assert outcome.status == "done"
    assert "AAA/USDT" in outcome.result["warnings"][0]
    assert outcome.result["embedded"] > 40


def test_a_window_with_too_many_gaps_gets_no_row(
    database_for: DatabaseFor, settings: Settings, save_encoder: Callable[..., int]
) -> None:
    save_encoder()
    candles: Candles = SERIES["AAA/USDT"]
    store_candles(
        database_for,
        "test",
        "AAA/USDT",
        HOUR,
        candles[(candles.as_of <= to_unix(NOON)) | (candles.as_of > to_unix(NOON) + 10 * HOUR)],
    )
    outcome = run_once(at(12), database_for("encoder"), settings)
    assert outcome.result["windows_with_gaps"] == {"AAA/USDT": 2}
    assert max(row["as_of"] for row in stored(database_for("encoder"))) == NOON


@pytest.mark.parametrize(("first", "last", "why"), [(0, 2, "in the future"), (1, 0, "is after")])
def test_an_impossible_span_is_refused(
    database_for: DatabaseFor, settings: Settings, first: float, last: float, why: str
) -> None:
    span: tuple[datetime, datetime] = (NOON + timedelta(hours=first), NOON + timedelta(hours=last))
    with pytest.raises(UsageError, match=why):
        run_once(at(1.5), database_for("encoder"), settings, span)


def test_reading_gives_each_asked_instrument_its_span_as_known_then(
    database_for: DatabaseFor, save_encoder: Callable[..., int], ids: dict[str, int]
) -> None:
    model_id = save_encoder()
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


def test_a_vector_as_text_loses_no_bit(database_for: DatabaseFor) -> None:
    values = np.random.default_rng(0).normal(0, 1, 64).astype(np.float32) * np.float32(10.0) ** np.arange(-32, 32)
    values = values.astype(np.float32)
    row = database_for("encoder").fetch_one("SELECT vector_send(%(v)s::vector) AS sent", {"v": vector_text(values)})
    assert row is not None
    assert np.frombuffer(row["sent"], ">f4", offset=4).astype(np.float32).tobytes() == values.tobytes()


@pytest.mark.usefixtures("ids")
def test_the_commands_train_and_embed(
    database_for: DatabaseFor, settings: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SEXTANT_HOME", str(settings.home_path))
    monkeypatch.setenv("DB_NAME", settings.db_name)
    monkeypatch.setenv("SEXTANT_UNIVERSE__VENUE", settings.universe.venue)
    monkeypatch.setenv("SEXTANT_UNIVERSE__SYMBOLS", json.dumps(settings.universe.symbols))
    noon = NOON.isoformat()
    assert train_encoder.main(["--at", noon, "--steps", "2"]) == 0
    assert run_encoder.main(["--at", noon]) == 0
    lines = capsys.readouterr().err.splitlines()
    assert [json.loads(line)["message"] for line in lines if line.startswith("{")] == ["done", "done"]
    assert len(stored(database_for("encoder"))) == 2 * 48 - 2  # two candles of BBB/USDT are missing
    assert run_encoder.main(["--at", noon, "--from", "2024-05-20", "--to", "2024-05-25"]) == 0
    assert len(stored(database_for("encoder"))) > 2 * 48
    assert run_encoder.main(["--at", noon, "--to", "2024-05-25"]) == 2
    assert train_encoder.main(["--at", noon, "--steps", "0"]) == 2
    assert "--steps 0" in capsys.readouterr().err


def test_running_needs_no_training_package() -> None:
    code = "import sys, encoder.run_encoder; assert not {'torch', 'onnx', 'tqdm', 'onnxruntime'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=PROJECT)
