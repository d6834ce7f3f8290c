"""How a venue is asked: politely, patiently, and not at all while it is down.

One ``VenueCalls`` for each venue object, used by every call of that venue's file and safe to use from several threads.
Time comes from a ``Timer``, so tests run on a clock of their own.
"""

from __future__ import annotations

import logging
import random
import threading
from collections import Counter, OrderedDict
from collections.abc import Callable, Hashable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from shared.clock import Timer
from shared.exchanges.protocol import ExchangeError
from shared.exchanges.rate_limit import RateLimiter

log = logging.getLogger("sextant.exchanges")
T = TypeVar("T")

CACHE_TTL_S = 30.0
CACHE_SIZE = 1_024
EXCERPT = 200  # characters of an answer quoted in an error
# Troubles of the venue as a whole; the others (no_result) may be one question's own.
VENUE_TROUBLES = frozenset({"timeout", "transport", "not_json", "rate_limited", "server_error", "maintenance"})


class PassingTrouble(Exception):
    """A failure that may pass if the same question is asked later.

    ``kind`` is one of timeout, transport, not_json, no_result, rate_limited, server_error, maintenance;
    ``retry_after_s`` is how long the venue asked to be left alone, where it said so.
    """

    def __init__(self, kind: str, detail: str, retry_after_s: float | None = None) -> None:
        super().__init__(f"{kind}: {detail}")
        self.kind, self.detail, self.retry_after_s = kind, detail, retry_after_s


@dataclass(frozen=True)
class RetryPolicy:
    """Asks again, with full jitter (a uniform draw below a ceiling that doubles), where the trouble may pass.

    There is only ``read``. A read may be repeated because asking twice changes nothing; an order may not: a lost
    answer does not mean a lost order, and a client id stops no second one once the first has filled. What became of
    an order is found out by reading, and nothing is ever sent twice.
    """

    tries: int = 4
    first_s: float = 2.0
    cap_s: float = 30.0
    timer: Timer = field(default_factory=Timer)
    rng: random.Random = field(default_factory=random.Random)

    def read(self, what: str, ask: Callable[[], T]) -> T:
        """The answer to an idempotent question; ExchangeError, with the last trouble's kind, when patience ends.

        A venue that asks to be left alone for longer than ``cap_s`` is not waited for.
        """
        for attempt in range(1, self.tries + 1):
            try:
                return ask()
            except PassingTrouble as trouble:
                wait_s = self.wait_s(attempt, trouble.retry_after_s)
                if attempt == self.tries or wait_s > self.cap_s:
                    tried = f"gave up after {attempt} {'try' if attempt == 1 else 'tries'}"
                    raise ExchangeError(f"{what}: {trouble}; {tried}", kind=trouble.kind) from trouble
            self.timer.sleep(wait_s)
        raise AssertionError("unreachable")

    def wait_s(self, attempt: int, retry_after_s: float | None = None) -> float:
        """Before try ``attempt`` + 1; never less than what the venue asked for."""
        ceiling = min(self.cap_s, self.first_s * 2.0 ** (attempt - 1))
        return max(self.rng.uniform(0.0, ceiling), retry_after_s or 0.0)


