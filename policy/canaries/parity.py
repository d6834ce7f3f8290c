"""Environment and backtest are the same thing: random paths through both, compared to the bit.

One side is the environment's own steps, compiled, and on some of the paths their source as plain Python; the other is
what a backtest does: ``decide`` on a view of the book, and a Simulator for the fills. Costs, delays, steering, gaps,
lots and what the policy says are random; nothing is approximately equal.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from policy import compiled_path, env_kernel
from policy.book import HistoryKeeper, make_book
from policy.canaries.markets import market_of
from policy.decision_kernel import DAY_S, OBSERVATION_SIZE, Bools
from policy.decision_path import Circumstances, decide
from policy.execution.plan import TradingRules
from policy.inputs import static_config
from policy.observation import Market, View, steering_of
from policy.risk.context import NO_LIMITS, OperatorLimits, RiskParameters
from policy.risk.history import CloseHistory, PortfolioHistory
from policy.simulator import FILL_KINDS, Costs, Simulator
from policy.strategies.residual import Residual
from policy.trading_env import STEERING_DRAWS, BookBatch, Terms
from policy.training_data import TrainingData
from shared.clock import from_unix
from shared.rows import FloatArray, PolicyConfig
from shared.simulation.kernel import FILL_COLUMNS

STEPS = 24
PLAIN_EVERY = 10  # of the paths, one is run as plain Python too: a hundred times slower
DELAYS_S = (0, 60, 900, 3600, 5000)


@dataclass(frozen=True, slots=True)
class Path:
    """One random world, and what a policy says in it."""

    data: TrainingData
    steering: PolicyConfig
    terms: Terms
    action: FloatArray  # [T, N]
    agreement: FloatArray


@dataclass(slots=True)
class Trace:
    """What happened: an entry for each decision, the fills, and the cash at the end."""

    observation: list[Any]
    allowed: list[Any]
    quantity: list[Any]
    equity: list[float]
    fills: list[tuple[Any, ...]]
    cash: float

    def difference(self, other: Trace) -> str:
        """The first thing that differs in a bit; '' where nothing does."""
        for name in ("equity", "observation", "allowed", "quantity"):
            pairs = zip(getattr(self, name), getattr(other, name), strict=True)
            for step, (one, two) in enumerate(pairs):
                if not np.array_equal(one, two, equal_nan=True):
                    return f"{name} of decision {step}: {one} and {two}"
        if self.fills != other.fills:
            return f"fills: {len(self.fills)} and {len(other.fills)}, first {_first(self.fills, other.fills)}"
        return "" if self.cash == other.cash else f"cash at the end: {self.cash!r} and {other.cash!r}"


def _first(ours: list[Any], theirs: list[Any]) -> str:
    pairs = [pair for pair in zip(ours, theirs, strict=False) if pair[0] != pair[1]]
    return f"{pairs[0][0]} and {pairs[0][1]}" if pairs else "where one ends"


def random_path(seed: int, steps: int = STEPS, step_s: int = 3600) -> Path:
    """A volatile market of 1 to 3 instruments and 1 to 6 bars a decision, some of them missing, with rough lots."""
    rng = np.random.default_rng(seed)
    n, bars = int(rng.integers(1, 4)), int(rng.choice([1, 4, 6]))
    shape, whole = (steps, n), (steps * bars, n)
    data = market_of(
        rng.normal(0.0, 0.01, whole), rng.uniform(0.2, 2.0, shape), rng.uniform(-1.0, 1.0, shape),
        rng.normal(size=(*shape, 64)), bars, step_s, wiggle=0.002, seed=seed,
    )  # fmt: skip
    tradable, complete, gone = rng.random(shape) > 0.04, rng.random(shape) > 0.1, rng.random(whole) < 0.05
    fields = ("open", "high", "low", "close", "volume")
    holed: dict[str, Any] = {name: np.where(gone, np.nan, getattr(data.grid, name)) for name in fields}
    grid = replace(data.grid, **holed)
    price, last_there = _newest_closes(grid.close, data.price[0], bars)
    tradable &= last_there
    tradable[0] = complete[0] = True
    rules = TradingRules(
        rng.choice([0.01, 1e-4], n), rng.choice([1e-8, 0.001, 0.5], n), rng.choice([0.0, 10.0], n), 0.1, float("inf")
    )
    data = replace(
        data, grid=grid, price=price, tradable=tradable, complete=complete & tradable,
        ood=rng.uniform(0.5, 1.0, shape), rules=rules,
    )  # fmt: skip
    drawn: dict[str, Any] = {name: rng.uniform(low, high) for name, (low, high) in STEERING_DRAWS.items()}
    steering = replace(static_config(from_unix(0), NO_LIMITS), strategy_weights={"drl": 1.0}, **drawn)
    terms = Terms(
        steering=steering, costs=Costs(rng.uniform(0, 80), rng.uniform(0, 20), rng.uniform(0, 2)),
        delays_s=(int(rng.choice(DELAYS_S)),), episode_steps=steps - 1, no_trade_band=rules.no_trade_band,
        reach=float(rng.uniform(0.1, 1.0)), max_step=float(rng.uniform(0.1, 1.0)), rules=_random_rules(rng),
    )  # fmt: skip
    return Path(data, steering, terms, rng.uniform(-1.0, 1.0, shape), rng.uniform(0.3, 1.0, shape))


def _random_rules(rng: np.random.Generator) -> RiskParameters:
    """Every rule on in some paths, tight enough to cut; what only a wallet has is off."""
    return RiskParameters(
        max_leverage=rng.uniform(0.5, 1.5), max_heat=rng.uniform(0.02, 0.2), atr_multiple=rng.choice([0.0, 3.0]),
        trade_risk=rng.choice([1.0, 0.05]), kelly_win_probability=rng.choice([0.0, 0.7]), kelly_payoff=2.0,
        max_correlated_exposure=rng.choice([1.0, 0.4]), max_concentration=rng.choice([1.0, 0.2]),
        max_value_at_risk=rng.uniform(0.01, 0.1), max_cvar=rng.uniform(0.02, 0.15),
        ladder_from=rng.choice([1.0, 0.2]),
    )  # fmt: skip


def _newest_closes(close: FloatArray, first: FloatArray, bars: int) -> tuple[FloatArray, Bools]:
    """Of ``close`` [B, N] at each decision time, ``first`` at the first one; and whether the newest bar is there."""
    before = np.vstack([first, close[:-1]])
    newest = np.maximum.accumulate(np.where(np.isnan(before), 0, np.arange(len(before))[:, None]), axis=0)
    return np.take_along_axis(before, newest, axis=0)[::bars], ~np.isnan(before[::bars])


def by_environment(path: Path, plain: bool = False) -> Trace:
    """The environment's own steps; ``plain``: the source that is otherwise compiled."""
    code = env_kernel if plain else compiled_path
    batch = BookBatch(path.data, 1, path.terms, 0, resets=False)
    data, draws, books, scratch = batch.data, batch.draws, batch.books, batch.scratch
    trace, done, n = Trace([], [], [], [], [], 0.0), False, path.action.shape[1]
    with np.errstate(over="ignore"):  # the generator's words wrap around
        code.reset_book(data, draws, books, 0, 0, scratch)
        while not done:
            t, fills = books.moment[0], np.zeros((4 * n, FILL_COLUMNS))
            code.observe_one(data, books, 0, scratch, batch.observation[0])
            scratch.action[:], scratch.agreement[:] = path.action[t], path.agreement[t]
            trace.equity.append(float(books.equity[0]))
            trace.observation.append(batch.observation[0].copy())
            _, done, _ = code.step_book(data, draws, books, 0, scratch, scratch.no_equity, fills)
            trace.allowed.append(scratch.wanted.copy())
            trace.quantity.append(scratch.quantity.copy())
            trace.fills += [_fill(path.data, row) for row in fills[fills[:, 2] != 0.0].tolist()]
    trace.cash = float(books.cash[0])
    return trace


