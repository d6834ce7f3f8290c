"""The feed among others: who else writes its table, a database that hangs at the end, clocks that are slow or away."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime

import numpy as np
import pytest

from candles.feed_state import REFUSALS
from candles.feed_store import FeedStore
from candles.feed_venue import check_venue
from candles.run_feed import run_feed
from shared.clock import from_unix
from shared.db import Database
from shared.exchanges.protocol import ExchangeError
from shared.settings import Settings
from tests.candles.feed_venue import FEED, START, STEP, A, B, Running, Venue, wait_until
from tests.helpers import DatabaseFor

LAST = "SELECT max(extract(epoch FROM as_of))::bigint AS at FROM market_data WHERE timeframe_s = 300"
VOLUME = "SELECT volume FROM market_data JOIN instruments i ON i.id = instrument_id WHERE i.symbol = %(symbol)s \
          AND timeframe_s = 300 AND as_of = to_timestamp(%(at)s)"
SPOIL = "UPDATE market_data SET volume = volume + 7 WHERE timeframe_s = 300 AND as_of = to_timestamp(%(at)s) \
         AND instrument_id = (SELECT id FROM instruments WHERE symbol = %(symbol)s)"


@pytest.fixture
def live(settings: Settings) -> Settings:
    return settings.model_copy(update={"feed": FEED})


@pytest.fixture
def reader(database_for: DatabaseFor) -> Database:
    return database_for("owner")


def last(reader: Database) -> int | None:
    row = reader.fetch_one(LAST)
    return row and row["at"]


def test_what_another_job_changed_in_the_table_is_set_right_by_the_next_confirmation(
    reader: Database, live: Settings
) -> None:
    venue, candle = Venue(), {"symbol": A, "at": START - STEP}
    with Running(venue, live) as feed:
        wait_until(lambda: reader.fetch_one(VOLUME, candle) is not None, "the past")
        before = reader.fetch_one(VOLUME, candle)
        assert reader.execute(SPOIL, candle) == 1
        venue.unix = START + 3610.0
        wait_until(lambda: reader.fetch_one(VOLUME, candle) == before, "the venue's truth")
    assert feed.counts["revision"] == 1
    assert feed.outcome is not None
    assert feed.outcome.result["revised"] == 1


def test_a_candle_that_stays_malformed_is_an_alert_and_stops_nothing(reader: Database, live: Settings) -> None:
    venue = Venue()
    series, hit = venue.series[A], venue.series[A].as_of == START + STEP
    with Running(venue, live):
        wait_until(lambda: last(reader) == START, "the past")
        venue.series[A] = replace(series, high=np.where(hit, np.nan, series.high))
        venue.unix += 2 * STEP
        message = "SELECT message, severity FROM alerts WHERE key = %(key)s"
        key = {"key": f"feed-refused:test:{A}"}
        wait_until(lambda: reader.fetch_one(message, key) is not None, "an alert")
        wait_until(lambda: reader.fetch_one(VOLUME, {"symbol": A, "at": START + 2 * STEP}) is not None, "the next one")
    alert = reader.fetch_one(message, key)
    assert alert is not None
    assert alert["severity"] == "warning"
    assert f"refused in {REFUSALS} readings" in alert["message"]
    assert f"as_of={START + STEP} " in alert["message"]


# --- the end ---


@contextmanager
def locked(reader: Database) -> Iterator[None]:
    """Nobody can write candles meanwhile."""
    with reader.transaction():
        reader.execute("SELECT pg_advisory_xact_lock(1397184340, id) FROM instruments")
        yield


@pytest.mark.parametrize("interrupts", [True, False], ids=["it can be interrupted", "it cannot"])
def test_a_write_that_hangs_at_the_end_is_undone_and_the_end_recorded(
    reader: Database, live: Settings, monkeypatch: pytest.MonkeyPatch, interrupts: bool, database_for: DatabaseFor
) -> None:
    if not interrupts:
        monkeypatch.setattr(FeedStore, "interrupt", lambda self: None)
    venue, other = Venue(), database_for("candles")
    waiting = "SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
    with Running(venue, live):
        wait_until(lambda: last(reader) == START, "the past")
        lock = locked(reader)
        lock.__enter__()
        venue.unix += STEP
        wait_until(lambda: other.fetch_one(waiting) is not None, "a write that hangs")
        begun = time.monotonic()
    took = time.monotonic() - begun
    runs = "SELECT status, error FROM job_runs WHERE job = 'run_feed'"
    assert other.fetch(runs) == [{"status": "done", "error": None}]
    lock.__exit__(None, None, None)
    assert took < 4
    assert last(other) == START
    run_feed(venue, other, live, venue, once=True)
    assert last(other) == START + STEP


# --- clocks ---


def test_a_clock_that_is_away_is_counted_each_time_and_logged_once(
    reader: Database, live: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    venue = Venue()
    with caplog.at_level("INFO", "sextant.feed"), Running(venue, live) as feed:
        wait_until(lambda: last(reader) == START, "the past")
        venue.without_clock = True
        time.sleep(0.5)
        venue.without_clock = False
    assert feed.counts["clock"] >= 3
    assert len([record for record in caplog.records if getattr(record, "kind", "") == "clock"]) == 1


def test_a_clock_that_was_days_ahead_silences_nothing(reader: Database, live: Settings) -> None:
    venue = Venue()
    real = venue.unix
    ahead = 9 * 86_400

    def truth(symbol: str, since: int, until: int) -> object:
        series = venue.series[symbol]
        return series[(series.as_of > since) & (series.as_of <= min(until, real))]

    with Running(venue, live):
        wait_until(lambda: last(reader) == START, "the past")
        venue.truth = truth  # type: ignore[method-assign]
        venue.unix = real + ahead
        wait_until(lambda: any(until > real for _, _, until in venue.asked), "a question about the future")
        time.sleep(0.3)
        checks = "SELECT count(*) AS n FROM venue_checks"
        seen = reader.fetch_one(checks)
        venue.unix = real = real + STEP
        wait_until(lambda: last(reader) == START + STEP, "the next candle")
        wait_until(lambda: reader.fetch_one(checks) != seen, "a look at the venue")


class Delayed:
    """A venue whose answers take so long, and the clock by which they do."""

    def __init__(self, *round_trips: float, broken_from: int = 9, offset: float = 0.25) -> None:
        self.round_trips, self.broken_from, self.offset = list(round_trips), broken_from, offset
        self.unix, self.calls = 1000.0, 0

    def now(self) -> datetime:
        return from_unix(self.unix)

    def status(self) -> str:
        return "online"

    def server_time(self) -> float:
        took = self.round_trips[self.calls]
        self.calls += 1
        if self.calls > self.broken_from:
            raise ExchangeError("no answer", kind="timeout")
        self.unix += took  # waits in our own queue, mostly
        return self.unix - self.offset


@pytest.mark.parametrize(
    ("round_trips", "calls", "best"),
    [((0.2,), 1, 0.2), ((16.0, 0.5), 2, 0.5), ((16.0, 4.0, 9.0), 3, 4.0), ((1.0, 2.0, 3.0), 3, 1.0)],
)
def test_the_quickest_of_three_answers_measures_the_clock(
    round_trips: tuple[float, ...], calls: int, best: float
) -> None:
    venue = Delayed(*round_trips)
    check = check_venue(venue, venue)  # type: ignore[arg-type]
    assert venue.calls == calls
    assert check.round_trip_s == pytest.approx(best)
    assert check.clock_skew_s == pytest.approx(0.25 - best / 2)
    assert check.doubt_s == pytest.approx(best / 2)


def test_a_second_answer_that_fails_leaves_the_first() -> None:
    venue = Delayed(3.0, 3.0, broken_from=1)
    assert check_venue(venue, venue).round_trip_s == pytest.approx(3.0)  # type: ignore[arg-type]
    silent = Delayed(3.0, broken_from=0)
    assert check_venue(silent, silent).status == "unreachable"  # type: ignore[arg-type]


def test_a_symbol_that_is_delisted_is_marked_and_the_others_go_on(database_for: DatabaseFor, live: Settings) -> None:
    """Faults 41 and 42: its last rules stay known, and one dead symbol stops nobody."""
    venue, database = Venue(), database_for("candles")
    newest = "SELECT symbol, status, max(as_of) AS newest FROM instruments i JOIN market_data ON instrument_id = i.id "
    newest += "WHERE timeframe_s = 300 GROUP BY 1, 2 ORDER BY 1"

    def told() -> list[tuple[str, str, datetime]]:
        run_feed(venue, database, live, venue, once=True)
        return [(row["symbol"], row["status"], row["newest"]) for row in database.fetch(newest)]

    before, after = from_unix(START), from_unix(START + 2 * STEP)
    assert told() == [(A, "post_only", before), (B, "post_only", before)]
    venue.delisted, venue.unix = {A}, venue.unix + 2 * STEP
    assert told() == [(A, "delisted", before), (B, "post_only", after)]
    venue.delisted = set()
    assert told() == [(A, "post_only", after), (B, "post_only", after)]
