"""The switchboard: which fault is on, for whom, how often and until when."""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Collection
from dataclasses import asdict, dataclass
from typing import Any, Literal

from tests.exchange_emulator.clock import VirtualClock

FAULTS: dict[str, str] = {
    "hang": "REST: no answer until the client leaves; parameter: answer after that many real seconds",
    "reset": "REST: the connection ends with a TCP RST",
    "close": "REST: the connection is closed without an answer",
    "short_body": "REST: fewer bytes than Content-Length promises, then closed",
    "html": "REST: status 200 with a page of HTML",
    "bad_json": "REST: status 200 with JSON that breaks off",
    "empty": "REST: status 200 with an empty body",
    "null_result": "REST: Kraken's result, or Binance's whole answer, is null",
    "http_429": "REST: status 429; parameter: seconds of Retry-After (default 1)",
    "http_5xx": "REST: a server error with a page of HTML; parameter: the status (default 502)",
    "error": "REST: the venue's error; parameter: its words (default EService:Unavailable; Binance: '-1001 Text')",
    "silence": "stream: open, but no message of any kind, no heartbeat",
    "stream_close": "stream: the socket is closed in order",
    "stream_reset": "stream: the socket ends with a TCP RST",
    "stream_bad_json": "stream: a message that is not JSON",
    "checksum": "stream: a wrong checksum of the book",
    "duplicate": "REST: every row comes twice; stream: an event comes twice",
    "reorder": "REST: the rows come in reverse; stream: two events are swapped",
    "gap": "lasting: one closed candle is left out; parameter: a Unix time in it (default the newest closed)",
    "drop_update": "stream: an event is lost",
    "revision": "lasting: one closed candle is slightly wrong; parameter as of gap",
    "spike": "lasting: one closed candle has ten times its high and close; parameter as of gap",
    "maintenance": "lasting: the venue's status says maintenance",
    "cancel_only": "lasting: the venue's status says cancel_only",
    "delisting": "lasting: the symbol vanishes from the venue's lists and answers",
    "clock_skew": "lasting: the venue's clock is wrong; parameter: by that many seconds (default 10)",
}

LASTING = frozenset({"gap", "revision", "spike", "maintenance", "cancel_only", "delisting", "clock_skew"})
NUMBERED = frozenset({"hang", "http_429", "http_5xx", "gap", "revision", "spike", "clock_skew"})  # their parameters

Surface = Literal["rest", "stream", "any"]
SURFACES = ("rest", "stream", "any")


@dataclass(frozen=True, slots=True)
class Rule:
    """When ``fault`` strikes: None means any endpoint, any symbol, for ever, from now on."""

    fault: str
    surface: Surface = "any"
    endpoint: str | None = None
    symbol: str | None = None  # BASE/QUOTE
    times: int | None = None
    starts: float | None = None  # virtual Unix seconds; it strikes from here on
    ends: float | None = None  # ... and no more from here on
    parameter: float | str | None = None
    probability: float = 1.0  # of each opportunity

    def __post_init__(self) -> None:
        if self.fault not in FAULTS:
            raise ValueError(f"no fault {self.fault!r}; there are {', '.join(FAULTS)}")
        if self.surface not in SURFACES:
            raise ValueError(f"no surface {self.surface!r}; there are {', '.join(SURFACES)}")
        if self.times is not None and self.times < 1:
            raise ValueError(f"times must be 1 or more, or null for always; got {self.times}")
        if not 0 < self.probability <= 1:
            raise ValueError(f"probability must be above 0 and at most 1; got {self.probability}")
        if self.surface != "any" and not _is_served_on(self.fault, self.surface):
            raise ValueError(f"{self.fault} is never served on {self.surface}: {FAULTS[self.fault]}")
        if self.parameter is not None and self.fault in NUMBERED and isinstance(self.parameter, str):
            raise ValueError(f"the parameter of {self.fault} must be a number, got {self.parameter!r}")
        if self.fault == "http_5xx" and self.parameter is not None and not 500 <= float(self.parameter) <= 599:
            raise ValueError(f"a server error has a status from 500 to 599, got {self.parameter}")
        if self.probability < 1 and self.fault in LASTING:
            raise ValueError(f"{self.fault} lasts while it is on; a probability makes no sense for it")
        if self.starts is not None and self.ends is not None and self.ends <= self.starts:
            raise ValueError(f"it would end at {self.ends}, not after its start at {self.starts}")

    def aims_at(self, surface: str, endpoint: str | None, symbol: str | None) -> bool:
        """A rule for one symbol or endpoint misses what has none."""
        return (
            (self.surface == "any" or surface in ("any", self.surface))
            and self.endpoint in (None, endpoint)
            and self.symbol in (None, symbol)
        )

    def is_on(self, now: float) -> bool:
        return (self.starts is None or now >= self.starts) and (self.ends is None or now < self.ends)


