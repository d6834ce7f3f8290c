"""What the schema promises: its names, that applying it twice changes nothing, and each thing it refuses."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from threading import Barrier
from typing import Any

import psycopg
import pytest
from psycopg.errors import CheckViolation, ForeignKeyViolation, NotNullViolation, RaiseException, UniqueViolation

from shared.db import Connection, Database, connect, owner_url, role_url
from shared.schema import apply_schema, bring_up, drop_database, role_passwords
from shared.settings import Settings, load_settings
from tests.shared.spine_rows import HOUR, NOON, WRITERS, insert, next_row, order_id, own_database, seed

STAMPS = {"recorded_at", "started_at", "issued_at", "requested_at", "promoted_at", "approved_at"}
NAN, INFINITY = float("nan"), float("inf")

# DESIGN §4: columns may be added, never renamed.
FIXED_NAMES = {
    "market_data": "instrument_id timeframe_s as_of open high low close volume trades source recorded_at",
    "embeddings": "model_id instrument_id timeframe_s as_of embedding ood known_from recorded_at",
    "market_state": "id track as_of horizon_s p_down p_flat p_up p_vol_low p_vol_mid p_vol_high conviction regime"
    " source reasons valid_until known_from recorded_at",
    "policy_config": "id track as_of source risk_aversion turnover_penalty drawdown_penalty target_volatility"
    " max_exposure max_position daily_loss_limit max_drawdown pause strategy_weights valid_until",
    "wallets": "id name venue mode quote track",
    "decisions": "id wallet_id instrument_id as_of wanted_weight allowed_weight clamps reason source model_id"
    " market_state_id policy_config_id",
    "orders": "id decision_id wallet_id mode instrument_id side type quantity limit_price stop_price state deadline",
    "order_events": "order_id event",
    "fills": "wallet_id venue_trade_id order_id side quantity price fee fee_asset filled_at",
    "commands": "issuer idempotency_key expires_at",
    "current_embeddings": "model_id instrument_id timeframe_s as_of embedding ood",
    "current_market_state": "track as_of horizon_s regime",
    "current_policy_config": "track as_of source pause",
    "positions": "wallet_id instrument_id quantity",
    "equity": "wallet_id equity",
}
KEYS = {
    "market_data": ["instrument_id", "timeframe_s", "as_of"],
    "fills": ["wallet_id", "venue_trade_id"],
    "embeddings": ["model_id", "instrument_id", "timeframe_s", "as_of"],
}

# Everything that the two files make, as text: columns, constraints, indexes, views, functions, triggers, row
# policies and rights.
CATALOGUE = """
SELECT 'column ' || a.attrelid::regclass || '.' || a.attname AS name,
       concat_ws(' ', format_type(a.atttypid, a.atttypmod), a.attnotnull, a.attidentity, a.attacl::text,
                 pg_get_expr(d.adbin, d.adrelid)) AS value
FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
LEFT JOIN pg_attrdef d ON (adrelid, adnum) = (attrelid, attnum)
WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'v') AND a.attnum > 0 AND NOT a.attisdropped
UNION ALL SELECT 'constraint ' || conrelid::regclass || '.' || conname, pg_get_constraintdef(oid)
FROM pg_constraint WHERE connamespace = 'public'::regnamespace
UNION ALL SELECT 'relation ' || relname, concat_ws(' ', relkind, relowner::regrole, relacl::text, relrowsecurity,
                 CASE relkind WHEN 'v' THEN pg_get_viewdef(oid) WHEN 'i' THEN pg_get_indexdef(oid) END)
