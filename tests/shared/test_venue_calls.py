"""The cache of reads, and cache, retries, breaker and limiter joined."""

from __future__ import annotations

import logging
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.exchanges.protocol import ExchangeError
from shared.exchanges.resilience import CircuitBreaker, PassingTrouble, ReadCache, RetryPolicy, VenueCalls
from tests.shared.test_resilience import FakeTime, failing


@pytest.fixture
def fake() -> FakeTime:
    return FakeTime()


@pytest.fixture
def calls(fake: FakeTime) -> VenueCalls:
    return VenueCalls("kraken", 10.0, burst=10.0, timer=fake.timer())


# --- cache ---


def test_an_answer_serves_until_it_is_thirty_seconds_old(fake: FakeTime) -> None:
    cache, answers = ReadCache(timer=fake.timer()), iter(range(10))
    assert cache.get("k", lambda: next(answers)) == 0
    fake.now += 29.9
    assert cache.get("k", lambda: next(answers)) == 0
    fake.now += 0.1
    assert cache.get("k", lambda: next(answers)) == 1
    assert (cache.hits, cache.misses, cache.evictions) == (1, 2, 0)


def test_who_wants_a_fresher_answer_gets_one(fake: FakeTime) -> None:
    cache, answers = ReadCache(timer=fake.timer()), iter(range(10))
    cache.get("k", lambda: next(answers), 3_600.0)
    fake.now += 60
    assert cache.get("k", lambda: next(answers), 3_600.0) == 0
    assert cache.get("k", lambda: next(answers), 30.0) == 1
    assert cache.get("k", lambda: next(answers), 3_600.0) == 1


@settings(max_examples=100, deadline=None)
@given(size=st.integers(1, 5), keys=st.lists(st.integers(0, 8), max_size=60))
def test_the_least_recently_used_goes_first_and_the_size_is_bounded(size: int, keys: list[int]) -> None:
    cache, model = ReadCache(size=size, timer=FakeTime().timer()), list[int]()
    for key in keys:
        asked = []
        assert cache.get(key, lambda key=key, asked=asked: asked.append(key) or -key) == -key
        assert bool(asked) == (key not in model)
        model = [k for k in model if k != key] + [key]
        model = model[-size:]
        assert len(cache) == len(model) <= size
    assert cache.hits + cache.misses == len(keys)
    assert cache.evictions == cache.misses - len(model)


def test_a_failed_read_is_never_kept(fake: FakeTime) -> None:
    cache = ReadCache(timer=fake.timer())
    with pytest.raises(ExchangeError):
        cache.get("k", failing(1, ExchangeError("down")))
    assert cache.get("k", lambda: "up") == "up"
    assert cache.hits == 0


@pytest.mark.parametrize("fails", [False, True])
def test_identical_reads_at_one_time_ask_once_and_share_what_comes(fails: bool) -> None:
    cache, asked, answer_now = ReadCache(), [], threading.Event()

    def ask() -> str:
        asked.append(1)
        assert answer_now.wait(5)
        if fails:
            raise ExchangeError("down")
        return "answer"

    with ThreadPoolExecutor(6) as pool:
        reads = [pool.submit(cache.get, "k", ask) for _ in range(6)]
        while cache.hits < 5:
            time.sleep(0.001)
        answer_now.set()
        results = [read.exception(5) or read.result() for read in reads]
    assert len(asked) == 1
    assert {str(result) for result in results} == {"down" if fails else "answer"}
    assert (cache.hits, cache.misses) == (5, 1)


# --- all together ---


def test_what_it_counts(calls: VenueCalls) -> None:
    assert calls.read("a", failing(2, PassingTrouble("timeout", "late"))) == "answer"
    for _ in range(3):
        calls.read("b", lambda: "kept", ttl_s=60.0)
    with pytest.raises(ExchangeError):
        calls.read("c", failing(1, ExchangeError("unknown pair", kind="venue_error")))
    assert calls.statistics() == {
        "reads": 5,
        "calls": 3 + 1 + 1,
        "calls_saved": 2,
        "retries": 2,
        "rate_limited": 0,
        "hits": 2,
        "misses": 1,
        "evictions": 0,
        "troubles": {"timeout": 2, "venue_error": 1},
    }


def test_each_trouble_is_logged_once_with_its_kind(calls: VenueCalls, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "sextant.exchanges"):
        calls.read("OHLC", failing(2, PassingTrouble("not_json", "<html>")))
        with pytest.raises(ExchangeError):
            calls.read("OHLC", failing(1, ExchangeError("bad pair", kind="venue_error")))
    logged: list[Any] = list(caplog.records)
    assert [(r.kind, r.venue) for r in logged] == [("not_json", "kraken")] * 2 + [("venue_error", "kraken")]
    assert logged[0].getMessage() == "kraken OHLC: not_json: <html>"


def test_every_try_waits_for_its_turn(fake: FakeTime) -> None:
    calls = VenueCalls("v", 0.5, timer=fake.timer(), retry=RetryPolicy(first_s=0.0, timer=fake.timer()))
    calls.read("a", failing(3, PassingTrouble("timeout", "late")))
    assert sum(fake.naps) == 3 * 2.0


def test_a_venue_that_is_down_is_asked_no_more_and_then_once(fake: FakeTime) -> None:
    asked = []

    def down() -> None:
        asked.append(fake.now)
        raise PassingTrouble("transport", "refused")

    breaker = CircuitBreaker("v", threshold=8, cool_down_s=1_000.0, timer=fake.timer())
    calls = VenueCalls("v", 10.0, timer=fake.timer(), breaker=breaker)
    for _ in range(20):
        with pytest.raises(ExchangeError):
            calls.read("a", down)
    assert len(asked) == 8
    assert calls.statistics()["troubles"] == {"transport": 8, "circuit_open": 18}
    fake.now += 1_000
    with pytest.raises(ExchangeError):
        calls.read("a", down)
    assert len(asked) == 9


def test_a_no_of_the_venue_is_an_answer_and_one_bad_question_closes_it_to_no_other(calls: VenueCalls) -> None:
    for _ in range(9):
        with pytest.raises(ExchangeError, match="no_result"):
            calls.read("b", failing(4, PassingTrouble("no_result", "null")))
    assert calls.breaker.state == "closed"
    for _ in range(3):
        with pytest.raises(ExchangeError):
            calls.read("c", failing(4, PassingTrouble("timeout", "late")))
        with pytest.raises(ExchangeError, match="unknown pair"):
            calls.read("a", failing(1, ExchangeError("unknown pair")))
    assert calls.breaker.state == "closed"


def test_after_a_429_everybody_waits(calls: VenueCalls, fake: FakeTime) -> None:
    started = fake.now
    calls.read("a", failing(1, PassingTrouble("rate_limited", "slow down", retry_after_s=9.0)))
    assert fake.now >= started + 9.0
    assert calls.statistics()["rate_limited"] == 1


def test_a_bug_or_ctrl_c_says_nothing_about_the_venue(calls: VenueCalls, fake: FakeTime) -> None:
    for error in (KeyboardInterrupt(), ZeroDivisionError()):
        with pytest.raises(type(error)):
            calls.read("a", failing(1, error))
    assert calls.statistics()["troubles"] == {}
    assert calls.breaker.state == "closed"
    for _ in range(2):
        with pytest.raises(ExchangeError):
            calls.read("a", failing(4, PassingTrouble("timeout", "late")))
    fake.now += 60
    with pytest.raises(KeyboardInterrupt):
        calls.read("a", failing(1, KeyboardInterrupt()))
    assert calls.read("a", lambda: "the probe is free again") == "the probe is free again"
