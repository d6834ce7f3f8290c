"""Dropping a database that somebody works in whom its owner may not end, as autovacuum may at any moment."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Iterator

import psycopg
import pytest
from psycopg import sql

from shared.db import Connection, connect, drop_database, embedded_server, owner_url
from shared.settings import Settings


@pytest.fixture
def owner(settings: Settings) -> Iterator[Connection]:
    connection = connect(owner_url(settings))
    yield connection
    connection.close()


@pytest.fixture
def other(owner: Connection) -> str:
    name = f"other_{uuid.uuid4().hex}"
    owner.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    return name


def superuser_in(settings: Settings, name: str) -> Connection:
    server = embedded_server(settings)
    return connect(server.url("postgres", server.superuser_password, name))


def is_there(connection: Connection, name: str) -> bool:
    return connection.execute("SELECT FROM pg_database WHERE datname = %s", [name]).fetchone() is not None


def test_sessions_of_the_owners_own_are_ended(settings: Settings, owner: Connection, other: str) -> None:
    working = connect(owner_url(settings.model_copy(update={"db_name": other})))
    drop_database(owner, other)
    assert not is_there(owner, other)
    with pytest.raises(psycopg.OperationalError):
        working.execute("SELECT 1")
    drop_database(owner, other)  # nothing is there: nothing happens


def test_whom_the_owner_may_not_end_is_waited_for(settings: Settings, owner: Connection, other: str) -> None:
    working = superuser_in(settings, other)
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        owner.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(other)))
    leaves = threading.Timer(0.3, working.close)
    leaves.start()
    drop_database(owner, other)
    leaves.join()
    assert not is_there(owner, other)


def test_who_stays_is_named(settings: Settings, owner: Connection, other: str) -> None:
    working = superuser_in(settings, other)
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        drop_database(owner, other)
    working.close()
    drop_database(owner, other)
