"""The feed at work: what it stores, whom it tells of what, and what it survives. Real database, a venue of its own."""

from __future__ import annotations

import asyncio
import time
from dataclasses import asdict
from typing import Any

import pytest

from candles import feed as feed_module
from candles.feed_threads import OneAtATime, Workers
from candles.feed_venue import VenueCheck, measure
from candles.run_feed import run_feed
from candles.store import add_instrument, default_rules
from shared.db import Database, role_url
from shared.embedded_db import ensure_running
from shared.exchanges.protocol import ExchangeError, StreamTrouble
from shared.job import JobError, Outcome
from shared.settings import Settings
from tests.candles.feed_venue import DEPTH, FEED, HOUR, START, STEP, A, B, Running, Venue, wait_until
from tests.helpers import DatabaseFor

CLOSES = "SELECT extract(epoch FROM as_of)::bigint AS at FROM market_data JOIN instruments i ON i.id = instrument_id "
OF_SYMBOL = CLOSES + "WHERE i.symbol = %(symbol)s AND timeframe_s = %(step)s ORDER BY 1"
ROWS = "SELECT * FROM market_data ORDER BY instrument_id, timeframe_s, as_of"


@pytest.fixture
def live(settings: Settings) -> Settings:
    return settings.model_copy(update={"feed": FEED})


@pytest.fixture
def database(database_for: DatabaseFor) -> Database:
    return database_for("candles")


def once(database: Database, venue: Venue, settings: Settings) -> Outcome:
    return run_feed(venue, database, settings, venue, once=True)


def closes(database: Database, symbol: str = A, step: int = STEP) -> list[int]:
    return [row["at"] for row in database.fetch(OF_SYMBOL, {"symbol": symbol, "step": step})]


def has(database: Database, symbol: str, close: int) -> bool:
    return close in closes(database, symbol)


def alerts(database: Database) -> dict[str, str]:
    return {row["key"]: row["severity"] for row in database.fetch("SELECT key, severity FROM alerts")}


# --- --once ---


def test_once_appends_what_closed_and_a_second_time_nothing(database: Database, live: Settings) -> None:
    venue = Venue()
    first = once(database, venue, live)
    assert first.status == "done"
    assert closes(database)[-1] == START
    assert closes(database, step=HOUR)[-1] == START
    rows = database.fetch(ROWS)
    again = once(database, venue, live)
    assert again.status == "nothing"
    assert database.fetch(ROWS) == rows
    venue.unix += 2 * STEP
    assert once(database, venue, live).result["new"] == 4
    assert closes(database)[-1] == START + 2 * STEP


def test_once_reads_the_last_candles_again_and_keeps_what_was_revised(database: Database, live: Settings) -> None:
    venue = Venue()
    once(database, venue, live)
    venue.series[A].volume[venue.series[A].as_of == START - STEP] += 1
    result = once(database, venue, live).result
    assert result["revised"] == 1
    assert result["counts"]["revision"] == 1
    assert len(database.fetch("SELECT * FROM candle_revisions WHERE timeframe_s = 300")) == 1


def test_daemon_and_once_store_the_same(database: Database, live: Settings, new_settings: Any) -> None:
    other = new_settings().model_copy(update={"feed": FEED})
    venue = Venue()
    once(database, venue, live)
    second = Database(role_url(other, "candles"))
    with Running(Venue(), other):
        wait_until(lambda: len(closes(second, B)) == len(closes(database, B)), "the same candles")
        wait_until(lambda: len(closes(second, A)) == len(closes(database, A)), "the same candles")
    values = "SELECT symbol, timeframe_s, as_of, open, high, low, close, volume, trades, source FROM market_data \
              JOIN instruments ON id = instrument_id ORDER BY 1, 2, 3"
    assert second.fetch(values) == database.fetch(values)
    second.close()


