"""Ways out of a role that a hijacked layer would try: each is refused or without effect."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import LiteralString

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict
from psycopg.errors import InsufficientPrivilege, RaiseException, UndefinedFunction

from shared.db import Database, DatabaseUnavailable, connect, role_url
from shared.settings import Settings
from tests.shared.spine_rows import NOON, ROLES, WRITERS, insert, next_row, order_id, own_database, seed

World = Callable[[str], Database]
ELSEWHERE = ("sextant", "postgres", "pg_read_server_files", "pg_execute_server_program", "pg_write_all_data")
APPROVE = "approve(uuid, timestamptz, bigint) RETURNS text LANGUAGE sql AS 'SELECT NULL::text'"

# Each would succeed for the owner or a superuser.
REFUSED: tuple[LiteralString, ...] = (
    "SET SESSION AUTHORIZATION sextant",
    "SET SESSION AUTHORIZATION postgres",
    "COPY (SELECT 1) TO PROGRAM 'true'",
    "COPY market_data FROM PROGRAM 'true'",
    "COPY (SELECT 1) TO '/tmp/sextant-escape'",
    "COPY market_data FROM '/etc/passwd'",
    "SELECT pg_read_file('/etc/passwd')",
    "SELECT pg_ls_dir('/')",
    "SELECT lo_import('/etc/passwd')",
    "SELECT lo_export(1, '/tmp/sextant-escape')",
    "SELECT rolpassword FROM pg_authid",
    "SELECT pg_reload_conf()",
    "SET session_replication_role = replica",  # would switch the triggers off
    "CREATE TABLE public.escape (n integer)",
    "CREATE SCHEMA escape",
    "CREATE ROLE escape SUPERUSER",
    "ALTER EXTENSION vector UPDATE",
    "DROP EXTENSION vector CASCADE",
    "CREATE FUNCTION public.escape() RETURNS integer LANGUAGE sql AS 'SELECT 1'",
    f"CREATE OR REPLACE FUNCTION public.{APPROVE}",
    "ALTER FUNCTION approve(uuid, timestamptz, bigint) SECURITY INVOKER",
    "DROP FUNCTION approve(uuid, timestamptz, bigint)",
    "CREATE INDEX escape ON embeddings (ood)",
    "DROP INDEX one_active_model_a_kind",
    "ALTER FUNCTION build_analog_index(bigint) SECURITY INVOKER",
    "CREATE OR REPLACE FUNCTION public.drop_analog_index(model bigint) RETURNS void LANGUAGE sql AS 'SELECT'",
    "ALTER TABLE limits DROP COLUMN max_order_notional",
    "ALTER TABLE order_events DISABLE TRIGGER ALL",
    "ALTER TABLE models DISABLE ROW LEVEL SECURITY",
    "CREATE POLICY escape ON models USING (true)",
    "DROP POLICY own_insert ON models",
    "CREATE TRIGGER escape BEFORE INSERT ON orders EXECUTE FUNCTION refuse_wallet_mode_change()",
    "CREATE RULE escape AS ON INSERT TO order_events DO INSTEAD NOTHING",
    "DROP TABLE limits",
    "DROP VIEW positions",
    "ALTER TABLE limits OWNER TO CURRENT_USER",
    "REASSIGN OWNED BY sextant TO CURRENT_USER",
    "GRANT sextant TO CURRENT_USER",
    "ALTER ROLE sextant PASSWORD 'escape'",
    "ALTER ROLE CURRENT_USER SUPERUSER",
    "ALTER ROLE CURRENT_USER BYPASSRLS",
    "ALTER ROLE CURRENT_USER CREATEROLE",
    "CREATE TEMP TABLE limits (n integer)",  # would shadow what approve() reads
    "CREATE FUNCTION pg_temp.format(text, text) RETURNS text LANGUAGE sql AS 'SELECT NULL::text'",
    "CREATE VIEW pg_temp.positions AS SELECT 1 AS wallet_id",
)


@pytest.fixture(scope="module")
def rooms(home: Path) -> Iterator[tuple[Settings, World]]:
    with own_database(home, "escapes") as (settings, database_for):
        seed(database_for)
        yield settings, database_for


@pytest.fixture(scope="module")
def world(rooms: tuple[Settings, World]) -> World:
    return rooms[1]


def who(database: Database) -> tuple[str, str]:
    row = database.fetch_one("SELECT current_user, session_user")
    assert row is not None
    return row["current_user"], row["session_user"]


@pytest.mark.parametrize("statement", REFUSED)
@pytest.mark.parametrize("role", ROLES)
def test_a_way_out_is_refused(world: World, role: str, statement: LiteralString) -> None:
    with pytest.raises(InsufficientPrivilege), world(role).connection.transaction(force_rollback=True):
        world(role).execute(statement)


@pytest.mark.parametrize("role", ROLES)
def test_what_no_transaction_may_hold_is_refused_too(rooms: tuple[Settings, World], role: str) -> None:
    settings, world = rooms
    for statement in ("ALTER SYSTEM SET log_connections = on", "CREATE DATABASE escape"):
        with pytest.raises(InsufficientPrivilege):
            world(role).connection.execute(statement)
    elsewhere = connect(psycopg.conninfo.make_conninfo(role_url(settings, role), dbname="postgres"))
    with pytest.raises(InsufficientPrivilege, match="permission denied to create extension"):
        elsewhere.execute("CREATE EXTENSION vector")
    elsewhere.close()


@pytest.mark.parametrize("role", ROLES)
def test_resetting_the_role_gains_nothing(world: World, role: str) -> None:
    database = world(role)
    for statement in ("RESET ROLE", "SET ROLE NONE", "RESET SESSION AUTHORIZATION", "RESET ALL", "DISCARD ALL"):
        database.execute(statement)
        assert who(database) == (f"sextant_{role}", f"sextant_{role}")
    foreign = "instruments" if role != "candles" else "wallets"
    with pytest.raises(InsufficientPrivilege, match=f"permission denied for table {foreign}"):
        database.connection.execute(f"DELETE FROM {foreign}")
    database.execute("SET TimeZone TO 'UTC'")  # back to what connect() set


@pytest.mark.parametrize("role", ROLES)
def test_no_role_can_become_another(world: World, role: str) -> None:
    database = world(role)
    for other in (*ELSEWHERE, *(f"sextant_{layer}" for layer in ROLES if layer != role)):
        with pytest.raises(InsufficientPrivilege, match="permission denied to set role"):
            database.connection.execute(f"SET ROLE {other}")
        member = database.fetch_one("SELECT pg_has_role(current_user, %(other)s, 'MEMBER') AS yes", {"other": other})
        assert member == {"yes": False}
    assert who(database) == (f"sextant_{role}", f"sextant_{role}")


@pytest.mark.parametrize("role", ROLES)
def test_a_password_opens_its_own_role_only(rooms: tuple[Settings, World], role: str) -> None:
    settings, _ = rooms
    url = role_url(settings, role)
    connect(url).close()
    for other in ("sextant", "postgres", *(f"sextant_{layer}" for layer in ROLES if layer != role)):
        with pytest.raises(DatabaseUnavailable, match="password authentication failed"):
            connect(psycopg.conninfo.make_conninfo(url, user=other))
    without = {key: value for key, value in conninfo_to_dict(url).items() if key != "password"}
    with pytest.raises(DatabaseUnavailable, match="no password supplied"):
        connect(psycopg.conninfo.make_conninfo("", **without))


def test_only_the_sender_asks_for_approval(world: World) -> None:
    question = "SELECT approve(%(id)s, %(at)s) AS refusal"
    for role in ROLES:
        if role == "sender":
            assert world(role).fetch_one(question, {"id": order_id(2), "at": NOON}) is not None
            continue
        with pytest.raises(InsufficientPrivilege, match="permission denied for function approve"):
            world(role).fetch_one(question, {"id": order_id(2), "at": NOON})


@pytest.mark.parametrize("function", ["build_analog_index", "drop_analog_index"])
def test_only_the_encoder_indexes_embeddings_and_only_those_of_an_encoder(world: World, function: str) -> None:
    call = f"SELECT {function}(%(model)s)"
    for role in ROLES:
        if role == "encoder":
            continue
        with pytest.raises(InsufficientPrivilege, match=f"permission denied for function {function}"):
            world(role).connection.execute(call, {"model": 1})
    encoder = world("encoder").connection
    with world("policy").connection.transaction():
        insert(world("policy").connection, "models", next_row("models", "policy"))
    policy = world("policy").fetch_one("SELECT id FROM models WHERE kind = 'policy'")
    assert policy is not None
    for model in (policy["id"], 99, 0, -1, None):
        with pytest.raises(RaiseException, match="is not an encoder of this database"):
            encoder.execute(call, {"model": model})
    with pytest.raises(UndefinedFunction):
        encoder.execute(f"SELECT {function}('1; DROP TABLE limits')".replace("'1; ", "text '1; "))
    world("owner").connection.execute("DELETE FROM models WHERE kind = 'policy'")


def test_an_encoders_index_holds_its_rows_alone_and_no_name_can_be_shadowed(world: World) -> None:
    definition = "SELECT indexdef FROM pg_indexes WHERE indexname = 'embeddings_of_1'"
    with world("encoder").connection.transaction(force_rollback=True):
        for _ in range(2):
            world("encoder").execute("SELECT build_analog_index(1)")
        (found,) = world("encoder").fetch(definition)
        assert "USING hnsw (embedding vector_cosine_ops)" in found["indexdef"]
        assert "m='16', ef_construction='128'" in found["indexdef"]
        assert found["indexdef"].endswith("WHERE (model_id = 1)")
        for _ in range(2):
            world("encoder").execute("SELECT drop_analog_index(1)")
        assert world("encoder").fetch(definition) == []
    owner = world("owner")
    with owner.connection.transaction(force_rollback=True):
        for table in ("embeddings", "models"):
            owner.connection.execute(f"CREATE TEMP TABLE {table} (LIKE public.{table})")
        owner.execute("SET LOCAL search_path = pg_temp, public")
        owner.execute("SELECT build_analog_index(1)")
        (where,) = owner.fetch("SELECT schemaname FROM pg_indexes WHERE indexname = 'embeddings_of_1'")
        assert where == {"schemaname": "public"}


def test_the_sender_cannot_pass_the_approval_on(world: World) -> None:
    world("sender").execute("GRANT EXECUTE ON FUNCTION approve(uuid, timestamptz, bigint) TO PUBLIC")  # warns only
    with pytest.raises(InsufficientPrivilege, match="permission denied for function approve"):
        world("policy").execute("SELECT approve(NULL, NULL)")


def test_even_temporary_tables_of_the_owner_do_not_shadow_what_approve_reads(world: World) -> None:
    question = "SELECT approve(%(id)s, %(at)s) AS refusal"
    owner = world("owner")
    with owner.connection.transaction(force_rollback=True):
        for table in WRITERS:
            owner.connection.execute(f"CREATE TEMP TABLE {table} (LIKE public.{table})")
        owner.execute("SET LOCAL search_path = pg_temp, public")
        owner.execute("UPDATE public.limits SET max_order_notional = 1 WHERE wallet_id = 1")
        answer = owner.fetch_one(question, {"id": order_id(2), "at": NOON})
    assert answer == {"refusal": "notional above the limit of 1.00000000"}


def test_switching_row_security_off_reaches_no_foreign_row(world: World) -> None:
    encoder = world("encoder")
    with encoder.connection.transaction(force_rollback=True):
        encoder.execute("SET LOCAL row_security = off")
        with pytest.raises(InsufficientPrivilege, match="affected by row-level security"):
            encoder.execute("UPDATE job_runs SET status = 'failed'")
