"""What a training of the policy is asked to do, and what comes back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from policy.inputs import static_config
from policy.policy_network import HIDDEN, NOISE, Weights
from policy.risk.context import NO_LIMITS, parameters_of
from policy.simulator import Costs
from policy.trading_env import Terms
from policy.training_data import TrainingData
from shared.clock import from_unix
from shared.rows import PolicyConfig
from shared.settings import Settings

# Markets are nearly all noise, and 64 numbers of embedding fit any of it: where the embeddings were noise, a net made
# with 0.01 traded 20 to 40 times a year on unseen candles, with 5 a third of that; the baseline trades 2 to 3 times.
WEIGHT_DECAY = 5.0
VALIDATION_COSTS = Costs(fee_bps=40.0, slippage_bps=5.0, impact=1.0)


@dataclass(frozen=True, slots=True)
class TrainingPlan:
    """``pathwise_steps`` gradient steps through the surrogate, then ``ppo_steps`` environment steps on true frictions;
    either may be 0. Both are at most: a short history is soon known by heart, so no instrument's decision time is seen
    more than ``most_passes`` times by the first (None: as often as it takes), and a fifth of that by the second.

    ``terms`` say what world is trained in (costs, steering, delays, band); those left at random are drawn anew in each
    episode. ``books`` episodes of ``horizon`` steps make one gradient, of random ``slots`` instruments each; the
    steering changes with probability ``switch`` a step. PPO's books go on for ``episode_steps``: each end, and each
    leap in time (every ``jump_steps`` on average, 0 for none), is an exit and an entry to pay for, and many of them
    teach to stay out. The last ``held_back`` of the span, ``purge_steps`` after the rest, decides which stage is kept:
    under ``steering`` and ``costs``, or those of ``terms`` where they are fixed."""

    pathwise_steps: int
    ppo_steps: int
    reach: float = 0.5
    episode_steps: int = 10_000
    books: int = 128
    horizon: int = 32
    slots: int = 4
    hidden: tuple[int, ...] = HIDDEN
    learning_rate: float = 2e-3
    weight_decay: float = 1e-2
    noise: float = NOISE
    jump_steps: int = 1440
    switch: float = 0.002
    terms: Terms = field(default_factory=Terms)
    steering: PolicyConfig | None = None
    costs: Costs = VALIDATION_COSTS
    most_passes: float | None = 100.0
    held_back: float = 0.15
    purge_steps: int = 24

    def steps_for(self, data: TrainingData) -> tuple[int, int]:
        """Gradient steps and environment steps on ``data``."""
        if self.most_passes is None:
            return self.pathwise_steps, self.ppo_steps
        instruments = data.price.shape[1]
        slots = min(self.terms.slots or self.slots, instruments)
        most = self.most_passes * len(data) * instruments / slots  # decisions of a book
        gradient_steps = int(most / (self.books * self.horizon)) + 1
        return min(self.pathwise_steps, gradient_steps), min(self.ppo_steps, int(most / 5.0))

    def training_terms(self) -> Terms:
        return replace(
            self.terms,
            reach=self.reach,
            episode_steps=self.episode_steps,
            slots=self.terms.slots or self.slots,
            jump_steps=self.jump_steps,
            switch=0.0 if self.terms.steering is not None else self.switch,
            random_book=True,
        )

    def validation_terms(self) -> Terms:
        """Nothing at random."""
        steering = self.terms.steering or self.steering or static_config(from_unix(0), NO_LIMITS)
        return replace(self.terms, reach=self.reach, steering=steering, costs=self.terms.costs or self.costs)


def plan_of(settings: Settings) -> TrainingPlan:
    """The TrainingPlan of these settings: validated at the operator's costs, band and delay."""
    execution = settings.execution
    delays = dict.fromkeys((execution.delay_s, 0, settings.universe.decision_timeframe_s))
    return TrainingPlan(
        pathwise_steps=settings.policy.pathwise_steps,
        ppo_steps=settings.policy.ppo_steps,
        weight_decay=WEIGHT_DECAY,
        terms=Terms(
            delays_s=tuple(delays),
            no_trade_band=execution.no_trade_band,
            max_step=settings.risk.max_step,
            rules=parameters_of(settings.risk),
        ),
        costs=Costs(execution.taker_fee_bps, execution.slippage_bps, execution.impact),
    )


@dataclass(frozen=True, slots=True)
class TrainedSeed:
    """``weights`` of the net that was chosen; ``metrics``: the scores of all that it was chosen from, and which it was;
    ``curve``: the points of the learning curve (policy.learning_curve)."""

    weights: Weights
    metrics: Mapping[str, Any]
    curve: list[dict[str, Any]]
