"""The trader's loop: the same tick as cron's, when its inputs are there, and never later than the clock says."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import pytest

from policy import run_trader
from policy import run_trader_loop as module
from policy.run_trader_loop import PATIENCE_S, TraderLoop, run_loop
from shared.clock import Clock, ReplayClock, Timer
from shared.db import Database, DatabaseUnavailable, role_url
from shared.embedded_db import ensure_running
from shared.job import Outcome
from shared.settings import PROJECT, Settings
from tests.helpers import DatabaseFor
from tests.policy.paper_world import (
    DECISIONS,
    HOUR_S,
    ORDERS,
    A,
    B,
    PaperMarket,
    ScriptedPolicy,
    at,
    candles,
    insert_embeddings,
    install_scripted_policy,
    prepare,
    store_flat,
)

CUT_OFF = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
WHERE usename = 'sextant_policy' AND datname = current_database()
"""


class Hand:
    """A clock and a timer that move when the test says so; a tick that the test can look into."""

    def __init__(self, settings: Settings, start: datetime) -> None:
        self.settings, self.clock, self.elapsed_s = settings, ReplayClock(start), 0.0
        self.ticks: list[datetime] = []
        self.outcomes: list[Outcome | Exception] = []  # of the next ticks, instead of nothing

    def tick(self, clock: Clock, database: Database, settings: Settings) -> Outcome:
        self.ticks.append(clock.now())
        outcome = self.outcomes.pop(0) if self.outcomes else Outcome("nothing")
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def timer(self) -> Timer:
        return Timer(lambda: self.elapsed_s, self._sleep)

    def _sleep(self, seconds: float) -> None:
        self.elapsed_s += seconds


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step takes what has come, and does not wait for more."""
    monkeypatch.setattr(module, "LISTEN_S", 0.002)
    monkeypatch.setattr(module, "RETRY_S", 0.01)


@pytest.fixture
def market(database_for: DatabaseFor, settings: Settings) -> PaperMarket:
    return PaperMarket(database_for, settings)


Loops = Callable[..., tuple[TraderLoop, Hand]]


@pytest.fixture
def looping(settings: Settings) -> Iterator[Loops]:
    """Makes a loop that listens, and the hand that holds its clock."""
    opened: list[Database] = []

    def make(start: datetime, tick: Callable[..., Outcome] | None = None) -> tuple[TraderLoop, Hand]:
        hand = Hand(settings, start)
        listener, database = (Database(role_url(settings, "policy")) for _ in range(2))
        opened.extend((listener, database))
        loop = TraderLoop(hand.clock, settings, listener, database, tick or hand.tick, hand.timer())
        loop.listen()
        return loop, hand

    yield make
    for database in opened:
        database.close()


def notify(market: PaperMarket, channel: str = "candles") -> None:
    market.database_for("candles").execute("SELECT pg_notify(%(channel)s, '1:300:1717243200')", {"channel": channel})


def steps(loop: TraderLoop, count: int = 3) -> None:
    """With the answer to any query come the notifications that were committed before it."""
    loop.listener.execute("SELECT 1")
    for _ in range(count):
        loop.step()


def test_it_ticks_at_its_start_and_then_on_the_base_timeframe_after_the_delay(
    market: PaperMarket, looping: Loops
) -> None:
    loop, hand = looping(at("12:03"))
    steps(loop)
    assert hand.ticks == [at("12:03")], "at its start, once"
    for text in ("12:06:59", "12:07", "12:11", "12:12"):
        hand.clock.set(at(text))
        steps(loop)
        hand.elapsed_s += 1
        steps(loop)
    assert hand.ticks == [at("12:03"), at("12:07"), at("12:12")], "2 minutes after each close, heard or not"


@pytest.mark.parametrize("channel", ["candles", "embeddings"])
def test_what_is_notified_of_is_looked_at_by_one_tick_for_all_symbols(
    market: PaperMarket, looping: Loops, channel: str
) -> None:
    loop, hand = looping(at("12:03"))
    steps(loop)
    for _ in range(5):
        notify(market, channel)
    steps(loop)
    assert len(hand.ticks) == 1, "others of this close are on their way"
    hand.elapsed_s += module.COLLECT_S
    steps(loop)
    assert len(hand.ticks) == 2
    notify(market, "something_else")
    hand.elapsed_s += 1
    steps(loop)
    assert len(hand.ticks) == 2


def test_rows_that_nobody_notified_of_are_found_by_looking(market: PaperMarket, looping: Loops) -> None:
    store_flat(market, A)
    market.wallet("w", at("12:30"))
    loop, hand = looping(at("12:33"))
    steps(loop)
    hand.elapsed_s += 1
    steps(loop)
    before = len(hand.ticks)
    market.store(A, 300, candles(at("23:00"), 300, [100.0]))
    steps(loop)
    hand.elapsed_s += 1
    steps(loop)
    assert len(hand.ticks) == before + 1


@pytest.fixture
def policy(market: PaperMarket, monkeypatch: pytest.MonkeyPatch) -> ScriptedPolicy:
    return install_scripted_policy(market, monkeypatch)


def decided(market: PaperMarket) -> list[tuple[str, Any]]:
    return [(row["symbol"], row["recorded_at"]) for row in market.rows(DECISIONS)]


def test_a_decision_waits_for_the_embeddings_of_all_its_instruments_and_is_then_crons(
    market: PaperMarket, policy: ScriptedPolicy, looping: Loops
) -> None:
    instruments = [store_flat(market, A), store_flat(market, B)]
    market.wallet("w", at("12:30"))
    prepare(market, policy, instruments[:1], {"13:00": (1.0,)})
    policy.script[at("13:00")] = (1.0, 0.0)
    loop, hand = looping(at("13:02"), tick=run_trader.run_once)
    steps(loop)
    hand.elapsed_s += 1
    steps(loop)
    assert decided(market) == [], "the second instrument's embedding is on its way"
    hand.clock.set(at("13:02:04"))
    insert_embeddings(market, policy.encoder_id, instruments[1:], at("13:00"))
    notify(market, "embeddings")
    steps(loop)
    assert decided(market) == [(A, at("13:02:04")), (B, at("13:02:04"))], "at once: nobody else is waited for"
    assert [(row["symbol"], row["side"]) for row in market.rows(ORDERS)] == [(A, "buy")]
    runs = market.rows("SELECT status FROM job_runs WHERE job = 'run_trader'")
    assert [run["status"] for run in runs] == ["done"], "the job that cron runs, with its row"


def test_patience_ends_when_cron_would_run(market: PaperMarket, policy: ScriptedPolicy, looping: Loops) -> None:
    instruments = [store_flat(market, A), store_flat(market, B)]
    market.wallet("w", at("12:30"))
    prepare(market, policy, instruments[:1], {"13:00": (1.0,)})
    policy.script[at("13:00")] = (0.0, 0.0)
    loop, hand = looping(at("13:02"), tick=run_trader.run_once)
    end = at("13:02") + timedelta(seconds=PATIENCE_S)
    for moment in (at("13:02"), end - timedelta(seconds=1), end):
        hand.clock.set(moment)
        steps(loop)
    assert [moment for _, moment in decided(market)] == [end, end]


def test_a_missing_candle_is_waited_for_too(market: PaperMarket, looping: Loops) -> None:
    store_flat(market, A)
    market.store(B, HOUR_S, candles(at("12:00") - 300 * timedelta(hours=1), HOUR_S, [100.0] * 300))
    market.wallet("w", at("12:30"))
    loop, hand = looping(at("13:02"))
    steps(loop)
    assert hand.ticks == []
    market.store(B, HOUR_S, candles(at("12:00"), HOUR_S, [100.0]))
    steps(loop)
    assert hand.ticks == [at("13:02")]


def test_a_tick_that_fails_or_finds_another_at_work_does_not_end_the_loop(
    market: PaperMarket, looping: Loops, caplog: pytest.LogCaptureFixture
) -> None:
    loop, hand = looping(at("12:03"))
    hand.outcomes = [ValueError("a wallet in trouble"), Outcome("busy"), Outcome("done")]
    steps(loop)
    assert len(hand.ticks) == 1
    assert "a tick failed; the loop goes on" in caplog.text
    hand.clock.set(at("12:07"))
    hand.elapsed_s += 1
    steps(loop, 1)
    hand.elapsed_s += 1
    steps(loop, 1)
    assert len(hand.ticks) == 2, "due on time, and another instance is at work"
    hand.elapsed_s += 1
    steps(loop)
    assert len(hand.ticks) == 3, "looked at again, without a notification"
    hand.elapsed_s += 5
    steps(loop)
    assert len(hand.ticks) == 3
    assert loop.ticks == 1


def test_it_gives_a_sign_of_life_a_base_candle_and_says_when_a_tick_failed(
    market: PaperMarket, looping: Loops, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a monitor that waits for the trader hears nothing where the loop runs instead of cron."""
    told: list[tuple[datetime, str, bool]] = []
    loop, hand = looping(at("12:03"))

    def beat(url: object, job: str, passed: bool, wait: bool) -> None:
        assert (url, wait) == (loop.settings.heartbeat_url, False)
        told.append((hand.clock.now(), job, passed))

    monkeypatch.setattr(module, "beat", beat)
    hand.outcomes = [Outcome("nothing"), Outcome("done"), ValueError("a wallet in trouble")]
    steps(loop)
    market.database_for("owner").execute("NOTIFY candles")  # news: a tick, no sign
    for text in ("12:04", "12:07"):
        hand.clock.set(at(text))
        steps(loop)
        hand.elapsed_s += 1
        steps(loop)
    assert hand.ticks == [at("12:03"), at("12:04"), at("12:07")]
    assert told == [(at("12:03"), "run_trader", True), (at("12:07"), "run_trader", False)]


