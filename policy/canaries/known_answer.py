"""Known answers: markets whose drift is seen, and whose best policy a dynamic programme knows.

A Merton market has a drift that stays; in an autoregressive one it fades (ρ = 0.97, as measured in the evidence). The
policy is trained once over all steerings and judged at each cell of a grid of risk aversion and costs, against the
optimum for that cell alone: what is compared is utility at the known drift, so that no luck is in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import product

import numpy as np

from policy.canaries.cells import BatchAct, Cell, CellRuns, Rows, run_cells
from policy.canaries.markets import market_of
from policy.canaries.optimal import Optimum, autoregressive, redrawn, solve, utility
from policy.env_state import Draws
from policy.inputs import static_config
from policy.observation import observation_names
from policy.risk.context import NO_LIMITS
from policy.simulator import Costs
from policy.trading_env import STEERING_DRAWS, Range, Terms
from policy.training_data import TrainingData
from shared.clock import from_unix
from shared.rows import FloatArray, PolicyConfig

STEP_S = 4 * 3600
STEPS_A_YEAR = 365 * 86_400 // STEP_S
BAR_VOLATILITY = 0.02  # a step
VOLATILITY = float(BAR_VOLATILITY * np.sqrt(STEPS_A_YEAR))  # annualised
PERSISTENCE = 0.97
STAYS = 200  # steps on average, of a Merton market's drift
RISK_AVERSIONS, COSTS_BPS = (1.0, 3.0, 10.0), (0.0, 10.0, 45.0)
OWN_SHARE = observation_names().index("book.own_share")
STARTS = 12  # stretches that a market is judged on


@dataclass(frozen=True, slots=True)
class FeeTerms(Terms):
    """Costs are fees alone, drawn from ``fee_bps`` uniformly: the optimum knows nothing else."""

    fee_bps: Range = (0.0, 60.0)

    def draws(self, slots: int, instruments: int, resets: bool = True) -> Draws:
        nothing = (0.0, 0.0)
        return Terms.draws(self, slots, instruments, resets)._replace(costs=np.array([self.fee_bps, nothing, nothing]))


@dataclass(frozen=True, slots=True)
class Market:
    """One made-up market; ``drift`` [T, N] a step, which the policy sees in units of ``deviation``; ``persistence``
    of the drift, 1 for one that stays and then is drawn anew."""

    data: TrainingData
    drift: FloatArray
    deviation: float
    persistence: float


def make_market(steps: int, information: float, persistence: float, seed: int, instruments: int = 1) -> Market:
    """``information``: the correlation of drift and return. Many instruments rather than many steps: a walk that is too
    long leaves the prices that can be traded at."""
    rng = np.random.default_rng(seed)
    deviation, shape = information * BAR_VOLATILITY, (steps, instruments)
    if persistence < 1.0:
        shocks = rng.normal(0.0, deviation * np.sqrt(1.0 - persistence**2), shape)
        drift = np.empty(shape)
        drift[0] = rng.normal(0.0, deviation, instruments)
        for t in range(1, steps):
            drift[t] = persistence * drift[t - 1] + shocks[t]
    else:
        anew = np.where(rng.random(shape) < 1.0 / STAYS, np.arange(steps)[:, None], 0)
        drawn = rng.normal(0.0, deviation, shape)
        drift = np.take_along_axis(drawn, np.maximum.accumulate(anew, axis=0), axis=0)
    noise = BAR_VOLATILITY * rng.normal(0.0, np.sqrt(1.0 - information**2), shape)
    return market_that_shows(drift, noise, deviation, persistence, seed)


def market_that_shows(drift: FloatArray, noise: FloatArray, deviation: float, persistence: float, seed: int) -> Market:
    """Simple returns of mean ``drift`` [T, N], with ``noise`` [T, N] on the log; the drift is seen, nothing else is."""
    returns = drift - 0.5 * BAR_VOLATILITY**2 + noise
    seen = np.clip(drift / deviation, -4.0, 4.0)[:, :, None]
    volatility = np.full(drift.shape, VOLATILITY)
    return Market(market_of(returns, volatility, seen=seen, step_s=STEP_S, seed=seed), drift, deviation, persistence)


def free_steering(**changes: float) -> PolicyConfig:
    """A steering that leaves the optimum alone: no penalties beyond risk and true costs, no limits in the way."""
    plain = replace(
        static_config(from_unix(0), NO_LIMITS), turnover_penalty=1.0, drawdown_penalty=0.0, target_volatility=0.4,
        max_exposure=1.0, max_position=0.5, daily_loss_limit=1.0, max_drawdown=1.0, risk_aversion=1.0,
    )  # fmt: skip
    return replace(plain, **changes)  # type: ignore[arg-type]


def training_terms(fee_bps: Range = (0.0, 60.0), delays_s: tuple[int, ...] = (0,)) -> Terms:
    """Risk aversion and costs at random, the rest as in ``free_steering``; no band, no rate limit."""
    free = free_steering()
    draws = {name: (getattr(free, name),) * 2 for name in STEERING_DRAWS}
    draws["risk_aversion"] = STEERING_DRAWS["risk_aversion"]
    return FeeTerms(
        steering_draws=draws, delays_s=delays_s, no_trade_band=0.0, max_step=1.0, reach=1.0, fee_bps=fee_bps
    )


def full_weight(steering: PolicyConfig) -> float:
    """Of the one instrument: policy.decision_kernel.full_weight."""
    return steering.target_volatility / VOLATILITY / steering.risk_aversion


def aversion(steering: PolicyConfig) -> float:
    """Relative risk aversion λ."""
    return steering.risk_aversion / steering.target_volatility


def grid(
    steering: PolicyConfig, aversions: Sequence[float] = RISK_AVERSIONS, costs_bps: Sequence[float] = COSTS_BPS
) -> list[Cell]:
    return [
        Cell(replace(steering, risk_aversion=risk), Costs(bps, 0.0, 0.0)) for risk, bps in product(aversions, costs_bps)
    ]


def optimum_of(market: Market, cell: Cell) -> Optimum:
    steering = cell.steering
    most = min(full_weight(steering), steering.max_position)  # structure: never more than the target risk
    return _solved(market.persistence, market.deviation, aversion(steering), cell.costs.fee_bps * 1e-4, most)


@cache
def _solved(persistence: float, deviation: float, risk: float, cost: float, most: float) -> Optimum:
    values, chain = (
        autoregressive(persistence, deviation) if persistence < 1.0 else redrawn(1.0 - 1.0 / STAYS, deviation)
    )
    return solve(values, chain, risk, BAR_VOLATILITY, cost, most)


def optimal_act(market: Market, cells: Sequence[Cell]) -> BatchAct:
    """The optima of the cells as one policy of the environment: it says the share of a full position that it wants."""
    optima, full = [optimum_of(market, cell) for cell in cells], [full_weight(cell.steering) for cell in cells]

    def act(observation: Rows) -> FloatArray:
        drift, own = (observation[:, 0, column].astype(np.float64).reshape(len(cells), -1) for column in (0, OWN_SHARE))
        shares = [
            optimum.weight(drift[c] * market.deviation, own[c] * full[c]) / full[c] for c, optimum in enumerate(optima)
        ]
        return np.concatenate(shares)[:, None]

    return act


@dataclass(frozen=True, slots=True)
class Judged:
    """One cell; ``value`` and ``optimal``: utility a step; regret = 1 − value ÷ optimal."""

    cell: Cell
    value: float
    optimal: float

    @property
    def regret(self) -> float:
        return 1.0 - self.value / self.optimal


def judge(act: BatchAct, market: Market, cells: Sequence[Cell], starts: int = STARTS) -> list[Judged]:
    """The policy at each cell, beside that cell's optimum, on the same stretches of a market."""
    steps = (len(market.drift) - 1) // starts
    begins = [k * steps for k in range(starts)]
    runs = [run_cells(market.data, one, training_terms(), cells, begins, steps)
            for one in (act, optimal_act(market, cells))]  # fmt: skip
    return [Judged(cell, *(utility_of(run, market, cell, c) for run in runs)) for c, cell in enumerate(cells)]


def utility_of(run: CellRuns, market: Market, cell: Cell, c: int) -> float:
    return utility(
        run.weights[:, c, :, 0], run.traded[:, c], market.drift[run.moments, 0], aversion(cell.steering),
        BAR_VOLATILITY, cell.costs.fee_bps * 1e-4,
    )  # fmt: skip
