"""The feed as a process of its own: killed, ended, and with its database taken away, it ends up with the truth."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from shared.db import Database, owner_url
from shared.embedded_db import ensure_running, stop
from shared.exchanges.ccxt_venue import CcxtExchange
from shared.schema import bring_up
from shared.settings import PROJECT, Settings, load_settings
from tests.embedded_db.conftest import some_homes
from tests.emulator.feed_world import (
    HASTY,
    HOUR,
    START,
    STEP,
    SYMBOLS,
    Running,
    differences,
    feed_settings,
    run_until,
    wait_for_truth,
    wait_until,
)
from tests.exchange_emulator.faults import Rule
from tests.exchange_emulator.server import Emulator
from tests.helpers import DatabaseFor

Feed = subprocess.Popen[bytes]


@pytest.fixture
def emulator() -> Iterator[Emulator]:
    with Emulator(symbols=SYMBOLS, start=START) as running:
        yield running


@pytest.fixture
def start_feed(emulator: Emulator, tmp_path: Path) -> Iterator[Callable[..., Feed]]:
    """``python -m candles.run_feed`` against the emulator."""
    running: list[Feed] = []
    log = (tmp_path / "feed.log").open("wb")

    def start(settings: Settings, *arguments: str) -> Feed:
        environment = {
            "SEXTANT_HOME": str(settings.home_path),
            "DB_NAME": settings.db_name,
            "CLOCK_URL": emulator.clock_url,
            "SEXTANT_UNIVERSE__SYMBOLS": '["BTC/USD", "ETH/USD"]',
            "SEXTANT_VENUES__KRAKEN__REST_URL": emulator.rest_url,
            "SEXTANT_VENUES__KRAKEN__WEBSOCKET_URL": emulator.websocket_url,
            "SEXTANT_VENUES__KRAKEN__REQUESTS_PER_S": "50",
            "SEXTANT_FEED__GRACE_S": "0.1",
            "SEXTANT_FEED__RECONNECT_S": "0.05",
            "SEXTANT_FEED__RECONNECT_MAX_S": "0.5",
        }
        given = [f"{name}={value}" for name, value in environment.items()]
        command = ["env", *given, sys.executable, "-m", "candles.run_feed", *arguments]
        running.append(subprocess.Popen(command, cwd=PROJECT, stderr=log))
        return running[-1]

    yield start
    for feed in running:
        if feed.poll() is None:
            feed.kill()
        feed.wait()
    log.close()


def stored_until(database: Database) -> int:
    row = database.fetch_one(
        "SELECT min(last)::bigint AS last FROM (SELECT extract(epoch FROM max(as_of)) AS last FROM market_data "
        "WHERE timeframe_s = 300 GROUP BY instrument_id HAVING count(*) > 0) AS lasts"
    )
    return row["last"] if row and row["last"] else 0


def last_run(database: Database) -> tuple[str, str | None]:
    row = database.fetch_one("SELECT status, error FROM job_runs WHERE job = 'run_feed' ORDER BY id DESC LIMIT 1")
    assert row is not None
    return row["status"], row["error"]


def test_killed_in_mid_day_it_ends_as_the_truth(
    emulator: Emulator, settings: Settings, database_for: DatabaseFor, start_feed: Callable[..., Feed]
) -> None:
    reader = database_for("candles")
    for _ in range(2):
        feed = start_feed(settings)
        target = int(emulator.clock.now()) // STEP * STEP
        wait_until(lambda target=target: stored_until(reader) >= target, lambda: "the first candles")
        run_until(emulator, emulator.clock.now() + HOUR)
        feed.send_signal(signal.SIGKILL)
        assert feed.wait(10) == -signal.SIGKILL
        run_until(emulator, emulator.clock.now() + 20 * 60)
    feed = start_feed(settings)
    wait_for_truth(reader, emulator)
    feed.send_signal(signal.SIGTERM)
    begun = time.monotonic()
    assert feed.wait(10) == 0
    assert time.monotonic() - begun < 3
    assert last_run(reader) == ("done", None)
    run_until(emulator, emulator.clock.now() + HOUR)
    assert start_feed(settings, "--once").wait(20) == 0
    assert last_run(reader) == ("done", None)
    killed = reader.fetch("SELECT error FROM job_runs WHERE job = 'run_feed' AND status = 'failed'")
    assert [row["error"] for row in killed] == ["did not finish: killed or crashed"] * 2
    assert differences(reader, emulator) == ""


def test_sigterm_ends_it_in_time_while_the_venue_hangs(
    emulator: Emulator, settings: Settings, database_for: DatabaseFor, start_feed: Callable[..., Feed]
) -> None:
    reader = database_for("candles")
    emulator.faults.inject(Rule("hang", "rest"))
    feed = start_feed(settings)
    wait_until(lambda: emulator.faults.served["hang"] > 0, lambda: "a call that hangs")
    feed.send_signal(signal.SIGTERM)
    begun = time.monotonic()
    assert feed.wait(10) == 0
    assert time.monotonic() - begun < 3
    assert last_run(reader) == ("done", None)


def test_a_restart_of_the_database_loses_nothing(emulator: Emulator, start_feed: Callable[..., Feed]) -> None:
    with some_homes() as new_home:
        settings = load_settings(home=new_home("home"), universe={"venue": "kraken", "symbols": list(SYMBOLS)})
        bring_up(settings)
        feed = start_feed(settings)
        reader = Database(owner_url(settings))
        wait_until(lambda: stored_until(reader) >= START // STEP * STEP, lambda: "the first candles")
        run_until(emulator, START + 2 * HOUR)
        reader.close()
        stop(settings.home_path)
        run_until(emulator, START + 3 * HOUR)
        ensure_running(settings.home_path)
        run_until(emulator, START + 4 * HOUR)
        wait_for_truth(reader, emulator)
        assert feed.poll() is None
        feed.send_signal(signal.SIGINT)
        assert feed.wait(10) == 0
        assert last_run(reader) == ("done", None)
        assert reader.fetch("SELECT * FROM candle_gaps") == []
        reader.close()


def test_binance_is_polled_and_ends_as_the_truth(
    settings: Settings, database_for: DatabaseFor, monkeypatch: pytest.MonkeyPatch
) -> None:
    symbols = ("BTC/USDT", "ETH/USDT")
    with Emulator(symbols=symbols, start=START) as emulator:
        exchange = CcxtExchange("binance", emulator.binance_url, timer=HASTY, requests_per_s=20.0)
        reader = database_for("candles")
        with Running(emulator, feed_settings(settings, "binance", symbols), exchange) as feed:
            for i, fault in enumerate(("http_5xx", "bad_json", "http_429", "reset")):
                emulator.faults.inject(Rule(fault, "rest", times=1))
                run_until(emulator, START + (i + 1) * HOUR / 2)
                wait_until(lambda fault=fault: emulator.faults.served[fault] > 0, lambda: "the fault")
            wait_for_truth(reader, emulator, symbols, venue="binance", trades=False)
        for kind in ("server_error", "not_json", "rate_limited", "transport"):
            assert feed.counts[f"rest.{kind}"] >= 1
