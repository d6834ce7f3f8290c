"""The embedded server against everything that kills, races or confuses it. Each test starts real servers."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import psycopg
import pytest

from shared import embedded_db
from shared.embedded_db import ensure_running, is_running, stop
from shared.embedded_db_liveness import SOCKET_NAME
from shared.embedded_db_place import base_of
from tests.embedded_db.conftest import (
    START,
    Child,
    connected,
    has_ended,
    pid_of,
    value,
    wait_until,
)


def test_the_url_of_a_new_server_works_and_its_secrets_are_private(home: Path) -> None:
    server = ensure_running(home)
    assert value(server, "SHOW server_version").startswith("18.")
    assert value(server, "SELECT rolsuper FROM pg_roles WHERE rolname = current_user") is True
    shown = {name: value(server, f"SHOW {name}") for name in ("jit", "TimeZone", "listen_addresses", "fsync")}
    assert shown == {"jit": "off", "TimeZone": "UTC", "listen_addresses": "", "fsync": "on"}
    assert value(server, "SELECT datlocprovider::text || datlocale FROM pg_database LIMIT 1") == "bC.UTF-8"
    assert (home / "secrets").stat().st_mode & 0o777 == 0o700
    assert (home / "secrets" / "postgres").stat().st_mode & 0o777 == 0o600
    assert not list(base_of(home).glob("init-*"))
    assert server.superuser_password not in repr(server)


def test_the_socket_refuses_a_wrong_password(home: Path) -> None:
    server = ensure_running(home)
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        connected(server, password="guess")
    assert value(server, "SELECT count(*) FROM pg_hba_file_rules WHERE auth_method <> 'scram-sha-256'") == 0


def test_a_server_that_runs_is_found_without_a_lock_or_a_process(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = ensure_running(home)
    monkeypatch.setattr(embedded_db, "_start_alone", None)
    assert ensure_running(home) == first
    started = time.monotonic()
    for _ in range(10):
        ensure_running(home)
    assert (time.monotonic() - started) / 10 < 0.1


def test_asking_whether_it_runs_leaves_no_trace_in_the_log(home: Path) -> None:
    ensure_running(home)
    logged = sum(log.stat().st_size for log in (base_of(home) / "log").glob("server-*.log"))
    for _ in range(5):
        assert is_running(home)
    assert sum(log.stat().st_size for log in (base_of(home) / "log").glob("server-*.log")) == logged


def test_eight_simultaneous_first_starts_give_one_server(new_home: Path, children: Callable[..., Child]) -> None:
    code = START + "print(ensure_running(home).url('u', 'p', 'd'))"
    starters = [children(code, new_home) for _ in range(8)]
    answers = [starter.communicate(timeout=60) for starter in starters]
    assert [starter.returncode for starter in starters] == [0] * 8, answers
    assert len({out for out, _ in answers}) == 1
    assert value(ensure_running(new_home), "SELECT 1") == 1
    logs = [log.read_text() for log in (base_of(new_home) / "log").glob("server-*.log")]
    assert "".join(logs).count("starting PostgreSQL") == 1


def test_data_survives_a_killed_postmaster(home: Path) -> None:
    server = ensure_running(home)
    with connected(server) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 42 AS answer")
    killed = pid_of(home)
    os.kill(killed, signal.SIGKILL)
    assert value(ensure_running(home), "SELECT answer FROM kept") == 42
    assert pid_of(home) != killed


def test_sessions_that_outlive_a_killed_postmaster_are_waited_for(home: Path) -> None:
    server = ensure_running(home)
    with connected(server) as busy, ThreadPoolExecutor() as pool:
        session = busy.info.backend_pid
        # A session that computes does not look whether its postmaster is alive.
        query = pool.submit(busy.execute, "SELECT count(*) FROM generate_series(1, 8000000) AS s WHERE sqrt(s) < 0")
        wait_until(lambda: value(server, "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%sqrt%'") == 2)
        os.kill(pid_of(home), signal.SIGKILL)
        assert value(ensure_running(home), "SELECT 1") == 1
        wait_until(lambda: has_ended(session), within_s=0.5)
        query.exception()
        busy.close()


def test_a_killed_holder_of_the_start_lock_blocks_nobody(home: Path, children: Callable[..., Child]) -> None:
    stop(home)
    code = START + (
        "from shared.embedded_db import _start_lock; import time\n"
        "with _start_lock(home): print('held', flush=True); time.sleep(60)"
    )
    holder = children(code, home)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(ensure_running, home)
        time.sleep(0.2)
        assert not waiting.done()
        holder.kill()
        assert value(waiting.result(timeout=30), "SELECT 1") == 1


def test_an_interrupted_initdb_is_redone(new_home: Path, children: Callable[..., Child]) -> None:
    def nurseries(contents: str) -> set[Path]:
        return set(base_of(new_home).glob(f"init-*/{contents}"))

    def grown(seen: set[Path], contents: str) -> set[Path]:
        return nurseries(contents) - seen

    for contents in ("data", "data/base"):
        scraps = nurseries(contents)
        starter = children(START + "ensure_running(home)", new_home)
        wait_until(partial(grown, scraps, contents))
        starter.kill()
        assert not (base_of(new_home) / "data").exists()
    assert value(ensure_running(new_home), "SELECT 1") == 1
    wait_until(lambda: not nurseries("data/*"))


def test_a_starter_killed_while_the_server_comes_up_does_no_harm(home: Path, children: Callable[..., Child]) -> None:
    for _ in range(3):
        stop(home)
        log = base_of(home) / "log" / "startup.log"
        log.unlink()
        starter = children(START + "ensure_running(home)", home)
        wait_until(log.exists)
        starter.kill()
        assert value(ensure_running(home), "SELECT 1") == 1


@pytest.mark.parametrize("owner", ["a stranger", "a zombie", "garbage", "nobody"])
def test_a_stale_pid_file_is_seen_through(home: Path, owner: str) -> None:
    ensure_running(home)
    data, socket_dir = base_of(home) / "data", ensure_running(home).socket_dir
    lines = (data / "postmaster.pid").read_text().splitlines()
    assert stop(home)
    process = subprocess.Popen(["sleep", "60" if owner == "a stranger" else "0"])
    if owner != "a stranger":
        wait_until(lambda: has_ended(process.pid))
    if owner == "nobody":
        process.wait()
    claimed = "not a number" if owner == "garbage" else str(process.pid)
    (data / "postmaster.pid").write_text("\n".join([claimed, *lines[1:]]))
    (socket_dir / f"{SOCKET_NAME}.lock").write_text("\n".join([claimed, *lines[1:5]]))
    try:
        assert not is_running(home)
        assert stop(home) is False
        assert value(ensure_running(home), "SELECT 1") == 1
        assert owner != "a stranger" or process.poll() is None
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("name", ["deep/" * 30 + "home", 'it\'s $HOME, "quoted" \\ and `spaced`'])
def test_a_home_may_have_a_long_or_odd_path(homes: Callable[[str], Path], name: str) -> None:
    home = homes(name)
    server = ensure_running(home)
    assert len(os.fsencode(server.socket_dir / SOCKET_NAME)) <= 107
    assert value(server, "SELECT 1") == 1
    assert is_running(home)


def test_a_stopped_server_is_not_running_and_starts_again(home: Path) -> None:
    assert is_running(home)
    assert stop(home) is True
    assert not is_running(home)
    assert stop(home) is False
    assert value(ensure_running(home), "SELECT 1") == 1


def test_asking_about_a_home_that_was_never_used_leaves_nothing_there(tmp_path: Path) -> None:
    assert not is_running(tmp_path / "home")
    assert stop(tmp_path / "home") is False
    assert os.listdir(tmp_path) == []


def test_ctrl_c_ends_the_job_and_not_the_server(home: Path, children: Callable[..., Child]) -> None:
    # A suite started in the background (make test &) inherits an ignored SIGINT, and so would this job.
    heed = "import signal, time; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    job = children(
        START + heed + "ensure_running(home); print('up', flush=True); time.sleep(60)",
        home,
        start_new_session=True,
    )
    assert job.stdout is not None
    assert job.stdout.readline() == "up\n"
    os.killpg(job.pid, signal.SIGINT)
    job.wait(timeout=60)
    assert is_running(home)


def test_a_home_that_moved_keeps_its_data(homes: Callable[[str], Path]) -> None:
    old, new = homes("old"), homes("new place")
    with connected(ensure_running(old)) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 42 AS answer")
    stop(old)
    old.rename(new)
    assert value(ensure_running(new), "SELECT answer FROM kept") == 42


def test_pgvector_can_be_created_in_a_new_database(home: Path) -> None:
    server = ensure_running(home)
    with connected(server) as connection:
        connection.execute("CREATE DATABASE vectors")
    with connected(server, dbname="vectors") as connection:
        connection.execute("CREATE EXTENSION vector")
        assert connection.execute("SELECT '[1,2]'::vector::text").fetchone() == ("[1,2]",)
