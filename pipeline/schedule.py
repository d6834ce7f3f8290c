"""The schedule, which is data in settings: run in the foreground by APScheduler, or printed for cron.

Each job is a process of its own, logged in as its own role: one that hangs or dies takes no other with it.
A service is a process that is started anew when it ends.
"""

from __future__ import annotations

import argparse
import logging
import re
import signal
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING

from pipeline.wake import wake
from shared.clock import SystemClock
from shared.job import UsageError
from shared.log import configure_logging
from shared.settings import PROJECT, ScheduledJob, Settings, SettingsError, load_settings

if TYPE_CHECKING:
    from apscheduler.triggers.cron import CronTrigger

log = logging.getLogger("sextant.schedule")
WEEKDAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat", "sun")
JOB_TIMEOUT_S = 3600
RESTART_S, RESTART_MAX_S = 5.0, 300.0  # between two lives of a service; doubles while they are short
STOP_S = 15.0  # a service, or a job that takes too long, gets this long to end cleanly
MISFIRE_GRACE_S = 60  # a busy machine wakes late; APScheduler's own second would skip the run


def command(job: ScheduledJob) -> list[str]:
    return [sys.executable, "-m", job.module]


def start_job(name: str, job: ScheduledJob) -> None:
    """Runs one job to its end; its own log lines go to this terminal."""
    time.sleep(job.delay_s)
    process = subprocess.Popen(command(job), cwd=PROJECT)  # noqa: S603
    try:
        exit_code = process.wait(JOB_TIMEOUT_S)
    except subprocess.TimeoutExpired:  # asked first, killed only then: a training leaves a checkpoint to go on from
        log.error("stopped: it ran longer than an hour", extra={"job": name})
        _end(name, process)
        return
    if exit_code:
        log.warning("ended with an error", extra={"job": name, "exit_code": exit_code})


def keep_running(name: str, job: ScheduledJob, ending: threading.Event) -> None:
    """Runs a service, and again when it ended by itself, until ``ending`` is set; then ends it."""
    wait_s = RESTART_S
    while not ending.is_set():
        started = time.monotonic()
        try:
            process = subprocess.Popen(command(job), cwd=PROJECT)  # noqa: S603
        except OSError as error:  # no memory, no process to be had: it may pass
            log.error("service cannot be started", extra={"job": name, "why": str(error), "wait_s": wait_s})
            ending.wait(wait_s)
            wait_s = min(2 * wait_s, RESTART_MAX_S)
            continue
        while process.poll() is None and not ending.wait(0.2):
            pass
        if ending.is_set():
            _end(name, process)
            return
        lasted = time.monotonic() - started
        wait_s = RESTART_S if lasted > RESTART_MAX_S else wait_s
        log.warning("service ended; it is started again", extra={
            "job": name, "exit_code": process.returncode, "lasted_s": round(lasted), "wait_s": wait_s})  # fmt: skip
        ending.wait(wait_s)
        wait_s = min(2 * wait_s, RESTART_MAX_S)


def _end(name: str, process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        log.error("it did not end when asked to: killed", extra={"job": name})
        process.kill()
        process.wait()


def cron_trigger(job: ScheduledJob) -> CronTrigger:
    """The job's times as cron means them: APScheduler 3 counts weekdays from Monday, cron from Sunday."""
    from apscheduler.triggers.cron import CronTrigger

    *times, weekday = job.cron.split()
    if "*/" in weekday:
        raise ValueError(f"{job.cron!r}: name the weekdays, like mon,wed,fri; every n-th day means two things")
    named = re.sub(r"\b[0-7]\b", lambda day: WEEKDAYS[int(day[0])], weekday)
    return CronTrigger.from_crontab(" ".join([*times, named]), timezone="UTC")


def run_scheduler(settings: Settings) -> None:
    from apscheduler.schedulers.blocking import BlockingScheduler

    scheduler, ending = BlockingScheduler(timezone="UTC"), threading.Event()
    threads: list[threading.Thread] = []
    for name, job in settings.schedule.items():
        if job.service:
            threads.append(threading.Thread(target=keep_running, args=(name, job, ending), name=name))
            log.info("service", extra={"job": name, "runs": job.module})
            continue
        limits = {"max_instances": 1, "coalesce": True, "misfire_grace_time": MISFIRE_GRACE_S}
        scheduler.add_job(start_job, cron_trigger(job), (name, job), id=name, **limits)
        log.info("scheduled", extra={"job": name, "runs": job.module, "cron": job.cron, "delay_s": job.delay_s})
    woken = [name for name, job in settings.schedule.items() if job.wake and not job.service]

    def run_now() -> None:
        for name in woken:
            scheduler.modify_job(name, next_run_time=SystemClock().now())

    if woken:
        threads.append(threading.Thread(target=wake, args=(settings, run_now, ending), name="wake"))
    previous = signal.signal(signal.SIGTERM, _leave)
    for thread in threads:
        thread.start()
    try:
        scheduler.start()
    except (KeyboardInterrupt, SystemExit):
        log.info("schedule ends; running jobs finish")
        ending.set()
        scheduler.shutdown(wait=True)
    finally:
        ending.set()
        for thread in threads:
            thread.join()
        signal.signal(signal.SIGTERM, previous)


def _leave(signum: int, frame: object) -> None:
    raise SystemExit(0)


def cron_lines(settings: Settings) -> list[str]:
    """The same schedule as crontab lines, with the environment that cron does not give."""
    log_file = settings.home_path / "cron.log"
    lines = ["# Sextant: `crontab -e` and paste. Times are UTC.", "CRON_TZ=UTC", "SHELL=/bin/sh"]
    lines.append(f"SEXTANT_HOME={settings.home_path}")
    for name, job in settings.schedule.items():
        wait = f"sleep {job.delay_s} && " if job.delay_s else ""
        once = " --once" if job.service else ""
        run = f"cd '{PROJECT}' && {wait}'{sys.executable}' -m {job.module}{once} >> '{log_file}' 2>&1"
        lines.append(f"{job.cron} {run}  # {name}".replace("%", "\\%"))
    return lines


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Run the schedule of config/settings.toml in the foreground.")
    parser.add_argument("--cron", action="store_true", help="print it as crontab lines instead")
    arguments = parser.parse_args(argv)
    try:
        settings = load_settings()
        if not settings.schedule:
            raise UsageError("settings have no [schedule.…] section: nothing would ever run")
        for job in settings.schedule.values():
            cron_trigger(job)  # refuses times that are none, before anything is started or printed
        if arguments.cron:
            print("\n".join(cron_lines(settings)))
            return 0
        configure_logging(settings.log.level)
        logging.getLogger("apscheduler").setLevel(logging.WARNING)  # each job logs its own run
        run_scheduler(settings)
    except (SettingsError, UsageError, ValueError) as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
