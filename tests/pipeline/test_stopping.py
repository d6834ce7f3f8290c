"""Stopping works without a database and is never weakened; resuming needs both, a reason, and lifts what was seen."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline import stopping
from pipeline.commands import issue_command, operator_name
from pipeline.operator import create_wallet, main
from pipeline.stopping import resume, resume_all
from shared.clock import SystemClock
from shared.db import Database, load_queries
from shared.errors import SextantError
from shared.job import UsageError
from shared.kill_file import content_of, file_mandate, kill_path, write_stop
from shared.settings import Settings, SettingsError, load_settings
from tests.helpers import NOON
from tests.pipeline.live_wallet import Command, Undone, borrow, later, undone
from tests.shared.spine_rows import insert

COMMANDS = (
    "SELECT w.name, command, reason, issuer FROM commands c LEFT JOIN wallets w ON w.id = wallet_id ORDER BY c.id"
)


@pytest.fixture(scope="module")
def world(home: Path) -> Iterator[Undone]:
    with undone(home, "stopping") as made:
        yield made


@pytest.fixture
def settings(world: Undone) -> Settings:
    return world[0]


@pytest.fixture
def database(world: Undone) -> Iterator[Database]:
    """Three paper wallets; a and b trade, new was never resumed."""
    settings, begin = world
    with begin() as database:
        for name in ("a", "b", "new"):
            create_wallet(database, settings, NOON, name, "test", ["AAA/USDT"], 100.0)
        for name in ("a", "b"):
            issue_command(database, NOON, name, "resume", "a test", "test")
        yield database


@pytest.fixture
def command(settings: Settings, database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    return borrow(monkeypatch, settings, database, tmp_path, main)


def mandates(database: Database) -> dict[str, str]:
    rows = database.fetch("SELECT name, mandate_of(id, %(now)s) AS mandate FROM wallets", {"now": later(60)})
    return {row["name"]: row["mandate"] for row in rows}


def stopped_by_risk(database: Database, name: str) -> None:
    (wallet,) = database.fetch("SELECT id FROM wallets WHERE name = %(name)s", {"name": name})
    event = {"wallet_id": wallet["id"], "kind": "stop", "rule": "drawdown", "as_of": NOON, "because": "20 % down",
             "recorded_at": NOON}  # fmt: skip
    insert(database.connection, "risk_events", event)


@pytest.mark.parametrize(
    ("words", "mandate"),
    [(["pause"], "pause"), (["kill"], "kill"), (["kill", "--flatten"], "flatten"), (["halt"], "halt")],
)
def test_a_stop_is_a_file_and_a_row(
    database: Database, command: Command, tmp_path: Path, words: list[str], mandate: str,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    assert command(words[0], "a", *words[1:], "--reason", "the venue is down") == 0
    assert (file_mandate(tmp_path, "a"), file_mandate(tmp_path, "b")) == (mandate, None)
    assert f"{mandate} for a: " in capsys.readouterr().out
    assert mandates(database) == {"a": mandate, "b": "trade", "new": "pause"}
    assert tuple(database.fetch(COMMANDS)[-1].values()) == ("a", mandate, "the venue is down", operator_name())


def test_a_stop_for_all_stops_all_and_needs_no_reason(database: Database, command: Command, tmp_path: Path) -> None:
    assert command("kill", "--all", "--reason", " ") == 0
    assert (tmp_path / "KILL").exists()
    assert set(mandates(database).values()) == {"kill"}
    assert tuple(database.fetch(COMMANDS)[-1].values()) == (None, "kill", "operator's wish", operator_name())


def test_a_milder_stop_does_not_weaken_a_stricter_one(database: Database, command: Command, tmp_path: Path) -> None:
    assert command("halt", "a") == 0
    assert command("pause", "a") == 0
    assert (file_mandate(tmp_path, "a"), mandates(database)["a"]) == ("halt", "halt")


@pytest.mark.parametrize("words", [["kill"], ["kill", "a", "--all"], ["resume"], ["resume", "a", "--all"]])
def test_a_command_is_for_one_wallet_or_for_all(
    database: Database, command: Command, tmp_path: Path, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(*words) == 2
    assert f"{words[0]} which wallet? WALLET=… or ALL=1" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_wallet_that_is_not_there_leaves_no_file_unless_it_had_one(
    database: Database, command: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("kill", "mian") == 2
    told = capsys.readouterr()
    assert "there is no wallet 'mian'" in told.err
    assert "stands" not in told.err
    assert told.out == "", "nothing is said to be stopped"
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "KILL.mian").touch()
    assert command("kill", "mian") == 2
    assert (tmp_path / "KILL.mian").exists()
    assert command("kill", "../a") == 2
    assert "a wallet is named in a-z" in capsys.readouterr().err


def test_kill_works_without_a_database(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    gone = load_settings(home=tmp_path, db_host="127.0.0.1", db_port=1)
    monkeypatch.setattr("shared.job.load_settings", lambda: gone)
    monkeypatch.setenv("SEXTANT_HOME", str(tmp_path))
    assert main(["kill", "main", "--flatten", "--reason", "now"]) == 1
    assert file_mandate(tmp_path, "main") == "flatten"
    told = capsys.readouterr()
    assert "flatten for main" in told.out
    assert "cannot connect to PostgreSQL" in told.err
    assert f"the stop is not in the database. {tmp_path / 'KILL.main'} stands" in told.err


def test_kill_works_with_settings_that_are_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SEXTANT_HOME", str(tmp_path))
    monkeypatch.setenv("SEXTANT_TYPO", "1")
    with pytest.raises(SettingsError):
        load_settings()
    assert main(["kill", "--all"]) == 2
    assert file_mandate(tmp_path, "main") == "kill"
    told = capsys.readouterr().err
    assert "unknown setting SEXTANT_TYPO" in told
    assert "KILL stands" in told


def test_a_home_that_is_not_known_says_how_to_stop(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken() -> None:
        raise ValueError("no TOML")

    monkeypatch.setattr(stopping, "HomeSettings", broken)
    assert main(["kill", "--all"]) == 2
    assert "make an empty file KILL in it by hand" in capsys.readouterr().err


def test_the_row_is_written_where_the_file_cannot_be(
    database: Database, command: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "KILL").mkdir()
    assert command("halt", "--all") == 1
    assert "could not be written" in capsys.readouterr().err
    assert set(mandates(database).values()) == {"halt"}


def test_a_resume_lifts_row_and_file_and_takes_a_reason(
    database: Database, command: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("kill", "a", "--reason", "odd fills") == 0
    assert command("resume", "a") == 2
    told = capsys.readouterr().err
    assert "say why (REASON=…): a was stopped by kill: odd fills; KILL.a: kill: odd fills" in told
    assert (mandates(database)["a"], file_mandate(tmp_path, "a")) == ("kill", "kill")
    assert command("resume", "a", "--reason", "it was the feed") == 0
    assert (mandates(database)["a"], file_mandate(tmp_path, "a")) == ("trade", None)


def test_who_was_never_stopped_needs_no_reason(database: Database, command: Command) -> None:
    assert command("resume", "new") == 0
    assert mandates(database)["new"] == "trade"
    assert database.fetch(COMMANDS)[-1]["reason"] == "operator's wish"


@pytest.mark.parametrize("by", ["risk", "file", "all", "command"])
def test_whatever_stopped_a_wallet_its_resume_takes_a_reason(database: Database, tmp_path: Path, by: str) -> None:
    if by == "risk":
        stopped_by_risk(database, "a")
    elif by == "file":
        (tmp_path / "KILL.a").touch()
    else:
        issue_command(database, NOON, None if by == "all" else "a", "kill", "a storm", "test")
    causes = {"risk": "drawdown: 20 % down", "file": "KILL.a: kill", "all": "kill for all: a", "command": "kill: a"}
    cause = causes[by]
    with pytest.raises(UsageError, match=f"say why.*a was stopped by {cause}"):
        resume(database, tmp_path, later(1), "a", "", "test")
    assert resume(database, tmp_path, later(1), "a", "looked into", "test")
    assert mandates(database)["a"] == "trade"
    assert not (tmp_path / "KILL.a").exists()
    assert resume(database, tmp_path, later(2), "a", "", "test"), "nothing stopped it since"


def test_one_wallet_is_not_resumed_while_the_file_stops_all(database: Database, tmp_path: Path) -> None:
    write_stop(tmp_path, None, "kill", "a storm", "cli:anna", NOON)
    with pytest.raises(UsageError, match=r"all wallets are stopped by .*KILL \(kill: a storm .*`make resume ALL=1"):
        resume(database, tmp_path, later(1), "a", "but this one", "test")
    assert len(database.fetch(COMMANDS)) == 2
    with pytest.raises(UsageError, match="there is no wallet 'x'"):
        resume(database, tmp_path / "elsewhere", later(1), "x", "a test", "test")


def test_an_old_resume_told_again_lifts_nothing(database: Database, tmp_path: Path) -> None:
    assert resume(database, tmp_path, later(1), "a", "a test", "test", "key-1")
    write_stop(tmp_path, "a", "halt", "later", "cli:anna", later(2))
    assert not resume(database, tmp_path, later(3), "a", "a test", "test", "key-1")
    assert file_mandate(tmp_path, "a") == "halt"


@pytest.mark.parametrize("wallet", ["a", None])
def test_a_stop_that_comes_in_during_a_resume_stands(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wallet: str | None
) -> None:
    write_stop(tmp_path, wallet, "pause", "first", "cli:anna", NOON)

    def and_then_halt(*arguments: object) -> bool:
        write_stop(tmp_path, wallet, "halt", "second", "cli:ben", NOON)
        return issue_command(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(stopping, "issue_command", and_then_halt)
    with pytest.raises(SextantError, match=r"another stop came in meanwhile .*halt: second.*look, and say it again"):
        if wallet is None:
            resume_all(database, tmp_path, later(1), "a test", "test")
        else:
            resume(database, tmp_path, later(1), wallet, "a test", "test")
    assert file_mandate(tmp_path, "a") == "halt"


def test_a_stop_of_a_fast_clock_is_seen_and_one_of_the_future_holds_now(
    database: Database, command: Command, tmp_path: Path
) -> None:
    issue_command(database, later(5), "a", "kill", "a machine five minutes ahead", "test")
    with pytest.raises(UsageError, match="a machine five minutes ahead"):
        resume(database, tmp_path, later(1), "a", "", "test")
    assert command("kill", "b", "--at", "2099-01-01") == 0
    (issued,) = database.fetch("SELECT issued_at FROM commands ORDER BY id DESC LIMIT 1")
    assert issued["issued_at"] <= SystemClock().now()


def test_nobody_resumes_at_another_time(
    database: Database, command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    """What came in since would be lifted though nobody looked at it."""
    issue_command(database, NOON, "a", "halt", "just now", "test")
    assert command("resume", "a", "--reason", "a test", "--at", "2024-05-01") == 2
    assert "a wallet is resumed now" in capsys.readouterr().err
    assert mandates(database)["a"] == "halt"


def test_resuming_all_lifts_what_was_said_for_all_and_that_alone(
    database: Database, settings: Settings, command: Command, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    for name in ("risky", "filed"):
        create_wallet(database, settings, NOON, name, "test", ["AAA/USDT"], 100.0)
        issue_command(database, NOON, name, "resume", "a test", "test")
    stopped_by_risk(database, "risky")
    (tmp_path / "KILL.filed").touch()
    assert command("kill", "b", "--reason", "odd fills") == 0
    assert command("halt", "--all", "--reason", "a storm") == 0
    assert command("resume", "--all") == 2
    assert "say why" in capsys.readouterr().err
    assert command("resume", "--all", "--reason", "it is over") == 0
    assert not (tmp_path / "KILL").exists()
    assert mandates(database) == {"a": "trade", "b": "halt", "new": "halt", "risky": "halt", "filed": "halt"}
    said = capsys.readouterr().out
    assert "new stays stopped: it was never resumed; `make resume WALLET=new REASON=…`" in said
    assert "b stays stopped: kill: odd fills; KILL.b: kill: odd fills" in said
    assert "risky stays stopped: drawdown: 20 % down" in said
    assert "filed stays stopped: KILL.filed: kill" in said
    assert "a stays" not in said
    assert command("resume", "b", "--reason", "explained") == 0
    assert mandates(database)["b"] == "trade"


def test_a_file_made_by_hand_is_lifted_for_all_and_written_down(database: Database, tmp_path: Path) -> None:
    (tmp_path / "KILL").touch()
    assert resume_all(database, tmp_path, later(1), "a test", "test") == (["a", "b"], {"new": "it was never resumed"})
    assert [row["name"] for row in database.fetch(COMMANDS)][2:] == ["a", "b"]
    with pytest.raises(UsageError, match="nothing stops all wallets"):
        resume_all(database, tmp_path, later(2), "a test", "test")


def test_who_was_resumed_since_all_were_stopped_is_not_resumed_again(database: Database, tmp_path: Path) -> None:
    issue_command(database, NOON, None, "kill", "a storm", "test")
    assert resume(database, tmp_path, later(1), "a", "not this one", "test")
    assert resume_all(database, tmp_path, later(2), "it is over", "test")[0] == ["b"]
    assert len(database.fetch(COMMANDS)) == 5


def test_a_wallets_state_names_the_strictest_and_every_cause(database: Database, tmp_path: Path) -> None:
    def state(name: str) -> str:
        rows = database.fetch(load_queries("operator")["wallet_stops"], {"now": later(60)})
        return next(stopping.wallet_state(tmp_path, row) for row in rows if row["name"] == name)

    assert state("a") == "trades"
    assert state("new") == "pause: no entries from now on (never resumed)"
    stopped_by_risk(database, "b")
    assert state("b") == "entries stopped by risk: drawdown: 20 % down"
    issue_command(database, NOON, "a", "pause", "lunch", "test")
    issue_command(database, NOON, None, "kill", "a storm", "test")
    (tmp_path / "KILL").write_text("halt")
    told = "halt: nothing is sent at all, exits neither (pause: lunch; kill for all: a storm; KILL: halt)"
    assert state("a") == told
    assert content_of(kill_path(tmp_path, "a")) is None
