"""Many books of one policy at once, each under a steering and costs of its own: what a grid of cells is judged by."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from policy.compiled_path import observe_one, reset_book
from policy.observation import steering_of
from policy.simulator import Costs
from policy.trading_env import BookBatch, Terms
from policy.training_data import TrainingData
from shared.rows import FloatArray, PolicyConfig
from shared.simulation.kernel import TRADED

Rows = NDArray[np.float32]
BatchAct = Callable[[Rows], FloatArray]  # observation [B, N, OBSERVATION_SIZE] -> action [B, N]


@dataclass(frozen=True, slots=True)
class Cell:
    steering: PolicyConfig
    costs: Costs


@dataclass(frozen=True, slots=True)
class CellRuns:
    """By cell and start: ``weights`` [S, C, K, N] held after trading at each step, at the close it was decided at;
    ``traded`` [S, C, K] in value ÷ equity; ``equity`` [S + 1, C, K]; ``moments`` [S, K]: the decision time's index.
    Nothing is closed at the end."""

    weights: FloatArray
    traded: FloatArray
    equity: FloatArray
    moments: NDArray[np.int64]


def run_cells(
    data: TrainingData, act: BatchAct, terms: Terms, cells: Sequence[Cell], starts: Sequence[int], steps: int
) -> CellRuns:
    """Books of C cells × K starts (indices of decision times), ``steps`` decisions each, in cash at first; book b is of
    cell b // K. ``terms``: their first delay, band and reach; nothing is drawn."""
    last = max(starts) + steps
    if last > len(data) - 1:
        raise ValueError(f"{steps} steps from {max(starts)} end after the {len(data)} decision times of the data")
    fixed = replace(
        terms, episode_steps=steps + 1, slots=None, jump_steps=0, switch=0.0, delays_s=terms.delays_s[:1],
        random_book=False,
    )  # fmt: skip
    shape = (len(cells), len(starts))
    batch = BookBatch(data, len(cells) * len(starts), fixed, 0, resets=False)
    books = batch.books
    for b in range(len(books.cash)):
        cell = cells[b // len(starts)]
        reset_book(batch.data, batch.draws, books, b, starts[b % len(starts)], batch.scratch)
        books.steering[b] = steering_of(cell.steering, terms.no_trade_band)
        books.costs[b] = (cell.costs.fee_bps, cell.costs.slippage_bps, cell.costs.impact)
        observe_one(batch.data, books, b, batch.scratch, batch.observation[b])
    weights, traded = np.empty((steps, *books.held.shape)), np.empty((steps, len(books.cash)))
    equity = np.empty((steps + 1, len(books.cash)))
    equity[0] = books.equity
    for s in range(steps):
        price = data.price[books.moment][np.arange(len(books.cash))[:, None], books.slot]
        before = books.totals[:, TRADED].copy()
        batch.step(act(batch.observation).astype(np.float32))
        weights[s] = books.held * price / equity[s][:, None]
        traded[s] = (books.totals[:, TRADED] - before) / equity[s]
        equity[s + 1] = books.equity
    return CellRuns(
        weights.reshape(steps, *shape, -1),
        traded.reshape(steps, *shape),
        equity.reshape(steps + 1, *shape),
        np.arange(steps)[:, None] + np.asarray(starts, dtype=np.int64),
    )


def batched(act: Callable[[Rows], FloatArray]) -> BatchAct:
    """A net of rows [n, OBSERVATION_SIZE] -> [n] (policy.policy_network.act_of), for a batch of books."""
    return lambda observation: act(observation.reshape(-1, observation.shape[-1])).reshape(observation.shape[:2])
