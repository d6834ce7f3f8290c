"""One limit of a venue for all processes of an installation."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.exchanges.rate_limit import FUTURE_S, LevelFile, RateLimiter
from shared.settings import PROJECT
from tests.exchange_emulator.rate_limits import LeakyCounter
from tests.exchange_emulator.server import Emulator
from tests.shared.test_resilience import FakeTime, most_within

ASK = """
import sys
from pathlib import Path
from shared.exchanges import open_exchange
from shared.settings import VenueSettings
rest_url, websocket_url, home, times = sys.argv[1:]
there = VenueSettings(rest_url=rest_url, websocket_url=websocket_url, requests_per_s=10.0)
kraken = open_exchange("kraken", {"kraken": there}, Path(home))
print("ready", flush=True)
sys.stdin.readline()
for _ in range(int(times)):
    kraken.server_time()
print(kraken.calls.statistics()["troubles"], flush=True)
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "home" / "rates" / "kraken"


def test_processes_keep_the_limit_together_as_the_venue_counts_it(tmp_path: Path) -> None:
    """What the venue would refuse, it counts; two of a burst are left to the jitter of the way there."""
    with Emulator() as emulator:
        emulator.kraken_limit = LeakyCounter(time.monotonic, 10.0, 2.0)
        command = [sys.executable, "-c", ASK, emulator.rest_url, emulator.websocket_url, str(tmp_path), "12"]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        askers = [subprocess.Popen(command, cwd=PROJECT, **pipes) for _ in range(2)]
        try:
            assert [asker.stdout.readline() for asker in askers] == ["ready\n"] * 2
            started = time.monotonic()
            for asker in askers:
                asker.stdin.write("go\n")
                asker.stdin.flush()
            told = [asker.communicate(timeout=20)[0] for asker in askers]
            assert time.monotonic() - started >= 23 / 10.0
        finally:
            for asker in askers:
                asker.kill()
                asker.wait()
        assert told == ["{}\n"] * 2
        assert (emulator.requests["Time"], emulator.kraken_limit.refused) == (24, 0)


@settings(max_examples=100, deadline=None)
@given(
    rate=st.floats(0.05, 200),
    burst=st.floats(1, 20),
    oversleep=st.sampled_from([0.0, 1e-4, 0.7]),
    asks=st.lists(st.tuples(st.integers(0, 2), st.floats(0, 5), st.floats(0.1, 1)), min_size=1, max_size=30),
)
def test_no_window_of_all_who_share_it_holds_more_than_the_burst_and_the_rate(
    tmp_path_factory: pytest.TempPathFactory,
    rate: float,
    burst: float,
    oversleep: float,
    asks: list[tuple[int, float, float]],
) -> None:
    fake, path = FakeTime(oversleep), tmp_path_factory.mktemp("rates") / "v"
    limiters = [RateLimiter(rate, burst, fake.timer(), path) for _ in range(3)]
    passed = []
    for who, idle, cost in asks:
        fake.now += idle
        limiters[who].acquire(cost)
        passed.append((fake.now, cost))
    assert most_within(passed, rate, burst) < 1e-6


def test_a_pause_holds_everybody_who_shares_it(path: Path) -> None:
    fake = FakeTime()
    one, other = (RateLimiter(1.0, 5.0, fake.timer(), path) for _ in range(2))
    one.pause(12.0)
    one.pause(3.0)
    other.acquire()
    assert sum(fake.naps) == 12.0


@pytest.mark.parametrize("field", ["full_at", "not_before"])
def test_a_level_of_before_the_reboot_is_ignored_and_one_that_may_be_true_is_not(path: Path, field: str) -> None:
    for ahead_s, waits in ((FUTURE_S + 1.5, False), (FUTURE_S, True), (-500.0, False)):
        fake = FakeTime()
        LevelFile(path).update(lambda level, at=fake.now + ahead_s: setattr(level, field, at) or 0.0, 1e9)
        limiter = RateLimiter(1.0, 1.0, fake.timer(), path)
        limiter.acquire()
        assert sum(fake.naps) == (ahead_s if waits else 0.0)
        limiter.acquire()
        assert fake.naps[-1] == pytest.approx(1.0)


@pytest.mark.parametrize("garbage", [b"", b"x", b"\xff" * 16])
def test_a_file_that_is_no_level_is_begun_anew(path: Path, garbage: bytes) -> None:
    fake = FakeTime()
    path.parent.mkdir(parents=True)
    path.write_bytes(garbage)
    for _ in range(2):
        RateLimiter(1.0, 1.0, fake.timer(), path).acquire()
    assert sum(fake.naps) == 1.0


def test_where_the_file_cannot_be_held_the_limit_is_the_processs_own_and_that_is_said_once(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path.parent.parent.write_text("a file where the directory should be")
    fake = FakeTime()
    limiter = RateLimiter(1.0, 1.0, fake.timer(), path)
    with caplog.at_level(logging.WARNING, "sextant.exchanges"):
        for _ in range(3):
            limiter.acquire()
    assert sum(fake.naps) == 2.0
    (said,) = caplog.records
    assert "is not shared" in said.getMessage()
    assert said.venue == "kraken"


def test_who_waits_does_not_hold_the_file(path: Path) -> None:
    """A process that is stopped while it waits stops no other."""
    fake, other = FakeTime(), FakeTime()

    def sleep(seconds: float) -> None:
        other.now = fake.now = fake.now + seconds
        RateLimiter(1.0, 1.0, other.timer(), path).acquire()

    waiter = RateLimiter(1.0, 1.0, fake.timer(), path)
    waiter.acquire()
    passed_by = iter([sleep, fake.sleep])
    waiter._timer = type(fake.timer())(lambda: fake.now, lambda seconds: next(passed_by)(seconds))
    waiter.acquire()
    assert fake.now == 1_002.0


def test_the_home_is_made_as_the_database_would_make_it(path: Path) -> None:
    RateLimiter(1.0, path=path).acquire()
    home = path.parent.parent
    assert home.stat().st_mode & 0o777 == (0o711 if os.geteuid() == 0 else 0o700)
    assert [p.stat().st_mode & 0o777 for p in (path.parent, path)] == [0o700, 0o600]


def test_it_costs_little_and_leaves_no_file_open(path: Path) -> None:
    limiter = RateLimiter(1e9, 1e6, path=path)
    limiter.acquire()
    open_files = len(os.listdir("/proc/self/fd"))
    started = time.perf_counter()
    for _ in range(500):
        limiter.acquire()
    assert (time.perf_counter() - started) / 500 < 0.005
    assert len(os.listdir("/proc/self/fd")) == open_files
