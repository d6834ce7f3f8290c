"""The first stage of training: Adam on the pathwise objective. Step k is a function of (seed, k) and the weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor

from policy.checkpoints import restore_training, training_tensors
from policy.pathwise import Market, run
from policy.pathwise_episodes import draw_episodes
from policy.policy_network import ActorNet, Weights
from policy.training_data import TrainingData
from policy.training_plan import TrainingPlan
from shared.job import JobError

LONGEST_GRADIENT = 1.0
OVERSHOOT = 0.02  # price of a squared action beyond ±1: there the clip leaves no gradient to come back by
WARM_UP = 0.05  # of the steps


class PathwiseStage:
    """``step`` of ``steps`` done; ``advance`` does one more."""

    name = "pathwise"

    def __init__(self, data: TrainingData, plan: TrainingPlan, seed: int) -> None:
        self.plan, self.seed, self.step = plan, seed, 0
        self.steps, _ = plan.steps_for(data)
        self.terms = plan.training_terms()
        self.market = Market.of(data, self.terms.delays_s)
        torch.manual_seed(seed)
        self.actor = ActorNet(plan.hidden)
        self.optimizer = torch.optim.AdamW(
            self.actor.parameters(), plan.learning_rate, weight_decay=plan.weight_decay, fused=True
        )

    def advance(self, stopped: Callable[[], bool]) -> float | None:
        """The mean reward of its episodes. Never stops half-way: one step is short."""
        plan = self.plan
        for group in self.optimizer.param_groups:
            group["lr"] = plan.learning_rate * _schedule(self.step, self.steps)
        rng = np.random.default_rng([self.seed, 1, self.step])
        episodes = draw_episodes(self.market, self.terms, plan.books, plan.horizon, plan.noise, rng)
        paths = run(self.market, self.actor, episodes, plan.reach, self.terms.penalties)
        objective = paths.reward.mean()
        overshoot = (paths.action.abs() - 1.0).clamp_min(0.0).square().mean()
        if not torch.isfinite(objective):
            raise JobError(
                f"the reward of pathwise step {self.step + 1} is {objective.item()}; look for prices that are zero or "
                "leap in the training span (`make quality`)"
            )
        self.optimizer.zero_grad()
        (OVERSHOOT * overshoot - objective).backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.actor.parameters(), LONGEST_GRADIENT)
        self.optimizer.step()
        self.step += 1
        return objective.item()

    def environment_steps(self) -> int:
        """Of one ``advance``."""
        return self.plan.books * self.plan.horizon

    def weights(self) -> Weights:
        return self.actor.weights()

    def tensors(self) -> dict[str, Tensor]:
        return training_tensors(dict(self.actor.named_parameters()), self.optimizer)

    def restore(self, step: int, tensors: Mapping[str, Tensor]) -> None:
        restore_training(dict(self.actor.named_parameters()), self.optimizer, tensors)
        self.step = step


def _schedule(step: int, steps: int) -> float:
    """Of the learning rate: a linear rise, then half a cosine down to a tenth."""
    warm_up = max(1, int(steps * WARM_UP))
    if step < warm_up:
        return (step + 1) / warm_up
    return 0.1 + 0.45 * (1.0 + math.cos(math.pi * (step - warm_up) / max(1, steps - warm_up)))