FROM pg_class WHERE relnamespace = 'public'::regnamespace
UNION ALL SELECT 'function ' || p.oid::regprocedure, concat_ws(' ', pg_get_functiondef(p.oid), proacl::text)
FROM pg_proc p WHERE pronamespace = 'public'::regnamespace AND proowner = 'sextant'::regrole
UNION ALL SELECT 'trigger ' || tgrelid::regclass || '.' || tgname, pg_get_triggerdef(oid) FROM pg_trigger
WHERE NOT tgisinternal
UNION ALL SELECT 'policy ' || tablename || '.' || policyname, concat_ws(' ', cmd, roles::text, qual, with_check)
FROM pg_policies
UNION ALL SELECT 'schema', nspacl::text FROM pg_namespace WHERE nspname = 'public'
UNION ALL SELECT 'database', datacl::text FROM pg_database WHERE datname = current_database()
UNION ALL SELECT 'role ' || rolname, concat_ws(' ', rolcanlogin, rolsuper, rolinherit, rolcreaterole, rolcreatedb)
FROM pg_roles WHERE rolname LIKE 'sextant%'
UNION ALL SELECT 'installation', id::text FROM installation
ORDER BY 1
"""


@pytest.fixture(scope="module")
def rooms(home: Path) -> Iterator[tuple[Settings, Callable[[str], Database]]]:
    with own_database(home, "schema") as rooms:
        seed(rooms[1])
        yield rooms


@pytest.fixture
def owner(rooms: tuple[Settings, Callable[[str], Database]]) -> Iterator[Connection]:
    """The owner's session, whose writes are taken back after the test."""
    connection = rooms[1]("owner").connection
    with connection.transaction(force_rollback=True):
        yield connection


def refused(connection: Connection, table: str, *, error: type[psycopg.Error] = CheckViolation, **changes: Any) -> str:
    """Writes a valid row with these changes, which must be refused; the name of what refused it."""
    with pytest.raises(error) as refusal, connection.transaction():
        insert(connection, table, next_row(table) | changes)
    return refusal.value.diag.constraint_name or str(refusal.value)


def accepted(connection: Connection, table: str, **changes: Any) -> None:
    with connection.transaction(force_rollback=True):
        assert insert(connection, table, next_row(table) | changes) == 1


def test_applying_the_schema_again_changes_nothing(rooms: tuple[Settings, Callable[[str], Database]]) -> None:
    with connect(owner_url(rooms[0])) as connection:
        before = connection.execute(CATALOGUE).fetchall()
        for _ in range(2):
            apply_schema(connection, {})
        assert connection.execute(CATALOGUE).fetchall() == before
        assert len(before) > 250
        assert connection.execute("SELECT count(*) FROM fills").fetchone() == (2,)
    assert role_passwords(rooms[0]) == role_passwords(rooms[0])


@pytest.mark.parametrize("relation", FIXED_NAMES)
def test_the_fixed_names_are_there(owner: Connection, relation: str) -> None:
    query = "SELECT column_name FROM information_schema.columns WHERE table_schema = 'public' AND table_name = %s"
    assert set(FIXED_NAMES[relation].split()) <= {name for (name,) in owner.execute(query, [relation])}


@pytest.mark.parametrize("table", KEYS)
def test_the_keys_are_as_fixed(owner: Connection, table: str) -> None:
    query = """SELECT array_agg(a.attname::text ORDER BY array_position(i.indkey::int2[], a.attnum))
    FROM pg_index i JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = ANY (i.indkey)
    WHERE i.indrelid = %s::regclass AND i.indisprimary"""
    assert owner.execute(query, [table]).fetchone() == (KEYS[table],)


def test_money_is_numeric_with_8_decimals_and_every_time_has_a_zone(owner: Connection) -> None:
    query = """SELECT table_name, column_name, data_type, numeric_precision, numeric_scale
    FROM information_schema.columns WHERE table_schema = 'public'"""
    columns = {(t, c): (kind, p, s) for t, c, kind, p, s in owner.execute(query)}
    for money in (("fills", "price"), ("fills", "quantity"), ("fills", "cost"), ("fills", "fee"),
                  ("orders", "quantity"), ("orders", "limit_price"), ("cash_flows", "amount"),
                  ("limits", "max_order_notional"), ("instruments", "tick_size")):  # fmt: skip
        assert columns[money] == ("numeric", 28, 8), money
    assert not [name for name, (kind, *_) in columns.items() if kind == "timestamp without time zone"]


@pytest.mark.parametrize("table", WRITERS)
def test_when_a_row_was_recorded_comes_from_the_jobs_clock(owner: Connection, table: str) -> None:
    row = next_row(table)
    stamp = next(
        s for s in row if s in {"recorded_at", "started_at", "issued_at", "requested_at", "promoted_at", "approved_at"}
    )
    del row[stamp]
    with pytest.raises(NotNullViolation, match=stamp), owner.transaction():
        insert(owner, table, row)


