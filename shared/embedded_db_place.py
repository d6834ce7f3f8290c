"""Where a home's server lives. In the home, unless its user can't get there.

``<home>/postgres/`` holds ``data``, ``run`` (the socket), ``log`` and, for root, ``binaries``. Root can't run
PostgreSQL, so there it runs as ``postgres`` or ``nobody``; if that user can't reach the home, the same directory
lies in /var/lib instead, and ``postgres.elsewhere`` in the home says where.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from shared.embedded_db_binaries import Account, account_for, current_account, own_directory, programs_for, run
from shared.embedded_db_files import EmbeddedDbError, write_durably
from shared.embedded_db_liveness import SOCKET_NAME, SUPERUSER

# sockaddr_un holds 107 bytes; and libpq reads a comma in a host as a list of hosts.
SOCKET_DIR_PATTERN = re.compile(rf"[A-Za-z0-9_./ +-]{{1,{107 - 1 - len(SOCKET_NAME)}}}")
# initdb and pg_ctl hand their own path to a shell in double quotes, and for root they are copied beside the data.
SHELL_SPECIAL = re.compile(r'["$`\\]')
# Fixed places, as TMPDIR and HOME differ between a shell and a cron job.
SHORT_PARENT = Path("/tmp")  # noqa: S108  (own_directory refuses what somebody else put there)
OUTSIDE_PARENTS = (Path("/var/lib"), Path("/var/tmp"))  # noqa: S108


@dataclass(frozen=True, slots=True)
class Place:
    """One server's directories, and who runs it."""

    base: Path
    account: Account

    @property
    def data(self) -> Path:
        return self.base / "data"

    @property
    def socket_dir(self) -> Path:
        return socket_dir_of(self.base, self.account.uid)

    @property
    def log(self) -> Path:
        return self.base / "log"

    def run(self, program: str, *args: str, timeout_s: float) -> int:
        """Paths in ``args`` are relative to the base: pg_ctl hands them to a shell, which a ``$`` would upset."""
        command: list[str | Path] = [programs_for(self.account, self.base) / program, *args]
        return run(command, self.account, self.base, self.base / "command.log", timeout_s)


def password_file(home: Path) -> Path:
    return home / "secrets" / SUPERUSER


def elsewhere(home: Path) -> Path:
    return home / "postgres.elsewhere"


def base_of(home: Path) -> Path:
    """The directory of data, socket and log. What was recorded holds, even if permissions change later."""
    try:
        return Path(elsewhere(home).read_text().rstrip("\n"))
    except FileNotFoundError:
        return home / "postgres"


def socket_dir_of(base: Path, uid: int) -> Path:
    beside = base / "run"
    if SOCKET_DIR_PATTERN.fullmatch(str(beside)):
        return beside
    return SHORT_PARENT / f"sextant-{uid}-{_digest(str(base))}"


def _digest(*parts: str) -> str:
    import hashlib

    return hashlib.sha256("\0".join(parts).encode(errors="surrogateescape")).hexdigest()[:16]


def place_of(home: Path, password: str) -> Place:
    """Where the server is, or will be: in the home if its user can get there, else outside, which is written down."""
    base = base_of(home)
    account = account_for(base / "data")
    if not base.exists() and elsewhere(home).exists():
        raise EmbeddedDbError(
            f"{elsewhere(home)} says that the database is in {base}, but that is gone. "
            f"Put it back from a backup, or, to start afresh, delete {elsewhere(home)}."
        )
    if not base.exists() and account.is_somebody_else and not _can_run_in(home, account):
        base = _outside(home, account, password)
        own_directory(base, current_account(), 0o755)
        write_durably(elsewhere(home), f"{base}\n", 0o600)
    return Place(base, account)


def _can_run_in(home: Path, account: Account) -> bool:
    return account.may_enter(home) and not SHELL_SPECIAL.search(str(home))


def _outside(home: Path, account: Account, password: str) -> Path:
    """A name by home and password: a home deleted and made again must not meet the database of its former life."""
    for parent in OUTSIDE_PARENTS:
        if parent.is_dir() and os.access(parent, os.W_OK) and account.may_enter(parent):
            return parent / f"sextant-{os.geteuid()}-{_digest(str(home), password)}"
    raise EmbeddedDbError(
        f"As root the embedded PostgreSQL runs as user {account.uid}, who can enter neither {home} nor "
        f"{' nor '.join(map(str, OUTSIDE_PARENTS))}. Set SEXTANT_HOME to a directory below ones with mode 0755 "
        "(for example /srv/sextant), or set DATABASE_URL to a server of your own."
    )


def prepare_directories(place: Place) -> None:
    base_is_theirs = place.base.exists() and place.base.stat().st_uid == place.account.uid
    keeper = place.account if base_is_theirs else current_account()
    # The server's user passes through root's directory but can't exchange the programs in it.
    own_directory(place.base, keeper, 0o700 if keeper == place.account else 0o755)
    own_directory(place.log, place.account, 0o700)
