"""Going live: each item of the checklist at its boundary; all pass, or the wallet does not trade and a row says why."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from psycopg.types.json import Json

from pipeline.alert_channels import Channel
from pipeline.funding import adopt
from pipeline.go_live import go_live, main
from pipeline.go_live_checks import Check, key_rights_seen
from pipeline.wallets import change_limits
from shared.clock import ReplayClock
from shared.db import Database
from shared.job import UsageError
from shared.settings import PROJECT, Settings
from tests.helpers import NOON, DatabaseFor
from tests.pipeline.live_wallet import A, Command, LiveWallet, Undone, borrow, file_text, undone
from tests.shared.spine_rows import insert, rows

NOW = NOON + timedelta(minutes=1)
MINUTE, HOUR, DAY, TICK = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1), timedelta(microseconds=1)
CHANNEL = Channel("json-0123abcd", "info", "json://127.0.0.1:9")
TOOK_IT = Json({"channels": {CHANNEL.name: "delivered"}})
NAMES = ["mode", "confirmed", "model", "limits", "capital", "reconciled", "clock", "key", "data directory", "backup",
         "alerts"]  # fmt: skip


class Candidate(LiveWallet):
    """A wallet that lacks nothing; each test takes one thing away. Of every kind of row the newest is the one."""

    def __init__(self, database_for: DatabaseFor, settings: Settings, home: Path, provenance: str = "real") -> None:
        super().__init__(database_for, settings, provenance)
        self.home, self.environ = home, {"LIVE_CONFIRM": "main"}
        self.find("USDT", "5000")
        adopt(self.cli, NOON, "main", "USDT", Decimal("1000.5"))
        self.promote()
        self.say("reconciliations", wallet_id=self.id)
        self.say("key_checks", wallet_id=self.id)
        self.say("venue_checks")
        self.say("operator_checks", kind="backup")
        self.channels = [CHANNEL.name]
        self.say("operator_checks", kind="alert-test", details=TOOK_IT)

    WRITERS = {"venue_checks": "candles", "reconciliations": "sender", "key_checks": "sender", "operator_checks": "cli"}  # noqa: RUF012

    def say(self, table: str, at: datetime = NOW, **changes: Any) -> None:
        """One more row of ``table``, as its writer writes it."""
        row = rows(1)[table] | {"recorded_at": at} | changes
        insert(self.database_for(self.WRITERS[table]).connection, table, row)

    def promote(self) -> None:
        """A policy that an evaluation and canaries vouch for, in use."""
        owner, told = self.database_for("owner"), rows(1)
        encoder = self.insert(owner, "models", told["models"] | {"status": "active"})
        policy = rows(2)["models"] | {"kind": "policy", "encoder_id": encoder, "status": "active"}
        promotion = {
            "model_id": self.insert(owner, "models", policy),
            "evaluation_id": self.insert(owner, "evaluations", told["evaluations"]),
            "canary_run_id": self.insert(owner, "canary_runs", told["canary_runs"]),
        }
        insert(owner.connection, "promotions", told["promotions"] | promotion)

    def insert(self, owner: Database, table: str, row: dict[str, Any]) -> int:
        insert(owner.connection, table, row)
        made = owner.fetch_one(f"SELECT max(id) AS id FROM {table}")
        assert made is not None
        return int(made["id"])

    def look(self, dry_run: bool = False) -> dict[str, Check]:
        checks = go_live(self.cli, self.home, NOW, "main", self.environ, "a test", dry_run, self.channels)
        return {check.name: check for check in checks}

    def missing(self) -> dict[str, str]:
        """What does not pass, with what was seen; nothing is written."""
        return {name: check.seen for name, check in self.look(dry_run=True).items() if not check.passed}

    def grant(self) -> dict[str, Any]:
        return self.rows("SELECT * FROM live_grants ORDER BY id")[-1]


@pytest.fixture(scope="module")
def world(home: Path) -> Iterator[Undone]:
    with undone(home, "golive") as made:
        yield made


@pytest.fixture
def database(world: Undone) -> Iterator[Database]:
    with world[1]() as database:
        yield database


@pytest.fixture
def make(world: Undone, database: Database, tmp_path: Path) -> Callable[..., Candidate]:
    return lambda **changes: Candidate(lambda _layer: database, world[0], tmp_path, **changes)


@pytest.fixture
def ready(make: Callable[..., Candidate]) -> Candidate:
    return make()


@pytest.fixture
def command(world: Undone, ready: Candidate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    settings = world[0].model_copy(update={"home": tmp_path})
    given = borrow(monkeypatch, settings, ready.cli, tmp_path, main)
    monkeypatch.setattr("pipeline.go_live.open_channels", lambda _settings: (CHANNEL,))
    monkeypatch.setenv("LIVE_CONFIRM", "main")
    return given


def test_a_wallet_that_lacks_nothing_is_let_live_with_its_equity_as_capital(ready: Candidate) -> None:
    checks = ready.look()
    assert list(checks) == NAMES
    assert all(check.passed for check in checks.values())
    grant = ready.grant()
    assert (grant["granted"], grant["capital"], grant["recorded_at"]) == (True, Decimal("1000.5"), NOW)
    assert grant["reason"] == "a test"
    assert grant["checks"] == [{"name": c.name, "passed": True, "seen": c.seen} for c in checks.values()]


def test_one_thing_missing_revokes_and_says_which(ready: Candidate) -> None:
    ready.look()
    ready.environ = {}
    assert not ready.look()["confirmed"].passed
    grant = ready.grant()
    assert (grant["granted"], grant["reason"]) == (False, "a test; missing: confirmed")
    assert [check["passed"] for check in grant["checks"]] == [name != "confirmed" for name in NAMES]
    ready.environ = {"LIVE_CONFIRM": "main"}
    ready.look()
    assert ready.grant()["granted"]


def test_a_dry_run_writes_nothing(ready: Candidate) -> None:
    assert all(check.passed for check in ready.look(dry_run=True).values())
    assert ready.rows("SELECT FROM live_grants") == []


def test_a_wallet_that_is_not_there_is_refused(ready: Candidate) -> None:
    with pytest.raises(UsageError, match="there is no wallet 'x'"):
        go_live(ready.cli, ready.home, NOW, "x", {}, "a test")


@pytest.mark.parametrize("said", ["", "Main", "main ", "1", "yes"])
def test_only_the_wallets_own_name_confirms(ready: Candidate, said: str) -> None:
    ready.environ = {"LIVE_CONFIRM": said}
    assert ready.missing() == {"confirmed": "LIVE_CONFIRM does not name this wallet"}


def test_a_paper_wallet_never_goes_live(ready: Candidate) -> None:
    ready.cli.execute("ALTER TABLE wallets DISABLE TRIGGER wallet_mode_is_immutable")
    ready.cli.execute("UPDATE wallets SET mode = 'paper'")
    assert ready.missing() == {"mode": "a paper wallet"}


@pytest.mark.parametrize(
    ("spoil", "seen"),
    [
        ("DELETE FROM promotions", "was never promoted"),
        ("UPDATE models SET provenance = 'simulated' WHERE kind = 'policy'", "learnt from SIMULATED candles"),
        ("UPDATE models SET status = 'candidate' WHERE kind = 'policy'", "no policy is active"),
        ("UPDATE instruments SET symbol = 'OLD/USDT' WHERE symbol = 'AAA/USDT'", "no candles of AAA/USDT on test"),
    ],
)
def test_the_policy_in_use_is_promoted_and_of_real_candles(ready: Candidate, spoil: str, seen: str) -> None:
    ready.cli.execute(spoil)
    missing = ready.missing()
    assert list(missing) == ["model"]
    assert seen in missing["model"]


def test_on_a_simulated_market_any_policy_will_do_and_it_is_said(make: Callable[..., Candidate]) -> None:
    rehearsal = make(provenance="simulated")
    rehearsal.cli.execute("DELETE FROM promotions")
    check = rehearsal.look()["model"]
    assert check.passed
    assert "the market is SIMULATED" in check.seen
    rehearsal.cli.execute("UPDATE instruments SET provenance = 'real' WHERE symbol = 'BBB/USDT'")
    assert list(rehearsal.missing()) == ["model"], "one real instrument makes it real"


@pytest.mark.parametrize("limit", ["max_day_notional", "max_position_notional"])
def test_every_limit_is_set(ready: Candidate, limit: str) -> None:
    ready.cli.execute(f"UPDATE limits SET {limit} = NULL")
    check = ready.look()["limits"]
    assert not check.passed
    assert f"no {limit}" in check.seen
    assert f"`make limits WALLET=main {limit.upper()}=…`" in check.todo
    change_limits(ready.cli, NOW, "main", {limit: "100"})
    assert ready.missing() == {}


def test_it_manages_money_and_is_told_how_much_it_begins_with(ready: Candidate) -> None:
    assert ready.look()["capital"].seen == "1,000.50 USDT managed; 2% of it in the first 14 live days"
    change_limits(ready.cli, NOW, "main", {"ramp_days": "0"})
    assert ready.look()["capital"].seen == "1,000.50 USDT managed"
    ready.cli.execute("DELETE FROM cash_flows WHERE managed")
    assert ready.missing() == {"capital": "0.00 USDT managed"}


def test_a_coin_of_its_own_is_capital(ready: Candidate) -> None:
    ready.cli.execute("DELETE FROM cash_flows WHERE managed")
    ready.find("AAA", "2")
    worth = adopt(ready.cli, NOON, "main", "AAA", Decimal(2))
    ready.look()
    assert (ready.grant()["granted"], ready.grant()["capital"]) == (True, worth)


AGES = [
    ("reconciliations", "reconciled", HOUR),
    ("venue_checks", "clock", 15 * MINUTE),
    ("key_checks", "key", 2 * HOUR),
    ("backup", "backup", 24 * HOUR),
    ("alert-test", "alerts", 7 * DAY),
]


@pytest.mark.parametrize(("table", "name", "within"), AGES)
def test_what_was_seen_too_long_ago_or_in_the_future_does_not_count(
    ready: Candidate, table: str, name: str, within: timedelta
) -> None:
    """To the microsecond; a minute of the future is another machine's clock."""
    kind = table if table in ("backup", "alert-test") else None
    stored = "operator_checks" if kind else table
    for age, passes in ((within, True), (within + TICK, False), (-MINUTE, True), (-MINUTE - TICK, False)):
        where = "WHERE kind = %(kind)s" if kind else ""
        ready.cli.execute(f"UPDATE {stored} SET recorded_at = %(at)s {where}", {"at": NOW - age, "kind": kind})
        assert list(ready.missing()) == ([] if passes else [name]), age


