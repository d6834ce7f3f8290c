"""The connection itself."""

from __future__ import annotations

from shared.db import Database, connect, role_url
from shared.settings import Settings
from tests.helpers import DatabaseFor


def test_a_server_that_vanished_is_noticed_within_a_minute(settings: Settings) -> None:
    connection = connect(role_url(settings, "cli"))
    asked = connection.info.get_parameters()
    connection.close()
    alive = int(asked["keepalives_idle"]) + int(asked["keepalives_interval"]) * int(asked["keepalives_count"])
    assert alive <= 60
    assert int(asked["tcp_user_timeout"]) <= 60_000


def test_notifications_are_waited_for_and_none_is_lost(database_for: DatabaseFor) -> None:
    listener: Database = database_for("cli")
    listener.execute("LISTEN candles")
    assert listener.notifications(0.01) == []
    for payload in ("a", "b"):
        database_for("candles").execute("SELECT pg_notify('candles', %(payload)s)", {"payload": payload})
    heard = [*listener.notifications(2.0), *listener.notifications(0.5)]
    assert (heard, listener.notifications(0.01)) == (["a", "b"], [])
