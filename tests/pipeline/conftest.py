"""One training for all who trade in the small world of 1h candles: a template database that they copy."""

from __future__ import annotations

import fcntl
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from psycopg import sql

from pipeline.replay import logged_in
from shared.db import connect
from shared.embedded_db import ensure_running
from shared.settings import Settings
from tests.conftest import database_maker
from tests.pipeline.world import HOURS, make_plan, make_series, prepare, small

TRAINED = "sextant_trained"


@pytest.fixture(scope="session")
def trained_home(home: Path) -> Path:
    """The session's home, on whose server the template TRAINED is ready: one worker trains, the others wait."""
    with (home.parent / "sextant-trained.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        made = home.parent / "sextant-trained.made"
        if not made.exists():
            _train(home)
            made.touch()
    return home


def _train(home: Path) -> None:
    """Keeps what was trained only where it is whole: a template that failed half-way must not be found by the next."""
    with database_maker(home) as make:
        settings = small(make(), "1h")
        with logged_in(settings) as databases:
            prepare(databases, settings, make_plan(make_series("1h", HOURS), "1h", HOURS))
        server = ensure_running(home)
        copy = sql.SQL("CREATE DATABASE {} OWNER sextant TEMPLATE {}")
        with connect(server.url("postgres", server.superuser_password, "postgres")) as admin:
            admin.execute(copy.format(sql.Identifier(TRAINED), sql.Identifier(settings.db_name)))


@pytest.fixture
def trained_settings(trained_home: Path) -> Iterator[Callable[[], Settings]]:
    """Each call gives settings for one more copy of the world after its training, at the first traded candle."""
    with database_maker(trained_home, TRAINED) as make:
        yield lambda: small(make(), "1h")
