"""The PostgreSQL server that comes with Sextant: started by whoever needs it first, stopped only by ``stop()``.

Crash-only: any process may be killed at any line. What must be whole (data, programs, secrets) is made beside
its place and renamed into it; what a dead process left is recognised and redone by the next start. One file
lock serialises starts; a job that finds the server up takes no lock and starts no process.

Rooms: _place (where), _binaries (programs, and as whom), _liveness (is it up?), _files (secrets, durable writes).
"""

from __future__ import annotations

import fcntl
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

from shared.embedded_db_binaries import POSTGRES_MAJOR, own_directory
from shared.embedded_db_files import (
    EmbeddedDbError,
    explained,
    make_home,
    read_or_create_secret,
    read_secret,
    sync_directory,
    text_of,
    write_durably,
    write_secret,
)
from shared.embedded_db_liveness import (
    PORT,
    SOCKET_NAME,
    SUPERUSER,
    Answer,
    ask,
    exists,
    forget_dead_postmaster,
    is_postmaster,
    postmaster,
)
from shared.embedded_db_place import (
    Place,
    base_of,
    elsewhere,
    password_file,
    place_of,
    prepare_directories,
    socket_dir_of,
)

__all__ = [
    "EmbeddedDbError",
    "Server",
    "ensure_running",
    "is_running",
    "read_or_create_secret",
    "remove",
    "stop",
    "write_secret",
]

INITDB_S = 180.0
START_S = 180.0  # crash recovery of max_wal_size on a slow disk
STOP_S = 60.0
LOCK_S = INITDB_S + START_S + STOP_S
POLL_S = 0.05
START_ATTEMPTS = 3
LARGEST_OLD_LOG_BYTES = 10 * 1024 * 1024

SETTINGS = """\
# Written by shared/embedded_db.py at each start: changes made here are lost.
listen_addresses = ''
port = {port}
unix_socket_directories = '"{socket_dir}"'
unix_socket_permissions = 0700
max_connections = 100
shared_buffers = 128MB
maintenance_work_mem = 128MB
max_wal_size = 2GB
random_page_cost = 1.1
jit = off
timezone = 'UTC'
log_timezone = 'UTC'
# A file a weekday, emptied when its day comes again: a week of logs. (Rotation by size would never empty one.)
logging_collector = on
log_directory = '../log'
log_filename = 'server-%a.log'
log_rotation_age = 1d
log_rotation_size = 0
log_truncate_on_rotation = on
"""


@dataclass(frozen=True, slots=True)
class Server:
    """How to reach a running embedded server; it listens on its Unix socket only."""

    socket_dir: Path
    port: int
    superuser_password: str = field(repr=False)

    def url(self, user: str, password: str, dbname: str) -> str:
        """A libpq URI, also understood by psycopg, SQLAlchemy and ADBC."""
        login, secret, name, host = (quote(part, safe="") for part in (user, password, dbname, str(self.socket_dir)))
        return f"postgresql://{login}:{secret}@/{name}?host={host}&port={self.port}"


def ensure_running(home: Path) -> Server:
    """Start the server of ``home`` unless it runs, making it at the first call; safe to call from anywhere at once."""
    with explained(f"The embedded PostgreSQL of {home}"):
        return _running(home) or _start_alone(home)


def is_running(home: Path) -> bool:
    """Whether the server of ``home`` takes connections now."""
    with explained(f"The embedded PostgreSQL of {home}"):
        return _running(home) is not None


def stop(home: Path) -> bool:
    """Shut the server of ``home`` down, ending its sessions; False if none was running."""
    with explained(f"The embedded PostgreSQL of {home}"):
        data = base_of(home) / "data"
        if not data.exists():
            return False
        with _start_lock(home):
            return _shut_down(data)


def remove(home: Path) -> None:
    """Stop the server of ``home`` and delete its database, wherever it lies. Secrets stay."""
    import shutil

    stop(home)
    with explained(f"The embedded PostgreSQL of {home}"):
        base = base_of(home)
        if (base / "data").exists():
            shutil.rmtree(socket_dir_of(base, (base / "data").stat().st_uid), ignore_errors=True)
        if base.exists():
            shutil.rmtree(base)
        elsewhere(home).unlink(missing_ok=True)


