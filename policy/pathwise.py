"""The book as a differentiable function of the policy's weights: the objective of the first stage of training.

The market does not answer to one small book, so its path is given and the gradient of the reward with respect to every
action is known exactly; estimating it from random trials, as PPO does, takes two orders of magnitude more steps. This
is a training objective only (DESIGN.md §2.4): nothing is ever reported from here.

The arithmetic is that of policy.decision_kernel and policy.env_kernel in torch: orders are sized at the close and fill
at an open (or, where a delay reaches beyond the interval, at its end). Left out is what has no gradient: lots, ticks,
minimum order values, impact, the daily loss limit and the emergency stop. Made smooth: the no-trade band. Without
costs and band the equity is the kernel's, to rounding.

B books of N instruments take H steps from random times; time leaps as in the stationary bootstrap (Politis & Romano,
1994), all instruments together.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from policy.decision_kernel import CORRELATION, DAY_S, DAYS_A_YEAR, MARKET_SIZE, OBSERVATION_LIMIT, Bools
from policy.env_kernel import DRAWDOWN_WEIGHT
from policy.observation import CONFIG_FIELDS, CONFIG_LOW, CONFIG_SPAN
from policy.policy_network import ActorNet
from policy.risk import out_of_distribution
from policy.training_data import TrainingData
from shared.rows import FloatArray, IntArray

YEAR_S = 365.0 * DAY_S
BAND_SOFTNESS = 0.1  # of the band's width: over so much of it trading sets in
SMALLEST_BAND = 1e-12
CONFIG_COLUMNS = slice(MARKET_SIZE, MARKET_SIZE + len(CONFIG_FIELDS))
OWN, EXPOSURE, DRAWDOWN, DAY_RETURN, COST = range(CONFIG_COLUMNS.stop, CONFIG_COLUMNS.stop + 5)


class Steerings(NamedTuple):
    """The fields of decision_kernel.Steering that the surrogate knows, [H, B] each."""

    risk_aversion: Tensor
    turnover_penalty: Tensor
    drawdown_penalty: Tensor
    target_volatility: Tensor
    max_exposure: Tensor
    max_position: Tensor
    band: Tensor


class Episodes(NamedTuple):
    """One batch: B books of N instruments over H steps.

    ``moment`` [H, B]: the decision time of each step; ``slot`` [B, N]: the instruments; ``cost`` [B]: fee and half
    spread a side, as a fraction; ``delay`` [B]: which of the market's delays; ``shares`` [B, N]: what is held at first,
    in full positions; ``noise`` [B, N] is added to the actions, the same at each step: a new one would have to be paid
    for. A weight grows by ``max_step`` a decision at most."""

    moment: Tensor
    slot: Tensor
    cost: Tensor
    delay: Tensor
    shares: Tensor
    noise: Tensor
    steering: Steerings
    max_step: float = 1.0


class Paths(NamedTuple):
    """``reward`` [H, B], ``equity`` [H + 1, B] (1 at first), ``turnover`` [H, B] (traded ÷ equity), ``exposure`` [H, B]
    and ``action`` [H, B, N] as wanted, before noise."""

    reward: Tensor
    equity: Tensor
    turnover: Tensor
    exposure: Tensor
    action: Tensor


@dataclass(frozen=True, slots=True)
class Market:
    """TrainingData as tensors. A position held from decision time i to the next grows by ``growth`` [T-1, M]; what is
    bought at i is paid for at ``to_fill`` [delays, T-1, M] times the close it was sized at. ``kept`` [T, M]: the share
    of a position that out_of_distribution leaves."""

    block: Tensor
    trend: Tensor
    volatility: Tensor
    complete: Tensor
    tradable: Tensor
    kept: Tensor
    growth: Tensor
    to_fill: Tensor
    new_day: Tensor
    starts: IntArray
    complete_at: Bools
    step_s: int

    @staticmethod
    def of(data: TrainingData, delays_s: tuple[int, ...] = (0,), dtype: torch.dtype = torch.float32) -> Market:
        """ValueError when no decision time of the span can begin an episode."""
        starts = np.flatnonzero(data.complete[:-1].any(axis=1))
        if not len(starts):
            raise ValueError("no decision time of the span has an instrument with embeddings and market state")
        ood = np.nan_to_num(data.ood, nan=0.0)
        width = out_of_distribution.TO - out_of_distribution.FROM
        kept = np.clip((out_of_distribution.TO - ood) / width, 0.0, 1.0)
        with np.errstate(invalid="ignore", divide="ignore"):
            growth = np.nan_to_num(data.price[1:] / data.price[:-1], nan=1.0)
            to_fill = np.stack([fill_prices(data, delay) / data.price[:-1] for delay in delays_s])

        def tensor(array: NDArray[Any]) -> Tensor:
            return torch.from_numpy(np.ascontiguousarray(array)).to(dtype)

        return Market(
            block=tensor(data.block),
            trend=tensor(data.trend).clamp_min(0.0),
            volatility=tensor(data.volatility),
            complete=tensor(data.complete),
            tradable=tensor(data.tradable & np.isfinite(data.price)),
            kept=tensor(kept),
            growth=tensor(growth),
            to_fill=tensor(np.where(np.isfinite(to_fill), to_fill, growth)),
            new_day=torch.from_numpy(data.times % DAY_S == 0),
            starts=starts,
            complete_at=data.complete,
            step_s=data.step_s,
        )


def fill_prices(data: TrainingData, delay_s: int) -> FloatArray:
    """[T-1, M]: the first open at or after each decision and its delay, NaN where there is none before the next one."""
    grid = data.grid
    bars = len(grid.open)
    following = np.where(np.isfinite(grid.open), np.arange(bars)[:, None], bars)
    following = np.minimum.accumulate(following[::-1], axis=0)[::-1]  # the first bar with an open from here on
    first = np.clip(-((grid.start - data.times[:-1] - delay_s) // grid.base_s), 0, bars - 1)
    end = np.clip((data.times[1:] - grid.start) // grid.base_s, 0, bars)
    chosen = following[first]
    usable = (chosen < end[:, None]) & (first < end)[:, None]
    column = np.arange(grid.open.shape[1])
    return np.where(usable, grid.open[np.minimum(chosen, bars - 1), column], np.nan)


def _inverse(value: Tensor) -> Tensor:
    """1 ÷ value, and 0 where that is 0."""
    return torch.where(value > 0.0, 1.0 / value.clamp_min(1e-12), torch.zeros_like(value))


def full_weights(volatility: Tensor, steering: Steerings, instruments: int) -> Tensor:
    """decision_kernel.full_weight: volatility [H, B, N] -> [H, B, N], 0 where it is not known."""
    together = math.sqrt(instruments * (1.0 + (instruments - 1) * CORRELATION))
    risk = (steering.target_volatility / steering.risk_aversion)[..., None]
    return torch.where(volatility > 0.0, risk / (volatility.clamp_min(1e-6) * together), torch.zeros_like(volatility))


def rewards(
    before: Tensor,
    after: Tensor,
    drawdown: Tensor,
    costs: Tensor,
    steering: Steerings,
    step_s: int,
    penalties: float = 1.0,
) -> Tensor:
    """env_kernel.reward_of, scaled; ``before`` and ``after``: equity, ``costs`` in quote, shapes as in ``steering``."""
    log_return = torch.log(after.clamp_min(1e-9) / before)
    aversion = steering.risk_aversion / steering.target_volatility
    penalty = 0.5 * (aversion - 1.0).clamp_min(0.0) * log_return * log_return
    penalty = penalty + (steering.turnover_penalty - 1.0) * costs / before
    penalty = penalty + DRAWDOWN_WEIGHT * steering.drawdown_penalty * drawdown * (step_s / YEAR_S)
    return (log_return - penalties * penalty) / reward_scale(steering, step_s)


def reward_scale(steering: Steerings, step_s: int) -> Tensor:
    """The risk that is asked for, of one step: every steering counts the same."""
    return steering.target_volatility / steering.risk_aversion * math.sqrt(step_s / YEAR_S)


class _Given(NamedTuple):
    """All that does not depend on what the books do, [H, B, N] unless said otherwise."""

    seen: Tensor  # [H, B, N, hidden]: the first layer, less what the book adds
    full: Tensor
    inverse_full: Tensor  # 0 where the full weight is
    cap: Tensor  # [H, B, 1] max_position
    max_exposure: Tensor  # [H, B]
    steepness: Tensor  # with which trading sets in beyond the band: 1 ÷ (weight of the band · BAND_SOFTNESS)
    trend: Tensor
    reach: Tensor  # 0 where nothing is seen
    growable: Tensor  # by how much a weight may grow
    tradable: Tensor
    kept: Tensor
    growth: Tensor
    to_fill: Tensor
    new_day: Tensor  # [H, B]
    inverse_risk: Tensor  # [H, B]
    inverse_full_sum: Tensor  # [H, B]


def _look_up(market: Market, actor: ActorNet, e: Episodes, reach: float) -> _Given:
    """Gathers the market along the paths and runs its part of the first layer over all of it at once."""
    i, m = e.moment[..., None], e.slot[None]
    volatility, s = market.volatility[i, m], e.steering
    full = full_weights(volatility, s, e.slot.shape[1])
    weight, bias = actor.first_weight(), actor.linear[0].bias
    low, span = (torch.from_numpy(part).to(full.dtype) for part in (CONFIG_LOW, CONFIG_SPAN))
    config = (torch.stack(s[: len(CONFIG_FIELDS)], dim=-1) - low[_ORDER]) / span[_ORDER]
    seen = torch.nn.functional.linear(market.block[i, m], weight[:, :MARKET_SIZE], bias)  # type: ignore[arg-type]
    cost = (50.0 * e.cost[None, :, None] * _inverse(volatility)).clamp(-OBSERVATION_LIMIT, OBSERVATION_LIMIT)
    seen = seen + (config @ weight[:, CONFIG_COLUMNS].T)[:, :, None] + cost[..., None] * weight[:, COST]
    cap, complete = s.max_position[..., None], market.complete[i, m]
    band = (s.band[..., None] * torch.minimum(full, cap)).clamp_min(SMALLEST_BAND)
    return _Given(
        seen=seen,
        full=full,
        inverse_full=_inverse(full),
        cap=cap,
        max_exposure=s.max_exposure,
        steepness=1.0 / (band * BAND_SOFTNESS),
        trend=market.trend[i, m],
        reach=reach * complete,
        growable=e.max_step * complete,
        tradable=market.tradable[i, m],
        kept=market.kept[i, m],
        growth=market.growth[i, m],
        to_fill=market.to_fill[e.delay[None, :, None], i, m],
        new_day=market.new_day[e.moment],
        inverse_risk=s.risk_aversion / s.target_volatility,
        inverse_full_sum=_inverse(full.sum(-1)),
    )


_ORDER = [CONFIG_FIELDS.index(field) for field in Steerings._fields[: len(CONFIG_FIELDS)]]


def run(
    market: Market, actor: ActorNet, e: Episodes, reach: float, penalties: float = 1.0, settled: bool = True
) -> Paths:
    """The paths of all books; differentiable in the actor's parameters.

    A ``settled`` book begins with what the policy wants, at no cost and with its gradient: it has traded before. An
    episode is much shorter than a position is held; books that all began elsewhere would pay an entry in each, and the
    best policy would be never to enter. So every change is paid for but the first, 1 of H."""
    given = _look_up(market, actor, e, reach)
    weight = actor.first_weight()[:, [OWN, EXPOSURE, DRAWDOWN, DAY_RETURN]].T
    value = _first_book(actor, e, given, weight, settled)
    cash = 1.0 - value.sum(-1)
    equity = torch.ones_like(cash)
    peak = day_start = equity
    drawdown = torch.zeros_like(equity)
    curve, drawdowns, spent, traded, exposure, actions = [equity], [], [], [], [], []
    # unbind, not given[h]: the gradient of an index is a tensor of all steps, for every step
    for g in map(_Given._make, zip(*(part.unbind(0) for part in given), strict=True)):
        held = value / equity[:, None]
        day_start = torch.where(g.new_day, equity, day_start)
        book = _book_columns(held, equity, drawdown, day_start, g)
        action = actor.tail(torch.tanh(g.seen + book @ weight))
        allowed = _allowed(action + e.noise, held, g)
        change = allowed - held
        change = change * _traded_share(allowed, change, g) * equity[:, None]
        turnover = (change.abs() * g.to_fill).sum(-1)
        cost = e.cost * turnover
        cash = cash - (change * g.to_fill).sum(-1) - cost
        value = (value + change) * g.growth
        after = cash + value.sum(-1)
        peak = torch.maximum(peak, after)
        now = 1.0 - after / peak
        curve.append(after)
        drawdowns.append(now)
        spent.append(cost)
        traded.append(turnover / equity)
        exposure.append(allowed.sum(-1))
        actions.append(action)
        equity, drawdown = after, now
    whole = torch.stack(curve)
    reward = rewards(
        whole[:-1], whole[1:], torch.stack(drawdowns), torch.stack(spent), e.steering, market.step_s, penalties
    )
    return Paths(reward, whole, torch.stack(traded), torch.stack(exposure), torch.stack(actions))


def _first_book(actor: ActorNet, e: Episodes, given: _Given, weight: Tensor, settled: bool) -> Tensor:
    """[B, N] values of a book worth 1."""
    g = _Given(*(part[0] for part in given))
    held = torch.minimum(e.shares * g.full, g.cap) * g.tradable
    held = held * (g.max_exposure / held.sum(-1).clamp_min(1e-9)).clamp_max(1.0)[:, None]
    if not settled:
        return held
    equity = torch.ones_like(g.inverse_risk)
    book = _book_columns(held, equity, torch.zeros_like(equity), equity, g)
    action = actor.tail(torch.tanh(g.seen + book @ weight))
    everything = g._replace(growable=torch.where(g.growable > 0.0, 1.0, 0.0))
    return _allowed(action + e.noise, held, everything) * g.tradable


def _book_columns(held: Tensor, equity: Tensor, drawdown: Tensor, day_start: Tensor, g: _Given) -> Tensor:
    """decision_kernel.observe_book's own share, exposure share, drawdown and day's return, [B, N, 4]."""
    limit = OBSERVATION_LIMIT
    own = (held * g.inverse_full).clamp(-limit, limit)
    shared = torch.stack(
        [
            held.sum(-1) * g.inverse_full_sum,
            -drawdown * g.inverse_risk,
            (equity / day_start - 1.0) * g.inverse_risk * math.sqrt(DAYS_A_YEAR),
        ],
        dim=-1,
    ).clamp(-limit, limit)
    return torch.cat([own[..., None], shared[:, None].expand(-1, own.shape[1], -1)], dim=-1)


def _allowed(action: Tensor, held: Tensor, g: _Given) -> Tensor:
    """decision_kernel.want, then the rules max_position, max_exposure, out_of_distribution, fresh_data and rate_limit:
    [B, N]."""
    share = (g.trend + g.reach * action.clamp(-1.0, 1.0)).clamp(0.0, 1.0)
    wanted = torch.minimum(share * g.full, g.cap)
    scale = (g.max_exposure / wanted.sum(-1).clamp_min(1e-9)).clamp_max(1.0)
    return torch.minimum(wanted * (scale[:, None] * g.kept), held + g.growable)


def _traded_share(allowed: Tensor, change: Tensor, g: _Given) -> Tensor:
    """How much of a wanted change is traded: nothing inside the band, all of it outside, smoothly; all when leaving."""
    share = torch.sigmoid(change.abs() * g.steepness - 1.0 / BAND_SOFTNESS)
    return torch.where(allowed > 0.0, share, 1.0) * g.tradable
