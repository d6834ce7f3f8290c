"""A real PostgreSQL for every test that asks: one embedded server a session, one fresh database a test.

The schema is applied once, to a template; CREATE DATABASE … TEMPLATE copies it in a few milliseconds.
"""

from __future__ import annotations

import fcntl
import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from psycopg import sql

from shared.db import Database, connect, owner_url, role_url
from shared.embedded_db import ensure_running, remove
from shared.schema import bring_up
from shared.settings import Settings, load_settings

TEMPLATE = "sextant_template"
UNIVERSE = {"venue": "test", "symbols": ["AAA/USDT", "BBB/USDT"], "base_timeframe": "5m", "decision_timeframe": "1h"}

for name in list(os.environ):  # a developer's own database must never be the one under test
    if name.startswith(("SEXTANT_", "DB_")) or name == "DATABASE_URL":
        del os.environ[name]


def _home(factory: pytest.TempPathFactory, worker: str) -> Path:
    base = factory.getbasetemp()
    return (base if worker == "master" else base.parent) / "sextant-home"


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    worker = os.environ.get("PYTEST_XDIST_WORKER", "master")
    path = _home(tmp_path_factory, worker)
    with (path.parent / "sextant-home.lock").open("w") as lock:  # one worker makes the template, the others wait
        fcntl.flock(lock, fcntl.LOCK_EX)
        made = path.parent / "sextant-home.made"
        if not made.exists():
            bring_up(load_settings(home=path, db_name=TEMPLATE))
            do_not_wait_for_the_disk(path)
            made.touch()
    if worker == "master":
        request.config.stash[HOMES] = path
    return path


def do_not_wait_for_the_disk(home: Path) -> None:
    """Nobody needs these databases after the session; what survives a crash is tested on servers of its own."""
    server = ensure_running(home)
    admin = connect(server.url("postgres", server.superuser_password, "postgres"))
    for setting in ("fsync", "full_page_writes", "synchronous_commit"):
        admin.execute(sql.SQL("ALTER SYSTEM SET {} = off").format(sql.Identifier(setting)))
    admin.execute("SELECT pg_reload_conf()")
    admin.close()


HOMES = pytest.StashKey[Path]()


def pytest_sessionfinish(session: pytest.Session) -> None:
    """The controller stops the server, after every worker has finished."""
    if hasattr(session.config, "workerinput"):
        return
    factory = getattr(session.config, "_tmp_path_factory", None)
    path = session.config.stash.get(HOMES, None)
    if path is None and factory is not None:
        path = factory.getbasetemp() / "sextant-home"
    if path is not None and path.exists():
        remove(path)


@contextmanager
def database_maker(home: Path, template: str = TEMPLATE) -> Iterator[Callable[[], Settings]]:
    """Each call gives settings for one more copy of ``template``; all copies are dropped at the end."""
    server = ensure_running(home)
    admin = connect(server.url("postgres", server.superuser_password, "postgres"))
    made: list[sql.Identifier] = []

    def make() -> Settings:
        name = f"test_{uuid.uuid4().hex[:16]}"
        create = sql.SQL("CREATE DATABASE {} OWNER sextant TEMPLATE {} STRATEGY FILE_COPY")
        admin.execute(create.format(sql.Identifier(name), sql.Identifier(template)))
        made.append(sql.Identifier(name))
        return load_settings(home=home, db_name=name, universe=UNIVERSE)

    try:
        yield make
    finally:
        for name in made:
            admin.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(name))
        admin.close()


@pytest.fixture
def new_settings(home: Path) -> Iterator[Callable[[], Settings]]:
    with database_maker(home) as make:
        yield make


@pytest.fixture
def settings(new_settings: Callable[[], Settings]) -> Settings:
    """Settings for a fresh database of this test's own."""
    return new_settings()


@pytest.fixture
def database_for(settings: Settings) -> Iterator[Callable[[str], Database]]:
    """``database_for("policy")`` is logged in as that layer's role; "owner" as the owner."""
    opened: dict[str, Database] = {}

    def open_as(layer: str) -> Database:
        if layer not in opened:
            opened[layer] = Database(owner_url(settings) if layer == "owner" else role_url(settings, layer))
        return opened[layer]

    yield open_as
    for database in opened.values():
        database.close()
