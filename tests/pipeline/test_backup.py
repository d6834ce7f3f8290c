"""A backup is whole, private and proven; a restore changes all or nothing, and lets nobody trade unasked."""

from __future__ import annotations

import hashlib
import stat
import subprocess
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import pipeline.dumps
import pipeline.restore
from pipeline.backup import forget_old, kept, make_backup, run_once
from pipeline.dumps import contents_of, live_name, maintenance, owner_connection, verified
from pipeline.operator import create_wallet, issue_command
from pipeline.restore import main, restore
from shared.clock import ReplayClock
from shared.db import Database, connect, drop_database, embedded_server, role_url
from shared.job import JobError, Outcome
from shared.settings import Settings
from tests.helpers import NOON, DatabaseFor, random_candles, store_candles

DAY = timedelta(days=1)
HOUR = timedelta(hours=1)


@pytest.fixture
def lived_in(settings: Settings, database_for: DatabaseFor) -> Iterator[Settings]:
    """A database with candles, a paper wallet that was resumed, a sender's epoch; nobody connected."""
    store_candles(database_for, "test", "AAA/USDT", 300, random_candles(50, 300))
    cli, owner = database_for("cli"), database_for("owner")
    create_wallet(cli, settings, NOON, "w", "test", ["AAA/USDT"], 1000.0)
    for minute, command in ((1, "pause"), (2, "resume")):
        issue_command(cli, NOON + timedelta(minutes=minute), "w", command, "a test", "test")
    owner.execute(
        "INSERT INTO sender_sessions (wallet_id, epoch, nonce, holder, started_at) VALUES (1, 7, 1, 'h', now())"
    )
    for layer in ("cli", "owner", "candles"):
        database_for(layer).close()
    yield settings
    with maintenance(settings) as admin:  # what a restore put aside would stay on the session's server
        for name in names(settings) - {live_name(settings)}:
            drop_database(admin, name)


def names(settings: Settings) -> set[str]:
    """This test's database and those beside it."""
    with maintenance(settings) as admin:
        found = admin.execute("SELECT datname FROM pg_database WHERE starts_with(datname, %s)", (live_name(settings),))
        return {name for (name,) in found.fetchall()}


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def checks(database: Database) -> list[tuple[Any, ...]]:
    rows = database.fetch("SELECT kind, passed, details FROM operator_checks ORDER BY id")
    return [(row["kind"], row["passed"], row["details"]) for row in rows]


# ── backup ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_backup_is_a_private_file_with_its_checksum_and_is_proven(
    lived_in: Settings, database_for: DatabaseFor, tmp_path: Path
) -> None:
    folder = tmp_path / "backups"
    folder.mkdir(0o700)
    (folder / ".20240101T000000Z.dump.partial").touch()  # a killed run's
    outcome = run_once(ReplayClock(NOON), database_for("cli"), lived_in, folder)
    dump, checksum = folder / "20240601T120000Z.dump", folder / "20240601T120000Z.dump.sha256"
    assert sorted(folder.iterdir()) == [dump, checksum]
    assert (mode(dump), mode(checksum), dump.read_bytes()[:5]) == (0o600, 0o600, b"PGDMP")
    digest = hashlib.sha256(dump.read_bytes()).hexdigest()
    assert checksum.read_text() == f"{digest}  {dump.name}\n"  # as `sha256sum -c` reads it
    assert verified(lived_in, dump) == digest
    (kind, passed, details), (tested, proven, found) = checks(database_for("cli"))
    assert (kind, passed, details["file"], details["bytes"]) == ("backup", True, str(dump), dump.stat().st_size)
    assert (tested, proven, found["rows"]) == ("restore-test", True, details["rows"])
    assert details["rows"] > 50
    assert outcome == Outcome("done", details | {"forgotten": 0})
    assert names(lived_in) == {live_name(lived_in)}, "the database of the restore test is gone"


