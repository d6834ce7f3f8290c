"""Nobody trades at the price of the signal: all three machines fill at opens, however far those are from closes."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import numpy as np

from policy.book_run import run_book
from policy.execution.plan import TradingRules
from policy.simulator import BarGrid, Costs, Simulator
from policy.strategies.residual import Residual
from policy.trading_env import Terms
from policy.weight_path import occasions_at_closes, run_weight_path
from shared.clock import to_unix
from tests.helpers import NOON
from tests.policy.synthetic import make_config, training_data

HOUR = 3600
FREE = Costs(0.0, 0.0, 0.0)
OPENS = np.array([[100.0], [110.0], [120.0], [130.0], [140.0], [150.0]])
GRID = BarGrid(to_unix(NOON), HOUR, OPENS, OPENS + 4, OPENS - 1, OPENS + 3, np.full((6, 1), 1e9))
RULES = TradingRules(np.array([0.01]), np.array([1e-5]), np.array([10.0]), 0.0, float("inf"))


def test_the_backtests_book_fills_at_the_next_open() -> None:
    book = Simulator(GRID, RULES, FREE, 0, HOUR, 10_000.0)
    for hour, quantity in ((0, 1.0), (2, 1.0), (4, -2.0)):
        book.advance_to(NOON + timedelta(hours=hour))
        book.place(np.array([quantity]), NOON + timedelta(hours=hour), np.array([0.5]))
    book.advance_to(NOON + timedelta(hours=6))
    assert [fill.price for fill in book.fills] == [100.0, 120.0, 140.0]


def test_no_more_is_sold_than_is_held() -> None:
    """Neither by one order nor by another that was sized for the same position."""
    book = Simulator(GRID, RULES, FREE, 0, HOUR, 10_000.0)
    for hour, quantity in ((0, 2.0), (1, -5.0), (2, -5.0)):
        book.advance_to(NOON + timedelta(hours=hour))
        book.place(np.array([quantity]), NOON + timedelta(hours=hour), np.array([0.5]))
    book.advance_to(NOON + timedelta(hours=6))
    assert [fill.quantity for fill in book.fills] == [2.0, -2.0]
    assert (book.held.tolist(), book.cash) == ([0.0], 10_000.0 - 2 * 100.0 + 2 * 110.0)


def test_a_path_of_weights_fills_at_the_next_open() -> None:
    weights = np.array([[0.5], [0.0], [0.5], [0.0], [0.5], [0.5]])
    run = run_weight_path(GRID, RULES, FREE, occasions_at_closes(GRID), weights, fills=True)
    assert run.fills[run.fills[:, 6] == 0, 3].tolist() == [110.0, 120.0, 130.0, 140.0, 150.0]


def test_the_environments_books_fill_at_the_next_open() -> None:
    data = training_data(hours=12, n=1, base_s=HOUR)
    grid = replace(data.grid, open=np.round(data.grid.close * 1.01, 2))
    rng = np.random.default_rng(0)
    terms = Terms(steering=make_config(max_position=0.5), costs=FREE, delays_s=(0,), no_trade_band=0.0)
    run = run_book(
        replace(data, grid=grid), lambda o: Residual(rng.uniform(-1, 1, len(o)), np.ones(len(o)), 0.5), terms
    )
    fills = run.fills[run.fills[:, 6] == 0]
    assert len(fills) >= 5
    assert fills[:, 3].tolist() == grid.open[fills[:, 0].astype(int), 0].tolist()