# ── finding the server: no lock, no process ──────────────────────────────────────────────────────────────────────────


def _running(home: Path) -> Server | None:
    base = base_of(home)
    try:
        password = read_secret(password_file(home))
        owner = (base / "data").stat().st_uid
        socket_dir = socket_dir_of(base, owner)
        # Only the owner of the data is asked for a password: a stranger could have made the short directory in /tmp.
        if socket_dir.lstat().st_uid != owner or ask(socket_dir) is not Answer.READY:
            return None
    except FileNotFoundError:
        return None
    return Server(socket_dir, PORT, password)


# ── starting: one process at a time ──────────────────────────────────────────────────────────────────────────────────


def _start_alone(home: Path) -> Server:
    make_home(home)
    with _start_lock(home):
        server = _running(home)
        if server is not None:  # somebody else started it while we waited
            return server
        password = _superuser_password(home)
        place = place_of(home, password)
        prepare_directories(place)
        if not place.data.exists():
            _initialise(place, password)
        _check_version(place)
        _start(place)
        return Server(place.socket_dir, PORT, password)


@contextmanager
def _start_lock(home: Path) -> Iterator[None]:
    """An flock: the kernel releases it when its holder dies, however it dies, and children don't inherit it."""
    path = home / "postgres.lock"
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        deadline = time.monotonic() + LOCK_S
        while not _try_lock(handle):
            if time.monotonic() > deadline:
                raise EmbeddedDbError(
                    f"Another process has held {path} for more than {LOCK_S:.0f} s while starting or stopping the "
                    f"embedded PostgreSQL. Find it with 'fuser {path}', end it, and start again."
                )
            time.sleep(POLL_S)
        yield
    finally:
        os.close(handle)


