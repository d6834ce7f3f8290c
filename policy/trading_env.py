"""The portfolio environment: one step is one decision interval, on the path and the kernel of live trading."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from policy.book import HistoryKeeper, make_book
from policy.decision_path import Circumstances, Decision, decide
from policy.execution.plan import TradingRules
from policy.inputs import Market
from policy.observation import View, observe
from policy.risk.context import NO_LIMITS
from policy.signals import SECONDS_A_YEAR
from policy.simulator import BarGrid, Costs, Simulator
from policy.strategies import trend_vol_target
from shared.clock import to_unix
from shared.rows import POLICY_CONFIG_BOUNDS, FloatArray, PolicyConfig

CAPITAL = 10_000.0
Observation = NDArray[np.float32]

# What training draws each field from, at random for each episode, so that steering is in distribution.
CONFIG_DRAWS = POLICY_CONFIG_BOUNDS | {
    "max_exposure": (0.2, 1.0),
    "max_position": (0.1, 0.5),
    "daily_loss_limit": (0.02, 0.2),
    "max_drawdown": (0.1, 0.5),
    "target_volatility": (0.1, 0.8),
}


@dataclass(frozen=True, slots=True)
class TrainingData:
    """Decision times with what was known at each, and the bars between them."""

    times: Sequence[datetime]
    markets: Sequence[Market]
    grid: BarGrid
    rules: TradingRules
    costs: Costs
    delay_s: int
    step_s: int

    @property
    def usable(self) -> list[bool]:
        """Which decision times have a complete view."""
        return [m.embeddings is not None and m.states is not None for m in self.markets]

    def part(self, first: int, last: int) -> TrainingData:
        return replace(self, times=self.times[first:last], markets=self.markets[first:last])


@dataclass(frozen=True, slots=True)
class RewardScale:
    """With all penalties at zero and scale 1 the rewards of an episode sum to its log return."""

    penalties: float = 1.0
    per_target_volatility: bool = True


class PortfolioEnv(gymnasium.Env[Observation, Observation]):
    """Observation: policy.observation. Action: Box[-1, 1]^N, the residual over trend × volatility target.

    Reward: log return net of all costs, less half the risk aversion times the portfolio's expected variance,
    less turnover and drawdown penalties; divided by the target volatility of an interval, so that every
    steering counts the same.
    """

    metadata: dict[str, Any] = {}  # noqa: RUF012  (gymnasium's own declaration)

    def __init__(
        self,
        data: TrainingData,
        episode_steps: int = 240,
        config: PolicyConfig | None = None,
        reward: RewardScale | None = None,
    ) -> None:
        if len(data.times) < 3:
            raise ValueError(f"{len(data.times)} decision times are too few for an episode; need at least 3")
        self._data, self._fixed_config = data, config
        self._episode_steps = min(episode_steps, len(data.times) - 2)
        self._reward = reward or RewardScale()
        self._simulator = Simulator(data.grid, data.rules, data.costs, data.delay_s, data.step_s, CAPITAL)
        self._usable = data.usable
        starts = [i for i in range(len(data.times) - self._episode_steps - 1) if self._usable[i]]
        if not starts:
            raise ValueError("no decision time in the span has embeddings and market state; run both jobs first")
        self._starts = starts
        n = data.grid.open.shape[1]
        self._view = self._view_of_start(starts[0])
        size = len(self._observe())
        self.observation_space = gymnasium.spaces.Box(-5.0, 5.0, (size,), np.float32)
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (n,), np.float32)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        super().reset(seed=seed)
        start = (options or {}).get("start")
        index = self._starts[int(self.np_random.integers(len(self._starts)))] if start is None else int(start)
        if not self._usable[index]:
            raise ValueError(f"{self._data.times[index]} has no embeddings or no market state: nothing to observe")
        self._view = self._view_of_start(index)
        return self._observe(), {}

    def step(self, action: Observation) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        before = self._view.book
        decision = self._decide(action)
        self._simulator.place(decision.plan.quantity, self._data.times[self._index])
        traded, fees = self._simulator.traded, self._simulator.fees
        index = self._index + 1
        while index < self._end and not self._usable[index]:
            index += 1
        self._move_to(index)
        book = self._view.book
        reward = self._step_reward(before.equity, decision.allowed, self._simulator.traded - traded, before.peak_equity)
        info = {
            "equity": book.equity,
            "fees": self._simulator.fees - fees,
            "log_return": self._log_return(before.equity),
        }
        ruined = book.equity <= 0.01 * CAPITAL
        return self._observe(), reward, ruined, index >= self._end, info

    def _view_of_start(self, index: int) -> View:
        self._config = self._fixed_config or self._draw_config(index)
        self._end = min(index + self._episode_steps, len(self._data.times) - 1)
        self._history = HistoryKeeper(CAPITAL)
        self._simulator.reset(self._data.grid.bars_closed_by(to_unix(self._data.times[index])))
        self._index = index
        return self._look()

    def _move_to(self, index: int) -> None:
        self._history.record(self._data.times[self._index], self._view.book.equity)
        self._index = index
        self._simulator.advance_to(self._data.times[index])
        self._view = self._look()

    def _look(self) -> View:
        market, as_of = self._data.markets[self._index], self._data.times[self._index]
        book = make_book(
            as_of, self._simulator.cash, self._simulator.held.copy(), market.prices, self._history.before(as_of)
        )
        return replace(market.view(book), config=self._config)

    def _observe(self) -> Observation:
        if not self._view.complete:  # only the last moment of an episode can be: it is never acted upon
            return np.zeros(self.observation_space.shape or (), np.float32)
        return observe(self._view, trend_vol_target.wanted_weights(self._view))

    def _decide(self, action: Observation) -> Decision:
        market = self._data.markets[self._index]
        circumstances = Circumstances(
            operator=NO_LIMITS,
            rules=self._data.rules,
            in_flight=self._simulator.in_flight,
            tradable=market.tradable,
            wallet_paused=False,
            doubts=market.doubts,
        )
        return decide(self._view, lambda _: np.asarray(action, dtype=np.float64), circumstances)

    def _log_return(self, equity_before: float) -> float:
        return math.log(max(self._view.book.equity, 1e-9) / equity_before)

    def _step_reward(self, equity: float, allowed: FloatArray, traded: float, peak: float) -> float:
        config, interval = self._config, self._data.step_s / SECONDS_A_YEAR
        volatilities = np.array([s.volatility for s in self._view.signals])
        variance = float(((allowed * volatilities).sum()) ** 2) * interval  # crypto falls together: correlation 1
        deeper = max(0.0, self._drawdown(peak) - max(0.0, 1 - equity / peak))
        penalty = (
            0.5 * config.risk_aversion * variance
            + config.turnover_penalty * 1e-4 * traded / equity
            + 0.1 * config.drawdown_penalty * deeper
        )
        scale = config.target_volatility * math.sqrt(interval) if self._reward.per_target_volatility else 1.0
        return (self._log_return(equity) - self._reward.penalties * penalty) / scale

    def _drawdown(self, peak: float) -> float:
        return max(0.0, 1 - self._view.book.equity / peak)

    def _draw_config(self, index: int) -> PolicyConfig:
        rng = self.np_random
        drawn = {field: float(rng.uniform(low, high)) for field, (low, high) in CONFIG_DRAWS.items()}
        base = self._data.markets[index].config
        return replace(base, pause=False, strategy_weights={"drl": 1.0}, **drawn)  # type: ignore[arg-type]
