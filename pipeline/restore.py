"""Puts a backup in the place of the database, which is kept beside it under another name.

Input: a dump of pipeline.backup. Output: the database of the settings; in it operator_checks and commands: what would
start something is voided, and all wallets are halted. A venue went on while the database went back: nothing may be
sent before a reconciliation has found out what happened in between, and an operator has resumed.
"""

from __future__ import annotations

import argparse
import sys
import uuid
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from psycopg import sql
from psycopg.errors import ObjectInUse
from psycopg.rows import dict_row
from psycopg.types.json import Json

from pipeline import dumps
from shared.clock import open_clock
from shared.db import Connection, DatabaseError, drop_database, load_queries
from shared.errors import SextantError
from shared.job import JobError, UsageError
from shared.log import configure_logging
from shared.schema import OtherSchema, apply_schema, bring_up, role_passwords
from shared.settings import Settings, SettingsError, load_settings


def restore(settings: Settings, file: Path, now: datetime) -> dict[str, Any]:
    """Restores into a new database, then swaps the names in one step; what was done. JobError leaves all as it was."""
    sha256 = dumps.verified(settings, file)
    with suppress(OtherSchema):  # what is there now may be another version's: it is put aside
        bring_up(settings)  # a fresh machine has neither the roles nor a database to put aside
    live = dumps.live_name(settings)
    new, before = f"{live}_restored", f"{live}_before_{now:%Y%m%dT%H%M%SZ}"
    with dumps.maintenance(settings) as admin:
        _require_rest(admin, live)
        dumps.make_database(settings, admin, new)
        try:
            dumps.load_dump(settings, file, new)
            with dumps.owner_connection(settings, new) as connection:
                _complete(settings, connection, file)
                details = {"file": str(file), "sha256": sha256, "before": before}
                done = make_safe(connection, now, details)
            _swap(admin, live, new, before)
        except BaseException:
            drop_database(admin, new)
            raise
    return done


def _complete(settings: Settings, connection: Connection, file: Path) -> None:
    """What is in no dump: who may connect, and the roles' passwords. JobError where it is of another version."""
    try:
        apply_schema(connection, role_passwords(settings))
    except OtherSchema as error:
        raise JobError(
            f"{file} was dumped by another version of Sextant, and this one cannot read its tables: check that version "
            "out and restore with it; nothing was changed"
        ) from error


def _require_rest(admin: Connection, live: str) -> None:
    """Refuses while anybody is connected: every running job is."""
    sessions = admin.execute(load_queries("backup")["sessions"], {"name": live}).fetchall()
    if sessions:
        raise _in_use(live, ", ".join(f"{role} ({count})" for role, count in sessions))


def _in_use(live: str, whom: str) -> JobError:
    return JobError(
        f"database {live} is in use by {whom}: stop `make schedule`, cron, services and psql on every machine, wait "
        "for running jobs to end, and restore again"
    )


def make_safe(connection: Connection, now: datetime, details: dict[str, Any]) -> dict[str, Any]:
    """Voids, halts and writes down what was restored, in one transaction; the details with what it found."""
    queries = load_queries("backup")
    with connection.transaction(), connection.cursor(row_factory=dict_row) as cursor:
        voided = cursor.execute(queries["void_commands"], {"at": now}).rowcount
        cursor.execute(queries["halt_all"], {"key": f"restore:{uuid.uuid4()}", "at": now})
        cursor.execute(queries["leave_epochs_behind"])
        counts = dumps.contents_of(connection).counts
        found = details | {"rows": sum(counts.values()), "voided_commands": voided}
        check = {"kind": "restore", "passed": True, "details": Json(found), "at": now}
        cursor.execute(load_queries("notify")["insert_operator_check"], check)
    return found


def _swap(admin: Connection, live: str, new: str, before: str) -> None:
    """Both names in one transaction: there is always exactly one database of that name."""
    rename = sql.SQL("ALTER DATABASE {} RENAME TO {}")
    try:
        with admin.transaction():
            admin.execute(rename.format(sql.Identifier(live), sql.Identifier(before)))
            admin.execute(rename.format(sql.Identifier(new), sql.Identifier(live)))
    except ObjectInUse as error:
        raise _in_use(live, "somebody who connected meanwhile") from error


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Puts a backup in the place of the database.")
    parser.add_argument("file", type=Path, nargs="?", help="a dump that `make backup` wrote")
    parser.add_argument("--yes", action="store_true", help="yes, replace the database")
    arguments = parser.parse_args(argv)
    try:
        settings = load_settings()
        configure_logging(settings.log.level)
        if arguments.file is None:
            raise UsageError(
                f"restore which backup? `make restore FILE=… YES=1`; {settings.home_path / 'backups'} is where `make "
                "backup` puts them"
            )
        if not arguments.yes:
            raise UsageError(
                f"this puts {arguments.file} in the place of database {dumps.live_name(settings)}, keeps that one "
                "under another name, and halts every wallet until you resume it; add YES=1 (--yes) if that is meant"
            )
        done = restore(settings, arguments.file, open_clock(settings.clock_url).now())
    except (SettingsError, UsageError) as error:
        print(error, file=sys.stderr)
        return 2
    except (SextantError, DatabaseError) as error:
        print(error, file=sys.stderr)
        return 1
    print(f"restored {done['rows']} rows from {done['file']}; what was there is kept as database {done['before']}")
    print(f"{done['voided_commands']} commands are voided, and every wallet is HALTED: reconcile, then `make resume`")
    return 0


if __name__ == "__main__":
    sys.exit(main())
