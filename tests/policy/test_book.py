"""A book at one moment: what it is worth, what it is compared with, and that memory and rows tell the same."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from policy.book import History, HistoryKeeper, make_book
from policy.decision_kernel import day_start_equity
from shared.clock import from_unix, to_unix
from tests.helpers import NOON

HOUR = 3600
START = to_unix(NOON)


def test_a_book_is_worth_its_cash_and_what_it_holds_and_needs_no_price_of_what_it_does_not() -> None:
    book = make_book(NOON, 500.0, np.array([2.0, 0.0]), np.array([100.0, np.nan]), History(650.0, 800.0))
    assert (book.equity, book.peak_equity, book.drawdown) == (700.0, 800.0, pytest.approx(0.125))
    assert book.day_return == pytest.approx(700 / 650 - 1)
    assert book.weights(np.array([100.0, np.nan])).tolist() == [200 / 700, 0.0]


def test_a_new_day_and_a_new_peak_begin_with_what_the_book_is_worth() -> None:
    midnight = NOON.replace(hour=0)
    book = make_book(midnight, 900.0, np.zeros(1), np.array([1.0]), History(650.0, 800.0))
    assert (book.day_start_equity, book.day_return) == (900.0, 0.0)
    assert (book.peak_equity, book.drawdown) == (900.0, 0.0)


@given(st.lists(st.tuples(st.integers(1, 40), st.floats(1.0, 1e6)), min_size=1, max_size=60))
def test_the_keeper_and_the_compiled_path_remember_the_same_day_and_peak(steps: list[tuple[int, float]]) -> None:
    """Whatever hours are decided at, midnights left out among them."""
    keeper, t, peak = HistoryKeeper(1000.0), START, 1000.0
    last_t, last, day_start = START, 1000.0, 1000.0
    for hours, equity in steps:
        t += hours * HOUR
        book = make_book(from_unix(t), equity, np.zeros(1), np.zeros(1), keeper.before(from_unix(t)))
        day_start, peak = day_start_equity(t, equity, last_t, last, day_start), max(peak, equity)
        assert (book.day_start_equity, book.peak_equity) == (day_start, peak)
        keeper.record(from_unix(t), equity)
        last_t, last = t, equity


def test_after_a_resume_the_peak_counts_anew_and_the_day_goes_on() -> None:
    keeper = HistoryKeeper(1000.0)
    keeper.before(NOON)
    keeper.record(NOON, 1200.0)
    keeper.resume(700.0)
    assert keeper.before(NOON) == History(day_start_equity=1000.0, peak_equity=700.0)
