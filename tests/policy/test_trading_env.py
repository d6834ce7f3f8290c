"""The portfolio environment: a proper gymnasium citizen whose rewards are what the book earned."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from hypothesis import given, settings
from hypothesis import strategies as st

import policy.trading_env
from policy.decision_path import Decision, decide
from policy.inputs import Market
from policy.observation import HORIZONS_S, View, observation_names
from policy.trading_env import CAPITAL, CONFIG_DRAWS, PortfolioEnv, RewardScale, TrainingData
from shared.rows import POLICY_CONFIG_BOUNDS
from tests.policy.synthetic import make_config, training_data

LOG_RETURNS = RewardScale(penalties=0.0, per_target_volatility=False)
NAMES = observation_names(["A", "B"])
Step = tuple[Any, float, bool, bool, dict[str, Any]]


def walk(env: PortfolioEnv, seed: int, start: int | None = None, actions: int | None = None) -> list[Step]:
    """One episode of random actions from its first step to its last."""
    rng, steps = np.random.default_rng(seed if actions is None else actions), []
    observation, _ = env.reset(seed=seed, options=None if start is None else {"start": start})
    steps.append((observation, 0.0, False, False, {}))
    while not (steps[-1][2] or steps[-1][3]):
        steps.append(env.step(rng.uniform(-1, 1, env.action_space.shape).astype(np.float32)))
    return steps


def test_gymnasiums_own_checker_finds_nothing() -> None:
    env = PortfolioEnv(training_data(), episode_steps=8)
    gymnasium.register("Sextant-v0", lambda: env)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(gymnasium.make("Sextant-v0", disable_env_checker=True).unwrapped, skip_render_check=True)


def test_the_spaces_are_those_of_the_schema() -> None:
    env = PortfolioEnv(training_data())
    assert env.observation_space.shape == (len(NAMES),)
    assert env.action_space.shape == (2,)


@given(st.integers(0, 1000), st.sampled_from([0.0, 40.0]), st.lists(st.integers(1, 38), max_size=6))
@settings(max_examples=25, deadline=None)
def test_plain_rewards_sum_to_the_log_return_of_the_episode(seed: int, fee_bps: float, blind: list[int]) -> None:
    env = PortfolioEnv(training_data(seed=seed % 3, fee_bps=fee_bps, blind=blind), episode_steps=20, reward=LOG_RETURNS)
    steps = walk(env, seed)
    total = sum(reward for _, reward, *_ in steps)
    assert total == pytest.approx(math.log(steps[-1][4]["equity"] / CAPITAL), abs=1e-9)
    assert total == pytest.approx(sum(info.get("log_return", 0.0) for *_, info in steps), abs=1e-9)


def test_rewards_are_net_of_fees() -> None:
    data = training_data()
    dear, free = (PortfolioEnv(replace(data, costs=replace(data.costs, fee_bps=fee)), 20, make_config(), LOG_RETURNS)
                  for fee in (40.0, 0.0))  # fmt: skip
    paid, unpaid = walk(dear, 1, start=0), walk(free, 1, start=0)
    assert sum(info.get("fees", 0.0) for *_, info in paid) > 10
    assert sum(info.get("fees", 0.0) for *_, info in unpaid) == 0
    assert paid[-1][4]["equity"] < unpaid[-1][4]["equity"]


@pytest.mark.parametrize("penalised", ["risk_aversion", "turnover_penalty", "drawdown_penalty"])
def test_each_penalty_costs_reward_and_changes_no_trade(penalised: str) -> None:
    """With risk aversion below 1 the policy's reach stays as it is: only the reward differs."""
    low, high = (0.5, 1.0) if penalised == "risk_aversion" else (0.0, 10.0)
    gentle, strict = (walk(PortfolioEnv(training_data(), 20, make_config(**{penalised: value})), 1, start=0)
                      for value in (low, high))  # fmt: skip
    assert [info.get("equity") for *_, info in gentle] == [info.get("equity") for *_, info in strict]
    rewards = np.array([[mild, harsh] for (_, mild, *_), (_, harsh, *_) in zip(gentle, strict, strict=True)])
    assert (rewards[:, 1] <= rewards[:, 0]).all()
    assert rewards[:, 1].sum() < rewards[:, 0].sum()


def test_an_episode_is_the_same_for_the_same_seed_and_another_for_another() -> None:
    env = PortfolioEnv(training_data(), episode_steps=10)

    def told(seed: int) -> list[Any]:
        return [(observation.tobytes(), reward, info) for observation, reward, _, _, info in walk(env, seed)]

    assert told(1) == told(1)
    assert told(1)[0] != told(2)[0]
    fresh = PortfolioEnv(training_data(), episode_steps=10)
    assert [o.tobytes() for o, *_ in walk(fresh, 1)] == [o for o, *_ in told(1)]


def test_each_episode_is_steered_anew_within_what_training_draws() -> None:
    env, drawn = PortfolioEnv(training_data(), episode_steps=10), []
    for seed in range(30):
        env.reset(seed=seed)
        drawn.append(env._view.config)
    for field, (low, high) in CONFIG_DRAWS.items():
        values = [getattr(config, field) for config in drawn]
        assert low <= min(values) < low + 0.3 * (high - low)
        assert high >= max(values) > high - 0.3 * (high - low)
        assert POLICY_CONFIG_BOUNDS[field][0] <= low < high <= POLICY_CONFIG_BOUNDS[field][1]
    assert not any(config.pause for config in drawn)


