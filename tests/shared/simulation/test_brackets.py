"""Stops and targets: when they are reached, at which price they fill, and what goes with them."""

from __future__ import annotations

from dataclasses import replace
from itertools import count

import numpy as np
import pytest
from hypothesis import given, settings

from shared.simulation import kernel
from shared.simulation.kernel import MARKET, STOP, TARGET
from tests.shared.simulation.kernel_worlds import FEE, FILLED_AT, KIND, PRICE, QUANTITY, End, World, run, worlds

NAN = np.nan


def one_book(bars: list[tuple[float, float, float, float]], **changes: object) -> World:
    """Two units of one instrument, bought earlier; each bar is (open, high, low, close). 10 bps slippage, 40 fee."""
    path = np.array(bars, dtype=float)
    one, bar = np.ones(1), np.ones((len(bars), 1))
    world = World(
        cash=0.0, held=2.0 * one, order=0.0 * one, first=np.zeros(1, dtype=np.int64), last=np.zeros(1, dtype=np.int64),
        stop=0.0 * one, target=0.0 * one, slot=np.zeros(1, dtype=np.int64), open=path[:, :1], high=path[:, 1:2],
        low=path[:, 2:3], close=path[:, 3:], volume=1e9 * bar, volatility=0.0 * one, mark=100.0 * one,
        bar_years_sqrt=kernel.bar_years_sqrt(3600), fee_bps=40.0, half_spread_bps=10.0, impact=1.0,
        tick=0.01 * one, lot=1e-5 * one,
    )  # fmt: skip
    arrays = {k: np.array([v], dtype=world.first.dtype if k in ("first", "last") else float)
              for k, v in changes.items() if k not in ("cash", "impact")}  # fmt: skip
    return replace(world, **{k: v for k, v in changes.items() if k in ("cash", "impact")} | arrays)  # type: ignore[arg-type]


def exits(world: World) -> list[tuple[int, float, int]]:
    """(bar, price, kind) of each fill."""
    return [(int(f[FILLED_AT]), f[PRICE], int(f[KIND])) for f in run(world).fills]


@pytest.mark.parametrize(
    ("bar", "stop", "target", "fill"),
    [
        ((100, 101, 96, 97), 95, 105, None),
        ((100, 101, 95, 97), 95, 0, (94.90, STOP)),  # touched is reached: 95 less 10 bps, down to the tick
        ((100, 105, 99, 104), 0, 105, (105.0, TARGET)),  # a resting limit: no slippage
        ((100, 104.99, 99, 104), 0, 105, None),
        ((90, 92, 88, 91), 95, 0, (89.91, STOP)),  # gapped through: the open, not the level
        ((110, 112, 108, 109), 0, 105, (110.0, TARGET)),
        ((100, 106, 94, 100), 95, 105, (94.90, STOP)),  # both within the bar, in unknown order
        ((90, 106, 88, 100), 95, 105, (89.91, STOP)),
        ((110, 112, 94, 100), 95, 105, (110.0, TARGET)),  # the open comes before the low
        ((100, 104, 96, 100), 0, 104.004, None),  # a limit off the tick rests a tick further out
        ((100, 104.01, 96, 100), 0, 104.004, (104.01, TARGET)),
        ((NAN, NAN, NAN, NAN), 95, 105, None),
        ((94, NAN, NAN, 94), 95, 105, (93.90, STOP)),
    ],
)
def test_a_level_fills_by_hand(
    bar: tuple[float, ...], stop: float, target: float, fill: tuple[float, int] | None
) -> None:
    world = one_book([bar], stop=stop, target=target)  # type: ignore[list-item]
    assert exits(world) == ([(0, *fill)] if fill else [])
    left = run(world)
    assert left.held[0] == (0.0 if fill else 2.0)
    assert (left.stop[0], left.target[0]) == ((0.0, 0.0) if fill else (stop, target))


def test_an_exit_pays_the_fee_and_a_stop_the_impact_of_the_whole_position() -> None:
    bar = (100.0, 101.0, 95.0, 97.0)
    stopped = run(replace(one_book([bar], stop=95.0, volatility=0.9), volume=np.full((1, 1), 8.0)))
    quarter = 1e4 * 0.9 * kernel.bar_years_sqrt(3600) * 0.5  # 2 of the bar's 8
    price = kernel.market_price(False, 95.0, 10.0 + quarter, 0.01)
    assert stopped.fills[0][[QUANTITY, PRICE, FEE]].tolist() == [-2.0, price, kernel.trade_fee(2 * price, 40.0)]
    assert stopped.cash == kernel.round_money(2 * price - kernel.trade_fee(2 * price, 40.0))
    reached = run(one_book([bar], target=101.0))
    assert reached.cash == 202.0 - 0.808
    assert reached.totals.tolist() == [0.808, 202.0, 0.0]


