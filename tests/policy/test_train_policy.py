"""The training job: what it learns from, and the row it writes."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import pytest

from policy import train_policy
from policy.decision_kernel import OBSERVATION_SIZE
from policy.observation import Market
from policy.policy_model import load_policy
from policy.train_policy import load_training_data, run_once
from policy.training_plan import plan_of
from shared.clock import ReplayClock, to_unix
from shared.job import JobError, UsageError
from shared.model_store import active_model, save_model
from shared.settings import Settings
from tests.helpers import NOON, DatabaseFor, random_candles, store_candles
from tests.policy.small_policy import small_policy
from tests.policy.synthetic import make_market

HOUR, HOURS, STEP_S = timedelta(hours=1), 260, 3600
SYMBOLS = ("AAA/USDT", "BBB/USDT")
FIRST, LAST = NOON, NOON + HOURS * HOUR


class Known:
    """What is known at each hour, in the place of policy.inputs.Inputs."""

    asked: tuple[Any, ...] = ()

    def __init__(self, *asked: Any) -> None:
        Known.asked = asked

    def at(self, as_of: datetime) -> Market:
        hour = (to_unix(as_of) - to_unix(NOON)) // STEP_S
        rng = np.random.default_rng(hour)
        return make_market([100.0 + hour % 7, 50.0], rng.uniform(-1, 1, 2).tolist(), [0.8, 0.9], seed=hour)


@pytest.fixture
def small(settings: Settings) -> Settings:
    policy = settings.policy.model_copy(update={"seeds": 2, "pathwise_steps": 2, "ppo_steps": 1})
    universe = settings.universe.model_copy(update={"base_timeframe": "1h"})
    return settings.model_copy(update={"policy": policy, "universe": universe})


def make_world(database_for: DatabaseFor, known_hours_late: int = 0) -> None:
    """Candles of two instruments, and an encoder that nobody runs."""
    for seed, symbol in enumerate(SYMBOLS):
        candles = random_candles(HOURS, STEP_S, seed, to_unix(LAST))
        store_candles(database_for, "test", symbol, STEP_S, candles)
    known = FIRST + known_hours_late * HOUR
    save_model(database_for("encoder"), kind="encoder", onnx=small_policy(bias=0.5), schema={"kind": "test"},
               trained_from=known - 9 * HOUR, trained_to=known, label_horizon_s=0, provenance="real", encoder_id=None,
               metrics={}, recorded_at=NOON)  # fmt: skip


def load(database_for: DatabaseFor, settings: Settings, symbols: Sequence[str] = SYMBOLS) -> Any:
    database = database_for("policy")
    instruments = train_policy.find_instruments(database, "test", symbols)
    encoder = active_model(database, "encoder")
    assert encoder is not None
    return load_training_data(database, settings, instruments, encoder, FIRST, LAST)


def test_the_job_stores_one_ensemble_that_the_trader_can_run(
    database_for: DatabaseFor, small: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_world(database_for)
    monkeypatch.setattr(train_policy, "Inputs", Known)
    outcome = run_once(ReplayClock(LAST), database_for("policy"), small, FIRST, LAST, jobs=1)
    policy = load_policy(database_for("policy"), STEP_S)
    assert policy is not None
    assert (policy.id, policy.reach) == (outcome.result["model_id"], 0.5)
    assert (policy.model.trained_from, policy.model.trained_to) == (FIRST, LAST)
    assert policy.model.provenance == "real"
    assert [seed["seed"] for seed in policy.model.metrics["seeds"]] == [7, 8]
    assert sum(policy.model.metrics["chosen"].values()) == 2
    assert "validation_reward_baseline" in policy.model.metrics["seeds"][0]
    answer = policy.act(np.zeros((5, OBSERVATION_SIZE), np.float32))
    assert answer.action.shape == (5,)
    assert (small.home_path / "reports" / f"learning-curve-policy-{policy.id}.png").exists()
    assert not list((small.home_path / "training").glob(f"policy-{small.db_name}/**/*.safetensors"))


def test_the_same_span_again_is_the_same_model(
    database_for: DatabaseFor, small: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_world(database_for)
    monkeypatch.setattr(train_policy, "Inputs", Known)
    ids = {
        run_once(ReplayClock(LAST), database_for("policy"), small, FIRST, LAST, jobs=1).result["model_id"]
        for _ in range(2)
    }
    assert len(ids) == 1


def test_nothing_of_the_span_is_left_out_and_what_the_encoder_was_trained_on_is_not_seen(
    database_for: DatabaseFor, small: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_world(database_for, known_hours_late=10)
    monkeypatch.setattr(train_policy, "Inputs", Known)
    data = load(database_for, small)
    assert len(data) == HOURS + 1
    assert (np.diff(data.times) == STEP_S).all()
    assert not data.complete[:10].any()
    assert data.complete[10:].all()
    assert len(data.grid.open) == HOURS
    assert np.isfinite(data.grid.open).all()
    assert Known.asked[3] == "rules"


def test_too_few_decisions_are_said_with_what_to_do(
    database_for: DatabaseFor, small: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_world(database_for, known_hours_late=HOURS - 50)
    monkeypatch.setattr(train_policy, "Inputs", Known)
    with pytest.raises(JobError, match=r"only 51 decisions .* need 200. Run `make run-encoder`"):
        load(database_for, small)


def test_without_an_encoder_or_a_span_that_is_over_nothing_is_trained(
    database_for: DatabaseFor, small: Settings
) -> None:
    database = database_for("policy")
    with pytest.raises(JobError, match="no active encoder"):
        run_once(ReplayClock(LAST), database, small, FIRST, LAST)
    for first, last in ((LAST, FIRST), (FIRST, LAST + HOUR)):
        with pytest.raises(UsageError, match="must be forward"):
            run_once(ReplayClock(LAST), database, small, first, last)


def test_it_is_trained_for_the_operators_costs_band_and_delay(settings: Settings) -> None:
    execution = settings.execution.model_copy(update={"delay_s": 300, "taker_fee_bps": 26.0, "no_trade_band": 0.2})
    plan = plan_of(settings.model_copy(update={"execution": execution}))
    terms = plan.validation_terms()
    assert terms.delays_s[0] == 300
    assert (terms.costs.fee_bps, terms.no_trade_band, terms.max_step) == (26.0, 0.2, settings.risk.max_step)
    assert terms.steering is not None
    assert plan.training_terms().steering is None
    assert plan.training_terms().costs is None


def test_the_command_starts_without_torch() -> None:
    """`--help`, a wrong span and `pipeline.demo` need none of it."""
    code = (
        "import sys, policy.train_policy; print([m for m in ('torch', 'gymnasium', 'matplotlib') if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
