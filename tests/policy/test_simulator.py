"""The book of a backtest: bars on a grid, orders in time, stops, and the closed end."""

from __future__ import annotations

from datetime import datetime, timedelta

import numpy as np
import pytest

from policy.execution.plan import TradingRules
from policy.simulator import BAR_FIELDS, BarGrid, Costs, Simulator
from shared.clock import to_unix
from shared.rows import Candles
from shared.simulation import kernel
from tests.helpers import NOON, random_candles

HOUR = 3600
START = to_unix(NOON)
RULES = TradingRules(np.full(2, 0.01), np.full(2, 1e-5), np.full(2, 10.0), 0.05, float("inf"))
CALM, WILD = np.zeros(2), np.array([0.9, 0.9])


def hour(n: float) -> datetime:
    return NOON + timedelta(hours=n)


def grid(bars: int = 6) -> BarGrid:
    """Two instruments at 100 that rise by 1 an hour; 8 units traded in each hour."""
    opened = np.repeat(100.0 + np.arange(bars)[:, None], 2, axis=1)
    return BarGrid(START, HOUR, opened, opened + 2, opened - 1, opened + 1, np.full((bars, 2), 8.0))


def simulator(bars: BarGrid | None = None, delay_s: int = 120) -> Simulator:
    return Simulator(bars or grid(), RULES, Costs(40.0, 5.0, 1.0), delay_s, HOUR, 10_000.0)


def test_a_grid_holds_every_field_of_every_candle_at_its_bar_and_nan_where_there_is_none() -> None:
    made: Candles = random_candles(5, HOUR, seed=1, end=START + 5 * HOUR)
    bars = BarGrid.of([made[np.array([0, 1, 3, 4])], made[2:]], HOUR, START, START + 5 * HOUR)
    for name in BAR_FIELDS:
        column, told = getattr(bars, name), getattr(made, name)
        np.testing.assert_array_equal(column[[0, 1, 3, 4], 0], told[[0, 1, 3, 4]])
        np.testing.assert_array_equal(column[2:, 1], told[2:])
        assert np.isnan(column[2, 0])
        assert np.isnan(column[:2, 1]).all()


def test_an_order_fills_at_the_first_open_after_the_delay_slipped_by_its_own_volatility() -> None:
    book = simulator()
    book.place(np.array([2.0, 2.0]), hour(0), np.array([0.9, 0.0]))
    book.advance_to(hour(1))
    assert (book.fills, book.in_flight.tolist()) == ([], [True, True])
    book.advance_to(hour(2))
    half_a_bar = 1e4 * 0.9 * kernel.bar_years_sqrt(HOUR) / 2  # a quarter of the volume
    wild, calm = book.fills
    assert (wild.filled_at, wild.price) == (START + HOUR, kernel.market_price(True, 101.0, 5.0 + half_a_bar, 0.01))
    assert calm.price == kernel.market_price(True, 101.0, 5.0, 0.01) < wild.price
    assert book.fees == wild.fee + calm.fee
    assert book.traded == wild.cost + calm.cost
    assert book.slippage == pytest.approx(book.traded - 4 * 101.0)


@pytest.mark.parametrize("volatility", [np.nan, np.inf, -0.1])
def test_an_order_needs_a_volatility_what_is_not_ordered_does_not(volatility: float) -> None:
    book = simulator()
    book.place(np.array([1.0, 0.0]), hour(0), np.array([0.5, volatility]))
    with pytest.raises(ValueError, match="volatility"):
        book.place(np.array([0.0, 1.0]), hour(0), np.array([0.5, volatility]))


def test_an_open_order_keeps_the_volatility_it_was_sized_at() -> None:
    book, once = simulator(), simulator()
    for each in (book, once):
        each.place(np.array([2.0, 0.0]), hour(0), WILD)
    book.place(np.array([0.0, 2.0]), hour(0), CALM)
    for each in (book, once):
        each.advance_to(hour(2))
    assert book.fills[0] == once.fills[0]


@pytest.mark.parametrize(("missing", "filled"), [(1, [2]), (2, [])])
def test_an_order_waits_for_a_bar_for_one_decision_interval(missing: int, filled: list[int]) -> None:
    bars = grid()
    for field in BAR_FIELDS:
        getattr(bars, field)[1 : 1 + missing] = np.nan
    book = Simulator(bars, RULES, Costs(40.0, 5.0, 1.0), 120, 2 * HOUR, 10_000.0)
    book.place(np.array([2.0, 0.0]), hour(0), CALM)
    book.advance_to(hour(6))
    assert [(f.filled_at - START) // HOUR for f in book.fills] == filled
    assert not book.in_flight.any()


def test_a_stop_placed_with_an_order_closes_the_position_and_says_so() -> None:
    book = simulator(delay_s=0)
    book.place(np.array([2.0, 2.0]), hour(0), CALM, stop=np.array([99.0, 0.0]), target=np.array([0.0, 104.0]))
    book.advance_to(hour(6))
    told = [(f.instrument, f.kind, (f.filled_at - START) // HOUR, f.quantity) for f in book.fills]
    assert told == [(0, "market", 0, 2.0), (1, "market", 0, 2.0), (0, "stop", 0, -2.0), (1, "target", 2, -2.0)]
    assert book.held.tolist() == [0.0, 0.0]


def test_a_later_order_without_levels_leaves_them_as_they_are() -> None:
    book = simulator(delay_s=0)
    book.place(np.array([2.0, 0.0]), hour(0), CALM, target=np.array([104.0, 0.0]))
    book.advance_to(hour(1))
    book.place(np.array([1.0, 0.0]), hour(1), CALM)
    book.advance_to(hour(6))
    assert [f.quantity for f in book.fills] == [2.0, 1.0, -3.0]


def test_a_position_open_at_the_end_is_closed_and_charged() -> None:
    book = simulator()
    book.place(np.array([2.0, 0.0]), hour(0), CALM)
    book.advance_to(hour(6))
    marked, cash = book.equity_by_bar[5], book.cash
    assert marked == cash + 2 * 106.0
    costs = book.close_out()
    last = book.fills[-1]
    price = kernel.market_price(False, 106.0, 5.0, 0.01)
    assert (last.kind, last.filled_at, last.quantity, last.price) == ("close out", START + 6 * HOUR, -2.0, price)
    assert costs == pytest.approx(2 * (106.0 - price) + last.fee)
    assert book.equity_by_bar[5] == book.cash == pytest.approx(marked - costs)
    assert book.close_out() == 0.0, "there is nothing left to close"


def test_a_book_in_cash_is_closed_for_nothing() -> None:
    book = simulator()
    book.advance_to(hour(6))
    assert (book.close_out(), book.cash, book.fills) == (0.0, 10_000.0, [])
    assert book.equity_by_bar.tolist() == [10_000.0] * 6
