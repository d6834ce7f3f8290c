"""What the venue does not have is written down once it is sure, and every hole of which it was asked is known."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import pytest

from candles import backfill
from candles.backfill import run_once
from candles.store import Written, write_candles
from shared.clock import ReplayClock, to_unix
from shared.db import Database
from shared.job import Outcome
from shared.rows import Candles, Instrument
from shared.settings import Settings
from tests.candles.backfill_venue import (
    DAY_AGO,
    FIVE,
    A,
    B,
    TickingClock,
    Venue,
    gaps,
    minutes,
    two_days,
    without,
)
from tests.helpers import NOON, DatabaseFor, random_candles

pytestmark = pytest.mark.usefixtures("rolled_back")

Run = Callable[..., Outcome]


@pytest.fixture
def database(database_for: DatabaseFor) -> Database:
    return database_for("candles")


@pytest.fixture
def run(database: Database, settings: Settings) -> Run:
    def at(moment: datetime, venue: Venue, **arguments: Any) -> Outcome:
        return run_once(ReplayClock(moment), database, settings, venue, **arguments)

    return at


def test_only_a_settled_absence_is_a_finding(run: Run, database: Database) -> None:
    series = two_days()
    holed = {A: without(series[A], NOON - minutes(5), DAY_AGO + minutes(5)), B: series[B]}
    run(NOON, Venue(holed), span_from=DAY_AGO)
    assert gaps(database) == [(NOON - minutes(5), 1, None)], "the other one is an edge"
    run(NOON + minutes(5), Venue(holed))
    assert gaps(database) == [(NOON - minutes(5), 1, "none")]
    assert run(NOON + minutes(10), Venue(series)).result[A] == {"new": 2}, "a late one is taken while it is asked"


def test_an_answer_that_waits_proves_nothing_about_the_time_it_waited(database: Database, settings: Settings) -> None:
    clock, series = TickingClock(NOON), two_days()
    late = {A: without(series[A], NOON - minutes(5))}
    venue = Venue(late, before_answer=lambda symbol, asked: clock.forward(minutes(30)))
    run_once(clock, database, settings, venue, DAY_AGO, symbols=[A])
    assert gaps(database) == [(NOON - minutes(5), 1, None)]


def test_holes_across_pages_are_known_as_one_and_a_recheck_fills_them(run: Run, database: Database) -> None:
    series = two_days()
    lost = [DAY_AGO + minutes(5 * n) for n in range(30, 140)]
    venue = Venue({A: without(series[A], *lost), B: series[B]}, page=50)
    run(NOON, venue, span_from=DAY_AGO)
    assert gaps(database) == [(lost[0], 110, "none")]
    venue.series, venue.asked = series, []
    assert run(NOON, venue, span_from=DAY_AGO).status == "nothing"
    assert venue.asked == [], "it was asked before"
    assert run(NOON, venue, span_from=DAY_AGO, recheck=True).result[A] == {"new": 110}
    assert gaps(database) == []


def test_a_hole_that_was_asked_for_in_parts_before_it_had_an_end_is_known_at_the_next_look(
    run: Run, database: Database
) -> None:
    series = two_days()
    silent = {A: series[A][(series[A].as_of <= to_unix(DAY_AGO)) | (series[A].as_of > to_unix(NOON))]}
    days = [DAY_AGO - minutes(60), NOON - minutes(720), NOON]
    for begin, end in itertools.pairwise(days):
        run(NOON + timedelta(days=1), Venue(silent), symbols=[A], span_from=begin, span_to=end)
    run(NOON + minutes(60), Venue(silent), symbols=[A], span_from=NOON)
    assert gaps(database) == [(DAY_AGO + minutes(5), 288, None)]
    assert run(NOON + minutes(60), Venue(silent), symbols=[A]).status == "nothing"
    assert gaps(database) == [(DAY_AGO + minutes(5), 288, "none")]


def test_instruments_are_written_in_the_order_in_which_every_writer_locks_them(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    venue, written = Venue(two_days()), list[int]()

    def spy(database: Database, instrument: Instrument, *others: Any) -> Written:
        written.append(instrument.id)
        return write_candles(database, instrument, *others)

    run(NOON, venue, symbols=[B, A])
    monkeypatch.setattr(backfill, "write_candles", spy)
    run(NOON + minutes(5), venue, symbols=[A, B])
    assert written == sorted(written)
    assert len(set(written)) == 2


def test_a_candle_that_was_refused_is_not_said_to_be_none(run: Run, database: Database) -> None:
    series = two_days()
    c, at = series[A], int(np.searchsorted(series[A].as_of, to_unix(NOON - minutes(120))))
    close = c.close.copy()
    close[at] = np.nan
    bad = without(Candles(c.as_of, c.open, c.high, c.low, close, c.volume, c.trades), NOON - minutes(180))
    assert run(NOON, Venue({A: bad, B: series[B]}), span_from=DAY_AGO).result[A]["refused"] == {"price": 1}
    assert gaps(database) == [(NOON - minutes(180), 1, "none"), (NOON - minutes(120), 1, None)]
    assert len(database.fetch("SELECT id FROM quarantine WHERE reason = 'price'")) == 1
    assert run(NOON, Venue(series), span_from=DAY_AGO).result[A] == {"new": 1}


def test_a_dead_symbol_costs_one_short_question_a_tick_and_one_row_a_day(run: Run, database: Database) -> None:
    series = two_days()
    dead = {A: series[A][series[A].as_of <= to_unix(NOON - minutes(45))]}
    venue = Venue(dead)
    run(NOON - minutes(45), venue, symbols=[A])
    venue.asked.clear()
    for tick in range(0, 4 * 288, 23):
        run(NOON + minutes(5 * tick), venue, symbols=[A])
    assert max(end - begin for _, begin, end in venue.asked) <= 2 * 86_400
    checks = database.fetch("SELECT until FROM gap_checks WHERE after >= %(after)s", {"after": NOON - minutes(45)})
    assert len(checks) == 4


def test_a_hole_inside_a_series_is_asked_for_however_old_it_is_and_once(run: Run, database: Database) -> None:
    """A feed that starts first after a long absence leaves a hole that no 30 days reach back to."""
    truth = random_candles(50 * 288, FIVE, seed=1, end=to_unix(NOON))
    begin, lost = NOON - timedelta(days=50), NOON - timedelta(days=40)
    away = truth[(truth.as_of <= to_unix(lost)) | (truth.as_of > to_unix(lost + timedelta(days=2)))]
    for at, until_ in ((begin, lost), (lost + timedelta(days=2), NOON)):
        run(NOON, Venue({A: away}), symbols=[A], span_from=at, span_to=until_)
    never = lost + minutes(500)
    venue = Venue({A: without(truth, never)})
    assert run(NOON, venue, symbols=[A]).status == "nothing", "a replay looks 30 days back"
    assert run(NOON, venue, symbols=[A], look_back=True).result == {A: {"new": 575}}
    assert gaps(database) == [(never, 1, "none")]
    venue.asked.clear()
    assert run(NOON, venue, symbols=[A], look_back=True).status == "nothing"
    assert venue.asked == [], "it was asked for, and is not there"


def test_an_old_hole_that_is_out_of_reach_is_asked_about_no_more(run: Run, database: Database) -> None:
    truth = random_candles(50 * 288, FIVE, seed=1, end=to_unix(NOON))
    lost = NOON - timedelta(days=40)
    run(NOON, Venue({A: truth}), symbols=[A], span_from=NOON - timedelta(days=50), span_to=lost)
    run(NOON, Venue({A: truth}), symbols=[A], span_from=lost + minutes(60), span_to=NOON)
    venue = Venue({A: truth}, depth=48)
    assert "import-csv" in run(NOON, venue, symbols=[A], look_back=True).result[A]["reach"]
    assert gaps(database) == [(lost + minutes(5), 12, "out-of-reach")]
    assert run(NOON, venue, symbols=[A], look_back=True).result == {A: {"new": 0}}
    assert venue.asked == []


def test_a_look_back_stays_quick_among_tens_of_thousands_of_known_holes(run: Run, database: Database) -> None:
    truth = random_candles(60_000, FIVE, seed=1, end=to_unix(NOON))
    holed = {A: truth[np.arange(60_000) % 3 != 0]}  # 20,000 holes
    run(NOON, Venue(holed), symbols=[A], span_from=NOON - minutes(5 * 60_000))
    venue = Venue(holed)
    started = time.perf_counter()
    assert run(NOON, venue, symbols=[A], look_back=True).status == "nothing"
    assert venue.asked == []
    took_s = time.perf_counter() - started
    assert took_s < 2, "it takes some 20 ms"
