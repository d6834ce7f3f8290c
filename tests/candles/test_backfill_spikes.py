"""An absurd candle is not believed at first sight: it is asked for once more, and then the venue's word is final."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from candles import backfill_fetch
from candles.backfill import run_once
from candles.spikes import find_suspects
from shared.clock import ReplayClock, to_unix
from shared.db import Database
from shared.job import Outcome
from shared.market_data import find_instruments, read_candles
from shared.rows import Candles
from shared.settings import Settings
from tests.candles.backfill_venue import FIVE, A, TradesVenue, Venue, gaps, stored, two_days, until
from tests.helpers import NOON, DatabaseFor, random_candles

pytestmark = pytest.mark.usefixtures("rolled_back")

DAY_AGO = NOON - timedelta(days=1)
Run = Callable[..., Outcome]


@pytest.fixture
def database(database_for: DatabaseFor) -> Database:
    return database_for("candles")


@pytest.fixture
def run(database: Database, settings: Settings) -> Run:
    def at(moment: datetime, venue: Venue, **arguments: Any) -> Outcome:
        return run_once(ReplayClock(moment), database, settings, venue, symbols=[A], **arguments)

    return at


def scaled(candles: Candles, factor: float, hit: Any) -> Candles:
    prices = {name: np.where(hit, getattr(candles, name) * factor, getattr(candles, name))
              for name in ("open", "high", "low", "close")}  # fmt: skip
    return replace(candles, **prices)


def spiked(candles: Candles, *closes: datetime, factor: float = 10.0) -> Candles:
    hit = np.isin(candles.as_of, [to_unix(at) for at in closes])
    return replace(candles, high=np.where(hit, candles.high * factor, candles.high),
                   close=np.where(hit, candles.close * factor, candles.close))  # fmt: skip


def read(database: Database) -> Candles:
    (instrument,) = find_instruments(database, "test", [A])
    return read_candles(database, instrument.id, FIVE, 0, to_unix(NOON) + 86_400)


def quarantined(database: Database) -> list[str]:
    return [row["reason"] for row in database.fetch("SELECT reason FROM quarantine ORDER BY id")]


def alerts(database: Database) -> list[tuple[str, str]]:
    return [(row["severity"], row["key"]) for row in database.fetch("SELECT severity, key FROM alerts")]


def lies_once(truth: Candles, lie: Candles, **others: Any) -> Venue:
    """Serves ``lie`` at its first answer, the truth from then on."""
    venue = Venue({A: lie}, **others)

    def answer(symbol: str, asked: int) -> None:
        venue.series = {A: lie if asked == 1 else truth}

    venue.before_answer = answer
    return venue


@pytest.mark.parametrize("behind", [0, 1, 30, 287], ids=["live candle", "one before", "in between", "first of all"])
@pytest.mark.parametrize("factor", [10.0, 100.0])
def test_a_spike_that_is_gone_at_the_second_reading_never_gets_in(
    run: Run, database: Database, behind: int, factor: float
) -> None:
    truth = two_days()[A]
    venue = lies_once(truth, spiked(truth, NOON - timedelta(minutes=5 * behind), factor=factor))
    outcome = run(NOON, venue, span_from=DAY_AGO)
    assert outcome.result == {A: {"new": 288}}
    assert len(venue.asked) == 2
    assert venue.asked[1][2] - venue.asked[1][1] <= 2 * FIVE, "only what was absurd"
    found = read(database)
    assert found.close.tolist() == truth[np.isin(truth.as_of, found.as_of)].close.tolist()
    assert set(quarantined(database)) == {"spike"}
    assert (alerts(database), gaps(database)) == ([], [])


def test_a_spike_at_the_live_end_of_a_known_series_is_held_against_what_is_stored(run: Run, database: Database) -> None:
    truth = two_days()[A]
    run(NOON - timedelta(minutes=5), Venue({A: truth}), span_from=DAY_AGO)
    run(NOON, lies_once(truth, spiked(truth, NOON)))
    assert read(database).close[-1] == truth.close[truth.as_of == to_unix(NOON)][0]
    assert database.fetch("SELECT id FROM candle_revisions") == []


def test_a_single_candle_in_a_hole_is_held_against_the_stored_one_before_it(run: Run, database: Database) -> None:
    truth, lost = two_days()[A], NOON - timedelta(minutes=100)
    run(NOON, Venue({A: truth[truth.as_of != to_unix(lost)]}), span_from=DAY_AGO)
    run(NOON, lies_once(truth, spiked(truth, lost)), span_from=DAY_AGO, recheck=True)
    assert quarantined(database) == ["spike"]
    assert read(database).close.max() < 2 * truth.close.max()


def test_a_lasting_spike_is_the_venues_truth_and_a_person_is_told(run: Run, database: Database) -> None:
    lie = spiked(two_days()[A], NOON - timedelta(minutes=150))
    venue = Venue({A: lie})
    outcome = run(NOON, venue, span_from=DAY_AGO)
    assert (outcome.status, outcome.result) == ("done", {A: {"new": 288}})
    assert len(venue.asked) == 2
    assert read(database).close.max() == lie.close.max()
    assert (quarantined(database), alerts(database)) == (["spike"], [("warning", f"backfill-spike:test:{A}")])
    venue.asked.clear()
    run(NOON, venue, span_from=DAY_AGO, recheck=True)
    assert venue.asked == []


def test_a_step_to_a_new_level_costs_one_question_and_later_ticks_none(run: Run, database: Database) -> None:
    truth = two_days()[A]
    crashed = scaled(truth, 0.4, truth.as_of > to_unix(NOON))
    venue = Venue({A: crashed})
    run(NOON, venue, span_from=DAY_AGO)
    asked = []
    for tick in range(1, 7):
        venue.asked.clear()
        assert run(NOON + timedelta(minutes=5 * tick), venue).result == {A: {"new": 1}}
        asked.append(len(venue.asked))
    assert asked == [2, 1, 1, 1, 1, 1], "what is stored was believed before"
    venue.asked.clear()
    later = to_unix(NOON) + 6 * 3600
    run(NOON + timedelta(hours=6), venue)
    assert stored(database) == {A: [t for t in until({A: crashed}, later)[A] if t > to_unix(DAY_AGO)]}
    assert len(venue.asked) == 1
    assert len(alerts(database)) == 1


def test_a_new_level_in_one_page_is_one_question(run: Run, database: Database) -> None:
    truth = two_days()[A]
    venue = Venue({A: scaled(truth, 2.5, truth.as_of > to_unix(NOON) - 100 * FIVE)})
    assert run(NOON, venue, span_from=DAY_AGO).result == {A: {"new": 288}}
    step = to_unix(NOON) - 100 * FIVE
    assert venue.asked[1:] == [(A, step, step + FIVE)]


def test_what_differs_at_each_reading_is_not_stored_and_not_said_to_be_none(run: Run, database: Database) -> None:
    truth, at = two_days()[A], NOON - timedelta(minutes=100)
    venue = Venue({A: truth})

    def answer(symbol: str, asked: int) -> None:
        venue.series = {A: spiked(truth, at, factor=10.0 * asked)}

    venue.before_answer = answer
    outcome = run(NOON, venue, span_from=DAY_AGO)
    assert (outcome.status, outcome.result) == ("refused", {A: {"new": 287, "refused": {"spike": 1}}})
    assert gaps(database) == [(at, 1, None)]
    venue.before_answer, venue.series = lambda symbol, asked: None, {A: truth}
    assert run(NOON, venue, span_from=DAY_AGO).result == {A: {"new": 1}}


def test_a_candle_that_the_second_reading_lacks_is_asked_for_another_time(run: Run, database: Database) -> None:
    truth, at = two_days()[A], NOON - timedelta(minutes=100)
    run(NOON, lies_once(truth[truth.as_of != to_unix(at)], spiked(truth, at)), span_from=DAY_AGO)
    assert gaps(database) == [(at, 1, None)]


def test_candles_from_trades_are_read_twice_too(run: Run, database: Database) -> None:
    truth = two_days()[A]
    venue = TradesVenue({A: spiked(truth, NOON - timedelta(minutes=500))}, depth=48, trades_page=30)
    outcome = run(NOON, venue, span_from=DAY_AGO)
    assert outcome.result[A]["new"] == 288
    assert venue.built[-1][2] - venue.built[-1][1] <= 2 * FIVE
    assert len(alerts(database)) == 1


def test_a_venue_on_the_network_is_given_time_before_the_second_reading(
    run: Run, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backfill_fetch, "SECOND_READING_S", 0.2)
    truth, times = two_days()[A], list[float]()
    venue = Venue({A: spiked(truth, NOON)}, rate=1_000.0, before_answer=lambda *_: times.append(time.monotonic()))
    run(NOON, venue, span_from=DAY_AGO)
    assert times[1] - times[0] >= 0.2


def test_workers_leave_after_a_run_with_trades(run: Run) -> None:
    before = set(threading.enumerate())
    run(NOON, TradesVenue(two_days(), depth=48, page=10, rate=1_000.0), span_from=DAY_AGO)
    deadline = time.monotonic() + 5
    while (left := set(threading.enumerate()) - before) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not left


# --- the law ---


def at_levels(levels: list[float]) -> Candles:
    candles = random_candles(len(levels), FIVE)
    level = np.array(levels, dtype=float)
    return replace(candles, open=level, high=level, low=level, close=level)


@pytest.mark.parametrize(
    ("reference", "levels", "suspects"),
    [
        (100, [100, 1000, 100, 100], [1]),
        (100, [100, 1000, 100, 1000, 100], [1, 3]),
        (100, [100, 1000, 1000, 1000], [1]),
        (100, [100, 1000, 1000, 100], [1, 3]),
        (100, [1000, 100], [0]),
        (100, [100, 250, 600], [1, 2]),
        (None, [1000, 100, 100], [0, 1]),
        (None, [1000], []),
        (100, [200, 100, 50], []),
        (100, [201], [0]),
        (100, [49.9], [0]),
    ],
)
def test_only_the_step_is_suspect(reference: float | None, levels: list[float], suspects: list[int]) -> None:
    assert np.flatnonzero(find_suspects(at_levels(levels), reference)).tolist() == suspects


@given(st.lists(st.sampled_from([90.0, 100.0, 110.0, 1000.0, 5.0]), min_size=1, max_size=12))
def test_what_passes_at_first_sight_is_near_the_one_before_or_a_return(levels: list[float]) -> None:
    suspects = find_suspects(at_levels(levels), 100.0)
    before = [100.0, *levels]
    for i, level in enumerate(levels):
        near = any(b / 2 <= level <= b * 2 for b in before[max(0, i - 1) : i + 1])
        assert suspects[i] or near
