"""The one door to PostgreSQL: a connection per role, named queries, typed rows.

SQL lives in sql/queries/<layer>.sql, each query under a line ``-- name: …`` with a line that says what for.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any, LiteralString, TypeVar, cast
from urllib.parse import quote

import psycopg
from psycopg import sql
from psycopg.rows import class_row, dict_row

from shared.errors import SextantError
from shared.settings import PROJECT, Settings, SettingsError

if TYPE_CHECKING:
    from pydantic import SecretStr

    from shared.embedded_db import Server

Row = TypeVar("Row")
Connection = psycopg.Connection[Any]
Params = Mapping[str, Any]
DatabaseError = psycopg.Error

CONNECT_TIMEOUT_S = 10
# A server that vanished without a word (TCP only): noticed within a minute, not after the kernel's two hours.
KEEPALIVE: dict[str, Any] = {
    "keepalives_idle": 20,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 60_000,
}


class DatabaseUnavailable(SextantError):
    """The database cannot be reached or logged in to; the message says what to do."""


@cache
def load_queries(layer: str) -> Mapping[str, LiteralString]:
    """The named queries of sql/queries/<layer>.sql."""
    text = (PROJECT / "sql" / "queries" / f"{layer}.sql").read_text(encoding="utf-8")
    parts = re.split(r"^-- name: *(\w+)$", text, flags=re.MULTILINE)[1:]
    return {name: cast(LiteralString, body.strip()) for name, body in zip(parts[::2], parts[1::2], strict=True)}


class Database:
    """One role's connection, opened at first use and opened anew after it broke.

    Outside ``transaction()`` each statement commits by itself.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._connection: Connection | None = None

    @property
    def connection(self) -> Connection:
        if self._connection is None or self._connection.closed or self._connection.broken:
            self._connection = connect(self._url)
        return self._connection

    @contextmanager
    def transaction(self) -> Iterator[None]:
        with self.connection.transaction():
            yield

    def execute(self, query: LiteralString, params: Params | None = None) -> int:
        """Runs one statement; returns the number of rows it touched."""
        return self.connection.execute(query, params).rowcount

    def execute_many(self, query: LiteralString, rows: Sequence[Params]) -> int:
        """Runs one statement for many parameter sets in one round trip; returns the rows touched."""
        if not rows:
            return 0
        with self.connection.cursor() as cursor:
            cursor.executemany(query, rows)
            return cursor.rowcount

    def fetch(self, query: LiteralString, params: Params | None = None) -> list[dict[str, Any]]:
        with self.connection.cursor(row_factory=dict_row) as cursor:
            return cursor.execute(query, params).fetchall()

    def fetch_one(self, query: LiteralString, params: Params | None = None) -> dict[str, Any] | None:
        with self.connection.cursor(row_factory=dict_row) as cursor:
            return cursor.execute(query, params).fetchone()

    def fetch_together(self, asked: Sequence[tuple[LiteralString, Params | None]]) -> list[list[dict[str, Any]]]:
        """Several statements in one round trip, run in this order; the rows of each. One that fails fails them all."""
        with self.connection.pipeline():
            cursors = [self.connection.cursor(row_factory=dict_row).execute(query, params) for query, params in asked]
        return [cursor.fetchall() if cursor.description else [] for cursor in cursors]

    def fetch_rows(self, row: type[Row], query: LiteralString, params: Params | None = None) -> list[Row]:
        """Rows as instances of ``row``, whose field names are the query's column names."""
        with self.connection.cursor(row_factory=class_row(row)) as cursor:
            return cursor.execute(query, params).fetchall()

    def notifications(self, timeout_s: float) -> list[str]:
        """Waits up to ``timeout_s`` for a notification; its payload, and of those that came with it. What to LISTEN
        to is a query."""
        return [notification.payload for notification in self.connection.notifies(timeout=timeout_s, stop_after=1)]

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def connect(url: str) -> Connection:
    """A connection in UTC, each statement its own transaction; DatabaseUnavailable says why it failed."""
    try:
        connection = psycopg.connect(url, autocommit=True, connect_timeout=CONNECT_TIMEOUT_S, **KEEPALIVE)
    except psycopg.OperationalError as error:
        raise DatabaseUnavailable(f"cannot connect to PostgreSQL: {str(error).strip()}") from error
    if connection.info.parameter_status("TimeZone") != "UTC":
        connection.execute("SET TimeZone TO 'UTC'")
    return connection


def role_url(settings: Settings, layer: str) -> str:
    """The URL with which a layer's job logs in as its own role sextant_<layer>."""
    password = settings.role_password(layer)
    secret = password.get_secret_value() if password else _secret_file(settings, f"sextant_{layer}")
    return _url(settings, f"sextant_{layer}", secret)


def drop_database(connection: Connection, name: str) -> None:
    """Drops a database if it is there, whoever is connected to it; ``connection`` is its owner's, to another one.

    FORCE ends sessions, and an owner who is no superuser is refused where one is an autovacuum worker's, which comes by
    when it likes. A DROP without it asks the worker to leave, and waits for up to 5 s.
    """
    drop = sql.SQL("DROP DATABASE IF EXISTS {}").format(sql.Identifier(name))
    force = drop + sql.SQL(" WITH (FORCE)")
    try:
        connection.execute(force)
    except psycopg.errors.InsufficientPrivilege:
        try:
            connection.execute(drop)
        except psycopg.errors.ObjectInUse:  # by others, which FORCE ends now that the worker has left
            connection.execute(force)


def owner_url(settings: Settings) -> str:
    """The URL of the owner role, which applies the schema and grants; no job uses it."""
    if settings.database_url is not None:
        return _own_url(settings.database_url)
    if settings.db_host is not None:
        return _url(settings, settings.db_user, settings.db_password.get_secret_value() if settings.db_password else "")
    return _url(settings, "sextant", _secret_file(settings, "sextant"))


def _secret_file(settings: Settings, role: str) -> str:
    from shared.embedded_db import read_or_create_secret

    return read_or_create_secret(settings.home_path / "secrets" / role)


def _url(settings: Settings, user: str, password: str) -> str:
    if settings.database_url is not None:
        return psycopg.conninfo.make_conninfo(_own_url(settings.database_url), user=user, password=password or None)
    if settings.db_host is not None:
        login, name = quote(user, safe=""), quote(settings.db_name, safe="")
        secret = f":{quote(password, safe='')}" if password else ""
        return f"postgresql://{login}{secret}@{settings.db_host}:{settings.db_port}/{name}"
    return embedded_server(settings).url(user, password, settings.db_name)


def _own_url(secret: SecretStr) -> str:
    """DATABASE_URL as given; libpq's own complaint would show the password in it."""
    url = secret.get_secret_value()
    try:
        psycopg.conninfo.conninfo_to_dict(url)
    except psycopg.ProgrammingError:
        raise SettingsError(
            "bad value for DATABASE_URL: not a libpq URI such as postgresql://sextant:secret@host:5432/sextant"
        ) from None
    return url


def embedded_server(settings: Settings) -> Server:
    """The embedded server of SEXTANT_HOME, started if need be; DatabaseUnavailable says why it could not be."""
    from shared.embedded_db import EmbeddedDbError, ensure_running

    try:
        return ensure_running(settings.home_path)
    except EmbeddedDbError as error:
        raise DatabaseUnavailable(str(error)) from error