class CircuitBreaker:
    """Stops asking a venue that does not answer.

    closed → open after ``threshold`` failures in a row → half-open after ``cool_down_s``, when one call may probe
    → closed if the venue answers, else open again.
    """

    def __init__(self, venue: str, threshold: int = 8, cool_down_s: float = 30.0, timer: Timer | None = None) -> None:
        self._venue, self._threshold, self._cool_down_s = venue, threshold, cool_down_s
        self._timer = timer or Timer()
        self._lock = threading.Lock()
        self._failures = 0
        self._opened_at: float | None = None
        self._until = 0.0
        self._probing = False
        self._why = ""

    @property
    def state(self) -> str:
        """``closed``, ``open`` or ``half-open``."""
        if self._opened_at is None:
            return "closed"
        return "half-open" if self._timer.monotonic() >= self._until else "open"

    def check(self) -> None:
        """ExchangeError (kind circuit_open) while no call may pass."""
        with self._lock:
            self._refuse_if_open()

    def enter(self) -> None:
        """Like check, and a call begins: exactly one of succeeded, failed or abandoned must follow."""
        with self._lock:
            self._refuse_if_open()
            self._probing = self._opened_at is not None

    def succeeded(self) -> None:
        with self._lock:
            if self._opened_at is not None:
                log.info("%s answers again", self._venue, extra={"venue": self._venue})
            self._failures, self._opened_at, self._probing = 0, None, False

    def failed(self, trouble: PassingTrouble) -> None:
        """Opens at the threshold, after a failed probe, or where the venue asks for more than the cool-down."""
        with self._lock:
            now = self._timer.monotonic()
            self._failures += 1
            was_open, self._probing = self._opened_at is not None, False
            if was_open and now < self._until:
                return  # a call that began before it opened
            pause_s = max(self._cool_down_s, trouble.retry_after_s or 0.0)
            if was_open or self._failures >= self._threshold or pause_s > self._cool_down_s:
                self._opened_at = now if self._opened_at is None else self._opened_at
                self._until, self._why = now + pause_s, str(trouble)
                message = "%s is left alone for %.0f s after %d failures in a row: %s"
                log.warning(message, self._venue, pause_s, self._failures, trouble, extra={"venue": self._venue})

    def abandoned(self) -> None:
        """The call ended without telling anything about the venue (Ctrl-C, a bug)."""
        with self._lock:
            self._probing = False

    def _refuse_if_open(self) -> None:
        if self._opened_at is None:
            return
        now = self._timer.monotonic()
        if now < self._until or self._probing:
            when = f"asked again in {self._until - now:.0f} s" if now < self._until else "one call is trying it now"
            since = f"has not answered for {now - self._opened_at:.0f} s"
            raise ExchangeError(f"{self._venue} {since} ({self._why}); {when}", kind="circuit_open")


@dataclass(frozen=True, slots=True)
class _Kept:
    value: Any
    at: float


class ReadCache:
    """Answers of up to ``ttl_s`` seconds ago, the ``size`` most recently used; concurrent identical reads ask once.

    A failed read is never kept; those who waited for it get its error.
    """

    def __init__(self, ttl_s: float = CACHE_TTL_S, size: int = CACHE_SIZE, timer: Timer | None = None) -> None:
        self._ttl_s, self._size, self._timer = ttl_s, size, timer or Timer()
        self._kept: OrderedDict[Hashable, _Kept] = OrderedDict()
        self._asking: dict[Hashable, Future[Any]] = {}
        self._lock = threading.Lock()
        self.hits = self.misses = self.evictions = 0

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, key: Hashable, ask: Callable[[], T], ttl_s: float | None = None) -> T:
        """The answer of up to ``ttl_s`` (the cache's own where None) seconds ago, else what ``ask`` gives now."""
        with self._lock:
            kept = self._kept.get(key)
            if kept is not None and self._timer.monotonic() - kept.at < (self._ttl_s if ttl_s is None else ttl_s):
                self._kept.move_to_end(key)
                self.hits += 1
                value: T = kept.value
                return value
            asked: Future[T] | None = self._asking.get(key)
            self.misses += asked is None
            self.hits += asked is not None
            if asked is None:
                mine: Future[T] = Future()
                self._asking[key] = mine
        return self._ask(key, ask, mine) if asked is None else asked.result()

    def _ask(self, key: Hashable, ask: Callable[[], T], answer: Future[T]) -> T:
        try:
            value = ask()
        except BaseException as error:
            with self._lock:
                del self._asking[key]
            answer.set_exception(error)
            raise
        with self._lock:
            del self._asking[key]
            self._kept[key] = _Kept(value, self._timer.monotonic())
            self._kept.move_to_end(key)
            while len(self._kept) > self._size:
                self._kept.popitem(last=False)
                self.evictions += 1
        answer.set_result(value)
        return value


