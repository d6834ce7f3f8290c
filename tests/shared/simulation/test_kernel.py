"""The laws of the simulation kernel, plain and compiled. Books without stops and targets unless a law is about them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from decimal import Decimal

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from shared.exchanges.paper import fill_market_order
from shared.money import to_float, to_money
from shared.simulation import kernel
from shared.simulation.compiled import COMPILED, compiled
from tests.shared.simulation.kernel_worlds import LOTS, TICKS, World, on_grid, run, worlds

BPS = Decimal("0.0001")


ORDERS = worlds(levels=False)


def fills_of(world: World) -> Iterator[tuple[int, int, Decimal, Decimal, Decimal, Decimal]]:
    """(bar, instrument, signed quantity, price, cost, fee) as the database would store them."""
    for bar, n, *amounts, _ in run(world).fills.tolist():
        quantity, price, cost, fee = map(to_money, amounts)
        yield int(bar), int(n), quantity, price, cost, fee


@given(worlds())
@settings(max_examples=200, deadline=None)
def test_plain_and_compiled_give_the_same_bits(world: World) -> None:
    assert run(world).bits() == run(world, compiled["advance"]).bits()


@given(worlds(), st.lists(st.integers(0, 6), max_size=3))
@settings(max_examples=50, deadline=None)
def test_a_span_advanced_in_pieces_is_the_span_advanced_at_once(world: World, cuts: list[int]) -> None:
    pieces = tuple(min(cut, len(world.open)) for cut in cuts)
    assert run(world, compiled["advance"], pieces).bits() == run(world, compiled["advance"]).bits()


@given(ORDERS | worlds())
@settings(max_examples=200, deadline=None)
def test_an_order_that_never_comes_due_changes_nothing(world: World) -> None:
    """With one, every bar is looked at for fills; without, a book with nothing open is only marked."""
    never = 10**9
    waiting = replace(
        world, held=np.r_[world.held, 0.0], order=np.r_[world.order, 1.0], first=np.r_[world.first, never],
        last=np.r_[world.last, never], stop=np.r_[world.stop, 0.0], target=np.r_[world.target, 0.0],
        slot=np.r_[world.slot, world.slot[0]], volatility=np.r_[world.volatility, 0.0], mark=np.r_[world.mark, 1.0],
    )  # fmt: skip
    looked, marked = run(waiting, compiled["advance"]), run(world, compiled["advance"])
    cut = {name: getattr(looked, name)[:-1] for name in ("held", "order", "stop", "target", "mark")}
    assert replace(looked, **cut).bits() == marked.bits()


def test_everything_that_advance_calls_is_compiled_too() -> None:
    called = set()
    for name in COMPILED:
        called |= set(getattr(kernel, name).__code__.co_names)
    ours = {name for name in called if getattr(getattr(kernel, name, None), "__module__", "") == kernel.__name__}
    assert ours <= set(COMPILED)
    assert {"advance", "advance_book", "advance_books", "close_book", "close_out"} <= set(COMPILED)


@given(worlds())
@settings(max_examples=50, deadline=None)
def test_a_book_rebuilt_from_the_stored_fills_is_the_same_book(world: World) -> None:
    """Sums in Decimal of what NUMERIC(28,8) holds, read back as floats: not a bit differs."""
    end, cash, held = run(world), to_money(world.cash), [to_money(q) for q in world.held]
    for _, n, quantity, _, cost, fee in fills_of(world):
        cash += (cost if quantity < 0 else -cost) - fee
        held[n] += quantity
    assert to_float(cash) == end.cash
    assert [to_float(q) for q in held] == end.held.tolist()


@given(worlds())
@settings(max_examples=50, deadline=None)
def test_nothing_is_spent_or_sold_that_is_not_there(world: World) -> None:
    cash, held = to_money(world.cash), [to_money(q) for q in world.held]
    for _, n, quantity, _, cost, fee in fills_of(world):
        assert quantity <= to_money(max(world.order[n], 0.0))
        cash += (cost if quantity < 0 else -cost) - fee
        held[n] += quantity
        assert cash >= 0
        assert held[n] >= 0


@given(ORDERS)
@settings(max_examples=50, deadline=None)
def test_a_trade_costs_its_fee_and_its_slippage_and_nothing_else(world: World) -> None:
    """Valued at the reference price, the book loses the fee and what the price was slipped by, never less."""
    for bar, n, quantity, price, cost, fee in fills_of(world):
        m = world.slot[n]
        slippage = Decimal(world.slippage_bps(bar, n, world.order[n])) * BPS
        reference = to_money(world.open[bar, m])
        assert abs(cost - abs(quantity) * price) <= Decimal("0.5e-8")
        assert abs(fee - cost * Decimal(world.fee_bps) * BPS) <= Decimal("0.5001e-8")
        slipped, tick = reference * (1 + slippage if quantity > 0 else 1 - slippage), to_money(world.tick[m])
        against = price - slipped if quantity > 0 else slipped - price
        grain = tick * Decimal("1e-5")  # 0.3 / 0.1 means 3
        assert -grain <= against < tick + grain or price == tick


@given(worlds())
@settings(max_examples=50, deadline=None)
def test_fills_are_on_tick_and_lot(world: World) -> None:
    for _, n, quantity, price, _, _ in fills_of(world):
        assert price > 0
        assert price % to_money(world.tick[world.slot[n]]) == 0
        assert quantity % to_money(world.lot[world.slot[n]]) == 0


@given(ORDERS)
@settings(max_examples=50, deadline=None)
def test_sells_come_before_buys_within_a_bar_then_the_portfolios_order(world: World) -> None:
    met = [(bar, quantity > 0, n) for bar, n, quantity, *_ in fills_of(world)]
    assert met == sorted(met)
    assert len({n for *_, n in met}) == len(met)  # an order fills once


@given(ORDERS)
@settings(max_examples=50, deadline=None)
def test_an_order_fills_at_the_first_open_of_its_span_or_expires(world: World) -> None:
    end, bars = run(world), len(world.open)
    filled = {n: bar for bar, n, *_ in fills_of(world)}
    for n, order in enumerate(world.order):
        span = range(max(world.first[n], 0), min(world.last[n] + 1, bars))
        opens = [bar for bar in span if order != 0 and not np.isnan(world.open[bar, world.slot[n]])]
        if n in filled:
            assert filled[n] == opens[0]
        if order < 0:  # what is held is sold; a buy also needs the cash
            assert (n in filled) == (bool(opens) and world.held[n] > 0)
        still_open = order != 0 and not opens and world.last[n] >= bars
        assert end.order[n] == (order if still_open else 0.0)


@given(worlds())
@settings(max_examples=50, deadline=None)
def test_the_equity_of_a_bar_is_cash_and_holdings_at_the_last_close(world: World) -> None:
    mark = world.mark.copy()
    for bar in range(len(world.open)):
        book, closes = run(world.until(bar + 1)), world.close[bar, world.slot]
        mark = np.where(np.isnan(closes), mark, closes)
        assert run(world).equity[bar] == kernel.equity(book.cash, book.held, mark) == book.equity[bar]


def test_what_is_not_held_needs_no_price() -> None:
    assert kernel.equity(5.0, np.array([0.0, 2.0]), np.array([np.nan, 3.0])) == 11.0
    assert np.isnan(kernel.equity(5.0, np.array([1.0]), np.array([np.nan])))


@given(worlds(), st.sampled_from([0.0, 1.0, 100.0]))
@settings(max_examples=50, deadline=None)
def test_selling_the_same_for_a_higher_fee_never_leaves_more_cash(world: World, more_bps: float) -> None:
    """Of sells only: a buy that the higher fee makes unaffordable spends less, and so can leave more."""
    sells = replace(world, order=-np.abs(world.order))
    dearer = replace(sells, fee_bps=sells.fee_bps + more_bps)
    assert run(dearer).cash <= run(sells).cash
    assert run(dearer).held.tolist() == run(sells).held.tolist()


@given(ORDERS, st.sampled_from([1.0, 100.0]))
@settings(max_examples=50, deadline=None)
def test_a_buy_never_gets_more_for_a_higher_fee(world: World, more_bps: float) -> None:
    """Not more than the last digit of money buys, that is."""
    buys = replace(world, order=np.abs(world.order) * (np.arange(len(world.order)) == 0))
    least = np.nanmin(buys.open[:, buys.slot[0]], initial=buys.mark[0])
    dearer = run(replace(buys, fee_bps=buys.fee_bps + more_bps))
    assert dearer.held[0] <= run(buys).held[0] + 4e-8 / least


PRICES = st.integers(1, 10**13).map(lambda quanta: quanta / 1e8)


@given(st.integers(0, 10**14).map(lambda quanta: quanta / 1e8), PRICES, st.sampled_from([0.0, 10.0, 40.0, 500.0]),
       st.sampled_from(LOTS))  # fmt: skip
@example(25978.31245409, 2.899e-05, 40.0, 1e-8)  # a coin worth little in lots of 1e-8: once an endless loop
@example(22102.1121454, 0.00028466, 40.0, 1e-8)
@example(0.04088549, 8e-08, 10.0, 1e-5)
@settings(max_examples=50, deadline=None)
def test_what_is_affordable_is_paid_for_and_one_lot_more_is_not(
    cash: float, price: float, fee: float, lot: float
) -> None:
    assume(cash / price < 1e10)
    quantity = kernel.affordable(cash, price, fee, lot)
    assert quantity == compiled["affordable"](cash, price, fee, lot)
    cost = kernel.trade_cost(quantity, price)
    assert kernel.cash_after(cash, quantity, cost, kernel.trade_fee(cost, fee)) >= 0.0 or quantity == 0.0
    more = (Decimal(repr(quantity)) + to_money(lot)) * Decimal(repr(price)) * (1 + Decimal(fee) * BPS)
    assert more > to_money(cash) - Decimal("3e-8")


@given(st.integers(0, 5 * 10**14), st.sampled_from([*TICKS, *LOTS, 0.3, 7e-8]))
@example(3, 0.1)
def test_a_whole_number_of_steps_is_its_own_floor_and_ceiling(quanta: int, step: float) -> None:
    value = on_grid(quanta // round(step * 1e8), step)
    assert kernel.floor_to_step(value, step) == kernel.ceil_to_step(value, step) == value


@given(st.floats(0, 1e6), st.sampled_from([*TICKS, *LOTS, 0.3]))
def test_rounding_to_a_step_goes_down_or_up_by_less_than_one(value: float, step: float) -> None:
    slack = step * 1e-6 + 1e-8
    floor, ceiling = kernel.floor_to_step(value, step), kernel.ceil_to_step(value, step)
    assert value - step - slack < floor <= value + slack
    assert value - slack <= ceiling < value + step + slack


@given(st.integers(-(10**15), 10**15))
def test_an_amount_of_8_decimals_is_its_own_rounding(quanta: int) -> None:
    assert kernel.round_money(quanta / 1e8) == quanta / 1e8


@given(st.floats(0, 1e6))
def test_money_rounds_to_the_nearest_8_decimals(amount: float) -> None:
    assert abs(Decimal(repr(kernel.round_money(amount))) - Decimal(amount)) <= Decimal("0.51e-8")


@pytest.mark.parametrize(("reference", "tick"), [(0.004, 0.01), (0.01, 0.01)])
def test_a_price_never_falls_below_one_tick(reference: float, tick: float) -> None:
    assert kernel.market_price(False, reference, 500.0, tick) == tick


def test_a_market_order_by_hand() -> None:
    """Buy 2 at 100 with 10 bps slippage and 40 bps fee: 100.10 each, 200.20 and a fee of 0.8008."""
    assert kernel.market_fill(2.0, 1000.0, 0.0, 100.0, 10.0, 40.0, 0.01, 0.001) == (2.0, 100.1, 200.2, 0.8008)
    assert kernel.market_fill(-2.0, 0.0, 1.5, 100.0, 10.0, 40.0, 0.01, 0.001) == (-1.5, 99.9, 149.85, 0.5994)
    assert kernel.market_fill(2.0, 100.0, 0.0, 100.0, 10.0, 40.0, 0.01, 0.001)[0] == 0.995  # 100 / (100.1 * 1.004)
    assert kernel.market_fill(2.0, 201.0008, 0.0, 100.0, 10.0, 40.0, 0.01, 0.001)[0] == 2.0
    assert kernel.market_fill(2.0, 201.0007, 0.0, 100.0, 10.0, 40.0, 0.01, 0.001)[0] == 1.999  # the fee is paid too


@given(ORDERS)
@settings(max_examples=50, deadline=None)
def test_the_paper_venue_fills_what_the_kernel_fills(world: World) -> None:
    """One order at a time, through the Decimal border and back."""
    alone = replace(world, order=world.order * (np.arange(len(world.order)) == 0))
    m = alone.slot[0]
    for bar, _, quantity, price, cost, fee in fills_of(alone):
        told = fill_market_order(
            side="buy" if quantity > 0 else "sell", quantity=to_money(abs(world.order[0])),
            cash=to_money(world.cash), held=to_money(world.held[0]), open_price=float(world.open[bar, m]),
            volume=float(world.volume[bar, m]), bar_s=round(world.bar_years_sqrt**2 * kernel.YEAR_S),
            volatility=float(world.volatility[0]), half_spread_bps=Decimal(str(world.half_spread_bps)),
            impact=Decimal(str(world.impact)), fee_bps=Decimal(str(world.fee_bps)), tick=to_money(world.tick[m]),
            lot=to_money(world.lot[m]),
        )  # fmt: skip
        assert (told.quantity, told.price, told.cost, told.fee) == (abs(quantity), price, cost, fee)


@given(ORDERS)
@settings(max_examples=50, deadline=None)
def test_only_the_end_of_an_order_depends_on_how_much_room_there_is_for_fills(world: World) -> None:
    """Training asks for neither fills nor a curve, and gets the same book."""
    end, held, order, mark, none = run(world), world.held.copy(), world.order.copy(), world.mark.copy(), np.empty(0)
    stop, target, totals = world.stop.copy(), world.target.copy(), np.zeros(kernel.TOTALS)
    w = world
    cash, fills = kernel.advance(
        w.cash, held, order, w.first, w.last, stop, target, w.slot, w.open, w.high, w.low, w.close, w.volume,
        w.volatility, mark, 0, len(w.open), w.bar_years_sqrt, w.fee_bps, w.half_spread_bps, w.impact, w.tick, w.lot,
        none, np.empty((0, kernel.FILL_COLUMNS)), totals,
    )  # fmt: skip
    assert (cash, fills, held.tolist(), totals.tolist()) == (
        end.cash, len(end.fills), end.held.tolist(), end.totals.tolist(),
    )  # fmt: skip


# ── slippage ─────────────────────────────────────────────────────────────────────────────────────────────────
def test_slippage_by_hand() -> None:
    """A quarter of the bar's volume at a bar volatility of 2 %: half of 2 % on top of half the spread."""
    assert kernel.slippage_bps(5.0, 1.0, 0.02, 25.0, 100.0) == 5.0 + 100.0
    assert kernel.slippage_bps(5.0, 0.5, 0.02, 25.0, 100.0) == 5.0 + 50.0
    assert kernel.slippage_bps(5.0, 1.0, 0.02, 500.0, 100.0) == 5.0 + 200.0, "never more than the whole bar"
    assert kernel.slippage_bps(5.0, 0.0, 0.02, 25.0, 100.0) == 5.0


