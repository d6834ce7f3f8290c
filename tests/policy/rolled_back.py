"""Fixtures that spare a test a database of its own: its roles share one connection, and nothing of it stays.

Wherever its conftest.py imports these, a module takes part by ``pytestmark = pytest.mark.usefixtures("rolled_back")``.
Not fit are tests of what takes two connections (locks, a commit that others see, notifications), of jobs that connect
by themselves (``main``), and of a lost connection: one of these in such a module asks for ``own_database``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from psycopg import sql

from shared.db import connect
from shared.embedded_db import ensure_running
from shared.settings import Settings
from tests.conftest import database_maker
from tests.helpers import DatabaseFor
from tests.policy.one_connection import OneConnection, open_superuser


@dataclass(frozen=True, slots=True)
class OneDatabase:
    settings: Settings
    connection: OneConnection


@pytest.fixture(scope="session")
def one_database(home: Path) -> Iterator[OneDatabase]:
    """The worker's one database, never written to for good."""
    with database_maker(home) as make:
        settings = make()
        server = ensure_running(home)
        one = open_superuser(server.url("postgres", server.superuser_password, settings.db_name))
        with connect(server.url("postgres", server.superuser_password, "postgres")) as admin:
            closed = sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS false")  # who connects by himself is told so
            admin.execute(closed.format(sql.Identifier(settings.db_name)))
        yield OneDatabase(settings, one)
        one.raw.close()


@pytest.fixture
def rolled_back(request: pytest.FixtureRequest) -> Iterator[None]:
    """What this test writes is gone after it; a statement that fails takes back itself alone."""
    if not takes_part(request):
        yield
        return
    found: OneDatabase = request.getfixturevalue("one_database")
    with found.connection.example():
        found.connection.careful = True
        yield


@pytest.fixture
def own_database() -> None:
    """A test that takes no part though its module does."""


def takes_part(request: pytest.FixtureRequest) -> bool:
    names = request.fixturenames
    return "rolled_back" in names and "settings" in names and "own_database" not in names


@pytest.fixture
def settings(request: pytest.FixtureRequest) -> Settings:
    """Settings for a fresh database of this test's own, or for the one that is rolled back."""
    if takes_part(request):
        found: OneDatabase = request.getfixturevalue("one_database")
        return found.settings
    made: Settings = request.getfixturevalue("new_settings")()
    return made


@pytest.fixture
def database_for(request: pytest.FixtureRequest, database_for: DatabaseFor) -> DatabaseFor:
    """As tests/conftest.py's; of a test that is rolled back all roles are one connection."""
    if takes_part(request):
        found: OneDatabase = request.getfixturevalue("one_database")
        return found.connection.database_for
    return database_for
