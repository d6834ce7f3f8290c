"""The rule-based controller: for what the pool calls, the steering written down here.

It needs candles and nothing else, so it always has an answer; the LLM falls back on it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from meta_controller.bounds import within_operator
from meta_controller.controller import LONG_HORIZON_S, HorizonCall, Proposal, Regime, Steering, Volatility
from shared.settings import RiskSettings

SOURCE = "rules"
TINY = 1e-6

# A sustained rise is used to the full; without a trend fewer and smaller trades, as costs then weigh more; in
# wild or falling markets little is held, losses count more, and a bad day ends sooner. target_volatility
# follows the volatility class below instead of the regime.
STEERING: Mapping[Regime, Steering] = {
    "bull": Steering(2.0, 1.0, 1.0, 0.35, 1.0, 0.5, 0.05, 0.15, False, {"drl": 1.0}),
    "sideways": Steering(3.0, 1.5, 1.0, 0.35, 0.8, 0.4, 0.05, 0.15, False, {"drl": 1.0}),
    "volatile": Steering(4.0, 2.0, 2.0, 0.35, 0.5, 0.25, 0.04, 0.15, False, {"drl": 1.0}),
    "bear": Steering(5.0, 1.0, 2.0, 0.35, 0.3, 0.15, 0.03, 0.15, False, {"drl": 1.0}),
}
# Less risk is sought where it varies most: volatility is highest when it is least forecastable.
TARGET_VOLATILITY: Mapping[Volatility, float] = {"low": 0.45, "mid": 0.35, "high": 0.25}


def propose(calls: Sequence[HorizonCall], instruments: int, risk: RiskSettings) -> Proposal:
    """The calls as they are, and the steering of the long horizon's regime within the operator's limits."""
    long = next(call for call in calls if call.horizon_s == LONG_HORIZON_S)
    steering = within_operator(steer(long), risk)
    leaning, hours = long.p_up / max(long.p_down, TINY) / long.usual_odds, LONG_HORIZON_S // 3600
    reasons = (
        f"{long.regime} in the index of {instruments}: over {hours}h up against down {leaning:.2f} times as likely as "
        f"usual, volatility {long.volatility}; target volatility {steering.target_volatility:.2f}, "
        f"exposure up to {steering.max_exposure:.2f}"
    )
    return Proposal(tuple(calls), steering, reasons)


def steer(call: HorizonCall) -> Steering:
    """The steering for what ``call`` says, before the operator's limits."""
    return dataclasses.replace(STEERING[call.regime], target_volatility=TARGET_VOLATILITY[call.volatility])
