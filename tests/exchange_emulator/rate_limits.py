"""How often a venue lets itself be asked. Everybody here is 127.0.0.1, so one counter is one IP's."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field


@dataclass
class LeakyCounter:
    """Kraken's: a call adds its cost, ``per_s`` leak away each second, and what would pass ``burst`` is refused."""

    now: Callable[[], float]
    per_s: float
    burst: float
    refused: int = 0
    _level: float = 0.0
    _read: float = float("-inf")
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def admit(self, cost: int = 1) -> bool:
        with self._lock:
            now = self.now()
            self._level = max(0.0, self._level - (now - self._read) * self.per_s)
            self._read = now
            if self._level + cost > self.burst:
                self.refused += 1
                return False
            self._level += cost
            return True

    def set(self, per_s: float, burst: float) -> None:
        with self._lock:
            self.per_s, self.burst = per_s, burst


@dataclass
class Counters:
    """One LeakyCounter each for whoever calls; ``set`` changes all of them."""

    now: Callable[[], float]
    per_s: float
    burst: float
    _each: dict[Hashable, LeakyCounter] = field(default_factory=dict, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def admit(self, who: Hashable, cost: int = 1) -> bool:
        with self._lock:
            counter = self._each.setdefault(who, LeakyCounter(self.now, self.per_s, self.burst))
        return counter.admit(cost)

    def set(self, per_s: float, burst: float) -> None:
        with self._lock:
            self.per_s, self.burst = per_s, burst
            for counter in self._each.values():
                counter.set(per_s, burst)

    @property
    def refused(self) -> int:
        with self._lock:
            return sum(counter.refused for counter in self._each.values())


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
