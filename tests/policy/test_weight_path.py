"""Weights given in advance: the kernel's own fills, in the same memory, compiled or not."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policy import weight_path
from policy.execution.plan import TradingRules
from policy.simulator import BarGrid, Costs, Simulator
from policy.weight_path import LEAVE, Occasions, WeightPathRun, WeightPaths, occasions_at_closes, run_weight_path
from shared.clock import from_unix
from shared.rows import FloatArray
from shared.simulation import kernel

BASE_S = 300
COSTS = Costs(fee_bps=40.0, slippage_bps=5.0, impact=1.0)
FREE = Costs(fee_bps=0.0, slippage_bps=0.0, impact=0.0)


def rules(n: int, lot: float = 1e-5) -> TradingRules:
    return TradingRules(np.full(n, 0.01), np.full(n, lot), np.full(n, 10.0), 0.25, float("inf"))


def grid(bars: int, n: int, seed: int = 0, missing: float = 0.0) -> BarGrid:
    """A random walk; some bars are missing."""
    rng = np.random.default_rng(seed)
    path = np.round(100 * np.exp(np.cumsum(rng.normal(0, 0.01, (bars + 1, n)), axis=0)), 2)
    opens, closes = path[:-1].copy(), path[1:].copy()
    gone = rng.uniform(size=closes.shape) < missing
    opens[gone], closes[gone] = np.nan, np.nan
    high, low = np.maximum(opens, closes) * 1.002, np.minimum(opens, closes) * 0.998
    return BarGrid(0, BASE_S, opens, high, low, closes, rng.lognormal(3, 1, closes.shape))


def flat(prices: list[float]) -> BarGrid:
    """Bars that open and close at these prices, and trade plenty."""
    column = np.array(prices)[:, None]
    return BarGrid(0, BASE_S, column, column, column, column, np.full(column.shape, 1e9))


def copied(run: WeightPathRun) -> WeightPathRun:
    return replace(run, equity=run.equity.copy(), equity_by_bar=run.equity_by_bar.copy())


def numbers(run: WeightPathRun) -> tuple[Any, ...]:
    arrays = (run.equity.tolist(), run.equity_by_bar.tolist(), run.fills.tolist())
    return (*map(str, arrays), run.marked, run.closed, run.fees, run.traded, run.slippage, run.trades)


def test_a_buy_pays_what_the_venue_charges_and_the_end_is_closed() -> None:
    bars = flat([100.0, 100.0, 110.0, 120.0])
    weights = np.array([[0.5], [LEAVE], [LEAVE], [LEAVE]])
    run = run_weight_path(bars, rules(1), Costs(100.0, 0.0, 0.0), occasions_at_closes(bars), weights, capital=1000.0,
                          fills=True)  # fmt: skip
    # 5 bought at the second open for 500 and a fee of 5; 600 at the end, of which closing takes 6
    assert run.equity.tolist() == [1000.0, 995.0, 1045.0, 1095.0]
    assert (run.marked, run.closed, run.fees, run.traded, run.trades) == (1095.0, 1089.0, 11.0, 1100.0, 2)
    assert run.fills[:, [0, 2, 3, 5, 6]].tolist() == [[1, 5.0, 100.0, 5.0, 0], [3, -5.0, 120.0, 6.0, 3]]


def walk_by_simulator(
    bars: BarGrid, occasions: Occasions, weights: FloatArray, costs: Costs, shift: int = 0
) -> tuple[list[float], list[float], float, int]:
    """The same in the backtest's own book, with plans by the decision kernel, one occasion after the other."""
    n, book = weights.shape[1], rules(weights.shape[1])
    simulator = Simulator(bars, book, costs, occasions.delay_s, occasions.step_s, 10_000.0)
    worths = []
    for t, time in enumerate(occasions.times.tolist()):
        simulator.advance_to(from_unix(time))
        worth = kernel.equity(simulator.cash, simulator.held, occasions.price[t])
        worths.append(worth)
        quantity = np.zeros(n)
        for k, wanted in enumerate(weights[(t + shift) % len(weights)].tolist()):
            if np.isnan(wanted) or simulator.in_flight[k] or not occasions.tradable[t, k]:
                continue
            held, price = float(simulator.held[k]), float(occasions.price[t, k])
            quantity[k], _ = weight_path.plan_order(
                wanted, held * price / worth if held else 0.0, held, worth, price, 1e-5, 10.0,
                float(occasions.band[t, k]), float("inf"),
            )  # fmt: skip
        simulator.place(quantity, from_unix(time), occasions.volatility[t])
    simulator.advance_to(from_unix(bars.start + len(bars.open) * BASE_S))
    simulator.close_out()
    return worths, simulator.equity_by_bar.tolist(), simulator.fees, len(simulator.fills)