def test_the_dump_and_what_is_said_of_it_are_of_one_moment(
    lived_in: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The jobs go on while a dump is made."""
    run = pipeline.dumps.run_program

    def busy(settings: Settings, name: str, arguments: Any, database: str | None = None) -> None:
        with owner_connection(settings, live_name(settings)) as other:
            other.execute("DELETE FROM market_data WHERE as_of = (SELECT max(as_of) FROM market_data)")
        run(settings, name, arguments, database)

    with monkeypatch.context() as patch:
        patch.setattr(pipeline.dumps, "run_program", busy)
        file, contents = make_backup(lived_in, tmp_path, NOON)
    assert contents.counts["market_data"] == 50
    with owner_connection(lived_in, live_name(lived_in)) as owner:
        assert contents_of(owner).counts["market_data"] == 49
    pipeline.backup.try_restore(lived_in, file, contents)


DAMAGES = {
    "DELETE FROM cash_flows": "cash_flows has 0 rows, not 1",
    "CREATE TABLE t ()": "t has 0 rows, not None",
    "GRANT UPDATE ON limits TO sextant_policy": "only there: limits: UPDATE to sextant_policy",
    "REVOKE SELECT ON fills FROM sextant_sender": "not: fills: SELECT to sextant_sender",
    "GRANT UPDATE (reason) ON commands TO sextant_policy": "only there: commands.reason: UPDATE to sextant_policy",
    "ALTER TABLE models DISABLE ROW LEVEL SECURITY": "not: models: rows are secured",
    "DROP POLICY own_insert ON alerts": "not: alerts: policy own_insert to {public}, PERMISSIVE INSERT",
    "GRANT EXECUTE ON FUNCTION mandate_of TO PUBLIC": "EXECUTE to PUBLIC",
    "GRANT CREATE ON SCHEMA public TO sextant_cli": "only there: schema public: CREATE to sextant_cli",
}


def test_every_difference_between_two_databases_is_seen(lived_in: Settings) -> None:
    with owner_connection(lived_in, live_name(lived_in)) as owner:
        before = contents_of(owner)
        for damage, cause in DAMAGES.items():
            with owner.transaction(force_rollback=True):
                owner.execute(damage)
                assert cause in before.difference(contents_of(owner))
        assert before.difference(contents_of(owner)) == ""


def test_a_dump_that_restores_to_something_else_is_no_backup(
    lived_in: Settings, database_for: DatabaseFor, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def load(settings: Settings, file: Path, database: str) -> None:
        original(settings, file, database)
        with owner_connection(settings, database) as copy:
            copy.execute("DELETE FROM cash_flows")

    original = pipeline.dumps.load_dump
    monkeypatch.setattr(pipeline.dumps, "load_dump", load)
    old = tmp_path / "20240101T000000Z.dump"
    old.touch()
    with pytest.raises(JobError, match="does not restore to what was dumped: cash_flows has 0 rows, not 1;"):
        run_once(ReplayClock(NOON), database_for("cli"), lived_in, tmp_path, keep_days=1)
    assert [(kind, passed) for kind, passed, _ in checks(database_for("cli"))] == [
        ("backup", True), ("restore-test", False),
    ]  # fmt: skip
    assert old.exists(), "what is old is kept until what is new is proven"
    assert names(lived_in) == {live_name(lived_in)}


def test_a_backup_that_fails_says_so_and_leaves_nothing(
    lived_in: Settings, database_for: DatabaseFor, tmp_path: Path
) -> None:
    server = embedded_server(lived_in)
    with connect(server.url("postgres", server.superuser_password, live_name(lived_in))) as superuser:
        superuser.execute("CREATE TABLE not_the_owners ()")
    with pytest.raises(JobError, match=r"pg_dump failed \(exit 1\)[\s\S]*permission denied for table not_the_owners"):
        run_once(ReplayClock(NOON), database_for("cli"), lived_in, tmp_path / "b")
    assert list((tmp_path / "b").iterdir()) == []
    assert mode(tmp_path / "b") == 0o700
    ((kind, passed, details),) = checks(database_for("cli"))
    assert (kind, passed) == ("backup", False)
    assert "permission denied" in details["error"]
    (tmp_path / "file").touch()
    with pytest.raises(JobError, match=r"no backup was made: .*Not a directory.*look at the free space"):
        run_once(ReplayClock(NOON), database_for("cli"), lived_in, tmp_path / "file" / "b")


def test_no_password_is_in_the_arguments_of_a_program(
    lived_in: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    seen: list[str] = []
    run = subprocess.run

    def watch(command: list[Any], **kwargs: Any) -> Any:
        seen.extend(map(str, command))
        return run(command, **kwargs)

    monkeypatch.setattr(subprocess, "run", watch)
    make_backup(lived_in, tmp_path, NOON)
    secrets = [path.read_text().strip() for path in (lived_in.home_path / "secrets").iterdir()]
    assert any("dbname=" in argument for argument in seen)
    assert not any(secret in argument for secret in secrets for argument in seen)
    password_file = next(a for a in seen if "passfile=" in a).partition("passfile=")[2].split()[0]
    assert not Path(password_file).exists()


moments = st.datetimes(datetime(2024, 1, 1), datetime(2024, 3, 1)).map(  # noqa: DTZ001
    lambda at: f"{at:%Y%m%dT%H%M%SZ}.dump"
)


@given(st.lists(moments, unique=True, max_size=60), st.integers(1, 20))
def test_a_dump_of_each_of_the_newest_days_is_kept_and_all_of_the_last_two(dumps: list[str], days: int) -> None:
    now = datetime(2024, 3, 1, tzinfo=UTC)
    left = kept(dumps, days, now)
    assert left <= set(dumps)
    assert {name[:8] for name in left} >= set(sorted({name[:8] for name in dumps})[-days:])
    assert {name for name in dumps if name >= "20240228T000000Z.dump"[:16]} <= left
    old = [name for name in left if name < "20240228T000000Z"]
    assert len({name[:8] for name in old}) == len(old) <= days
    assert all(name == max(n for n in dumps if n[:8] == name[:8]) for name in old), "the newest of its day"
    assert kept(sorted(left), days, now) == left, "twice changes nothing"


def test_what_is_too_old_is_deleted_with_its_checksum_and_nothing_else(tmp_path: Path) -> None:
    names = [f"2024010{k}T000000Z.dump" for k in range(1, 6)] + ["20230101T000000Z.dump.txt", "notes"]
    for name in names:
        (tmp_path / name).touch()
        (tmp_path / f"{name}.sha256").touch()
    assert forget_old(tmp_path, 3, NOON) == 2
    assert {path.name for path in tmp_path.iterdir()} == {n for name in names[2:] for n in (name, f"{name}.sha256")}
    assert forget_old(tmp_path, 3, NOON) == 0


# ── restore ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def dump(lived_in: Settings, tmp_path: Path) -> Path:
    return make_backup(lived_in, tmp_path, NOON + HOUR)[0]


def at_home(settings: Settings) -> Any:
    with owner_connection(settings, live_name(settings)) as owner:
        return contents_of(owner)


def test_what_was_lost_is_there_again_with_every_right(lived_in: Settings, dump: Path) -> None:
    before = at_home(lived_in)
    with owner_connection(lived_in, live_name(lived_in)) as owner:
        owner.execute("TRUNCATE market_data, wallets CASCADE")
        owner.execute("DROP TABLE quarantine")
    done = restore(lived_in, dump, NOON + 2 * HOUR)
    after = at_home(lived_in)
    assert after.rights == before.rights
    assert after.counts == before.counts | {"commands": before.counts["commands"] + 1, "operator_checks": 1}
    assert done["before"] == f"{live_name(lived_in)}_before_20240601T140000Z"
    assert names(lived_in) == {live_name(lived_in), done["before"]}
    with owner_connection(lived_in, done["before"]) as old:
        assert old.execute("SELECT count(*) FROM market_data").fetchone() == (0,)
    policy = Database(role_url(lived_in, "policy"))
    assert policy.fetch("SELECT count(*) AS n FROM market_data") == [{"n": 50}]
    with pytest.raises(Exception, match="permission denied"):
        policy.execute("UPDATE limits SET max_orders_a_day = 1000")
    with pytest.raises(Exception, match="row-level security"):
        policy.execute(
            "INSERT INTO alerts (layer, severity, key, message, day, recorded_at) "
            "VALUES ('sender', 'info', 'k', 'm', now(), now())"
        )
    policy.close()


def test_a_restored_wallet_is_halted_until_its_operator_resumes_it(
    lived_in: Settings, database_for: DatabaseFor, tmp_path: Path
) -> None:
    now = NOON + 2 * HOUR
    cli = database_for("cli")
    issue_command(cli, now - HOUR / 2, "w", "resume", "not yet taken up", "test")
    issue_command(cli, now - HOUR / 2, "w", "pause", "stays", "test")
    issue_command(cli, now - HOUR / 3, "w", "resume", "not yet taken up", "test")
    cli.close()
    mandate = "SELECT mandate_of(1, %(at)s) AS mandate"
    assert cli.fetch(mandate, {"at": now}) == [{"mandate": "trade"}]
    cli.close()
    file, _ = make_backup(lived_in, tmp_path, now)
    done = restore(lived_in, file, now)
    assert cli.fetch(mandate, {"at": now}) == [{"mandate": "halt"}]
    rows = cli.fetch("SELECT command, voided_at, reason, wallet_id, issued_at FROM commands ORDER BY id")
    assert [(row["command"], row["voided_at"]) for row in rows] == [
        ("pause", None), ("resume", None), ("resume", now), ("pause", None), ("resume", now), ("halt", None),
    ]  # fmt: skip
    assert (rows[-1]["wallet_id"], rows[-1]["issued_at"]) == (None, now)
    assert rows[-1]["reason"] == "restored from backup: reconcile, then resume"
    ((kind, passed, details),) = checks(cli)
    assert (kind, passed, details["voided_commands"], details["file"]) == ("restore", True, 2, str(file))
    assert done == details
    assert cli.fetch("SELECT epoch > 1000 AS ahead FROM sender_sessions") == [{"ahead": True}]
    issue_command(cli, now + HOUR, "w", "resume", "reconciled", "test")
    assert cli.fetch(mandate, {"at": now + HOUR}) == [{"mandate": "trade"}]


def test_a_bad_dump_is_refused_before_anything_is_touched(lived_in: Settings, dump: Path) -> None:
    before, data, checksum = at_home(lived_in), dump.read_bytes(), Path(f"{dump}.sha256")

    def refused(file: Path, cause: str) -> None:
        with pytest.raises(JobError, match=cause):
            restore(lived_in, file, NOON + 4 * HOUR)
        assert at_home(lived_in) == before
        assert names(lived_in) == {live_name(lived_in)}

    for k in (0, len(data) // 2, len(data) - 1):
        dump.write_bytes(data[:k] + bytes([data[k] ^ 1]) + data[k + 1 :])
        refused(dump, "is damaged: its checksum is not the recorded one")
    for k in (3, len(data) // 2, len(data) - 1):  # cut by a tool that also wrote its checksum
        dump.write_bytes(data[:k])
        checksum.write_text(f"{hashlib.sha256(data[:k]).hexdigest()}  {dump.name}\n")
        refused(dump, "pg_restore failed")
    checksum.write_text("")
    refused(dump, "is damaged")
    checksum.unlink()
    refused(dump, r"cannot read .*\.sha256: No such file.*sha256sum")
    refused(dump.with_name("lost.dump"), "cannot read .*lost")


def test_a_dump_of_another_version_is_refused(lived_in: Settings, tmp_path: Path) -> None:
    with owner_connection(lived_in, live_name(lived_in)) as owner:
        owner.execute("UPDATE installation SET schema_sha256 = 'other'")
    file, _ = make_backup(lived_in, tmp_path, NOON)
    with pytest.raises(JobError, match="was dumped by another version of Sextant"):
        restore(lived_in, file, NOON)
    assert names(lived_in) == {live_name(lived_in)}


def test_nothing_is_restored_under_a_running_job(lived_in: Settings, dump: Path, database_for: DatabaseFor) -> None:
    before = at_home(lived_in)
    assert database_for("policy").fetch("SELECT 1 AS one")
    with pytest.raises(JobError, match=r"in use by sextant_policy \(1\): stop `make schedule`"):
        restore(lived_in, dump, NOON)
    database_for("policy").close()
    assert at_home(lived_in) == before
    assert names(lived_in) == {live_name(lived_in)}


def test_the_names_are_swapped_together_or_not_at_all(lived_in: Settings, dump: Path) -> None:
    """The second rename fails here: the first must not stay."""
    live = live_name(lived_in)
    with maintenance(lived_in) as admin:
        pipeline.dumps.make_database(lived_in, admin, f"{live}_x")
        with pytest.raises(Exception, match="does not exist"):
            pipeline.restore._swap(admin, live, f"{live}_{uuid.uuid4().hex[:6]}", f"{live}_before")
    assert names(lived_in) == {live, f"{live}_x"}


def test_without_yes_it_only_says_what_it_would_do(
    lived_in: Settings, dump: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(pipeline.restore, "load_settings", lambda: lived_in)
    monkeypatch.setattr(pipeline.restore, "configure_logging", lambda level: None)
    assert main([str(dump)]) == 2
    said = capsys.readouterr().err
    assert f"in the place of database {live_name(lived_in)}" in said
    assert "--yes" in said
    assert names(lived_in) == {live_name(lived_in)}
    assert main([f"{dump}.lost", "--yes"]) == 1
    assert main([str(dump), "--yes"]) == 0
    assert "every wallet is HALTED" in capsys.readouterr().out
