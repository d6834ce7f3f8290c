"""Is the server alive? Its socket says whether it answers; its process says whether it is worth waiting for."""

from __future__ import annotations

import enum
import os
import socket
import time
from pathlib import Path

from shared.embedded_db_files import text_of

SUPERUSER = "postgres"
PORT = 5432  # no TCP: it only names the socket's file
SOCKET_NAME = f".s.PGSQL.{PORT}"
PING_S = 5.0


class Answer(enum.Enum):
    READY = "ready"
    BUSY = "starting, stopping or overloaded"
    NONE = "nobody listens"


def ask(socket_dir: Path) -> Answer:
    """What ``pg_isready`` does, without a process: begin a login and see whether the server wants to go on.

    A mere connect is not enough, as a recovering server accepts it and then refuses the login.
    """
    login = f"user\0{SUPERUSER}\0database\0{SUPERUSER}\0\0".encode()
    packet = (8 + len(login)).to_bytes(4, "big") + (3 << 16).to_bytes(4, "big") + login
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(PING_S)
        try:
            probe.connect(str(socket_dir / SOCKET_NAME))
        except (FileNotFoundError, ConnectionRefusedError):
            return Answer.NONE
        except (BlockingIOError, TimeoutError):  # its queue is full
            return Answer.BUSY
        try:
            probe.sendall(packet)
            reply = probe.recv(1024)
        except (TimeoutError, ConnectionError):
            return Answer.BUSY
    cannot_connect_now = reply[:1] == b"E" and b"\0C57P03\0" in reply
    return Answer.BUSY if not reply or cannot_connect_now else Answer.READY


def postmaster(data: Path) -> int | None:
    """The process id of the living server of ``data``, None if there is none."""
    pid = _pid_in(data / "postmaster.pid")
    return pid if pid is not None and is_postmaster(pid, data) else None


def _pid_in(lock_file: Path) -> int | None:
    first = text_of(lock_file).partition("\n")[0].strip()
    return int(first) if first.isdecimal() and len(first) < 10 else None


def is_postmaster(pid: int, data: Path) -> bool:
    """Process ids are reused and the dead linger as zombies, so the id alone proves nothing."""
    if not Path("/proc/self").exists():
        return True  # macOS: PostgreSQL's own check must do
    name, _, rest = text_of(Path(f"/proc/{pid}/stat")).partition("(")[2].rpartition(")")
    if name != "postgres" or rest.split()[0] in "ZX":
        return False
    try:
        return _works_in(pid, data)
    except (FileNotFoundError, ProcessLookupError):  # it has just ended
        return False


def _works_in(pid: int, data: Path) -> bool:
    try:
        return os.path.samefile(f"/proc/{pid}/cwd", data)
    except PermissionError:  # root in a container may not look; the owner is next best
        return Path(f"/proc/{pid}").stat().st_uid == data.stat().st_uid


def forget_dead_postmaster(data: Path, socket_dir: Path) -> None:
    """Remove lock files that PostgreSQL would believe: it trusts any living process id, a zombie's or a stranger's.

    Those of dead processes are left to PostgreSQL, which removes them itself.
    """
    for lock in (data / "postmaster.pid", socket_dir / f"{SOCKET_NAME}.lock"):
        if lock.exists() and not text_of(lock):
            time.sleep(0.5)  # a server whose starter was killed may be about to write it
        pid = _pid_in(lock)
        if pid is None or (exists(pid) and not is_postmaster(pid, data)):
            lock.unlink(missing_ok=True)


def exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