def _is_served_on(fault: str, surface: str) -> bool:
    kind = "REST:" if surface == "rest" else "stream:"
    return fault in LASTING or kind in FAULTS[fault]


class Switchboard:
    """The rules, oldest first, and how often each fault was really served. Safe for many threads."""

    def __init__(self, clock: VirtualClock, seed: int = 7) -> None:
        self._clock = clock
        self._lock = threading.RLock()
        self._random = random.Random(seed)
        self._rules: dict[int, Rule] = {}
        self._left: dict[int, int] = {}  # of rules that are good for so many times
        self._made = 0
        self.served: Counter[str] = Counter()

    def inject(self, rule: Rule) -> int:
        """The rule's number."""
        with self._lock:
            self._made += 1
            self._rules[self._made] = rule
            if rule.times is not None:
                self._left[self._made] = rule.times
            return self._made

    def take(
        self, faults: Collection[str], surface: str, endpoint: str | None = None, symbol: str | None = None
    ) -> Rule | None:
        """The first rule for one of ``faults`` that strikes here and now; it is spent and counted."""
        with self._lock:
            for number, rule in self._matching(faults, surface, endpoint, symbol):
                if rule.probability == 1 or self._random.random() < rule.probability:
                    self._spend(number, rule)
                    return rule
            return None

    def active(
        self, fault: str, symbol: str | None = None, surface: str = "any", endpoint: str | None = None
    ) -> Rule | None:
        """The first rule by which ``fault`` lasts now; asking costs nothing, serving does (``spend``)."""
        with self._lock:
            return next((rule for _, rule in self._matching((fault,), surface, endpoint, symbol)), None)

    def spend(self, rule: Rule) -> None:
        """A lasting fault was really served: count it, and use up one of its times."""
        with self._lock:
            mine = (number for number, known in self._rules.items() if known is rule and self._is_left(number))
            self._spend(next(mine, None), rule)

    def clear(self) -> None:
        """No faults any more; what was served stays counted."""
        with self._lock:
            self._rules.clear()
            self._left.clear()

    def rules(self) -> list[dict[str, Any]]:
        """Each rule with its number and how many times are left (None: no end)."""
        with self._lock:
            return [
                {"id": number, "left": self._left.get(number), **asdict(rule)} for number, rule in self._rules.items()
            ]

    def _matching(
        self, faults: Collection[str], surface: str, endpoint: str | None, symbol: str | None
    ) -> list[tuple[int, Rule]]:
        now = self._clock.now()
        return [
            (number, rule)
            for number, rule in self._rules.items()
            if rule.fault in faults
            and rule.is_on(now)
            and rule.aims_at(surface, endpoint, symbol)
            and self._is_left(number)
        ]

    def _is_left(self, number: int) -> bool:
        return self._left.get(number, 1) > 0

    def _spend(self, number: int | None, rule: Rule) -> None:
        if number in self._left:
            self._left[number] -= 1
        self.served[rule.fault] += 1
