"""Draws the episodes of the pathwise objective: when, which instruments, what costs, what steering; all from a seed.

The ranges are those of the environment (policy.trading_env.Terms), so both stages of training meet the same world.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from policy.env_state import BAND, FEE, HALF_SPREAD, Draws
from policy.pathwise import Episodes, Market, Steerings
from policy.trading_env import STEERING_DRAWS, Terms
from shared.rows import FloatArray, IntArray


def draw_episodes(
    market: Market, terms: Terms, books: int, steps: int, noise: float, rng: np.random.Generator
) -> Episodes:
    """``books`` episodes of ``steps`` steps under ``terms``; the actions' noise has standard deviation ``noise``."""
    instruments = market.trend.shape[1]
    slots = min(terms.slots or instruments, instruments)
    draws = terms.draws(slots, instruments)
    dtype = market.trend.dtype
    moment = _draw_moments(market, draws, books, steps, rng)
    slot = _draw_slots(market, draws, moment[0], slots, rng)
    costs = draws.costs[:, 0] + (draws.costs[:, 1] - draws.costs[:, 0]) * rng.random((books, 3))
    # As env_kernel.hold_some: half the instruments in nothing, the others in a share of what the book holds at all.
    shares = np.zeros((books, slots))
    if terms.random_book:
        shares = rng.random((books, 1)) * np.maximum(2.0 * rng.random((books, slots)) - 1.0, 0.0)
    return Episodes(
        moment=torch.from_numpy(moment),
        slot=torch.from_numpy(slot),
        cost=_tensor((costs[:, FEE] + costs[:, HALF_SPREAD]) * 1e-4, dtype),
        delay=torch.from_numpy(rng.integers(len(draws.delays), size=books)),
        shares=_tensor(shares, dtype),
        noise=_tensor(noise * rng.standard_normal((books, slots)), dtype),
        steering=_draw_steering(draws, books, steps, rng, dtype),
        max_step=terms.max_step,
    )


def _tensor(array: FloatArray, dtype: torch.dtype) -> Tensor:
    return torch.from_numpy(array).to(dtype)


def _draw_moments(market: Market, draws: Draws, books: int, steps: int, rng: np.random.Generator) -> IntArray:
    """[steps, books]: consecutive decision times from random ones: the blocks of a bootstrap, each with a settled book.

    They leap where ``draws`` asks for it, and where the data is shorter than an episode."""
    last = len(market.growth) - 1
    roomy = market.starts[market.starts <= last - steps + 1]
    starts = roomy if len(roomy) else market.starts
    leap = rng.random((steps, books)) < draws.jump
    start = starts[rng.integers(len(starts), size=(steps, books))]
    moment = np.empty((steps, books), dtype=np.int64)
    moment[0] = start[0]
    for h in range(1, steps):
        moment[h] = np.where(leap[h] | (moment[h - 1] >= last), start[h], moment[h - 1] + 1)
    return moment


def _draw_slots(market: Market, draws: Draws, first: IntArray, slots: int, rng: np.random.Generator) -> IntArray:
    """[books, slots]: the instruments, those of which something is known at the start before the others."""
    instruments = market.trend.shape[1]
    if not draws.random_slots:
        return np.tile(np.arange(slots), (len(first), 1))
    order = rng.random((len(first), instruments)) - market.complete_at[first]
    return np.argsort(order, axis=1)[:, :slots]


def _draw_steering(draws: Draws, books: int, steps: int, rng: np.random.Generator, dtype: torch.dtype) -> Steerings:
    """As env_kernel.draw_steering; where it switches it is drawn anew, once an episode at most."""
    low, high = draws.steering[:BAND, 0], draws.steering[:BAND, 1]
    u = rng.random((2, books, BAND))
    with np.errstate(divide="ignore", invalid="ignore"):
        drawn = np.where(draws.steering_log[:BAND], low * (high / low) ** u, low + (high - low) * u)
    switched = np.zeros((steps, books), dtype=bool)
    if draws.switch > 0.0:
        switched = np.arange(steps)[:, None] >= rng.geometric(draws.switch, size=books)
    values = np.where(switched[..., None], drawn[1], drawn[0])
    band = draws.band * values[..., _COLUMN["turnover_penalty"]] ** (1.0 / 3.0)
    fields = [values[..., _COLUMN[field]] for field in Steerings._fields[:-1]]
    return Steerings._make(_tensor(field, dtype) for field in [*fields, band])


_COLUMN = {name: k for k, name in enumerate(STEERING_DRAWS)}
