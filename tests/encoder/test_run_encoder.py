"""Hourly runs and one batch pass write the same rows; twice changes nothing; what is missing is said."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import pytest

from encoder import run_encoder
from encoder.inference import Embedded, embed
from encoder.run_encoder import embed_missing, run_once
from shared.clock import ReplayClock, to_unix
from shared.db import Database
from shared.embeddings import read_embeddings
from shared.features import Grid
from shared.job import JobError, UsageError
from shared.model_store import model_by_id, save_model
from shared.rows import Candles
from shared.settings import PROJECT, Settings
from tests.encoder.small_encoder import save_encoder, small_encoder
from tests.helpers import NOON, DatabaseFor, random_candles, store_candles

HOUR = 3600
END = NOON + timedelta(hours=60)
ALL_BUT_RECORDED_AT = """
SELECT model_id, instrument_id, timeframe_s, as_of, embedding::text AS embedding, ood, known_from
FROM embeddings ORDER BY model_id, instrument_id, as_of
"""
POISON_AFTER = """
UPDATE market_data SET open = open * 3, high = high * 4, low = low / 2, close = close * 2, volume = 7
WHERE as_of > %(at)s
"""

SERIES = {
    "AAA/USDT": random_candles(520, HOUR, 1, end=to_unix(END)),
    "BBB/USDT": random_candles(520, HOUR, 2, end=to_unix(END))[np.delete(np.arange(520), [440, 441, 505])],
}


@pytest.fixture
def ids(database_for: DatabaseFor) -> dict[str, int]:
    return {symbol: store_candles(database_for, "test", symbol, HOUR, candles) for symbol, candles in SERIES.items()}


def set_status(database_for: DatabaseFor, model_id: int, status: str) -> None:
    query = "UPDATE models SET status = %(status)s WHERE id = %(id)s"
    assert database_for("encoder").execute(query, {"status": status, "id": model_id}) == 1


def become_shadow(database_for: DatabaseFor, model_id: int) -> None:
    set_status(database_for, model_id, "shadow")


def save_policy(database_for: DatabaseFor, encoder_id: int, plus: int = 0, schema: dict[str, Any] | None = None) -> int:
    """A policy that says it learnt from this encoder."""
    return save_model(
        database_for("policy"), kind="policy", onnx=small_encoder(90 + plus), schema=schema or {}, trained_from=NOON,
        trained_to=NOON + timedelta(days=1), label_horizon_s=0, provenance="real", encoder_id=encoder_id, metrics={},
        recorded_at=NOON,
    )  # fmt: skip


def statuses(database_for: DatabaseFor) -> dict[int, str]:
    rows = database_for("encoder").fetch("SELECT id, status FROM models WHERE kind = 'encoder' ORDER BY id")
    return {row["id"]: row["status"] for row in rows}


def at(hours: float) -> ReplayClock:
    return ReplayClock(NOON + timedelta(hours=hours))


def stored(database: Database) -> list[dict[str, Any]]:
    return database.fetch(ALL_BUT_RECORDED_AT)


@pytest.mark.usefixtures("ids")
def test_hourly_runs_and_one_batch_pass_write_the_same_rows(database_for: DatabaseFor, settings: Settings) -> None:
    save_encoder(database_for)
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
def test_twice_changes_nothing(database_for: DatabaseFor, settings: Settings) -> None:
    save_encoder(database_for)
    encoder = database_for("encoder")
    assert run_once(at(30), encoder, settings).status == "done"
    first = encoder.fetch("SELECT * FROM embeddings ORDER BY instrument_id, as_of")
    assert run_once(at(30.5), encoder, settings).status == "nothing"
    span = (NOON + timedelta(hours=20), NOON + timedelta(hours=30))
    assert run_once(at(31), encoder, settings, span).result["embedded"] == 0
    assert encoder.fetch("SELECT * FROM embeddings ORDER BY instrument_id, as_of") == first


def test_candles_after_now_are_not_seen(database_for: DatabaseFor, settings: Settings, ids: dict[str, int]) -> None:
    save_encoder(database_for)
    encoder = database_for("encoder")
    run_once(at(20.5), encoder, settings)
    before = stored(encoder)
    assert max(row["as_of"] for row in before) == NOON + timedelta(hours=20)
    database_for("owner").execute("DELETE FROM embeddings")
    database_for("owner").execute(POISON_AFTER, {"at": NOON + timedelta(hours=20.5)})
    run_once(at(20.5), encoder, settings)
    assert stored(encoder) == before


def test_a_stored_embedding_is_what_the_model_gives_to_the_bit(
    database_for: DatabaseFor, settings: Settings, ids: dict[str, int]
) -> None:
    model_id = save_encoder(database_for)
    encoder = database_for("encoder")
    run_once(at(30), encoder, settings)
    model = model_by_id(encoder, model_id)
    series = read_embeddings(encoder, model_id, [ids["AAA/USDT"]], HOUR, 0, to_unix(END))[ids["AAA/USDT"]]
    for row in (0, -1):
        expected = embed(model, Grid(SERIES["AAA/USDT"], HOUR).windows(series.as_of[[row]]))
        assert series.embedding[row].tobytes() == expected.embedding[0].tobytes()
        assert series.ood[row] == expected.ood[0]


@pytest.mark.usefixtures("ids")
def test_an_encoder_that_slept_catches_up_since_its_newest_row(database_for: DatabaseFor, settings: Settings) -> None:
    save_encoder(database_for)
    encoder = database_for("encoder")
    run_once(at(-20), encoder, settings)
    run_once(at(55), encoder, settings)
    rows = [row["as_of"] for row in stored(encoder) if row["instrument_id"] == stored(encoder)[0]["instrument_id"]]
    assert rows == [NOON + timedelta(hours=hour) for hour in range(-20 - 47, 56)]


@pytest.mark.usefixtures("ids")
def test_a_run_at_a_past_moment_does_not_look_at_later_rows(database_for: DatabaseFor, settings: Settings) -> None:
    save_encoder(database_for)
    encoder = database_for("encoder")
    run_once(at(50), encoder, settings)
    assert run_once(at(-60), encoder, settings).result["embedded"] == 2 * 48


def test_without_an_encoder_there_is_nothing_to_do_and_an_alert(database_for: DatabaseFor, settings: Settings) -> None:
    outcome = run_once(at(0), database_for("encoder"), settings)
    assert outcome.status == "nothing"
    assert "make train-encoder" in outcome.result["because"]
    assert [row["key"] for row in database_for("encoder").fetch("SELECT key FROM alerts")] == ["no-encoder"]


@pytest.mark.usefixtures("ids")
def test_a_refused_active_encoder_is_an_error_and_an_alert_and_the_shadow_goes_on(
    database_for: DatabaseFor, settings: Settings
) -> None:
    active = save_encoder(database_for, timeframe_s=14_400)
    shadow = save_encoder(database_for, seed=1)
    become_shadow(database_for, shadow)
    with pytest.raises(JobError, match="timeframe_s is 14400, this program wants 3600"):
        run_once(at(0), database_for("encoder"), settings)
    alerts = database_for("encoder").fetch("SELECT severity, key FROM alerts ORDER BY id")
    assert [(row["severity"], row["key"]) for row in alerts] == [
        ("critical", f"encoder-refused:{active}"), ("warning", "job-failed:run_encoder"),
    ]  # fmt: skip
    assert {row["model_id"] for row in stored(database_for("encoder"))} == {shadow}


@pytest.mark.usefixtures("ids")
@pytest.mark.parametrize("status", ["retired", "shadow"])
def test_the_policys_encoder_refused_is_as_bad_as_the_active_one(
    database_for: DatabaseFor, settings: Settings, status: str
) -> None:
    of_policy = save_encoder(database_for, timeframe_s=14_400)
    active = save_encoder(database_for, seed=1)
    set_status(database_for, of_policy, status)
    set_status(database_for, active, "active")
    save_policy(database_for, of_policy)
    with pytest.raises(JobError, match=f"encoder model {of_policy} is refused"):
        run_once(at(0), database_for("encoder"), settings)
    alerts = database_for("encoder").fetch("SELECT severity, key FROM alerts ORDER BY id")
    assert alerts[0] == {"severity": "critical", "key": f"encoder-refused:{of_policy}"}
    assert {row["model_id"] for row in stored(database_for("encoder"))} == {active}


@pytest.mark.usefixtures("ids")
@pytest.mark.parametrize("wrong", ["schema", "lengths"])
def test_a_refused_shadow_is_a_warning_and_the_active_one_goes_on(
    database_for: DatabaseFor, settings: Settings, wrong: str
) -> None:
    active = save_encoder(database_for)
    more: dict[str, Any] = {"timeframe_s": 300} if wrong == "schema" else {"onnx": small_encoder(1, length=2.0)}
    shadow = save_encoder(database_for, seed=1, **more)
    become_shadow(database_for, shadow)
    outcome = run_once(at(0), database_for("encoder"), settings)
    assert outcome.status == "done"
    assert f"encoder model {shadow} is refused" in outcome.result["warnings"][0]
    alerts = database_for("encoder").fetch("SELECT severity, key FROM alerts")
    assert alerts == [{"severity": "warning", "key": f"encoder-refused:{shadow}"}]
    assert {row["model_id"] for row in stored(database_for("encoder"))} == {active}
    assert statuses(database_for) == {active: "active", shadow: "shadow"}


@pytest.mark.usefixtures("ids")
def test_every_encoder_in_use_is_written_and_no_other(database_for: DatabaseFor, settings: Settings) -> None:
    of_policy, shadow, active, candidate = (save_encoder(database_for, seed=seed) for seed in range(4))
    become_shadow(database_for, shadow)
    database_for("encoder").execute("UPDATE models SET status = 'retired' WHERE status = 'active'")
    set_status(database_for, active, "active")
    save_policy(database_for, of_policy)
    outcome = run_once(at(30), database_for("encoder"), settings)
    assert outcome.result["model_id"] == active
    assert outcome.result["by_model"] == {str(i): 2 * 48 for i in (active, of_policy, shadow)}
    rows = stored(database_for("encoder"))
    assert {row["model_id"] for row in rows} == {of_policy, shadow, active}
    vectors = [[row["embedding"] for row in rows if row["model_id"] == i] for i in (of_policy, shadow, active)]
    assert vectors[0] != vectors[1] != vectors[2] != vectors[0]
    assert candidate not in {row["model_id"] for row in rows}
    save_policy(database_for, active, plus=1)  # nobody reads the retired one any more
    assert set(run_once(at(31), database_for("encoder"), settings).result["by_model"]) == {str(active), str(shadow)}
    current = database_for("policy").fetch("SELECT DISTINCT model_id FROM current_embeddings")
    assert current == [{"model_id": active}]


@pytest.mark.usefixtures("ids")
def test_an_encoder_asked_for_by_its_id_is_run_alone_in_use_or_not(
    database_for: DatabaseFor, settings: Settings
) -> None:
    save_encoder(database_for)
    candidate = save_encoder(database_for, seed=1)
    span = (NOON, NOON + timedelta(hours=5))
    assert run_once(at(6), database_for("encoder"), settings, span, candidate).result["embedded"] == 2 * 6
    assert {row["model_id"] for row in stored(database_for("encoder"))} == {candidate}
    other = save_encoder(database_for, seed=2, timeframe_s=300)
    with pytest.raises(JobError, match=f"encoder model {other} is refused"):
        run_once(at(6), database_for("encoder"), settings, span, other)
    with pytest.raises(JobError, match="model 99 is not in this database"):
        run_once(at(6), database_for("encoder"), settings, span, 99)


def test_instruments_beyond_the_universe_and_of_other_venues_are_embedded_too(
    database_for: DatabaseFor, settings: Settings, ids: dict[str, int]
) -> None:
    save_encoder(database_for)
    other = store_candles(database_for, "elsewhere", "CCC/EUR", HOUR, SERIES["AAA/USDT"])
    store_candles(database_for, "test", "DDD/USDT", 300, random_candles(400, 300, end=to_unix(END)))
    run_once(at(30), database_for("encoder"), settings)
    rows = stored(database_for("encoder"))
    assert {row["instrument_id"] for row in rows} == {*ids.values(), other}
    vectors = {i: [row["embedding"] for row in rows if row["instrument_id"] == i] for i in (other, ids["AAA/USDT"])}
    assert vectors[other] == vectors[ids["AAA/USDT"]], "equal candles, equal bits"


@pytest.mark.usefixtures("ids")
def test_small_blocks_change_no_bit_and_series_may_share_one(
    database_for: DatabaseFor, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_encoder(database_for)
    encoder, span = database_for("encoder"), (NOON - timedelta(hours=100), NOON + timedelta(hours=50))
    run_once(at(50), encoder, settings, span)
    whole = stored(encoder)
    database_for("owner").execute("DELETE FROM embeddings")
    seen: list[int] = []
    monkeypatch.setattr(run_encoder, "BLOCK", 40)
    monkeypatch.setattr(run_encoder, "embed", lambda model, windows: seen.append(len(windows)) or embed(model, windows))
    run_once(at(50), encoder, settings, span)
    assert stored(encoder) == whole
    assert seen == [40, 40, 40, 71, 40, 40, 28]  # the 31 last of the first series go with the second's first 40


@pytest.mark.usefixtures("ids")
def test_a_back_fill_that_was_killed_goes_on_with_what_is_missing(
    database_for: DatabaseFor, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    model_id = save_encoder(database_for)
    encoder, span = database_for("encoder"), (NOON - timedelta(hours=100), NOON + timedelta(hours=50))
    calls: list[int] = []

    def embed_twice(model: Any, windows: Any) -> Embedded:
        calls.append(len(windows))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return embed(model, windows)

    monkeypatch.setattr(run_encoder, "BLOCK", 40)
    monkeypatch.setattr(run_encoder, "embed", embed_twice)
    with pytest.raises(KeyboardInterrupt):
        run_once(at(50), encoder, settings, span)
    assert len(stored(encoder)) == 80
    calls.extend([0, 0])
    assert run_once(at(50), encoder, settings, span).result["embedded"] == 2 * 151 - 3 - 80
    assert embed_missing(encoder, model_id, HOUR, at(50).now(), span).embedded == 0


def test_a_symbol_without_candles_is_a_warning_and_the_others_go_on(
    database_for: DatabaseFor, settings: Settings
) -> None:
    save_encoder(database_for)
    store_candles(database_for, "test", "BBB/USDT", HOUR, SERIES["BBB/USDT"])
    outcome = run_once(at(10), database_for("encoder"), settings)
    assert outcome.status == "done"
    assert "AAA/USDT" in outcome.result["warnings"][0]
    assert outcome.result["embedded"] > 40


def test_what_to_do_about_symbols_without_candles_is_said_once(database_for: DatabaseFor, settings: Settings) -> None:
    save_encoder(database_for)
    (warning,) = run_once(at(10), database_for("encoder"), settings).result["warnings"]
    assert all(part in warning for part in ("AAA/USDT, BBB/USDT", "make backfill"))


def test_the_beginning_of_a_series_is_no_gap(database_for: DatabaseFor, settings: Settings) -> None:
    save_encoder(database_for)
    start = NOON - timedelta(hours=287)  # the first window of 288 slots closes at noon
    candles = random_candles(400, HOUR, 1, end=to_unix(start) + 399 * HOUR)
    without = np.r_[1:261]  # a hole which leaves 28 of the first whole window, and 34 of that of six hours later
    store_candles(database_for, "test", "AAA/USDT", HOUR, candles[np.delete(np.arange(400), without)])
    span = (start, NOON + timedelta(hours=6))
    result = run_once(at(6), database_for("encoder"), settings, span).result
    assert result["windows_with_gaps"] == {"test:AAA/USDT": 7}
    early = (start, NOON - timedelta(hours=1))
    assert run_once(at(6), database_for("encoder"), settings, early).result["windows_with_gaps"] == {}


def test_a_window_with_too_many_gaps_gets_no_row(database_for: DatabaseFor, settings: Settings) -> None:
    save_encoder(database_for)
    candles: Candles = SERIES["AAA/USDT"]
    store_candles(
        database_for,
        "test",
        "AAA/USDT",
        HOUR,
        candles[(candles.as_of <= to_unix(NOON)) | (candles.as_of > to_unix(NOON) + 30 * HOUR)],
    )
    outcome = run_once(at(32), database_for("encoder"), settings)
    assert outcome.result["windows_with_gaps"] == {"test:AAA/USDT": 2}
    assert max(row["as_of"] for row in stored(database_for("encoder"))) == NOON
    assert "warnings" in outcome.result  # BBB/USDT has no candles at all


@pytest.mark.parametrize(("first", "last", "why"), [(0, 2, "in the future"), (1, 0, "is after")])
def test_an_impossible_span_is_refused(
    database_for: DatabaseFor, settings: Settings, first: float, last: float, why: str
) -> None:
    span: tuple[datetime, datetime] = (NOON + timedelta(hours=first), NOON + timedelta(hours=last))
    with pytest.raises(UsageError, match=why):
        run_once(at(1.5), database_for("encoder"), settings, span)


@pytest.mark.usefixtures("ids")
def test_the_command_embeds(
    database_for: DatabaseFor, settings: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("shared.job.load_settings", lambda: settings)
    save_encoder(database_for)
    candidate = save_encoder(database_for, seed=1)
    noon = NOON.isoformat()
    assert run_encoder.main(["--at", noon]) == 0
    assert json.loads(capsys.readouterr().err.splitlines()[-1])["embedded"] == 2 * 48 - 2
    span = ["--at", noon, "--from", "2024-05-27", "--to", "2024-05-28"]
    assert run_encoder.main(span) == 0
    assert len(stored(database_for("encoder"))) == 2 * 48 - 2 + 2 * 25
    assert run_encoder.main([*span, "--model", str(candidate)]) == 0
    assert len(stored(database_for("encoder"))) == 2 * 48 - 2 + 4 * 25
    assert run_encoder.main(["--at", noon, "--to", "2024-05-25"]) == 2
    assert "--to needs --from" in capsys.readouterr().err


def test_running_needs_no_training_package() -> None:
    code = "import sys, encoder.run_encoder; assert not {'torch', 'onnx', 'tqdm', 'onnxruntime'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=PROJECT)
