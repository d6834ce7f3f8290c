"""The sign of life: asked for once a run, at the right address, never in the way, and never in the log."""

from __future__ import annotations

import argparse
import logging
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from pydantic import SecretStr

import shared.heartbeat
import shared.job
from shared.errors import SextantError
from shared.heartbeat import beat
from shared.job import JobError, JobStopped, Outcome, UsageError, run_job_command
from shared.settings import Settings, SettingsError, load_settings

TOKEN = "5ecret-t0ken"


class Monitor(ThreadingHTTPServer):
    """Takes signs of life, with the status it is told to answer, and remembers what was asked for."""

    daemon_threads = True
    asked: list[str]
    status = 200


class Answer(BaseHTTPRequestHandler):
    server: Monitor

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        self.send_response(self.server.status)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        """Not to stderr."""


@pytest.fixture
def monitor() -> Iterator[Monitor]:
    with Monitor(("127.0.0.1", 0), Answer) as server:
        server.asked = []
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def address(monitor: Monitor, path: str) -> SecretStr:
    return SecretStr(f"http://127.0.0.1:{monitor.server_port}{path}")


def test_success_and_failure_have_their_own_address(monitor: Monitor) -> None:
    beat(address(monitor, f"/{TOKEN}/{{job}}"), "run_trader", True)
    beat(address(monitor, f"/{TOKEN}/{{job}}"), "run_trader", False)
    beat(address(monitor, f"/{TOKEN}/"), "run_trader", False)
    beat(address(monitor, f"/{TOKEN}/{{job}}?create=1"), "odd name/x", False)
    assert monitor.asked == [
        f"/{TOKEN}/run_trader",
        f"/{TOKEN}/run_trader/fail",
        f"/{TOKEN}/fail",
        f"/{TOKEN}/odd%20name%2Fx/fail?create=1",
    ]


def test_without_an_address_nobody_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared.heartbeat, "_ask", lambda *_: pytest.fail("asked"))
    beat(None, "run_trader", True)


@pytest.mark.parametrize("bad", ["http://127.0.0.1:1/{t}", "file:///etc/{t}", "http://[{t}/", "http://127.0.0.1:x/{t}",
                                 "http://127.0.0.1:1/{t}\n", "{t}"])  # fmt: skip
def test_what_goes_wrong_is_said_without_the_token(bad: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        beat(SecretStr(bad.replace("{t}", TOKEN)), "run_trader", True)
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert record.__dict__["job"] == "run_trader"
    assert TOKEN not in str(record.__dict__)


def test_an_answer_that_refuses_is_said_with_its_status(monitor: Monitor, caplog: pytest.LogCaptureFixture) -> None:
    monitor.status = 404
    beat(address(monitor, f"/{TOKEN}"), "run_trader", True)
    assert [record.__dict__["because"] for record in caplog.records] == ["HTTP status 404"]


def test_a_monitor_that_does_not_answer_costs_a_bounded_time(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It takes the connection and says nothing: the thread is left to its own end."""
    assert shared.heartbeat.TIMEOUT_S <= 5
    monkeypatch.setattr(shared.heartbeat, "TIMEOUT_S", 0.05)
    ended = threading.Event()
    monkeypatch.setattr(shared.heartbeat, "_refusal", lambda _: ended.wait(10) and None)
    before = [thread for thread in threading.enumerate() if thread.name == "heartbeat"]
    beat(SecretStr("http://127.0.0.1/"), "run_trader", True)
    (waiting,) = [t for t in threading.enumerate() if t.name == "heartbeat" and t not in before]
    assert waiting.daemon, "a process would wait for it at its end"
    ended.set()
    waiting.join(10)
    assert [record.__dict__["because"] for record in caplog.records] == ["no answer within 0.05 s"]


def test_a_service_does_not_wait_for_the_answer(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(shared.heartbeat, "TIMEOUT_S", 0.05)
    asked, answered = threading.Event(), threading.Event()

    def ask(*_: object) -> None:
        asked.set()
        answered.wait(10)

    monkeypatch.setattr(shared.heartbeat, "_ask", ask)
    beat(SecretStr("http://127.0.0.1:9"), "run_trader", True, wait=False)
    (asking,) = [thread for thread in threading.enumerate() if thread.name == "heartbeat"]
    assert asked.wait(10)
    assert asking.is_alive()
    assert not caplog.records, "who waits is told that there was no answer"
    answered.set()
    asking.join(10)


def test_a_silent_socket_ends_by_itself(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(shared.heartbeat, "TIMEOUT_S", 0.05)
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen()
        shared.heartbeat._ask(f"http://127.0.0.1:{deaf.getsockname()[1]}/", "run_trader", True)
    assert [record.__dict__["because"] for record in caplog.records] == ["TimeoutError"]


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch, settings: Settings) -> list[tuple[str | None, str, bool]]:
    """What the heartbeat of a job's command told, without anybody asked."""
    said: list[tuple[str | None, str, bool]] = []
    own = load_settings(home=settings.home, db_name=settings.db_name, heartbeat_url=SecretStr("http://127.0.0.1:1/"))
    monkeypatch.setattr(shared.job, "load_settings", lambda: own)
    monkeypatch.setattr(shared.job, "configure_logging", lambda level: None)
    monkeypatch.setattr(
        shared.job, "beat", lambda url, job, passed: said.append((url and url.get_secret_value(), job, passed))
    )
    return said


def command(work: Outcome | Exception) -> int:
    def run(_: shared.job.Context) -> Outcome:
        if isinstance(work, Exception):
            raise work
        return work

    return run_job_command("policy", argparse.ArgumentParser(prog="policy.run_trader"), run, [])


def test_each_run_that_ends_by_itself_tells_how(told: list[tuple[str | None, str, bool]]) -> None:
    good: list[Outcome | Exception] = [Outcome("done"), Outcome("nothing"), Outcome("refused")]
    bad: list[Outcome | Exception] = [JobError("x"), SextantError("x"), ValueError("x"), SettingsError("x")]
    silent: list[Outcome | Exception] = [Outcome("busy"), UsageError("x"), JobStopped("x")]
    codes = [command(work) for work in (*good, *bad, *silent)]
    assert codes == [0, 0, 3, 1, 1, 1, 2, 0, 2, 1]
    assert told == [("http://127.0.0.1:1/", "run_trader", passed) for passed in [True] * 3 + [False] * 4]
