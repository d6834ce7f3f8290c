"""Virtual time: as fast as wanted, or standing still until told; never backwards."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable


class VirtualClock:
    """Unix seconds that run ``speed`` times as fast as real ones; 0 stands still. Safe for many threads."""

    def __init__(self, start: float, speed: float = 0.0, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._at = _checked("start", start)
        self._speed = _checked("speed", speed)
        self._read = monotonic()

    @property
    def speed(self) -> float:
        return self._speed

    def now(self) -> float:
        with self._lock:
            return self._catch_up()

    def advance(self, seconds: float) -> float:
        """The time after the jump; ValueError if it were back."""
        with self._lock:
            self._at = self._catch_up() + _checked("advance", seconds)
            return self._at

    def set_speed(self, speed: float) -> None:
        with self._lock:
            self._catch_up()
            self._speed = _checked("speed", speed)

    def _catch_up(self) -> float:
        """Under the lock: the present becomes the point to reckon from."""
        read = self._monotonic()
        self._at += max(0.0, read - self._read) * self._speed
        self._read = read
        return self._at


def _checked(name: str, value: float) -> float:
    if not (math.isfinite(value) and value >= 0):
        raise ValueError(f"{name} must be a finite number of seconds or times, 0 or more; got {value!r}")
    return float(value)
