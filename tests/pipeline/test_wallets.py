"""A live wallet is made as config/wallets.json has it; limits change only as a whole and only to what can hold."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from pipeline.operator import create_wallet, main
from pipeline.status import blockers
from pipeline.wallets import change_limits, create_live_wallet
from shared.db import Database, DatabaseError
from shared.job import UsageError
from shared.settings import Settings
from tests.helpers import NOON
from tests.pipeline.live_wallet import A, B, Command, LiveWallet, Undone, borrow, entry, file_text, later, undone
from tests.shared.spine_rows import insert


@pytest.fixture(scope="module")
def world(home: Path) -> Iterator[Undone]:
    with undone(home, "wallets") as made:
        yield made


@pytest.fixture
def settings(world: Undone) -> Settings:
    return world[0]


@pytest.fixture
def database(world: Undone) -> Iterator[Database]:
    with world[1]() as database:
        yield database


@pytest.fixture
def command(settings: Settings, database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    return borrow(monkeypatch, settings, database, tmp_path, main)


def only(database: Database, table: str) -> dict[str, Any]:
    (row,) = database.fetch(f"SELECT * FROM {table}")
    return row


def test_a_live_wallet_has_the_files_terms_and_no_money(database: Database, settings: Settings) -> None:
    limits: dict[str, Any] = {
        "max_order_notional": "500.5", "max_orders_a_day": 7, "max_day_notional": "2000",
        "max_position_notional": "2500", "ramp_days": 3, "ramp_exposure": "0.1",
    }  # fmt: skip
    assert create_live_wallet(database, settings, NOON, entry(limits=limits, track="rules"))
    wallet = only(database, "wallets")
    assert (wallet["name"], wallet["venue"], wallet["mode"], wallet["quote"], wallet["track"]) == (
        "main", "test", "live", "USDT", "rules",
    )  # fmt: skip
    assert wallet["taker_fee_bps"] == settings.execution.taker_fee_bps
    held = only(database, "limits")
    assert held["symbols"] == [A, B]
    assert {name: held[name] for name in limits} == {name: Decimal(value) for name, value in limits.items()}
    assert database.fetch("SELECT * FROM cash_flows") == []
    assert not create_live_wallet(database, settings, NOON, entry(limits=limits))


def test_limits_that_the_file_does_not_name_are_the_settings_or_none(database: Database, settings: Settings) -> None:
    assert create_live_wallet(database, settings, NOON, entry(limits={"max_order_notional": 500}))
    held = only(database, "limits")
    assert held["max_orders_a_day"] == settings.risk.max_orders_a_day
    assert (held["max_day_notional"], held["max_position_notional"]) == (None, None)
    assert (held["ramp_days"], held["ramp_exposure"]) == (14, Decimal("0.02"))


def test_what_the_model_takes_for_a_default_the_database_does_too(database: Database, settings: Settings) -> None:
    """The two places that name the ramp agree."""
    create_wallet(database, settings, NOON, "w", "test", [A], 100.0)
    held = only(database, "limits")
    defaults = database.fetch("""
        SELECT column_name, column_default FROM information_schema.columns
        WHERE table_name = 'limits' AND column_default IS NOT NULL""")
    assert {row["column_name"]: Decimal(row["column_default"]) for row in defaults} == {
        name: held[name] for name in ("ramp_days", "ramp_exposure")
    }


def test_limits_change_as_a_whole_and_are_dated(database: Database, settings: Settings) -> None:
    create_live_wallet(database, settings, NOON, entry())
    before = only(database, "limits")
    changes: dict[str, str | list[str]] = {
        "max_order_notional": "123.00000001", "max_orders_a_day": "9", "max_day_notional": "1000",
        "max_position_notional": "1500", "ramp_days": "0", "ramp_exposure": "1", "symbols": [B],
    }  # fmt: skip
    said = change_limits(database, later(5), "main", changes)
    held = only(database, "limits")
    assert held == before | {name: value if name == "symbols" else Decimal(str(value)) for name, value in
                             changes.items()} | {"recorded_at": later(5)}  # fmt: skip
    assert said == {name: held[name] for name in changes}


def test_looking_at_limits_changes_nothing(database: Database, settings: Settings) -> None:
    create_live_wallet(database, settings, NOON, entry())
    before = only(database, "limits")
    assert change_limits(database, later(5), "main", {})["max_order_notional"] == 500
    assert only(database, "limits") == before


@pytest.mark.parametrize(
    ("changes", "cause"),
    [
        ({"max_order_notional": "0"}, "MAX_ORDER_NOTIONAL=0: must be above 0"),
        ({"max_order_notional": "lots"}, "MAX_ORDER_NOTIONAL=lots: not an amount"),
        ({"max_day_notional": "none"}, "MAX_DAY_NOTIONAL cannot be taken away from a live wallet"),
        ({"max_order_notional": "none"}, "MAX_ORDER_NOTIONAL cannot be taken away"),
        ({"max_orders_a_day": "0"}, "MAX_ORDERS_A_DAY=0: write a whole number from 1"),
        ({"max_orders_a_day": "5.5"}, "MAX_ORDERS_A_DAY=5.5: write a whole number"),
        ({"ramp_days": "-1"}, "RAMP_DAYS=-1: write a whole number from 0"),
        ({"ramp_exposure": "1.00000001"}, "RAMP_EXPOSURE=1.00000001: a share of the capital is 1 at most"),
        ({"symbols": ["AAA/EUR"]}, "wallet main trades in USDT; AAA/EUR do not"),
        ({"symbols": ["aaa"]}, "BASE/QUOTE in capitals"),
    ],
)
def test_what_cannot_be_a_limit_is_refused_and_changes_nothing(
    database: Database, settings: Settings, changes: dict[str, Any], cause: str
) -> None:
    create_live_wallet(database, settings, NOON, entry())
    before = only(database, "limits")
    with pytest.raises(UsageError, match=cause):
        change_limits(database, later(5), "main", {"max_orders_a_day": "3"} | changes)
    assert only(database, "limits") == before


def test_a_paper_wallets_limit_can_be_taken_away(database: Database, settings: Settings) -> None:
    create_wallet(database, settings, NOON, "w", "test", [A], 100.0)
    change_limits(database, NOON, "w", {"max_day_notional": "50"})
    assert only(database, "limits")["max_day_notional"] == 50
    change_limits(database, NOON, "w", {"max_day_notional": "none"})
    assert only(database, "limits")["max_day_notional"] is None
    with pytest.raises(UsageError, match="there is no wallet 'x'"):
        change_limits(database, NOON, "x", {})


def test_the_mode_of_a_wallet_never_changes(database: Database, settings: Settings) -> None:
    create_live_wallet(database, settings, NOON, entry())
    with pytest.raises(DatabaseError, match="wallet main is live: its mode never changes; make a new wallet"):
        database.execute("UPDATE wallets SET mode = 'paper'")


def test_the_command_line_makes_a_live_wallet_from_the_file_alone(
    database: Database, command: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("wallet", "main", "--mode", "live") == 1
    assert "there is no config/wallets.json" in capsys.readouterr().err
    (tmp_path / "wallets.json").write_text(file_text())
    assert command("wallet", "other", "--mode", "live") == 1
    assert "names no wallet 'other'; it names main" in capsys.readouterr().err
    assert command("wallet", "main", "--mode", "live", "--capital", "5", "--track", "llm") == 2
    assert "are in config/wallets.json: capital, track belong there" in capsys.readouterr().err
    assert database.fetch("SELECT FROM wallets") == []
    assert command("wallet", "main", "--mode", "live") == 0
    assert "make go-live WALLET=main" in capsys.readouterr().err
    assert command("wallet", "main", "--mode", "live") == 2
    assert "wallet 'main' exists already" in capsys.readouterr().err


def test_the_command_line_shows_and_changes_limits(
    database: Database, settings: Settings, command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    create_wallet(database, settings, NOON, "w", "test", [A, B], 100.0)
    assert command("limits", "w", "--max-day-notional", "1000.50", "--symbols", A) == 0
    said = capsys.readouterr().out
    assert f"may trade {A}\n" in said
    assert "an order 100000 USDT, a day 1000.5 USDT, a position no limit; 500 orders a day" in said
    assert "live: 2% of its capital for the first 14 days" in said
    assert command("limits", "w", "--ramp-exposure", "0.125", "--ramp-days", "5") == 0
    assert "live: 12.5% of its capital for the first 5 days" in capsys.readouterr().out
    assert command("limits") == 2
    assert "limits which wallet?" in capsys.readouterr().err


def test_wallets_are_listed_with_their_money_and_what_stops_them(
    database: Database, settings: Settings, command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("wallets") == 0
    assert "there is no wallet yet" in capsys.readouterr().out
    live = LiveWallet(lambda _layer: database, settings)
    live.find("USDT", "3000.5")
    create_wallet(live.cli, settings, NOON, "w", "test", [A], 100.0)
    assert command("resume", "w") == 0
    assert command("wallets") == 0
    said = capsys.readouterr().out
    assert "main: live wallet on test, track live, never let live\n" in said
    assert "not managed on its account: 3000.5 USDT\n" in said
    assert "pause: no entries from now on (never resumed)" in said
    assert "w: paper wallet on test, track live\n  equity 100.00 USDT, cash 100.00\n  paper money\n  trades\n" in said
    for granted, words in ((True, "let live"), (False, "not let live")):
        grant = {"wallet_id": live.id, "granted": granted, "checks": "[]", "capital": 1, "reason": "test"}
        insert(live.cli.connection, "live_grants", grant | {"recorded_at": NOON})
        assert command("wallets") == 0
        assert f"track live, {words}\n" in capsys.readouterr().out
        blocked = [line for line in blockers(live.cli, settings, NOON) if "go-live" in line]
        told = "main: not let live: nothing is sent; `LIVE_CONFIRM=main make go-live WALLET=main`"
        assert blocked == ([] if granted else [told]), "a paper wallet needs none"
    assert (command("resume", "main"), command("wallets")) == (0, 0)
    assert "resumed, but nothing is sent until `LIVE_CONFIRM=main make go-live" in capsys.readouterr().out
    compared = {"wallet_id": live.id, "matched": 3, "unmatched": 1, "findings": "[]", "recorded_at": NOON}
    insert(live.cli.connection, "reconciliations", compared)
    assert "main: ledger and account do not match: no entries; `make reconcile`" in blockers(live.cli, settings, NOON)