@pytest.mark.parametrize(
    ("changes", "constraint"),
    [
        ({"high": 98.0}, "high_and_low_bound_the_candle"),  # below low
        ({"high": 100.4}, "high_and_low_bound_the_candle"),  # below close
        ({"low": 100.1}, "high_and_low_bound_the_candle"),  # above open
        ({"close": 101.5}, "high_and_low_bound_the_candle"),
        ({"low": 0.0}, "prices_are_positive"),
        ({"low": -1.0}, "prices_are_positive"),
        ({"high": INFINITY}, "prices_are_positive"),
        ({"high": NAN}, "prices_are_positive"),
        ({"low": NAN}, "high_and_low_bound_the_candle"),
        ({"open": NAN}, "high_and_low_bound_the_candle"),
        ({"close": NAN}, "high_and_low_bound_the_candle"),
        ({"open": INFINITY}, "high_and_low_bound_the_candle"),
        ({"close": -INFINITY}, "high_and_low_bound_the_candle"),
        ({"volume": -1.0}, "volume_is_a_number"),
        ({"volume": NAN}, "volume_is_a_number"),
        ({"volume": INFINITY}, "volume_is_a_number"),
        ({"trades": -1}, "market_data_trades_check"),
        ({"as_of": NOON + timedelta(seconds=1)}, "close_is_on_the_grid"),
        ({"as_of": NOON + timedelta(milliseconds=1)}, "close_is_on_the_grid"),
        ({"as_of": NOON - timedelta(milliseconds=1)}, "close_is_on_the_grid"),
        ({"timeframe_s": 7}, "close_is_on_the_grid"),
        ({"recorded_at": NOON + 4 * HOUR - timedelta(microseconds=1)}, "recorded_after_it_closed"),
    ],
)
def test_a_candle_that_cannot_be_is_refused(owner: Connection, changes: dict[str, Any], constraint: str) -> None:
    assert refused(owner, "market_data", **changes) == constraint


def test_a_flat_candle_without_trades_and_one_at_its_bounds_are_taken(owner: Connection) -> None:
    accepted(owner, "market_data", open=100.0, high=100.0, low=100.0, close=100.0, volume=0.0, trades=None)
    accepted(owner, "market_data", open=99.0, close=101.0, recorded_at=NOON + 4 * HOUR)
    refused(owner, "market_data", error=UniqueViolation, as_of=NOON + HOUR)
    refused(owner, "market_data", error=ForeignKeyViolation, instrument_id=99)


@pytest.mark.parametrize("changed", ["p_down", "p_flat", "p_up", "p_vol_low", "p_vol_mid", "p_vol_high"])
def test_probabilities_that_do_not_sum_to_one_are_refused(owner: Connection, changed: str) -> None:
    value = next_row("market_state")[changed]
    kind = "volatility" if "vol" in changed else "trend"
    for off in (1e-6, -1e-6, 0.1):
        assert refused(owner, "market_state", **{changed: value + off}) == f"{kind}_probabilities_sum_to_one"
    accepted(owner, "market_state", **{changed: value + 1e-12})
    for impossible in (-0.1, 1.1, NAN):
        refused(owner, "market_state", **{changed: impossible})


