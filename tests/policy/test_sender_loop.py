"""The sender's loop: when it passes, what wakes it, and how it ends."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from policy.execution import sender_loop
from policy.execution.desk import Superseded
from policy.execution.sender import LiveWallets
from policy.execution.sender_loop import SenderLoop, run_loop
from shared.clock import SystemClock, Timer
from shared.db import load_queries
from shared.job import Outcome
from shared.settings import Settings
from tests.crash.second_sender import superuser
from tests.helpers import DatabaseFor

PATIENCE_S = 10.0


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """When each pass was made; nothing else is done in one."""
    seen: list[float] = []

    def run_once(*_: object) -> Outcome:
        seen.append(time.monotonic())
        return Outcome("nothing")

    monkeypatch.setattr(sender_loop.sender, "run_once", run_once)
    monkeypatch.setattr(sender_loop, "LISTEN_S", 0.05)
    monkeypatch.setattr(sender_loop, "RETRY_S", 0.05)
    return seen


@pytest.fixture
def loop(settings: Settings, passes: list[float]) -> Iterator[Callable[[], int]]:
    """The loop in a thread; calling it ends the loop and tells how many passes it made."""
    ending, made = threading.Event(), []
    live = LiveWallets(settings, lambda *_: pytest.fail("there is no live wallet"))
    thread = threading.Thread(target=lambda: made.append(run_loop(SystemClock(), settings, live, ending.is_set)))
    thread.start()
    _until(lambda: len(passes) == 1)

    def end() -> int:
        ending.set()
        thread.join(PATIENCE_S)
        assert not thread.is_alive()
        return int(made[0])

    yield end
    ending.set()
    thread.join(PATIENCE_S)


def _until(happened: Callable[[], bool]) -> None:
    ends = time.monotonic() + PATIENCE_S
    while not happened():
        assert time.monotonic() < ends, "it never happened"
        time.sleep(0.01)


def test_it_passes_at_once_and_then_waits(loop: Callable[[], int], passes: list[float]) -> None:
    time.sleep(0.3)  # six waits without a pass
    assert len(passes) == 1
    assert loop() == 1


def test_an_intent_and_a_command_wake_it(
    loop: Callable[[], int], passes: list[float], database_for: DatabaseFor
) -> None:
    database_for("policy").fetch(load_queries("policy")["notify_intents"], {"wallet": "w"})
    _until(lambda: len(passes) == 2)
    halt = {"command": "halt", "reason": "a test", "issuer": "test", "idempotency_key": "k", "at": SystemClock().now()}
    database_for("cli").execute(
        "INSERT INTO commands (command, reason, issuer, idempotency_key, issued_at, expires_at)"
        " VALUES (%(command)s, %(reason)s, %(issuer)s, %(idempotency_key)s, %(at)s, 'infinity')",
        halt,
    )
    _until(lambda: len(passes) == 3)
    assert loop() == 3


def test_a_lost_database_is_reached_anew_and_alarmed_about(
    loop: Callable[[], int], passes: list[float], database_for: DatabaseFor, settings: Settings
) -> None:
    with superuser(settings) as server:
        server.execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE usename = 'sextant_sender'"
            " AND datname = current_database()"
        )
    _until(lambda: len(passes) == 2)
    alarms = database_for("cli").fetch("SELECT key, severity FROM alerts")
    assert alarms == [{"key": "sender-lost-its-database", "severity": "critical"}]
    loop()


class Heard:
    """A watcher that tells nothing, or fails."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error, self.stopped = error, 0
        self.ends = socket.socketpair()
        self.ends[1].send(b"!")

    def fileno(self) -> int:
        return self.ends[0].fileno()

    def wait(self, _timeout_s: float) -> list[Any]:
        if self.error is not None:
            raise self.error
        return []

    def stop(self) -> None:
        self.stopped += 1


@pytest.mark.parametrize("error", [Superseded("another sender"), RuntimeError("no executions are heard any more")])
def test_a_wallet_that_is_not_heard_any_more_does_not_end_the_others(
    settings: Settings, passes: list[float], database_for: DatabaseFor, error: Exception
) -> None:
    live = LiveWallets(settings, lambda *_: pytest.fail("there is no live wallet"))
    deaf, well = Heard(error), Heard()
    with ExitStack() as stack:
        listener, database = database_for("sender"), database_for("sender")
        loop = SenderLoop(SystemClock(), listener, database, live, Timer(), stack)
        loop._watchers = {1: (None, deaf), 2: (None, well)}  # type: ignore[dict-item]
        loop._heard()
        assert (deaf.stopped, well.stopped) == (1, 0)
        assert list(loop._watchers) == [2]
    assert (deaf.stopped, well.stopped) == (1, 1)
