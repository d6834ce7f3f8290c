"""`make place`: one command an order, whose terms are read with care; what became of it is told in one line."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from datetime import timedelta
from decimal import Decimal
from pathlib import Path

import pytest
from rich.console import Console

from pipeline.commands import operator_name
from pipeline.operator import create_wallet, main
from pipeline.place import place_lines
from pipeline.status import print_wallets
from shared.db import Database
from shared.settings import Settings
from tests.helpers import NOON, random_candles, store_candles
from tests.pipeline.live_wallet import Command, Undone, borrow, later, undone
from tests.shared.spine_rows import insert

ORDER = ("--symbols", "AAA/USDT", "--side", "buy", "--quantity", "2")
MINUTE = timedelta(seconds=60)


@pytest.fixture(scope="module")
def world(home: Path) -> Iterator[Undone]:
    with undone(home, "place") as made:
        yield made


@pytest.fixture
def settings(world: Undone) -> Settings:
    return world[0]


@pytest.fixture
def database(world: Undone) -> Iterator[Database]:
    settings, begin = world
    with begin() as database:
        store_candles(lambda _layer: database, "test", "AAA/USDT", 300, random_candles(3, 300, 1))
        create_wallet(database, settings, NOON, "w", "test", ["AAA/USDT"], 1000.0)
        yield database


@pytest.fixture
def command(settings: Settings, database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    return borrow(monkeypatch, settings, database, tmp_path, main)


def placed(database: Database) -> list[dict[str, object]]:
    return database.fetch("SELECT * FROM commands WHERE command = 'place' ORDER BY id")


def test_an_order_is_a_command_of_a_minute_with_its_issuer(
    database: Database, command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("place", "w", *ORDER, "--limit", "101.5", "--reason", "a hunch") == 0
    (row,) = placed(database)
    assert (row["side"], row["quantity"], row["limit_price"]) == ("buy", Decimal(2), Decimal("101.5"))
    assert (row["issued_at"], row["expires_at"]) == (NOON, NOON + MINUTE)
    assert (row["issuer"], row["reason"], row["voided_at"]) == (operator_name(), "a hunch", None)
    assert "its sender takes it up within 60 s or it is over" in capsys.readouterr().err


def test_the_same_key_is_one_order_and_tells_what_became_of_it(
    database: Database, command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("place", "w", *ORDER, "--reason", "a hunch", "--key", "k1")
    assert [command(*words), command(*words)] == [0, 0]
    assert len(placed(database)) == 1
    assert "this KEY was used before" in (told := capsys.readouterr().err)
    assert "by hand: buy 2 AAA/USDT (command" in told
    assert "waits for its sender until 12:01:00" in told


@pytest.mark.parametrize(
    ("words", "cause"),
    [
        (["--reason", "x"], "place what? WALLET="), (["w", "--reason", "x"], "place what? SYMBOL="),
        (["w", *ORDER[:2], "--reason", "x"], "place what? SIDE=buy or sell"),
        (["w", *ORDER[:4], "--reason", "x"], "place what? QTY="), (["w", *ORDER], "say why (REASON=…)"),
        (["w", *ORDER, "--reason", " "], "say why"), (["v", *ORDER, "--reason", "x"], "there is no wallet 'v'"),
        (["w", *ORDER, "--side", "short", "--reason", "x"], "SIDE=short: buy or sell"),
        (["w", *ORDER, "--quantity", "-1", "--reason", "x"], "QTY=-1: must be above 0"),
        (["w", *ORDER, "--limit", "nan", "--reason", "x"], "LIMIT=nan"),
        (["w", *ORDER, "--symbols", "ZZZ/USDT", "--reason", "x"], "ZZZ/USDT is not known on test"),
        (["w", *ORDER, "--symbols", "A/B", "C/D", "--reason", "x"], "an order is of one instrument"),
        (["w", *ORDER, "--reason", "x", "--at", "2024-01-01"], "an order by hand is placed now"),
    ],
)  # fmt: skip
def test_what_cannot_be_ordered_is_named(
    database: Database, command: Command, words: list[str], cause: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("place", *words) == 2
    assert cause in capsys.readouterr().err
    assert placed(database) == []


def test_the_status_tells_what_became_of_each(
    database: Database, settings: Settings, command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    for quantity in "123":
        assert command("place", "w", *ORDER, "--quantity", quantity, "--reason", "a hunch") == 0
    first, second, third = placed(database)
    wallet = int(str(first["wallet_id"]))
    for row, end in ((first, "rejected"), (second, "filled")):
        settled(database, row, end)
    told = place_lines(database, wallet, later(0.5))
    assert [line.rpartition(": ")[2] for line in told] == [
        "waits for its sender until 12:01:00", "2 filled at 100.5 on average; filled", "notional above the limit of 1",
    ]  # fmt: skip
    assert place_lines(database, wallet, later(1))[0].endswith("expired at 12:01:00: no sender took it up in time")
    database.execute("UPDATE commands SET voided_at = %(t)s WHERE id = %(id)s", {"t": NOON, "id": third["id"]})
    assert place_lines(database, wallet, later(1))[0].endswith("voided: a backup was restored")
    assert place_lines(database, wallet, later(24 * 60 + 1)) == []
    capsys.readouterr()
    print_wallets(database, settings, later(1), Console(width=200))
    assert "  by hand: buy 1 AAA/USDT (command " in capsys.readouterr().out


def settled(database: Database, row: dict[str, object], end: str) -> None:
    """What a sender writes of it: refused, or filled in two parts."""
    order = {"id": uuid.uuid4(), "command_id": row["id"], "wallet_id": row["wallet_id"], "mode": "paper",
             "instrument_id": row["instrument_id"], "author": "sender", "purpose": "manual", "side": "buy",
             "type": "market", "quantity": row["quantity"], "reference_price": 100.0, "volatility": 0,
             "because": "a test", "not_before": NOON, "deadline": later(5), "recorded_at": NOON}  # fmt: skip
    insert(database.connection, "orders", order)
    told = {"order_id": order["id"], "at": NOON, "recorded_at": NOON, "detail": "notional above the limit of 1"}
    if end == "rejected":
        insert(database.connection, "order_events", told | {"event": end})
        return
    approval = {"order_id": order["id"], "epoch": None, "limits_recorded_at": NOON, "approved_at": NOON}
    insert(database.connection, "approvals", approval)
    for event in ("accepted", "filled"):
        insert(database.connection, "order_events", told | {"event": event})
    for k, price in enumerate((100, 101)):
        fill = {"wallet_id": row["wallet_id"], "venue_trade_id": f"t{k}", "order_id": order["id"], "side": "buy",
                "quantity": 1, "price": price, "cost": price, "fee": 0, "fee_asset": "USDT", "filled_at": NOON,
                "recorded_at": NOON}  # fmt: skip
        insert(database.connection, "fills", fill)