def test_a_position_entered_at_the_open_is_exposed_to_the_rest_of_its_bar() -> None:
    world = one_book([(100, 101, 94, 97)], cash=1000.0, held=0.0, order=1.0, stop=95.0)
    assert exits(world) == [(0, 100.1, MARKET), (0, 94.9, STOP)]


def test_a_position_sold_at_the_open_is_not() -> None:
    world = one_book([(100, 101, 94, 97), (97, 98, 90, 91)], order=-2.0, last=5, stop=95.0)
    assert exits(world) == [(0, 99.9, MARKET)]
    assert run(world).stop[0] == 0.0, "the stop went with the position"


def test_what_is_left_after_a_partial_sale_keeps_its_stop() -> None:
    world = one_book([(100, 101, 96, 97), (97, 98, 90, 91)], order=-0.5, last=5, stop=95.0)
    assert exits(world) == [(0, 99.9, MARKET), (1, 94.9, STOP)]
    assert run(world).fills[1][QUANTITY] == -1.5


def test_a_stop_cancels_the_order_that_was_sized_for_the_position() -> None:
    world = one_book([(100, 101, 94, 97), (97, 98, 96, 97)], cash=1000.0, order=1.0, first=1, last=5, stop=95.0)
    assert exits(world) == [(0, 94.9, STOP)]
    assert run(world).order[0] == 0.0


def test_levels_wait_for_their_entry_and_go_with_one_that_never_comes() -> None:
    bars = [(100.0, 101.0, 90.0, 97.0)] * 3
    waiting = one_book(bars, cash=1000.0, held=0.0, order=1.0, first=2, last=5, stop=95.0)
    assert exits(waiting) == [(2, 100.1, MARKET), (2, 94.9, STOP)]
    missing = one_book([(NAN,) * 4] * 3, cash=1000.0, held=0.0, order=1.0, last=1, stop=95.0, target=110.0)  # type: ignore[list-item]
    assert (run(missing).stop[0], run(missing).target[0]) == (0.0, 0.0)
    penniless = one_book(bars, cash=0.0, held=0.0, order=1.0, stop=95.0)
    assert (run(penniless).stop[0], run(penniless).fills.tolist()) == (0.0, [])


@given(worlds())
@settings(max_examples=50, deadline=None)
def test_levels_out_of_reach_change_nothing(world: World) -> None:
    none = replace(world, stop=0.0 * world.stop, target=0.0 * world.target)
    far = replace(none, stop=none.stop + 1e-9, target=4.0 * np.nanmax(np.r_[world.high.ravel(), 1.0]) + 0.0 * none.stop)
    a, b = run(none), run(far)
    keep = {"stop": a.stop, "target": a.target}
    assert replace(b, **keep).bits() == a.bits()


@given(worlds())
@settings(max_examples=50, deadline=None)
def test_an_exit_is_of_the_whole_position_at_a_price_between_its_level_and_the_bar(world: World) -> None:
    end = run(world)
    held = world.held.copy()
    for bar, n, quantity, price, _, _, kind in end.fills.tolist():
        m = world.slot[int(n)]
        low, high, tick = world.low[int(bar), m], world.high[int(bar), m], world.tick[m]
        if kind == STOP:
            assert quantity == -held[int(n)]
            assert price <= max(min(world.stop[int(n)], world.open[int(bar), m]), tick)
            assert low <= world.stop[int(n)]
        if kind == TARGET:
            assert quantity == -held[int(n)]
            assert world.target[int(n)] - 1e-8 <= price <= high + 1e-8
        held[int(n)] = kernel.round_money(held[int(n)] + quantity)


@given(worlds())
@settings(max_examples=50, deadline=None)
def test_no_position_survives_a_bar_that_reached_its_level(world: World) -> None:
    """Bar by bar: what is still held had levels that were not reached, or none."""
    for bar in range(len(world.open)):
        before, after = run(world.until(bar)), run(world.until(bar + 1))
        for n, m in zip(count(), world.slot):
            kept = before.held[n] > 0.0 and after.held[n] > 0.0 and not np.isnan(world.open[bar, m])
            if kept and before.stop[n] > 0.0 and not _left_and_came_back(after, bar, n):
                assert world.low[bar, m] > before.stop[n]


def _left_and_came_back(end: End, bar: int, n: int) -> bool:
    return any(f[FILLED_AT] == bar and f[1] == n and f[QUANTITY] < 0.0 for f in end.fills)
