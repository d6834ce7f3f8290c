"""The operator's hand: wallets are made once, on terms that can be traded, and trade only after a resume."""

from __future__ import annotations

import os
import pwd
from collections.abc import Callable, Sequence
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from pipeline.commands import operator_name
from pipeline.operator import ask_for_encoder, create_wallet, issue_command, main
from shared.clock import ReplayClock
from shared.db import Database
from shared.job import UsageError
from shared.settings import Settings
from tests.helpers import NOON, DatabaseFor

PAIR = ("AAA/USDT", "BBB/USDT")
TABLES = ("wallets", "limits", "cash_flows", "commands")
COMMANDS = """
SELECT id, wallet_id, command, reason, issuer, idempotency_key, issued_at,
       CASE WHEN isfinite(expires_at) THEN expires_at END AS expires_at
FROM commands ORDER BY id
"""


@pytest.fixture
def database(database_for: DatabaseFor) -> Database:
    return database_for("cli")


def make(database: Database, settings: Settings, name: str = "w", symbols: Sequence[str] = PAIR,
         capital: float = 10_000.5) -> bool:  # fmt: skip
    return create_wallet(database, settings, NOON, name, "test", symbols, capital)


def rows(database: Database) -> dict[str, list[dict[str, Any]]]:
    """Of each table; what expires at infinity, which Python has no moment for, says None."""
    found = {table: database.fetch(f"SELECT * FROM {table} ORDER BY 1") for table in TABLES[:-1]}
    return found | {"commands": database.fetch(COMMANDS)}


def mandate(database: Database, at_minute: int) -> str:
    """What the wallet may do at this minute by its operator's word."""
    asked = {"now": NOON + timedelta(minutes=at_minute)}
    (wallet,) = database.fetch("SELECT mandate_of(id, %(now)s) AS mandate FROM wallets", asked)
    return str(wallet["mandate"])


def trading(database: Database, at_minute: int) -> bool:
    return mandate(database, at_minute) == "trade"


def test_a_wallet_comes_with_its_limits_and_its_deposit_and_paused(database: Database, settings: Settings) -> None:
    assert make(database, settings)
    made = rows(database)
    (wallet,), (limits,), (deposit,) = made["wallets"], made["limits"], made["cash_flows"]
    assert (wallet["name"], wallet["venue"], wallet["mode"], wallet["quote"], wallet["track"]) == (
        "w", "test", "paper", "USDT", "live",
    )  # fmt: skip
    assert (wallet["taker_fee_bps"], wallet["slippage_bps"]) == (
        settings.execution.taker_fee_bps, settings.execution.slippage_bps,
    )  # fmt: skip
    assert (limits["wallet_id"], limits["symbols"]) == (wallet["id"], list(PAIR))
    assert limits["max_order_notional"] == Decimal(settings.risk.max_order_notional)
    assert limits["max_orders_a_day"] == settings.risk.max_orders_a_day
    assert (deposit["wallet_id"], deposit["asset"], deposit["amount"]) == (wallet["id"], "USDT", Decimal("10000.5"))
    assert made["commands"] == []
    assert not trading(database, 60)
    assert database.fetch("SELECT amount FROM cash") == [{"amount": Decimal("10000.5")}]


def test_a_wallets_name_is_taken_once(database: Database, settings: Settings) -> None:
    assert make(database, settings)
    before = rows(database)
    assert not make(database, settings, symbols=("CCC/EUR",), capital=5.0)
    assert rows(database) == before


@pytest.mark.parametrize(
    ("changes", "cause"),
    [
        ({"symbols": ("AAA/USDT", "BBB/EUR")}, "one quote currency; AAA/USDT, BBB/EUR have EUR, USDT"),
        ({"symbols": ("aaa/usdt",)}, "BASE/QUOTE in capitals, like BTC/USDT; aaa/usdt is not"),
        ({"symbols": ("AAA",)}, "BASE/QUOTE in capitals, like BTC/USDT; AAA is not"),
        ({"symbols": ("AAA/USDT", "AAA/USDT")}, "each symbol may be named once"),
        ({"name": "My Wallet"}, "a wallet is named in a-z, 0-9, _ and -"),
        ({"name": ""}, "a wallet is named in a-z, 0-9, _ and -"),
        *[({"capital": bad}, "a wallet opens with more than 0") for bad in (0.0, -5.0, 1e9, float("nan"))],
    ],
)
def test_terms_that_could_never_be_traded_are_refused_and_leave_nothing(
    database: Database, settings: Settings, changes: dict[str, Any], cause: str
) -> None:
    with pytest.raises(UsageError, match=cause):
        make(database, settings, **changes)
    assert not any(rows(database).values())


def test_the_newest_command_says_whether_a_wallet_trades(database: Database, settings: Settings) -> None:
    make(database, settings)
    for minute, command in ((1, "resume"), (5, "pause"), (9, "resume")):
        issue_command(database, NOON + timedelta(minutes=minute), "w", command, "a test", "test")
    assert [trading(database, minute) for minute in (0, 1, 4, 5, 8, 9, 600)] == [
        False, True, True, False, False, True, True,
    ]  # fmt: skip


def test_of_two_commands_at_one_moment_the_later_written_holds(database: Database, settings: Settings) -> None:
    make(database, settings)
    for command in ("resume", "pause"):
        issue_command(database, NOON, "w", command, "a test", "test")
    assert not trading(database, 1)


