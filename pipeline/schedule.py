"""The schedule, which is data in settings: run in the foreground by APScheduler, or printed for cron.

Each job is a process of its own, logged in as its own role: one that hangs or dies takes no other with it.
"""

from __future__ import annotations

import argparse
import logging
import re
import subprocess
import sys
import time
from typing import TYPE_CHECKING

from shared.job import UsageError
from shared.log import configure_logging
from shared.settings import PROJECT, ScheduledJob, Settings, SettingsError, load_settings

if TYPE_CHECKING:
    from apscheduler.triggers.cron import CronTrigger

log = logging.getLogger("sextant.schedule")
WEEKDAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat", "sun")
JOB_TIMEOUT_S = 3600
MISFIRE_GRACE_S = 60  # a busy machine wakes late; APScheduler's own second would skip the run


def command(job: ScheduledJob) -> list[str]:
    return [sys.executable, "-m", job.module]


def start_job(name: str, job: ScheduledJob) -> None:
    """Runs one job to its end; its own log lines go to this terminal."""
    time.sleep(job.delay_s)
    try:
        finished = subprocess.run(command(job), cwd=PROJECT, timeout=JOB_TIMEOUT_S, check=False)  # noqa: S603
    except subprocess.TimeoutExpired:
        log.error("stopped: it ran longer than an hour", extra={"job": name})
        return
    if finished.returncode:
        log.warning("ended with an error", extra={"job": name, "exit_code": finished.returncode})


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

    scheduler = BlockingScheduler(timezone="UTC")
    for name, job in settings.schedule.items():
        limits = {"max_instances": 1, "coalesce": True, "misfire_grace_time": MISFIRE_GRACE_S}
        scheduler.add_job(start_job, cron_trigger(job), (name, job), id=name, **limits)
        log.info("scheduled", extra={"job": name, "runs": job.module, "cron": job.cron, "delay_s": job.delay_s})
    try:
        scheduler.start()
    except (KeyboardInterrupt, SystemExit):
        log.info("schedule ends; running jobs finish")
        scheduler.shutdown(wait=True)


def cron_lines(settings: Settings) -> list[str]:
    """The same schedule as crontab lines, with the environment that cron does not give."""
    log_file = settings.home_path / "cron.log"
    lines = ["# Sextant: `crontab -e` and paste. Times are UTC.", "CRON_TZ=UTC", "SHELL=/bin/sh"]
    lines.append(f"SEXTANT_HOME={settings.home_path}")
    for name, job in settings.schedule.items():
        wait = f"sleep {job.delay_s} && " if job.delay_s else ""
        run = f"cd '{PROJECT}' && {wait}'{sys.executable}' -m {job.module} >> '{log_file}' 2>&1"
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