BLIND = (3, 4, 5, 9, 20, 38, 39)


def test_a_step_never_acts_on_an_incomplete_view(monkeypatch: pytest.MonkeyPatch) -> None:
    acted_on: list[View] = []

    def watched(view: View, *arguments: Any) -> Decision:
        acted_on.append(view)
        return decide(view, *arguments)

    monkeypatch.setattr(policy.trading_env, "decide", watched)
    for seed in range(30):
        walk(PortfolioEnv(training_data(blind=BLIND), episode_steps=12), seed)
    assert len(acted_on) > 200
    assert all(view.complete for view in acted_on)


def test_blind_hours_are_lived_through_and_not_decided_in() -> None:
    """Three blind hours after the first two: the third step ends where there is sight again."""
    data = training_data(blind=BLIND)
    env = PortfolioEnv(data, episode_steps=12, config=make_config())
    env.reset(seed=0, options={"start": 1})
    for hour in (2, 6, 7):
        env.step(np.ones(2, np.float32))
        assert env._view.prices.tolist() == data.markets[hour].prices.tolist()


def test_a_span_without_sight_is_refused() -> None:
    with pytest.raises(ValueError, match="no decision time in the span has embeddings and market state"):
        PortfolioEnv(training_data(hours=10, blind=range(10)), episode_steps=4)
    with pytest.raises(ValueError, match="2 decision times are too few"):
        PortfolioEnv(training_data().part(0, 2))


def observed(data: TrainingData, **config: Any) -> dict[str, float]:
    env = PortfolioEnv(data, episode_steps=8, config=make_config(**config))
    observation, _ = env.reset(seed=0, options={"start": 0})
    return dict(zip(NAMES, observation.tolist(), strict=True))


def changed_by(change: Callable[[Market], Market], **config: Any) -> set[str]:
    """The entries of the observation that differ after the change, without indices."""
    data = training_data()
    changed = replace(data, markets=[change(data.markets[0]), *data.markets[1:]])
    before, after = observed(data), observed(changed, **config)
    return {name for name in NAMES if before[name] != after[name]}


def swap_states(market: Market, horizon: int, field: str) -> Market:
    assert market.states is not None
    states = [replace(state, **{field: 0.987}) if h == horizon else state
              for h, state in zip(HORIZONS_S, market.states, strict=True)]  # fmt: skip
    return replace(market, states=(states[0], states[1]))


def test_without_its_embeddings_the_policy_sees_something_else() -> None:
    changed = changed_by(lambda m: replace(m, embeddings=np.zeros_like(m.embeddings)))
    assert changed == {f"embedding[{s}][{i}]" for s in "AB" for i in range(64)}


def test_without_its_novelty_the_policy_sees_something_else() -> None:
    assert changed_by(lambda m: replace(m, ood=np.ones(2))) == {"ood[A]", "ood[B]"}


@pytest.mark.parametrize(("n", "symbol"), [(0, "A"), (1, "B")])
def test_without_its_signals_the_policy_sees_something_else(n: int, symbol: str) -> None:
    def flatter(market: Market) -> Market:
        signals = [replace(s, trend=0.9, volatility=0.6) if i == n else s for i, s in enumerate(market.signals)]
        return replace(market, signals=tuple(signals))

    assert changed_by(flatter) == {f"{f}[{symbol}]" for f in ("trend", "log_volatility", "baseline_weight")}


@pytest.mark.parametrize("horizon", HORIZONS_S)
@pytest.mark.parametrize("field", ["p_down", "p_flat", "p_up", "p_vol_low", "p_vol_mid", "p_vol_high", "conviction"])
def test_without_its_market_state_the_policy_sees_something_else(horizon: int, field: str) -> None:
    assert changed_by(lambda m: swap_states(m, horizon, field)) == {f"{field}[{horizon}]"}


@pytest.mark.parametrize("field", POLICY_CONFIG_BOUNDS)
def test_without_its_steering_the_policy_sees_something_else(field: str) -> None:
    low, high = POLICY_CONFIG_BOUNDS[field]
    changed = changed_by(lambda m: m, **{field: low + 0.777 * (high - low)})
    assert f"config.{field}" in changed
    assert {name for name in changed if not name.startswith("baseline_weight")} == {f"config.{field}"}
    assert observed(training_data(), **{field: low})[f"config.{field}"] == 0.0
    assert observed(training_data(), **{field: high})[f"config.{field}"] == 1.0


def test_without_its_book_the_policy_sees_something_else() -> None:
    env, seen = PortfolioEnv(training_data(), episode_steps=8, config=make_config()), []
    for action in (-1.0, 1.0):
        env.reset(seed=0, options={"start": 0})
        seen.append(dict(zip(NAMES, env.step(np.full(2, action, np.float32))[0].tolist(), strict=True)))
    changed = {name for name in NAMES if seen[0][name] != seen[1][name]}
    assert {"weight[A]", "weight[B]", "book.cash_share"} <= changed
    assert changed <= {"weight[A]", "weight[B]", "book.cash_share", "book.drawdown", "book.day_return"}