@pytest.mark.parametrize(
    ("table", "changes"),
    [
        ("market_state", {"conviction": 1.01}),
        ("market_state", {"regime": "sunny"}),
        ("market_state", {"track": "other"}),
        ("market_state", {"known_from": NOON}),  # before its as_of
        ("market_state", {"valid_until": NOON}),
        ("policy_config", {"known_from": NOON}),
        ("policy_config", {"valid_until": NOON}),
        ("policy_config", {"max_position": 0.51}),
        ("policy_config", {"max_exposure": NAN}),
        ("embeddings", {"known_from": NOON}),
        ("embeddings", {"ood": 1.01}),
        ("models", {"sha256": "0" * 64}),
        ("instruments", {"symbol": "btc-usdt"}),
        ("wallets", {"mode": "demo"}),
        ("limits", {"symbols": []}),
        ("cash_flows", {"amount": 0}),
        ("commands", {"command": "buy"}),
        ("commands", {"reason": ""}),
        ("commands", {"expires_at": NOON}),
        ("commands", {"wallet_id": None}),
        ("commands", {"command": "retrain-encoder"}),  # of no wallet
        ("trainings", {"kind": "policy"}),
        ("trainings", {"status": "waiting"}),
        ("trainings", {"ended_at": None}),
        ("trainings", {"status": "queued"}),  # and yet ended
        ("trainings", {"status": "done"}),  # without a model
        ("trainings", {"model_id": 1}),
        ("trainings", {"reason": ""}),
        ("trainings", {"requested_by": ""}),
        ("trainings", {"attempts": -1}),
        ("encoder_checks", {"drift_share": 1.01}),
        ("encoder_checks", {"ood_share": -0.01}),
        ("encoder_checks", {"psi_max": -1.0}),
        ("encoder_checks", {"error_ratio": -1.0}),
        ("encoder_checks", {"verdict": ""}),
        ("encoder_checks", {"recorded_at": NOON}),
        ("encoder_evaluations", {"evaluated_to": NOON}),
        ("encoder_evaluations", {"folds": 0}),
        ("encoder_evaluations", {"symbols": []}),
        ("encoder_evaluations", {"verdict": ""}),
        ("models", {"status": "resting"}),
        ("decisions", {"wanted_weight": 1.01}),
        ("decisions", {"price": 0.0}),
        ("decisions", {"quantity_held": -1}),
        ("orders", {"side": "short"}),
        ("orders", {"type": "limit"}),
        ("orders", {"quantity": 0}),
        ("orders", {"deadline": NOON}),
        ("fills", {"fee": -1}),
        ("fills", {"quantity": 0, "cost": 0}),
        ("backtests", {"span_to": NOON}),
    ],
)
def test_a_value_out_of_its_bounds_is_refused(owner: Connection, table: str, changes: dict[str, Any]) -> None:
    refused(owner, table, **changes)


def test_a_model_known_before_its_labels_were_is_refused(owner: Connection) -> None:
    trained_to, horizon = NOON, timedelta(hours=1)
    early = trained_to + horizon - timedelta(microseconds=1)
    assert refused(owner, "models", known_from=early) == "known_after_training"
    assert refused(owner, "models", trained_from=NOON) == "known_after_training"
    accepted(owner, "models", known_from=trained_to + horizon)


def test_a_policy_names_its_encoder_and_one_model_a_kind_is_active(owner: Connection) -> None:
    assert refused(owner, "models", kind="policy") == "a_policy_names_its_encoder"
    assert refused(owner, "models", encoder_id=1) == "a_policy_names_its_encoder"
    owner.execute("UPDATE models SET status = 'active' WHERE id = 1")
    assert refused(owner, "models", error=UniqueViolation, status="active") == "one_active_model_a_kind"
    accepted(owner, "models", kind="policy", encoder_id=1, status="active")


def test_one_encoder_is_shadow_beside_the_active_one(owner: Connection) -> None:
    owner.execute("UPDATE models SET status = 'active' WHERE id = 1")
    owner.execute("UPDATE models SET status = 'shadow' WHERE id = 2")
    assert refused(owner, "models", error=UniqueViolation, status="shadow") == "one_shadow_model_a_kind"
    accepted(owner, "models", status="retired")


def test_a_command_is_one_training_and_the_check_has_one_open_at_most(owner: Connection) -> None:
    insert(owner, "commands", next_row("commands") | {"wallet_id": None, "command": "retrain-encoder"})
    (command,) = owner.execute("SELECT max(id) FROM commands").fetchone() or ()
    insert(owner, "trainings", next_row("trainings") | {"command_id": command})
    refused(owner, "trainings", error=UniqueViolation, command_id=command)
    queued = {"command_id": None, "status": "queued", "ended_at": None}
    insert(owner, "trainings", next_row("trainings") | queued)
    for status in ("queued", "running", "stopped"):
        assert "one_open" in refused(owner, "trainings", error=UniqueViolation, **queued | {"status": status})
    accepted(owner, "trainings", command_id=None)


def test_risk_only_shrinks(owner: Connection) -> None:
    assert refused(owner, "decisions", wanted_weight=0.3, allowed_weight=0.3000001) == "risk_only_shrinks"
    accepted(owner, "decisions", wanted_weight=0.3, allowed_weight=0.3)