class VenueCalls:
    """Every question to one venue passes here: cache, then retries, each through circuit breaker and rate limiter."""

    def __init__(
        self,
        venue: str,
        rate_per_s: float,
        *,
        burst: float = 1.0,
        timer: Timer | None = None,
        retry: RetryPolicy | None = None,
        breaker: CircuitBreaker | None = None,
        cache: ReadCache | None = None,
        home: Path | None = None,
    ) -> None:
        """``home`` is SEXTANT_HOME: all processes of that installation keep the rate together; None: this object."""
        timer = timer or Timer()
        self.venue = venue
        self.limiter = RateLimiter(rate_per_s, burst, timer, None if home is None else home / "rates" / venue)
        self.retry = retry or RetryPolicy(timer=timer)
        self.breaker = breaker or CircuitBreaker(venue, timer=timer)
        self.cache = cache or ReadCache(timer=timer)
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()
        self._troubles: Counter[str] = Counter()

    def read(self, key: str, ask: Callable[[], T], ttl_s: float = 0.0, cost: float = 1.0) -> T:
        """The answer of ``ask``, or the one of up to ``ttl_s`` seconds ago; ``key`` names the question.

        ``ask`` raises PassingTrouble for what may pass and ExchangeError for what will not. ExchangeError carries
        the ``kind`` of what went wrong.
        """
        self._count("reads")
        if ttl_s <= 0:
            return self._patiently(key, ask, cost)
        return self.cache.get(key, lambda: self._patiently(key, ask, cost), ttl_s)

    def note(self, kind: str, detail: str) -> None:
        """Something odd in an answer that was right all the same: counted and logged like a trouble."""
        self._trouble(kind)
        log.warning("%s %s: %s", self.venue, detail, kind, extra={"venue": self.venue, "kind": kind})

    def statistics(self) -> dict[str, Any]:
        """Counts since the start: of questions, of calls made and saved, and of troubles by kind."""
        with self._lock:
            counts, troubles = dict(self._counts), dict(self._troubles)
        return {
            "reads": counts.get("reads", 0),
            "calls": counts.get("calls", 0),
            "calls_saved": self.cache.hits,
            "retries": counts.get("retries", 0),
            "rate_limited": troubles.get("rate_limited", 0),
            "hits": self.cache.hits,
            "misses": self.cache.misses,
            "evictions": self.cache.evictions,
            "troubles": troubles,
        }

    def _patiently(self, key: str, ask: Callable[[], T], cost: float) -> T:
        what, tries = f"{self.venue} {key}", 0

        def once() -> T:
            nonlocal tries
            tries += 1
            if tries > 1:
                self._count("retries")
            return self._once(what, ask, cost)

        return self.retry.read(what, once)

    def _once(self, what: str, ask: Callable[[], T], cost: float) -> T:
        try:
            self.breaker.check()  # before waiting in the queue, and again after it
            self.limiter.acquire(cost)
            self.breaker.enter()
        except ExchangeError as error:
            self._trouble(error.kind)
            raise
        self._count("calls")
        try:
            answer = ask()
        except PassingTrouble as trouble:
            self._passing(what, trouble)
            raise
        except ExchangeError as error:  # an answer all the same
            self.breaker.succeeded()
            self._trouble(error.kind)
            log.warning("%s", error, extra={"venue": self.venue, "kind": error.kind})
            raise
        except BaseException:
            self.breaker.abandoned()
            raise
        self.breaker.succeeded()
        return answer

    def _passing(self, what: str, trouble: PassingTrouble) -> None:
        if trouble.kind in VENUE_TROUBLES:
            self.breaker.failed(trouble)
        else:
            self.breaker.succeeded()
        if trouble.kind == "rate_limited":  # everybody's, even where the venue does not say for how long
            self.limiter.pause(min(trouble.retry_after_s or self.retry.first_s, self.retry.cap_s))
        self._trouble(trouble.kind)
        log.warning("%s: %s", what, trouble, extra={"venue": self.venue, "kind": trouble.kind})

    def _count(self, what: str) -> None:
        with self._lock:
            self._counts[what] += 1

    def _trouble(self, kind: str) -> None:
        with self._lock:
            self._troubles[kind] += 1


def excerpt(answer: object) -> str:
    """The beginning of it, on one line, to be quoted in an error."""
    text = " ".join(str(answer).split())
    return text if len(text) <= EXCERPT else text[:EXCERPT] + "…"


def root_cause(error: BaseException) -> str:
    """What happened at the bottom of a chain of errors: connection libraries wrap it several times over."""
    bottom = error
    while (below := bottom.__cause__ or bottom.__context__) is not None:
        bottom = below
    return f"{type(error).__name__}: {bottom}"


def retry_after_s(headers: Mapping[str, str] | None) -> float | None:
    """Seconds of a Retry-After header; None where there is none, or a date, which would need the venue's clock."""
    told = (headers or {}).get("Retry-After", "").strip()
    return float(told) if told.isascii() and told.isdigit() else None
