"""The runner around every job: one instance at a time, a row for each run, one meaning for each exit code.

Exit codes: 0 done, nothing to do, or another instance runs · 1 failed · 2 bad settings or usage ·
3 done, with refused rows.
"""

from __future__ import annotations

import argparse
import functools
import logging
import sys
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Concatenate, Literal, ParamSpec

from psycopg.types.json import Json

from shared.alerts import raise_alert
from shared.clock import Clock, ReplayClock, SystemClock, open_clock, parse_time
from shared.db import Database, DatabaseError, load_queries
from shared.errors import SextantError
from shared.heartbeat import beat
from shared.log import configure_logging
from shared.schema import open_database
from shared.settings import Settings, SettingsError, load_settings

P = ParamSpec("P")
Status = Literal["done", "nothing", "refused", "busy"]
EXIT_CODES = {"done": 0, "nothing": 0, "busy": 0, "refused": 3}

log = logging.getLogger("sextant.job")


class UsageError(SextantError):
    """The caller asked for something that cannot be: exit 2 with the message."""


class JobError(SextantError):
    """The job cannot do its work, for a reason it can name: exit 1 with the message, without a traceback."""


class JobStopped(JobError):
    """The job was asked to stop and can go on later: a run that failed, but nothing to alert anybody to."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run did: its status and the counts worth keeping in job_runs."""

    status: Status
    result: dict[str, Any] = field(default_factory=dict)


def job(
    name: str,
) -> Callable[[Callable[Concatenate[Clock, Database, P], Outcome]], Callable[Concatenate[Clock, Database, P], Outcome]]:
    """Turns a step into the job ``name``: advisory lock, job_runs row, alert on failure.

    JobStopped and UsageError raise none: who called knows.
    """
    lock = zlib.crc32(name.encode())

    def decorate(
        step: Callable[Concatenate[Clock, Database, P], Outcome],
    ) -> Callable[Concatenate[Clock, Database, P], Outcome]:
        @functools.wraps(step)
        def run_once(clock: Clock, database: Database, /, *args: P.args, **kwargs: P.kwargs) -> Outcome:
            queries = load_queries("shared")
            started = SystemClock().now()
            start = {"lock": lock, "job": name, "clock_at": clock.now(), "started_at": started}
            run = database.fetch_one(queries["start_job_run"], start)
            if run is None:
                log.info("another instance runs; nothing done", extra={"job": name})
                return Outcome("busy")
            end = {"lock": lock, "id": run["id"], "error": None}
            try:
                outcome = step(clock, database, *args, **kwargs)
            except BaseException as error:
                _record_failure(database, clock, name, end, error)
                raise
            end |= {"status": outcome.status, "result": Json(outcome.result), "ended_at": SystemClock().now()}
            database.execute(queries["end_job_run"], end)
            return outcome

        return run_once

    return decorate


def _record_failure(database: Database, clock: Clock, name: str, end: dict[str, Any], error: BaseException) -> None:
    """Best effort: the reason is re-raised in any case, and a run that left no end is seen by the next one."""
    message = f"{type(error).__name__}: {error}"
    try:
        end |= {"status": "failed", "result": Json({}), "ended_at": SystemClock().now(), "error": message}
        database.execute(load_queries("shared")["end_job_run"], end)
        if isinstance(error, Exception) and not isinstance(error, (JobStopped, UsageError)):
            raise_alert(database, clock.now(), "warning", f"job-failed:{name}", f"{name} failed: {message}")
    except (DatabaseError, SextantError):
        log.exception("the failure could not be recorded", extra={"job": name})


@dataclass(frozen=True, slots=True)
class Context:
    """What a job's command line gives to its work."""

    settings: Settings
    database: Database
    clock: Clock
    arguments: argparse.Namespace


def job_parser(description: str, span: bool = False) -> argparse.ArgumentParser:
    spec = sys.modules["__main__"].__spec__  # `python -m candles.backfill` is known by that name
    parser = argparse.ArgumentParser(prog=spec.name if spec else None, description=description)
    parser.add_argument("--at", type=time_argument, help="run as if it were this moment (UTC)")
    if span:
        parser.add_argument("--from", dest="span_from", type=time_argument, help="batch pass: first moment")
        parser.add_argument("--to", dest="span_to", type=time_argument, help="batch pass: last moment")
    return parser


def time_argument(text: str) -> datetime:
    try:
        return parse_time(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def run_job_command(
    layer: str,
    parser: argparse.ArgumentParser,
    work: Callable[[Context], Outcome],
    argv: list[str] | None = None,
) -> int:
    """A job's ``main``: parses, loads settings, logs in as the layer's role, runs, returns the exit code.

    A heartbeat follows each run that came to an end of its own.
    """
    arguments = parser.parse_args(argv)
    try:
        settings = load_settings()
    except SettingsError as error:
        print(error, file=sys.stderr)
        return 2
    configure_logging(settings.log.level)
    code, passed = _run(layer, parser.prog, work, settings, arguments)
    if passed is not None:
        beat(settings.heartbeat_url, parser.prog.rpartition(".")[2], passed)
    return code


def _run(
    layer: str, name: str, work: Callable[[Context], Outcome], settings: Settings, arguments: argparse.Namespace
) -> tuple[int, bool | None]:
    """The exit code, and what the heartbeat tells. None: nothing, for the caller asked wrongly, or somebody stopped
    the job (they know), or another instance runs (a job that hangs must fall silent)."""
    try:
        at = getattr(arguments, "at", None)
        clock: Clock = ReplayClock(at) if at else open_clock(settings.clock_url)
        database = open_database(settings, layer)
        try:
            outcome = work(Context(settings, database, clock, arguments))
        finally:
            database.close()
    except (SettingsError, UsageError) as error:
        print(error, file=sys.stderr)
        return 2, None if isinstance(error, UsageError) else False
    except SextantError as error:
        log.error(str(error), extra={"job": name})
        return 1, None if isinstance(error, JobStopped) else False
    except Exception:
        log.exception("failed", extra={"job": name})
        return 1, False
    log.info(outcome.status, extra={"job": name, **outcome.result})
    return EXIT_CODES[outcome.status], None if outcome.status == "busy" else True