def test_a_candle_is_decided_once_a_wallet_and_instrument(owner: Connection) -> None:
    refused(owner, "decisions", error=UniqueViolation, as_of=NOON + HOUR)
    accepted(owner, "decisions", as_of=NOON + HOUR, instrument_id=2)
    accepted(owner, "decisions", as_of=NOON + HOUR, wallet_id=2)


def test_a_fill_costs_its_quantity_times_its_price(owner: Connection) -> None:
    part = {"quantity": Decimal("0.33333333"), "price": Decimal("1.5")}  # 0.499999995: no 8-decimal amount
    for cost in ("0.49", "0.49999999", "0.5", "0.5099"):  # a venue rounds to the decimals of its ledger
        accepted(owner, "fills", cost=Decimal(cost), **part)
    for cost in ("0.4898", "0.5101", "1"):
        assert refused(owner, "fills", cost=Decimal(cost), **part) == "cost_is_quantity_times_price"


def test_the_same_trade_told_twice_is_one_row(owner: Connection) -> None:
    refused(owner, "fills", error=UniqueViolation, venue_trade_id="trade-1")
    accepted(owner, "fills", venue_trade_id="trade-1", wallet_id=2)


@pytest.mark.parametrize(("old", "new"), [("paper", "live"), ("live", "paper")])
def test_a_wallets_mode_never_changes(owner: Connection, old: str, new: str) -> None:
    insert(owner, "wallets", next_row("wallets") | {"mode": old, "name": "fixed"})
    with pytest.raises(RaiseException, match=f"wallet fixed is {old}: its mode never changes"), owner.transaction():
        owner.execute("UPDATE wallets SET mode = %s WHERE name = 'fixed'", [new])
    owner.execute("UPDATE wallets SET mode = %s, track = 'rules' WHERE name = 'fixed'", [old])  # the same: no change


def test_positions_and_cash_are_sums_of_what_happened(owner: Connection) -> None:
    insert(owner, "fills", next_row("fills") | {"side": "sell", "quantity": "0.5", "cost": 50, "fee": "0.2"})
    assert owner.execute("SELECT quantity FROM positions WHERE wallet_id = 1").fetchall() == [(Decimal("1.5"),)]
    # two deposits of 5000, two buys of 100 with 0.4 fee each, one sell of 50 with 0.2
    cash = 2 * Decimal(5000) - 2 * Decimal("100.4") + Decimal("49.8")
    assert owner.execute("SELECT amount FROM cash WHERE wallet_id = 1").fetchone() == (cash,)
    value = Decimal("1.5") * Decimal("100.5")
    assert owner.execute("SELECT equity FROM equity WHERE wallet_id = 1").fetchone() == (cash + value,)
    assert owner.execute("SELECT count(*) FROM orders WHERE id = %s", [order_id(1)]).fetchone() == (1,)


def test_the_current_views_show_the_newest_row(owner: Connection) -> None:
    for view in ("current_market_state", "current_policy_config"):
        assert owner.execute(f"SELECT track, as_of FROM {view}").fetchall() == [("live", NOON + 2 * HOUR)]
    insert(owner, "embeddings", next_row("embeddings") | {"model_id": 2, "as_of": NOON + HOUR})
    for active, newest in ((1, NOON + 2 * HOUR), (2, NOON + HOUR)):  # of the active model, whatever others saw since
        owner.execute("UPDATE models SET status = 'retired'")
        owner.execute("UPDATE models SET status = 'active' WHERE id = %s", [active])
        assert owner.execute("SELECT model_id, as_of FROM current_embeddings").fetchall() == [(active, newest)]


@pytest.mark.parametrize("attempt", range(4))
def test_eight_jobs_at_once_make_one_database(home: Path, attempt: int) -> None:
    settings = load_settings(home=home, db_name=f"first_{uuid.uuid4().hex[:12]}")
    ready = Barrier(8)

    def first_job(_: int) -> str:
        ready.wait()
        return bring_up(settings)

    try:
        with ThreadPoolExecutor(8) as pool:
            assert len(set(pool.map(first_job, range(8)))) == 1
        database = Database(role_url(settings, "policy"))
        assert database.fetch_one("SELECT count(*) AS n FROM installation") == {"n": 1}
        database.close()
    finally:
        drop_database(settings)
