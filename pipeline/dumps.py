"""Dumps of the whole database: PostgreSQL's own programs, checksums, and databases beside the one in use.

Owner's work. Passwords go to the programs in a file of mode 0600, never in arguments, which every user can see.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.errors import InsufficientPrivilege

from shared.db import Connection, connect, drop_database, embedded_server, load_queries, owner_url
from shared.embedded_db_binaries import POSTGRES_MAJOR, current_account, programs_for
from shared.job import JobError
from shared.settings import Settings

PROGRAM_S = 4 * 3600.0  # a history of years with its indexes; nobody waits for it at a screen


@dataclass(frozen=True, slots=True)
class Contents:
    """What two databases must have alike to be copies: rows of each table, and who may do what."""

    counts: dict[str, int]
    rights: tuple[str, ...]

    def difference(self, other: Contents) -> str:
        """In words what differs from ``other``; empty where nothing does."""
        names = sorted(self.counts.keys() | other.counts.keys())
        mine, others = self.counts.get, other.counts.get
        told = [f"{name} has {others(name)} rows, not {mine(name)}" for name in names if mine(name) != others(name)]
        told += [f"not: {line}" for line in self.rights if line not in other.rights]
        told += [f"only there: {line}" for line in other.rights if line not in self.rights]
        return "; ".join(told)


def contents_of(connection: Connection) -> Contents:
    queries = load_queries("backup")
    counts = {}
    for (name,) in connection.execute(queries["tables"]).fetchall():
        row = connection.execute(sql.SQL("SELECT count(*) FROM {}").format(sql.Identifier(name))).fetchone()
        counts[name] = row[0] if row else 0
    return Contents(counts, tuple(line for (line,) in connection.execute(queries["rights"]).fetchall()))


# ── PostgreSQL's programs ────────────────────────────────────────────────────────────────────────────────────────────


def run_program(settings: Settings, name: str, arguments: Sequence[str | Path], database: str | None = None) -> None:
    """Runs pg_dump or pg_restore, logged in to ``database`` as the owner where one is named; JobError with what it
    said where it failed."""
    with tempfile.TemporaryDirectory(prefix="sextant-") as folder:
        login = [] if database is None else ["--dbname", _login(settings, database, Path(folder) / "password")]
        try:
            done = subprocess.run(  # noqa: S603  (PostgreSQL's programs, arguments of our own)
                [_program(settings, name), *login, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                timeout=PROGRAM_S,
                check=False,
                umask=0o077,
            )
        except subprocess.TimeoutExpired as error:
            raise JobError(f"{name} did not finish within {PROGRAM_S / 3600:g} hours and was ended") from error
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip()[:500]  # the cause comes first, then long statements
        raise JobError(f"{name} failed (exit {done.returncode}): {said}")


def _login(settings: Settings, database: str, password_file: Path) -> str:
    """A connection string without the password, which is in ``password_file`` for as long as that exists."""
    parts = conninfo_to_dict(make_conninfo(owner_url(settings), dbname=database))
    password = parts.pop("password", None)
    if password is not None:
        escaped = re.sub(r"([\\:])", r"\\\1", str(password))
        password_file.touch(0o600)
        password_file.write_text(f"*:*:*:*:{escaped}\n", encoding="utf-8")
        parts["passfile"] = str(password_file)
    return make_conninfo("", **parts)


def _program(settings: Settings, name: str) -> Path:
    """Of the embedded server's own version; for another server, of that server's, else newer than it."""
    own = programs_for(current_account(), settings.home_path) / name
    if not settings.external_database:
        return own
    with owner_connection(settings, live_name(settings)) as connection:
        major = connection.info.server_version // 10_000
    found = shutil.which(name)
    if found is not None and _major(found) == major:
        return Path(found)
    if major <= int(POSTGRES_MAJOR):
        return own
    raise JobError(
        f"the server is PostgreSQL {major}, and {name} of that version is not on the PATH: install PostgreSQL's "
        f"client programs {major} (Debian, Ubuntu: postgresql-client-{major}) and try again"
    )


def _major(program: str) -> int:
    said = subprocess.run([program, "--version"], capture_output=True, text=True, check=True, timeout=60).stdout  # noqa: S603
    found = re.search(r"\d+", said)
    return int(found.group()) if found else 0


# ── databases beside the one in use ──────────────────────────────────────────────────────────────────────────────────


def live_name(settings: Settings) -> str:
    """The name of the database in use, which DATABASE_URL may say."""
    return str(conninfo_to_dict(owner_url(settings))["dbname"])


@contextmanager
def owner_connection(settings: Settings, database: str) -> Iterator[Connection]:
    connection = connect(make_conninfo(owner_url(settings), dbname=database))
    try:
        yield connection
    finally:
        connection.close()


@contextmanager
def maintenance(settings: Settings) -> Iterator[Connection]:
    """Connected to no database of ours, as one who may make, rename and drop them."""
    if settings.external_database:
        connection = connect(make_conninfo(owner_url(settings), dbname="postgres"))
    else:
        server = embedded_server(settings)
        connection = connect(server.url("postgres", server.superuser_password, "postgres"))
    try:
        yield connection
    except InsufficientPrivilege as error:
        raise JobError(
            f"the owner may not make databases on this server ({str(error).strip()}): as a superuser, "
            "ALTER ROLE … CREATEDB, and try again"
        ) from error
    finally:
        connection.close()


def make_database(settings: Settings, admin: Connection, name: str) -> None:
    """An empty database of the owner's with pgvector, in the place of one that a killed run left."""
    drop_database(admin, name)
    owner = str(conninfo_to_dict(owner_url(settings))["user"])
    admin.execute(sql.SQL("CREATE DATABASE {} OWNER {}").format(sql.Identifier(name), sql.Identifier(owner)))
    try:
        if settings.external_database:
            with owner_connection(settings, name) as connection:
                connection.execute("CREATE EXTENSION IF NOT EXISTS vector")
            return
        server = embedded_server(settings)  # here only a superuser may
        superuser = connect(server.url("postgres", server.superuser_password, name))
        superuser.execute("CREATE EXTENSION IF NOT EXISTS vector")
        superuser.close()
    except InsufficientPrivilege as error:
        drop_database(admin, name)
        raise JobError(
            "the owner may not create the extension vector in a new database: as a superuser, run CREATE EXTENSION "
            "vector in the database template1 once, then new ones have it, and try again"
        ) from error


def load_dump(settings: Settings, file: Path, database: str) -> None:
    """Fills an empty database; all of the dump, or JobError."""
    options = ["--exit-on-error", "--single-transaction", "--no-owner", "--no-comments"]  # the extension's is not ours
    run_program(settings, "pg_restore", [*options, file], database)


# ── files ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def checksum_file(dump: Path) -> Path:
    return dump.with_name(dump.name + ".sha256")


def sha256_of(path: Path) -> str:
    with path.open("rb") as source:
        return hashlib.file_digest(source, "sha256").hexdigest()


def verified(settings: Settings, dump: Path) -> str:
    """The checksum of a dump that is whole; JobError for one that is not, or that nobody can vouch for."""
    try:
        recorded = checksum_file(dump).read_text(encoding="utf-8").split()
        found = sha256_of(dump)
    except OSError as error:
        raise JobError(
            f"cannot read {error.filename}: {error.strerror}; a backup is two files, the dump and beside it its "
            "checksum (`sha256sum DUMP > DUMP.sha256` makes one for a dump that you trust)"
        ) from error
    if recorded[:1] != [found]:
        raise JobError(f"{dump} is damaged: its checksum is not the recorded one; take another backup")
    run_program(settings, "pg_restore", ["--list", dump])
    return found
