"""What the feed makes of long absences, wrong clocks and answers that stay bad: it goes on and never stands still."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from candles.feed_state import REFUSALS, SeriesState, Span, Verdict
from shared.exchanges.protocol import BookTop
from shared.rows import Candles
from tests.candles.feed_candles import (
    GRACE,
    HOUR,
    PACE,
    START,
    STEP,
    before,
    market,
    row_of,
    rows_of,
    served,
    updates_of,
)

DAY = 86_400


def read(state: SeriesState, truth: Candles, now: float, monotonic: float) -> Verdict:
    """Asks late enough for a silent close to be asked for."""
    span = state.ask(now, monotonic) or state.ask(now, monotonic + GRACE)
    assert span is not None
    return state.answered(span, served(truth, span), now, monotonic)


def read_often(
    state: SeriesState, truth: Candles, now: float, times: int, begun: float = 0.0
) -> dict[int, tuple[float, ...]]:
    """What was stored of so many answers."""
    stored: dict[int, tuple[float, ...]] = {}
    for i in range(times):
        if state.pending(now):
            stored |= rows_of(read(state, truth, now, begun + 1000.0 * i).store)
    return stored


@pytest.mark.parametrize("stored", [True, False], ids=["a known series", "a new series"])
def test_a_hole_of_long_ago_does_not_hold_up_what_came_after_it(stored: bool) -> None:
    n = DAY // STEP
    truth = market(n, absent=frozenset({20}))
    state = SeriesState(PACE, START, before()) if stored else SeriesState(PACE, START - 5 * STEP)
    got = read_often(state, truth, START + DAY, 3)
    assert got.keys() >= rows_of(truth).keys()
    assert not state.pending(START + DAY)


def test_what_the_stream_told_before_a_long_outage_is_read_again() -> None:
    truth = market(100)
    state = SeriesState(PACE, START, before())
    state.connected(START + 1)
    read(state, truth, START + 1, 0.0)
    for update in updates_of(row_of(truth, 0)):
        state.saw(update)
    state.saw(updates_of(row_of(truth, 1))[0])
    read(state, truth, START + STEP + 1, 1.0)
    for i in (1, 2):
        for update in updates_of(row_of(truth, i)):
            state.saw(update)
    state.saw(updates_of(row_of(truth, 3))[0])
    assert len(state.take(START + 3 * STEP).store) == 2
    state.lost()
    corrected = replace(truth, volume=np.where(truth.as_of == START + 2 * STEP, truth.volume + 1, truth.volume))
    state.connected(START + 100 * STEP)
    verdict = read(state, corrected, START + 100 * STEP, 100.0)
    assert START + 2 * STEP in verdict.store.as_of


@pytest.mark.parametrize("reason", ["price", "high-low", "volume"])
def test_a_candle_that_stays_malformed_is_left_out_in_the_end_and_told_once(reason: str) -> None:
    truth = market(6)
    hit = truth.as_of == START + 2 * STEP
    spoil = {
        "price": {"high": np.where(hit, np.nan, truth.high)},
        "high-low": {"high": np.where(hit, truth.low / 2, truth.high)},
        "volume": {"volume": np.where(hit, -1.0, truth.volume)},
    }
    broken = replace(truth, **spoil[reason])
    state = SeriesState(PACE, START, before())
    now, stored, told = START + 6 * STEP, [], []
    for i in range(REFUSALS + 3):
        if state.pending(now):
            verdict = read(state, broken, now, 1000.0 * i)
            stored += verdict.store.as_of.tolist()
            told += verdict.given_up
            assert bool(told) == (i >= REFUSALS - 1)
    assert stored == broken.as_of[~hit].tolist()
    assert len(told) == 1
    assert f"as_of={START + 2 * STEP} " in told[0]
    state.connected(now + 1)
    verdict = read(state, truth, now + 1, 1e6)
    assert verdict.store.as_of.tolist() == [START + 2 * STEP], "the venue has mended it"


def test_a_spike_that_differs_each_time_is_left_out_in_the_end() -> None:
    truth = market(4)
    hit = truth.as_of == START + 2 * STEP
    state = SeriesState(PACE, START, before())
    now, stored, told = START + 4 * STEP, [], []
    for i in range(REFUSALS + 3):
        wild = replace(truth, high=np.where(hit, truth.high * (10 + i), truth.high))
        if state.pending(now):
            verdict = read(state, wild, now, 1000.0 * i)
            stored += verdict.store.as_of.tolist()
            told += verdict.given_up
    assert stored == truth.as_of[~hit].tolist()
    assert len(told) == 1


def test_refusals_count_only_in_a_row() -> None:
    truth = market(4)
    broken = replace(truth, volume=np.where(truth.as_of == START + 2 * STEP, -1.0, truth.volume))
    state = SeriesState(PACE, START, before())
    for i in range(2 * REFUSALS):
        lacking = truth[truth.as_of <= START + STEP]  # nothing beyond it: no hole either
        verdict = read(state, lacking if i == REFUSALS - 1 else broken, START + 4 * STEP, 1000.0 * i)
        assert len(verdict.given_up) == (i == 2 * REFUSALS - 1)


def test_old_candles_are_not_measured_by_the_book_of_today() -> None:
    truth = market(30)
    state = SeriesState(PACE, START, before())
    doubled = replace(truth, close=np.where(truth.as_of == START + 30 * STEP, truth.close[0] * 1.9, truth.close))
    doubled = replace(doubled, high=np.maximum(doubled.high, doubled.close))
    mid = truth.close[0] * 2.5
    state.quoted(BookTop("A", mid - 1, mid + 1))
    verdict = read(state, doubled, START + 30 * STEP, 0.0)
    assert verdict.store.as_of.tolist() == truth.as_of.tolist()
    assert not verdict.refused


def test_the_newest_candle_is_measured_by_the_book() -> None:
    truth = market(3)
    state = SeriesState(PACE, START, before())
    mid = truth.close[2] * 3
    state.quoted(BookTop("A", mid - 1, mid + 1))
    verdict = read(state, truth, START + 3 * STEP, 0.0)
    assert verdict.store.as_of.tolist() == truth.as_of[:2].tolist()
    assert [refused.reason for refused in verdict.refused] == ["spike"]


def test_a_clock_that_was_days_ahead_leaves_nothing_behind() -> None:
    truth = market(30)
    state = SeriesState(PACE, START, before())
    read(state, truth, START + STEP, 0.0)
    ahead = START + 9 * DAY
    state.connected(ahead)
    for i in range(3):
        verdict = read(state, truth[:1], ahead, 1000.0 * (i + 1))
        assert not verdict.counts["out_of_reach"]
    assert state.known == START + STEP
    assert read_often(state, truth, START + 3 * STEP, 2, 5e3).keys() == {START + 2 * STEP, START + 3 * STEP}
    for i in (3, 4):
        for update in updates_of(row_of(truth, i)):
            state.saw(update)
    state.saw(updates_of(row_of(truth, 5))[0])
    read_often(state, truth, START + 4 * STEP, 2, 1e4)
    state.ask(START + HOUR, 1e6)
    assert state.ask(START + HOUR, 1e6 + GRACE) == Span(START - HOUR, START + HOUR), "the next boundary confirms"


def test_the_stream_is_believed_again_once_a_clock_that_was_ahead_is_right() -> None:
    truth = market(6)
    state = SeriesState(PACE, START, before())
    state.connected(START + 9 * DAY)
    read(state, truth, START + 1, 0.0)
    for i in (0, 1):
        for update in updates_of(row_of(truth, i)):
            state.saw(update)
    read(state, truth, START + STEP + 1, 1000.0)
    state.saw(updates_of(row_of(truth, 2))[0])
    assert state.take(START + 2 * STEP).store.as_of.tolist() == [START + 2 * STEP]


def test_a_new_series_that_began_with_a_clock_ahead_begins_where_its_candles_do() -> None:
    truth = market(6)
    state = SeriesState(PACE, START + 9 * DAY)
    verdict = state.answered(Span(START, START + 6 * STEP), truth, START + 6 * STEP, 0.0)
    assert verdict.store.as_of.tolist() == truth.as_of.tolist()
    assert state.known == START + 6 * STEP
    assert not +verdict.counts


def test_what_a_confirmation_says_again_is_handed_out_for_the_table_to_judge() -> None:
    truth = market(3)
    state = SeriesState(PACE, START, before())
    read(state, truth, START + 3 * STEP, 0.0)
    state.connected(START + 3 * STEP + 1)
    verdict = read(state, truth, START + 3 * STEP + 1, GRACE)
    assert len(verdict.store) == 0
    assert rows_of(verdict.again) == rows_of(Candles.concatenate([before(), truth]))


def test_a_candle_that_the_stream_and_an_answer_bring_together_is_handed_out_once() -> None:
    truth = market(5)
    state = SeriesState(PACE, START, before())
    state.connected(START + 1)
    for i in (0, 1):
        for update in updates_of(row_of(truth, i)):
            state.saw(update)
    read(state, truth, START + STEP, 0.0)
    span = state.ask(START + 2 * STEP, 1.0) or state.ask(START + 2 * STEP, 1.0 + GRACE)
    assert span is not None
    state.saw(updates_of(row_of(truth, 2))[0])  # while the question is under way
    verdict = state.answered(span, served(truth, span), START + 2 * STEP, 1.0 + GRACE)
    assert verdict.store.as_of.tolist() == [START + 2 * STEP]
    assert START + 2 * STEP not in verdict.again.as_of
