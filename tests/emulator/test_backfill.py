"""The backfill through unmodified krakenex against the emulator: the truth, and no hole that is not known."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import pytest

from candles.backfill import run_once
from candles.gaps import NO_SPANS, NO_TIMES, Known, record_finding
from shared.clock import RemoteClock, Timer, from_unix, to_unix
from shared.db import Database
from shared.exchanges.kraken import KrakenExchange
from shared.job import Outcome
from shared.market_data import find_instruments, read_candles
from shared.rows import CANDLE_FIELDS
from shared.settings import Settings
from tests.exchange_emulator.faults import Rule
from tests.exchange_emulator.server import Emulator
from tests.helpers import DatabaseFor

STEP = 300
NOTHING = Known(NO_TIMES, NO_SPANS)
BTC, ETH = "BTC/USD", "ETH/USD"
REACH = timedelta(seconds=719 * STEP)  # Kraken's latest 720, of which one is open
HASTY = Timer(monotonic=lambda: time.monotonic() * 50, sleep=lambda s: time.sleep(s / 50))


@pytest.fixture
def emulator() -> Iterator[Emulator]:
    with Emulator() as emulator:
        yield emulator


@pytest.fixture
def database(database_for: DatabaseFor) -> Database:
    return database_for("candles")


@pytest.fixture
def run(emulator: Emulator, database: Database, settings: Settings) -> Callable[..., Outcome]:
    exchange = KrakenExchange(emulator.rest_url, timer=HASTY, requests_per_s=20.0)

    def backfill(*symbols: str, **arguments: Any) -> Outcome:
        clock = RemoteClock(emulator.clock_url)
        return run_once(clock, database, settings, exchange, symbols=symbols or (BTC,), **arguments)

    return backfill


def now(emulator: Emulator) -> datetime:
    return from_unix(emulator.clock.now())


def closed(emulator: Emulator, behind: int) -> datetime:
    """The close of the candle that many before the newest closed one."""
    return from_unix(to_unix(now(emulator)) // STEP * STEP - behind * STEP)


def lose(emulator: Emulator, close: datetime, symbol: str = BTC) -> None:
    emulator.faults.inject(Rule("gap", symbol=symbol, endpoint="OHLC", parameter=close.timestamp() - 1))


def assert_truth(database: Database, emulator: Emulator, symbol: str, since: datetime, lost: int = 0) -> None:
    """Candle for candle; volumes of built ones are sums in another order."""
    until = to_unix(closed(emulator, 0))
    truth = emulator.market.truth(symbol, STEP, to_unix(since) // STEP * STEP, until)
    (instrument,) = find_instruments(database, "kraken", [symbol])
    found = read_candles(database, instrument.id, STEP, 0, until)
    assert len(found) == len(truth) - lost
    truth = truth[np.isin(truth.as_of, found.as_of)]
    for name in CANDLE_FIELDS:
        tolerance = 1e-9 if name == "volume" else 0.0
        np.testing.assert_allclose(getattr(found, name), getattr(truth, name), rtol=tolerance, err_msg=name)


def gaps(database: Database) -> list[tuple[int, str | None]]:
    rows = database.fetch("SELECT missing, finding FROM candle_gaps WHERE timeframe_s = %(step)s ORDER BY after",
                          {"step": STEP})  # fmt: skip
    return [(row["missing"], row["finding"]) for row in rows]


def test_candles_as_deep_as_they_go_and_trades_below_give_the_truth(
    run: Callable[..., Outcome], emulator: Emulator, database: Database
) -> None:
    since = closed(emulator, 720 + 6)
    outcome = run(BTC, ETH, span_from=since)
    assert {outcome.result[symbol]["new"] for symbol in (BTC, ETH)} == {726}
    assert "kraken serves its latest 720 5m candles" in outcome.result[BTC]["reach"]
    for symbol in (BTC, ETH):
        assert_truth(database, emulator, symbol, since)
    assert gaps(database) == []
    sources = database.fetch("SELECT source, count(*) AS n FROM market_data WHERE timeframe_s = 300 GROUP BY 1")
    assert {row["source"]: row["n"] for row in sources} == {"kraken": 2 * 719, "kraken:trades": 2 * 7}
    before = emulator.requests.copy()
    assert run(BTC, ETH, span_from=since).status == "nothing"
    assert emulator.requests["OHLC"] == before["OHLC"] == 2
    assert emulator.requests["Trades"] == before["Trades"]


def test_after_a_long_absence_a_default_run_leaves_no_hole(
    run: Callable[..., Outcome], emulator: Emulator, database: Database
) -> None:
    since = closed(emulator, 12)
    run(span_from=since)
    (instrument,) = find_instruments(database, "kraken", [BTC])
    before = np.array([[to_unix(since - timedelta(days=30)), to_unix(since)]])  # thousands of requests: not in a test
    record_finding(database, instrument.id, STEP, before, "out-of-reach", NOTHING, now(emulator))
    emulator.clock.advance(REACH.total_seconds() + 4 * STEP)
    assert "built from its trades" in run().result[BTC]["reach"]
    assert gaps(database) == []
    assert_truth(database, emulator, BTC, since)


def test_a_candle_that_the_venue_lost_is_a_known_hole_until_a_recheck_finds_it(
    run: Callable[..., Outcome], emulator: Emulator, database: Database
) -> None:
    since = closed(emulator, 100)
    lose(emulator, closed(emulator, 30))
    lose(emulator, closed(emulator, 40), ETH)
    run(BTC, ETH, span_from=since)
    assert gaps(database) == [(1, "none"), (1, "none")]
    assert_truth(database, emulator, BTC, since, lost=1)
    emulator.faults.clear()
    assert run(BTC, ETH, span_from=since).status == "nothing"
    assert gaps(database) == [(1, "none"), (1, "none")]
    assert run(BTC, ETH, span_from=since, recheck=True).result == {BTC: {"new": 1}, ETH: {"new": 1}}
    assert gaps(database) == []
    assert_truth(database, emulator, BTC, since)


def test_a_hole_at_the_live_end_is_known_as_soon_as_it_has_settled(
    run: Callable[..., Outcome], emulator: Emulator, database: Database
) -> None:
    since = closed(emulator, 20)
    run(span_from=since)
    lose(emulator, closed(emulator, -1))
    found = []
    for _ in range(4):
        emulator.clock.advance(STEP)
        run(span_from=since)
        found.append(gaps(database))
    assert found == [[], [(1, None)], [(1, "none")], [(1, "none")]]


def test_a_delisted_symbol_is_named_and_the_others_go_on(
    run: Callable[..., Outcome], emulator: Emulator, database: Database
) -> None:
    since = closed(emulator, 50)
    run(BTC, ETH, span_from=since)
    emulator.faults.inject(Rule("delisting", symbol=ETH))
    emulator.clock.advance(2 * STEP)
    outcome = run(BTC, ETH, span_from=since)
    assert outcome.result[BTC] == {"new": 2}
    assert list(outcome.result["failures"]) == [ETH]
    (alert,) = database.fetch("SELECT severity, key FROM alerts")
    assert alert == {"severity": "warning", "key": f"backfill:kraken:{ETH}"}
    assert_truth(database, emulator, BTC, since)


@pytest.mark.parametrize("fault", ["http_429", "http_5xx", "reset", "bad_json", "duplicate", "reorder"])
def test_troubles_that_pass_leave_no_trace(
    run: Callable[..., Outcome], emulator: Emulator, database: Database, fault: str
) -> None:
    since = closed(emulator, 30)
    for symbol in (BTC, ETH):
        emulator.faults.inject(Rule(fault, surface="rest", endpoint="OHLC", symbol=symbol, times=1))
    assert run(BTC, ETH, span_from=since).result == {BTC: {"new": 30}, ETH: {"new": 30}}
    assert emulator.faults.served[fault] >= 1
    assert_truth(database, emulator, BTC, since)
    assert gaps(database) == []
