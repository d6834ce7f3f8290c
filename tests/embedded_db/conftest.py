"""Homes, servers and child processes for the tests of the embedded server."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest

from shared.embedded_db import Server, ensure_running, remove
from shared.embedded_db_liveness import postmaster
from shared.embedded_db_place import base_of

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
