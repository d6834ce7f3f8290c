"""The state of many books, and what they run on, as named tuples of arrays: what numba can be handed.

B books of N instruments over T decision times of M instruments; policy.env_kernel works on them.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from policy.decision_kernel import Bools, Floats32
from policy.risk.context import RiskParameters
from shared.simulation.kernel import Floats, Ints

Words = NDArray[np.uint64]
FEE, HALF_SPREAD, IMPACT = 0, 1, 2  # columns of Books.costs
(
    RISK_AVERSION,
    TURNOVER_PENALTY,
    DRAWDOWN_PENALTY,
    TARGET_VOLATILITY,
    MAX_EXPOSURE,
    MAX_POSITION,
    DAILY_LOSS_LIMIT,
    MAX_DRAWDOWN,
    BAND,
) = range(9)  # columns of Books.steering: the fields of Steering


class Data(NamedTuple):
    """TrainingData, its bars and its rules as arrays. ``starts``: indices of decision times that an episode may begin
    or go on at; ``config_low``, ``config_span``: how steering is shown (policy.observation). ``daily``, ``ranges``,
    ``tails`` [T, M] and ``correlations`` [T, M, M] are what policy.risk.history makes of ``price``, so of this data
    alone; those that no rule asks for have one row."""

    times: Ints
    price: Floats
    trend: Floats
    volatility: Floats
    ood: Floats
    block: Floats32
    complete: Bools
    tradable: Bools
    open: Floats
    high: Floats
    low: Floats
    close: Floats
    volume: Floats
    tick: Floats
    lot: Floats
    min_notional: Floats
    grid_start: int
    base_s: int
    step_s: int
    bar_years_sqrt: float
    starts: Ints
    config_low: Floats
    config_span: Floats
    daily: Floats
    ranges: Floats
    tails: Floats
    correlations: Floats
    day_stride: int


class Draws(NamedTuple):
    """How episodes are drawn. ``steering`` [9, 2] and ``costs`` [3, 2]: lowest and highest, drawn log-uniformly where
    ``steering_log`` says so; equal ends fix a value. ``band``: the share of a full position at turnover penalty 1.
    Probabilities are a step's: ``switch`` of the steering changing, ``jump`` of the stationary bootstrap leaping to
    another time."""

    steering: Floats
    steering_log: Bools
    costs: Floats
    delays: Ints
    band: float
    max_step: float
    rules: RiskParameters
    max_order_notional: float
    reach: float
    capital: float
    episode_steps: int
    switch: float
    jump: float
    random_book: bool
    random_slots: bool
    penalties: float
    scaled: bool
    resets: bool


class Books(NamedTuple):
    """The state of B books; see the names in shared.simulation.kernel and policy.observation.Book."""

    random: Words  # [B]
    moment: Ints  # [B] index of the decision time
    bar: Ints  # [B] the next bar to run
    steps_left: Ints
    cash: Floats
    held: Floats  # [B, N]
    order: Floats
    order_first: Ints
    order_last: Ints
    stop: Floats
    target: Floats
    slot: Ints
    order_volatility: Floats
    mark: Floats
    totals: Floats  # [B, TOTALS]
    equity: Floats  # [B] at the last decision time reached
    peak: Floats
    day_start: Floats
    last_equity: Floats
    last_t: Ints
    steering: Floats  # [B, 9]
    costs: Floats  # [B, 3]
    delay: Ints


class Scratch(NamedTuple):
    """Room for one decision, [N] each. No book here is ever ``stopped_out``, filled a while ago (``since_fill_s``) or
    old (``age_s``), and none knows its symbols (``symbol_caps`` are 1): a rule that asks acts on wallets only."""

    price: Floats
    trend: Floats
    volatility: Floats
    ood: Floats
    agreement: Floats
    action: Floats
    lot: Floats
    min_notional: Floats
    weights: Floats
    wanted: Floats
    quantity: Floats
    atr: Floats
    tail: Floats
    age_s: Floats
    reason: Ints
    complete: Bools
    tradable: Bools
    in_flight: Bools
    doubtful: Bools
    stopped_out: Bools
    since_fill_s: Floats
    symbol_caps: Floats
    correlation: Floats
    losses: Floats
    market: Floats32  # [N, MARKET_SIZE]
    shuffled: Ints  # [M]
    no_equity: Floats
    no_fills: Floats  # [0, FILL_COLUMNS]
