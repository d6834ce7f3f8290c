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
    "late_arrival": "REST: closed without an answer; the request reaches the engine later; parameter: virtual "
    "seconds (default 30); phase before: it reaches the venue later, nonce and all",
    "fill_before_cancel": "REST: half of the rest is filled just before a cancellation takes effect",
    "fill_after_cancel": "REST: a cancellation is confirmed, then half of the rest is filled; parameter: virtual "
    "seconds afterwards (default 1)",
    "silence": "stream: open, but no message of any kind, no heartbeat",
    "stream_close": "stream: the socket is closed in order",
    "stream_reset": "stream: the socket ends with a TCP RST",
    "stream_bad_json": "stream: a message that is not JSON",
    "checksum": "stream: a wrong checksum of the book",
    "duplicate": "REST: every row comes twice; stream: an event comes twice",
    "reorder": "REST: the rows come in reverse; stream: two events are swapped",
    "gap": "lasting: one closed candle is left out; parameter: a Unix time in it (default the newest closed)",
    "drop_update": "stream: an event is lost; of executions with its number, or without: parameter 'unnumbered'",
    "late_event": "stream: a message of executions comes late; parameter: by that many virtual seconds (default 1)",
    "sequence_gap": "stream: a number is left out between two messages of executions, and nothing is lost",
    "token_expiry": "stream: the token for executions is refused as expired",
    "revision": "lasting: one closed candle is slightly wrong; parameter as of gap",
    "spike": "lasting: one closed candle has ten times its high and close; parameter as of gap",
    "maintenance": "lasting: the venue's status says maintenance",
    "cancel_only": "lasting: the venue's status says cancel_only",
    "delisting": "lasting: the symbol vanishes from the venue's lists and answers",
    "post_only": "lasting: the venue's status says post_only",
    "stale_read": "lasting: orders, fills, balances as they were; parameter: virtual seconds ago (default 10)",
    "hide_order": "lasting: new orders are listed late; parameter: virtual seconds after their placing (default 10)",
    "minimum": "lasting: the least quantity of an order changes; parameter: to that (default ten times)",
    "tick_size": "lasting: prices come on another tick; parameter: that one (default ten times)",
    "clock_skew": "lasting: the venue's clock is wrong; parameter: by that many seconds (default 10)",
}

LASTING = frozenset(fault for fault, text in FAULTS.items() if text.startswith("lasting:"))
# Those that only the private halves know; the feed never meets them.
TRADING = frozenset(
    {"late_arrival", "fill_before_cancel", "fill_after_cancel", "late_event", "sequence_gap", "token_expiry"}
    | {"post_only", "stale_read", "hide_order", "minimum", "tick_size"}
)
# Those whose parameter is a number.
NUMBERED = frozenset(
    {"hang", "http_429", "http_5xx", "gap", "revision", "spike", "clock_skew", "late_event", "late_arrival"}
    | {"fill_after_cancel", "stale_read", "hide_order", "minimum", "tick_size"}
)

Surface = Literal["rest", "stream", "any"]
SURFACES = ("rest", "stream", "any")
Phase = Literal["before", "after_effect"]
PHASES = ("before", "after_effect")


@dataclass(frozen=True, slots=True)
class Rule:
    """When ``fault`` strikes: None means any endpoint, any symbol, for ever, from now on.

    ``phase`` of a fault of transport: the venue never gets the request, or does what it asks and the client does not
    learn it. None: hang with a parameter, short_body and bad_json come after the effect, the others before it.
    """

    fault: str
    surface: Surface = "any"
    endpoint: str | None = None
    symbol: str | None = None  # BASE/QUOTE
    times: int | None = None
    starts: float | None = None  # virtual Unix seconds; it strikes from here on
    ends: float | None = None  # ... and no more from here on
    parameter: float | str | None = None
    probability: float = 1.0  # of each opportunity
    phase: Phase | None = None
    nth: int | None = None  # the only opportunity that it takes, counted from 1 at its injection
    client_id: str | None = None  # of the order that the request is about

    def __post_init__(self) -> None:
        if self.fault not in FAULTS:
            raise ValueError(f"no fault {self.fault!r}; there are {', '.join(FAULTS)}")
        if self.surface not in SURFACES:
            raise ValueError(f"no surface {self.surface!r}; there are {', '.join(SURFACES)}")
        if self.phase is not None and (self.phase not in PHASES or not FAULTS[self.fault].startswith("REST:")):
            raise ValueError(f"no phase {self.phase!r} of {self.fault}: faults of REST have {', '.join(PHASES)}")
        if self.fault == "late_arrival" and self.phase == "after_effect":
            raise ValueError("late_arrival takes effect once, and late: before is all that its phase can be")
        if self.nth is not None and (self.nth < 1 or self.fault in LASTING):
            raise ValueError(f"nth counts opportunities from 1, and what lasts has none; got {self.nth}")
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

    def aims_at(self, surface: str, endpoint: str | None, symbol: str | None, client_id: str | None = None) -> bool:
        """A rule for one symbol, endpoint or order misses what has none."""
        return (
            (self.surface == "any" or surface in ("any", self.surface))
            and self.endpoint in (None, endpoint)
            and self.symbol in (None, symbol)
            and self.client_id in (None, client_id)
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
        self._seen: Counter[int] = Counter()  # opportunities of rules that wait for their nth
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
        self,
        faults: Collection[str],
        surface: str,
        endpoint: str | None = None,
        symbol: str | None = None,
        client_id: str | None = None,
    ) -> Rule | None:
        """The first rule for one of ``faults`` that strikes here and now; it is spent and counted."""
        with self._lock:
            for number, rule in self._matching(faults, surface, endpoint, symbol, client_id):
                if rule.nth is not None:
                    self._seen[number] += 1
                    if self._seen[number] != rule.nth:
                        continue
                if rule.probability == 1 or self._random.random() < rule.probability:
                    self._spend(number, rule)
                    return rule
            return None

    def active(
        self,
        fault: str,
        symbol: str | None = None,
        surface: str = "any",
        endpoint: str | None = None,
        client_id: str | None = None,
    ) -> Rule | None:
        """The first rule by which ``fault`` lasts now; asking costs nothing, serving does (``spend``)."""
        with self._lock:
            matching = self._matching((fault,), surface, endpoint, symbol, client_id)
            return next((rule for _, rule in matching), None)

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
        self, faults: Collection[str], surface: str, endpoint: str | None, symbol: str | None, client_id: str | None
    ) -> list[tuple[int, Rule]]:
        now = self._clock.now()
        return [
            (number, rule)
            for number, rule in self._rules.items()
            if rule.fault in faults
            and rule.is_on(now)
            and rule.aims_at(surface, endpoint, symbol, client_id)
            and self._is_left(number)
        ]

    def _is_left(self, number: int) -> bool:
        return self._left.get(number, 1) > 0

    def _spend(self, number: int | None, rule: Rule) -> None:
        if number in self._left:
            self._left[number] -= 1
        self.served[rule.fault] += 1
