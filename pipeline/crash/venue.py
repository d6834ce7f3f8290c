"""The emulated venue as a process of its own, reached by HTTP only: its clock, its faults, its ground truth."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from shared.clock import from_unix
from shared.errors import SextantError
from shared.settings import PROJECT

HOST = "127.0.0.1"
READY_S, ANSWER_S, END_S = 60.0, 30.0, 10.0
MICROSECOND = 1e-6


class VenueTrouble(SextantError):
    """The emulator does not do what the harness needs of it: the round says nothing about the sender."""


class Venue:
    """One run of ``python -m tests.exchange_emulator`` after another, on one port and one journal.

    Its clock stands still unless ``advance`` moves it, so ``now`` (Unix seconds) is known here.
    """

    def __init__(self, folder: Path, symbols: tuple[str, ...], now: float) -> None:
        self._folder, self._symbols, self._port = folder, symbols, _free_port()
        self.now = now
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self._port}"

    @property
    def websocket_url(self) -> str:
        return f"ws://{HOST}:{self._port}/v2"

    @property
    def clock_url(self) -> str:
        return f"{self.url}/_ctl/clock"

    @property
    def time(self) -> datetime:
        return from_unix(self.now)

    def start(self) -> None:
        command = [
            sys.executable, "-m", "tests.exchange_emulator", "--port", str(self._port), "--speed", "0",
            "--journal", str(self._folder / "journal.jsonl"), "--start", self.time.isoformat(),
            "--symbols", *self._symbols,
        ]  # fmt: skip
        with (self._folder / "venue.log").open("ab") as log:
            self._process = subprocess.Popen(command, cwd=PROJECT, stdout=log, stderr=log)  # noqa: S603
        deadline = time.monotonic() + READY_S
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                told = (self._folder / "venue.log").read_text(errors="replace")[-1000:]
                raise VenueTrouble(f"the emulator did not start:\n{told}")
            time.sleep(0.02)

    def kill(self) -> None:
        """SIGKILL, and a new run from the journal, a second later by its clock."""
        assert self._process is not None
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()
        self.now += 1.0
        self.start()

    def end(self) -> None:
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None

    def ask(self, method: str, door: str, body: Mapping[str, Any] | None = None) -> Any:
        """One of the emulator's doors under /_ctl. VenueTrouble with its words where it refuses."""
        data = None if body is None else json.dumps(body).encode()
        request = Request(f"{self.url}/_ctl/{door}", data, method=method)  # noqa: S310  (loopback)
        try:
            with urlopen(request, timeout=ANSWER_S) as answer:  # noqa: S310
                return json.loads(answer.read())
        except HTTPError as error:
            raise VenueTrouble(f"{method} {door} {body}: {error.read().decode(errors='replace')}") from error
        except (OSError, ValueError) as error:
            raise VenueTrouble(f"{method} {door}: {error}") from error

    def advance(self, seconds: float) -> None:
        self.now = self.ask("POST", "clock", {"advance": seconds})["now"]

    def truth(self, account: str) -> dict[str, Any]:
        """Orders, fills, entries and balances as they really are; amounts are strings."""
        told: dict[str, Any] = self.ask("GET", "ground_truth")[account]
        return told

    def _answers(self) -> bool:
        try:
            return bool(abs(self.ask("GET", "clock")["now"] - self.now) < 2 * MICROSECOND)
        except VenueTrouble:
            return False


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port
