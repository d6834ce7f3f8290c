"""The one decision path: observe -> decide -> blend -> limit -> plan.

Training, backtest, paper and live call these functions; only the clock and the venue differ.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from policy.execution.plan import Plan, TradingRules, plan
from policy.observation import View, observation_hash, observe
from policy.risk import limit
from policy.risk.context import Clamp, OperatorLimits, RiskContext
from policy.strategies import BASELINE, STRATEGIES, blend, trend_vol_target
from shared.rows import FloatArray

Act = Callable[[NDArray[np.float32]], FloatArray]  # observation [D] -> action [N] in [-1, 1]


@dataclass(frozen=True, slots=True)
class Decision:
    """One decision for N instruments, with all that explains it."""

    wanted: FloatArray
    allowed: FloatArray
    clamps: list[list[Clamp]]
    plan: Plan
    source: str
    observation_hash: str | None


@dataclass(frozen=True, slots=True)
class Circumstances:
    """What the decision depends on beside the view: the operator's bounds and the state of affairs."""

    operator: OperatorLimits
    rules: TradingRules
    in_flight: NDArray[np.bool_]  # [N]: an order whose end is not known yet
    tradable: NDArray[np.bool_]  # [N]: has a candle that closed at this moment
    wallet_paused: bool
    doubts: str


def decide(view: View, act: Act | None, circumstances: Circumstances) -> Decision:
    """Observes, asks every strategy, blends, limits, plans. Without a model or a complete view the baseline
    speaks alone, and ``circumstances.doubts`` decides whether it may open positions."""
    observation = observe(view, trend_vol_target.wanted_weights(view)) if view.complete else None
    action = act(observation) if act is not None and observation is not None else None
    opinions = {
        name: weights for name, strategy in STRATEGIES.items() if (weights := strategy(view, action)) is not None
    }
    wanted = blend(opinions, view.config.strategy_weights)
    context = RiskContext(
        config=view.config,
        operator=circumstances.operator,
        book=view.book,
        held_weights=view.book.weights(view.prices),
        ood=view.ood,
        wallet_paused=circumstances.wallet_paused,
        doubts=circumstances.doubts,
    )
    allowed, clamps = limit(wanted, context)
    return Decision(
        wanted=wanted,
        allowed=allowed,
        clamps=clamps,
        plan=plan(
            allowed, view.book, view.prices, circumstances.rules, circumstances.in_flight, circumstances.tradable
        ),
        source="policy" if action is not None else BASELINE,
        observation_hash=observation_hash(observation) if observation is not None else None,
    )