def test_a_lost_database_is_reached_anew_and_alarmed_about(market: PaperMarket, settings: Settings) -> None:
    hand = Hand(settings, at("12:03"))
    server = ensure_running(settings.home_path)
    superuser = Database(server.url("postgres", server.superuser_password, settings.db_name))

    def tick(clock: Clock, database: Database, settings: Settings) -> Outcome:
        hand.ticks.append(clock.now())
        if len(hand.ticks) < 3:
            superuser.execute(CUT_OFF)
            database.execute("SELECT 1")
        return Outcome("done")

    with closing(superuser):
        assert run_loop(hand.clock, settings, lambda: len(hand.ticks) == 3, tick, hand.timer()) == 1
    assert len(hand.ticks) == 3
    (alert,) = market.rows("SELECT severity, layer, message FROM alerts")
    assert (alert["severity"], alert["layer"]) == ("warning", "policy")
    assert alert["message"].startswith("the trader loop was without its database for 0 s: ")
    assert "terminat" in alert["message"]


def test_waiting_longer_each_time_for_a_database_that_stays_away(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    hand, asked_at = Hand(settings, at("12:03")), []

    def away(settings: Settings, layer: str) -> Database:
        asked_at.append(hand.elapsed_s)
        raise DatabaseUnavailable("away")

    monkeypatch.setattr(module, "LISTEN_S", 1.0)
    monkeypatch.setattr(module, "RETRY_S", 1.0)
    monkeypatch.setattr(module, "open_database", away)
    ended = lambda: len(asked_at) == 9 and hand.elapsed_s >= asked_at[-1] + 0.5  # noqa: E731
    assert run_loop(hand.clock, settings, ended, hand.tick, hand.timer()) == 0
    assert np.diff(asked_at).tolist() == [1, 2, 4, 8, 16, 32, 60, 60]
    assert hand.elapsed_s <= asked_at[-1] + 1.5, "the end is noticed within a second, however long the wait"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_process_leaves_by_a_signal_with_0(market: PaperMarket, settings: Settings, number: int) -> None:
    environment = {"PATH": "/usr/bin:/bin", "SEXTANT_HOME": str(settings.home_path), "LC_ALL": "C.UTF-8",
                   "DB_NAME": settings.db_name}  # fmt: skip
    process = subprocess.Popen([sys.executable, "-m", "policy.run_trader_loop"], cwd=PROJECT, env=environment,
                               stderr=subprocess.PIPE, text=True)  # fmt: skip
    try:
        assert process.stderr is not None
        assert "listening" in process.stderr.readline()
        process.send_signal(number)
        _, told = process.communicate(timeout=10)
    finally:
        process.kill()
        process.wait(10)
    assert process.returncode == 0
    assert f'"because": ["{signal.Signals(number).name}"]' in told
    assert '"ticks": 1' in told or '"ticks": 0' in told
    assert "Traceback" not in told


def test_bad_settings_are_said_with_2(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("SEXTANT_LOG__LEVEL", "LOUD")
    assert module.main([]) == 2
    assert "log.level" in capsys.readouterr().err.lower()
