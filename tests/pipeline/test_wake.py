"""A close wakes the layers that wait for it: one run for all its symbols, and none for other candles."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest

from pipeline import wake as module
from pipeline.wake import wake
from shared.db import Database
from shared.embedded_db import ensure_running
from shared.settings import Settings
from tests.helpers import DatabaseFor

HOUR = 3600
CUT_OFF = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
WHERE usename = 'sextant_cli' AND datname = current_database()
"""


class Listener:
    """The listening thread, and how often it ran the jobs."""

    def __init__(self, settings: Settings) -> None:
        self.runs = 0
        self.ending = threading.Event()
        self.thread = threading.Thread(target=wake, args=(settings, self._run, self.ending))
        self.thread.start()

    def _run(self) -> None:
        self.runs += 1

    def end(self) -> None:
        self.ending.set()
        self.thread.join(10)
        assert not self.thread.is_alive()


def eventually(holds: Callable[[], bool], deadline_s: float = 10.0) -> bool:
    end = time.monotonic() + deadline_s
    while not holds() and time.monotonic() < end:
        time.sleep(0.02)
    return holds()


def notify(candles: Database, *payloads: str) -> None:
    for payload in payloads:
        candles.execute("SELECT pg_notify('candles', %(payload)s)", {"payload": payload})


def listening(owner: Database) -> bool:
    """The listener's newest statement is its LISTEN, or what follows it."""
    rows = owner.fetch(
        "SELECT query FROM pg_stat_activity WHERE datname = current_database() AND query LIKE '%LISTEN candles'"
    )
    return len(rows) == 1


def superuser(settings: Settings) -> Database:
    """Who may look at all connections, and end them."""
    server = ensure_running(settings.home_path)
    return Database(server.url("postgres", server.superuser_password, settings.db_name))


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SETTLE_S", 0.2)
    monkeypatch.setattr(module, "LISTEN_S", 0.2)
    monkeypatch.setattr(module, "RETRY_S", 0.1)


def test_candles_of_the_decision_clock_run_the_jobs_once_a_close(settings: Settings, database_for: DatabaseFor) -> None:
    owner, candles, listener = superuser(settings), database_for("candles"), Listener(settings)
    try:
        assert eventually(lambda: listening(owner))
        notify(candles, "1:300:1717243200", "2:300:1717243200", "not a payload", "")
        notify(candles, f"1:{HOUR}:1717243200", f"2:{HOUR}:1717243200", "1:300:1717243500", f"3:{HOUR}:1717243200")
        assert eventually(lambda: listener.runs >= 1)
        time.sleep(0.5)
        assert listener.runs == 1
        notify(candles, f"1:{HOUR}:1717246800")
        assert eventually(lambda: listener.runs == 2)
    finally:
        listener.end()
        owner.close()


def test_a_lost_connection_is_made_anew(
    settings: Settings, database_for: DatabaseFor, caplog: pytest.LogCaptureFixture
) -> None:
    owner, candles, listener = superuser(settings), database_for("candles"), Listener(settings)
    try:
        assert eventually(lambda: listening(owner))
        owner.fetch(CUT_OFF)
        assert eventually(lambda: any("not listening" in r.getMessage() for r in caplog.records))
        assert eventually(lambda: listening(owner))
        notify(candles, f"1:{HOUR}:1717246800")
        assert eventually(lambda: listener.runs == 1)
    finally:
        listener.end()
        owner.close()
