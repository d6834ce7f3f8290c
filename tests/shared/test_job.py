"""The runner around every job: one at a time, a row for each run, one meaning for each exit code."""

from __future__ import annotations

import json
import logging
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

import shared.job
from shared.alerts import raise_alert
from shared.clock import Clock, ReplayClock, SystemClock
from shared.db import Database, DatabaseUnavailable, load_queries, role_url
from shared.errors import SextantError
from shared.job import EXIT_CODES, Context, JobError, JobStopped, Outcome, UsageError, job, job_parser, run_job_command
from shared.log import JsonFormatter
from shared.settings import Settings, SettingsError
from tests.shared.spine_rows import NOON, own_database

CLOCK = ReplayClock(NOON)
Step = Callable[[Clock, Database], Outcome]


@pytest.fixture(scope="module")
def rooms(home: Path) -> Iterator[tuple[Settings, Callable[[str], Database]]]:
    with own_database(home, "job") as rooms:
        yield rooms


@pytest.fixture
def database(rooms: tuple[Settings, Callable[[str], Database]]) -> Database:
    """Logged in as the policy, before any run."""
    for table in ("job_runs", "alerts"):
        rooms[1]("owner").execute(f"DELETE FROM {table}")
    return rooms[1]("policy")


@pytest.fixture
def other_session(rooms: tuple[Settings, Callable[[str], Database]]) -> Iterator[Database]:
    session = Database(role_url(rooms[0], "policy"))
    yield session
    session.close()


def runs(database: Database) -> list[dict[str, Any]]:
    return database.fetch("SELECT * FROM job_runs ORDER BY id")


def alerts(database: Database) -> list[dict[str, Any]]:
    return database.fetch("SELECT layer, severity, key, message, day FROM alerts ORDER BY id")


def does(step: Callable[[Clock, Database], Outcome] | Outcome | BaseException, name: str = "a-job") -> Step:
    """The job that does this: calls the step, returns the outcome, raises the error."""

    def work(clock: Clock, database: Database) -> Outcome:
        if isinstance(step, BaseException):
            raise step
        return step if isinstance(step, Outcome) else step(clock, database)

    return job(name)(work)


def test_a_run_leaves_one_row_that_says_what_it_did(database: Database) -> None:
    before = SystemClock().now()
    assert does(Outcome("done", {"written": 3}))(CLOCK, database) == Outcome("done", {"written": 3})
    (row,) = runs(database)
    assert (row["layer"], row["job"], row["clock_at"]) == ("policy", "a-job", NOON)
    assert (row["status"], row["result"], row["error"]) == ("done", {"written": 3}, None)
    assert before <= row["started_at"] <= row["ended_at"] <= SystemClock().now()
    assert alerts(database) == []


@pytest.mark.parametrize("status", ["done", "nothing", "refused"])
def test_the_row_has_the_outcomes_status(database: Database, status: Any) -> None:
    does(Outcome(status))(CLOCK, database)
    assert [row["status"] for row in runs(database)] == [status]


def test_a_row_says_running_while_it_runs(database: Database, other_session: Database) -> None:
    seen = []

    def step(clock: Clock, database: Database) -> Outcome:
        seen.extend((row["status"], row["ended_at"]) for row in runs(other_session))
        return Outcome("done")

    does(step)(CLOCK, database)
    assert seen == [("running", None)]


def test_a_second_instance_says_so_and_leaves(database: Database, other_session: Database) -> None:
    outcomes = []

    def step(clock: Clock, database: Database) -> Outcome:
        outcomes.append(does(AssertionError("must not run"))(CLOCK, other_session))
        outcomes.append(does(Outcome("nothing"), "another-job")(CLOCK, other_session))
        return Outcome("done")

    again = does(step)
    assert again(CLOCK, database).status == "done"
    assert [outcome.status for outcome in outcomes] == ["busy", "nothing"]
    assert [(row["job"], row["status"]) for row in runs(database)] == [("a-job", "done"), ("another-job", "nothing")]
    assert does(Outcome("done"))(CLOCK, other_session).status == "done"  # the lock was given back


def test_a_failed_run_is_recorded_alerted_and_raised_again(database: Database, other_session: Database) -> None:
    error = ValueError("the reason")
    with pytest.raises(ValueError, match="the reason") as raised:
        does(error)(CLOCK, database)
    assert raised.value is error
    (row,) = runs(database)
    assert (row["status"], row["error"], row["ended_at"] is None) == ("failed", "ValueError: the reason", False)
    message = "a-job failed: ValueError: the reason"
    expected = {"layer": "policy", "severity": "warning", "key": "job-failed:a-job", "message": message}
    assert alerts(database) == [expected | {"day": NOON.date()}]
    assert does(Outcome("done"))(CLOCK, other_session).status == "done"


