"""Every role on one connection, in one transaction that is rolled back: a fresh world for each of many examples.

What a role may do is checked as ever (SET SESSION AUTHORIZATION by a superuser). Locks of the session keep nobody out
here: two senders on it are what they are when the database has lost sight of the first.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, LiteralString

from shared.db import Connection, Database, Params, Row, connect

SWEPT_AFTER = 25  # examples
FROM_THE_START = """
SELECT setval(format('%I.%I', schemaname, sequencename)::regclass, start_value, false)
FROM pg_sequences WHERE last_value IS NOT NULL
"""


class OneConnection:
    """``database_for`` of one connection; each ``example`` begins with what was there and leaves nothing."""

    def __init__(self, connection: Connection) -> None:
        self.raw = connection
        self.depth = 0  # of the transactions that were asked for
        self.careful = False  # a statement that fails takes back itself alone, as it does outside a transaction
        self._role: str | None = None
        self._examples = 0

    def database_for(self, layer: str) -> Database:
        return _AsRole(self, "sextant" if layer == "owner" else f"sextant_{layer}")

    def become(self, role: str) -> Connection:
        if role != self._role:
            self.raw.execute(f"SET SESSION AUTHORIZATION {role}")
            self._role = role
        return self.raw

    def forget(self) -> None:
        """A rollback takes the last change of roles back with it."""
        self._role = None

    @contextmanager
    def example(self) -> Iterator[None]:
        try:
            with self.raw.transaction(force_rollback=True):
                yield
        finally:
            self.raw.execute("RESET SESSION AUTHORIZATION")
            self.raw.execute("SELECT pg_advisory_unlock_all()")
            self.raw.execute(FROM_THE_START)  # no rollback takes back a number
            self.careful = False
            self.forget()
            self._examples += 1
            if self._examples % SWEPT_AFTER == 0:
                self.raw.execute("VACUUM")  # what was rolled back is still read over


class _AsRole(Database):
    def __init__(self, shared: OneConnection, role: str) -> None:
        super().__init__("")
        self._shared, self._role = shared, role

    @property
    def connection(self) -> Connection:
        return self._shared.become(self._role)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        self._shared.depth += 1
        try:
            with self._taken_back_alone():
                yield
        finally:
            self._shared.depth -= 1

    @contextmanager
    def _taken_back_alone(self) -> Iterator[None]:
        try:
            with self.connection.transaction():
                yield
        except BaseException:
            self._shared.forget()
            raise

    def execute(self, query: LiteralString, params: Params | None = None) -> int:
        with self._alone():
            return super().execute(query, params)

    def fetch(self, query: LiteralString, params: Params | None = None) -> list[dict[str, Any]]:
        with self._alone():
            return super().fetch(query, params)

    def fetch_one(self, query: LiteralString, params: Params | None = None) -> dict[str, Any] | None:
        with self._alone():
            return super().fetch_one(query, params)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        if not self._shared.careful:
            yield
            return
        with self._taken_back_alone():
            yield

    def execute_many(self, query: LiteralString, rows: Sequence[Params]) -> int:
        with self._alone():
            return super().execute_many(query, rows)

    def fetch_rows(self, row: type[Row], query: LiteralString, params: Params | None = None) -> list[Row]:
        with self._alone():
            return super().fetch_rows(row, query, params)

    def close(self) -> None:
        """It stays open for the next one."""


def open_superuser(url: str) -> OneConnection:
    """``url``: the superuser's, of a database with the schema."""
    connection = connect(url)
    connection.execute("SET jit TO off")
    return OneConnection(connection)
