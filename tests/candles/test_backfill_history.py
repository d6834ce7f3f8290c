"""What is missing comes newest first, page by page; killed at any page, it goes on there and asks nothing twice."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Callable
from datetime import datetime
from typing import Any

import numpy as np
import pytest

from candles.backfill import run_once
from candles.backfill_plan import OVERLAP
from shared.clock import ReplayClock, from_unix, to_unix
from shared.db import Database
from shared.exchanges import ExchangeError
from shared.job import JobError, Outcome
from shared.rows import Candles
from shared.settings import Settings
from tests.candles.backfill_venue import (
    DAY_AGO,
    FAST,
    FIVE,
    HOUR,
    A,
    B,
    Killed,
    TickingClock,
    TradesVenue,
    Venue,
    gaps,
    minutes,
    since,
    slots,
    stored,
    two_days,
    until,
    without,
)
from tests.helpers import NOON, DatabaseFor

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


# --- killed, and going on ---


def test_killed_at_the_fourth_page_it_goes_on_there_and_asks_nothing_twice(
    run: Run, database: Database, database_for: DatabaseFor
) -> None:
    series, other = two_days(), database_for("owner")
    committed: list[int] = []

    def dies_at_the_fourth(symbol: str, asked: int) -> None:
        committed.append(sum(map(len, stored(other).values())))
        if asked == 6:
            raise Killed

    venue = Venue(series, page=50, before_answer=dies_at_the_fourth)
    with pytest.raises(Killed):
        run(NOON, venue, span_from=DAY_AGO)
    assert committed == [0, 0, 100, 150, 200, 250], "the live ends together, then each page by itself"
    first, venue.asked = venue.asked[:5], []
    venue.before_answer = lambda symbol, asked: None
    run(NOON, venue, span_from=DAY_AGO)
    both = slots(first) + slots(venue.asked)
    assert len(both) == len(set(both)) == 2 * 288
    assert stored(database) == since(series, DAY_AGO)
    venue.asked.clear()
    assert run(NOON, venue, span_from=DAY_AGO).status == "nothing"
    assert venue.asked == []


def test_ctrl_c_ends_a_run_though_the_venue_hangs_and_keeps_what_came(run: Run, database: Database) -> None:
    series, hanging = two_days(), threading.Event()

    def hangs(symbol: str, asked: int) -> None:
        if asked == 5:
            time.sleep(0.3)  # the main thread has written what came before
            os.kill(os.getpid(), signal.SIGINT)
        if asked >= 5:
            hanging.wait(30)

    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            run(NOON, Venue(series, page=50, rate=FAST, before_answer=hangs), span_from=DAY_AGO)
    finally:
        hanging.set()
        signal.signal(signal.SIGINT, handler)
    assert sum(map(len, stored(database).values())) == 200
    run(NOON, Venue(series), span_from=DAY_AGO)
    assert stored(database) == since(series, DAY_AGO)


def test_a_default_run_that_was_killed_is_completed_by_the_next_look_at_a_full_hour(
    run: Run, database: Database
) -> None:
    series = two_days()

    def dies_at_the_sixth(symbol: str, asked: int) -> None:
        if asked == 6:
            raise Killed

    with pytest.raises(Killed):
        run(NOON, Venue(series, page=100, before_answer=dies_at_the_sixth))
    run(NOON + minutes(5), Venue(series, page=100))
    assert sorted(len(found) for found in stored(database).values()) == [101, 201]
    run(NOON + minutes(60), Venue(series, page=100))
    assert stored(database) == until(series, to_unix(NOON) + HOUR)


def test_who_asks_for_a_look_back_need_not_wait_for_the_full_hour(run: Run, database: Database) -> None:
    series = two_days()
    for begin in (DAY_AGO, NOON - minutes(60)):
        run(NOON - minutes(5), Venue(series), span_from=begin, span_to=begin + minutes(55))
    run(NOON, Venue({symbol: c[c.as_of > to_unix(NOON) - FIVE] for symbol, c in series.items()}))
    assert gaps(database) == [(DAY_AGO + minutes(60), 265, "none")], "asked at the full hour, and not there"
    run(NOON + minutes(5), Venue(series), look_back=True, recheck=True)
    assert {s: found[0] for s, found in stored(database).items()} == dict.fromkeys((A, B), to_unix(DAY_AGO) + FIVE)
    assert stored(database) == {s: [*found, to_unix(NOON) + FIVE] for s, found in since(series, DAY_AGO).items()}


def test_a_default_run_fetches_nothing_from_before_the_series_begins(run: Run, database: Database) -> None:
    venue = Venue(two_days())
    run(NOON, venue, span_from=NOON - minutes(60))
    run(NOON + minutes(60), venue)
    assert [len(found) for found in stored(database).values()] == [24, 24]


def test_trouble_in_the_middle_leaves_what_came_and_the_others_alone(run: Run, database: Database) -> None:
    series = two_days()

    def breaks(symbol: str, asked: int) -> None:
        if symbol == A and asked > 2:
            raise ExchangeError("A went away")

    outcome = run(NOON, Venue(series, page=50, before_answer=breaks), span_from=DAY_AGO)
    assert outcome.result == {A: {"new": 50}, B: {"new": 288}, "failures": {A: "A went away"}}
    assert outcome.status == "done"
    assert stored(database) == {A: since(series, DAY_AGO)[A][-50:], B: since(series, DAY_AGO)[B]}
    (alert,) = database.fetch("SELECT severity, key, message FROM alerts")
    assert alert == {"severity": "warning", "key": f"backfill:test:{A}", "message": "A went away"}


def test_a_symbol_in_trouble_is_not_asked_again_in_the_same_run(run: Run) -> None:
    venue = Venue(two_days(), page=50, broken={A: "candles", B: "candles"})
    with pytest.raises(JobError, match=r"AAA.*does not answer; BBB.*does not answer"):
        run(NOON, venue, span_from=DAY_AGO)
    assert sorted(symbol for symbol, *_ in venue.asked) == [A, B]


# --- several at once ---


def test_symbols_are_asked_at_the_same_time_and_written_in_one_thread(run: Run, database: Database) -> None:
    series, meeting = two_days(), threading.Barrier(2, timeout=10)
    threads: set[int] = set()

    def meets(symbol: str, asked: int) -> None:
        threads.add(threading.get_ident())
        if asked <= 2:
            meeting.wait()

    outcome = run(NOON, Venue(series, page=40, rate=FAST, before_answer=meets), span_from=DAY_AGO)
    assert outcome.result == {A: {"new": 288}, B: {"new": 288}}
    assert stored(database) == since(series, DAY_AGO)
    assert threading.get_ident() not in threads


def test_a_bug_in_a_worker_ends_the_run(run: Run, database: Database) -> None:
    def bug(symbol: str, asked: int) -> None:
        raise ZeroDivisionError("a bug")

    with pytest.raises(ZeroDivisionError, match="a bug"):
        run(NOON, Venue(two_days(), page=40, rate=FAST, before_answer=bug), span_from=DAY_AGO)
    before = threading.active_count()
    run(NOON, Venue(two_days(), page=40, rate=FAST), span_from=DAY_AGO)
    assert threading.active_count() <= before + 9, "workers leave when all is asked"


@pytest.mark.parametrize("rate", [1.0, np.inf])
def test_one_question_needs_no_thread(run: Run, rate: float) -> None:
    threads: set[int] = set()
    venue = Venue(two_days(), rate=rate, before_answer=lambda symbol, asked: threads.add(threading.get_ident()))
    run(NOON, venue, symbols=[A])
    assert threads == {threading.get_ident()}


# --- the way: candles as deep as they go, trades below ---


def test_after_a_long_absence_the_recent_candles_come_first_and_the_hole_is_built_from_trades(
    run: Run, database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    series = two_days()
    run(DAY_AGO, Venue(series), symbols=[A], span_from=DAY_AGO - minutes(60))
    venue = TradesVenue({A: series[A]}, depth=48, page=24, trades_page=30)
    kept: list[int] = []
    venue.before_page = lambda pages: kept.append(len(stored(database)[A]))
    with caplog.at_level(logging.INFO, "sextant.backfill"):
        outcome = run(NOON, venue, symbols=[A], span_from=DAY_AGO - minutes(60))
    assert kept[0] == 12 + 48, "the recent ones are stored before the first trade is asked for"
    assert stored(database)[A] == since(series, DAY_AGO - minutes(60))[A]
    sources = "SELECT source, count(*) AS n FROM market_data WHERE timeframe_s = 300 GROUP BY 1 ORDER BY 1"
    assert database.fetch(sources) == [{"source": "test", "n": 60}, {"source": "test:trades", "n": 240}]
    reach = from_unix(to_unix(NOON) - 47 * FIVE)
    way = f"{A}: test serves its latest 48 5m candles, from {reach}; older ones (0.8 days) are built from its trades"
    assert outcome.result[A] == {"new": 288, "reach": way}
    built_s = 242 * FIVE  # two candles overlap, in case they go out of reach meanwhile
    pages = -(-built_s // (30 * FIVE))
    assert caplog.messages == [way, f"{A}: about {pages} requests for its trades, 0 minutes at inf a second"]
    assert run(NOON, venue, symbols=[A], span_from=DAY_AGO - minutes(60)).status == "nothing"


def test_kraken_users_are_told_of_the_quicker_way(run: Run) -> None:
    outcome = run(NOON, TradesVenue(two_days(), name="kraken", depth=48, rate=FAST), span_from=DAY_AGO)
    hint = "quicker: download Kraken's OHLCVT archive and `make import-csv FILE=Kraken_OHLCVT.zip`"
    assert hint in outcome.result[A]["reach"]


def test_killed_among_the_trades_it_goes_on_after_the_last_page(run: Run, database: Database) -> None:
    series = two_days()
    venue = TradesVenue({A: without(series[A], DAY_AGO + minutes(120))}, depth=48, trades_page=30)

    def dies_at_the_third(pages: int) -> None:
        if pages == 2:
            raise Killed

    venue.before_page = dies_at_the_third
    with pytest.raises(Killed):
        run(NOON, venue, symbols=[A], span_from=DAY_AGO)
    venue.before_page = lambda pages: None
    run(NOON, venue, symbols=[A], span_from=DAY_AGO)
    pages = slots(venue.built)
    assert len(pages) == len(set(pages)) == 288 - 48, "each stretch was built once"
    assert gaps(database) == [(DAY_AGO + minutes(120), 1, "none")]


def test_candles_from_trades_never_revise_one_that_is_stored(run: Run, database: Database) -> None:
    series = two_days()
    run(DAY_AGO + minutes(60), Venue(series), symbols=[A], span_from=DAY_AGO + minutes(30))
    run(NOON, TradesVenue({A: series[A]}, depth=20, trades_page=500), symbols=[A], span_from=DAY_AGO)
    built = "SELECT count(*) AS n FROM market_data WHERE timeframe_s = 300 AND volume = 1"
    assert database.fetch_one(built) == {"n": 288 - 20 - 6}
    assert database.fetch("SELECT * FROM candle_revisions WHERE timeframe_s = 300") == []


def test_trouble_with_the_trades_leaves_the_recent_candles(run: Run, database: Database) -> None:
    series = two_days()
    outcome = run(NOON, TradesVenue(series, depth=48, broken={A: "trades"}, rate=FAST), span_from=DAY_AGO)
    assert outcome.result["failures"] == {A: f"{A}: the venue does not answer"}
    assert stored(database) == {A: since(series, DAY_AGO)[A][-48:], B: since(series, DAY_AGO)[B]}


def test_what_is_out_of_reach_and_cannot_be_built_is_a_known_hole(run: Run, database: Database) -> None:
    series = two_days()
    run(DAY_AGO, Venue(series), span_from=DAY_AGO - minutes(60))
    venue = Venue(series, depth=48)
    assert "import-csv" in run(NOON, venue).result[A]["reach"]
    assert gaps(database) == [(DAY_AGO + minutes(5), 240, "out-of-reach")]
    venue.asked.clear()
    assert run(NOON, venue, span_from=DAY_AGO).result == {A: {"new": 0}, B: {"new": 0}}
    assert venue.asked == []


def test_candles_that_go_out_of_reach_meanwhile_are_not_said_to_be_none(run: Run, database: Database) -> None:
    """The venue serves two candles fewer than its depth, as Kraken does with its open one."""
    series = two_days()
    run(DAY_AGO, Venue(series), symbols=[A], span_from=DAY_AGO - minutes(60))
    late = {A: series[A][(series[A].as_of <= to_unix(DAY_AGO)) | (series[A].as_of > to_unix(NOON) - 46 * FIVE)]}
    run(NOON, Venue(late, depth=48), symbols=[A])
    assert gaps(database) == [(DAY_AGO + minutes(5), 242, None)]
    run(NOON + minutes(60), Venue(late, depth=48), symbols=[A])
    assert gaps(database) == [(DAY_AGO + minutes(5), 242, "out-of-reach")]


# --- long runs, and what the venue revises ---


def test_in_a_long_run_new_candles_come_before_more_of_the_past(database: Database, settings: Settings) -> None:
    series, clock = two_days(), TickingClock(NOON)
    venue = Venue(series, page=50, before_answer=lambda symbol, asked: clock.forward(minutes(2)))
    run_once(clock, database, settings, venue, DAY_AGO, symbols=[A])
    ends = [end for _, _, end in venue.asked]
    assert ends[0] == to_unix(NOON)
    newer = [end for end in ends if end > to_unix(NOON)]
    assert newer == [to_unix(NOON) + FIVE, to_unix(NOON) + 2 * FIVE, to_unix(NOON) + 3 * FIVE][: len(newer)]
    assert len(newer) >= 2
    assert ends.index(newer[0]) == 3, "as soon as it had closed"
    assert stored(database)[A][-1] == newer[-1]


def test_a_span_with_an_end_stays_inside_it(run: Run, database: Database) -> None:
    series, venue = two_days(), Venue(two_days())
    run(NOON, venue, span_from=DAY_AGO, span_to=DAY_AGO + minutes(62))
    assert stored(database) == {s: found[:12] for s, found in since(series, DAY_AGO).items()}
    assert venue.asked == [(s, to_unix(DAY_AGO), to_unix(DAY_AGO + minutes(60))) for s in (A, B)]


def test_other_symbols_and_timeframes_can_be_asked_for(run: Run, database: Database) -> None:
    hours = {"CCC/USD": two_days(HOUR)[A]}
    outcome = run(NOON, Venue(hours, timeframe_s=HOUR), symbols=["CCC/USD"], timeframe_s=HOUR)
    assert outcome.result == {"CCC/USD": {"new": 42}}
    assert stored(database, HOUR) == until(hours, to_unix(NOON))


def test_a_revision_of_the_last_candles_is_seen(run: Run, database: Database) -> None:
    series = two_days()
    run(NOON, Venue(series))
    last = int(np.searchsorted(series[A].as_of, to_unix(NOON)))
    for behind in (OVERLAP - 1, OVERLAP):
        volume = series[A].volume.copy()
        volume[last - behind] += 1
        c = series[A]
        revised = Venue({A: Candles(c.as_of, c.open, c.high, c.low, c.close, volume, c.trades), B: series[B]})
        outcome = run(NOON + minutes(5), revised)
        expected = {"new": 1, "revised": 1} if behind < OVERLAP else {"new": 0}
        assert outcome.result[A] == expected


# --- what the user sees ---


def test_a_progress_bar_counts_the_candles_of_all_symbols_where_someone_looks(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    run(NOON, TradesVenue(two_days(), depth=100, rate=FAST), span_from=DAY_AGO, progress=True)
    shown = capsys.readouterr().err
    assert "580/580" in shown, "2 x 288, and the overlap of the two ways"
    assert "candles/s" in shown
    assert "older ones (0.7 days) are built from its trades" in shown
    run(NOON + minutes(5), Venue(two_days()))
    assert "candles/s" not in capsys.readouterr().err
