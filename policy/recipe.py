"""What makes a policy, as one hash: the kernel, the decision path and the training code.

Canaries, evaluations and trained models are stored under it, so that a promotion can ask whether the proofs are of this
very code. The files are found by following imports from where deciding and training begin: a list by hand would be
forgotten when a file is split. Reading source only; nothing is imported.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from shared.settings import Settings

PROJECT = Path(__file__).resolve().parent.parent
BEGINNINGS = (
    "policy.inputs",
    "policy.decision_path",
    "policy.compiled_path",
    "policy.trading_env",
    "policy.training",
    "policy.policy_export",
)
COVERED = ("policy", "shared.simulation")  # other shared modules (database, clock, settings) decide nothing


@cache
def recipe_hash() -> str:
    """sha256 over the names and bytes of ``recipe_files()``; read once a process."""
    digest = hashlib.sha256()
    for path in recipe_files():
        source = path.read_bytes()
        digest.update(f"{path.relative_to(PROJECT).as_posix()} {len(source)}\n".encode() + source)
    return digest.hexdigest()


def made_by(settings: Settings) -> dict[str, Any]:
    """What a model's and an evaluation's row say of how policies were made; a promotion asks for the same of both."""
    policy = settings.policy
    budget = {"seeds": policy.seeds, "pathwise_steps": policy.pathwise_steps, "ppo_steps": policy.ppo_steps}
    return {"recipe": recipe_hash(), "training": budget}


def recipe_files() -> tuple[Path, ...]:
    """The covered source files that deciding and training are made of, sorted. FileNotFoundError where one of the
    beginnings is gone: name its successor in BEGINNINGS."""
    found: set[Path] = set()
    waiting = [_file_of(name) for name in BEGINNINGS]
    for name, path in zip(BEGINNINGS, waiting, strict=True):
        if path is None:
            raise FileNotFoundError(f"{name} is not a module of {PROJECT} any more: name its successor in BEGINNINGS")
    while waiting:
        path = waiting.pop()
        if path is not None and path not in found:
            found.add(path)
            waiting += [_file_of(name) for name in _imported(path)]
    return tuple(sorted(found))


def _imported(path: Path) -> Iterator[str]:
    """Every covered module that a file names in an import, at its top or within a function."""
    for node in ast.walk(ast.parse(path.read_bytes())):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        yield from (
            name for name in names if name.startswith(tuple(f"{covered}." for covered in COVERED)) or name in COVERED
        )


def _file_of(module: str) -> Path | None:
    """The module's file; None for a name within a module."""
    place = PROJECT.joinpath(*module.split("."))
    return next((path for path in (place.with_suffix(".py"), place / "__init__.py") if path.is_file()), None)
