"""PPO's progress bar: steps, mean episode reward and time left, on stderr."""

from __future__ import annotations

from stable_baselines3.common.callbacks import BaseCallback
from tqdm import tqdm


class ProgressCallback(BaseCallback):
    def __init__(self, steps: int, visible: bool) -> None:
        super().__init__()
        self._steps = steps
        self._bar = tqdm(total=steps, desc="policy", unit=" steps", disable=not visible, mininterval=0.5)

    def _on_step(self) -> bool:
        self._bar.update(min(self.training_env.num_envs, self._steps - int(self._bar.n)))
        return True

    def _on_rollout_end(self) -> None:
        rewards = self.locals["rollout_buffer"].rewards
        self._bar.set_postfix_str(f"reward {rewards.mean():+.4f} a step")

    def _on_training_end(self) -> None:
        self._bar.close()