@pytest.mark.parametrize("volume", [0.0, np.nan, -1.0])
def test_where_nothing_is_known_to_have_traded_the_order_is_the_whole_bar(volume: float) -> None:
    assert kernel.slippage_bps(5.0, 1.0, 0.02, 1e-8, volume) == 205.0


@given(st.floats(0, 100), st.floats(0, 3), st.floats(0, 1), st.floats(0, 1e6), st.floats(1, 10), st.floats(0, 1e6))
def test_a_larger_order_in_a_wilder_or_thinner_bar_never_slips_less(
    half: float, impact: float, volatility: float, quantity: float, factor: float, volume: float
) -> None:
    slipped = kernel.slippage_bps(half, impact, volatility, quantity, volume)
    assert half <= slipped <= kernel.slippage_bps(half, impact, volatility, quantity * factor, volume)
    assert slipped <= kernel.slippage_bps(half, impact, volatility * factor, quantity, volume)
    assert slipped <= kernel.slippage_bps(half, impact, volatility, quantity, volume / factor)


def test_a_bars_volatility_is_the_years_times_the_root_of_its_length() -> None:
    assert kernel.bar_years_sqrt(365 * 86_400) == 1.0
    assert kernel.bar_years_sqrt(3600) == pytest.approx(8760**-0.5, rel=1e-15)


@given(ORDERS, st.sampled_from([0.5, 3.0]))
@settings(max_examples=50, deadline=None)
def test_selling_the_same_with_more_impact_never_leaves_more_cash(world: World, more: float) -> None:
    sells = replace(world, order=-np.abs(world.order))
    assert run(replace(sells, impact=sells.impact + more)).cash <= run(sells).cash
