"""The backfill goes on where it stopped, believes no venue blindly, and one symbol's trouble stays its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import numpy as np
import pytest

from candles import backfill, backfill_plan
from candles.backfill import run_once
from candles.backfill_plan import OVERLAP
from shared.clock import ReplayClock, from_unix, to_unix
from shared.db import Database
from shared.job import JobError, Outcome
from shared.rows import Candles
from shared.settings import Settings
from tests.candles.backfill_venue import FIVE, HOUR, RULES, A, B, Venue, stored, two_days, until
from tests.helpers import NOON, DatabaseFor

pytestmark = pytest.mark.usefixtures("rolled_back")


@pytest.fixture
def database(database_for: DatabaseFor) -> Database:
    return database_for("candles")


@pytest.fixture
def run(database: Database, settings: Settings) -> Callable[..., Outcome]:
    def at(moment: datetime, venue: Venue, **arguments: Any) -> Outcome:
        return run_once(ReplayClock(moment), database, arguments.pop("settings", settings), venue, **arguments)

    return at


def test_it_goes_on_where_it_stopped(run: Callable[..., Outcome], database: Database) -> None:
    series = two_days()
    venue = Venue(series)
    assert run(NOON, venue).result == {A: {"new": 504}, B: {"new": 504}}
    assert stored(database) == until(series, to_unix(NOON))
    venue.asked.clear()
    later = NOON + timedelta(minutes=71)
    assert run(later, venue).result == {A: {"new": 14}, B: {"new": 14}}
    since = to_unix(NOON) - OVERLAP * FIVE
    assert venue.asked == [(s, since, to_unix(NOON) + 14 * FIVE) for s in (A, B)], "the last ones may be revised"
    assert stored(database) == until(series, to_unix(later))
    assert [len(hours) for hours in stored(database, HOUR).values()] == [43, 43]


def test_in_steps_or_at_once_the_rows_are_the_same(
    run: Callable[..., Outcome], database: Database, database_for: DatabaseFor
) -> None:
    values = (
        "SELECT instrument_id, timeframe_s, as_of, open, high, low, close, volume FROM market_data ORDER BY 1, 2, 3"
    )
    venue = Venue(two_days())
    for minutes in (0, 5, 20, 55, 60, 125):
        run(NOON + timedelta(minutes=minutes), venue)
    steps = database.fetch(values)
    database_for("owner").execute("TRUNCATE market_data CASCADE")
    run(NOON + timedelta(minutes=125), venue)
    assert database.fetch(values) == steps


def test_twice_changes_nothing(run: Callable[..., Outcome], database: Database) -> None:
    venue = Venue(two_days())
    run(NOON, venue)
    before = database.fetch("SELECT * FROM market_data ORDER BY 1, 2, 3")
    for again in ({}, {"span_from": NOON - timedelta(days=1)}):
        outcome = run(NOON + timedelta(minutes=4), venue, **again)
        assert (outcome.status, outcome.result) == ("nothing", {A: {"new": 0}, B: {"new": 0}})
    assert database.fetch("SELECT * FROM market_data ORDER BY 1, 2, 3") == before


def test_from_an_earlier_moment_it_fills_the_past_and_its_gaps(run: Callable[..., Outcome], database: Database) -> None:
    series = two_days()
    holed = {symbol: candles[np.delete(np.arange(len(candles)), [500, 501])] for symbol, candles in series.items()}
    run(NOON, Venue(holed), span_from=NOON - timedelta(hours=3))
    assert [len(found) for found in stored(database).values()] == [34, 34]
    outcome = run(NOON, Venue(series), span_from=NOON - timedelta(hours=5))
    assert outcome.result == {A: {"new": 24}, B: {"new": 24}}, "the venue did not have those two"
    outcome = run(NOON, Venue(series), span_from=NOON - timedelta(hours=5), recheck=True)
    assert outcome.result == {A: {"new": 2}, B: {"new": 2}}
    assert stored(database) == {s: c.as_of[(c.as_of > to_unix(NOON) - 5 * HOUR) & (c.as_of <= to_unix(NOON))].tolist()
                                for s, c in series.items()}  # fmt: skip
    assert [len(hours) for hours in stored(database, HOUR).values()] == [5, 5]


def test_a_long_span_is_asked_in_parts_that_meet(
    run: Callable[..., Outcome], database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backfill_plan, "CANDLES_A_REQUEST", 100)
    series = two_days()
    venue = Venue(series)
    run(NOON, venue, span_from=NOON - timedelta(hours=30))
    parts = [(since, until) for symbol, since, until in venue.asked if symbol == A]
    assert [end - start for start, end in parts] == [100 * FIVE] * 3 + [60 * FIVE]
    assert parts[0][1] == to_unix(NOON), "the newest first"
    assert [start for start, _ in parts[:-1]] == [end for _, end in parts[1:]]
    assert stored(database) == until({s: c[c.as_of > to_unix(NOON) - 30 * HOUR] for s, c in series.items()},
                                     to_unix(NOON))  # fmt: skip


@pytest.mark.parametrize("question", ["resolve", "candles", "rules"])
def test_one_symbols_trouble_does_not_stop_the_other(
    run: Callable[..., Outcome], database: Database, question: str
) -> None:
    series = two_days()
    for _ in range(2):
        outcome = run(NOON, Venue(series, broken={A: question}))
        assert outcome.result["failures"] == {A: f"{A}: the venue does not answer"}
        assert A not in outcome.result
        assert stored(database) == {B: until(series, to_unix(NOON))[B]}
    assert outcome.status == "done"
    (alert,) = database.fetch("SELECT layer, severity, key, message FROM alerts")
    assert (alert["layer"], alert["severity"], alert["key"]) == ("candles", "warning", f"backfill:test:{A}")
    assert alert["message"] == f"{A}: the venue does not answer"
    run(NOON, Venue(series))
    assert stored(database) == until(series, to_unix(NOON))


@pytest.mark.parametrize("tick", ["1e-9", "1e30"])
def test_rules_that_cannot_be_stored_are_that_symbols_trouble(
    run: Callable[..., Outcome], database: Database, tick: str
) -> None:
    series = two_days()
    outcome = run(NOON, Venue(series, rules_of={A: replace(RULES, tick_size=Decimal(tick))}))
    assert "cannot be stored" in outcome.result["failures"][A]
    assert stored(database) == {B: until(series, to_unix(NOON))[B]}


@pytest.mark.parametrize("question", ["resolve", "candles", "rules"])
def test_when_no_symbol_can_be_fetched_the_job_fails(
    run: Callable[..., Outcome], database: Database, question: str
) -> None:
    with pytest.raises(JobError, match=f"{A}: {A}: the venue does not answer; {B}: {B}: the venue does not answer"):
        run(NOON, Venue(two_days(), broken={A: question, B: question}))
    assert stored(database) == {}
    (job,) = database.fetch("SELECT status, error FROM job_runs")
    assert (job["status"], job["error"][:9]) == ("failed", "JobError:")


def test_a_venue_that_serves_its_latest_candles_only_is_asked_for_those_and_says_how_far_that_was(
    run: Callable[..., Outcome], database: Database
) -> None:
    venue = Venue(two_days(), depth=20)
    outcome = run(NOON, venue, span_from=NOON - timedelta(days=1))
    assert venue.asked[0] == (A, to_unix(NOON) - 20 * FIVE, to_unix(NOON))
    reached = from_unix(to_unix(NOON) - 19 * FIVE)
    assert outcome.result[A] == {
        "new": 20,
        "reach": f"{A}: test serves its latest 20 5m candles, from {reached}; older ones are out of reach: "
        "`make import-csv FILE=…` takes a candle file of another source",
    }
    assert run(NOON + timedelta(hours=1), venue).result[A] == {"new": 12}, "within its depth there is nothing to say"


def test_a_symbol_listed_under_another_name_is_stored_under_that_name_and_said(
    run: Callable[..., Outcome], database: Database
) -> None:
    series = two_days()
    venue = Venue({"AAA/USD": series[A], B: series[B]}, renamed={A: "AAA/USD"})
    outcome = run(NOON, venue)
    assert outcome.result[A]["stored_as"] == f"AAA/USD: test does not list {A}; set it in universe.symbols"
    assert "stored_as" not in outcome.result[B]
    assert set(stored(database)) == {"AAA/USD", B}
    venue.asked.clear()
    again = run(NOON + timedelta(minutes=5), venue)
    assert again.result[A]["new"] == 1
    assert venue.asked[0] == ("AAA/USD", to_unix(NOON) - OVERLAP * FIVE, to_unix(NOON) + FIVE)


def bad(candles: Candles, *places: int) -> Candles:
    """The same candles, those at ``places`` with a high below their low."""
    high = candles.high.copy()
    high[list(places)] = candles.low[list(places)] / 2
    return Candles(candles.as_of, candles.open, high, candles.low, candles.close, candles.volume, candles.trades)


def test_bad_rows_of_a_venue_are_refused_and_counted_and_the_rest_is_kept(
    run: Callable[..., Outcome], database: Database
) -> None:
    series = two_days()
    at = [int(np.searchsorted(series[A].as_of, to_unix(NOON) - k * FIVE)) for k in (3, 20)]
    outcome = run(NOON, Venue({A: bad(series[A], *at), B: series[B]}))
    assert outcome.status == "refused"
    assert outcome.result == {A: {"new": 502, "refused": {"high-low": 2}}, B: {"new": 504}}
    expected = until(series, to_unix(NOON))
    assert stored(database) == {A: [t for t in expected[A] if t not in series[A].as_of[at]], B: expected[B]}
    (job,) = database.fetch("SELECT status, result FROM job_runs")
    assert (job["status"], job["result"]) == ("refused", outcome.result)


@pytest.mark.parametrize("second", [0, 1, 299])
def test_a_candle_that_has_not_closed_is_never_stored(
    run: Callable[..., Outcome], database: Database, second: int
) -> None:
    moment = NOON + timedelta(seconds=second)
    outcome = run(moment, Venue(two_days(), beyond_s=600))
    assert outcome.status == "refused"
    assert outcome.result[A]["refused"] == {"future": 2}
    assert [found[-1] for found in stored(database).values()] == [to_unix(NOON)] * 2


def test_a_finer_timeframe_later_lowers_the_base_of_the_instrument(
    run: Callable[..., Outcome], database: Database, settings: Settings
) -> None:
    hourly = settings.model_copy(update={"universe": settings.universe.model_copy(update={"base_timeframe": "1h"})})
    bases = "SELECT DISTINCT base_timeframe_s AS base FROM instruments"
    run(NOON, Venue(two_days(HOUR), timeframe_s=HOUR), settings=hourly)
    assert database.fetch(bases) == [{"base": HOUR}]
    own = database.fetch("SELECT * FROM market_data WHERE timeframe_s = 3600 ORDER BY 1, 3")
    run(NOON, Venue(two_days()))
    assert database.fetch(bases) == [{"base": FIVE}]
    assert database.fetch("SELECT * FROM market_data WHERE timeframe_s = 3600 ORDER BY 1, 3") == own
    run(NOON + timedelta(hours=1), Venue(two_days(HOUR), timeframe_s=HOUR), settings=hourly)
    assert database.fetch(bases) == [{"base": FIVE}]


@pytest.mark.usefixtures("own_database")
def test_the_command_says_what_it_cannot_do(
    database: Database, settings: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("shared.job.load_settings", lambda: settings)
    assert backfill.main(["--venue", "ftx"]) == 2
    assert "FTX collapsed in November 2022" in capsys.readouterr().err
    venue = Venue(two_days())
    monkeypatch.setattr(backfill, "open_exchange", lambda name, *others: {"test": venue}[name])
    assert backfill.main(["--at", NOON.isoformat(), "--from", "2024-06-01T10:00"]) == 0
    assert [len(found) for found in stored(database).values()] == [24, 24]
    venue.broken = {A: "candles", B: "candles"}
    assert backfill.main(["--at", "2024-06-01T12:05"]) == 1
    assert "the venue does not answer" in capsys.readouterr().err
    venue.broken, venue.beyond_s = {}, FIVE
    assert backfill.main(["--at", "2024-06-01T12:05"]) == 3


@pytest.mark.usefixtures("own_database")
def test_the_command_looks_for_holes_at_any_minute_and_takes_its_span_symbols_and_timeframe(
    database: Database, settings: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    series = two_days()
    monkeypatch.setattr("shared.job.load_settings", lambda: settings)
    monkeypatch.setattr(backfill, "open_exchange", lambda *asked: Venue(series))
    one = ["--symbols", A, "--timeframe", "5m"]
    for begin, end in (("08:00", "09:00"), ("11:00", "12:00")):
        span = ["--from", f"2024-06-01T{begin}", "--to", f"2024-06-01T{end}"]
        assert backfill.main(["--at", "2024-06-01T12:35", *span, *one]) == 0
    assert {s: len(found) for s, found in stored(database).items()} == {A: 24}
    capsys.readouterr()
    assert backfill.main(["--at", "2024-06-01T12:35", *one]) == 0
    assert {s: len(found) for s, found in stored(database).items()} == {A: 55}
    assert "candles/s" not in capsys.readouterr().err, "no bar where nobody looks"
    backwards = ["--from", "2024-06-01T12:00", "--to", "2024-06-01T11:00"]
    assert backfill.main(backwards) == 2
    assert "is not before" in capsys.readouterr().err
