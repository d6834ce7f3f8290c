"""Files that survive a kill: secrets and durable writes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from shared.errors import SextantError


class EmbeddedDbError(SextantError):
    """The embedded PostgreSQL can't be used; the message says what happened, to what, and what to do next."""


@contextmanager
def explained(what: str) -> Iterator[None]:
    """Turn the system's refusals (permission, space, a wrong kind of file) into an error that says what to do."""
    try:
        yield
    except OSError as error:
        raise EmbeddedDbError(
            f"{what} can't be read or prepared: {error}. "
            "Run as the user that owns it, and look at permissions and free space."
        ) from error


def write_secret(path: Path, secret: str) -> None:
    """Set the secret in ``path`` (0600, its directory 0700), replacing an older one in one step."""
    with explained(f"The secret {path}"):
        _secret_directory(path.parent)
        write_durably(path, secret + "\n", 0o600)


def read_or_create_secret(path: Path) -> str:
    """The secret in ``path``, drawn at random if there is none; simultaneous callers get the same one."""
    with explained(f"The secret {path}"):
        try:
            return read_secret(path)
        except FileNotFoundError:
            return _create_secret(path)


def _create_secret(path: Path) -> str:
    _secret_directory(path.parent)
    candidate = _write_beside(path, os.urandom(24).hex() + "\n", 0o600)
    try:
        os.link(candidate, path)
        sync_directory(path.parent)
    except FileExistsError:
        pass  # another was faster: its secret counts
    finally:
        candidate.unlink()
    return read_secret(path)


def read_secret(path: Path) -> str:
    secret = path.read_text().rstrip("\n")
    if not secret:
        raise EmbeddedDbError(f"The secret {path} is empty. Restore it from a backup, or delete it to draw a new one.")
    return secret


def make_home(home: Path) -> None:
    home.parent.mkdir(parents=True, exist_ok=True)
    # Root's server runs as another user: it may pass through to its data; secrets/ is 0700 in any case.
    home.mkdir(mode=0o711 if os.geteuid() == 0 else 0o700, exist_ok=True)


def _secret_directory(directory: Path) -> None:
    make_home(directory.parent)
    directory.mkdir(mode=0o700, exist_ok=True)


def _write_beside(path: Path, text: str, mode: int) -> Path:
    """A finished, synced temporary file next to ``path``, owned by its directory's owner even if root writes it."""
    draft = path.with_name(f".{path.name}.{os.urandom(6).hex()}")
    with os.fdopen(os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY, mode), "w") as sink:
        os.fchmod(sink.fileno(), mode)  # past the caller's umask
        if os.geteuid() == 0:
            owner = path.parent.stat()
            os.fchown(sink.fileno(), owner.st_uid, owner.st_gid)
        sink.write(text)
        sink.flush()
        os.fsync(sink.fileno())
    return draft


def write_durably(path: Path, text: str, mode: int) -> None:
    _write_beside(path, text, mode).replace(path)
    sync_directory(path.parent)


def sync_directory(directory: Path) -> None:
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def text_of(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return ""
