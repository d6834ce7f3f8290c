"""Who may write what, by behaviour: every pair of role and table is tried, not read from the catalogue."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg import sql
from psycopg.errors import FeatureNotSupported, GeneratedAlways, InsufficientPrivilege, ObjectNotInPrerequisiteState

from shared.db import Connection, Database
from tests.shared.spine_rows import ROLES, WRITERS, insert, next_row, own_database, seed

RUN_END = {"ended_at", "status", "result", "error"}
TABLES = ("installation", *WRITERS)
VIEWS = (
    "candle_gaps", "current_embeddings", "current_market_state", "current_policy_config", "positions", "cash", "equity",
    "unmanaged", "open_risk",
)  # fmt: skip

# Everything that is allowed. DELETE and TRUNCATE: nobody, nowhere.
MAY_INSERT = {
    "candles": {
        "instruments",
        "market_data",
        "candle_revisions",
        "quarantine",
        "gap_checks",
        "venue_checks",
        "job_runs",
        "alerts",
    },
    "encoder": {
        "models",
        "embeddings",
        "encoder_checks",
        "encoder_evaluations",
        "trainings",
        "job_runs",
        "alerts",
    },
    "meta_controller": {
        "regime_fits",
        "regime_calls",
        "regime_outcomes",
        "market_state",
        "policy_config",
        "llm_calls",
        "memory_logs",
        "news_items",
        "news_sentiment",
        "onchain_data",
        "llm_trust",
        "job_runs",
        "alerts",
    },
    "policy": {
        "models",
        "decisions",
        "orders",
        "risk_events",
        "backtests",
        "evaluation_folds",
        "evaluations",
        "canary_runs",
        "job_runs",
        "alerts",
    },
    "sender": {
        "orders",
        "order_events",
        "order_lookups",
        "fills",
        "external_fills",
        "reconciliations",
        "key_checks",
        "cash_flows",
        "job_runs",
        "alerts",
    },
    "cli": {
        "wallets",
        "limits",
        "cash_flows",
        "commands",
        "live_grants",
        "operator_checks",
        "alert_deliveries",
        "job_runs",
        "alerts",
    },
}
MAY_UPDATE = {
    ("candles", "instruments"): {
        "base_timeframe_s", "tick_size", "lot_size", "min_notional", "min_quantity", "status", "recorded_at",
    },
    ("candles", "market_data"): {"open", "high", "low", "close", "volume", "trades", "source", "recorded_at"},
    ("encoder", "models"): {"status"},
    ("policy", "models"): {"status"},
    ("encoder", "trainings"): {"status", "started_at", "ended_at", "attempts", "model_id", "error"},
    ("policy", "orders"): {"state"},
    ("meta_controller", "llm_calls"): {
        "config_after_id", "status", "responses", "answer", "error", "tokens_in", "tokens_out", "cost_usd", "latency_s",
        "ended_at",
    },
    ("meta_controller", "memory_logs"): {"outcome", "outcome_known_from", "outcome_recorded_at"},
    ("cli", "limits"): {
        "symbols", "max_order_notional", "max_orders_a_day", "max_day_notional", "max_position_notional", "ramp_days",
        "ramp_exposure", "recorded_at",
    },
    ("cli", "commands"): {"voided_at"},
    ("cli", "alert_deliveries"): {"attempts", "delivered_at", "error"},
    ("sender", "sender_sessions"): {"connected_at"},
} | {(role, "job_runs"): RUN_END for role in ROLES}  # fmt: skip

REFUSED_THROUGH_A_VIEW = (InsufficientPrivilege, ObjectNotInPrerequisiteState, FeatureNotSupported, GeneratedAlways)
World = Callable[[str], Database]


@pytest.fixture(scope="module")
def world(home: Path) -> Iterator[World]:
    with own_database(home, "roles") as (_, database_for):
        seed(database_for)
        yield database_for


def attempt(connection: Connection, template: str, *names: str) -> int:
    """Runs one statement and takes it back; the rows it touched."""
    with connection.transaction(force_rollback=True):
        return connection.execute(sql.SQL(template).format(*map(sql.Identifier, names))).rowcount  # type: ignore[arg-type]


def attempt_insert(connection: Connection, table: str, role: str) -> int:
    row = {"only_row": True} if table == "installation" else next_row(table, role)
    with connection.transaction(force_rollback=True):
        return insert(connection, table, row)


def columns_of(world: World, relation: str) -> set[str]:
    query = "SELECT column_name FROM information_schema.columns WHERE table_schema = 'public' AND table_name = %(name)s"
    return {row["column_name"] for row in world("owner").fetch(query, {"name": relation})}


def test_every_table_and_view_of_the_schema_is_tried_here(world: World) -> None:
    found = world("owner").fetch(
        "SELECT relname, relkind::text FROM pg_class"
        " WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p', 'v', 'm', 'f')"
    )
    assert sorted(row["relname"] for row in found if row["relkind"] != "v") == sorted(TABLES)
    assert sorted(row["relname"] for row in found if row["relkind"] == "v") == sorted(VIEWS)


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("role", ROLES)
def test_a_role_is_denied_every_write_that_is_not_its_own(world: World, role: str, table: str) -> None:
    connection = world(role).connection
    forbidden_columns = columns_of(world, table) - MAY_UPDATE.get((role, table), set())
    assert forbidden_columns
    for column in forbidden_columns:  # DEFAULT: so that reading the column plays no part
        with pytest.raises(InsufficientPrivilege, match=rf"permission denied for table {table}$"):
            attempt(connection, "UPDATE {} SET {} = DEFAULT", table, column)
    for statement in ("DELETE FROM {}", "TRUNCATE {}"):
        with pytest.raises(InsufficientPrivilege, match=rf"permission denied for table {table}$"):
            attempt(connection, statement, table)
    if table not in MAY_INSERT[role]:
        with pytest.raises(InsufficientPrivilege, match=rf"permission denied for table {table}$"):
            attempt_insert(connection, table, role)


@pytest.mark.parametrize("table", WRITERS)
def test_the_same_insert_succeeds_where_it_is_allowed(world: World, table: str) -> None:
    writers = [role for role in ROLES if table in MAY_INSERT[role]]
    for role in [*writers, "owner"]:
        assert attempt_insert(world(role).connection, table, role) == 1


@pytest.mark.parametrize(("role", "table"), MAY_UPDATE)
def test_the_same_update_succeeds_where_it_is_allowed(world: World, role: str, table: str) -> None:
    connection = world(role).connection
    insert(connection, "job_runs", next_row("job_runs"))
    for column in MAY_UPDATE[role, table]:
        touched = attempt(connection, "UPDATE {} SET {} = {}", table, column, column)
        assert touched >= (0 if (role, table) == ("policy", "models") else 1)


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("role", ROLES)
def test_no_role_writes_through_a_view(world: World, role: str, view: str) -> None:
    updates = [("UPDATE {} SET {} = NULL", view, column) for column in columns_of(world, view)]
    for attempted in (("INSERT INTO {} DEFAULT VALUES", view), ("DELETE FROM {}", view), *updates):
        with pytest.raises(REFUSED_THROUGH_A_VIEW):
            attempt(world(role).connection, *attempted)


@pytest.mark.parametrize("role", ROLES)
def test_rows_of_another_layer_are_refused(world: World, role: str) -> None:
    connection = world(role).connection
    for other in (*ROLES, "owner"):
        for table in ("job_runs", "alerts"):
            row = next_row(table) | {"layer": other}
            if other == role:
                with connection.transaction(force_rollback=True):
                    assert insert(connection, table, row) == 1
                continue
            with pytest.raises(InsufficientPrivilege, match="row-level security"):
                insert(connection, table, row)
    if role in ("encoder", "policy"):
        foreign = next_row("models", "policy" if role == "encoder" else "encoder")
        with pytest.raises(InsufficientPrivilege, match="row-level security"):
            insert(connection, "models", foreign)


@pytest.mark.parametrize("kind", ["adoption", "release"])
def test_only_the_operator_says_what_is_managed(world: World, kind: str) -> None:
    row = next_row("cash_flows", "sender") | {"kind": kind}  # of a live wallet
    with world("cli").connection.transaction(force_rollback=True):
        assert insert(world("cli").connection, "cash_flows", row) == 1
    with pytest.raises(InsufficientPrivilege, match="row-level security"):
        insert(world("sender").connection, "cash_flows", row)


@pytest.mark.parametrize("role", ROLES)
def test_an_update_never_reaches_the_rows_of_another_layer(world: World, role: str) -> None:
    connection = world(role).connection
    for layer in ROLES:
        insert(world(layer).connection, "job_runs", next_row("job_runs"))
    statement = "UPDATE job_runs SET status = 'failed' WHERE layer {} %(layer)s"
    with connection.transaction(force_rollback=True):
        assert connection.execute(statement.format("<>"), {"layer": role}).rowcount == 0
        assert connection.execute(statement.format("="), {"layer": role}).rowcount >= 1
    if role in ("encoder", "policy"):
        with connection.transaction(force_rollback=True):
            insert(connection, "models", next_row("models", role))
            touched = connection.execute("UPDATE models SET status = 'retired' RETURNING kind").fetchall()
            assert {kind for (kind,) in touched} == {role}
            with pytest.raises(psycopg.Error, match="permission denied for table models"):
                connection.execute("UPDATE models SET kind = 'encoder'")
