"""The environment: gymnasium's rules, the reward's sum, the same bits compiled and plain, and its own randomness."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from hypothesis import given, settings
from hypothesis import strategies as st

from policy import env_kernel
from policy.book_run import run_book
from policy.canaries.markets import market_of
from policy.env_state import FEE
from policy.observation import CONFIG_FIELDS, observation_names
from policy.simulator import Costs
from policy.strategies.residual import Residual
from policy.trading_env import STEERING_DRAWS, BookBatch, PortfolioEnv, PortfolioVecEnv, Terms
from policy.training_data import TrainingData
from tests.policy.synthetic import make_config

COSTS = Costs(40.0, 5.0, 1.0)


def market(steps: int = 300, n: int = 3, bars_a_step: int = 4, seed: int = 0) -> TrainingData:
    rng = np.random.default_rng(seed)
    returns = rng.normal(0.0, 0.006, (steps * bars_a_step, n))
    trend, volatility = rng.uniform(-1, 1, (steps, n)), rng.uniform(0.3, 1.5, (steps, n))
    return market_of(returns, volatility, trend, rng.normal(size=(steps, n, 64)), bars_a_step, wiggle=0.001, seed=seed)


def holed(data: TrainingData, seed: int = 1) -> TrainingData:
    """With moments at which an instrument is not known, or has no candle; and bars that are missing."""
    rng = np.random.default_rng(seed)
    complete, tradable = rng.random(data.complete.shape) > 0.1, rng.random(data.complete.shape) > 0.05
    gone = rng.random(data.grid.open.shape) < 0.05
    grid = replace(data.grid, **{k: np.where(gone, np.nan, getattr(data.grid, k)) for k in ("open", "high", "low")})
    return replace(data, complete=complete & tradable, tradable=tradable, grid=grid)


def actions(seed: int) -> Any:
    rng = np.random.default_rng(seed)
    return lambda observation: Residual(
        rng.uniform(-1, 1, len(observation)), rng.uniform(0.5, 1.0, len(observation)), 0.5
    )


TERMS = Terms(steering=make_config(max_exposure=0.9), costs=COSTS, delays_s=(120,))


def test_gymnasium_finds_nothing_to_complain_about() -> None:
    check_env(PortfolioEnv(market()), skip_render_check=True)


def test_stable_baselines_trains_on_it() -> None:
    from stable_baselines3 import PPO

    env = PortfolioVecEnv(market(), 8, Terms(episode_steps=20), 0)
    model = PPO("MlpPolicy", env, n_steps=16, batch_size=32, n_epochs=1, device="cpu", seed=0)
    assert model.learn(256).num_timesteps == 256


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 1000), fee=st.floats(0, 100), delay=st.sampled_from([0, 120, 3600]))
def test_rewards_sum_to_the_log_of_equity(seed: int, fee: float, delay: int) -> None:
    terms = replace(TERMS, costs=Costs(fee, 5.0, 1.0), delays_s=(delay,), penalties=0.0, scaled=False)
    run = run_book(holed(market(seed=seed)), actions(seed), terms)
    assert run.rewards.sum() == pytest.approx(np.log(run.equity[-1] / run.equity[0]), abs=1e-9)
    assert run.fills[:, 0].size > 20


def test_a_position_open_at_the_end_is_closed_and_charged() -> None:
    terms = replace(TERMS, costs=Costs(10.0, 0.0, 0.0), steering=make_config(daily_loss_limit=0.2, max_drawdown=0.5))
    run = run_book(market(), lambda o: Residual(np.ones(len(o)), np.ones(len(o)), 0.5), terms)
    bought = run.fills[run.fills[:, 2] > 0, 2].sum()
    sold = -run.fills[run.fills[:, 2] < 0, 2].sum()
    assert bought == pytest.approx(sold, abs=1e-6)
    assert run.fills[-1, 6] == 3  # closed out
    assert run.fees == pytest.approx(0.001 * run.traded, rel=1e-6)


def test_an_action_of_zero_is_the_baseline() -> None:
    data = market()
    zero = run_book(data, lambda o: Residual(np.zeros(len(o)), np.ones(len(o)), 0.5), TERMS)
    assert np.array_equal(zero.equity, run_book(data, None, TERMS).equity)
    assert not np.array_equal(zero.equity, run_book(data, actions(0), TERMS).equity)


@pytest.mark.parametrize("seed", range(3))
def test_compiled_and_plain_give_the_same_bits(seed: int) -> None:
    data = holed(market(steps=60, seed=seed), seed)
    terms = Terms(episode_steps=25, slots=2, jump_steps=10, switch=0.2, random_book=True)
    compiled, plain = BookBatch(data, 3, terms, seed), BookBatch(data, 3, terms, seed)
    rng = np.random.default_rng(seed)
    with np.errstate(over="ignore"):
        compiled.reset()
        env_kernel.reset_books(plain.data, plain.draws, plain.books, plain.scratch, -1, plain.observation)
        for _ in range(40):
            action = rng.uniform(-1.2, 1.2, (3, 2)).astype(np.float32)
            compiled.step(action)
            env_kernel.step_books(
                plain.data, plain.draws, plain.books, plain.scratch, action, plain.observation,
                plain.final_observation, plain.reward, plain.done,
            )  # fmt: skip
            assert np.array_equal(compiled.observation, plain.observation)
            assert np.array_equal(compiled.reward, plain.reward)
            for name, one, other in zip(compiled.books._fields, compiled.books, plain.books, strict=True):
                assert np.array_equal(one, other, equal_nan=True), name


def test_a_batch_is_reproducible_and_resumes() -> None:
    data, terms = market(), Terms(episode_steps=30, slots=2, jump_steps=20, switch=0.05)
    action = np.full((5, 2), 0.3, np.float32)

    def run(batch: BookBatch, steps: int) -> list[Any]:
        return [batch.step(action)[1].copy() for _ in range(steps)]

    first, second = BookBatch(data, 5, terms, 3), BookBatch(data, 5, terms, 3)
    first.reset(), second.reset()
    whole = run(first, 80)
    half = run(second, 40)
    resumed = BookBatch(data, 5, terms, 99)
    resumed.restore(second.state())
    assert np.array_equal(whole, half + run(resumed, 40))
    other = BookBatch(data, 5, terms, 4)
    other.reset()
    assert not np.array_equal(whole, run(other, 80))


def test_a_jump_keeps_what_the_book_is_worth() -> None:
    data = market(n=2)
    batch = BookBatch(data, 16, Terms(jump_steps=1, costs=Costs(0, 0, 0), episode_steps=10_000), 0)
    batch.reset()
    action = np.ones((16, 2), np.float32)
    for _ in range(30):
        batch.step(action)
        b = batch.books
        marked = b.cash + (b.held * b.mark).sum(axis=1)
        assert marked == pytest.approx(b.equity, rel=1e-9)


def test_what_is_drawn_is_within_its_range_and_varied() -> None:
    batch = BookBatch(market(), 500, Terms(slots=2), 0)
    batch.reset()
    for k, (low, high) in enumerate(STEERING_DRAWS.values()):
        drawn = batch.books.steering[:, k]
        assert low <= drawn.min() < drawn.max() <= high
    assert 0 <= batch.books.costs[:, FEE].min() < 5
    assert set(np.unique(batch.books.delay)) == {0, 120, 3600}
    assert set(np.unique(batch.books.slot)) == {0, 1, 2}
    assert (batch.books.slot[:, 0] != batch.books.slot[:, 1]).all()


def test_nothing_is_random_where_steering_and_costs_are_given() -> None:
    data = market()
    assert np.array_equal(run_book(data, actions(1), TERMS).equity, run_book(data, actions(1), TERMS).equity)


def test_the_observation_shows_the_steering() -> None:
    names = observation_names()
    shown = {}
    for aversion in (1.0, 5.0):
        batch = BookBatch(market(), 1, replace(TERMS, steering=make_config(risk_aversion=aversion)), 0)
        shown[aversion] = batch.reset(5)[0, 0].copy()
    changed = {names[k] for k in np.flatnonzero(shown[1.0] != shown[5.0])}
    assert changed == {f"config.{CONFIG_FIELDS[0]}"}


def test_too_little_data_is_refused_with_its_reason() -> None:
    with pytest.raises(ValueError, match="too few"):
        BookBatch(market().part(0, 2), 1, TERMS, 0)
    blind = replace(market(), complete=np.zeros((300, 3), dtype=np.bool_))
    with pytest.raises(ValueError, match="run the encoder"):
        BookBatch(blind, 1, TERMS, 0)
