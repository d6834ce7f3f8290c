"""A statistical jump model: clusters of features that cost a penalty to leave (Bemporad, Breschi, Piga, Boyd 2018;
Nystrup, Lindström, Madsen 2020; Shu, Yu, Mulvey 2024).

It minimises Σ ½‖x_t − μ(s_t)‖² + penalty · #{s_t ≠ s_t-1} over centres and states by turns: given the centres, the
states by dynamic programming; given the states, the centres are means. Online, a step's states are weighed by the
program's forward values alone, V_t(k): the least cost of any path that ends in k. With costs read as minus log
likelihoods, exp(−V) is the probability of that best path (max-product); the hard choice, argmin V, is its mode.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from meta_controller.market_index import DAY_S, MarketHistory
from meta_controller.outcomes import REFERENCE_S
from meta_controller.regimes.expert import Parameters
from meta_controller.regimes.states import HOUR_S, StateModel, against_its_past, log_volatility, trend_score
from meta_controller.regimes.states import volatility_score as score
from shared.rows import FloatArray, IntArray

STATES = 3
PENALTY = 10.0  # from 5 to 20 it calls the same within a thousandth of skill (BTC and ETH, 2019 to 2021)
ITERATIONS = 20  # it ends when nothing moves, mostly after ten
TREND_SCALE = 0.3  # trends count for so much of a volatility: as much as these they drown what can be foretold


def observe(history: MarketHistory) -> FloatArray:
    """Volatility over 8 h and 48 h, downside deviation over a day, trends over 1, 3 and 10 days; [n, 6]."""
    falls = log_volatility(np.minimum(history.returns, 0.0) ** 2, history.bars(DAY_S))
    trends = [TREND_SCALE * trend_score(history, days * DAY_S) for days in (1, 3, 10)]
    return np.stack([score(history, 8 * HOUR_S), score(history, 48 * HOUR_S),
                     against_its_past(falls, history.bars(REFERENCE_S)), *trends], axis=1)  # fmt: skip


def learn(observed: FloatArray) -> dict[str, Any]:
    """Parameters from sequences [steps, sequences, d]; states in the order of their volatility.

    It begins with the quantiles of the first feature, a volatility: no lot is drawn, and no start is better placed.
    """
    first = observed[..., 0]
    path = np.searchsorted(np.quantile(first, np.arange(1, STATES) / STATES), first)
    centres = means(observed, path, np.broadcast_to(observed.mean(axis=(0, 1)), (STATES, observed.shape[2])))
    for _ in range(ITERATIONS):
        path = best_path(costs(observed, centres), PENALTY)
        moved = means(observed, path, centres)
        if np.array_equal(moved, centres):
            break
        centres = moved
    return {"centres": centres[np.argsort(centres[:, 0], kind="stable")].tolist(), "penalty": PENALTY}


def weigh(observed: FloatArray, parameters: Parameters) -> FloatArray:
    """exp(−V_t), normalised: [steps, sequences, states]."""
    least = forward_values(costs(observed, np.array(parameters["centres"])), parameters["penalty"])
    weights = np.exp(-least)
    return np.asarray(weights / weights.sum(axis=-1, keepdims=True))


def costs(observed: FloatArray, centres: FloatArray) -> FloatArray:
    """Half the squared distance to each centre, [steps, sequences, states]."""
    total = np.zeros((*observed.shape[:2], len(centres)))
    for column in range(observed.shape[2]):
        total += 0.5 * (observed[:, :, column, None] - centres[:, column]) ** 2
    return total


def forward_values(costs: FloatArray, penalty: float) -> FloatArray:
    """V_t(k) less min V_t, [steps, sequences, states]: the least cost up to t of a path that is in k at t."""
    found = np.empty_like(costs)
    reached = np.zeros(costs.shape[1:])
    for t, cost in enumerate(costs):
        total = reached + cost
        found[t] = total - total.min(axis=-1, keepdims=True)
        reached = np.minimum(found[t], penalty)
    return found


def best_path(costs: FloatArray, penalty: float) -> IntArray:
    """For learning only: the states of the least total cost, [steps, sequences]."""
    values = forward_values(costs, penalty)
    path = np.empty(costs.shape[:2], np.int64)
    path[-1] = values[-1].argmin(axis=-1)
    for t in range(len(costs) - 2, -1, -1):
        leaving = penalty * (np.arange(costs.shape[2]) != path[t + 1][:, None])
        path[t] = (values[t] + leaving).argmin(axis=-1)
    return path


def means(observed: FloatArray, path: IntArray, otherwise: FloatArray) -> FloatArray:
    """The mean of each state's features, [states, d]; of a state that is never taken, its row of ``otherwise``."""
    taken = [observed[path == state] for state in range(STATES)]
    return np.stack([rows.mean(axis=0) if len(rows) else otherwise[n] for n, rows in enumerate(taken)])


EXPERT = StateModel(observe, learn, weigh).expert()