@pytest.mark.parametrize(("table", "name", "within"), AGES)
def test_what_was_never_looked_at_does_not_pass(ready: Candidate, table: str, name: str, within: timedelta) -> None:
    stored = f"operator_checks WHERE kind = '{table}'" if table in ("backup", "alert-test") else table
    ready.cli.execute(f"DELETE FROM {stored}")
    assert list(ready.missing()) == [name]


@pytest.mark.parametrize(
    ("table", "changes", "name", "seen"),
    [
        ("reconciliations", {"unmatched": 1}, "reconciled", "1 unmatched"),
        ("venue_checks", {"clock_skew_s": 5.0000001}, "clock", "+5.0 s from test's"),
        ("venue_checks", {"clock_skew_s": -5.1}, "clock", "-5.1 s from test's"),
        ("venue_checks", {"clock_skew_s": None}, "clock", "is not known"),
        ("venue_checks", {"clock_skew_s": float("nan")}, "clock", "nan"),
        ("key_checks", {"withdraw": True}, "key", "may WITHDRAW"),
        ("key_checks", {"trade": False}, "key", "may not trade"),
        ("key_checks", {"nonce_window": 1}, "key", "has a nonce window of 1"),
        ("operator_checks", {"kind": "backup", "passed": False}, "backup", "the last backup FAILED"),
        ("operator_checks", {"kind": "restore-test", "passed": False}, "backup", "but a restore-test FAILED at"),
        ("operator_checks", {"kind": "alert-test", "passed": False}, "alerts", "the last alert-test FAILED"),
    ],
)
def test_the_newest_finding_counts(ready: Candidate, table: str, changes: dict[str, Any], name: str, seen: str) -> None:
    own: dict[str, Any] = {"wallet_id": ready.id} if table in ("reconciliations", "key_checks") else {}
    ready.say(table, **own, **changes)
    missing = ready.missing()
    assert list(missing) == [name]
    assert seen in missing[name]


