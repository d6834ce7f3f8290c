"""How often a venue is asked, by all threads and all processes of one installation together: it counts by IP."""

from __future__ import annotations

import fcntl
import logging
import math
import os
import struct
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from shared.clock import Timer
from shared.embedded_db_files import make_home

log = logging.getLogger("sextant.exchanges")

TOKEN_DUST = 1e-9  # of a token: what float sums may be short of
FUTURE_S = 60.0  # a level that lies farther ahead is of a clock that has begun anew since, with a reboot


@dataclass(slots=True)
class Level:
    """A token bucket's state, in seconds of the monotonic clock: when it is full again, and when it opens."""

    full_at: float = -math.inf
    not_before: float = -math.inf


class LevelFile:
    """One venue's Level for every process that opens the same file, ``<home>/rates/<venue>``; OSError if none can be.

    Linux's monotonic clock is one for all processes and no setting of the time moves it.
    """

    LAYOUT = struct.Struct("<2d")

    def __init__(self, path: Path) -> None:
        self.path = path

    def update(self, change: Callable[[Level], float], latest: float) -> float:
        """What ``change`` gives for the level, locked against all others; a fresh one where it is beyond ``latest``."""
        make_home(self.path.parent.parent)
        self.path.parent.mkdir(mode=0o700, exist_ok=True)
        # Opened anew each time: the lock is the open file's, so threads of one process exclude one another too.
        file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX)  # gone with the process, however it ends
            level = self._read(file, latest)
            answer = change(level)
            os.pwrite(file, self.LAYOUT.pack(level.full_at, level.not_before), 0)
            return answer
        finally:
            os.close(file)

    def _read(self, file: int, latest: float) -> Level:
        stored = os.pread(file, self.LAYOUT.size, 0)
        moments = self.LAYOUT.unpack(stored) if len(stored) == self.LAYOUT.size else ()
        return Level(*moments) if moments and all(moment <= latest for moment in moments) else Level()


class RateLimiter:
    """A token bucket: at most ``burst`` + ``rate_per_s`` · t calls in any t seconds.

    First come, first served among the threads of a process; processes that share ``path`` keep the limit together,
    and whichever of them looks first when a token is there gets it. Without a path, or where the file cannot be
    written (logged once), the limit is this object's alone.
    """

    def __init__(
        self, rate_per_s: float, burst: float = 1.0, timer: Timer | None = None, path: Path | None = None
    ) -> None:
        if not (0 < rate_per_s < math.inf and 0 < burst < math.inf):
            raise ValueError(f"a rate of {rate_per_s}/s with a burst of {burst} is no limit: give positive numbers")
        self.rate_per_s, self.burst = rate_per_s, burst
        self._timer = timer or Timer()
        self._level, self._lock = Level(), threading.Lock()
        self._file = None if path is None else LevelFile(path)
        self._queue: deque[object] = deque()
        self._changed = threading.Condition()

    def acquire(self, cost: float = 1.0) -> None:
        """Waits until ``cost`` tokens are there and takes them."""
        if cost > self.burst:
            raise ValueError(f"a call of cost {cost} can never pass a bucket of {self.burst}")
        with self._turn():
            # Tokens are taken when they are there, not promised ahead: who oversleeps must not meet the next one.
            while (wait_s := self._take(cost)) > 0:
                self._timer.sleep(wait_s)

    def pause(self, seconds: float) -> None:
        """Lets nobody through for that long: the venue said that it is asked too often."""

        def close(level: Level) -> float:
            level.not_before = max(level.not_before, self._timer.monotonic() + seconds)
            return seconds

        self._update(close)

    def _take(self, cost: float) -> float:
        """0 where ``cost`` tokens were there and are taken, else the seconds until they can be."""

        def take(level: Level) -> float:
            now = self._timer.monotonic()
            full_at = max(level.full_at, now)
            missing = (full_at - now) * self.rate_per_s - (self.burst - cost)  # tokens
            wait_s = max(missing / self.rate_per_s if missing > TOKEN_DUST else 0.0, level.not_before - now, 0.0)
            if wait_s == 0:
                level.full_at = full_at + cost / self.rate_per_s
            return wait_s

        return self._update(take)

    def _update(self, change: Callable[[Level], float]) -> float:
        """Of the level of all processes where a file is shared; nobody sleeps meanwhile."""
        with self._lock:
            if self._file is not None:
                latest = self._timer.monotonic() + FUTURE_S + self.burst / self.rate_per_s
                try:
                    return self._file.update(change, latest)
                except OSError as error:
                    told = "%s is not shared (%s): other processes may ask %s at the full rate besides this one"
                    path, self._file = self._file.path, None
                    log.warning(told, path, error, path.name, extra={"venue": path.name})
            return change(self._level)

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """A lock that is passed on in the order of asking, which threading.Lock does not promise."""
        me = object()
        with self._changed:
            self._queue.append(me)
            try:
                self._changed.wait_for(lambda: self._queue[0] is me)
            except BaseException:
                self._leave(me)
                raise
        try:
            yield
        finally:
            with self._changed:
                self._leave(me)

    def _leave(self, me: object) -> None:
        self._queue.remove(me)
        self._changed.notify_all()
