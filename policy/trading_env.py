"""The environment: many books stepped at once on the path and the kernel of live trading, by compiled code.

``BookBatch`` is the batch itself; ``PortfolioVecEnv`` shows it to Stable-Baselines3, ``PortfolioEnv`` is one book of
it for gymnasium. Observation: policy.observation, one row an instrument. Action: Box[-1, 1]^N, the residual over
trend × volatility target. Reward: policy.env_kernel.reward_of.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecEnv

from policy.compiled_path import reset_books, step_books
from policy.decision_kernel import DAY_S, MARKET_SIZE, OBSERVATION_SIZE
from policy.env_state import Books, Data, Draws, Scratch
from policy.observation import CONFIG_LOW, CONFIG_SPAN
from policy.risk.context import OFF, WORST_DAYS, RiskParameters
from policy.risk.history import CloseHistory, asks_correlations, asks_ranges, asks_tails
from policy.simulator import Costs
from policy.training_data import TrainingData
from shared.rows import PolicyConfig
from shared.simulation.kernel import FILL_COLUMNS, TOTALS, bar_years_sqrt

CAPITAL = 10_000.0
Range = tuple[float, float]
Observation = NDArray[np.float32]

# What training draws each field from, at random for each episode, so that steering is in distribution; the first two
# log-uniformly. Costs in basis points a side, impact as in shared.simulation.kernel.slippage_bps.
STEERING_DRAWS: dict[str, Range] = {
    "risk_aversion": (0.5, 10.0),
    "turnover_penalty": (0.25, 10.0),
    "drawdown_penalty": (0.0, 2.0),
    "target_volatility": (0.1, 0.8),
    "max_exposure": (0.3, 1.0),
    "max_position": (0.1, 0.5),
    "daily_loss_limit": (0.02, 0.2),
    "max_drawdown": (0.1, 0.5),
}
LOGARITHMIC = ("risk_aversion", "turnover_penalty", "target_volatility")
COST_DRAWS: tuple[Range, Range, Range] = ((0.0, 60.0), (1.0, 15.0), (0.0, 2.0))


@dataclass(frozen=True, slots=True)
class Terms:
    """How episodes are drawn. ``steering`` and ``costs`` None: at random (STEERING_DRAWS, COST_DRAWS).

    ``slots``: instruments a book trades, None for all; ``rules``: the operator's risk parameters. ``jump_steps``: mean
    length of the stationary bootstrap's blocks, 0 for none; ``switch``: a step's probability that the steering changes.
    With ``penalties`` 0 and not ``scaled`` the rewards of an episode sum to its log return. Never random, jumping or
    switching in evaluation."""

    episode_steps: int = 168
    slots: int | None = None
    steering: PolicyConfig | None = None
    costs: Costs | None = None
    delays_s: tuple[int, ...] = (0, 120, 3600)
    no_trade_band: float = 0.1
    max_step: float = 0.25
    rules: RiskParameters = OFF
    reach: float = 0.5
    jump_steps: int = 0
    switch: float = 0.0
    random_book: bool = False
    penalties: float = 1.0
    scaled: bool = True
    capital: float = CAPITAL
    steering_draws: dict[str, Range] = field(default_factory=lambda: dict(STEERING_DRAWS))

    def draws(self, slots: int, instruments: int, resets: bool = True) -> Draws:
        """As arrays; a fixed value is a range of no width."""
        ranges = self.steering_draws
        if self.steering is not None:
            ranges = {name: (getattr(self.steering, name),) * 2 for name in STEERING_DRAWS}
        fixed = self.costs and ((self.costs.fee_bps,) * 2, (self.costs.slippage_bps,) * 2, (self.costs.impact,) * 2)
        logarithmic = [name in LOGARITHMIC and low > 0.0 and low < high for name, (low, high) in ranges.items()]
        return Draws(
            steering=np.array([ranges[name] for name in STEERING_DRAWS], dtype=np.float64),
            steering_log=np.array(logarithmic),
            costs=np.array(fixed or COST_DRAWS, dtype=np.float64),
            delays=np.array(self.delays_s, dtype=np.int64),
            band=self.no_trade_band,
            max_step=self.max_step,
            rules=RiskParameters(*map(float, self.rules)),  # numba compiles anew for whole numbers
            max_order_notional=float("inf"),
            reach=self.reach,
            capital=self.capital,
            episode_steps=self.episode_steps,
            switch=self.switch,
            jump=1.0 / self.jump_steps if self.jump_steps else 0.0,
            random_book=self.random_book,
            random_slots=slots < instruments or self.slots is not None,
            penalties=self.penalties,
            scaled=self.scaled,
            resets=resets,
        )


def data_of(data: TrainingData, rules: RiskParameters = OFF) -> Data:
    """The arrays that the kernel runs on, of the past as much as ``rules`` ask for; ValueError where no episode can
    begin."""
    starts = np.flatnonzero(data.complete[:-1].any(axis=1))
    if not len(starts):
        raise ValueError(
            f"none of {len(data)} decision times has an instrument with embedding, market state and candles; "
            "run the encoder and the meta-controller over the span first"
        )
    grid, venue, past = data.grid, data.rules, CloseHistory(data.price, max(DAY_S // data.step_s, 1))
    nothing = np.zeros((1, len(data.symbols)))
    between = [past.correlations(row) for row in range(len(data))] if asks_correlations(rules) else nothing[:, :, None]
    c = np.ascontiguousarray
    return Data(
        c(data.times), c(data.price), c(data.trend), c(data.volatility), c(data.ood), c(data.block), c(data.complete),
        c(data.tradable), grid.open, grid.high, grid.low, grid.close, grid.volume, venue.tick, venue.lot,
        venue.min_notional, grid.start, grid.base_s, data.step_s, bar_years_sqrt(grid.base_s), starts.astype(np.int64),
        CONFIG_LOW, CONFIG_SPAN, past.daily if asks_tails(rules) else nothing,
        past.ranges if asks_ranges(rules) else nothing, past.tails if asks_tails(rules) else nothing,
        c(np.array(between)), past.stride,
    )  # fmt: skip


def empty_books(books: int, slots: int, seed: int) -> Books:
    """B books of N instruments that have not begun; book b draws from a stream of its own."""
    b, bn = books, (books, slots)

    def whole(shape: Any) -> NDArray[np.int64]:
        return np.zeros(shape, dtype=np.int64)

    random = np.random.SeedSequence(seed).generate_state(books, np.uint64).astype(np.uint64)
    return Books(
        random, whole(b), whole(b), whole(b), np.zeros(b), np.zeros(bn), np.zeros(bn), whole(bn), whole(bn),
        np.zeros(bn), np.zeros(bn), whole(bn), np.zeros(bn), np.zeros(bn), np.zeros((b, TOTALS)), np.zeros(b),
        np.zeros(b), np.zeros(b), np.zeros(b), whole(b), np.zeros((b, 9)), np.zeros((b, 3)), whole(b),
    )  # fmt: skip


def make_scratch(n: int, instruments: int) -> Scratch:
    numbers: dict[str, Any] = {name: np.zeros(n) for name in Scratch._fields[: Scratch._fields.index("reason")]}
    flags: dict[str, Any] = {
        name: np.zeros(n, dtype=np.bool_) for name in ("complete", "tradable", "in_flight", "doubtful", "stopped_out")
    }
    return Scratch(
        **numbers,
        **flags,
        reason=np.zeros(n, dtype=np.int64),
        since_fill_s=np.full(n, np.inf),
        symbol_caps=np.ones(n),
        correlation=np.full((n, n), np.nan),
        losses=np.zeros(WORST_DAYS),
        market=np.zeros((n, MARKET_SIZE), np.float32),
        shuffled=np.zeros(instruments, dtype=np.int64),
        no_equity=np.empty(0),
        no_fills=np.empty((0, FILL_COLUMNS)),
    )


class BookBatch:
    """B books of N instruments over one TrainingData. Arrays are reused: copy what is to be kept."""

    def __init__(self, data: TrainingData, books: int, terms: Terms, seed: int, resets: bool = True) -> None:
        instruments = data.price.shape[1]
        slots = min(terms.slots or instruments, instruments)
        if len(data) < 3:
            raise ValueError(f"{len(data)} decision times are too few for an episode; need at least 3")
        self.data, self.draws = data_of(data, terms.rules), terms.draws(slots, instruments, resets)
        self.books, self.scratch = empty_books(books, slots, seed), make_scratch(slots, instruments)
        shape = (books, slots, OBSERVATION_SIZE)
        self.observation, self.final_observation = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
        self.reward, self.done = np.zeros(books, np.float32), np.zeros(books, dtype=np.bool_)

    def reset(self, start: int = -1) -> Observation:
        """All books begin anew, at decision time ``start`` or each at a random one: what they see [B, N, D]."""
        reset_books(self.data, self.draws, self.books, self.scratch, start, self.observation)
        return self.observation

    def step(self, action: NDArray[np.float32]) -> tuple[Observation, NDArray[np.float32], NDArray[np.bool_]]:
        """``action`` [B, N] in [-1, 1]: what they see next [B, N, D], reward [B], done [B]."""
        step_books(
            self.data, self.draws, self.books, self.scratch, action, self.observation, self.final_observation,
            self.reward, self.done,
        )  # fmt: skip
        return self.observation, self.reward, self.done

    def state(self) -> dict[str, NDArray[Any]]:
        """All that a resumed batch needs to go on exactly so."""
        return {name: array.copy() for name, array in self.books._asdict().items()} | {
            "observation": self.observation.copy()
        }

    def restore(self, state: dict[str, NDArray[Any]]) -> None:
        for name, array in self.books._asdict().items():
            array[...] = state[name]
        self.observation[...] = state["observation"]


class PortfolioVecEnv(VecEnv):
    """The batch for Stable-Baselines3: observations flattened to [B, N·D]."""

    def __init__(self, data: TrainingData, books: int, terms: Terms, seed: int) -> None:
        self.batch = BookBatch(data, books, terms, seed)
        n = self.batch.observation.shape[1]
        super().__init__(
            books,
            gymnasium.spaces.Box(-5.0, 5.0, (n * OBSERVATION_SIZE,), np.float32),
            gymnasium.spaces.Box(-1.0, 1.0, (n,), np.float32),
        )
        self._action = np.zeros((books, n), np.float32)
        self._infos: list[dict[str, Any]] = [{} for _ in range(books)]
        self._told: list[int] = []

    def reset(self) -> Observation:
        return self.batch.reset().reshape(self.num_envs, -1).copy()

    def step_async(self, actions: NDArray[Any]) -> None:
        self._action = np.ascontiguousarray(actions, dtype=np.float32)

    def step_wait(self) -> Any:
        observation, reward, done = self.batch.step(self._action)
        for b in self._told:
            self._infos[b] = {}
        self._told = np.flatnonzero(done).tolist()
        for b in self._told:
            last = self.batch.final_observation[b].ravel().copy()
            self._infos[b] = {"terminal_observation": last, "TimeLimit.truncated": True}
        return observation.reshape(self.num_envs, -1).copy(), reward.copy(), done.copy(), self._infos

    def close(self) -> None:
        pass

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        return [getattr(self, attr_name, None) for _ in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        raise NotImplementedError("the books of a batch share their attributes; make another PortfolioVecEnv")

    def env_method(self, method_name: str, *args: Any, indices: Any = None, **kwargs: Any) -> list[Any]:
        raise NotImplementedError("a batch has no single environments to ask")

    def env_is_wrapped(self, wrapper_class: Any, indices: Any = None) -> list[bool]:
        return [False for _ in self._get_indices(indices)]


class PortfolioEnv(gymnasium.Env[Observation, Observation]):
    """One book of the batch, for everything that speaks gymnasium. Observation [N·D], flattened."""

    metadata: dict[str, Any] = {}  # noqa: RUF012  (gymnasium's own declaration)

    def __init__(self, data: TrainingData, terms: Terms | None = None) -> None:
        self._data, self._terms = data, terms or Terms()
        self.batch = BookBatch(data, 1, self._terms, 0, resets=False)
        n = self.batch.observation.shape[1]
        self.observation_space = gymnasium.spaces.Box(-5.0, 5.0, (n * OBSERVATION_SIZE,), np.float32)
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (n,), np.float32)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """``options["start"]``: the decision time to begin at, by its index; else a random one."""
        super().reset(seed=seed)
        if seed is not None:
            self.batch.books.random[:] = np.random.SeedSequence(seed).generate_state(1, np.uint64)
        observation = self.batch.reset(int((options or {}).get("start", -1)))
        return observation[0].ravel().copy(), {}

    def step(self, action: Observation) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        before = float(self.batch.books.equity[0])
        observation, reward, done = self.batch.step(np.asarray(action, dtype=np.float32)[None])
        equity = float(self.batch.books.equity[0])
        ruined = equity <= 0.01 * self._terms.capital
        info = {"equity": equity, "log_return": float(np.log(max(equity, 1e-9) / before))}
        return observation[0].ravel().copy(), float(reward[0]), ruined, bool(done[0]) and not ruined, info
