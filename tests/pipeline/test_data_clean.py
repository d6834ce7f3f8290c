"""Retention deletes old bookkeeping, only old, and only bookkeeping."""

from __future__ import annotations

from datetime import timedelta

import pytest

import shared.job
from pipeline.data_clean import main, run_once
from pipeline.dumps import contents_of
from pipeline.operator import create_wallet
from shared.alerts import raise_alert
from shared.clock import ReplayClock, SystemClock
from shared.db import Database
from shared.job import Outcome
from shared.settings import Settings
from tests.helpers import NOON, DatabaseFor, random_candles, store_candles

OLD = NOON - timedelta(days=400)
EDGE = timedelta(seconds=1)


@pytest.fixture
def cli(settings: Settings, database_for: DatabaseFor) -> Database:
    """Each kind of bookkeeping twice: a second older and a second younger than what is kept; and a spine."""
    store_candles(database_for, "test", "AAA/USDT", 300, random_candles(3, 300, end=0))
    owner, cli = database_for("owner"), database_for("cli")
    create_wallet(cli, settings, OLD - 100 * timedelta(days=1), "w", "test", ["AAA/USDT"], 1000.0)
    for k, at in enumerate((OLD - EDGE, OLD + EDGE)):
        raise_alert(cli, at, "info", f"alert {k}", "m")
        parameters = {"at": at, "key": f"alert {k}"}
        owner.execute(
            "INSERT INTO alert_deliveries SELECT id, 'c', 1, NULL, NULL, %(at)s FROM alerts WHERE key = %(key)s",
            parameters,
        )
        for status in ("done", "running"):
            row = parameters | {"status": status}
            owner.execute(
                "INSERT INTO job_runs (job, clock_at, started_at, status) VALUES ('j', %(at)s, %(at)s, %(status)s)", row
            )
        for venue in ("still", "gone" if k == 0 else "new"):
            owner.execute(
                "INSERT INTO venue_checks (venue, status, recorded_at) VALUES (%(venue)s, 'online', %(at)s)",
                parameters | {"venue": venue},
            )
    return cli


def test_at_a_moment_of_the_future_nothing_young_is_deleted(cli: Database, settings: Settings) -> None:
    today = SystemClock().now()
    raise_alert(cli, today, "info", "of today", "m")
    run_once(ReplayClock(today + timedelta(days=4000)), cli, settings)
    assert [row["key"] for row in cli.fetch("SELECT key FROM alerts")] == ["of today"]


def test_only_what_is_old_and_bookkeeping_goes(cli: Database, settings: Settings, database_for: DatabaseFor) -> None:
    owner = database_for("owner")
    before = contents_of(owner.connection)
    expected = {"job_runs": 1, "venue_checks": 1, "alert_deliveries": 1, "alerts": 1}
    assert run_once(ReplayClock(NOON), cli, settings) == Outcome("done", expected)
    after = contents_of(owner.connection)
    lost = {table: n - after.counts[table] for table, n in before.counts.items() if n != after.counts[table]}
    assert lost == {"venue_checks": 1, "alert_deliveries": 1, "alerts": 1}, "one run went and its own came"
    assert [row["key"] for row in owner.fetch("SELECT key FROM alerts")] == ["alert 1"]
    runs = owner.fetch("SELECT status, started_at FROM job_runs WHERE job = 'j' ORDER BY started_at, status")
    assert [(row["status"], row["started_at"] < OLD) for row in runs] == [
        ("running", True), ("done", False), ("running", False),
    ]  # fmt: skip
    venues = owner.fetch("SELECT venue, recorded_at < %(at)s AS old FROM venue_checks ORDER BY venue", {"at": OLD})
    assert [(row["venue"], row["old"]) for row in venues] == [("gone", True), ("new", False), ("still", False)]
    assert run_once(ReplayClock(NOON), cli, settings).status == "nothing"


def test_recent_days_are_always_kept(
    cli: Database, settings: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(shared.job, "load_settings", lambda: settings)
    monkeypatch.setattr(shared.job, "configure_logging", lambda level: None)
    assert main(["--days", "29", "--at", "2024-06-01"]) == 2
    assert "the last 30 days are always kept" in capsys.readouterr().err
    assert cli.fetch("SELECT count(*) AS n FROM alerts") == [{"n": 2}]
    assert main(["--days", "30", "--at", "2024-06-01"]) == 0
    assert cli.fetch("SELECT count(*) AS n FROM alerts") == [{"n": 0}]
