"""How often a venue lets itself be asked. Everybody here is 127.0.0.1, so one counter is one IP's."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass
class LeakyCounter:
    """Kraken's: each call adds 1, ``per_s`` leak away each second, and calls that would pass ``burst`` are refused."""

    now: Callable[[], float]
    per_s: float
    burst: float
    refused: int = 0
    _level: float = 0.0
    _read: float = float("-inf")
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def admit(self) -> bool:
        with self._lock:
            now = self.now()
            self._level = max(0.0, self._level - (now - self._read) * self.per_s)
            self._read = now
            if self._level + 1 > self.burst:
                self.refused += 1
                return False
            self._level += 1
            return True


@dataclass
class MinuteWeight:
    """Binance's: a sum of weights in each minute of the clock, at most ``limit``."""

    now: Callable[[], float]
    limit: int
    refused: int = 0
    used: int = 0
    _minute: int = -1
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def admit(self, weight: int) -> bool:
        with self._lock:
            minute = int(self.now() // 60)
            if minute != self._minute:
                self._minute, self.used = minute, 0
            self.used += weight
            if self.used > self.limit:
                self.refused += 1
                return False
            return True

    def retry_after_s(self) -> int:
        return 60 - int(self.now() % 60)
