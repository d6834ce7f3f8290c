"""Senders as processes: forked from a parent that has everything imported, killed, stopped and woken by signals.

The parent has no threads, and a child opens its own database connections; all else is as in a sender that cron starts.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import select
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from policy.execution import crashpoints
from policy.execution.desk import Row
from policy.execution.sender import LiveWallets, run_once
from policy.execution.venues import open_trading
from policy.execution.venues.protocol import TakeNonce, TradingVenue
from policy.execution.wallet_keys import credentials_of
from shared.clock import open_clock
from shared.schema import open_database
from shared.settings import Settings
from shared.wallets_file import WalletEntry

POLL_S = 0.002
Ending = Literal["ended", "killed", "stopped"]
Keys = dict[str, str]  # by the names of environment variables, as in config/wallets.json


@dataclass(frozen=True, slots=True)
class Told:
    """How a sender came to its end, or to a stop; ``result``: its run's, or ``failed`` with the reason."""

    ending: Ending
    result: dict[str, Any]
    seconds: float


class Stuck(AssertionError):
    """A sender did not come to an end in real time."""


class Sender:
    """One run of the sender over one live wallet, in a process of its own.

    ``at``: name:n, the point at which it kills itself (SIGKILL), or stops itself (SIGSTOP) where ``stops``.
    """

    def __init__(self, settings: Settings, entry: WalletEntry, keys: Keys, at: str | None, *, stops: bool) -> None:
        self._reading, writing = os.pipe()
        self._began = time.monotonic()
        self.pid = os.fork()
        if self.pid == 0:
            _live_and_leave(writing, lambda: _run(settings, entry, keys, at, stops))
        os.close(writing)
        self._over: Told | None = None

    def wait(self, patience_s: float) -> Told:
        """Until it has ended or stands still. Stuck, and it is dead, after ``patience_s`` of real time."""
        deadline = time.monotonic() + patience_s
        while time.monotonic() < deadline:
            told = self.look()
            if told is not None:
                return told
            time.sleep(POLL_S)
        self.signal(signal.SIGKILL)
        os.waitpid(self.pid, 0)
        self._over = Told("killed", {}, patience_s)
        raise Stuck(f"the sender did not end within {patience_s:.0f} s")

    def look(self) -> Told | None:
        """None: it runs."""
        if self._over is not None:
            return self._over
        pid, status = os.waitpid(self.pid, os.WNOHANG | os.WUNTRACED)
        if pid == 0:
            return None
        seconds = time.monotonic() - self._began
        if os.WIFSTOPPED(status):
            return Told("stopped", {}, seconds)
        killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
        self._over = Told("killed" if killed else "ended", {} if killed else self._read(), seconds)
        os.close(self._reading)
        return self._over

    def signal(self, number: signal.Signals) -> None:
        """Nothing where it is over: its process id may be another's by now."""
        if self._over is None:
            os.kill(self.pid, number)

    def end(self) -> None:
        """Whatever it does, also stopped, it is gone then."""
        if self._over is None:
            with contextlib.suppress(ProcessLookupError, ChildProcessError):
                os.kill(self.pid, signal.SIGKILL)
                os.waitpid(self.pid, 0)

    def _read(self) -> dict[str, Any]:
        told = b""
        while select.select([self._reading], [], [], 5.0)[0] and (part := os.read(self._reading, 65_536)):
            told += part
        result: dict[str, Any] = json.loads(told) if told else {"failed": "it ended without a word"}
        return result


def _live_and_leave(writing: int, work: Callable[[], dict[str, Any]]) -> None:
    """In the child: never returns, and runs none of the parent's clean-up."""
    try:
        logging.disable(logging.CRITICAL)
        told = work()
    except BaseException as error:  # whatever ends it is told, and the parent judges
        told = {"failed": f"{type(error).__name__}: {error}"}
    with contextlib.suppress(OSError):
        os.write(writing, json.dumps(told, default=str).encode())
    os._exit(0)


def _run(settings: Settings, entry: WalletEntry, keys: Keys, at: str | None, stops: bool) -> dict[str, Any]:
    if stops and at is not None:
        crashpoints.hook = _stopping(at)
    else:
        crashpoints.arm(at)
    database = open_database(settings, "sender")
    live = LiveWallets(settings, _opener(settings, entry, keys))
    try:
        outcome = run_once(open_clock(settings.clock_url), database, live)
    finally:
        live.close()
        database.close()
    return {"status": outcome.status, **outcome.result}


def _stopping(at: str) -> Callable[[str], None]:
    point, _, nth = at.partition(":")
    passed = 0

    def hook(name: str) -> None:
        nonlocal passed
        passed += name == point
        if name == point and passed == int(nth):
            os.kill(os.getpid(), signal.SIGSTOP)

    return hook


def _opener(settings: Settings, entry: WalletEntry, keys: Keys) -> Callable[[Row, TakeNonce], Any]:
    def open_venue(wallet: Row, take_nonce: TakeNonce) -> tuple[TradingVenue, WalletEntry]:
        venue = open_trading(entry.venue, settings, credentials_of(entry, keys), take_nonce, wallet["symbols"])
        return venue, entry

    return open_venue