@pytest.mark.parametrize(
    ("table", "changes"),
    [
        ("venue_checks", {"clock_skew_s": 5.0}),
        ("venue_checks", {"clock_skew_s": -5.0}),
        ("venue_checks", {"clock_skew_s": 900.0, "venue": "another"}),
        ("reconciliations", {"unmatched": 3, "wallet_id": "another"}),
        ("key_checks", {"withdraw": True, "wallet_id": "another"}),
    ],
)
def test_what_is_at_the_limit_or_of_another_passes(ready: Candidate, table: str, changes: dict[str, Any]) -> None:
    if changes.get("wallet_id") == "another":
        insert(ready.cli.connection, "wallets", rows(1)["wallets"] | {"name": "another"})
        changes = changes | {"wallet_id": ready.one("SELECT id FROM wallets WHERE name = 'another'")["id"]}
    ready.say(table, **changes)
    assert ready.missing() == {}


def test_what_a_venue_does_not_tell_of_a_key_passes_with_a_warning(ready: Candidate) -> None:
    ready.say("key_checks", wallet_id=ready.id, withdraw=None, trade=None, nonce_window=None, ip_restricted=False)
    check = ready.look()["key"]
    assert check.passed
    assert "WARNING: the venue does not tell whether it may withdraw" in check.seen
    assert "WARNING: the venue does not tell whether it may trade" in check.seen
    assert "WARNING: it works from any address" in check.seen
    seen = key_rights_seen(ready.cli, ready.id)
    assert seen is not None
    assert (seen["withdraw"], seen["ip_restricted"]) == (None, False)
    assert key_rights_seen(ready.cli, -1) is None