def test_a_command_given_twice_under_one_key_is_one_command(database: Database, settings: Settings) -> None:
    make(database, settings)
    assert issue_command(database, NOON, "w", "resume", "a test", "test", "key-1")
    assert issue_command(database, NOON + timedelta(minutes=1), "w", "pause", "a test", "test", "key-2")
    again = NOON + timedelta(minutes=2)
    assert not issue_command(database, again, "w", "resume", "told again", "test", "key-1")
    assert not trading(database, 3), "the repeated resume is not a new one"
    assert len(rows(database)["commands"]) == 2
    for _ in range(2):  # without a key each is a command of its own
        assert issue_command(database, again, "w", "resume", "a test", "test")
    assert len({row["idempotency_key"] for row in rows(database)["commands"]}) == 4


def test_a_command_is_written_down_with_all_that_explains_it(database: Database, settings: Settings) -> None:
    make(database, settings)
    issue_command(database, NOON, "w", "pause", "the venue is down", "anna", "key-1")
    (row,) = rows(database)["commands"]
    told = {"command": "pause", "reason": "the venue is down", "issuer": "anna", "idempotency_key": "key-1",
            "issued_at": NOON, "expires_at": None}  # fmt: skip
    assert told.items() <= row.items()


def test_what_stops_never_expires_and_a_resume_does(database: Database, settings: Settings) -> None:
    make(database, settings)
    for command in ("pause", "kill", "flatten", "halt", "resume"):
        issue_command(database, NOON, "w", command, "a test", "anna")
    assert [row["expires_at"] for row in rows(database)["commands"]] == [None] * 4 + [NOON + timedelta(hours=1)]


def test_a_stop_for_all_names_no_wallet_and_a_resume_must(database: Database, settings: Settings) -> None:
    make(database, settings)
    issue_command(database, NOON, "w", "resume", "a test", "anna")
    assert issue_command(database, NOON, None, "halt", "a test", "anna", "key-1")
    assert not issue_command(database, NOON, None, "halt", "told again", "anna", "key-1")
    assert rows(database)["commands"][-1]["wallet_id"] is None
    assert mandate(database, 1) == "halt"
    with pytest.raises(UsageError, match="a resume names its wallet"):
        issue_command(database, NOON, None, "resume", "a test", "anna")


def test_a_command_to_nobody_or_without_a_reason_is_refused(database: Database, settings: Settings) -> None:
    make(database, settings)
    with pytest.raises(UsageError, match="there is no wallet 'x'; `make wallets` lists them"):
        issue_command(database, NOON, "x", "pause", "a test", "test", "key-1")
    for reason in ("", "  "):
        with pytest.raises(UsageError, match="say why"):
            issue_command(database, NOON, "w", "pause", reason, "test")
    assert rows(database)["commands"] == []


def test_a_new_encoder_is_asked_for_without_a_wallet_and_for_a_day(database: Database) -> None:
    assert ask_for_encoder(database, NOON, "the market changed", "anna", "key-1")
    assert not ask_for_encoder(database, NOON + timedelta(hours=1), "told again", "anna", "key-1")
    (row,) = rows(database)["commands"]
    told = {"wallet_id": None, "command": "retrain-encoder", "reason": "the market changed", "issuer": "anna",
            "idempotency_key": "key-1", "issued_at": NOON, "expires_at": NOON + timedelta(days=1)}  # fmt: skip
    assert told.items() <= row.items()
    with pytest.raises(UsageError, match="say why: a retrain-encoder"):
        ask_for_encoder(database, NOON, " ", "anna")


def test_asking_for_an_encoder_neither_resumes_nor_pauses_a_wallet(database: Database, settings: Settings) -> None:
    make(database, settings)
    ask_for_encoder(database, NOON + timedelta(minutes=1), "a test", "test")
    assert not trading(database, 2)
    issue_command(database, NOON + timedelta(minutes=3), "w", "resume", "a test", "test")
    ask_for_encoder(database, NOON + timedelta(minutes=4), "a test", "test")
    assert trading(database, 5)


@pytest.fixture
def command(
    settings: Settings, database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., int]:
    """The command line at noon, on this test's database; its KILL files lie in tmp_path."""
    monkeypatch.setattr("shared.job.load_settings", lambda: settings)
    monkeypatch.setenv("SEXTANT_HOME", str(tmp_path))
    monkeypatch.setattr("shared.job.open_clock", lambda _url: ReplayClock(NOON))
    return lambda *words: main([*words])


def test_the_command_line_makes_pauses_resumes_and_says_what_it_cannot_do(
    database: Database, settings: Settings, command: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("wallet", "w", "--capital", "500") == 0
    assert "make resume" in capsys.readouterr().err
    assert rows(database)["limits"][0]["symbols"] == list(settings.universe.symbols)
    assert command("wallet", "w") == 2
    assert "wallet 'w' exists already" in capsys.readouterr().err
    assert command("wallet", "v", "--symbols", "AAA/USDT", "BBB/EUR") == 2
    assert command("resume", "w", "--reason", "go") == 0
    assert trading(database, 1)
    assert command("pause", "w") == 0
    assert not trading(database, 1)
    assert [row["reason"] for row in rows(database)["commands"]] == ["go", "operator's wish"]
    assert command("retrain", "--reason", "drift") == 0
    last = rows(database)["commands"][-1]
    assert (last["command"], last["reason"], last["issuer"]) == ("retrain-encoder", "drift", operator_name())
    capsys.readouterr()
    assert command("pause") == 2
    assert "pause which wallet?" in capsys.readouterr().err
    assert command("pause", "nobody") == 2
    assert "there is no wallet 'nobody'" in capsys.readouterr().err


def test_the_operator_is_who_runs_the_command_whatever_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    real = pwd.getpwuid(os.getuid()).pw_name
    for variable in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.setenv(variable, "somebody-else")
    assert operator_name() == f"cli:{real}"
    monkeypatch.setattr(os, "getuid", lambda: 2**31 - 7)  # nobody's number, as in a container
    assert operator_name() == f"cli:{2**31 - 7}"
