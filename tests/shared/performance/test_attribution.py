"""The instruments' profits sum to the book's: exactly in decimals, bar by bar in floats."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.money import to_money
from shared.performance import attribute, profits_over_time, round_trips
from shared.rows import FloatArray
from shared.simulation.kernel import round_money, trade_cost, trade_fee

TIMES = np.arange(1, 7, dtype=np.int64) * 300


@dataclass(frozen=True)
class OneFill:
    filled_at: int
    instrument: int
    quantity: float
    cost: float
    fee: float


@st.composite
def books(draw: st.DrawFn) -> tuple[list[OneFill], FloatArray]:
    """Fills of a book without shorts, and prices [6, 3] with gaps that are never before the first trade."""
    prices = np.array(draw(st.lists(st.lists(st.integers(1, 10**7), min_size=3, max_size=3), min_size=6, max_size=6)))
    prices = prices / 1e3
    held, fills = [0.0] * 3, []
    for bar, n, quantity in draw(
        st.lists(st.tuples(st.integers(0, 5), st.integers(0, 2), st.integers(-(10**6), 10**6)), max_size=12).map(sorted)
    ):
        signed = max(round_money(quantity / 1e4), -held[n])
        if signed:
            cost = trade_cost(abs(signed), float(prices[bar, n]))
            fills.append(OneFill(int(TIMES[bar]) - 300, n, signed, cost, trade_fee(cost, 40.0)))
            held[n] = round_money(held[n] + signed)
    return fills, prices


def equity_change(fills: list[OneFill], marks: FloatArray) -> Decimal:
    """Of the book as a whole: cash after every fill, and what is held at its mark."""
    cash, held = Decimal(0), [Decimal(0)] * 3
    for fill in fills:
        cash += (-1 if fill.quantity > 0 else 1) * to_money(fill.cost) - to_money(fill.fee)
        held[fill.instrument] += to_money(fill.quantity)
    return cash + sum((h * Decimal(repr(float(m))) for h, m in zip(held, marks, strict=True)), Decimal(0))


@given(books())
def test_profits_sum_exactly_to_the_change_of_equity(book: tuple[list[OneFill], FloatArray]) -> None:
    fills, prices = book
    parts = attribute(fills, dict(enumerate(prices[-1])))
    assert sum((part.profit for part in parts), Decimal(0)) == equity_change(fills, prices[-1])
    assert sum((part.fees for part in parts), Decimal(0)) == sum((to_money(fill.fee) for fill in fills), Decimal(0))
    assert sum(part.fills for part in parts) == len(fills)


@given(books())
def test_profits_of_bars_sum_to_those_of_the_whole(book: tuple[list[OneFill], FloatArray]) -> None:
    fills, prices = book
    over_time = profits_over_time(fills, TIMES, prices)
    for part in attribute(fills, dict(enumerate(prices[-1]))):
        assert over_time[:, part.instrument].sum() == pytest.approx(float(part.profit), rel=1e-9, abs=1e-5)
    for bar in range(6):
        until = [fill for fill in fills if fill.filled_at < TIMES[bar]]
        assert over_time[: bar + 1].sum() == pytest.approx(float(equity_change(until, prices[bar])), rel=1e-9, abs=1e-5)


@given(books(), st.integers(0, 12))
def test_two_spans_add_up_to_the_whole(book: tuple[list[OneFill], FloatArray], cut: int) -> None:
    fills, prices = book
    before, after = fills[:cut], fills[cut:]
    held = {n: round_money(sum(fill.quantity for fill in before if fill.instrument == n)) for n in range(3)}
    middle, last = dict(enumerate(prices[2])), dict(enumerate(prices[-1]))
    parts = [*attribute(before, middle), *attribute(after, last, held, middle)]
    assert sum((part.profit for part in parts), Decimal(0)) == equity_change(fills, prices[-1])


def test_a_contribution_by_hand() -> None:
    """Bought 2 at 100 (fee 1), sold 1 at 110 (fee 0.5), marked at 120: 110 - 200 - 1.5 + 120 = 28.5."""
    fills = [OneFill(0, 4, 2.0, 200.0, 1.0), OneFill(300, 4, -1.0, 110.0, 0.5)]
    (part,) = attribute(fills, {4: 120.0})
    assert (part.instrument, part.profit, part.fees) == (4, Decimal("28.5"), Decimal("1.5"))
    assert (part.traded, part.fills) == (Decimal(310), 2)


def test_what_was_held_before_counts_from_its_first_mark() -> None:
    (part,) = attribute([], {0: 120.0}, {0: 2.0}, {0: 100.0})
    assert part.profit == 40


def test_a_position_without_a_mark_is_refused() -> None:
    with pytest.raises(LookupError, match="instrument 0 is held"):
        attribute([OneFill(0, 0, 2.0, 200.0, 1.0)], {})
    with pytest.raises(LookupError, match="instrument 0 is held at Unix time 300"):
        profits_over_time([OneFill(0, 0, 2.0, 200.0, 1.0)], TIMES, np.full((6, 1), np.nan))


def test_where_a_bar_is_missing_the_last_price_stands() -> None:
    closes = np.array([[100.0], [np.nan], [110.0], [np.nan], [np.nan], [np.nan]])
    profits = profits_over_time([OneFill(0, 0, 1.0, 99.0, 0.0)], TIMES, closes)
    assert profits[:, 0].tolist() == [1.0, 0.0, 10.0, 0.0, 0.0, 0.0]


def test_a_fill_at_a_bars_close_belongs_to_the_next_bar_and_none_after_the_last() -> None:
    closes = np.full((6, 1), 100.0)
    profits = profits_over_time([OneFill(300, 0, 1.0, 99.0, 0.0)], TIMES, closes)
    assert profits[:, 0].tolist() == [0.0, 1.0, 0.0, 0.0, 0.0, 0.0]
    with pytest.raises(ValueError, match="after the last bar"):
        profits_over_time([OneFill(1800, 0, 1.0, 99.0, 0.0)], TIMES, closes)


def test_round_trips_close_when_nothing_is_held() -> None:
    fills = [
        OneFill(0, 0, 2.0, 200.0, 1.0),
        OneFill(0, 1, 1.0, 50.0, 0.0),
        OneFill(1, 0, -1.0, 120.0, 1.0),
        OneFill(2, 1, -1.0, 45.0, 1.0),
        OneFill(3, 0, -1.0, 110.0, 1.0),
        OneFill(4, 1, 1.0, 50.0, 0.0),
    ]
    assert round_trips(fills).tolist() == [-6.0, 27.0]
    assert len(round_trips([])) == 0
