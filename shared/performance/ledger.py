"""The ledger of trials: each look at the evaluation's answer is written down, and none is ever erased.

One JSON object a line, in a file outside the database: a scratch database, a reset or a restored backup must not make
tries unhappen. ``previous`` is the SHA-256 of the line before (its bytes without the newline; 64 zeros at the start),
``check`` the SHA-256 of the line itself as it reads without ``check``. So a changed, removed or inserted line is
found on reading, and named. What a chain alone cannot show is that the newest lines are missing, or that all was
rewritten: keep ``Trials.head`` beside each published figure and ask ``Trials.holds`` for it later.

A crash in mid-write leaves a last line without newline. It is no trial (its writer never learnt that it was recorded)
and no tampering: reading reports it as ``Trials.torn``. The next append keeps it: it ends the line, chains to its
bytes and says ``after_torn`` there; a broken line anywhere else is tampering.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from shared.clock import require_utc
from shared.errors import SextantError

START = "0" * 64


class LedgerTampered(SextantError):
    """The ledger is not what was written: figures that count trials cannot be believed."""


@dataclass(frozen=True, slots=True)
class Trial:
    """One evaluation of one recipe; ``daily_active_sharpe`` is of the active return, of one day, None if undefined."""

    at: datetime
    kind: str
    recipe_hash: str
    what: Mapping[str, Any]
    daily_active_sharpe: float | None
    days: int


@dataclass(frozen=True, slots=True)
class Trials:
    """All that the ledger holds, oldest first."""

    entries: tuple[Trial, ...]
    line_hashes: tuple[str, ...]
    torn: int  # lines that a crash cut off

    @property
    def head(self) -> str:
        """The hash of the newest line: who kept it can ask ``holds`` whether the ledger was cut or rewritten since."""
        return self.line_hashes[-1] if self.line_hashes else START

    def holds(self, head: str) -> bool:
        return head == START or head in self.line_hashes

    @property
    def distinct(self) -> tuple[Trial, ...]:
        """Without repetitions: a recipe run again with the same outcome was not another draw."""
        return tuple({(t.kind, t.recipe_hash, t.daily_active_sharpe): t for t in self.entries}.values())

    @property
    def count(self) -> int:
        """How many distinct trials there were, of every kind."""
        return len(self.distinct)

    @property
    def variance(self) -> float | None:
        """Sample variance of their daily active Sharpe ratios; None of fewer than two ratios."""
        ratios = [t.daily_active_sharpe for t in self.distinct if t.daily_active_sharpe is not None]
        return float(np.var(ratios, ddof=1)) if len(ratios) >= 2 else None


@dataclass(frozen=True, slots=True)
class TrialsLedger:
    """The file at ``path`` (``<home>/trials.jsonl``), made at the first append; safe for processes side by side."""

    path: Path

    def read(self) -> Trials:
        """All trials; none where there is no file yet. LedgerTampered names the line that is not as written."""
        try:
            descriptor = os.open(self.path, os.O_RDONLY)
        except FileNotFoundError:
            return Trials((), (), 0)
        with _locked(descriptor, fcntl.LOCK_SH):
            return _verified(_content(descriptor), self.path)

    def append(self, trial: Trial) -> Trials:
        """Records ``trial`` durably (fsync before it returns) and returns all trials, this one included.

        LedgerTampered where what is there is not as written; ValueError for what JSON cannot hold (NaN, …).
        """
        if trial.daily_active_sharpe is not None and not math.isfinite(trial.daily_active_sharpe):
            raise ValueError(f"daily_active_sharpe is {trial.daily_active_sharpe}: record None where it is undefined")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
        with _locked(descriptor, fcntl.LOCK_EX):
            content = _content(descriptor)
            _verified(content, self.path)
            whole, torn = _lines(content)
            chained = [*whole, torn] if torn else whole
            line = _line(trial, _hash(chained[-1]) if chained else START, after_torn=bool(torn))
            _write(descriptor, (b"\n" if torn else b"") + line + b"\n", self.path)
            os.fsync(descriptor)
            _sync_folder(self.path.parent)
            return _verified(_content(descriptor), self.path)


@contextmanager
def _locked(descriptor: int, mode: int) -> Iterator[None]:
    """The kernel drops the lock when its holder dies, however it dies."""
    try:
        fcntl.flock(descriptor, mode)
        yield
    finally:
        os.close(descriptor)


def _content(descriptor: int) -> bytes:
    parts, offset = [], 0
    while part := os.pread(descriptor, 1 << 20, offset):
        parts.append(part)
        offset += len(part)
    return b"".join(parts)


def _lines(content: bytes) -> tuple[list[bytes], bytes]:
    """The lines that were ended, and what follows the last of them."""
    *whole, torn = content.split(b"\n")
    return whole, torn


def _hash(line: bytes) -> str:
    return hashlib.sha256(line).hexdigest()


def _canonical(fields: Mapping[str, Any]) -> bytes:
    return json.dumps(fields, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def _line(trial: Trial, previous: str, *, after_torn: bool) -> bytes:
    what = json.loads(json.dumps(dict(trial.what), allow_nan=False))  # as it reads back: number keys become text
    fields: dict[str, Any] = {
        "at": require_utc(trial.at).isoformat(),
        "kind": trial.kind,
        "recipe_hash": trial.recipe_hash,
        "what": what,
        "daily_active_sharpe": trial.daily_active_sharpe,
        "days": trial.days,
        "previous": previous,
    }
    if after_torn:
        fields["after_torn"] = True
    return _canonical(fields | {"check": _hash(_canonical(fields))})


def _write(descriptor: int, data: bytes, path: Path) -> None:
    """One write, so that a reader without the lock sees all or a torn line."""
    written = os.write(descriptor, data)
    if written != len(data):
        raise OSError(f"only {written} of {len(data)} bytes went to {path}: the trial is not recorded; free some space")


def _sync_folder(folder: Path) -> None:
    """A new file's name survives a power cut only once its folder is on disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _verified(content: bytes, path: Path) -> Trials:
    whole, torn = _lines(content)
    parsed = [_parse(line) for line in whole]
    entries, count_torn, previous = [], int(bool(torn)), START
    for number, (line, fields) in enumerate(zip(whole, parsed, strict=True), start=1):
        following = parsed[number] if number < len(parsed) else None
        if following is not None and following.get("after_torn"):
            count_torn += 1
        elif fields is None:
            raise _tampered(path, number, "is not as it was written")
        elif fields["previous"] != previous:
            raise _tampered(path, number, "does not follow the line before it (one was removed, changed or put in)")
        else:
            entries.append(_trial(fields))
        previous = _hash(line)
    return Trials(tuple(entries), tuple(_hash(line) for line in whole), count_torn)


def _parse(line: bytes) -> dict[str, Any] | None:
    """The fields of a line that is as it was written, else None."""
    try:
        fields = json.loads(line)
        check = fields.pop("check")
        whole = _canonical(fields | {"check": check}) == line and check == _hash(_canonical(fields))
    except (ValueError, LookupError, TypeError, AttributeError):
        return None
    return fields if whole else None


def _trial(fields: Mapping[str, Any]) -> Trial:
    at = datetime.fromisoformat(fields["at"])
    return Trial(
        at, fields["kind"], fields["recipe_hash"], fields["what"], fields["daily_active_sharpe"], fields["days"]
    )


def _tampered(path: Path, number: int, what: str) -> LedgerTampered:
    return LedgerTampered(
        f"line {number} of {path} {what}: the count of trials cannot be believed. Restore the file from a backup, or "
        "keep it aside, begin a new one and say so beside each figure that counts trials"
    )
