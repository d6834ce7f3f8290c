"""What a peer that offers one gymnasium environment answers: its rate in each vectorisation, and its PPO."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecEnv

from bench.peers.rl import Trainings, single_steps_a_second, vec_steps_a_second
from bench.peers.serve import serve

Make = Callable[[], Any]
VECTORISATIONS = ("single", "DummyVecEnv 8", "DummyVecEnv 64", "SubprocVecEnv 8")


def serve_environment(make: Make) -> None:
    """``make`` must be importable from its module: SubprocVecEnv calls it in other processes."""
    made: dict[str, Any] = {}
    trainings = Trainings(lambda envs: DummyVecEnv([make] * envs))

    def rate(vectorisation: str, seconds: float) -> float:
        if vectorisation not in made:
            made[vectorisation] = _vectorised(make, vectorisation)
        env = made[vectorisation]
        return single_steps_a_second(env, seconds) if vectorisation == "single" else vec_steps_a_second(env, seconds)

    def close() -> None:
        for env in made.values():
            env.close()
        made.clear()

    serve({"rate": rate, "close": close, "ppo": trainings.answer})


def _vectorised(make: Make, vectorisation: str) -> Any:
    if vectorisation == "single":
        return make()
    kind, envs = vectorisation.split()
    kinds: dict[str, Callable[[list[Make]], VecEnv]] = {"DummyVecEnv": DummyVecEnv, "SubprocVecEnv": SubprocVecEnv}
    return kinds[kind]([make] * int(envs))
