"""Alerts reach the operator: each once, the worst first, and what cannot be known is decided."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

import pipeline.notify
from pipeline.alert_channels import Message, open_channels, send
from pipeline.notify import FRESH, MOST_A_RUN, WAITS_S, run_once, try_channels
from shared.alerts import Severity, raise_alert
from shared.clock import ReplayClock
from shared.db import Database
from shared.job import JobError, Outcome, UsageError
from shared.settings import Settings
from tests.helpers import NOON, DatabaseFor
from tests.pipeline.sinks import HttpSink, http_sink, with_urls

__all__ = ["http_sink"]  # fixtures

MINUTE = timedelta(minutes=1)
MORNING = NOON - timedelta(hours=12)  # before the summary of the day before is due


@pytest.fixture
def tell(database_for: DatabaseFor) -> Callable[..., None]:
    """Raises an alert as the sender would."""

    def alert(key: str, severity: Severity = "warning", at: Any = MORNING) -> None:
        raise_alert(database_for("sender"), at, severity, key, f"about {key}")

    return alert


@pytest.fixture
def run(database_for: DatabaseFor, settings: Settings, http_sink: HttpSink) -> Callable[..., Outcome]:
    def once(at: Any = MORNING, urls: str | None = None) -> Outcome:
        return run_once(ReplayClock(at), database_for("cli"), with_urls(urls or http_sink.url(), settings))

    return once


def deliveries(database: Database) -> list[dict[str, Any]]:
    columns = "key, attempts, delivered_at, error"
    return database.fetch(f"SELECT {columns} FROM alert_deliveries JOIN alerts ON id = alert_id ORDER BY id, channel")


def test_each_alert_is_told_once_the_worst_first(
    run: Callable[..., Outcome], tell: Callable[..., None], http_sink: HttpSink, database_for: DatabaseFor
) -> None:
    for key, severity in (("a", "info"), ("b", "warning"), ("c", "critical"), ("d", "warning")):
        tell(key, severity)
    assert run() == Outcome("done", {"sent": 4, "refused": 0})
    assert [title[-1] for title in http_sink.titles] == ["c", "b", "d", "a"]
    assert run() == run(MORNING + FRESH - MINUTE) == Outcome("nothing", {"sent": 0, "refused": 0})
    assert len(http_sink.taken) == 4
    rows = deliveries(database_for("owner"))
    assert {(row["attempts"], row["delivered_at"], row["error"]) for row in rows} == {(1, MORNING, None)}
    names = database_for("owner").fetch("SELECT DISTINCT channel FROM alert_deliveries")
    assert [row["channel"][:5] for row in names] == ["json-"]
    assert "t0ken" not in str(names)


def test_each_channel_gets_what_it_asked_for(
    run: Callable[..., Outcome], tell: Callable[..., None], http_sink: HttpSink
) -> None:
    for severity in ("info", "warning", "critical"):
        tell(severity, severity)
    run(urls=f"{http_sink.url('all')} warning|{http_sink.url('some')} critical|{http_sink.url('few')}")
    told = [(path, payload["title"].split()[-1]) for path, payload in http_sink.taken]
    assert told == [("/all", "critical"), ("/all", "warning"), ("/all", "info"), ("/some", "critical"),
                    ("/some", "warning"), ("/few", "critical")]  # fmt: skip


def test_what_is_old_or_not_yet_is_no_news(
    run: Callable[..., Outcome], tell: Callable[..., None], http_sink: HttpSink
) -> None:
    tell("old", at=MORNING - FRESH)
    tell("young", at=MORNING - FRESH + MINUTE)
    tell("of a replay to come", at=MORNING + MINUTE)
    run()
    assert http_sink.titles == ["Sextant WARNING: young"]


def test_it_says_since_when_without_a_break(
    run: Callable[..., Outcome], tell: Callable[..., None], http_sink: HttpSink
) -> None:
    for days in (9, 8, 2, 1, 0):
        tell("again", at=MORNING - timedelta(days=days))
        tell("another", at=MORNING - timedelta(days=days + 3))
    run()
    assert "Since 2024-05-30 00:00 UTC" in http_sink.taken[-1][1]["message"]
    assert http_sink.titles[-1].endswith("again")


def test_a_refusal_is_tried_again_later_each_time_and_given_up_at_last(
    run: Callable[..., Outcome], tell: Callable[..., None], http_sink: HttpSink, database_for: DatabaseFor
) -> None:
    tell("a", "critical")
    http_sink.refuse_next = 100
    only_critical = f"critical|{http_sink.url()}"
    assert run(urls=only_critical) == Outcome("refused", {"sent": 0, "refused": 1})
    for attempts, wait_s in enumerate(WAITS_S, start=2):
        due = MORNING + timedelta(seconds=wait_s)
        assert run(due - timedelta(seconds=1), only_critical).result["refused"] == 0
        assert run(due, only_critical).result["refused"] == 1
        (row,) = deliveries(database_for("owner"))
        assert (row["attempts"], row["delivered_at"]) == (attempts, None)
        assert "403" in row["error"]
    http_sink.refuse_next = 0
    run(MORNING + FRESH - MINUTE, only_critical)
    assert http_sink.taken == []


def test_an_ailing_channel_is_told_of_to_the_others(
    run: Callable[..., Outcome], tell: Callable[..., None], http_sink: HttpSink
) -> None:
    tell("a")
    dead = "json://127.0.0.1:1/5ecret-t0ken"
    both = f"{dead} {http_sink.url('alive')}"
    for wait_s in (0, *WAITS_S[:2]):
        assert "alert-channel" not in str(http_sink.titles)
        run(MORNING + timedelta(seconds=wait_s), both)
    (told,) = [payload for _, payload in http_sink.taken if "alert-channel" in payload["title"]]
    assert "takes no alerts" in told["message"]
    assert "t0ken" not in str(told)


def test_one_refusal_ends_the_run_of_a_channel_and_the_next_run_goes_on(
    run: Callable[..., Outcome], tell: Callable[..., None], http_sink: HttpSink
) -> None:
    for key in "abc":
        tell(key)
    http_sink.refuse_next = 1
    assert run().result == {"sent": 0, "refused": 1}
    assert run(MORNING + MINUTE / 2).result == {"sent": 2, "refused": 0}
    assert run(MORNING + MINUTE).result == {"sent": 1, "refused": 0}
    assert [title[-1] for title in http_sink.titles] == ["b", "c", "a"]


def test_a_flood_is_spread_over_runs(run: Callable[..., Outcome], tell: Callable[..., None]) -> None:
    for k in range(MOST_A_RUN + 3):
        tell(f"k{k}")
    assert [run().result["sent"] for _ in range(3)] == [MOST_A_RUN, 3, 0]


@pytest.mark.parametrize("arrived", [False, True])
def test_killed_between_claim_and_end_a_critical_alert_comes_at_least_once_any_other_at_most_once(
    run: Callable[..., Outcome], tell: Callable[..., None], http_sink: HttpSink, monkeypatch: pytest.MonkeyPatch,
    arrived: bool,
) -> None:  # fmt: skip
    def killed(channel: Any, message: Message) -> None:
        if arrived:
            send(channel, message)
        raise KeyboardInterrupt

    for key, severity in (("c", "critical"), ("w", "warning")):
        tell(key, severity)
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(pipeline.notify, "send", killed)
            run()
    for minute in (1, 2, 600):
        run(MORNING + minute * MINUTE)
    told = [title[-1] for title in http_sink.titles]
    assert told == (["c", "w", "c"] if arrived else ["c"])


def test_a_second_attempt_that_breaks_off_counts_like_a_first(
    run: Callable[..., Outcome], tell: Callable[..., None], http_sink: HttpSink, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(channel: Any, message: Message) -> None:
        raise KeyboardInterrupt

    tell("w")
    http_sink.refuse_next = 1
    run()
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(pipeline.notify, "send", killed)
        run(MORNING + MINUTE)
    run(MORNING + FRESH - MINUTE)
    assert http_sink.taken == [], "it was refused, then perhaps taken: at most once"


def test_what_another_run_took_is_not_sent_twice(
    run: Callable[..., Outcome], tell: Callable[..., None], http_sink: HttpSink, database_for: DatabaseFor,
    settings: Settings,
) -> None:  # fmt: skip
    tell("a", "critical")
    (channel,) = open_channels(with_urls(http_sink.url(), settings))
    (seen,) = pipeline.notify.due_alerts(database_for("cli"), channel, MORNING)
    run()
    assert pipeline.notify.deliver(database_for("cli"), channel, seen, MORNING) is None
    assert len(http_sink.taken) == 1


def test_without_a_channel_nothing_is_claimed_and_it_is_said(
    tell: Callable[..., None], database_for: DatabaseFor, settings: Settings
) -> None:
    tell("a")
    outcome = run_once(ReplayClock(NOON), database_for("cli"), with_urls(None, settings))
    assert outcome.status == "nothing"
    assert "ALERT_URLS" in outcome.result["next"]
    assert deliveries(database_for("owner")) == []


# ── the test of the channels ─────────────────────────────────────────────────────────────────────────────────────────


def test_alert_test_tries_every_channel_and_writes_down_what_it_found(
    database_for: DatabaseFor, settings: Settings, http_sink: HttpSink, capsys: pytest.CaptureFixture[str]
) -> None:
    checks = "SELECT kind, passed, details, recorded_at FROM operator_checks ORDER BY id"
    good = with_urls(f"{http_sink.url('x')} critical|{http_sink.url('y')}", settings)
    assert try_channels(database_for("cli"), good, NOON) == Outcome("done", {"channels": 2})
    assert [(path, payload["type"]) for path, payload in http_sink.taken] == [("/x", "info"), ("/y", "failure")]
    assert "this channel works" in http_sink.taken[0][1]["message"]
    with pytest.raises(JobError, match="a channel refused the test"):
        try_channels(database_for("cli"), with_urls(f"json://127.0.0.1:1/5ecret {http_sink.url('x')}", settings), NOON)
    passed, failed = database_for("cli").fetch(checks)
    names = [channel.name for channel in open_channels(good)]
    assert (passed["kind"], passed["passed"], passed["recorded_at"]) == ("alert-test", True, NOON)
    assert passed["details"] == {"channels": dict.fromkeys(names, "delivered")}
    assert (failed["passed"], failed["details"]["channels"][names[0]]) == (False, "delivered")
    shown = capsys.readouterr().out
    assert f"{names[1]} (critical and worse): delivered" in shown
    assert "5ecret" not in shown + json.dumps(failed["details"])
    with pytest.raises(UsageError, match="set ALERT_URLS"):
        try_channels(database_for("cli"), with_urls(None, settings), NOON)
    assert len(database_for("cli").fetch(checks)) == 2
