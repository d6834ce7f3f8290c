"""One step of many books, in the subset of Python that numba compiles: the trader's path over the simulation kernel.

Nothing here decides: ``step_book`` calls the functions that the trader calls (policy.decision_kernel, the risk rules,
the fills of shared.simulation) on the arrays of one book. What is new is training's own: drawing episodes, jumping in
time, the reward. B books of N instruments over T decision times of M instruments; each book is at its own time.

Randomness comes from one counter-based generator a book (splitmix64), so that a batch is reproducible, can be stored
and resumed, and draws the same whatever the other books do.
"""

from __future__ import annotations

import math

import numpy as np

from policy.decision_kernel import (
    DAY_S,
    MARKET_SIZE,
    Bools,
    Floats32,
    Steering,
    day_start_equity,
    observe_book,
    plan_orders,
    want,
    weigh,
)
from policy.env_state import (
    BAND,
    DAILY_LOSS_LIMIT,
    DRAWDOWN_PENALTY,
    FEE,
    HALF_SPREAD,
    IMPACT,
    MAX_DRAWDOWN,
    MAX_EXPOSURE,
    MAX_POSITION,
    RISK_AVERSION,
    TARGET_VOLATILITY,
    TURNOVER_PENALTY,
    Books,
    Data,
    Draws,
    Scratch,
    Words,
)
from policy.risk import limit
from policy.risk.context import RiskContext
from shared.simulation.kernel import (
    FEES,
    SLIPPAGE,
    TOTALS,
    Floats,
    advance_book,
    close_book,
    equity,
    round_money,
)

YEAR_S = 365.0 * DAY_S
DRAWDOWN_WEIGHT = 0.25  # at penalty 1 a year spent a tenth below the peak counts 2.5 %
RUIN = 0.01  # of the capital: the episode is over


def next_uniform(random: Words, b: int) -> float:
    """In [0, 1): splitmix64 (Steele, Lea & Flood, 2014)."""
    random[b] = random[b] + np.uint64(0x9E3779B97F4A7C15)
    z = random[b]
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z = z ^ (z >> np.uint64(31))
    return float(z >> np.uint64(11)) * (1.0 / 9007199254740992.0)


