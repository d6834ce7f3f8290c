"""Null: markets in which nothing can be known. Whoever beats the baseline there beats it by luck, or by a leak.

Volatility clusters as in GARCH(1, 1) (Bollerslev, 1986); signs are drawn at random and the mean is taken out, so that
neither trend nor embedding says anything of the next return. Training, the choice on what was held back and the verdict
are those of an evaluation.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from policy.book_run import BookRun, run_book
from policy.canaries.markets import market_of
from policy.inputs import static_config
from policy.policy_network import act_of
from policy.risk.context import NO_LIMITS
from policy.simulator import Costs
from policy.strategies.residual import Residual
from policy.trading_env import Terms
from policy.training import train_seed
from policy.training_data import TrainingData
from policy.training_plan import TrainingPlan
from shared.clock import from_unix
from shared.performance.verdict import EARNS, judge, p_earns
from shared.rows import FloatArray

STEP_S = 4 * 3600
STEPS_A_DAY = 86_400 // STEP_S
TRAIN_DAYS, TEST_DAYS, INSTRUMENTS = 720, 540, 2
SEEN = 12  # embedding entries: the returns of the last steps, the rest is noise
ARCH, GARCH = 0.08, 0.90
MEAN_VOLATILITY = 0.6  # annualised
COSTS = Costs(fee_bps=40.0, slippage_bps=5.0, impact=0.0)
REACH = 0.5


@dataclass(frozen=True, slots=True)
class NullResult:
    """One market. ``word``: the verdict net of costs; ``earns``: P(net Sharpe > 0), since who trades less loses less
    than the baseline, and a promotion asks for both; ``gross_word``: the verdict before costs; ``gross``: the policy's
    return above the baseline's before costs, a year, and its standard error. Turnover (one way, ÷ mean equity,
    a year) and mean exposure of (policy, baseline). ``chosen``: what training kept after validation."""

    seed: int
    word: str
    earns: float
    gross_word: str
    gross: float
    gross_error: float
    chosen: str
    turnover: tuple[float, float]
    exposure: tuple[float, float]

    @property
    def promoted(self) -> bool:
        """As pipeline.promote would: with its residual, because it beats the baseline and earns something."""
        return self.word == "beats" and self.earns >= EARNS


def null_market(seed: int, steps: int) -> TrainingData:
    rng = np.random.default_rng([seed, 77])
    usual = MEAN_VOLATILITY**2 * STEP_S / (365 * 86_400)
    shape = (steps, INSTRUMENTS)
    simple, variance = np.empty(shape), np.full(INSTRUMENTS, usual)
    size = np.abs(rng.standard_t(5, shape) * np.sqrt(3.0 / 5.0))
    known = np.empty(shape)
    for t in range(steps):
        known[t] = variance
        simple[t] = np.sqrt(variance) * size[t]
        variance = usual * (1.0 - ARCH - GARCH) + ARCH * np.minimum(simple[t], 0.2) ** 2 + GARCH * variance
    simple = np.clip(simple, 0.0, 0.5) * rng.choice([-1.0, 1.0], shape)
    simple -= simple.mean(axis=0)
    returns = np.log1p(simple)
    seen = rng.normal(size=(*shape, SEEN))
    for lag in range(SEEN // 2):
        seen[lag + 1 :, :, lag] = np.clip(returns[: -lag - 1] / np.sqrt(known[: -lag - 1]), -4.0, 4.0)
    volatility = np.sqrt(known * 365 * 86_400 / STEP_S)
    return market_of(returns, volatility, _trend(returns), seen, step_s=STEP_S, seed=seed)


def _trend(returns: FloatArray) -> FloatArray:
    """[T, N] in [-1, 1], known before each return: a slow average of what came before, in its own deviations."""
    slow = 1.0 / (30 * STEPS_A_DAY)
    average, trend = np.zeros(returns.shape[1]), np.empty(returns.shape)
    usual = MEAN_VOLATILITY * np.sqrt(STEP_S / (365 * 86_400)) * np.sqrt(slow / 2.0)
    for t in range(len(returns)):
        trend[t] = np.clip(average / usual / 2.0, -1.0, 1.0)
        average = (1.0 - slow) * average + slow * returns[t]
    return trend


def null_plan(pathwise_steps: int, ppo_steps: int) -> TrainingPlan:
    return TrainingPlan(
        pathwise_steps, ppo_steps, reach=REACH, books=128, slots=INSTRUMENTS,
        terms=Terms(delays_s=(0,)), steering=static_config(from_unix(0), NO_LIMITS), costs=COSTS,
    )  # fmt: skip


def judge_null(
    seed: int, pathwise_steps: int, ppo_steps: int, train_days: int = TRAIN_DAYS, test_days: int = TEST_DAYS
) -> NullResult:
    """Trains on the market's first days and judges what comes out on the rest, against the baseline."""
    cut, end = train_days * STEPS_A_DAY, (train_days + test_days) * STEPS_A_DAY + 1
    data, plan = null_market(seed, end), null_plan(pathwise_steps, ppo_steps)
    trained = train_seed(data.part(0, cut), plan, seed)
    says, unseen = act_of(trained.weights), data.part(cut, end)
    net_of, free = plan.validation_terms(), replace(plan.validation_terms(), costs=Costs(0.0, 0.0, 0.0))

    def act(rows: NDArray[np.float32]) -> Residual:
        return Residual(says(rows), np.ones(len(rows)), plan.reach)

    ours, theirs = (run_book(unseen, one, net_of) for one in (act, None))
    before, baseline = (_daily(run_book(unseen, one, free)) for one in (act, None))
    active = before - baseline
    net = _daily(ours)
    words = [judge(*pair, replicates=500).word for pair in ((net, _daily(theirs)), (before, baseline))]
    years = test_days / 365.0
    turnover = [run.traded / float(run.equity.mean()) / years for run in (ours, theirs)]
    exposure = [float(run.weights.sum(axis=1).mean()) for run in (ours, theirs)]
    return NullResult(
        seed, words[0], p_earns(net, replicates=500), words[1], float(active.sum()) / years,
        float(active.std() * np.sqrt(len(active))) / years, str(trained.metrics["chosen"]),
        (turnover[0], turnover[1]), (exposure[0], exposure[1]),
    )  # fmt: skip


def _daily(run: BookRun) -> FloatArray:
    """Net returns of whole days."""
    closes = run.equity[::STEPS_A_DAY]
    daily: FloatArray = closes[1:] / closes[:-1] - 1.0
    return daily
