"""The host's side of a conversation with a peer: its virtual environment, made when missing, and its process.

Every peer lives in ``.peers/<name>`` with pinned versions, so that none of them can change what Sextant runs on, and
answers one request a line (bench/peers/serve.py): two sides that take turns in one run meet the same noise.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Any

ROOT = Path(__file__).parents[2]
TORCH = "torch==2.13.0"  # installed first, by plain pip, in the build that fits the machine
SB3 = "stable-baselines3==2.9.2"
REQUIREMENTS = {
    "gym-anytrading": (TORCH, SB3, "gym-anytrading==2.0.0"),
    "gym-trading-env": (TORCH, SB3, "gym-trading-env==0.3.5"),
    "vectorbt": ("vectorbt==1.2.0",),
    "backtesting": ("backtesting==0.6.6",),
}
OWN = "sextant"
MODULES = {name: f"bench.peers.{name.replace('-', '_')}" for name in (OWN, *REQUIREMENTS)}
ONE_THREAD = ("env", "OMP_NUM_THREADS=1", "OPENBLAS_NUM_THREADS=1", "MKL_NUM_THREADS=1", "NUMBA_NUM_THREADS=1")


class PeerError(RuntimeError):
    """A peer could not be installed, or its process ended or failed while it was asked."""


def python_of(name: str) -> Path:
    """The interpreter of a peer's virtual environment, which is made, or made anew for other pins, when needed; for
    our own side it is this one."""
    if name == OWN:
        return Path(sys.executable)
    home, wanted = ROOT / ".peers" / name, "\n".join(REQUIREMENTS[name])
    python, installed = home / "bin" / "python", home / ".installed"
    if installed.exists() and installed.read_text() == wanted:
        return python
    print(f"installing {name} into {home} (once, some minutes)", file=sys.stderr, flush=True)
    _run(name, [sys.executable, "-m", "venv", "--clear", str(home)])
    for requirement in REQUIREMENTS[name]:
        _run(name, [str(python), "-m", "pip", "--disable-pip-version-check", "install", "--quiet", requirement])
    installed.write_text(wanted)
    return python


def _run(name: str, command: list[str]) -> None:
    done = subprocess.run(command, stdout=sys.stderr, check=False)
    if done.returncode:
        raise PeerError(
            f"{name} could not be installed: {' '.join(command)} ended with {done.returncode}. Its own message is "
            f"above; check the network and pip's index, remove {ROOT / '.peers' / name} and run the benchmark again"
        )


class Peer:
    """A running peer; ``ask`` one question at a time. One thread each: OpenMP, BLAS and numba are told so."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._process = subprocess.Popen(
            [*ONE_THREAD, str(python_of(name)), "-m", MODULES[name]],
            cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def ask(self, question: str, **details: object) -> Any:
        """The answer, decoded from JSON; PeerError when the peer died (its traceback is on stderr)."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps({"question": question, "details": details}) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise PeerError(
                f"{self.name} ended while asked for {question} {details}; its traceback is above. Try "
                f"{python_of(self.name)} -m {MODULES[self.name]} by hand, or remove its folder to have it made anew"
            )
        return json.loads(line)

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(timeout=30)