def test_an_unknown_symbol_is_told_and_the_others_are_fed(database: Database, live: Settings) -> None:
    venue = Venue()
    del venue.series[B]
    assert once(database, venue, live).result["counts"] == {"read_failed": 1}
    assert closes(database)[-1] == START
    with Running(venue, live):
        wait_until(lambda: f"feed:{B}:test" in alerts(database), "an alert")
        venue.unix += STEP
        wait_until(lambda: has(database, A, START + STEP), "the other one's candle")


def test_a_long_absence_is_told_and_followed_by_what_there_is(database: Database, live: Settings) -> None:
    venue = Venue()
    once(database, venue, live)
    venue.unix += 50 * STEP
    once(database, venue, live)
    assert closes(database)[-1] == START + 50 * STEP
    missing = 50 - (DEPTH - 1)
    assert database.fetch("SELECT missing FROM candle_gaps WHERE timeframe_s = 300") == [{"missing": missing}] * 2
    assert alerts(database)[f"feed-hole:{A}:test"] == "warning"


# --- the daemon ---


def test_a_venue_without_a_stream_is_polled_after_each_close(database: Database, live: Settings) -> None:
    venue = Venue()
    with Running(venue, live) as feed:
        for i in range(1, 4):
            venue.unix += STEP
            wait_until(lambda i=i: has(database, B, START + i * STEP), f"candle {i}")
    assert feed.outcome is not None
    assert feed.outcome.status == "done"
    assert "feed-degraded:test" not in alerts(database)


def test_an_emulators_clock_that_is_away_is_waited_for(database: Database, live: Settings) -> None:
    venue = Venue()
    with Running(venue, live) as feed:
        wait_until(lambda: has(database, B, START), "the first candles")
        venue.without_clock = True
        time.sleep(0.5)
        venue.without_clock, venue.unix = False, venue.unix + STEP
        wait_until(lambda: has(database, B, START + STEP), "the next candle")
    assert feed.counts["clock"] > 0


def test_a_streamed_candle_is_stored_at_the_next_one_without_a_question(database: Database, live: Settings) -> None:
    slow = live.model_copy(update={"feed": FEED.model_copy(update={"grace_s": 100.0})})
    venue = Venue(streams=True)
    with Running(venue, slow) as feed:
        venue.connect()
        venue.open_candle(A, START + STEP)
        venue.open_candle(B, START + STEP)
        wait_until(lambda: has(database, A, START) and has(database, B, START), "the past")
        venue.unix += STEP
        venue.open_candle(A, START + 2 * STEP)
        wait_until(lambda: has(database, A, START + STEP), "the candle in which it connected")
        asked = len(venue.asked)
        venue.unix += STEP
        venue.open_candle(A, START + 3 * STEP)
        wait_until(lambda: has(database, A, START + 2 * STEP), "the first whole candle")
        assert len(venue.asked) == asked
        assert not has(database, B, START + 2 * STEP)
    assert feed.counts == {"connected": 1}


