"""The connection itself."""

from __future__ import annotations

import pytest

from shared.db import Database, DatabaseError, connect, role_url
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


def test_statements_sent_together_answer_each_for_itself_in_order(database_for: DatabaseFor) -> None:
    asked = "SELECT n, %(of)s::text AS of FROM generate_series(1, %(rows)s) AS n"
    answers = database_for("cli").fetch_together([
        (asked, {"rows": 2, "of": "a"}), ("LISTEN candles", None), (asked, {"rows": 0, "of": "b"}),
        (asked, {"rows": 1, "of": "c"}),
    ])  # fmt: skip
    assert answers == [[{"n": 1, "of": "a"}, {"n": 2, "of": "a"}], [], [], [{"n": 1, "of": "c"}]]
    assert database_for("cli").fetch_together([]) == []


@pytest.mark.parametrize("outer", [False, True])
def test_of_statements_sent_together_one_that_fails_undoes_all(database_for: DatabaseFor, outer: bool) -> None:
    database: Database = database_for("cli")
    database.execute("CREATE TEMPORARY TABLE kept (n integer)")
    add = "INSERT INTO kept VALUES (1 / %(n)s::integer) RETURNING n"
    together = [(add, {"n": 1}), (add, {"n": 0}), (add, {"n": 1})]
    with pytest.raises(DatabaseError, match="division by zero"):
        if outer:
            with database.transaction():
                database.fetch_together(together)
        else:
            database.fetch_together(together)
    assert database.fetch("SELECT n FROM kept") == []
    assert database.fetch_together([(add, {"n": 1})]) == [[{"n": 1}]]
    assert database.fetch("SELECT n FROM kept") == [{"n": 1}]
