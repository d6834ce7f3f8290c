"""Accounts: what a book is worth, what it paid, how it is closed, and many books at once."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.simulation import kernel
from shared.simulation.compiled import compiled
from shared.simulation.kernel import CLOSE_OUT, FEES, SLIPPAGE, STOP, TARGET, TRADED
from tests.shared.simulation.kernel_worlds import COST, FEE, KIND, World, run, worlds


@given(worlds())
@settings(max_examples=50, deadline=None)
def test_equity_changes_by_what_prices_did_less_fees_and_slippage(world: World) -> None:
    """To 1e-9 of what the book is worth, and the rounding of each amount to 8 decimals."""
    end = run(world)
    gain, gross = float(world.held @ (end.mark - world.mark)), abs(world.cash) + float(world.held @ world.mark)
    for bar, n, quantity, price, cost, _, kind in end.fills.tolist():
        opened = world.open[int(bar), world.slot[int(n)]]
        reference = {STOP: min(world.stop[int(n)], opened), TARGET: price}.get(int(kind), opened)
        gain += quantity * (end.mark[int(n)] - reference)
        gross += cost + abs(quantity * end.mark[int(n)])
    before = kernel.equity(world.cash, world.held, world.mark)
    after = kernel.equity(end.cash, end.held, end.mark)
    expected = gain - end.totals[FEES] - end.totals[SLIPPAGE]
    assert after - before == pytest.approx(expected, rel=0, abs=1e-9 * gross + 2e-8 * (1 + len(end.fills)))


@given(worlds())
@settings(max_examples=50, deadline=None)
def test_totals_are_the_sums_over_the_fills(world: World) -> None:
    end = run(world)
    assert end.totals[FEES] == pytest.approx(end.fills[:, FEE].sum(), abs=1e-7)
    assert end.totals[TRADED] == pytest.approx(end.fills[:, COST].sum(), rel=1e-12, abs=1e-7)
    assert (end.totals >= 0.0).all()


# ── the end of a book ────────────────────────────────────────────────────────────────────────────────────────
def close(world: World, close_out: Any = kernel.close_out) -> tuple[Any, ...]:
    held, order, stop, target = (a.copy() for a in (world.held, world.order, world.stop, world.target))
    fills, totals = np.zeros((len(held), kernel.FILL_COLUMNS)), np.zeros(kernel.TOTALS)
    cash, costs = close_out(
        world.cash, held, order, stop, target, world.slot, world.mark, 7, world.fee_bps, world.half_spread_bps,
        world.tick, world.lot, fills, totals,
    )  # fmt: skip
    return cash, costs, held, order, stop, target, fills, totals


@given(worlds())
@settings(max_examples=50, deadline=None)
def test_closing_sells_everything_and_costs_half_the_spread_and_the_fee(world: World) -> None:
    cash, costs, held, order, stop, target, fills, totals = close(world)
    assert not np.concatenate([held, order, stop, target]).any()
    worth = kernel.equity(world.cash, world.held, world.mark)
    assert cash == pytest.approx(worth - costs, rel=1e-12, abs=1e-7)
    assert costs == totals[FEES] + totals[SLIPPAGE]
    rate = (world.fee_bps + world.half_spread_bps - world.fee_bps * world.half_spread_bps * 1e-4) * 1e-4
    ticks = float(world.held @ world.tick[world.slot])  # prices are rounded to the tick against the seller
    least = rate * (worth - world.cash)
    assert least - ticks - 1e-6 <= costs <= least + ticks + 1e-6
    sold = fills[: int((world.held > 0).sum())]
    assert sold[:, KIND].tolist() == [CLOSE_OUT] * len(sold)
    assert sold[:, 0].tolist() == [7] * len(sold)


@given(worlds())
@settings(max_examples=50, deadline=None)
def test_closing_plain_and_compiled_gives_the_same_bits(world: World) -> None:
    for plain, jitted in zip(close(world), close(world, compiled["close_out"]), strict=True):
        assert np.float64(plain).tobytes() == np.float64(jitted).tobytes()


def test_a_position_without_a_known_price_is_not_sold_at_a_made_up_one() -> None:
    nan, one, none, slot = np.full(1, np.nan), np.ones(1), np.zeros(1), np.zeros(1, dtype=np.int64)
    for close_out in (kernel.close_out, compiled["close_out"]):
        held = one.copy()
        cash, costs = close_out(
            5.0, held, none.copy(), none.copy(), none.copy(), slot, nan, 0, 40.0, 5.0, 0.01 * one, 1e-5 * one,
            np.zeros((1, kernel.FILL_COLUMNS)), np.zeros(kernel.TOTALS),
        )  # fmt: skip
        assert (cash, costs, held.tolist()) == (5.0, 0.0, [1.0])


# ── many books ───────────────────────────────────────────────────────────────────────────────────────────────
BOOK = ("held", "order", "first", "last", "stop", "target", "slot", "volatility", "mark")


@st.composite
def batches(draw: st.DrawFn) -> tuple[World, list[World], list[tuple[int, int]]]:
    """A world, books on its bars that differ in all but their number of instruments, and the span of each."""
    market = draw(worlds())
    bars, m, n = len(market.open), market.open.shape[1], len(market.held)
    books, spans = [], []
    for _ in range(draw(st.integers(1, 4))):
        slot = np.array(draw(st.permutations(range(m)))[:n], dtype=np.int64)
        share = draw(st.sampled_from([0.0, 0.5, 1.0]))
        held, order = (np.floor(share * a / market.lot[slot]) * market.lot[slot] for a in (market.held, market.order))
        fee, half, impact = draw(st.tuples(*[st.sampled_from([0.0, 7.0, 40.0])] * 2, st.sampled_from([0.0, 1.5])))
        mark = np.where(np.isnan(market.close[0, slot]), 1.0, market.close[0, slot])
        book = replace(market, slot=slot, held=held, order=order, mark=mark, fee_bps=fee, half_spread_bps=half,
                       impact=impact, cash=round(share * market.cash, 8))  # fmt: skip
        books.append(book)
        first = draw(st.integers(0, bars))
        spans.append((first, draw(st.integers(first, bars))))
    return market, books, spans


def run_batch(market: World, books: list[World], spans: list[tuple[int, int]], advance_books: Any) -> list[Any]:
    columns = {name: np.array([getattr(book, name) for book in books]) for name in BOOK}
    cash, totals = np.array([book.cash for book in books]), np.zeros((len(books), kernel.TOTALS))
    first_bar, end_bar = np.array(spans, dtype=np.int64).T.copy()
    w, c = market, columns
    fee, half, impact = (np.array([getattr(b, k) for b in books]) for k in ("fee_bps", "half_spread_bps", "impact"))
    advance_books(
        cash, c["held"], c["order"], c["first"], c["last"], c["stop"], c["target"], c["slot"], w.open, w.high, w.low,
        w.close, w.volume, c["volatility"], c["mark"], first_bar, end_bar, w.bar_years_sqrt, fee, half, impact, w.tick,
        w.lot, totals,
    )  # fmt: skip
    return [cash, totals, *columns.values()]


@given(batches())
@settings(max_examples=50, deadline=None)
def test_many_books_plain_and_compiled_give_the_same_bits(batch: Any) -> None:
    plain = run_batch(*batch, kernel.advance_books)
    jitted = run_batch(*batch, compiled["advance_books"])
    assert [a.tobytes() for a in plain] == [a.tobytes() for a in jitted]


@given(batches())
@settings(max_examples=50, deadline=None)
def test_each_of_many_books_is_what_it_would_be_alone(batch: Any) -> None:
    market, books, spans = batch
    cash, totals, *columns = run_batch(market, books, spans, compiled["advance_books"])
    for b, (book, (first_bar, end_bar)) in enumerate(zip(books, spans, strict=True)):
        own = {name: getattr(book, name).copy() for name in BOOK}
        alone = np.zeros(kernel.TOTALS)
        end, _ = kernel.advance(
            book.cash, own["held"], own["order"], own["first"], own["last"], own["stop"], own["target"], own["slot"],
            book.open, book.high, book.low, book.close, book.volume, own["volatility"], own["mark"], first_bar, end_bar,
            book.bar_years_sqrt, book.fee_bps, book.half_spread_bps, book.impact, book.tick, book.lot, np.empty(0),
            np.empty((0, kernel.FILL_COLUMNS)), alone,
        )  # fmt: skip
        assert (cash[b], totals[b].tolist()) == (end, alone.tolist())
        for name, column in zip(BOOK, columns, strict=True):
            assert column[b].tobytes() == own[name].tobytes(), name
