"""The stop that needs no database: SEXTANT_HOME/KILL for all wallets, SEXTANT_HOME/KILL.<wallet> for one.

The sender looks before every send. Each stop is one line of JSON, appended; of several lines, and of both files, the
strictest holds, so that no later or half-written line can weaken an earlier one. What cannot be read stops, too: an
empty file (``touch KILL``), a torn line, a directory of that name all count as kill. ``echo halt > KILL`` works.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from shared.errors import SextantError

MANDATES = ("pause", "kill", "flatten", "halt")  # from the mildest to the strictest; sql/000_init.sql, commands
UNREADABLE = "kill"
WALLET_NAME = r"[a-z0-9_-]+"


class CannotStop(SextantError):
    """The file could not be written; the message says what else stops a wallet."""


def kill_path(home: Path, wallet: str | None) -> Path:
    """Where the stop of one wallet lies, or of all (None); ValueError for a name that no wallet can have."""
    if wallet is not None and not re.fullmatch(WALLET_NAME, wallet):
        raise ValueError(f"a wallet is named in a-z, 0-9, _ and -; {wallet!r} is not")
    return home / ("KILL" if wallet is None else f"KILL.{wallet}")


def file_mandate(home: Path, wallet: str) -> str | None:
    """The strictest stop that the files name for a wallet; None: there is none. Two failed opens where none is."""
    return strictest(mandate_in(home / "KILL"), mandate_in(kill_path(home, wallet)))


def strictest(*mandates: str | None) -> str | None:
    """Of several stops the one that forbids most; None where there is none. A word it does not know counts as kill."""
    known = [mandate if mandate in MANDATES else UNREADABLE for mandate in mandates if mandate is not None]
    return max(known, key=MANDATES.index, default=None)


def mandate_now(home: Path, wallet: str, commanded: str) -> str:
    """What a wallet may do: by its operator's commands (``commanded``: 'trade', or what stops it), and by the files."""
    return strictest(file_mandate(home, wallet), None if commanded == "trade" else commanded) or "trade"


def mandate_in(path: Path) -> str | None:
    """The strictest stop in one file; None: there is no such file. Never raises: what cannot be read is a kill."""
    content = content_of(path)
    if content is None:
        return None
    lines = content.splitlines()
    return strictest(*(_mandate_of_line(line) for line in lines if line.strip())) or UNREADABLE


def content_of(path: Path) -> bytes | None:
    """What the file says, b"" where it cannot be read; None: there is no such file."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError:
        return b""


def _mandate_of_line(line: bytes) -> str:
    text = line.decode(errors="replace").strip()
    if text in MANDATES:
        return text
    told = _parsed(text).get("mandate")
    return told if isinstance(told, str) and told in MANDATES else UNREADABLE


def _parsed(text: str) -> Mapping[str, Any]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def in_words(path: Path) -> str:
    """For people: each stop in a file with its reason."""
    lines = (line.decode(errors="replace").strip() for line in (content_of(path) or b"").splitlines())
    told = [(_mandate_of_line(line.encode()), _parsed(line)) for line in lines if line]
    said = [f"{mandate}: {stop['reason']} ({stop.get('issuer')}, {stop.get('at')})" if "reason" in stop else mandate
            for mandate, stop in told]  # fmt: skip
    return "; ".join(said) or f"{UNREADABLE}: an empty or unreadable file"


def write_stop(home: Path, wallet: str | None, mandate: str, reason: str, issuer: str, at: datetime) -> bool:
    """Appends a stop and waits for the disk; True where the file was not there before. CannotStop says why it failed.

    The line break goes first: what a crash left of another line must not swallow this one.
    """
    assert mandate in MANDATES, mandate
    path = kill_path(home, wallet)
    stop = {"mandate": mandate, "reason": reason, "issuer": issuer, "at": at.isoformat()}
    line = b"\n" + json.dumps(stop, ensure_ascii=False).encode() + b"\n"
    try:
        home.mkdir(parents=True, exist_ok=True)
        made = _append(path, line)
        with _opened(home, os.O_RDONLY) as directory:
            os.fsync(directory)
    except OSError as error:
        raise CannotStop(
            f"{path} could not be written ({error}): stop the sender itself, or make an empty file of that name by hand"
        ) from error
    return made


def _append(path: Path, line: bytes) -> bool:
    """One write, so that two stops at once are two whole lines; into the file that stands there when it is done."""
    while True:
        made = not path.exists()
        with _opened(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT) as file:
            if os.write(file, line) < len(line):
                raise OSError("the disk took half of the line")
            os.fsync(file)
            with contextlib.suppress(FileNotFoundError):  # a resume took it away meanwhile: once more
                if os.path.samestat(os.fstat(file), path.stat()):
                    return made


@contextlib.contextmanager
def _opened(path: Path, flags: int) -> Iterator[int]:
    file = os.open(path, flags, 0o644)
    try:
        yield file
    finally:
        os.close(file)


def lift(home: Path, wallet: str | None, seen: bytes | None) -> bool:
    """Takes the file away if it still says what was ``seen``; False where another stop has come in since."""
    path = kill_path(home, wallet)
    now = content_of(path)
    if now != seen:
        return False
    if now is not None:
        if path.is_dir():
            raise CannotStop(f"{path} is a directory: it stops like a file, and only you can take it away")
        return _take_away(path, now)
    return True


def _take_away(path: Path, seen: bytes) -> bool:
    """Puts the file aside before it looks once more: what was appended since ``seen`` goes back, and whoever appends
    from now on finds the file gone and writes it anew (_append)."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.rename(aside)
    except FileNotFoundError:
        return True
    late = content_of(aside)
    if late != seen:
        _append(path, b"\n" + (late or b""))
    aside.unlink()
    return late == seen
