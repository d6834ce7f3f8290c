"""The schedule is data: the same jobs at the same times for APScheduler and for cron, in an order that fits."""

from __future__ import annotations

import importlib
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from apscheduler.schedulers.blocking import BlockingScheduler
from apscheduler.triggers.cron import CronTrigger

from pipeline import schedule
from pipeline.schedule import cron_lines, cron_trigger, keep_running, main, run_scheduler, start_job
from shared.clock import SystemClock
from shared.settings import ScheduledJob, Settings, load_settings
from tests.helpers import NOON, DatabaseFor

TWO = {
    "quick": ScheduledJob(module="json.tool", cron="*/5 * * * *"),
    "late": ScheduledJob(module="json.tool", cron="1-59/15 0,12 * * 1", delay_s=20),
}


@pytest.fixture
def shipped() -> Settings:
    """What config/settings.toml says."""
    return load_settings()


@pytest.fixture
def two(settings: Settings) -> Settings:
    return settings.model_copy(update={"schedule": TWO})


def starts(job: ScheduledJob, first: datetime, last: datetime) -> list[datetime]:
    """When APScheduler starts the job in [first, last), its delay included."""
    trigger, found, moment = cron_trigger(job), [], first
    while (moment := trigger.get_next_fire_time(None, moment)) < last:
        found.append(moment + timedelta(seconds=job.delay_s))
        moment += timedelta(seconds=1)
    return found


def first_start(settings: Settings, name: str, after: datetime) -> datetime:
    return starts(settings.schedule[name], after, after + timedelta(hours=2))[0]


def jobs_of(lines: list[str]) -> list[str]:
    return [line for line in lines if "python" in line and not line.startswith("#")]


def test_every_scheduled_module_is_there_to_be_run(shipped: Settings) -> None:
    for job in shipped.schedule.values():
        module = importlib.import_module(job.module)
        assert callable(module.main)
    assert {job.module for job in shipped.schedule.values()} == {
        "candles.run_feed", "candles.backfill", "candles.quality", "encoder.run_encoder",
        "encoder.check_encoder", "encoder.retrain", "meta_controller.run_metacontroller", "meta_controller.assess_llm",
        "policy.execution.sender", "policy.run_trader", "candles.refresh_rules", "pipeline.notify", "pipeline.backup",
        "pipeline.data_clean",
    }  # fmt: skip


def test_after_an_hour_closes_each_job_starts_after_what_it_reads(shipped: Settings) -> None:
    daily = ("backfill", "quality", "encoder_check", "retrain", "assess_llm", "refresh_rules", "backup", "data_clean")
    hourly = [name for name in shipped.schedule if name not in daily]
    when = {name: first_start(shipped, name, NOON) for name in hourly}
    assert when["feed"] < when["encoder"] < when["trader"]
    assert when["feed"] < when["meta"] < when["trader"]
    assert when["settle"] < when["trader"] < when["sender"]


def test_the_trader_does_not_start_before_the_delay_nor_the_sender_after_the_next_open(shipped: Settings) -> None:
    delay = timedelta(seconds=shipped.execution.delay_s)
    assert NOON + delay <= first_start(shipped, "trader", NOON)
    next_open = NOON + timedelta(seconds=shipped.universe.base_timeframe_s)
    assert first_start(shipped, "sender", NOON) < next_open