@pytest.mark.parametrize(("seed", "shift"), [(1, 0), (2, 7), (3, 59)])
def test_a_path_is_the_simulators_book_to_the_bit(seed: int, shift: int) -> None:
    bars, rng = grid(240, 3, seed, missing=0.1), np.random.default_rng(seed)
    hourly = np.arange(12, 241, 4) * BASE_S
    last = np.array([[_last_close(bars, t // BASE_S, k) for k in range(3)] for t in hourly.tolist()])
    there = ~np.isnan(bars.close[hourly // BASE_S - 1])
    occasions = Occasions(
        hourly, last, rng.uniform(0.2, 1, last.shape), rng.uniform(0, 0.1, last.shape), there, 120, 1200
    )
    weights = np.where(rng.uniform(size=last.shape) < 0.2, LEAVE, rng.uniform(0, 0.6, last.shape))
    run = run_weight_path(bars, rules(3), COSTS, occasions, weights, shift=shift)
    worths, by_bar, fees, trades = walk_by_simulator(bars, occasions, weights, COSTS, shift)
    assert run.equity.tolist() == worths
    assert run.equity_by_bar[:-1].tolist() == by_bar[:-1]
    assert (run.closed, run.fees, run.trades) == (by_bar[-1], fees, trades)
    assert trades > 20


def _last_close(bars: BarGrid, closed: int, k: int) -> float:
    known = bars.close[:closed, k]
    known = known[~np.isnan(known)]
    return float(known[-1]) if len(known) else float("nan")


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000), n=st.integers(1, 3), stop=st.sampled_from([0.0, 0.02]))
def test_compiled_and_plain_walk_the_same_bits(seed: int, n: int, stop: float) -> None:
    bars, rng = grid(30, n, seed, missing=0.1), np.random.default_rng(seed)
    occasions = occasions_at_closes(bars, volatility=0.6, band=0.02)
    weights = rng.uniform(0, 1.0 / n, (30, n))
    paths = WeightPaths(bars, rules(n), occasions)
    compiled = numbers(copied(paths.run(weights, COSTS, shift=3, stop=stop, target=stop, fills=True)))
    paths._walk = weight_path.walk
    assert numbers(paths.run(weights, COSTS, shift=3, stop=stop, target=stop, fills=True)) == compiled


def test_runs_in_the_same_memory_do_not_know_of_each_other() -> None:
    bars = grid(200, 2, seed=4)
    paths = WeightPaths(bars, rules(2), occasions_at_closes(bars, 0.5))
    weights = [np.random.default_rng(k).uniform(0, 0.5, (200, 2)) for k in range(3)]
    alone = [numbers(run_weight_path(bars, rules(2), COSTS, occasions_at_closes(bars, 0.5), w)) for w in weights]
    assert [numbers(run) for run in paths.run_many(weights, COSTS)] == alone
    assert numbers(paths.run(weights[0], COSTS)) == alone[0]


def test_a_shift_is_the_rolled_path() -> None:
    bars = grid(100, 1, seed=5)
    occasions, weights = occasions_at_closes(bars, 0.5), np.random.default_rng(5).uniform(0, 1, (100, 1))
    paths = WeightPaths(bars, rules(1), occasions)
    (shifted,) = [numbers(run) for run in paths.run_shifts(weights, [33], COSTS)]
    assert shifted == numbers(run_weight_path(bars, rules(1), COSTS, occasions, np.roll(weights, -33, axis=0)))


def test_doubling_the_fee_costs_exactly_the_fees_again_where_fills_are_the_same() -> None:
    bars = grid(300, 1, seed=6)
    in_and_out = np.where(np.arange(300) % 50 < 25, 0.3, 0.0)[:, None]
    coarse = replace(rules(1), lot=np.array([10.0]))  # what the fee takes of equity does not change whole lots
    occasions = occasions_at_closes(bars, 0.5, band=0.2)
    one, two = (
        copied(run_weight_path(bars, coarse, Costs(fee, 5.0, 1.0), occasions, in_and_out, fills=True))
        for fee in (1.0, 2.0)
    )
    assert one.fills[:, :5].tolist() == two.fills[:, :5].tolist()
    assert one.trades > 10
    assert two.fees == pytest.approx(2 * one.fees, abs=1e-6)
    assert one.closed - two.closed == pytest.approx(two.fees - one.fees, abs=1e-6)


def test_a_stop_leaves_at_its_level_and_a_target_above() -> None:
    bars = flat([100.0, 100.0, 94.0, 94.0])
    entry = np.array([[0.5], [LEAVE], [LEAVE], [LEAVE]])
    paths = WeightPaths(bars, rules(1), occasions_at_closes(bars), 1000.0)
    stopped = paths.run(entry, FREE, stop=0.05, fills=True).fills
    assert stopped[:, [0, 2, 3, 6]].tolist() == [
        [1, 5.0, 100.0, 0],
        [2, -5.0, 94.0, 1],
    ]  # opened below 95: filled there
    bars = flat([100.0, 100.0, 107.0, 100.0])
    paths = WeightPaths(bars, rules(1), occasions_at_closes(bars), 1000.0)
    reached = paths.run(entry, FREE, target=0.05, fills=True).fills
    assert reached[:, [0, 2, 3, 6]].tolist() == [[1, 5.0, 100.0, 0], [2, -5.0, 107.0, 2]]


def test_orders_wait_for_their_delay_and_none_is_added_meanwhile() -> None:
    bars = flat([100.0] * 6)
    occasions = replace(occasions_at_closes(bars), delay_s=BASE_S + 1, step_s=3 * BASE_S)
    run = run_weight_path(bars, rules(1), FREE, occasions, np.full((6, 1), 0.5), fills=True)
    assert run.fills[:, 0].tolist() == [3, 5]  # decided at the first close, 300 s + 301 s; the last is the closing


def test_nothing_is_traded_where_the_newest_candle_is_missing() -> None:
    bars = flat([100.0] * 4)
    occasions = replace(occasions_at_closes(bars), tradable=np.zeros((4, 1), dtype=bool))
    assert run_weight_path(bars, rules(1), FREE, occasions, np.ones((4, 1))).trades == 0


def test_shapes_that_do_not_match_are_refused() -> None:
    bars = grid(10, 2)
    with pytest.raises(ValueError, match=r"weights must be \(10, 2\)"):
        run_weight_path(bars, rules(2), FREE, occasions_at_closes(bars), np.ones((10, 1)))
    with pytest.raises(ValueError, match=r"band must be \(10, 2\)"):
        wrong = replace(occasions_at_closes(bars), band=np.zeros((9, 2)))
        run_weight_path(bars, rules(2), FREE, wrong, np.ones((10, 2)))


def test_half_a_million_bars_take_little_time() -> None:
    """A guard against a walk that is no longer compiled, not a benchmark: bench/backtest.py measures."""
    bars = grid(525_600, 1, seed=8)
    weights = np.repeat(np.random.default_rng(8).integers(0, 2, 5256), 100)[:, None].astype(float)
    paths = WeightPaths(bars, rules(1), occasions_at_closes(bars, 0.5, band=0.05))
    paths.run(weights, COSTS)
    elapsed = timedelta.max
    for _ in range(3):
        elapsed = min(elapsed, _timed(paths, weights))
    assert elapsed < timedelta(milliseconds=200)


def _timed(paths: WeightPaths, weights: FloatArray) -> timedelta:
    import time

    begun = time.perf_counter()
    paths.run(weights, COSTS)
    return timedelta(seconds=time.perf_counter() - begun)
