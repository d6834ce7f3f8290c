"""Writes the whole database into one file, and proves that it can be restored.

Input: the database, as its owner. Output: SEXTANT_HOME/backups/<UTC>.dump (PostgreSQL's custom format, mode 0600) with
its SHA-256 beside it; operator_checks (backup, restore-test). Keys and settings are in no dump: config/.env is yours
to keep.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from psycopg.types.json import Json

from pipeline import dumps
from pipeline.dumps import Contents, contents_of
from shared.clock import Clock
from shared.db import Database, drop_database, load_queries
from shared.embedded_db_files import sync_directory, write_durably
from shared.job import Context, JobError, Outcome, UsageError, job, job_parser, run_job_command
from shared.settings import Settings

KEEP_DAYS = 14
NEWEST = timedelta(days=2)  # of these days every dump is kept, for those made by hand; of the days before, one a day
NAMED = re.compile(r"\d{8}T\d{6}Z\.dump")


@job("backup")
def run_once(clock: Clock, database: Database, settings: Settings, folder: Path, keep_days: int = KEEP_DAYS) -> Outcome:
    """Dumps, restores the dump beside the database and compares, then forgets dumps that are too old."""
    now = clock.now()
    with recorded(database, "backup", now) as details:
        file, contents = make_backup(settings, folder, now)
        details |= {"file": str(file), "bytes": file.stat().st_size, "rows": sum(contents.counts.values())}
    with recorded(database, "restore-test", now) as tested:
        tested["file"] = str(file)
        try_restore(settings, file, contents)
        tested |= {"tables": len(contents.counts), "rows": details["rows"]}
    forgotten = forget_old(folder, keep_days, now)
    return Outcome("done", details | {"forgotten": forgotten})


@contextmanager
def recorded(database: Database, kind: str, at: datetime) -> Iterator[dict[str, Any]]:
    """Writes a row of operator_checks: what the body put into the yielded details, and whether it came to its end."""
    details: dict[str, Any] = {}
    passed = False
    try:
        yield details
        passed = True
    except Exception as error:
        details["error"] = str(error)
        raise
    finally:
        check = {"kind": kind, "passed": passed, "details": Json(details), "at": at}
        database.execute(load_queries("notify")["insert_operator_check"], check)


def make_backup(settings: Settings, folder: Path, now: datetime) -> tuple[Path, Contents]:
    """The dump, which appears whole or not at all, and what is in it: both of one snapshot of a database in use."""
    file = folder / f"{now:%Y%m%dT%H%M%SZ}.dump"
    draft = folder / f".{file.name}.partial"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if file.exists():
            raise JobError(f"{file} exists already: a backup of this second was made; wait for the next")
        for left in folder.glob(".*.dump.partial"):  # a killed run's: this job runs once at a time
            left.unlink()
        os.close(os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        contents = _dump(settings, draft)
        _sync(draft)
        write_durably(dumps.checksum_file(file), f"{dumps.sha256_of(draft)}  {file.name}\n", 0o600)
        draft.replace(file)
        sync_directory(folder)
    except OSError as error:
        raise JobError(
            f"no backup was made: {error}; look at the free space and the permissions of {folder}"
        ) from error
    finally:
        with suppress(OSError):  # where there is no folder, there is no draft
            draft.unlink()
    return file, contents


def _dump(settings: Settings, draft: Path) -> Contents:
    with dumps.owner_connection(settings, dumps.live_name(settings)) as connection, connection.transaction():
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        row = connection.execute("SELECT pg_export_snapshot()").fetchone()
        snapshot = row[0] if row else ""
        dumps.run_program(
            settings,
            "pg_dump",
            ["--format=custom", f"--snapshot={snapshot}", "--file", draft],
            dumps.live_name(settings),
        )
        return contents_of(connection)


def _sync(path: Path) -> None:
    with path.open("rb") as written:
        os.fsync(written.fileno())


def try_restore(settings: Settings, file: Path, contents: Contents) -> None:
    """Restores the dump into a database of its own, which is dropped again; JobError where it lacks anything."""
    dumps.verified(settings, file)
    scratch = f"{dumps.live_name(settings)}_restore_test"
    with dumps.maintenance(settings) as admin:
        dumps.make_database(settings, admin, scratch)
        try:
            dumps.load_dump(settings, file, scratch)
            with dumps.owner_connection(settings, scratch) as connection:
                different = contents.difference(contents_of(connection))
        finally:
            drop_database(admin, scratch)
    if different:
        raise JobError(f"{file} does not restore to what was dumped: {different[:1000]}; keep an older backup")


def forget_old(folder: Path, keep_days: int, now: datetime) -> int:
    """Deletes dumps that ``kept`` does not name, with their checksums; how many."""
    names = [path.name for path in folder.iterdir() if NAMED.fullmatch(path.name)]
    for name in set(names) - kept(names, keep_days, now):
        (folder / name).unlink()
        dumps.checksum_file(folder / name).unlink(missing_ok=True)
    return len(names) - len(kept(names, keep_days, now))


def kept(names: list[str], keep_days: int, now: datetime) -> set[str]:
    """Of the newest ``keep_days`` days that have dumps the newest dump, and every dump of the last two days."""
    newest_of_day = {name[:8]: name for name in sorted(names)}
    days = sorted(newest_of_day)[-keep_days:]
    young = {name for name in names if name >= f"{now - NEWEST:%Y%m%dT%H%M%SZ}"}
    return young | {newest_of_day[day] for day in days}


def _work(context: Context) -> Outcome:
    a = context.arguments
    if a.keep < 1:
        raise UsageError(f"--keep {a.keep}: at least 1 day's backup is kept")
    folder = a.to.expanduser().resolve() if a.to else context.settings.home_path / "backups"
    return run_once(context.clock, context.database, context.settings, folder, a.keep)


def main(argv: list[str] | None = None) -> int:
    parser = job_parser("Dumps the whole database into one file and proves that it can be restored.")
    parser.add_argument("--to", type=Path, help="the folder (default: SEXTANT_HOME/backups)")
    parser.add_argument("--keep", type=int, default=KEEP_DAYS, help="days of which a backup is kept")
    return run_job_command("cli", parser, _work, argv)


if __name__ == "__main__":
    sys.exit(main())
