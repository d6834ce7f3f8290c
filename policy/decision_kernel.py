"""The decision path's arithmetic, in the subset of Python that numba compiles: observe, want, plan.

The trader runs these functions as they are; training and backtest run them compiled (policy.compiled_path), with the
same bits: every operation is one IEEE double operation in a fixed order. N instruments a book; weights are fractions
of equity, volatilities are annualised, prices in quote.

What is known analytically is built in, so that steering is right by construction and acts without retraining:

- A *full* position of an instrument is the one at which N of them, correlated by CORRELATION, have the target
  volatility; divided by the risk aversion, as the weights of a mean-variance investor are (Merton, 1969).
- What is wanted is a share of it in [0, 1]: the trend (0 when falling) plus what the policy adds or takes away. An
  action of 0 is trend × volatility target, exactly.
- The book is observed in units of full positions and of the risk that is asked for, so that a policy that is not
  shown risk aversion and target volatility wants the same *shares* under any of them.
- The band in which nothing is traded grows with the cube root of the turnover penalty, as the no-trade region of
  proportional costs does (Davis & Norman, 1990; Shreve & Soner, 1994).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from shared.simulation.kernel import Floats, Ints, floor_to_step

Bools = NDArray[np.bool_]
Floats32 = NDArray[np.float32]

CORRELATION = 0.6  # assumed between instruments: crypto falls together
DAY_S = 86_400
DAYS_A_YEAR = 365.0
MARKET_SIZE = 73  # leading entries of an observation: what the market says (policy.observation)
OBSERVATION_SIZE = 84
OBSERVATION_LIMIT = 5.0

# Why an order follows, or why none does (policy.execution.plan says it in words).
ALREADY_THERE, IN_BAND, IN_FLIGHT, NO_CANDLE, BELOW_LOT, BELOW_MINIMUM, NO_PRICE, BUY, SELL = range(9)


class Steering(NamedTuple):
    """The numbers of one policy_config; ``band``, a share of a full position, is [execution]'s, widened by it."""

    risk_aversion: float
    turnover_penalty: float
    drawdown_penalty: float
    target_volatility: float
    max_exposure: float
    max_position: float
    daily_loss_limit: float
    max_drawdown: float
    band: float


def full_weight(volatility: float, instruments: int, steering: Steering) -> float:
    """The weight of a full position; 0 where the volatility is not known."""
    if not volatility > 0.0:
        return 0.0
    together = math.sqrt(instruments * (1.0 + (instruments - 1) * CORRELATION))
    return steering.target_volatility / (volatility * together) / steering.risk_aversion


def want(
    trend: Floats,
    volatility: Floats,
    action: Floats,
    agreement: Floats,
    reach: float,
    steering: Steering,
    wanted: Floats,
) -> None:
    """Writes the policy's weights [N] to ``wanted``; with ``action`` 0 and ``agreement`` 1 they are the baseline's."""
    for n in range(len(trend)):
        share = (max(trend[n], 0.0) + reach * action[n]) * agreement[n]
        share = min(max(share, 0.0), 1.0)
        wanted[n] = min(share * full_weight(volatility[n], len(trend), steering), steering.max_position)


def weigh(held: Floats, prices: Floats, equity: float, weights: Floats) -> None:
    """Position values as fractions of equity; 0 for what is not held, priced or not, and in a book worth nothing."""
    for n in range(len(held)):
        weights[n] = held[n] * prices[n] / equity if held[n] > 0.0 and equity > 0.0 else 0.0


def day_start_equity(t: int, equity: float, last_t: int, last_equity: float, day_start: float) -> float:
    """The equity at the last decision at or before the UTC midnight before ``t``; the last decision was at ``last_t``
    with ``last_equity``, when the day's start was ``day_start``."""
    if t % DAY_S == 0:
        return equity
    return last_equity if t // DAY_S != last_t // DAY_S else day_start


def _clipped(value: float) -> float:
    return min(max(value, -OBSERVATION_LIMIT), OBSERVATION_LIMIT)


