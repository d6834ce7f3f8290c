"""How environments and PPO are timed, the same for every side: SB3 on whatever VecEnv it is given, one thread.

A second is one of that thread's own (CPU time), so that what else runs on a shared machine takes nothing from either
side; only where an environment works in other processes it is one of the clock on the wall.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import SubprocVecEnv, VecEnv


@dataclass(frozen=True, slots=True)
class PpoSettings:
    """SB3's PPO with MlpPolicy [64, 64]; everything that is not here is SB3's default."""

    envs: int
    steps: int  # of each environment between two updates
    batch: int
    epochs: int

    def __str__(self) -> str:
        return f"{self.envs} × {self.steps}, batch {self.batch}, {self.epochs} epochs"

    def details(self) -> dict[str, int]:
        return asdict(self)


IDENTICAL = PpoSettings(8, 256, 512, 10)
# Every side is given all of these and counts with its fastest; fewer epochs use a step less, so they are apart.
FOUR_EPOCHS = (PpoSettings(64, 256, 4_096, 4), PpoSettings(256, 64, 4_096, 4), PpoSettings(256, 64, 16_384, 4))
ONE_EPOCH = (PpoSettings(64, 256, 4_096, 1), PpoSettings(256, 64, 16_384, 1))


class Trainings:
    """One PPO a setting, kept between rounds, so that a round is nothing but rollouts and updates."""

    def __init__(self, make: Callable[[int], VecEnv], algorithm: type[PPO] = PPO) -> None:
        torch.set_num_threads(1)
        self._make, self._algorithm, self._models = make, algorithm, dict[PpoSettings, PPO]()

    def steps_a_second(self, settings: PpoSettings, iterations: int) -> float:
        """Environment steps a second of ``iterations`` rollouts with their updates; the first call warms up too."""
        if settings not in self._models:
            self._models[settings] = self._model(settings)
            self._learn(settings, 1)
        started = time.process_time()
        steps = self._learn(settings, iterations)
        return steps / (time.process_time() - started)

    def answer(self, iterations: int, **details: int) -> float:
        return self.steps_a_second(PpoSettings(**details), iterations)

    def _model(self, settings: PpoSettings) -> PPO:
        return self._algorithm(
            "MlpPolicy", self._make(settings.envs), n_steps=settings.steps, batch_size=settings.batch,
            n_epochs=settings.epochs, policy_kwargs={"net_arch": [64, 64]}, seed=7, device="cpu",
        )  # fmt: skip

    def _learn(self, settings: PpoSettings, iterations: int) -> int:
        steps = iterations * settings.envs * settings.steps
        self._models[settings].learn(steps, reset_num_timesteps=False)
        return steps


def vec_steps_a_second(env: VecEnv, seconds: float) -> float:
    """Steps a second under random actions drawn before; at least ``seconds`` long, after ten steps to warm up."""
    clock = time.perf_counter if isinstance(env, SubprocVecEnv) else time.process_time
    actions = [np.stack([env.action_space.sample() for _ in range(env.num_envs)]) for _ in range(16)]
    env.reset()
    for action in actions[:10]:
        env.step(action)
    started, calls = clock(), 0
    while clock() - started < seconds:
        for action in actions:
            env.step(action)
        calls += len(actions)
    return calls * env.num_envs / (clock() - started)


def single_steps_a_second(env: Any, seconds: float) -> float:
    """The same of one gymnasium environment in a bare loop."""
    actions = [env.action_space.sample() for _ in range(1_000)]
    env.reset()
    started, calls = time.process_time(), 0
    while time.process_time() - started < seconds:
        for action in actions:
            *_, terminated, truncated, _ = env.step(action)
            if terminated or truncated:
                env.reset()
        calls += len(actions)
    return calls / (time.process_time() - started)
