"""What decides between the stages of a training is the same world for all of them."""

from __future__ import annotations

import pytest

from policy.simulator import Costs
from policy.trading_env import Terms
from policy.training_plan import TrainingPlan
from tests.policy.synthetic import make_config

PLANS = [
    TrainingPlan(10, 10),
    TrainingPlan(10, 10, jump_steps=50, switch=0.1),
    TrainingPlan(10, 10, terms=Terms(steering=make_config(risk_aversion=3.0), costs=Costs(1.0, 2.0, 3.0))),
    TrainingPlan(10, 10, steering=make_config(risk_aversion=4.0), costs=Costs(4.0, 5.0, 6.0)),
]


@pytest.mark.parametrize("plan", PLANS)
def test_nothing_is_random_in_validation(plan: TrainingPlan) -> None:
    draws = plan.validation_terms().draws(2, 2)
    assert (draws.steering[:, 0] == draws.steering[:, 1]).all()
    assert (draws.costs[:, 0] == draws.costs[:, 1]).all()
    assert (draws.jump, draws.switch, draws.random_book, draws.random_slots) == (0.0, 0.0, False, False)


def test_validation_is_under_the_steering_and_costs_that_are_asked_for() -> None:
    for plan, aversion, fee in ((PLANS[2], 3.0, 1.0), (PLANS[3], 4.0, 4.0)):
        terms = plan.validation_terms()
        assert terms.steering is not None
        assert terms.costs is not None
        assert (terms.steering.risk_aversion, terms.costs.fee_bps) == (aversion, fee)


def test_training_draws_steering_and_costs_anew() -> None:
    draws = PLANS[0].training_terms().draws(2, 2)
    assert (draws.steering[:, 0] < draws.steering[:, 1]).all()
    assert (draws.costs[:, 0] < draws.costs[:, 1]).all()