def observe_book(
    market: Floats32,
    trend: Floats,
    volatility: Floats,
    complete: Bools,
    weights: Floats,
    drawdown: float,
    day_return: float,
    cost: float,
    steering: Steering,
    config_low: Floats,
    config_span: Floats,
    observation: Floats32,
) -> None:
    """Writes the observation [N, OBSERVATION_SIZE]: what the market says of each instrument (``market`` [N,
    MARKET_SIZE]), then steering and book. Rows of instruments that are not ``complete`` are zeros.

    ``cost`` of trading a side, as a fraction; ``config_low`` and ``config_span`` [6] scale the steering to 0 … 1."""
    risk = steering.target_volatility / steering.risk_aversion
    held, full = 0.0, 0.0
    for n in range(len(trend)):
        held += weights[n]
        full += full_weight(volatility[n], len(trend), steering)
    for n in range(len(trend)):
        row = observation[n]
        if not complete[n]:
            for k in range(OBSERVATION_SIZE):
                row[k] = 0.0
            continue
        for k in range(MARKET_SIZE):
            row[k] = market[n, k]
        at = MARKET_SIZE
        row[at] = (steering.risk_aversion - config_low[0]) / config_span[0]
        row[at + 1] = (steering.turnover_penalty - config_low[1]) / config_span[1]
        row[at + 2] = (steering.drawdown_penalty - config_low[2]) / config_span[2]
        row[at + 3] = (steering.target_volatility - config_low[3]) / config_span[3]
        row[at + 4] = (steering.max_exposure - config_low[4]) / config_span[4]
        row[at + 5] = (steering.max_position - config_low[5]) / config_span[5]
        own = full_weight(volatility[n], len(trend), steering)
        row[at + 6] = _clipped(weights[n] / own) if own > 0.0 else 0.0
        row[at + 7] = _clipped(held / full) if full > 0.0 else 0.0
        row[at + 8] = _clipped(-drawdown / risk)
        row[at + 9] = _clipped(day_return / risk * math.sqrt(DAYS_A_YEAR))
        row[at + 10] = _clipped(100.0 * cost / volatility[n] * 0.5) if volatility[n] > 0.0 else 0.0


def plan_order(
    allowed: float,
    weight: float,
    held: float,
    equity: float,
    price: float,
    lot: float,
    min_notional: float,
    band: float,
    max_order_notional: float,
) -> tuple[float, int]:
    """The signed quantity that brings one weight to ``allowed``, and why: whole lots, at least ``min_notional``, sells
    of what is held only. ``band`` is the change of weight below which nothing is traded; leaving altogether is not
    held back by it. Entries are cut at ``max_order_notional``, exits are not."""
    if not price > 0.0:
        return 0.0, NO_PRICE
    change = allowed - weight
    leaves = allowed == 0.0 and held > 0.0
    if change == 0.0:
        return 0.0, ALREADY_THERE
    if abs(change) < band and not leaves:
        return 0.0, IN_BAND
    if leaves:
        quantity = held
    elif change > 0.0:
        quantity = floor_to_step(min(change * equity, max_order_notional) / price, lot)
    else:
        quantity = min(floor_to_step(-change * equity / price, lot), held)
    if quantity == 0.0:
        return 0.0, BELOW_LOT
    if quantity * price < min_notional:
        return 0.0, BELOW_MINIMUM
    if change > 0.0:
        return quantity, BUY
    return -quantity, SELL


def plan_orders(
    allowed: Floats,
    weights: Floats,
    held: Floats,
    equity: float,
    prices: Floats,
    volatility: Floats,
    lot: Floats,
    min_notional: Floats,
    max_order_notional: float,
    in_flight: Bools,
    tradable: Bools,
    steering: Steering,
    quantity: Floats,
    reason: Ints,
) -> None:
    """Writes the orders [N] that bring a book to ``allowed``, and the reasons. Nothing is traded where an order is in
    flight or the newest candle is missing: a position is held rather than sold on a price that is not known."""
    for n in range(len(allowed)):
        if in_flight[n]:
            quantity[n], reason[n] = 0.0, IN_FLIGHT
        elif not tradable[n]:
            quantity[n], reason[n] = 0.0, NO_CANDLE
        else:
            full = min(full_weight(volatility[n], len(allowed), steering), steering.max_position)
            quantity[n], reason[n] = plan_order(
                allowed[n], weights[n], held[n], equity, prices[n], lot[n], min_notional[n], steering.band * full,
                max_order_notional,
            )  # fmt: skip
