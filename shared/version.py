"""Which code runs, and under which settings: two short hashes that each decision carries into its intent.

An entry is sent by the code that decided it: half a deployment, or a service that runs on with yesterday's code, is
refused (Knight Capital's loss of 2012 began with one server of eight left on old code).
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from shared.settings import PROJECT, Settings

DIRECTORIES = ("policy", "shared", "sql")
SOURCES = ("*.py", "*.sql")
DIGITS = 12  # of a sha256, in hex


def code_version(project: Path) -> str:
    """Of the names and bytes of every source that deciding and sending are made of."""
    digest = hashlib.sha256()
    for path in sorted(path for name in DIRECTORIES for kind in SOURCES for path in (project / name).rglob(kind)):
        source = path.read_bytes()
        digest.update(f"{path.relative_to(project).as_posix()} {len(source)}\n".encode() + source)
    return digest.hexdigest()[:DIGITS]


def settings_hash(settings: Settings) -> str:
    """Of what decides and limits orders; addresses, keys, schedules, and the universe, which a wallet's own allow-list
    stands in for, are left out."""
    told = settings.model_dump_json(
        include={"universe": {"decision_timeframe"}, "execution": True, "risk": True, "exits": True}
    )
    return hashlib.sha256(told.encode()).hexdigest()[:DIGITS]


CODE = code_version(PROJECT)  # when this process began: files may change under it later, what it runs does not
