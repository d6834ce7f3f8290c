"""The environment is the trader: the plain decision path over the backtest's book gives the same equity, to the bit."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from policy import env_kernel
from policy.book import HistoryKeeper, make_book
from policy.book_run import run_book
from policy.canaries.markets import market_of
from policy.decision_path import Circumstances, decide
from policy.observation import HORIZONS_S, Market, View, steering_of
from policy.risk.context import NO_LIMITS
from policy.simulator import Costs, Simulator
from policy.strategies.residual import Residual
from policy.trading_env import BookBatch, Terms
from policy.training_data import TrainingData
from shared.clock import from_unix
from shared.rows import FloatArray
from tests.policy.synthetic import make_config, make_state

CONFIG = make_config(max_exposure=0.8, target_volatility=0.5)
COSTS = Costs(40.0, 5.0, 1.0)


def market(seed: int, steps: int = 120, n: int = 3, bars_a_step: int = 4) -> TrainingData:
    """Opens that differ from the closes before; instruments that are at times not seen, or have no candle."""
    rng = np.random.default_rng(seed)
    returns = rng.normal(0.0, 0.006, (steps * bars_a_step, n))
    trend, volatility = rng.uniform(-1, 1, (steps, n)), rng.uniform(0.3, 1.5, (steps, n))
    data = market_of(returns, volatility, trend, rng.normal(size=(steps, n, 64)), bars_a_step, wiggle=0.003, seed=seed)
    tradable = rng.random(data.tradable.shape) > 0.05
    least = replace(data.rules, min_notional=np.full(n, 150.0), lot=np.full(n, 1e-3))
    return replace(data, tradable=tradable, complete=tradable & (rng.random(tradable.shape) > 0.1), rules=least)


def act(observation: NDArray[np.float32]) -> Residual:
    """Moves with all that is seen, so that what is seen wrongly shows."""
    seen = observation.astype(np.float64)
    return Residual(np.tanh(seen[:, :64].sum(axis=1) + seen[:, 79:].sum(axis=1)), 0.6 + 0.4 * np.tanh(seen[:, 5]), 0.5)


def traded_plainly(data: TrainingData, terms: Terms) -> tuple[FloatArray, int]:
    """Equity [T] as the trader's own functions make it, the last one closed; and the number of fills."""
    simulator = Simulator(data.grid, data.rules, COSTS, terms.delays_s[0], data.step_s, terms.capital)
    history, states = HistoryKeeper(terms.capital), (make_state(HORIZONS_S[0]), make_state(HORIZONS_S[1]))
    steering, equity = steering_of(CONFIG, terms.no_trade_band), []
    operator = replace(NO_LIMITS, max_step=terms.max_step)
    for i, t in enumerate(data.times.tolist()):
        as_of = from_unix(t)
        simulator.advance_to(as_of)
        book = make_book(as_of, simulator.cash, simulator.held.copy(), data.price[i], history.before(as_of))
        equity.append(book.equity)
        if i == len(data) - 1:
            break
        doubts = tuple("" if whole else "not seen" for whole in data.complete[i].tolist())
        seen = Market(
            data.price[i], data.trend[i], data.volatility[i], data.ood[i], data.block[i], data.complete[i],
            data.tradable[i], doubts, states, CONFIG,
        )  # fmt: skip
        view = View(seen, book, (COSTS.fee_bps + COSTS.slippage_bps) * 1e-4, steering)
        decision = decide(view, act, Circumstances(operator, data.rules, simulator.in_flight, False, doubts))
        simulator.place(decision.plan.quantity, as_of, data.volatility[i])
        history.record(as_of, book.equity)
    simulator.close_out()
    return np.array([*equity[:-1], simulator.cash]), len(simulator.fills)


@pytest.mark.parametrize(("seed", "delay_s"), [(1, 0), (2, 1800)])
def test_the_environment_is_the_traders_path_to_the_bit(seed: int, delay_s: int) -> None:
    data = market(seed)
    terms = Terms(steering=CONFIG, costs=COSTS, delays_s=(delay_s,))
    equity, fills = traded_plainly(data, terms)
    run = run_book(data, act, terms)
    assert run.equity.tolist() == equity.tolist()
    assert len(run.fills) == fills > 50


def test_a_batch_is_the_single_book() -> None:
    data = market(4)
    data = replace(data, complete=np.ones_like(data.complete), tradable=np.ones_like(data.tradable))
    terms = Terms(steering=CONFIG, costs=COSTS, delays_s=(120,), episode_steps=len(data) - 1)
    batch = BookBatch(data, 2, terms, 0, resets=False)
    seen = batch.reset(0)
    equity = [batch.books.equity[0]]
    for _ in range(len(data) - 1):
        action = np.stack([_of_an_action(seen[0]), np.zeros(3)]).astype(np.float32)
        seen = batch.step(action)[0]
        equity.append(batch.books.equity[0])
    run = run_book(data, lambda o: Residual(_of_an_action(o), np.ones(len(o)), 0.5), terms)
    assert run.equity.tolist() == equity


def _of_an_action(observation: NDArray[np.float32]) -> FloatArray:
    return act(observation).action.astype(np.float32).astype(np.float64)


def test_a_jump_keeps_the_value_of_each_position() -> None:
    data = market(5)
    data = replace(data, complete=np.ones_like(data.complete), tradable=np.ones_like(data.tradable))
    batch = BookBatch(data, 20, Terms(steering=CONFIG, costs=COSTS, random_book=True), 0)
    batch.reset()
    books = batch.books
    before, cash = books.held * books.mark, books.cash.copy()
    moments = books.moment.copy()
    with np.errstate(over="ignore"):
        for b in range(20):
            env_kernel.jump(batch.data, books, b)
    assert (books.moment != moments).mean() > 0.9
    assert (before > 1.0).mean() > 0.3
    assert books.held * books.mark == pytest.approx(before, abs=1e-5)
    assert books.cash == pytest.approx(cash, abs=1e-4)


def test_what_comes_later_changes_no_equity_of_before() -> None:
    data, terms = market(3), Terms(steering=CONFIG, costs=COSTS, delays_s=(0,))
    until = 60
    changed = {name: getattr(data, name).copy() for name in ("trend", "volatility", "block")}
    for array in changed.values():
        array[until + 1 :] *= 0.5
    grid = {name: getattr(data.grid, name).copy() for name in ("open", "high", "low", "close")}
    for array in grid.values():
        array[4 * until :] *= 0.5
    price = data.price.copy()
    price[until + 1 :] *= 0.5
    other = replace(data, **changed, price=price, grid=replace(data.grid, **grid))
    one, two = run_book(data, act, terms).equity, run_book(other, act, terms).equity
    assert one[: until + 1].tolist() == two[: until + 1].tolist()
    assert one[-1] != two[-1]
