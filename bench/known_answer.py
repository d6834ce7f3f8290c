"""How long training takes to 95 % of an answer that is known: the fading drift of policy.canaries.known_answer.

One instrument whose drift is seen (AR(1), ρ = 0.97, correlation with the next return 0.1), 10 bps a side. Ours is the
first stage of training (the pathwise gradient); the peer is Stable-Baselines3's PPO from scratch on the very same
environment, with the settings that ours uses for its second stage. CPU seconds of one thread, without compiling and
without the judging after each round; value: utility at the known drift on an unseen market ÷ that of the optimum (a
dynamic programme). The aim is 10 CPU seconds. A side that does not get there in time counts with its limit.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch

from bench.workbench import Row, print_rows
from policy.canaries.cells import BatchAct, Cell, batched
from policy.canaries.known_answer import Market, free_steering, judge, make_market, training_terms
from policy.policy_network import act_of
from policy.simulator import Costs
from policy.training_plan import TrainingPlan

FEE_BPS, ENOUGH, AIM_S, LIMIT_S = 10.0, 0.95, 10.0, 120.0
BOOKS, HORIZON, ROUND = 128, 64, 5
CELL = Cell(free_steering(), Costs(FEE_BPS, 0.0, 0.0))
TERMS = replace(training_terms((FEE_BPS, FEE_BPS)), steering=free_steering())


@dataclass(frozen=True, slots=True)
class Race:
    """``seconds`` to ``ENOUGH`` or to the limit, and the best value on the way."""

    seconds: float
    value: float
    environment_steps: int

    @property
    def arrived(self) -> bool:
        return self.value >= ENOUGH


def race(advance: Callable[[], int], act: Callable[[], BatchAct], market: Market) -> Race:
    """``advance`` trains a round and says how many environment steps that were; ``act``: the policy as it is now."""
    seconds, best, steps = 0.0, -np.inf, 0
    while seconds < LIMIT_S and best < ENOUGH:
        began = time.process_time()
        steps += advance()
        seconds += time.process_time() - began
        (judged,) = judge(act(), market, [CELL])
        best = max(best, judged.value / judged.optimal)
        print(f"  {seconds:6.1f} s, {steps:>9,} steps: {judged.value / judged.optimal:.3f}", flush=True)
    return Race(seconds, best, steps)


def pathwise(train: Market, market: Market, steps: int = 200) -> Race:
    from policy.pathwise_training import PathwiseStage

    plan = TrainingPlan(steps, 0, reach=1.0, books=BOOKS, horizon=HORIZON, slots=1, terms=TERMS)
    PathwiseStage(train.data, plan, 1).advance(lambda: False)  # what the first step of a process takes is not training
    stage = PathwiseStage(train.data, plan, 0)

    def advance() -> int:
        for _ in range(ROUND):
            stage.advance(lambda: False)
        return ROUND * stage.environment_steps()

    return race(advance, lambda: batched(act_of(stage.weights())), market)


def ppo(train: Market, market: Market) -> Race:
    from stable_baselines3 import PPO

    from policy import ppo_training as settings
    from policy.trading_env import PortfolioVecEnv

    env = PortfolioVecEnv(train.data, BOOKS, replace(TERMS, slots=1, episode_steps=500, random_book=True), 0)
    model = PPO(
        "MlpPolicy", env, n_steps=settings.ROLLOUT, batch_size=settings.BATCH, n_epochs=settings.EPOCHS,
        learning_rate=settings.LEARNING_RATE, gamma=settings.DISCOUNT, gae_lambda=settings.TRACE,
        clip_range=settings.CLIP, target_kl=settings.MOST_DIVERGENCE, policy_kwargs={"net_arch": [64, 64]}, seed=0,
        device="cpu",
    )  # fmt: skip
    rollout = settings.ROLLOUT * BOOKS

    def advance() -> int:
        model.learn(ROUND * rollout, reset_num_timesteps=False)
        return ROUND * rollout

    def act() -> BatchAct:
        return lambda seen: model.predict(seen.reshape(len(seen), -1), deterministic=True)[0].astype(np.float64)

    return race(advance, act, market)


def main() -> None:
    torch.set_num_threads(1)
    train, market = make_market(20_000, 0.1, 0.97, seed=1, instruments=10), make_market(24_001, 0.1, 0.97, seed=2)
    judge(lambda seen: np.zeros(seen.shape[:2]), market, [CELL])  # compiles
    print("pathwise gradient:")
    own = pathwise(train, market)
    print("SB3 PPO from scratch:")
    peer = ppo(train, market)
    for name, one in (("the pathwise gradient", own), ("SB3 PPO", peer)):
        if not one.arrived:
            print(
                f"{name} did not arrive: {one.value:.3f} after {one.seconds:.0f} CPU s, {one.environment_steps:,} steps"
            )
    told = "" if peer.arrived else f", not arrived: {peer.value:.3f}"
    name = f"training to {ENOUGH:.0%} of the known answer" + ("" if own.arrived else f", not arrived: {own.value:.3f}")
    print_rows([
        Row(name, own.seconds, "CPU s", f"SB3 PPO from scratch, same environment{told}", peer.seconds,
            peer.seconds / own.seconds),
        Row(name, own.seconds, "CPU s", "the aim", AIM_S, AIM_S / own.seconds),
    ])  # fmt: skip


if __name__ == "__main__":
    main()