def first_bar_from(data: Data, t: int) -> int:
    """The first bar that opens at or after ``t``."""
    return -((data.grid_start - t) // data.base_s)


def bars_closed_by(data: Data, t: int) -> int:
    return min(max((t - data.grid_start) // data.base_s, 0), len(data.open))


def steering_of_row(row: Floats) -> Steering:
    return Steering(
        row[RISK_AVERSION], row[TURNOVER_PENALTY], row[DRAWDOWN_PENALTY], row[TARGET_VOLATILITY], row[MAX_EXPOSURE],
        row[MAX_POSITION], row[DAILY_LOSS_LIMIT], row[MAX_DRAWDOWN], row[BAND],
    )  # fmt: skip


def draw_steering(draws: Draws, books: Books, b: int) -> None:
    row = books.steering[b]
    for k in range(BAND):
        low, high = draws.steering[k, 0], draws.steering[k, 1]
        u = next_uniform(books.random, b)
        row[k] = low * (high / low) ** u if draws.steering_log[k] else low + (high - low) * u
    row[BAND] = draws.band * row[TURNOVER_PENALTY] ** (1.0 / 3.0)


def draw_slots(data: Data, draws: Draws, books: Books, b: int, i: int, scratch: Scratch) -> None:
    """Which instruments the book trades: random ones, those that are complete at its start before the others."""
    slot, instruments = books.slot[b], data.price.shape[1]
    if not draws.random_slots:
        for n in range(len(slot)):
            slot[n] = n
        return
    order = scratch.shuffled
    for n in range(instruments):
        order[n] = n
    for n in range(instruments - 1):
        k = n + int(next_uniform(books.random, b) * (instruments - n))
        order[n], order[k] = order[k], order[n]
    taken = 0
    for complete in (True, False):
        for n in range(instruments):
            if taken < len(slot) and data.complete[i, order[n]] == complete:
                slot[taken] = order[n]
                taken += 1


def look_up(data: Data, books: Books, b: int, scratch: Scratch) -> None:
    """What the market says of the book's instruments at its time."""
    i, slot = books.moment[b], books.slot[b]
    for n in range(len(slot)):
        m = slot[n]
        scratch.price[n] = data.price[i, m]
        scratch.trend[n] = data.trend[i, m]
        scratch.volatility[n] = data.volatility[i, m]
        scratch.ood[n] = data.ood[i, m]
        scratch.complete[n] = data.complete[i, m]
        scratch.tradable[n] = data.tradable[i, m]
        scratch.doubtful[n] = not data.complete[i, m]
        scratch.lot[n] = data.lot[m]
        scratch.min_notional[n] = data.min_notional[m]
        scratch.in_flight[n] = books.order[b, n] != 0.0


def look_back(data: Data, books: Books, b: int, scratch: Scratch) -> None:
    """What the past says of the book's instruments at its time, as far as a rule asks."""
    i, slot = books.moment[b], books.slot[b]
    if len(data.tails) > 1:
        for n in range(len(slot)):
            scratch.tail[n] = data.tails[i, slot[n]]
    if len(data.ranges) > 1:
        for n in range(len(slot)):
            scratch.atr[n] = data.ranges[i, slot[n]]
    if len(data.correlations) > 1:
        for n in range(len(slot)):
            for k in range(len(slot)):
                scratch.correlation[n, k] = data.correlations[i, slot[n], slot[k]]


def reset_book(data: Data, draws: Draws, books: Books, b: int, start: int, scratch: Scratch) -> None:
    """A new episode at decision time ``start``, or at a random one when that is negative."""
    i = start if start >= 0 else data.starts[int(next_uniform(books.random, b) * len(data.starts))]
    books.moment[b], books.steps_left[b] = i, draws.episode_steps
    books.bar[b] = bars_closed_by(data, data.times[i])
    draw_steering(draws, books, b)
    for k in range(3):
        low, high = draws.costs[k, 0], draws.costs[k, 1]
        books.costs[b, k] = low + (high - low) * next_uniform(books.random, b)
    books.delay[b] = draws.delays[int(next_uniform(books.random, b) * len(draws.delays))]
    draw_slots(data, draws, books, b, i, scratch)
    books.cash[b] = draws.capital
    for n in range(books.held.shape[1]):
        books.held[b, n], books.order[b, n], books.stop[b, n], books.target[b, n] = 0.0, 0.0, 0.0, 0.0
        books.mark[b, n] = data.price[i, books.slot[b, n]]
    for k in range(TOTALS):
        books.totals[b, k] = 0.0
    if draws.random_book:
        hold_some(data, draws, books, b, scratch)
    books.equity[b] = equity(books.cash[b], books.held[b], books.mark[b])
    books.peak[b], books.day_start[b], books.last_equity[b] = books.equity[b], books.equity[b], books.equity[b]
    books.last_t[b] = data.times[i]


def hold_some(data: Data, draws: Draws, books: Books, b: int, scratch: Scratch) -> None:
    """A book that did not begin today: a random share of full positions, bought at no cost."""
    look_up(data, books, b, scratch)
    steering, nothing, share = steering_of_row(books.steering[b]), scratch.quantity, next_uniform(books.random, b)
    for n in range(len(scratch.price)):
        nothing[n], scratch.agreement[n] = 0.0, share
        scratch.action[n] = 2.0 * next_uniform(books.random, b) - 1.0
    want(nothing, scratch.volatility, scratch.action, scratch.agreement, 1.0, steering, scratch.wanted)
    total = 0.0
    for n in range(len(scratch.price)):
        total += scratch.wanted[n]
    scale = min(1.0, steering.max_exposure / total) if total > 0.0 else 0.0
    for n in range(len(scratch.price)):
        if scratch.tradable[n]:
            books.held[b, n] = round_money(scratch.wanted[n] * scale * draws.capital / scratch.price[n])
            books.cash[b] = round_money(books.cash[b] - books.held[b, n] * scratch.price[n])


def jump(data: Data, books: Books, b: int) -> None:
    """Takes the book to another time with its values preserved: the next block of the stationary bootstrap (Politis &
    Romano, 1994). A position that has no price there becomes cash; orders in flight are forgotten."""
    i = data.starts[int(next_uniform(books.random, b) * len(data.starts))]
    worth = books.equity[b]
    cash = worth
    for n in range(books.held.shape[1]):
        m = books.slot[b, n]
        there = data.price[i, m]
        value = books.held[b, n] * books.mark[b, n] if books.held[b, n] > 0.0 else 0.0
        books.held[b, n] = round_money(value / there) if value > 0.0 and data.tradable[i, m] else 0.0
        books.mark[b, n] = there
        if books.held[b, n] > 0.0:
            cash -= books.held[b, n] * there
        books.order[b, n] = 0.0
    books.cash[b] = round_money(cash)
    books.moment[b], books.bar[b] = i, bars_closed_by(data, data.times[i])
    books.last_t[b] = data.times[i]


def decide_book(data: Data, draws: Draws, books: Books, b: int, scratch: Scratch) -> None:
    """From the action to orders in flight: want, limit, plan."""
    i, steering = books.moment[b], steering_of_row(books.steering[b])
    look_up(data, books, b, scratch)
    weigh(books.held[b], scratch.price, books.equity[b], scratch.weights)
    for n in range(len(scratch.price)):
        if not scratch.complete[n]:
            scratch.action[n], scratch.agreement[n] = 0.0, 1.0
    want(
        scratch.trend, scratch.volatility, scratch.action, scratch.agreement, draws.reach, steering, scratch.wanted
    )  # fmt: skip
    look_back(data, books, b, scratch)
    day_return = books.equity[b] / books.day_start[b] - 1.0 if books.day_start[b] > 0.0 else 0.0
    context = RiskContext(
        steering.max_position, steering.max_exposure, steering.daily_loss_limit, steering.max_drawdown, draws.max_step,
        day_return, 1.0 - books.equity[b] / books.peak[b], False, scratch.weights, scratch.ood, scratch.doubtful,
        draws.rules, books.cash[b] / books.equity[b] if books.equity[b] > 0.0 else math.inf, scratch.agreement,
        scratch.atr, scratch.correlation, scratch.tail, data.daily, i, data.day_stride, books.slot[b], scratch.losses,
        scratch.stopped_out, scratch.since_fill_s, scratch.age_s, scratch.symbol_caps,
    )  # fmt: skip
    limit(scratch.wanted, context)
    plan_orders(
        scratch.wanted, scratch.weights, books.held[b], books.equity[b], scratch.price, scratch.volatility, scratch.lot,
        scratch.min_notional, draws.max_order_notional, scratch.in_flight, scratch.tradable, steering, scratch.quantity,
        scratch.reason,
    )  # fmt: skip
    earliest = data.times[i] + books.delay[b]
    for n in range(len(scratch.price)):
        if scratch.quantity[n] != 0.0:
            books.order[b, n] = scratch.quantity[n]
            books.order_first[b, n] = first_bar_from(data, earliest)
            books.order_last[b, n] = first_bar_from(data, earliest + data.step_s) - 1
            books.order_volatility[b, n] = scratch.volatility[n]


def move_on(data: Data, books: Books, b: int, scratch: Scratch, equity_out: Floats, fill_out: Floats) -> int:
    """Runs the bars up to the next decision time, and the memory of day and peak; the number of fills."""
    books.moment[b] += 1
    end = bars_closed_by(data, data.times[books.moment[b]])
    fills = advance_book(
        b, books.cash, books.held, books.order, books.order_first, books.order_last, books.stop, books.target,
        books.slot, data.open, data.high, data.low, data.close, data.volume, books.order_volatility, books.mark,
        books.bar[b], end, data.bar_years_sqrt, books.costs[b, FEE], books.costs[b, HALF_SPREAD],
        books.costs[b, IMPACT], data.tick, data.lot, equity_out, fill_out, books.totals,
    )  # fmt: skip
    books.bar[b] = end
    return fills


def look_at_book(data: Data, books: Books, b: int) -> None:
    """Equity, day start and peak at the book's time, as policy.book makes them for the trader."""
    t = data.times[books.moment[b]]
    worth = equity(books.cash[b], books.held[b], books.mark[b])
    books.day_start[b] = day_start_equity(t, worth, books.last_t[b], books.last_equity[b], books.day_start[b])
    books.peak[b] = max(books.peak[b], worth)
    books.equity[b], books.last_equity[b], books.last_t[b] = worth, worth, t


def observe_one(data: Data, books: Books, b: int, scratch: Scratch, observation: Floats32) -> None:
    look_up(data, books, b, scratch)
    weigh(books.held[b], scratch.price, books.equity[b], scratch.weights)
    for n in range(len(scratch.price)):
        for k in range(MARKET_SIZE):
            scratch.market[n, k] = data.block[books.moment[b], books.slot[b, n], k]
    cost = (books.costs[b, FEE] + books.costs[b, HALF_SPREAD]) * 1e-4
    day_return = books.equity[b] / books.day_start[b] - 1.0 if books.day_start[b] > 0.0 else 0.0
    observe_book(
        scratch.market, scratch.trend, scratch.volatility, scratch.complete, scratch.weights,
        1.0 - books.equity[b] / books.peak[b], day_return, cost, steering_of_row(books.steering[b]), data.config_low,
        data.config_span, observation,
    )  # fmt: skip


def reward_of(
    before: float, after: float, drawdown: float, costs: float, row: Floats, draws: Draws, step_s: int
) -> float:
    """Log return of the step, less what the steering makes of risk, turnover and time spent below the peak.

    Relative risk aversion is risk aversion ÷ target volatility; log utility has 1 of it, the rest is a quadratic
    penalty on the return itself, which needs no model of the covariances. Divided by the risk that is asked for, so
    that every steering counts the same. A drawdown is charged by its depth and its time: charging each deepening would
    cost more than the drift of a good asset earns, and teach to hold nothing."""
    log_return = math.log(max(after, 1e-9) / before)
    years = step_s / YEAR_S
    aversion = row[RISK_AVERSION] / row[TARGET_VOLATILITY]
    penalty = 0.5 * max(aversion - 1.0, 0.0) * log_return * log_return
    penalty += (row[TURNOVER_PENALTY] - 1.0) * costs / before
    penalty += DRAWDOWN_WEIGHT * row[DRAWDOWN_PENALTY] * drawdown * years
    scale = row[TARGET_VOLATILITY] / row[RISK_AVERSION] * math.sqrt(years) if draws.scaled else 1.0
    reward: float = (log_return - draws.penalties * penalty) / scale
    return reward


def step_book(
    data: Data, draws: Draws, books: Books, b: int, scratch: Scratch, equity_out: Floats, fill_out: Floats
) -> tuple[float, bool, int]:
    """One decision interval of book ``b`` under ``scratch.action`` and ``scratch.agreement``: (reward, done, fills).
    At the end of an episode the positions are closed and charged."""
    before = books.equity[b]
    spent = books.totals[b, FEES] + books.totals[b, SLIPPAGE]
    decide_book(data, draws, books, b, scratch)
    fills = move_on(data, books, b, scratch, equity_out, fill_out)
    look_at_book(data, books, b)
    books.steps_left[b] -= 1
    ruined = books.equity[b] <= RUIN * draws.capital
    done = books.steps_left[b] <= 0 or books.moment[b] >= len(data.times) - 1 or ruined
    if done:
        close_book(
            b, books.cash, books.held, books.order, books.stop, books.target, books.slot, books.mark, books.bar[b],
            books.costs[b, FEE], books.costs[b, HALF_SPREAD], data.tick, data.lot, fill_out[fills:], books.totals,
        )  # fmt: skip
        books.equity[b] = equity(books.cash[b], books.held[b], books.mark[b])
    drawdown = 1.0 - books.equity[b] / books.peak[b]
    costs = books.totals[b, FEES] + books.totals[b, SLIPPAGE] - spent
    reward = reward_of(before, books.equity[b], drawdown, costs, books.steering[b], draws, data.step_s)
    return reward, done, fills


def step_books(
    data: Data, draws: Draws, books: Books, scratch: Scratch, action: Floats32, observation: Floats32,
    final_observation: Floats32, reward: Floats32, done: Bools,
) -> None:  # fmt: skip
    """Steps all books and writes what they see next [B, N, OBSERVATION_SIZE]; a book that is done begins anew, its last
    observation is in ``final_observation``."""
    for b in range(len(books.cash)):
        for n in range(books.held.shape[1]):
            scratch.action[n] = min(max(action[b, n], -1.0), 1.0)
            scratch.agreement[n] = 1.0
        reward[b], done[b], _ = step_book(data, draws, books, b, scratch, scratch.no_equity, scratch.no_fills)
        if done[b]:
            observe_one(data, books, b, scratch, final_observation[b])
            if draws.resets:
                reset_book(data, draws, books, b, -1, scratch)
        else:
            if draws.jump > 0.0 and next_uniform(books.random, b) < draws.jump:
                jump(data, books, b)
            if draws.switch > 0.0 and next_uniform(books.random, b) < draws.switch:
                draw_steering(draws, books, b)
        observe_one(data, books, b, scratch, observation[b])


def reset_books(data: Data, draws: Draws, books: Books, scratch: Scratch, start: int, observation: Floats32) -> None:
    for b in range(len(books.cash)):
        reset_book(data, draws, books, b, start, scratch)
        observe_one(data, books, b, scratch, observation[b])