@pytest.mark.parametrize(
    ("now", "seen"), [([], "ALERT_URLS names no channel now"), ([CHANNEL.name, "tgram-1"], "tgram-1 did not take part")]
)
def test_the_channels_of_now_are_those_that_took_the_test(ready: Candidate, now: list[str], seen: str) -> None:
    ready.channels = now
    missing = ready.missing()
    assert list(missing) == ["alerts"]
    assert seen in missing["alerts"]


def test_old_findings_are_not_made_fresh_by_going_back_in_time(
    command: Command, ready: Candidate, capsys: pytest.CaptureFixture[str]
) -> None:
    """With --at a dead sender's last look, and a backup of last month, would be recent; and the ramp would be over."""
    assert command("main", "--at", NOON.isoformat()) == 2
    assert "--at" in capsys.readouterr().err
    assert ready.rows("SELECT FROM live_grants") == []
    assert command("main", "--at", NOON.isoformat(), "--dry-run") == 0


def test_the_data_lie_outside_every_checkout(ready: Candidate, tmp_path: Path) -> None:
    for home, inside in ((PROJECT / ".data", PROJECT), (PROJECT, PROJECT)):
        ready.home = home
        assert ready.missing() == {"data directory": f"{home} lies in the checkout {inside}"}
    clone, worktree = tmp_path / "clone", tmp_path / "worktree"
    (clone / ".git").mkdir(parents=True)
    worktree.mkdir()
    (worktree / ".git").write_text("gitdir: elsewhere\n")  # a worktree's, a submodule's
    (clone / "a").mkdir()
    (tmp_path / "link").symlink_to(clone / "a")
    for home in (clone, clone / "a" / "b", worktree / "data", tmp_path / "link" / "data"):
        ready.home = home
        assert list(ready.missing()) == ["data directory"], home
    ready.home = tmp_path / "beside"
    assert ready.missing() == {}


