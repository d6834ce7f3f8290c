"""A copy of the working tree in which leaks are tried, and what the tests said there."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.planted.leak import Leak

PROJECT = Path(__file__).resolve().parents[2]
LIMIT_S = 600.0
JUDGED = {"AssertionError", "Failed"}  # how a test says no: assert, or pytest.fail and what pytest.raises misses
# Of the process that tries leaks, when that is pytest itself.
NOT_PASSED_ON = ("PYTEST_XDIST_WORKER", "PYTEST_XDIST_WORKER_COUNT", "PYTEST_CURRENT_TEST", "PYTEST_ADDOPTS")


@dataclass(frozen=True, slots=True)
class Heard:
    """What became of one test; ``raised``: the type of its error and that type's bases."""

    test: str
    when: str
    outcome: str
    raised: tuple[str, ...]
    said: str

    @property
    def objects(self) -> bool:
        """The test ran and judged; an import that fails, or a crash, is no judgement."""
        return self.when == "call" and self.outcome == "failed" and bool(JUDGED & set(self.raised))


@dataclass(frozen=True, slots=True)
class Hearing:
    """What all tests of one run said; ``tail``: the end of what pytest printed, for when it did not get that far."""

    heard: tuple[Heard, ...]
    tail: str

    @property
    def passed(self) -> set[str]:
        return {one.test for one in self.heard if one.outcome == "passed"}

    @property
    def failed(self) -> list[Heard]:
        return [one for one in self.heard if one.outcome == "failed"]


def files_of(tree: Path) -> list[str]:
    """What git tracks or would: deleted files and what is ignored are left out."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=tree, check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip
    return sorted({name for name in listed.split("\0") if name and (tree / name).is_file()})


@dataclass(frozen=True, slots=True)
class Copy:
    """A copy of the tree at ``root``; one run at a time."""

    root: Path

    @staticmethod
    def of(tree: Path, files: Sequence[str], root: Path) -> Copy:
        for name in files:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(tree / name, root / name)
        return Copy(root)

    @contextmanager
    def leaking(self, leak: Leak) -> Iterator[None]:
        """With the mistake in place. LeakOutdated when its text is not there once."""
        path = self.root / leak.file
        stamp = path.stat() if path.is_file() else None
        before = leak.apply(self.root)
        assert stamp is not None
        try:
            self._stamp(path, stamp)
            yield
        finally:
            path.write_bytes(before)
            self._stamp(path, stamp)

    def _stamp(self, path: Path, stamp: os.stat_result) -> None:
        """The time of before, so that numba finds what it compiled (its key knows the code); Python would take its
        own compiled form for current, so that goes."""
        os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
        for cached in path.parent.glob(f"__pycache__/{path.stem}.*.pyc"):
            cached.unlink()

    def hear(
        self, tests: Sequence[str], *, without: Collection[str] = (), most: int = 0, limit_s: float = 600
    ) -> Hearing:
        """Runs ``tests`` (paths or node ids) but those ``without``; stops after ``most`` failures, 0 for never."""
        scratch = self.root.parent / f"{self.root.name}-scratch"
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir()
        told = scratch / "witness.jsonl"
        told.touch()
        unset = [word for name in NOT_PASSED_ON for word in ("-u", name)]
        command = [
            "env", *unset, "OPENBLAS_NUM_THREADS=1", "OMP_NUM_THREADS=1",
            sys.executable, "-m", "pytest", "-n", "0", "-p", "tests.planted.witness", f"--witness={told}",
            f"--basetemp={scratch / 't'}", f"--maxfail={most}", "--tb=line", *tests,
            *(f"--deselect={test}" for test in without),
        ]  # fmt: skip
        try:
            run = subprocess.run(
                command, cwd=self.root, capture_output=True, text=True, timeout=limit_s, stdin=subprocess.DEVNULL
            )
            tail = (run.stdout + run.stderr)[-2000:]
        except subprocess.TimeoutExpired:
            tail = f"stopped after {limit_s:.0f} s"
        lines = [json.loads(line) for line in told.read_text().splitlines() if line.endswith("}")]
        return Hearing(tuple(Heard(**line | {"raised": tuple(line["raised"])}) for line in lines), tail)
