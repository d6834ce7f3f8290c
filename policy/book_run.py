"""One book from the first decision time of its data to the last, by the environment's own steps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from policy.compiled_path import observe_one, reset_book, step_book
from policy.strategies.residual import Residual
from policy.trading_env import BookBatch, Terms
from policy.training_data import TrainingData
from shared.rows import FloatArray, IntArray
from shared.simulation.kernel import FEES, FILL_COLUMNS, SLIPPAGE, TRADED


@dataclass(frozen=True, slots=True)
class BookRun:
    """``equity`` [T'] at each decision time reached, the last one closed and charged; ``weights`` [T' - 1, N] as
    allowed; ``rewards`` [T' - 1]; what it paid and traded, in quote; ``fills`` [F, FILL_COLUMNS]."""

    times: IntArray
    equity: FloatArray
    weights: FloatArray
    rewards: FloatArray
    fees: float
    slippage: float
    traded: float
    fills: FloatArray


def run_book(
    data: TrainingData, act: Callable[[NDArray[np.float32]], Residual] | None, terms: Terms, start: int = 0
) -> BookRun:
    """Runs one book of all instruments of ``data`` from decision time ``start``; ``act`` None is the baseline.

    ``terms`` with steering and costs given, without jumps and switches; the first delay counts."""
    steps = len(data) - 1 - start
    fixed = replace(terms, episode_steps=steps, slots=None, jump_steps=0, switch=0.0, delays_s=terms.delays_s[:1])
    batch = BookBatch(data, 1, fixed, 0, resets=False)
    books, scratch, draws = batch.books, batch.scratch, batch.draws
    n = len(scratch.price)
    reset_book(batch.data, draws, books, 0, start, scratch)
    equity, weights, rewards = [float(books.equity[0])], [], []
    fills, no_equity, buffer = [], np.empty(0), np.zeros((4 * n, FILL_COLUMNS))
    done = False
    while not done:
        scratch.action[:], scratch.agreement[:] = 0.0, 1.0
        if act is not None:
            observe_one(batch.data, books, 0, scratch, batch.observation[0])
            if scratch.complete.any():
                residual = act(batch.observation[0])
                scratch.action[:] = np.clip(residual.action, -1.0, 1.0)
                scratch.agreement[:] = residual.agreement
        buffer[:, 2] = 0.0
        reward, done, _ = step_book(batch.data, draws, books, 0, scratch, no_equity, buffer)
        fills.append(buffer[buffer[:, 2] != 0.0].copy())
        equity.append(float(books.equity[0]))
        weights.append(scratch.wanted.copy())
        rewards.append(float(reward))
    totals = books.totals[0]
    return BookRun(
        times=data.times[start : start + len(equity)],
        equity=np.array(equity),
        weights=np.array(weights),
        rewards=np.array(rewards),
        fees=float(totals[FEES]),
        slippage=float(totals[SLIPPAGE]),
        traded=float(totals[TRADED]),
        fills=np.concatenate(fills),
    )
