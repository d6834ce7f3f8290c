"""Another sender of the same wallet, with connections of its own: what takes over while the first one sleeps."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from policy.execution import sender
from shared.db import Connection, Database, connect, role_url
from shared.embedded_db import ensure_running
from shared.settings import Settings
from tests.policy.engine_venue import EngineClock
from tests.policy.live_world import LiveWorld


@contextmanager
def superuser(settings: Settings) -> Iterator[Connection]:
    """Who may end other sessions."""
    server = ensure_running(settings.home_path)
    with connect(server.url("postgres", server.superuser_password, settings.db_name)) as connection:
        yield connection


@contextmanager
def other_sender(world: LiveWorld) -> Iterator[Callable[[], None]]:
    database = Database(role_url(world.settings, "sender"))
    live = world.live_wallets()
    try:
        yield lambda: _ignore(sender.run_once(EngineClock(world.clock.now), database, live))
    finally:
        live.close()
        database.close()


def _ignore(_outcome: object) -> None:
    """What it did is seen at the venue."""
