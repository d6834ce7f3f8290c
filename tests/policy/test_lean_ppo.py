"""The lean PPO: SB3's numbers, an episode's end by time included; deterministic; saved and loaded."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.logger import Logger

from policy.lean_ppo import LeanPPO
from policy.policy_network import InstrumentPolicy
from policy.trading_env import PortfolioVecEnv, Terms
from tests.policy.test_trading_env import market

POLICIES: dict[str, Any] = {"MlpPolicy": "MlpPolicy", "InstrumentPolicy": InstrumentPolicy}


def made(kind: type[PPO], policy: str = "MlpPolicy", **settings: Any) -> PPO:
    books = PortfolioVecEnv(market(80), 4, Terms(episode_steps=20), seed=5)
    given: dict[str, Any] = {"n_steps": 32, "batch_size": 32, "n_epochs": 3, "ent_coef": 0.01, "seed": 7} | settings
    model = kind(POLICIES[policy], books, policy_kwargs={"net_arch": [16, 16]}, device="cpu", **given)
    model.set_logger(Logger(None, []))
    return model


def rolled_out(model: PPO) -> Any:
    _, callback = model._setup_learn(128, None)
    callback.on_training_start({}, {})
    assert model.collect_rollouts(model.get_env(), callback, model.rollout_buffer, model.n_steps)  # type: ignore[arg-type]
    return model.rollout_buffer


def weights(model: PPO) -> np.ndarray[Any, Any]:
    return np.concatenate([p.detach().numpy().ravel() for p in model.policy.parameters()])


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("target_kl", [None, 1e-6])
def test_an_update_is_that_of_sb3(policy: str, target_kl: float | None) -> None:
    lean, plain = made(LeanPPO, policy, target_kl=target_kl), made(PPO, policy, target_kl=target_kl)
    before, buffer = weights(lean), rolled_out(lean)
    assert before.tolist() == weights(plain).tolist()
    plain.rollout_buffer = copy.deepcopy(buffer)
    for model in (lean, plain):
        np.random.seed(3)
        model.train()
    assert np.abs(weights(lean) - weights(plain)).max() < 1e-6
    assert np.abs(weights(lean) - before).max() > 1e-4
    assert lean._n_updates == plain._n_updates
    assert (lean._n_updates == 3) == (target_kl is None)


@pytest.mark.parametrize("policy", POLICIES)
def test_a_rollout_is_what_sb3_says_of_its_actions(policy: str) -> None:
    model = made(LeanPPO, policy)
    buffer = rolled_out(model)
    flat = [torch.from_numpy(array.reshape(-1, array.shape[-1])) for array in (buffer.observations, buffer.actions)]
    with torch.no_grad():
        values, log_probs, _ = model.policy.evaluate_actions(*flat)
    assert np.allclose(values.ravel(), buffer.values.ravel(), atol=1e-5)
    assert np.allclose(log_probs, buffer.log_probs.ravel(), atol=1e-4)
    assert np.std(buffer.actions) > 0.5  # noise of its own standard deviation


def test_an_episode_that_was_cut_off_goes_on_in_value() -> None:
    model, told = made(LeanPPO), []
    env = model.get_env()
    assert env is not None
    step_wait = env.step_wait

    def overheard() -> Any:
        observation, rewards, dones, infos = step_wait()
        told.append((rewards.copy(), dones.copy(), [info.get("terminal_observation") for info in infos]))
        return observation, rewards, dones, infos

    env.step_wait = overheard  # type: ignore[method-assign]
    buffer = rolled_out(model)
    ends = 0
    for t, (rewards, dones, last) in enumerate(told):
        for b in range(len(rewards)):
            expected = rewards[b]
            if dones[b]:
                with torch.no_grad():
                    value = model.policy.predict_values(torch.from_numpy(last[b])[None])
                expected, ends = expected + model.gamma * float(value), ends + 1
            assert buffer.rewards[t, b] == pytest.approx(expected, abs=1e-5)
    assert ends == 4  # each book once
    assert buffer.episode_starts.sum() == 8  # and the beginning


def test_training_twice_gives_the_same_weights() -> None:
    runs = [made(LeanPPO).learn(384) for _ in range(2)]
    assert weights(runs[0]).tolist() == weights(runs[1]).tolist()
    assert weights(runs[0]).tolist() != weights(made(LeanPPO, seed=8).learn(384)).tolist()


def test_a_saved_one_goes_on_as_the_one_that_was_not(tmp_path: Path) -> None:
    model = made(LeanPPO).learn(256)
    model.save(tmp_path / "model")
    loaded = LeanPPO.load(tmp_path / "model", env=model.get_env(), device="cpu")
    assert weights(loaded).tolist() == weights(model).tolist()
    loaded.set_logger(Logger(None, []))
    loaded.rollout_buffer = copy.deepcopy(model.rollout_buffer)
    for each in (model, loaded):
        np.random.seed(3)
        each.train()
    assert weights(loaded).tolist() == weights(model).tolist()


def test_a_callback_can_stop_a_rollout() -> None:
    model = made(LeanPPO).learn(384, callback=lambda seen, _: bool(seen["self"].num_timesteps < 40))
    assert model.num_timesteps == 40


@pytest.mark.parametrize("settings", [{"use_sde": True}, {"clip_range_vf": 0.2}])
def test_what_it_does_not_know_is_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="use SB3's PPO"):
        made(LeanPPO, **settings)


def test_discrete_actions_are_refused() -> None:
    with pytest.raises(ValueError, match="use SB3's PPO"):
        LeanPPO("MlpPolicy", gymnasium.make("CartPole-v1"), device="cpu")
