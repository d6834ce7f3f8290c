"""The second stage of training: PPO (Schulman et al., 2017) by Stable-Baselines3, on the true frictions
(policy.lean_ppo: the same numbers in less time).

It goes in segments, each with random numbers from (seed, segment), so that weights, moments and books are all that a
checkpoint needs; a segment that is interrupted is thrown away and done again. In the first ones only the critic
learns, while the books come to hold what the policy wants: advantages against a critic that knows nothing would undo
what the first stage has learnt, and so would a book's first entry.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np
import torch
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.utils import set_random_seed
from torch import Tensor

from policy.checkpoints import restore_training, training_tensors
from policy.lean_ppo import LeanPPO
from policy.policy_network import InstrumentPolicy, Weights
from policy.trading_env import PortfolioVecEnv
from policy.training_data import TrainingData
from policy.training_plan import TrainingPlan

ROLLOUT = 64  # steps of each book between updates
ROLLOUTS = 2  # a segment
CRITIC_FIRST = 2  # segments
BATCH = 4096
EPOCHS = 5
LEARNING_RATE = 3e-4
DISCOUNT, TRACE = 0.995, 0.95  # costs are paid at once and earned back over days
CLIP, MOST_DIVERGENCE = 0.15, 0.02
LOG_NOISE = -2.0


class _Watch(BaseCallback):
    """Ends a segment when asked to; keeps the mean reward."""

    def __init__(self, stopped: Callable[[], bool]) -> None:
        super().__init__()
        self._stopped, self.rewards = stopped, [0.0]
        self.interrupted = False

    def _on_training_start(self) -> None:
        self.rewards = []

    def _on_step(self) -> bool:
        self.interrupted = self._stopped()
        return not self.interrupted

    def _on_rollout_end(self) -> None:
        self.rewards.append(float(self.locals["rollout_buffer"].rewards.mean()))


class PpoStage:
    """``step`` of ``steps`` segments done; ``advance`` does one more."""

    name = "ppo"

    def __init__(self, data: TrainingData, plan: TrainingPlan, seed: int, weights: Weights) -> None:
        self.data, self.plan, self.seed, self.step = data, plan, seed, 0
        self.steps = math.ceil(plan.steps_for(data)[1] / self.environment_steps())
        self.terms = plan.training_terms()
        self.books = PortfolioVecEnv(self.data, self.plan.books, self.terms, self._number(-1))
        self.model = LeanPPO(
            InstrumentPolicy,
            self.books,
            n_steps=ROLLOUT,
            batch_size=min(BATCH, ROLLOUT * plan.books),
            n_epochs=EPOCHS,
            learning_rate=LEARNING_RATE,
            gamma=DISCOUNT,
            gae_lambda=TRACE,
            clip_range=CLIP,
            target_kl=MOST_DIVERGENCE,
            policy_kwargs={"net_arch": list(plan.hidden), "log_std_init": LOG_NOISE},
            seed=seed,
            device="cpu",
        )
        self.model.set_logger(Logger(None, []))
        self.policy.actor.load(weights)

    @property
    def policy(self) -> InstrumentPolicy:
        assert isinstance(self.model.policy, InstrumentPolicy)
        return self.model.policy

    def advance(self, stopped: Callable[[], bool]) -> float | None:
        """The mean reward of a segment; None when it was stopped: then this object's weights are half-way, and only the
        last checkpoint is good to go on from."""
        set_random_seed(self._number(self.step))
        for parameter in (*self.policy.actor.parameters(), self.policy.log_std):
            parameter.requires_grad_(self.step >= min(CRITIC_FIRST, self.steps - 1))
        watch = _Watch(stopped)
        self.model.learn(self.environment_steps(), callback=watch, reset_num_timesteps=False)
        if watch.interrupted:
            return None
        self.step += 1
        return float(np.mean(watch.rewards))

    def _number(self, segment: int) -> int:
        return int(np.random.SeedSequence([self.seed, 2, segment + 1]).generate_state(1)[0])

    def environment_steps(self) -> int:
        """Of one ``advance``."""
        return ROLLOUT * ROLLOUTS * self.plan.books

    def weights(self) -> Weights:
        return self.policy.actor.weights()

    def tensors(self) -> dict[str, Tensor]:
        """Books as well; uint64 as int64, which is all that some versions of the format know."""
        tensors = training_tensors(dict(self.policy.named_parameters()), self.policy.optimizer)
        for name, array in self.books.batch.state().items():
            tensors[f"books/{name}"] = torch.from_numpy(array.view(np.int64) if array.dtype == np.uint64 else array)
        starts = self.model._last_episode_starts
        tensors["books began"] = torch.from_numpy(np.zeros(self.plan.books, bool) if starts is None else starts.copy())
        return tensors

    def restore(self, step: int, tensors: Mapping[str, Tensor]) -> None:
        restore_training(dict(self.policy.named_parameters()), self.policy.optimizer, tensors)
        self.step = step
        batch = self.books.batch
        batch.restore(
            {name: tensors[f"books/{name}"].numpy().view(array.dtype) for name, array in batch.state().items()}
        )
        if step > 0:
            self.model._last_obs = batch.observation.reshape(self.plan.books, -1).copy()
            self.model._last_episode_starts = tensors["books began"].numpy().copy()