def _try_lock(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _superuser_password(home: Path) -> str:
    path, base = password_file(home), base_of(home)
    if (base / "data").exists() and not path.exists():
        raise EmbeddedDbError(
            f"{base / 'data'} holds a database, but its password {path} is gone. "
            f"Put that file back, or, to start afresh and lose the database, delete {base}."
        )
    return read_or_create_secret(path)


def _initialise(place: Place, password: str) -> None:
    """Make the data directory beside its place and rename it in: a kill leaves scraps, never half a database."""
    import shutil

    for scrap in place.base.glob("init-*"):
        shutil.rmtree(scrap, ignore_errors=True)  # an orphaned initdb may still be writing to it
    nursery = place.base / f"init-{os.urandom(4).hex()}"
    fresh = nursery / "data"
    for directory in (nursery, fresh):
        own_directory(directory, place.account, 0o700)
    _run_initdb(place, nursery, password)
    with (fresh / "postgresql.conf").open("a") as conf:
        conf.write("\ninclude = '../sextant.conf'\n")
        conf.flush()
        os.fsync(conf.fileno())
    fresh.rename(place.data)
    sync_directory(place.base)
    shutil.rmtree(nursery, ignore_errors=True)


def _run_initdb(place: Place, nursery: Path, password: str) -> None:
    initial = nursery / "password"
    write_durably(initial, password, 0o600)
    arguments = (
        f"--pgdata={nursery.name}/data",
        f"--pwfile={nursery.name}/password",
        f"--username={SUPERUSER}",
        "--auth=scram-sha-256",
        "--encoding=UTF8",
        # The C library's collations change with its version and corrupt indexes; this one is PostgreSQL's own.
        "--locale=C",
        "--locale-provider=builtin",
        "--builtin-locale=C.UTF-8",
    )
    try:
        code = place.run("initdb", *arguments, timeout_s=INITDB_S)
    finally:
        initial.unlink(missing_ok=True)
    if code != 0:
        raise EmbeddedDbError(
            f"initdb could not make {place.data} (exit code {code}). Mend what it says and start again:\n{_tail(place)}"
        )


def _check_version(place: Place) -> None:
    version_file = place.data / "PG_VERSION"
    version = version_file.read_text().strip() if version_file.exists() else "none"
    if version != POSTGRES_MAJOR:
        raise EmbeddedDbError(
            f"{place.data} was not made by PostgreSQL {POSTGRES_MAJOR} (its version: {version}). "
            "Dump it with the PostgreSQL that made it and load the dump here, or move it away to start afresh."
        )


def _start(place: Place) -> None:
    """Wait for a server that is on its way, or launch one, until it answers; each wait ends at a deadline."""
    deadline = time.monotonic() + START_S
    failures = 0
    while ask(place.socket_dir) is not Answer.READY:
        if time.monotonic() > deadline:
            raise _start_error(place, f"did not answer within {START_S:.0f} s")
        if postmaster(place.data) is not None:
            _refuse_a_lost_socket(place)
        elif not _launch(place, deadline):
            failures += 1
            if failures >= START_ATTEMPTS and not _waits_for_orphans(place):
                raise _start_error(place, "does not start")
        time.sleep(POLL_S)


def _launch(place: Place, deadline: float) -> bool:
    own_directory(place.socket_dir, place.account, 0o700)
    forget_dead_postmaster(place.data, place.socket_dir)
    settings = SETTINGS.format(port=PORT, socket_dir=place.socket_dir)
    write_durably(place.base / "sextant.conf", settings, 0o644)
    _startup_log(place).unlink(missing_ok=True)
    for log in place.log.glob("server-*.log"):
        if log.stat().st_size > LARGEST_OLD_LOG_BYTES:  # PostgreSQL empties by age only, and only while it runs
            log.unlink()
    wait_s = max(5.0, deadline - time.monotonic())
    pg_ctl = ("start", "--pgdata=data", "--log=log/startup.log", "--wait", f"--timeout={wait_s:.0f}")
    return place.run("pg_ctl", *pg_ctl, timeout_s=wait_s + 10) == 0


def _startup_log(place: Place) -> Path:
    return place.log / "startup.log"


def _waits_for_orphans(place: Place) -> bool:
    """A killed server's sessions keep its shared memory until they notice; until then PostgreSQL won't start."""
    return "still in use" in text_of(_startup_log(place))


def _refuse_a_lost_socket(place: Place) -> None:
    """A server whose socket was deleted never answers again; ending it is the operator's decision, not a job's."""
    lines = text_of(place.data / "postmaster.pid").splitlines()
    ready = len(lines) > 7 and lines[7].strip() == "ready"
    if ready and not (place.socket_dir / SOCKET_NAME).exists():
        raise _start_error(place, f"runs, but its socket in {place.socket_dir} was deleted; 'make db-stop' ends it")


def _start_error(place: Place, what: str) -> EmbeddedDbError:
    return EmbeddedDbError(
        f"The embedded PostgreSQL in {place.base} {what}. Its logs are in {place.log}; the last lines:\n{_tail(place)}"
    )


def _tail(place: Place) -> str:
    """The end of what pg_ctl or initdb said, of the server's first words, and of its newest log."""
    logs = sorted(place.log.glob("server-*.log"), key=lambda log: log.stat().st_mtime)[-1:]
    paths = (place.base / "command.log", _startup_log(place), *logs)
    return "\n".join(text_of(path)[-1500:].strip() for path in paths if text_of(path))


def _shut_down(data: Path) -> bool:
    pid = postmaster(data)
    if pid is None:
        return False
    os.kill(pid, signal.SIGINT)  # what 'pg_ctl stop -m fast' sends; needs no program that an upgrade may have removed
    deadline = time.monotonic() + STOP_S
    while is_postmaster(pid, data) and exists(pid):
        if time.monotonic() > deadline:
            raise EmbeddedDbError(
                f"The embedded PostgreSQL in {data.parent} (process {pid}) did not stop within {STOP_S:.0f} s. "
                f"See {data.parent / 'log'}; 'kill -QUIT {pid}' ends it at once, and the next start recovers."
            )
        time.sleep(POLL_S / 5)
    return True