@pytest.mark.parametrize("name", ["feed", "settle", "trader", "sender"])
def test_what_follows_the_base_candles_runs_once_for_each(shipped: Settings, name: str) -> None:
    found = starts(shipped.schedule[name], NOON, NOON + timedelta(hours=1))
    base_s = shipped.universe.base_timeframe_s
    assert [int((at - NOON).total_seconds()) // base_s for at in found] == list(range(3600 // base_s))


def test_cron_gets_a_line_a_job_with_its_times_its_delay_and_its_name(two: Settings) -> None:
    lines = cron_lines(two)
    assert "CRON_TZ=UTC" in lines
    assert f"SEXTANT_HOME={two.home_path}" in lines
    jobs = jobs_of(lines)
    assert len(jobs) == 2
    for line, (name, job) in zip(jobs, TWO.items(), strict=True):
        cron = CronTrigger.from_crontab(" ".join(line.split()[:5]), timezone="UTC")
        own = CronTrigger.from_crontab(job.cron, timezone="UTC")
        assert [str(field) for field in cron.fields] == [str(field) for field in own.fields]
        assert f"'{sys.executable}' -m {job.module} >> " in line
        assert ("sleep 20 && " in line) == (name == "late")
        assert line.endswith(f"# {name}")


def test_cron_runs_a_service_once_at_its_times(settings: Settings) -> None:
    feed = ScheduledJob(module="candles.run_feed", cron="*/5 * * * *", service=True)
    (line,) = jobs_of(cron_lines(settings.model_copy(update={"schedule": {"feed": feed}})))
    assert "-m candles.run_feed --once >> " in line


def test_the_shipped_schedule_has_as_many_cron_lines_as_settings(shipped: Settings) -> None:
    jobs = jobs_of(cron_lines(shipped))
    assert [line.split("# ")[-1] for line in jobs] == list(shipped.schedule)


def test_a_cron_line_runs_in_the_shell_and_leaves_what_it_said_in_the_log(two: Settings) -> None:
    line = jobs_of(cron_lines(two))[0].split(maxsplit=5)[5]
    log = two.home_path / "cron.log"
    log.unlink(missing_ok=True)
    done = subprocess.run(
        ["/bin/sh", "-c", line.replace("\\%", "%")], stdin=subprocess.DEVNULL, capture_output=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (1, b"", b""), "json.tool has nothing to read"
    assert "Expecting value" in log.read_text()


def test_a_job_is_a_process_of_its_own_that_does_its_work(
    settings: Settings, database_for: DatabaseFor, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited: list[float] = []
    monkeypatch.setattr(schedule, "time", SimpleNamespace(sleep=waited.append))
    monkeypatch.setenv("SEXTANT_HOME", str(settings.home))
    monkeypatch.setenv("DB_NAME", settings.db_name)
    start_job("sender", ScheduledJob(module="policy.execution.sender", cron="* * * * *", delay_s=30))
    assert waited == [30]
    (run,) = database_for("cli").fetch("SELECT job, layer, status FROM job_runs")
    assert run == {"job": "sender", "layer": "sender", "status": "nothing"}


def warnings(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str, Any]]:
    return [(r.levelname, r.getMessage(), getattr(r, "exit_code", None)) for r in caplog.records]


@pytest.mark.parametrize("module", ["no.such_module", "json.tool"])
def test_a_job_that_fails_is_reported_and_takes_nothing_with_it(caplog: pytest.LogCaptureFixture, module: str) -> None:
    start_job("broken", ScheduledJob(module=module, cron="* * * * *"))
    assert warnings(caplog) == [("WARNING", "ended with an error", 1)]


def test_a_job_that_never_ends_is_stopped(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schedule, "JOB_TIMEOUT_S", 0.2)
    monkeypatch.setattr(schedule, "command", lambda job: [sys.executable, "-c", "import time; time.sleep(60)"])
    start_job("slow", TWO["quick"])
    assert [(level, message[:7]) for level, message, _ in warnings(caplog)] == [("ERROR", "stopped")]


def test_a_job_that_takes_too_long_may_end_what_it_is_at(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    saved = tmp_path / "checkpoint"
    end = f"import signal, sys; signal.signal(15, lambda *_: (open({str(saved)!r}, 'w').close(), sys.exit(1)))"
    monkeypatch.setattr(schedule, "JOB_TIMEOUT_S", 1.0)
    monkeypatch.setattr(schedule, "command", lambda job: [sys.executable, "-c", f"{end}; signal.pause()"])
    start_job("training", TWO["quick"])
    assert saved.exists()
    assert [(level, message[:7]) for level, message, _ in warnings(caplog)] == [("ERROR", "stopped")]


def test_the_scheduler_gets_every_job_once_at_a_time_and_in_utc(two: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[Any] = []
    monkeypatch.setattr(BlockingScheduler, "start", lambda self: kept.extend(self.get_jobs()))
    run_scheduler(two)
    assert [(job.id, job.func, job.args) for job in kept] == [(name, start_job, (name, TWO[name])) for name in TWO]
    for job in kept:
        assert (job.max_instances, job.coalesce) == (1, True)
        assert job.misfire_grace_time >= 30, "a busy machine wakes late"
        assert str(job.trigger.timezone) == "UTC"


@pytest.mark.parametrize(
    ("weekday", "days"),
    [("*", "1111111"), ("0", "0000001"), ("7", "0000001"), ("1", "1000000"), ("1-5", "1111100"), ("0,6", "0000011"),
     ("mon", "1000000"), ("sun", "0000001")],
)  # fmt: skip
def test_a_weekday_means_what_cron_means_by_it(weekday: str, days: str) -> None:
    job = ScheduledJob(module="json.tool", cron=f"0 0 * * {weekday}")
    monday = datetime(2024, 6, 3, tzinfo=UTC)
    found = starts(job, monday, monday + timedelta(days=7))
    assert "".join("1" if monday + timedelta(days=n) in found else "0" for n in range(7)) == days


def test_a_weekday_that_the_two_would_read_differently_is_refused() -> None:
    with pytest.raises(ValueError, match="name the weekdays"):
        cron_trigger(ScheduledJob(module="json.tool", cron="0 0 * * */2"))


def test_the_command_prints_cron_lines_or_says_what_is_wrong(
    two: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(schedule, "load_settings", lambda: two)
    assert main(["--cron"]) == 0
    assert capsys.readouterr().out.splitlines() == cron_lines(two)
    for broken, cause in (
        ({}, "nothing would ever run"),
        ({"x": ScheduledJob(module="json.tool", cron="99 * * * *")}, "99"),
    ):
        monkeypatch.setattr(schedule, "load_settings", lambda s=broken: two.model_copy(update={"schedule": s}))
        for arguments in ([], ["--cron"]):
            assert main(arguments) == 2
            said = capsys.readouterr()
            assert (cause in said.err, said.out) == (True, "")


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def test_a_service_that_ends_is_started_anew_and_told_to_end_at_the_end(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    lives = tmp_path / "lives"
    code = (
        "import pathlib, signal, sys, time\n"
        f"lives = pathlib.Path({str(lives)!r})\n"
        "first = not lives.exists()\n"
        "signal.signal(signal.SIGTERM, lambda *_: (lives.write_text('ended'), sys.exit(0)))\n"
        "lives.write_text('alive' if not first else 'died')\n"
        "first or time.sleep(60)\n"
        "sys.exit(3)\n"
    )
    monkeypatch.setattr(schedule, "RESTART_S", 0.05)
    monkeypatch.setattr(schedule, "command", lambda job: python(code))
    ending = threading.Event()
    thread = threading.Thread(target=keep_running, args=("feed", TWO["quick"], ending))
    thread.start()
    deadline = time.monotonic() + 20
    while not (lives.exists() and lives.read_text() == "alive") and time.monotonic() < deadline:
        time.sleep(0.02)
    ending.set()
    thread.join(20)
    assert lives.read_text() == "ended"
    assert warnings(caplog) == [("WARNING", "service ended; it is started again", 3)]


def test_a_service_that_cannot_be_started_is_tried_again(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    ending, tries = threading.Event(), []

    def no_process(*_: object, **__: object) -> None:
        tries.append(time.monotonic())
        if len(tries) == 3:
            ending.set()
        raise OSError("cannot allocate memory")

    monkeypatch.setattr(schedule, "RESTART_S", 0.01)
    monkeypatch.setattr(schedule.subprocess, "Popen", no_process)
    keep_running("feed", TWO["quick"], ending)
    assert len(tries) == 3
    assert {message for _, message, _ in warnings(caplog)} == {"service cannot be started"}


def test_a_service_that_does_not_heed_the_end_is_killed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    ready = tmp_path / "ready"
    code = (
        "import pathlib, signal, time; signal.signal(15, signal.SIG_IGN)\n"
        f"pathlib.Path({str(ready)!r}).touch(); time.sleep(60)"
    )
    monkeypatch.setattr(schedule, "STOP_S", 0.1)
    monkeypatch.setattr(schedule, "command", lambda job: python(code))
    ending = threading.Event()
    thread = threading.Thread(target=keep_running, args=("feed", TWO["quick"], ending))
    thread.start()
    deadline = time.monotonic() + 20
    while not ready.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    ending.set()
    thread.join(20)
    assert not thread.is_alive()
    assert [message for _, message, _ in warnings(caplog)] == ["it did not end when asked to: killed"]


def test_the_scheduler_keeps_services_apart_and_wakes_who_asked_for_it(
    two: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = {
        "feed": ScheduledJob(module="json.tool", cron="* * * * *", service=True, wake=True),
        "encoder": ScheduledJob(module="json.tool", cron="0 0 1 1 *", wake=True),
        "trader": ScheduledJob(module="json.tool", cron="0 0 1 1 *"),
    }
    kept: list[str] = []
    soon: list[str] = []

    def started(scheduler: BlockingScheduler) -> None:
        assert woken.wait(10)
        limit = SystemClock().now() + timedelta(seconds=1)
        kept.extend(job.id for job in scheduler.get_jobs())
        soon.extend(job.id for job in scheduler.get_jobs() if getattr(job, "next_run_time", limit) < limit)

    woken = threading.Event()
    monkeypatch.setattr(schedule, "keep_running", lambda name, job, ending: served.append(name))
    monkeypatch.setattr(schedule, "wake", lambda settings, run, ending: (run(), woken.set()))
    monkeypatch.setattr(BlockingScheduler, "start", started)
    served: list[str] = []
    run_scheduler(two.model_copy(update={"schedule": jobs}))
    assert (served, kept, soon) == (["feed"], ["encoder", "trader"], ["encoder"])