def test_the_command_prints_the_checklist_and_lets_live(
    command: Command, ready: Candidate, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("main", "--dry-run") == 0
    assert ready.rows("SELECT FROM live_grants") == []
    assert command("main", "--reason", "all is well") == 0
    said = capsys.readouterr()
    assert said.out.count("[pass]") == 2 * len(NAMES)
    assert "make resume WALLET=main" in said.err
    assert (ready.grant()["granted"], ready.grant()["reason"]) == (True, "all is well")


def test_the_command_says_what_to_do_and_exits_1(
    command: Command, ready: Candidate, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("LIVE_CONFIRM")
    ready.say("operator_checks", kind="backup", passed=False)
    assert command("main", "--dry-run") == 1
    assert ready.rows("SELECT FROM live_grants") == []
    assert command("main") == 1
    assert not ready.grant()["granted"]
    said = capsys.readouterr()
    assert "[FAIL] confirmed: LIVE_CONFIRM does not name this wallet\n       LIVE_CONFIRM=main make go-live" in said.out
    assert "[FAIL] backup: the last backup FAILED" in said.out
    assert "wallet main may not trade live: confirmed, backup" in said.err
    assert command("main", "--reason", " ") == 2
    assert command("x") == 2


def test_going_live_adopts_the_managed_capital_of_the_file_once(
    command: Command, ready: Candidate, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ready.cli.execute("DELETE FROM cash_flows WHERE kind = 'adoption'")
    (tmp_path / "wallets.json").write_text(file_text(managed_capital=6000))
    assert command("main") == 1
    assert "6000 USDT are more than the 5000 that lie" in capsys.readouterr().out
    (tmp_path / "wallets.json").write_text(file_text(managed_capital=2000))
    assert command("main", "--dry-run") == 1, "a dry run adopts nothing"
    assert [command("main"), command("main")] == [0, 0]
    assert capsys.readouterr().out.count("2000 USDT of its account are managed from now on") == 1
    assert ready.grant()["capital"] == 2000
    (tmp_path / "wallets.json").write_text(file_text(name="other"))
    assert command("main") == 0
    (tmp_path / "wallets.json").write_text("{")
    assert command("main") == 1
    assert "not valid JSON" in capsys.readouterr().err


def test_each_role_may_do_its_part(
    database_for: DatabaseFor, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once with every role's own rights: the wallet, its limits, the adoption, the checklist, the grant."""
    ready = Candidate(database_for, settings, tmp_path)
    change_limits(ready.cli, NOW, "main", {"symbols": [A]})
    assert ready.missing() == {}
    monkeypatch.setattr("shared.job.load_settings", lambda: settings.model_copy(update={"home": tmp_path}))
    monkeypatch.setattr("shared.job.open_database", lambda _settings, layer: ready.database_for(layer))
    monkeypatch.setattr("shared.wallets_file.WALLETS_FILE", tmp_path / "none.json")
    monkeypatch.setenv("LIVE_CONFIRM", "main")
    monkeypatch.setattr("shared.job.open_clock", lambda _url: ReplayClock(NOW))
    monkeypatch.setattr("pipeline.go_live.open_channels", lambda _settings: (CHANNEL,))
    assert main(["main"]) == 0
    assert ready.grant()["granted"]