def test_failing_all_day_is_one_alert_a_day(database: Database) -> None:
    for at in (NOON, NOON + timedelta(hours=1), NOON + timedelta(days=1)):
        with pytest.raises(ValueError, match="again"):
            does(ValueError("again"))(ReplayClock(at), database)
    assert len(runs(database)) == 3
    assert len(alerts(database)) == 2


def test_what_is_worse_than_it_was_is_told_once_more(database: Database) -> None:
    """The day's first row may have been delivered: what became critical since must not hide behind it."""
    for severity, key in (("warning", "k"), ("critical", "k"), ("critical", "k"), ("warning", "k"), ("info", "other")):
        raise_alert(database, NOON, severity, key, f"{severity}: look")
    assert [(a["severity"], a["key"]) for a in alerts(database)] == [
        ("warning", "k"), ("critical", "k:critical"), ("info", "other"),
    ]  # fmt: skip


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt(), SystemExit(1)])
def test_an_interrupted_run_is_recorded_without_an_alert(database: Database, interrupt: BaseException) -> None:
    with pytest.raises(type(interrupt)):
        does(interrupt)(CLOCK, database)
    assert [row["status"] for row in runs(database)] == ["failed"]
    assert alerts(database) == []


def test_a_run_that_was_stopped_or_asked_for_wrongly_is_recorded_without_an_alert(
    database: Database, other_session: Database
) -> None:
    with pytest.raises(JobStopped, match="run it again"):
        does(JobStopped("stopped after step 3; run it again"))(CLOCK, database)
    (row,) = runs(database)
    assert (row["status"], row["error"]) == ("failed", "JobStopped: stopped after step 3; run it again")
    assert alerts(database) == []
    assert does(Outcome("done"))(CLOCK, other_session).status == "done"
    with pytest.raises(UsageError):
        does(UsageError("--to is in the future"))(CLOCK, database)
    assert [row["status"] for row in runs(database)] == ["failed", "done", "failed"]
    assert alerts(database) == []
    with pytest.raises(JobError):
        does(JobError("no candles"))(CLOCK, database)
    assert [alert["message"] for alert in alerts(database)] == ["a-job failed: JobError: no candles"]


def test_what_a_failed_transaction_wrote_is_gone_and_the_failure_is_not(database: Database) -> None:
    def step(clock: Clock, database: Database) -> Outcome:
        with database.transaction():
            database.execute(
                "INSERT INTO job_runs (job, clock_at, started_at, status) VALUES ('x', now(), now(), 'done')"
            )
            database.execute("SELECT 1 / 0")
        return Outcome("done")

    with pytest.raises(Exception, match="division by zero"):
        does(step)(CLOCK, database)
    assert [(row["job"], row["status"]) for row in runs(database)] == [("a-job", "failed")]


def test_a_run_whose_connection_broke_is_recorded_over_a_new_one(database: Database) -> None:
    def step(clock: Clock, database: Database) -> Outcome:
        database.execute("SELECT pg_terminate_backend(pg_backend_pid())")
        return Outcome("done")

    with pytest.raises(Exception, match=r"terminating connection|server closed"):
        does(step)(CLOCK, database)
    assert [row["status"] for row in runs(database)] == ["failed"]


def test_a_killed_run_is_marked_failed_by_the_next_one(database: Database, other_session: Database) -> None:
    does(Outcome("done"))(CLOCK, database)

    killed = {"lock": zlib.crc32(b"a-job"), "job": "a-job", "clock_at": NOON, "started_at": NOON}
    other_session.fetch_one(load_queries("shared")["start_job_run"], killed)
    pid = other_session.connection.info.backend_pid
    other_session.close()  # what kill -9 looks like to the server, which takes a moment to notice
    while database.fetch("SELECT FROM pg_stat_activity WHERE pid = %(pid)s", {"pid": pid}):
        time.sleep(0.01)
    assert [row["status"] for row in runs(database)] == ["done", "running"]
    does(Outcome("nothing"), "another-job")(CLOCK, database)
    assert [row["status"] for row in runs(database)] == ["done", "running", "nothing"]  # not its to judge
    does(Outcome("nothing"))(CLOCK, database)
    assert [row["status"] for row in runs(database)] == ["done", "failed", "nothing", "nothing"]
    assert runs(database)[1]["error"] == "did not finish: killed or crashed"
    assert runs(database)[1]["ended_at"] is not None


