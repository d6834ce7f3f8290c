"""The emulated venue as a process of its own, reached by HTTP only: its clock, its faults, its ground truth."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from datetime import datetime
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any

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
        self._line = HTTPConnection(HOST, self._port, timeout=ANSWER_S)  # kept open: the clock is moved all the time
        self._lock = threading.Lock()  # jobs have threads

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
        self._line.close()
        self.now += 1.0
        self.start()

    def end(self) -> None:
        self._line.close()
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
        with self._lock:
            try:
                return self._ask(method, door, body)
            except BaseException as error:  # also a rehearsed death: what is answered now is not for the next one
                self._line.close()
                if isinstance(error, (OSError, HTTPException, ValueError)):
                    raise VenueTrouble(f"{method} {door}: {error}") from error
                raise

    def _ask(self, method: str, door: str, body: Mapping[str, Any] | None) -> Any:
        self._line.request(method, f"/_ctl/{door}", None if body is None else json.dumps(body))
        answer = self._line.getresponse()
        told = answer.read()
        if answer.status != HTTPStatus.OK:
            raise VenueTrouble(f"{method} {door} {body}: {told.decode(errors='replace')}")
        return json.loads(told)

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
