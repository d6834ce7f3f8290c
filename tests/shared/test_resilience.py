"""The manners with which a venue is asked, on a clock that moves only when slept on."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.clock import Timer
from shared.exchanges.protocol import ExchangeError
from shared.exchanges.rate_limit import RateLimiter
from shared.exchanges.resilience import (
    CircuitBreaker,
    PassingTrouble,
    RetryPolicy,
    VenueCalls,
    retry_after_s,
)


class FakeTime:
    """Seconds that pass by sleeping, a little more than asked for, as an operating system does."""

    def __init__(self, oversleep: float = 0.0) -> None:
        self.now, self.oversleep, self.naps = 1_000.0, oversleep, list[float]()
        self._lock = threading.Lock()

    def sleep(self, seconds: float) -> None:
        with self._lock:
            self.naps.append(seconds)
            self.now += seconds + self.oversleep

    def timer(self) -> Timer:
        return Timer(lambda: self.now, self.sleep)


@pytest.fixture
def fake() -> FakeTime:
    return FakeTime()


# --- rate limiter ---


def most_within(passed: list[tuple[float, float]], rate: float, burst: float) -> float:
    """By how much the cost within any window exceeds burst + rate · t; at most 0 for a limiter that keeps its word."""
    worst = -burst
    for i, (start, _) in enumerate(passed):
        total = 0.0
        for at, cost in passed[i:]:
            total += cost
            worst = max(worst, total - burst - rate * (at - start))
    return worst


@settings(max_examples=150, deadline=None)
@given(
    rate=st.floats(0.05, 200),
    burst=st.floats(1, 20),
    oversleep=st.sampled_from([0.0, 1e-4, 0.7]),
    asks=st.lists(st.tuples(st.floats(0, 5), st.floats(0.1, 1)), min_size=1, max_size=40),
)
def test_no_window_holds_more_than_the_burst_and_the_rate(
    rate: float, burst: float, oversleep: float, asks: list[tuple[float, float]]
) -> None:
    fake = FakeTime(oversleep)
    limiter = RateLimiter(rate, burst, fake.timer())
    passed = []
    for idle, cost in asks:
        fake.now += idle
        limiter.acquire(cost)
        passed.append((fake.now, cost))
    assert most_within(passed, rate, burst) < 1e-6


def test_threads_share_the_limit_and_each_gets_through(fake: FakeTime) -> None:
    limiter, passed = RateLimiter(2.0, 3.0, fake.timer()), list[tuple[float, float]]()

    def ask(_number: int) -> None:
        limiter.acquire()
        passed.append((fake.now, 1.0))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(ask, range(60)))
    assert len(passed) == 60
    assert sum(fake.naps) == pytest.approx(57 / 2.0)


def test_real_threads_on_the_real_clock_keep_the_limit() -> None:
    limiter, passed = RateLimiter(200.0, 2.0), list[tuple[float, float]]()
    lock = threading.Lock()

    def ask(_number: int) -> None:
        limiter.acquire()
        with lock:
            passed.append((time.monotonic(), 1.0))

    started = time.monotonic()
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(ask, range(40)))
    assert time.monotonic() - started >= 38 / 200.0


def test_who_asks_first_goes_first() -> None:
    asleep, wake, order = threading.Event(), threading.Event(), list[int]()
    now = 0.0

    def sleep(seconds: float) -> None:
        nonlocal now
        asleep.set()
        assert wake.wait(5)
        now += seconds

    limiter = RateLimiter(1.0, 1.0, Timer(lambda: now, sleep))
    limiter.acquire()
    threads = []
    for number in range(5):
        threads.append(threading.Thread(target=lambda n=number: (limiter.acquire(), order.append(n))))
        threads[-1].start()
        assert asleep.wait(5)
        while len(limiter._queue) < number + 1:
            time.sleep(0.001)
    wake.set()
    for thread in threads:
        thread.join(5)
    assert order == [0, 1, 2, 3, 4]


def test_saved_tokens_never_exceed_the_burst(fake: FakeTime) -> None:
    limiter = RateLimiter(1.0, 3.0, fake.timer())
    fake.now += 1_000
    for _ in range(3):
        limiter.acquire()
    assert fake.naps == []
    limiter.acquire()
    assert fake.naps == [1.0]


def test_a_pause_holds_everybody(fake: FakeTime) -> None:
    limiter = RateLimiter(1.0, 5.0, fake.timer())
    limiter.pause(12.0)
    limiter.pause(3.0)
    limiter.acquire()
    assert sum(fake.naps) == 12.0


def test_who_is_interrupted_while_waiting_blocks_nobody(fake: FakeTime) -> None:
    def interrupted(_seconds: float) -> None:
        raise KeyboardInterrupt

    limiter = RateLimiter(1.0, 1.0, Timer(lambda: fake.now, interrupted))
    limiter.acquire()
    with pytest.raises(KeyboardInterrupt):
        limiter.acquire()
    fake.now += 1
    limiter.acquire()


def test_who_is_interrupted_in_the_queue_leaves_it(fake: FakeTime, monkeypatch: pytest.MonkeyPatch) -> None:
    limiter = RateLimiter(1.0, 1.0, fake.timer())
    with monkeypatch.context() as patched:
        patched.setattr(limiter._changed, "wait_for", lambda _mine: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            limiter.acquire()
    assert not limiter._queue
    limiter.acquire()


def test_a_limit_that_is_none_and_a_cost_that_never_fits_are_refused() -> None:
    for rate, burst in ((0.0, 1.0), (-1.0, 1.0), (float("inf"), 1.0), (float("nan"), 1.0), (1.0, 0.0)):
        with pytest.raises(ValueError, match="no limit"):
            RateLimiter(rate, burst)
    with pytest.raises(ValueError, match="never pass"):
        RateLimiter(1.0, 2.0).acquire(2.5)


@pytest.mark.parametrize(("told_s", "paused_s"), [(None, 2.0), (9.0, 9.0), (100.0, 30.0)])
def test_a_rate_limit_pauses_everybody_whether_or_not_it_says_for_how_long(
    fake: FakeTime, told_s: float | None, paused_s: float
) -> None:
    calls = VenueCalls("v", 10.0, burst=10.0, timer=fake.timer(), retry=RetryPolicy(tries=1, timer=fake.timer()))
    with pytest.raises(ExchangeError):
        calls.read("a", failing(1, PassingTrouble("rate_limited", "slow down", told_s)))
    calls.limiter.acquire()
    assert sum(fake.naps) == pytest.approx(paused_s)


# --- retries ---


def failing(times: int, trouble: Exception, answer: str = "answer") -> Callable[[], str]:
    left = [trouble] * times

    def ask() -> str:
        if left:
            raise left.pop()
        return answer

    return ask


TIMED_OUT = PassingTrouble("timeout", "no answer")


def test_a_read_is_repeated_while_the_trouble_may_pass(fake: FakeTime) -> None:
    policy = RetryPolicy(tries=4, timer=fake.timer())
    assert policy.read("x", failing(3, TIMED_OUT)) == "answer"
    with pytest.raises(ExchangeError, match=r"^x: timeout: no answer; gave up after 4 tries$") as refused:
        policy.read("x", failing(4, TIMED_OUT))
    assert refused.value.kind == "timeout"
    assert len(fake.naps) == 3 + 3


def test_what_will_not_pass_is_not_repeated(fake: FakeTime) -> None:
    with pytest.raises(ExchangeError, match="no such pair"):
        RetryPolicy(timer=fake.timer()).read("x", failing(1, ExchangeError("no such pair")))
    assert fake.naps == []


def test_waits_are_drawn_from_zero_to_a_ceiling_that_doubles_up_to_the_cap() -> None:
    policy = RetryPolicy(first_s=2.0, cap_s=12.0, rng=random.Random(1))
    for attempt, ceiling in ((1, 2.0), (2, 4.0), (3, 8.0), (4, 12.0), (9, 12.0)):
        waits = [policy.wait_s(attempt) for _ in range(2_000)]
        assert 0 <= min(waits) < 0.02 * ceiling
        assert 0.98 * ceiling < max(waits) <= ceiling
        assert sum(waits) / len(waits) == pytest.approx(ceiling / 2, rel=0.05)


def test_retry_after_is_honoured_and_one_beyond_all_patience_ends_it(fake: FakeTime) -> None:
    policy = RetryPolicy(cap_s=20.0, timer=fake.timer())
    policy.read("x", failing(1, PassingTrouble("rate_limited", "slow down", retry_after_s=19.5)))
    assert fake.naps == [19.5]
    with pytest.raises(ExchangeError, match=r"after 1 try$") as refused:
        policy.read("x", failing(1, PassingTrouble("rate_limited", "banned", retry_after_s=21.0)))
    assert refused.value.kind == "rate_limited"
    assert fake.naps == [19.5]


@pytest.mark.parametrize(
    ("value", "seconds"),
    [("7", 7.0), (" 30 ", 30.0), ("Wed, 21 Oct 2015 07:28:00 GMT", None), ("-1", None), ("", None)],
)
def test_retry_after_is_read_where_it_is_in_seconds(value: str, seconds: float | None) -> None:
    assert retry_after_s({"Retry-After": value}) == seconds
    assert retry_after_s({}) is None
    assert retry_after_s(None) is None


# --- circuit breaker ---


def breaker_with(fake: FakeTime, failures: int) -> CircuitBreaker:
    breaker = CircuitBreaker("kraken", threshold=3, cool_down_s=30.0, timer=fake.timer())
    for _ in range(failures):
        breaker.enter()
        breaker.failed(TIMED_OUT)
    return breaker


def test_it_opens_after_so_many_failures_in_a_row_and_says_since_when_why_and_until_when(fake: FakeTime) -> None:
    breaker = breaker_with(fake, 2)
    breaker.enter()
    breaker.succeeded()
    for _ in range(2):
        breaker.enter()
        breaker.failed(TIMED_OUT)
    assert breaker.state == "closed"
    breaker.failed(TIMED_OUT)
    assert breaker.state == "open"
    fake.now += 12
    said = r"^kraken has not answered for 12 s \(timeout: no answer\); asked again in 18 s$"
    with pytest.raises(ExchangeError, match=said) as refused:
        breaker.check()
    assert refused.value.kind == "circuit_open"


def test_after_the_cool_down_one_probe_decides(fake: FakeTime) -> None:
    breaker = breaker_with(fake, 3)
    fake.now += 30
    assert breaker.state == "half-open"
    breaker.enter()
    with pytest.raises(ExchangeError, match="one call is trying"):
        breaker.enter()
    breaker.failed(TIMED_OUT)
    assert breaker.state == "open"
    fake.now += 29
    with pytest.raises(ExchangeError, match="for 59 s"):
        breaker.enter()
    fake.now += 1
    breaker.enter()
    breaker.succeeded()
    assert breaker.state == "closed"
    breaker.enter()
    breaker.enter()


def test_an_abandoned_probe_lets_another_one_try(fake: FakeTime) -> None:
    breaker = breaker_with(fake, 3)
    fake.now += 30
    breaker.enter()
    breaker.abandoned()
    breaker.enter()
    with pytest.raises(ExchangeError):
        breaker.check()


def test_a_venue_that_bans_for_long_is_left_alone_for_that_long_at_once(fake: FakeTime) -> None:
    breaker = breaker_with(fake, 0)
    breaker.enter()
    breaker.failed(PassingTrouble("rate_limited", "banned", retry_after_s=120.0))
    fake.now += 119
    with pytest.raises(ExchangeError, match="banned"):
        breaker.check()
    fake.now += 1
    breaker.check()


def test_a_straggler_that_fails_after_it_opened_prolongs_nothing(fake: FakeTime) -> None:
    breaker = breaker_with(fake, 3)
    fake.now += 20
    breaker.failed(TIMED_OUT)
    fake.now += 10
    breaker.enter()


@settings(max_examples=200, deadline=None)
@given(st.lists(st.one_of(st.sampled_from(["ok", "fail", "abandon"]), st.floats(0, 40)), max_size=60))
def test_the_breaker_is_its_state_machine(steps: list[str | float]) -> None:
    """Against a model: failures in a row and the time at which it may be tried again."""
    fake = FakeTime()
    breaker = CircuitBreaker("v", threshold=3, cool_down_s=30.0, timer=fake.timer())
    failures, until = 0, None
    for step in steps:
        if isinstance(step, float):
            fake.now += step
            continue
        refused = until is not None and fake.now < until
        if refused:
            with pytest.raises(ExchangeError):
                breaker.enter()
            continue
        breaker.enter()
        if step == "ok":
            breaker.succeeded()
            failures, until = 0, None
        elif step == "abandon":
            breaker.abandoned()
        else:
            breaker.failed(TIMED_OUT)
            failures += 1
            if failures >= 3 or until is not None:
                until = fake.now + 30.0
        expected = "closed" if until is None else "open" if fake.now < until else "half-open"
        assert breaker.state == expected