def _fill(data: TrainingData, row: list[float]) -> tuple[Any, ...]:
    """(opening time of its bar, instrument, quantity, price, cost, fee, kind)"""
    bar, n, quantity, price, cost, fee, kind = row
    return data.grid.start + int(bar) * data.grid.base_s, int(n), quantity, price, cost, fee, FILL_KINDS[int(kind)]


def by_backtest(path: Path) -> Trace:
    """``decide`` and a Simulator, as policy.laboratory trades the past."""
    data, terms = path.data, path.terms
    assert terms.costs is not None
    simulator = Simulator(data.grid, data.rules, terms.costs, terms.delays_s[0], data.step_s, terms.capital)
    history, trace = HistoryKeeper(terms.capital), Trace([], [], [], [], [], 0.0)
    cost = (terms.costs.fee_bps + terms.costs.slippage_bps) * 1e-4
    steering = steering_of(path.steering, terms.no_trade_band)
    limits = replace(NO_LIMITS, max_step=terms.max_step, rules=terms.rules)
    past = CloseHistory(data.price, max(DAY_S // data.step_s, 1))
    for t in range(len(data) - 1):
        as_of, market = from_unix(int(data.times[t])), _market(path, t, past)
        simulator.advance_to(as_of)
        book = make_book(as_of, simulator.cash, simulator.held.copy(), market.prices, history.before(as_of))
        seen: list[Any] = []
        decision = decide(
            View(market, book, cost, steering), _said(path, t, seen), _circumstances(market, simulator, data, limits)
        )
        simulator.place(decision.plan.quantity, as_of, market.volatility)
        history.record(as_of, book.equity)
        trace.equity.append(book.equity)
        trace.observation.append(seen[0] if seen else np.zeros((len(market.prices), OBSERVATION_SIZE)))
        trace.allowed.append(decision.allowed)
        trace.quantity.append(decision.plan.quantity)
    simulator.advance_to(from_unix(int(data.times[-1])))
    simulator.close_out()
    trace.fills = [
        (fill.filled_at, fill.instrument, fill.quantity, fill.price, fill.cost, fill.fee, fill.kind)
        for fill in simulator.fills
    ]
    trace.cash = simulator.cash
    return trace


def _market(path: Path, t: int, past: CloseHistory) -> Market:
    data = path.data
    return Market(
        prices=data.price[t], trend=data.trend[t], volatility=data.volatility[t], ood=data.ood[t], block=data.block[t],
        complete=data.complete[t], tradable=data.tradable[t],
        doubts=tuple("" if whole else "no embedding" for whole in data.complete[t]), states=None, config=path.steering,
        history=PortfolioHistory(past, t),
    )  # fmt: skip


def _said(path: Path, t: int, seen: list[Any]) -> Any:
    def act(observation: Any) -> Residual:
        seen.append(observation.copy())
        return Residual(path.action[t], path.agreement[t], path.terms.reach)

    return act


def _circumstances(market: Market, simulator: Simulator, data: TrainingData, limits: OperatorLimits) -> Circumstances:
    return Circumstances(limits, data.rules, simulator.in_flight, False, market.doubts)


def differences(seeds: range) -> Iterator[str]:
    """What differs, a line for each path on which anything does."""
    for seed in seeds:
        path = random_path(seed)
        environment = by_environment(path)
        sides = {"backtest": by_backtest(path)}
        if seed % PLAIN_EVERY == 0:
            sides["plain Python"] = by_environment(path, plain=True)
        for name, trace in sides.items():
            if found := environment.difference(trace):
                yield f"path {seed}, environment and {name}: {found}"