def test_without_its_stream_it_polls_says_so_and_recovers(
    database: Database, live: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    venue = Venue(streams=True)
    with caplog.at_level("INFO", "sextant.feed"), Running(venue, live) as feed:
        venue.connect()
        venue.tell(StreamTrouble("silence", "nothing"))
        venue.lose()
        wait_until(lambda: has(database, A, START), "the past")
        venue.unix += STEP
        wait_until(lambda: has(database, A, START + STEP), "a polled candle")
        wait_until(lambda: "feed-degraded:test" in alerts(database), "an alert")
        venue.connect()
        wait_until(lambda: "the stream is back" in caplog.text, "the recovery")
    assert feed.counts["stream.silence"] == 1
    assert feed.counts["degraded"] == 1
    assert feed.counts["connected"] == 2


def test_one_symbol_that_cannot_be_read_stops_no_other(database: Database, live: Settings) -> None:
    venue = Venue()
    venue.broken[A] = "venue_error"
    with Running(venue, live) as feed:
        wait_until(lambda: f"feed:{A}:test" in alerts(database), "an alert")
        venue.unix += STEP
        wait_until(lambda: has(database, B, START + STEP), "the other one's candle")
        assert closes(database, A) == []
        venue.broken.clear()
        wait_until(lambda: has(database, A, START + STEP), "its recovery")
    assert feed.counts["read_failed"] >= feed_module.FAILURES_TO_TELL


def test_there_is_one_feed_a_database(database: Database, live: Settings) -> None:
    venue = Venue()
    with Running(venue, live):
        wait_until(lambda: has(database, A, START), "the first one")
        assert once(database, venue, live).status == "busy"


def test_the_end_of_a_feed_is_a_row_with_its_counts(database: Database, live: Settings) -> None:
    venue = Venue()
    with Running(venue, live) as feed:
        wait_until(lambda: has(database, A, START) and has(database, B, START), "the past")
        begun = time.monotonic()
    assert time.monotonic() - begun < 2
    (run,) = database.fetch("SELECT status, result FROM job_runs WHERE job = 'run_feed'")
    assert feed.outcome is not None
    assert run == {"status": "done", "result": feed.outcome.result}
    assert run["result"]["new"] == len(closes(database, A)) + len(closes(database, B))


TERMINATE = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'sextant_candles' AND datname = \
             current_database() AND pid <> pg_backend_pid()"


def test_a_lost_database_session_loses_no_candle_and_no_lock(
    database: Database, live: Settings, database_for: DatabaseFor
) -> None:
    database.close()
    owner = database_for("owner")
    venue = Venue()
    with Running(venue, live) as feed:
        wait_until(lambda: has(owner, A, START) and has(owner, B, START), "the past")
        for i in range(1, 4):
            superuser(live, TERMINATE)
            venue.unix += STEP
            wait_until(lambda i=i: has(owner, A, START + i * STEP) and has(owner, B, START + i * STEP), f"candle {i}")
        assert once(database, venue, live).status == "busy", "the lock is held again"
    assert feed.counts["database"] >= 1
    expected = list(range(closes(owner)[0], START + 3 * STEP + 1, STEP))
    assert closes(owner) == expected


def superuser(settings: Settings, statement: Any) -> None:
    server = ensure_running(settings.home_path)
    admin = Database(server.url("postgres", server.superuser_password, settings.db_name))
    admin.execute(statement)
    admin.close()


# --- the venue's health ---


def test_a_skewed_clock_is_a_row_and_an_alert(database: Database, live: Settings) -> None:
    venue = Venue()
    venue.skew_s = 12.0
    once(database, venue, live)
    (row,) = database.fetch("SELECT venue, status, clock_skew_s, recorded_at FROM venue_checks")
    assert (row["venue"], row["status"], row["recorded_at"]) == ("test", "online", venue.now())
    assert row["clock_skew_s"] == pytest.approx(12.0, abs=0.01)
    assert alerts(database) == {"clock-skew-critical:test": "critical"}


def test_each_change_of_the_venue_is_a_row_and_so_is_each_candle(database: Database, live: Settings) -> None:
    venue = Venue()

    def seen() -> list[str]:
        return [row["status"] for row in database.fetch("SELECT status FROM venue_checks ORDER BY id")]

    with Running(venue, live):
        wait_until(lambda: seen() == ["online"], "a look at the start")
        venue.unix += STEP
        wait_until(lambda: seen() == ["online"] * 2, "a look at the close")
        venue.said = "maintenance"
        venue.unix += STEP
        wait_until(lambda: seen() == ["online", "online", "maintenance"], "the change")
        wait_until(lambda: "venue-maintenance:test" in alerts(database), "an alert")


def test_a_venue_that_does_not_answer_is_unreachable(
    database: Database, live: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Venue) -> float:
        raise ExchangeError("no answer", kind="timeout")

    monkeypatch.setattr(Venue, "server_time", refuse)
    once(database, Venue(), live)
    assert database.fetch("SELECT status, clock_skew_s FROM venue_checks") == [
        {"status": "unreachable", "clock_skew_s": None}
    ]


@pytest.mark.parametrize(
    ("before", "server", "after", "skew", "badness"),
    [
        (100.0, 100.1, 100.2, 0.0, "none"),
        (100.0, 98.1, 100.2, 2.0, "warning"),
        (100.0, 106.1, 100.2, -6.0, "critical"),
        (100.0, 105.15, 100.2, -5.05, "warning"),  # 5.05 s, give or take 0.1: not certainly above the limit
        (100.0, 100, 101.9, 0.45, "none"),  # a venue that tells whole seconds
        (100.0, 94, 100.2, 5.6, "warning"),
        (100.0, 93, 100.2, 6.6, "critical"),
        (100.0, 103.1, 110.0, 1.9, "none"),  # so slow an answer proves nothing
    ],
)
def test_only_what_is_certain_of_a_skew_counts(
    before: float, server: float, after: float, skew: float, badness: str
) -> None:
    check = measure("online", before, server, after)
    assert check.clock_skew_s == pytest.approx(skew)
    assert check.round_trip_s == pytest.approx(after - before)
    assert check.skew(5.0) == badness


def test_a_venue_without_a_clock_has_no_skew() -> None:
    assert VenueCheck("online").skew(5.0) == "none"


# --- threads ---


def test_a_hanging_call_leaves_the_other_threads_alone() -> None:
    async def scenario() -> list[int]:
        workers = Workers(2)
        hanging = asyncio.ensure_future(workers.run(time.sleep, 0.5))
        answers = [await asyncio.wait_for(workers.run(lambda i=i: i * i), 0.4) for i in range(5)]
        await hanging
        workers.close()
        return answers

    assert asyncio.run(scenario()) == [0, 1, 4, 9, 16]


def test_a_cancelled_caller_waits_for_its_write_but_not_for_ever() -> None:
    done: list[str] = []

    async def scenario(lasts_s: float, patience_s: float) -> float:
        one = OneAtATime(patience_s)
        call = asyncio.ensure_future(one.run(lambda: (time.sleep(lasts_s), done.append("written"))))
        await asyncio.sleep(0.05)
        begun = time.monotonic()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        return time.monotonic() - begun

    asyncio.run(scenario(0.2, 1.0))
    assert done == ["written"]
    assert asyncio.run(scenario(1.0, 0.1)) < 0.6


def test_an_error_in_a_thread_reaches_its_caller() -> None:
    with pytest.raises(ZeroDivisionError):
        asyncio.run(Workers(1).run(lambda: 1 / 0))


def test_an_end_that_comes_with_other_news_is_heeded(database: Database, live: Settings) -> None:
    venue = Venue()

    async def ends_when_the_venue_changes(turns: int) -> bool:
        feed = feed_module.Feed(venue, database, live, venue)
        work = asyncio.ensure_future(feed.run())
        await asyncio.sleep(0.1)
        feed.look_at_venue_now()
        for _ in range(turns):
            await asyncio.sleep(0)
        work.cancel()
        await asyncio.wait({work}, timeout=2)
        return work.cancelled()

    for turns in range(6):
        assert asyncio.run(ends_when_the_venue_changes(turns)), turns


@pytest.mark.parametrize("once", [True, False])
def test_a_rehearsal_never_writes_into_real_candles(database: Database, live: Settings, once: bool) -> None:
    venue = Venue()
    run_feed(venue, database, live, venue, once=True)
    before = closes(database)
    venue.provenance, venue.unix = "simulated", venue.unix + 2 * STEP
    with pytest.raises(JobError, match="never mix"):
        run_feed(venue, database, live, venue, once)
    assert closes(database) == before


def test_the_rules_of_a_series_that_came_from_files_become_the_venues(database: Database, live: Settings) -> None:
    venue = Venue()
    add_instrument(database, "test", A, STEP, default_rules(30_000.0), "real", venue.now())
    once(database, venue, live)
    rules = "SELECT tick_size, lot_size, min_notional, min_quantity, status FROM instruments WHERE symbol = %(symbol)s"
    assert database.fetch(rules, {"symbol": A}) == [asdict(venue.rules(A))]
