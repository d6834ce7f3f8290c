"""A training that is asked for is done once, by one worker, and gone on with when its worker died."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest

from encoder import model_card, retrain, train_encoder
from encoder.retrain import run_once
from encoder.training import TrainingStopped
from pipeline.operator import ask_for_encoder
from shared.clock import ReplayClock, to_unix
from shared.db import Database, load_queries, role_url
from shared.job import JobError, Outcome
from shared.settings import Settings
from tests.encoder.small_encoder import save_encoder, small_encoder
from tests.helpers import NOON, DatabaseFor, random_candles, store_candles

HOUR = timedelta(hours=1)
Train = Callable[..., Outcome]


@pytest.fixture
def encoder(database_for: DatabaseFor) -> Database:
    return database_for("encoder")


@pytest.fixture
def training(monkeypatch: pytest.MonkeyPatch) -> Callable[[Train], None]:
    """``training(work)``: train_encoder does this instead."""

    def becomes(work: Train) -> None:
        monkeypatch.setattr(train_encoder, "run_once", work)

    return becomes


def ask(database_for: DatabaseFor, at: datetime = NOON, key: str | None = None, reason: str = "a test") -> None:
    ask_for_encoder(database_for("cli"), at, reason, "anna", key)


def rows(database: Database) -> list[dict[str, Any]]:
    return database.fetch("SELECT * FROM trainings ORDER BY id")


def request(database: Database, reason: str = "drift", at: datetime = NOON) -> int:
    params = {"reason": reason, "requested_by": "check_encoder", "at": at, "longest_wait": timedelta(days=14)}
    return database.execute(load_queries("encoder")["request_training"], params)


def trains(database_for: DatabaseFor) -> Train:
    def work(*_: Any, **__: Any) -> Outcome:
        return Outcome("done", {"model_id": save_encoder(database_for, seed=5)})

    return work


def fails(message: str = "no candles") -> Train:
    def work(*_: Any, **__: Any) -> Outcome:
        raise JobError(message)

    return work


def at(hours: float) -> ReplayClock:
    return ReplayClock(NOON + hours * HOUR)


def test_a_command_becomes_one_training_and_one_model(
    database_for: DatabaseFor, settings: Settings, encoder: Database, training: Callable[[Train], None]
) -> None:
    training(trains(database_for))
    assert run_once(at(0), encoder, settings).status == "nothing"
    ask(database_for)
    outcome = run_once(at(1), encoder, settings)
    assert outcome.status == "done"
    assert (outcome.result["reason"], outcome.result["requested_by"]) == ("a test", "anna")
    (row,) = rows(encoder)
    command = encoder.fetch_one("SELECT id FROM commands")
    assert command is not None
    expected = {"kind": "encoder", "reason": "a test", "requested_by": "anna", "command_id": command["id"],
                "status": "done", "requested_at": NOON, "started_at": NOON + HOUR, "ended_at": NOON + HOUR,
                "attempts": 1, "model_id": outcome.result["model_id"], "error": None}  # fmt: skip
    assert {name: row[name] for name in expected} == expected
    for hours in (2, 30):
        assert run_once(at(hours), encoder, settings).status == "nothing", "a command is taken once"
    assert len(rows(encoder)) == 1


@pytest.mark.parametrize(("hours", "taken"), [(-0.1, 0), (0, 1), (23.9, 1), (24, 0), (48, 0)])
def test_a_command_is_taken_from_its_time_until_it_expires(
    database_for: DatabaseFor, settings: Settings, encoder: Database, training: Callable[[Train], None],
    hours: float, taken: int,
) -> None:  # fmt: skip
    training(trains(database_for))
    ask(database_for)
    run_once(at(hours), encoder, settings)
    assert len(rows(encoder)) == taken


def test_two_commands_are_two_trainings_one_a_run_the_older_first(
    database_for: DatabaseFor, settings: Settings, encoder: Database, training: Callable[[Train], None]
) -> None:
    training(trains(database_for))
    for reason in ("first", "second"):
        ask(database_for, reason=reason)
    ask(database_for, key="one", reason="third")
    ask(database_for, key="one", reason="third again")
    assert [run_once(at(1), encoder, settings).result.get("reason") for _ in range(4)] == [
        "first", "second", "third", None,
    ]  # fmt: skip


def test_a_wallets_commands_are_none_of_its_business(
    database_for: DatabaseFor, settings: Settings, encoder: Database
) -> None:
    from pipeline.operator import create_wallet, issue_command

    cli = database_for("cli")
    create_wallet(cli, settings, NOON, "w", "test", ("AAA/USDT",), 1000.0)
    issue_command(cli, NOON, "w", "resume", "a test", "anna")
    assert run_once(at(0), encoder, settings).status == "nothing"


def test_a_failed_attempt_is_told_and_tried_again_three_times_in_all(
    database_for: DatabaseFor, settings: Settings, encoder: Database, training: Callable[[Train], None]
) -> None:
    training(fails())
    ask(database_for)
    for attempt in (1, 2, 3):
        with pytest.raises(JobError, match=f"attempt {attempt} of 3: no candles"):
            run_once(at(attempt), encoder, settings)
        (row,) = rows(encoder)
        assert (row["status"], row["attempts"], row["error"]) == (
            "queued" if attempt < 3 else "failed",
            attempt,
            "no candles",
        )
    assert row["ended_at"] == NOON + 3 * HOUR
    assert run_once(at(4), encoder, settings).status == "nothing"
    alerts = [
        alert for alert in encoder.fetch("SELECT * FROM alerts") if alert["key"] == f"training-failed:{row['id']}"
    ]
    assert len(alerts) == 1
    assert "no candles; ask again" in alerts[0]["message"]


def test_a_second_attempt_that_succeeds_ends_well(
    database_for: DatabaseFor, settings: Settings, encoder: Database, training: Callable[[Train], None]
) -> None:
    ask(database_for)
    training(fails())
    with pytest.raises(JobError):
        run_once(at(1), encoder, settings)
    training(trains(database_for))
    run_once(at(2), encoder, settings)
    (row,) = rows(encoder)
    assert (row["status"], row["attempts"], row["error"], row["started_at"]) == ("done", 2, None, NOON + HOUR)


def test_a_training_whose_worker_died_is_taken_up_before_what_is_queued(
    database_for: DatabaseFor, settings: Settings, encoder: Database, training: Callable[[Train], None]
) -> None:
    def dies(*_: Any, **__: Any) -> Outcome:
        raise KeyboardInterrupt

    ask(database_for, reason="first")
    training(dies)
    with pytest.raises(KeyboardInterrupt):
        run_once(at(1), encoder, settings)
    assert [row["status"] for row in rows(encoder)] == ["running"]
    ask(database_for, reason="second")
    training(trains(database_for))
    assert run_once(at(2), encoder, settings).result["reason"] == "first"
    assert run_once(at(3), encoder, settings).result["reason"] == "second"
    assert [(row["status"], row["attempts"]) for row in rows(encoder)] == [("done", 2), ("done", 1)]


def test_a_training_that_kills_its_worker_three_times_is_given_up(
    database_for: DatabaseFor, settings: Settings, encoder: Database, training: Callable[[Train], None]
) -> None:
    def dies(*_: Any, **__: Any) -> Outcome:
        raise KeyboardInterrupt

    ask(database_for)
    training(dies)
    for attempt in (1, 2, 3):
        with pytest.raises(KeyboardInterrupt):
            run_once(at(attempt), encoder, settings)
    assert run_once(at(4), encoder, settings).status == "nothing"
    (row,) = rows(encoder)
    assert (row["status"], row["error"]) == ("failed", "its worker died: it was tried 3 times")
    assert f"training-failed:{row['id']}" in {alert["key"] for alert in encoder.fetch("SELECT key FROM alerts")}


def test_a_training_that_was_asked_to_stop_is_gone_on_with_however_often(
    database_for: DatabaseFor, settings: Settings, encoder: Database, training: Callable[[Train], None]
) -> None:
    def stops(*_: Any, **__: Any) -> Outcome:
        raise TrainingStopped("stopped after step 3 of 9")

    ask(database_for)
    training(stops)
    for attempt in range(5):
        with pytest.raises(TrainingStopped):
            run_once(at(attempt), encoder, settings)
        (row,) = rows(encoder)
        assert (row["status"], row["attempts"], row["ended_at"]) == ("stopped", 0, None)
    assert "step 3 of 9" in row["error"]
    assert encoder.fetch("SELECT FROM alerts") == []
    training(trains(database_for))
    assert run_once(at(6), encoder, settings).status == "done"


def test_while_somebody_trains_by_hand_it_waits(
    database_for: DatabaseFor, settings: Settings, encoder: Database, training: Callable[[Train], None]
) -> None:
    training(lambda *_, **__: Outcome("busy"))
    ask(database_for)
    for _ in range(5):
        assert "another training runs" in run_once(at(1), encoder, settings).result["because"]
    assert [(row["status"], row["attempts"]) for row in rows(encoder)] == [("queued", 0)]


def test_of_two_workers_at_once_one_trains_and_the_other_leaves(
    database_for: DatabaseFor, settings: Settings, training: Callable[[Train], None]
) -> None:
    begun, ended = threading.Event(), threading.Event()

    def slow(*_: Any, **__: Any) -> Outcome:
        begun.set()
        assert ended.wait(10)
        return Outcome("done", {"model_id": save_encoder(database_for)})

    training(slow)
    ask(database_for)
    ask(database_for)
    outcomes: list[str] = []

    def work() -> None:
        database = Database(role_url(settings, "encoder"))
        outcomes.append(run_once(at(1), database, settings).status)
        database.close()

    first = threading.Thread(target=work)
    first.start()
    assert begun.wait(10)
    work()
    assert outcomes == ["busy"]
    ended.set()
    first.join()
    assert outcomes == ["busy", "done"]
    assert [row["status"] for row in rows(database_for("encoder"))] == ["done", "queued"]


def test_a_row_that_another_worker_holds_is_passed_over(
    database_for: DatabaseFor, settings: Settings, encoder: Database
) -> None:
    for _ in range(2):
        ask(database_for)
    queries = load_queries("encoder")
    encoder.execute(queries["claim_commands"], {"now": NOON})
    other = Database(role_url(settings, "encoder"))
    with encoder.transaction(), other.transaction():
        taken = [database.fetch_one(queries["take_training"], {"now": NOON}) for database in (encoder, other)]
        assert taken[0] is not None
        assert taken[1] is not None
        assert taken[0]["id"] < taken[1]["id"]
    other.close()


def test_the_check_asks_for_one_training_and_none_while_a_newer_encoder_waits(
    database_for: DatabaseFor, settings: Settings, encoder: Database, training: Callable[[Train], None]
) -> None:
    save_encoder(database_for)
    assert [request(encoder) for _ in range(3)] == [1, 0, 0]
    training(lambda *_, **__: Outcome("done", {"model_id": save_encoder(database_for, 1, NOON + HOUR)}))
    run_once(at(1), encoder, settings)
    assert request(encoder) == 0, "the candidate waits to be switched to"
    encoder.execute("UPDATE models SET status = 'retired' WHERE status = 'active'")
    encoder.execute("UPDATE models SET status = 'active' WHERE status = 'candidate'")
    assert request(encoder) == 1
    ask(database_for)
    encoder.execute(load_queries("encoder")["claim_commands"], {"now": NOON})
    assert [row["status"] for row in rows(encoder)] == ["done", "queued", "queued"], "a command has a row of its own"
    encoder.execute(
        "UPDATE trainings SET status = 'failed', ended_at = requested_at WHERE command_id IS NULL AND status = 'queued'"
    )
    assert request(encoder) == 0, "the command's own is open"


@pytest.mark.parametrize("status", ["candidate", "shadow", "retired"])
def test_the_check_asks_again_when_an_encoder_was_refused_or_waited_too_long(
    database_for: DatabaseFor, encoder: Database, status: str
) -> None:
    save_encoder(database_for)
    other = save_encoder(database_for, 1, NOON + HOUR)  # recorded then
    encoder.execute("UPDATE models SET status = %(status)s WHERE id = %(id)s", {"status": status, "id": other})
    asked = request(encoder, at=NOON + HOUR + timedelta(days=14))
    assert asked == (status == "retired")
    assert asked + request(encoder, at=NOON + HOUR + timedelta(days=14, seconds=1)) == 1


def test_the_worker_really_trains(
    database_for: DatabaseFor, settings: Settings, encoder: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train_encoder, "export", lambda *_: small_encoder(1))  # which takes seconds
    monkeypatch.setattr(model_card, "_require_same", lambda *_: None)
    for seed, symbol in enumerate(settings.universe.symbols):
        candles = random_candles(520, 3600, seed, end=to_unix(NOON))
        store_candles(database_for, settings.universe.venue, symbol, 3600, candles)
    small = settings.encoder.model_copy(update={"train_steps": 2, "batch_size": 16})
    settings = settings.model_copy(update={"encoder": small})
    active = save_encoder(database_for)
    ask(database_for)
    outcome = run_once(at(0), encoder, settings)
    assert outcome.status == "done"
    models = encoder.fetch("SELECT id, status FROM models ORDER BY id")
    assert models == [{"id": active, "status": "active"}, {"id": outcome.result["model_id"], "status": "candidate"}]
    assert rows(encoder)[0]["model_id"] == outcome.result["model_id"]


def test_the_command_line(
    database_for: DatabaseFor, settings: Settings, encoder: Database, training: Callable[[Train], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr("shared.job.load_settings", lambda: settings)
    training(trains(database_for))
    ask(database_for)
    assert retrain.main(["--at", NOON.isoformat()]) == 0
    training(fails())
    ask(database_for)
    assert retrain.main(["--at", NOON.isoformat()]) == 1
    assert [row["status"] for row in rows(encoder)] == ["done", "queued"]