@pytest.fixture
def command(
    rooms: tuple[Settings, Callable[[str], Database]], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., int]]:
    """Runs ``work`` as a job's main would."""
    monkeypatch.setattr(shared.job, "load_settings", lambda: rooms[0])
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level

    def run(work: Callable[[Context], Outcome], *argv: str) -> int:
        return run_job_command("policy", job_parser("A job.", span=True), work, list(argv))

    yield run
    root.handlers[:], root.level = handlers, level


def raises(error: Exception) -> Callable[[Context], Outcome]:
    def work(context: Context) -> Outcome:
        raise error

    return work


def test_every_status_has_an_exit_code(command: Callable[..., int]) -> None:
    codes = {status: command(lambda _, status=status: Outcome(status)) for status in EXIT_CODES}
    assert codes == {"done": 0, "nothing": 0, "busy": 0, "refused": 3}


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (SettingsError("bad"), 2),
        (UsageError("bad"), 2),
        (JobError("bad"), 1),
        (JobStopped("bad"), 1),
        (DatabaseUnavailable("bad"), 1),
        (SextantError("bad"), 1),
        (ValueError("bad"), 1),
    ],
)
def test_every_failure_has_an_exit_code_and_says_why(
    command: Callable[..., int], capsys: pytest.CaptureFixture[str], error: Exception, code: int
) -> None:
    assert command(raises(error)) == code
    said = capsys.readouterr().err
    assert "bad" in said
    assert ("Traceback" in said) == isinstance(error, ValueError)  # only what nobody named shows where it came from


def test_settings_that_cannot_be_loaded_are_exit_2(
    command: Callable[..., int], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    monkeypatch.setenv("SEXTANT_BOGUS", "1")
    assert command(lambda _: Outcome("done")) == 2
    assert "SEXTANT_BOGUS" in capsys.readouterr().err


@pytest.mark.parametrize("argv", [["--at", "yesterday"], ["--bogus"], ["--from", "2024-13-01"]])
def test_bad_usage_is_exit_2(command: Callable[..., int], capsys: pytest.CaptureFixture[str], argv: list[str]) -> None:
    with pytest.raises(SystemExit) as left:
        command(lambda _: Outcome("done"), *argv)
    assert left.value.code == 2
    assert argv[-1] in capsys.readouterr().err


def test_at_sets_the_clock_and_without_it_time_is_now(command: Callable[..., int]) -> None:
    seen: list[Context] = []
    for argv in (["--at", "2024-06-01T12:00"], ["--at", "2024-06-01T14:00+02:00"], []):
        command(lambda context: seen.append(context) or Outcome("done"), *argv)
    assert [context.clock.now() for context in seen[:2]] == [NOON, NOON]
    assert abs(seen[2].clock.now() - SystemClock().now()) < timedelta(minutes=1)


def test_a_naive_moment_is_refused(database: Database) -> None:
    with pytest.raises(ValueError, match="has no time zone"):
        does(Outcome("done"))(ReplayClock(datetime(2024, 6, 1)), database)  # noqa: DTZ001
    assert runs(database) == []


def test_a_job_logs_one_json_object_a_line(command: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    command(lambda _: Outcome("refused", {"written": 2, "at": NOON}))
    command(raises(ValueError('two\nlines, "quotes" and ü')))
    done, failed = (json.loads(line) for line in capsys.readouterr().err.splitlines())
    assert (done["level"], done["message"], done["written"], done["at"]) == ("INFO", "refused", 2, str(NOON))
    assert failed["level"] == "ERROR"
    assert 'ValueError: two\nlines, "quotes" and ü' in failed["exception"]


def test_a_log_line_keeps_what_json_has_no_word_for() -> None:
    record = logging.getLogger("sextant.x").makeRecord(
        "sextant.x", logging.WARNING, __file__, 1, "%s of %d", ("one", 2), None, extra={"path": Path("a"), "n": NOON}
    )
    line = json.loads(JsonFormatter().format(record))
    assert (line["message"], line["path"], line["n"], line["logger"]) == ("one of 2", "a", str(NOON), "sextant.x")
    assert datetime.fromisoformat(line["at"]).tzinfo is not None


def test_the_program_name_is_the_module(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = type("Spec", (), {"name": "candles.backfill"})
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", spec)
    assert job_parser("x").prog == "candles.backfill"
