"""A database that another 000_init.sql made is noticed before a job stumbles over it."""

from __future__ import annotations

from collections.abc import Callable
from typing import LiteralString

import pytest

import shared.schema
from shared.db import Connection, connect, owner_url
from shared.schema import OtherSchema, apply_schema, main, schema_sha256
from shared.settings import Settings


@pytest.fixture
def owner(settings: Settings) -> Connection:
    return connect(owner_url(settings))


def stored(owner: Connection) -> str | None:
    row = owner.execute("SELECT schema_sha256 FROM installation").fetchone()
    assert row is not None
    return None if row[0] is None else str(row[0])


@pytest.mark.parametrize(
    "change",
    ["ALTER TABLE installation DROP COLUMN schema_sha256", "UPDATE installation SET schema_sha256 = 'of-another'"],
    ids=["older than the hash", "another hash"],
)
def test_a_database_of_another_version_is_refused_and_left_as_it_is(
    owner: Connection, settings: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    change: LiteralString,
) -> None:  # fmt: skip
    owner.execute(change)
    owner.execute("DROP VIEW equity")
    with pytest.raises(OtherSchema, match="make db-reset` makes it anew and loses everything"):
        apply_schema(owner, {})
    assert owner.execute("SELECT to_regclass('equity')").fetchone() == (None,), "nothing was applied"
    monkeypatch.setattr(shared.schema, "load_settings", lambda: settings)
    assert main(["up"]) == 1
    assert "another version of Sextant" in capsys.readouterr().err


def test_a_changed_check_in_the_file_is_another_version_and_a_comment_is_not() -> None:
    text = "CREATE TABLE a ( -- why\n    b text CHECK (b IN ('x')));"
    assert schema_sha256(text) == schema_sha256("-- another word\nCREATE TABLE a (\n  b text CHECK (b IN ('x')));\n")
    assert schema_sha256(text) != schema_sha256(text.replace("'x'", "'x', 'y'"))


def test_tables_that_the_file_alone_made_are_taken_over(owner: Connection) -> None:
    """As infra/compose.yml makes them."""
    made_by = stored(owner)
    assert made_by is not None
    owner.execute("UPDATE installation SET schema_sha256 = NULL")
    apply_schema(owner, {})
    assert stored(owner) == made_by


def test_after_a_reset_it_is_of_this_version(new_settings: Callable[[], Settings]) -> None:
    settings = new_settings()
    with connect(owner_url(settings)) as owner:
        owner.execute("UPDATE installation SET schema_sha256 = 'of-another'")
    shared.schema.drop_database(settings)
    shared.schema.bring_up(settings)
    with connect(owner_url(settings)) as owner:
        assert stored(owner) not in (None, "of-another")
