"""What the feed stores of what it hears and reads: each rule by itself."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from candles.feed_state import SeriesState, Span, Verdict
from shared.exchanges.protocol import BookTop, CandleUpdate
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
    served,
    spiked,
    updates_of,
)


def follow(state: SeriesState, row: tuple[float, ...]) -> None:
    for update in updates_of(row):
        state.saw(update)


def connected_state(truth: Candles) -> SeriesState:
    """Confirmed, connected, and past the candle in which it connected: what opens from truth[1] on is whole."""
    state = SeriesState(PACE, START, before())
    state.connected(START + 1)
    follow(state, row_of(truth, 0))
    state.saw(updates_of(row_of(truth, 1))[0])
    read(state, truth, START + STEP + 1, 0.0)
    assert state.known == START + STEP
    return state


def read(state: SeriesState, truth: Candles, now: float, monotonic: float) -> Verdict:
    span = state.ask(now, monotonic)
    assert span is not None
    return state.answered(span, served(truth, span), now, monotonic)


def test_a_candle_is_stored_when_the_next_one_begins_and_not_before() -> None:
    truth = market(4)
    state = connected_state(truth)
    follow(state, row_of(truth, 1))
    assert len(state.take(START + 2 * STEP + 5).store) == 0
    assert state.saw(updates_of(row_of(truth, 2))[0])
    stored = state.take(START + 2 * STEP + 5).store
    assert [row_of(stored, 0)] == [row_of(truth, 1)]
    assert len(stored) == 1
    assert state.ask(START + 2 * STEP + 6, 1.0) is None


def test_a_candle_from_our_own_future_waits_for_our_clock() -> None:
    truth = market(4)
    state = connected_state(truth)
    follow(state, row_of(truth, 1))
    state.saw(updates_of(row_of(truth, 2))[0])
    assert len(state.take(START + 2 * STEP - 1).store) == 0
    assert state.take(START + 2 * STEP).store.as_of.tolist() == [START + 2 * STEP]


def test_a_candle_in_which_the_stream_connected_is_asked_for() -> None:
    truth = market(4)
    state = SeriesState(PACE, START, before())
    state.connected(START + 1)
    follow(state, row_of(truth, 0))
    state.saw(updates_of(row_of(truth, 1))[0])
    assert len(state.take(START + STEP + 1).store) == 0
    verdict = read(state, truth, START + STEP + 1, 0.0)
    assert verdict.store.as_of.tolist() == [START + STEP]


def test_the_first_candle_of_a_connection_is_asked_for_even_if_our_clock_is_behind() -> None:
    truth = market(4)
    state = SeriesState(PACE, START, before())
    state.connected(START - 2)
    follow(state, row_of(truth, 0))
    state.saw(updates_of(row_of(truth, 1))[0])
    assert len(state.take(START + STEP + 1).store) == 0


def test_a_candle_with_a_trouble_in_it_is_asked_for_and_the_next_one_is_not() -> None:
    truth = market(5)
    state = connected_state(truth)
    follow(state, row_of(truth, 1))
    state.doubt(START + 2 * STEP - 3)
    follow(state, row_of(truth, 2))
    assert read(state, truth, START + 2 * STEP + 1, 1.0).store.as_of.tolist() == [START + 2 * STEP]
    state.saw(updates_of(row_of(truth, 3))[0])
    assert state.take(START + 3 * STEP + 1).store.as_of.tolist() == [START + 3 * STEP]


def test_a_candle_whose_own_updates_go_backwards_is_asked_for() -> None:
    truth = market(4)
    state = connected_state(truth)
    first, second, third = updates_of(row_of(truth, 1))
    for update in (first, third, second):
        state.saw(update)
    state.saw(updates_of(row_of(truth, 2))[0])
    assert len(state.take(START + 2 * STEP + 1).store) == 0
    assert state.ask(START + 2 * STEP + 1, 1.0) == Span(START + STEP, START + 2 * STEP)


def test_a_silent_close_is_asked_for_after_the_grace_and_not_before() -> None:
    truth = market(4)
    state = connected_state(truth)
    now = START + 2 * STEP
    assert state.ask(now, 100.0) is None
    assert state.ask(now + 9, 100.0 + GRACE - 1) is None
    assert state.ask(now + 10, 100.0 + GRACE) == Span(START + STEP, now)


def test_a_question_without_answer_is_asked_later_and_later() -> None:
    state = SeriesState(PACE, START, before())
    now, monotonic = START + STEP, 0.0
    waits = []
    for _ in range(5):
        assert state.ask(now, monotonic) is not None
        state.failed(monotonic)
        asked = monotonic
        while state.ask(now, monotonic) is None:
            monotonic += 1
        waits.append(monotonic - asked)
    assert waits == [10, 20, 40, 60, 60]


def test_each_decision_boundary_and_each_reconnect_read_the_last_candles_again() -> None:
    truth = market(40)
    state = SeriesState(PACE, START, before())
    read(state, truth, START + STEP, 0.0)
    assert state.ask(START + STEP + 1, 1.0) is None
    state.connected(START + STEP + 2)
    assert state.ask(START + STEP + 3, 2.0) == Span(START + STEP - 2 * HOUR, START + STEP)
    read(state, truth, START + STEP + 3, 2.0)
    for i in range(2, 12):
        now, monotonic = START + i * STEP + 1, 100.0 * i
        state.ask(now, monotonic)
        assert state.ask(now, monotonic + GRACE) == Span(START + (i - 1) * STEP, START + i * STEP)
        read(state, truth, now, monotonic + GRACE)
    state.ask(START + HOUR, 5000.0)
    assert state.ask(START + HOUR, 5000.0 + GRACE) == Span(START - HOUR, START + HOUR)


def test_what_a_confirmation_says_otherwise_is_a_revision() -> None:
    truth = market(4)
    state = connected_state(truth)
    follow(state, row_of(truth, 1))
    state.connected(START + STEP + 9)
    revised = replace(truth, volume=truth.volume + 1)
    verdict = read(state, revised, START + STEP + 9, 50.0)
    assert verdict.store.as_of.tolist() == [START + STEP]


def test_a_hole_is_believed_when_it_was_read_twice() -> None:
    truth = market(4, absent=frozenset({1}))
    state = SeriesState(PACE, START, before())
    now = START + 3 * STEP
    first = read(state, truth, now, 0.0)
    assert first.store.as_of.tolist() == [START + STEP]
    assert state.known == START + STEP
    second = read(state, truth, now, GRACE)
    assert second.store.as_of.tolist() == [START + 3 * STEP]
    assert second.counts["hole"] == 1


def test_an_answer_with_something_refused_in_it_is_no_proof_of_a_hole() -> None:
    truth = market(4)
    broken = replace(truth, high=np.where(truth.as_of == START + 2 * STEP, np.nan, truth.high))
    state = SeriesState(PACE, START, before())
    now = START + 3 * STEP
    for i in range(6):
        verdict = read(state, broken, now, 100.0 * i)
        assert [refused.reason for refused in verdict.refused] == ["price"]
        assert state.known == START + STEP
    assert read(state, truth, now, 1000.0).store.as_of.tolist() == [START + 2 * STEP, START + 3 * STEP]


def test_a_damaged_reading_does_not_confirm_a_hole_that_was_read_once() -> None:
    truth = market(5, absent=frozenset({1}))
    broken = replace(truth, high=np.where(truth.as_of == START + 4 * STEP, np.nan, truth.high))
    state = SeriesState(PACE, START, before())
    read(state, truth, START + 3 * STEP, 0.0)
    assert len(read(state, broken, START + 4 * STEP, 100.0).store) == 0
    assert len(read(state, truth, START + 4 * STEP, 200.0).store) == 2


def test_a_spike_is_quarantined_and_a_sane_second_reading_stored() -> None:
    truth = market(4)
    state = SeriesState(PACE, START, before())
    now = START + STEP
    verdict = read(state, spiked(truth, now), now, 0.0)
    assert len(verdict.store) == 0
    assert [refused.reason for refused in verdict.refused] == ["spike"]
    verdict = read(state, truth, now, GRACE)
    assert row_of(verdict.store, 0) == row_of(truth, 0)
    assert verdict.believed == []


def test_a_spike_that_is_read_twice_is_the_venues_truth() -> None:
    truth = market(4)
    wrong = spiked(truth, START + STEP)
    state = SeriesState(PACE, START, before())
    read(state, wrong, START + STEP, 0.0)
    verdict = read(state, wrong, START + STEP, GRACE)
    assert row_of(verdict.store, 0) == row_of(wrong, 0)
    assert len(verdict.believed) == 1
    assert state.ask(START + STEP, GRACE) is None


def test_two_spikes_that_differ_confirm_nothing() -> None:
    truth = market(4)
    wrong = spiked(truth, START + STEP)
    state = SeriesState(PACE, START, before())
    read(state, wrong, START + STEP, 0.0)
    other = replace(wrong, close=wrong.close * 0.9)
    assert len(read(state, other, START + STEP, GRACE).store) == 0
    assert len(read(state, other, START + STEP, 5 * GRACE).store) == 1


def test_two_readings_in_one_breath_are_one() -> None:
    truth = market(4)
    wrong = spiked(truth, START + STEP)
    state = SeriesState(PACE, START, before())
    span = state.ask(START + STEP, 0.0)
    assert span is not None
    state.answered(span, served(wrong, span), START + STEP, 0.0)
    assert len(state.answered(span, served(wrong, span), START + STEP, GRACE / 2).store) == 0


def test_a_spike_never_replaces_a_stored_candle_at_first_sight() -> None:
    truth = market(4)
    state = SeriesState(PACE, START, before())
    read(state, truth, START + STEP, 0.0)
    state.connected(START + STEP + 1)
    verdict = read(state, spiked(truth, START + STEP), START + STEP + 1, 1.0)
    assert len(verdict.store) == 0
    assert verdict.counts["spike"] == 1
    assert state.ask(START + STEP + 2, 1.0 + GRACE) is not None, "it is read again"


def test_a_close_far_from_the_book_is_suspect_though_it_is_near_the_last_close() -> None:
    truth = market(4)
    state = connected_state(truth)
    mid = truth.close[1] * 3
    state.quoted(BookTop("A", mid - 1, mid + 1))
    follow(state, row_of(truth, 1))
    state.saw(updates_of(row_of(truth, 2))[0])
    verdict = state.take(START + 2 * STEP + 1)
    assert len(verdict.store) == 0
    assert [refused.reason for refused in verdict.refused] == ["spike"]


def test_a_crossed_book_is_no_measure() -> None:
    truth = market(4)
    state = connected_state(truth)
    state.quoted(BookTop("A", truth.close[1] * 4, truth.close[1] * 2))
    follow(state, row_of(truth, 1))
    state.saw(updates_of(row_of(truth, 2))[0])
    assert len(state.take(START + 2 * STEP + 1).store) == 1


def test_a_malformed_candle_of_the_stream_is_refused_and_asked_for() -> None:
    truth = market(4)
    state = connected_state(truth)
    state.saw(CandleUpdate("A", START + STEP, 100.0, 90.0, 95.0, 100.0, 1.0, 5))
    state.saw(updates_of(row_of(truth, 2))[0])
    verdict = state.take(START + 2 * STEP + 1)
    assert [refused.reason for refused in verdict.refused] == ["high-low"]
    assert read(state, truth, START + 2 * STEP + 1, 1.0).store.as_of.tolist() == [START + 2 * STEP]


def test_the_first_candle_read_of_a_new_series_is_its_first() -> None:
    truth = market(4)
    state = SeriesState(PACE, START - 100 * STEP)
    verdict = state.answered(Span(START - 100 * STEP, START + 4 * STEP), truth, START + 4 * STEP, 0.0)
    assert verdict.store.as_of.tolist() == truth.as_of.tolist()
    assert not +verdict.counts


def test_candles_before_the_first_stored_one_are_not_the_feeds() -> None:
    truth = market(4)
    state = SeriesState(PACE, START + STEP, truth[:1])
    verdict = read(state, truth, START + 2 * STEP, 0.0)
    assert verdict.store.as_of.tolist() == [START + 2 * STEP]


def test_an_absence_longer_than_the_venues_memory_is_told_and_followed_by_what_there_is() -> None:
    n = 40
    truth = market(n)
    state = SeriesState(replace(PACE, depth=30), START, before())
    verdict = read(state, truth, START + n * STEP, 0.0)
    assert verdict.counts["out_of_reach"] == 10
    assert verdict.store.as_of.tolist() == truth.as_of[10:].tolist()


def test_the_past_that_a_connection_begins_with_is_not_believed() -> None:
    truth = market(6)
    state = SeriesState(PACE, START, before())
    state.connected(START + 3 * STEP + 9)
    follow(state, row_of(before(), 4))
    for i in range(4):
        follow(state, row_of(truth, i))
    assert len(state.take(START + 3 * STEP + 9).store) == 0
    assert read(state, truth, START + 3 * STEP + 9, 0.0).store.as_of.tolist() == truth.as_of[:3].tolist()


def test_an_interval_that_the_stream_skips_is_asked_for_and_counted() -> None:
    truth = market(5)
    state = connected_state(truth)
    follow(state, row_of(truth, 1))
    follow(state, row_of(truth, 3))
    verdict = state.take(START + 3 * STEP + 1)
    assert verdict.store.as_of.tolist() == [START + 2 * STEP]
    assert verdict.counts["skipped"] == 1
    assert state.ask(START + 3 * STEP + 1, 1.0) == Span(START + 2 * STEP, START + 3 * STEP)


def test_a_word_about_a_closed_candle_lets_it_be_read_again() -> None:
    truth = market(5)
    state = connected_state(truth)
    follow(state, row_of(truth, 1))
    state.saw(updates_of(row_of(truth, 2))[0])
    assert len(state.take(START + 2 * STEP + 1).store) == 1
    assert state.ask(START + 2 * STEP + 1, 1.0) is None
    state.saw(updates_of(row_of(truth, 1))[2])
    assert state.ask(START + 2 * STEP + 2, 2.0) == Span(START + 2 * STEP - 2 * HOUR, START + 2 * STEP)


def test_a_confirmation_that_lacks_what_is_stored_is_tried_again_but_not_for_ever() -> None:
    truth = market(4)
    state = SeriesState(PACE, START, before())
    read(state, truth, START + STEP, 0.0)
    state.connected(START + STEP + 1)
    counts: list[int] = []
    for i in range(1, 5):
        verdict = read(state, truth[1:], START + STEP + 1, 100.0 * i)
        assert verdict.counts["lacking"] == 1
        counts.append(verdict.counts["unconfirmed"])
    assert counts == [0, 0, 0, 1]
    assert state.ask(START + STEP + 1, 1000.0) is None


def test_rows_out_of_order_and_beyond_the_question_do_no_harm() -> None:
    truth = market(6)
    state = SeriesState(PACE, START, before())
    span = state.ask(START + 3 * STEP, 0.0)
    assert span is not None
    verdict = state.answered(span, truth[::-1], START + 5 * STEP, 0.0)
    assert verdict.store.as_of.tolist() == truth.as_of[:3].tolist()


def test_what_the_stream_has_ready_is_written_with_an_answer_and_yields_to_it() -> None:
    truth = market(5)
    state = connected_state(truth)
    follow(state, row_of(truth, 1))
    assert state.ask(START + 2 * STEP, 1.0) is None
    span = state.ask(START + 2 * STEP, 1.0 + GRACE)
    assert span is not None
    state.saw(updates_of(row_of(truth, 2))[0])  # while the question is under way
    revised = replace(truth, volume=truth.volume + 1)
    verdict = state.answered(span, served(revised, span), START + 2 * STEP, 1.0 + GRACE)
    assert verdict.store.as_of.tolist() == [START + 2 * STEP]
    assert verdict.store.volume[0] == revised.volume[1]
    assert len(state.take(START + 2 * STEP).store) == 0
