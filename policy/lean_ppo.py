"""Stable-Baselines3's PPO with the same loss, settings and results, without what costs more than the arithmetic.

SB3 makes a distribution object, a dozen logged scalars and several copies a minibatch; for nets of a few thousand
weights that is half of the time. Here a rollout draws all its noise at once, log-probabilities and values are read
from the net without objects, and Adam is torch's fused one. Source of the loss: Schulman et al., 2017, as SB3 2.9 has
it, early stopping at ``target_kl`` included (tested: an update gives SB3's weights to 1e-6).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3 import PPO
from stable_baselines3.common.torch_layers import FlattenExtractor
from torch import Tensor
from torch.nn import functional

HALF_LOG_2PI = 0.5 * math.log(2.0 * math.pi)


class LeanPPO(PPO):
    """For policies with a diagonal Gaussian on a flat Box that look at a flat Box of float32: MlpPolicy and
    policy.policy_network.InstrumentPolicy, on the CPU. ValueError for everything else, for gSDE and for
    clip_range_vf."""

    def _setup_model(self) -> None:
        if self.use_sde or self.clip_range_vf is not None or self.device.type != "cpu":
            raise ValueError(
                "LeanPPO knows no gSDE, no clip_range_vf and no device but the CPU; use SB3's PPO for them"
            )
        kind = (self.policy_kwargs or {}).get("optimizer_class", torch.optim.Adam)
        if kind is torch.optim.Adam:  # SB3's own epsilon, which it gives only where nothing else is asked for
            given = self.policy_kwargs.get("optimizer_kwargs") or {"eps": 1e-5}
            self.policy_kwargs = self.policy_kwargs | {"optimizer_kwargs": {"fused": True} | given}
        super()._setup_model()
        seen, action = self.observation_space, self.action_space
        plain = type(self.policy.features_extractor) is FlattenExtractor and not self.policy.squash_output
        if not plain or len(seen.shape or ()) != 1 or seen.dtype != np.float32 or len(action.shape or ()) != 1:
            raise ValueError(f"LeanPPO takes flat boxes as they are, not {seen} and {action}; use SB3's PPO for them")

    def _answer(self, observation: Tensor) -> tuple[Tensor, Tensor]:
        """Mean actions [B, A] and values [B]."""
        policy = self.policy
        latent_pi, latent_vf = policy.mlp_extractor(observation)
        return policy.action_net(latent_pi), policy.value_net(latent_vf).squeeze(-1)

    def collect_rollouts(self, env: Any, callback: Any, rollout_buffer: Any, n_rollout_steps: int) -> bool:
        """As SB3's; of the local variables, callbacks see env, rollout_buffer, rewards, dones and infos."""
        self.policy.set_training_mode(False)
        log_std = self.policy.log_std.detach()
        rollout_buffer.reset()
        callback.on_rollout_start()
        noise = torch.randn(n_rollout_steps, env.num_envs, len(log_std))
        steps, low, high = noise * log_std.exp(), self.action_space.low, self.action_space.high  # type: ignore[attr-defined]
        observation, starts = self._last_obs, self._last_episode_starts
        with torch.inference_mode():
            for t in range(n_rollout_steps):
                mean, value = self._answer(torch.from_numpy(observation))
                action = (mean + steps[t]).numpy()
                seen, rewards, dones, infos = env.step(np.clip(action, low, high))
                self.num_timesteps += env.num_envs
                callback.update_locals(locals())
                if not callback.on_step():
                    return False
                self._update_info_buffer(infos, dones)
                if dones.any():
                    self._bootstrap(rewards, dones, infos)
                rollout_buffer.observations[t], rollout_buffer.actions[t] = observation, action
                rollout_buffer.rewards[t], rollout_buffer.values[t] = rewards, value.numpy()
                rollout_buffer.episode_starts[t] = starts
                observation, starts = seen, dones
                self._last_obs, self._last_episode_starts = observation, starts
            last_values = self._answer(torch.from_numpy(observation))[1]
        rollout_buffer.log_probs[:] = (-0.5 * noise**2 - log_std - HALF_LOG_2PI).sum(-1).numpy()
        rollout_buffer.pos, rollout_buffer.full = n_rollout_steps, True
        rollout_buffer.compute_returns_and_advantage(last_values=last_values, dones=starts)
        callback.update_locals(locals())
        callback.on_rollout_end()
        return True

    def _bootstrap(self, rewards: NDArray[Any], dones: NDArray[Any], infos: list[dict[str, Any]]) -> None:
        """An episode that was cut off by time goes on in value: that of where it was cut off is added to its reward."""
        cut = [b for b in np.flatnonzero(dones) if infos[b].get("TimeLimit.truncated")]
        if cut:
            last = torch.from_numpy(np.stack([infos[b]["terminal_observation"] for b in cut]))
            rewards[cut] += self.gamma * self._answer(last)[1].numpy()

    def train(self) -> None:
        """Epochs over the rollout in minibatches, until done or until the policy has moved by 1.5 × ``target_kl``."""
        policy = self.policy
        policy.set_training_mode(True)
        self._update_learning_rate(policy.optimizer)
        clip = self.clip_range(self._current_progress_remaining)  # type: ignore[operator]
        most = math.inf if self.target_kl is None else 1.5 * self.target_kl
        tensors, parameters, losses = self._rollout(), list(policy.parameters()), []
        moved, total = 0.0, len(tensors[0])
        for _ in range(self.n_epochs):
            order = torch.from_numpy(np.random.permutation(total))
            for first in range(0, total, self.batch_size):
                chosen = order[first : first + self.batch_size]
                loss, log_ratio = self._loss([tensor[chosen] for tensor in tensors], clip)
                if most < math.inf:
                    moved = float(((log_ratio.exp() - 1.0) - log_ratio).mean())
                    if moved > most:
                        break
                policy.optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                torch.nn.utils.clip_grad_norm_(parameters, self.max_grad_norm)
                policy.optimizer.step()
                losses.append(loss.detach())
            self._n_updates += 1
            if moved > most:
                break
        self.logger.record("train/loss", float(torch.stack(losses).mean()) if losses else math.nan)
        self.logger.record("train/std", float(policy.log_std.detach().exp().mean()))
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")

    def _rollout(self) -> list[Tensor]:
        """Observations [S, D], actions [S, A], log-probabilities, advantages and returns [S], in SB3's order."""
        buffer = self.rollout_buffer
        flat = buffer.swap_and_flatten
        arrays = [flat(array) for array in (buffer.observations, buffer.actions)]
        arrays += [flat(array).ravel() for array in (buffer.log_probs, buffer.advantages, buffer.returns)]
        return [torch.from_numpy(array) for array in arrays]

    def _loss(self, minibatch: list[Tensor], clip: float) -> tuple[Tensor, Tensor]:
        """Of some of ``_rollout``; and how the log-probabilities have changed [batch], without gradient."""
        observation, action, old, advantage, returns = minibatch
        mean, value = self._answer(observation)
        log_std = self.policy.log_std
        if self.normalize_advantage and len(advantage) > 1:
            advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
        z = (action - mean) * torch.exp(-log_std)
        log_ratio = (-0.5 * z * z - log_std - HALF_LOG_2PI).sum(-1) - old
        ratio = torch.exp(log_ratio)
        gain = torch.min(advantage * ratio, advantage * torch.clamp(ratio, 1.0 - clip, 1.0 + clip)).mean()
        entropy = (log_std + 0.5 + HALF_LOG_2PI).sum()
        loss = self.vf_coef * functional.mse_loss(returns, value) - gain - self.ent_coef * entropy
        return loss, log_ratio.detach()
