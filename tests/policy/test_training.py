"""Training: deterministic, resumable, honest about what it chose."""

from __future__ import annotations

import logging
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from policy import training
from policy.canaries.markets import market_of
from policy.checkpoints import Checkpoint, read_checkpoint, write_checkpoint
from policy.inputs import static_config
from policy.learning_curve import COLUMNS, write_curve
from policy.pathwise_training import PathwiseStage
from policy.policy_network import Weights, act_of
from policy.ppo_training import PpoStage
from policy.risk.context import NO_LIMITS
from policy.simulator import Costs
from policy.trading_env import STEERING_DRAWS, Terms
from policy.training import TrainedSeed, TrainingPlan, TrainingStopped, score, split, train_seed
from policy.training_data import TrainingData
from shared.clock import from_unix
from shared.job import JobError

HOURLY = np.sqrt(8760.0)
PLAN = TrainingPlan(6, 6144, books=16, horizon=8, hidden=(8, 8), most_passes=None)


def noise_market(steps: int = 400, seed: int = 0) -> TrainingData:
    rng = np.random.default_rng(seed)
    returns, seen = rng.normal(0, 0.01, (steps + 1, 2)), rng.normal(size=(steps + 1, 2, 4))
    return market_of(returns, np.full((steps + 1, 2), 0.01 * HOURLY), rng.uniform(-1, 1, (steps + 1, 2)), seen)


def known_market(steps: int = 4000, seed: int = 0, strength: float = 0.3) -> TrainingData:
    """The first number seen is the drift of the coming bar, in its standard deviations ÷ ``strength``."""
    rng = np.random.default_rng(seed)
    drift = np.zeros((steps, 1))
    shocks = rng.normal(size=(steps, 1)) * np.sqrt(1 - 0.95**2)
    for t in range(1, steps):
        drift[t] = 0.95 * drift[t - 1] + shocks[t]
    returns = 0.01 * (strength * drift + rng.normal(size=(steps, 1)))
    return market_of(returns, np.full((steps, 1), 0.01 * HOURLY), np.zeros((steps, 1)), drift[..., None])


def equal(one: TrainedSeed, other: TrainedSeed) -> bool:
    same = all(np.array_equal(one.weights[name], other.weights[name]) for name in one.weights)
    return same and one.metrics == other.metrics and one.curve == other.curve


def stop_at(monkeypatch: pytest.MonkeyPatch, kind: Any, step: int) -> None:
    """SIGTERM comes while ``kind`` is about to do the step after ``step``."""
    advance = kind.advance

    def interrupted(self: Any, stopped: Any) -> float | None:
        if self.step == step:
            signal.raise_signal(signal.SIGTERM)
        found: float | None = advance(self, stopped)
        return found

    monkeypatch.setattr(kind, "advance", interrupted)


@pytest.fixture(scope="module")
def uninterrupted() -> TrainedSeed:
    return train_seed(noise_market(), PLAN, 3)


def test_equal_seeds_give_equal_weights_and_others_do_not(uninterrupted: TrainedSeed) -> None:
    assert equal(uninterrupted, train_seed(noise_market(), PLAN, 3))
    stage, other = (PathwiseStage(noise_market(), PLAN, seed) for seed in (3, 4))
    assert stage.advance(lambda: False) != other.advance(lambda: False)


@pytest.mark.parametrize(("kind", "step"), [(PathwiseStage, 3), (PpoStage, 0), (PpoStage, 2)])
def test_a_stopped_training_goes_on_as_if_it_had_not_been(
    kind: Any, step: int, uninterrupted: TrainedSeed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "CHECKPOINT_S", 0.0)
    with monkeypatch.context() as patch:
        stop_at(patch, kind, step)
        with pytest.raises(TrainingStopped, match="go on from the last checkpoint"):
            train_seed(noise_market(), PLAN, 3, tmp_path)
    assert (tmp_path / "seed-3.safetensors").exists()
    begun: list[tuple[str, int]] = []
    with monkeypatch.context() as patch:
        for stage in (PathwiseStage, PpoStage):
            _record(patch, stage, begun)
        resumed = train_seed(noise_market(), PLAN, 3, tmp_path)
    assert equal(uninterrupted, resumed)
    expected = {PathwiseStage: ("pathwise", 4), PpoStage: ("ppo", step)}
    assert begun[0] == (expected[kind] if step or kind is PathwiseStage else ("ppo", 0))


def _record(patch: pytest.MonkeyPatch, kind: Any, begun: list[tuple[str, int]]) -> None:
    advance = kind.advance

    def recorded(self: Any, stopped: Any) -> float | None:
        begun.append((self.name, self.step))
        found: float | None = advance(self, stopped)
        return found

    patch.setattr(kind, "advance", recorded)


def test_a_finished_training_is_not_done_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "CHECKPOINT_S", 0.0)
    one = train_seed(noise_market(), PLAN, 3, tmp_path)
    begun: list[tuple[str, int]] = []
    _record(monkeypatch, PathwiseStage, begun)
    _record(monkeypatch, PpoStage, begun)
    assert equal(one, train_seed(noise_market(), PLAN, 3, tmp_path))
    assert begun == []


def test_a_checkpoint_of_other_data_or_another_plan_is_not_used(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = noise_market()
    changed = noise_market()
    changed.trend[5, 0] += 1e-9
    marks = [training.fingerprint(data, PLAN, 3), training.fingerprint(changed, PLAN, 3),
             training.fingerprint(data, replace(PLAN, reach=0.4), 3), training.fingerprint(data, PLAN, 4)]  # fmt: skip
    assert len(set(marks)) == 4
    path = tmp_path / "seed-3.safetensors"
    write_checkpoint(path, Checkpoint(marks[0], {"stage": "ppo"}, {"a": torch.arange(3)}))
    found = read_checkpoint(path, marks[0])
    assert found is not None
    assert found.tensors["a"].tolist() == [0, 1, 2]
    with caplog.at_level(logging.WARNING):
        assert read_checkpoint(path, marks[1]) is None
        path.write_bytes(path.read_bytes()[:-3])
        assert read_checkpoint(path, marks[0]) is None
    assert "another training" in caplog.text
    assert "damaged" in caplog.text


def test_it_learns_a_market_that_can_be_known() -> None:
    """And what it learnt holds on data it has not seen."""
    draws = STEERING_DRAWS | {"drawdown_penalty": (0.0, 0.0), "turnover_penalty": (1.0, 1.0)}
    config = replace(static_config(from_unix(0), NO_LIMITS), drawdown_penalty=0.0)
    terms = Terms(costs=Costs(1.0, 0.0, 0.0), delays_s=(0,), no_trade_band=0.1, max_step=1.0, steering_draws=draws)
    plan = replace(PLAN, pathwise_steps=60, ppo_steps=4096, books=64, horizon=16, reach=1.0, terms=terms,
                   steering=config, learning_rate=1e-2)  # fmt: skip
    trained = train_seed(known_market(), plan, 0)
    assert str(trained.metrics["chosen"]).startswith(("pathwise", "ppo"))
    fresh = known_market(seed=1)
    assert score(fresh, trained.weights, plan)["reward"] > 0.1 > score(fresh, None, plan)["reward"] == 0.0


def test_where_nothing_beats_the_baseline_the_baseline_is_kept_and_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    rewards = {None: 0.5, "pathwise": 0.4, "ppo": 0.5}
    named = {"pathwise": _net(1.0), "ppo": _net(2.0)}

    def scored(data: TrainingData, weights: Weights | None, plan: TrainingPlan) -> dict[str, float]:
        name = next((name for name, net in named.items() if net is weights), None)
        return {"reward": rewards[name]}

    monkeypatch.setattr(training, "score", scored)
    weights, metrics = training._choose(named, noise_market(), PLAN)
    assert metrics["chosen"] == "baseline"
    assert not act_of(weights)(np.ones((3, 84), np.float32)).any()
    assert metrics["validation_reward_ppo"] == metrics["validation_reward_baseline"] == 0.5
    rewards["pathwise"] = 0.6
    weights, metrics = training._choose(named, noise_market(), PLAN)
    assert (metrics["chosen"], weights) == ("pathwise", named["pathwise"])


def _net(bias: float) -> Weights:
    return {"weight_0": np.zeros((1, 84), np.float32), "bias_0": np.array([bias], np.float32)}


def test_a_held_back_end_too_short_to_compare_on_is_said() -> None:
    data = noise_market(100)
    _, metrics = training._choose({"pathwise": _net(1.0)}, data.part(90, 100), PLAN)
    assert "24 are needed" in metrics["not_validated"]


def test_what_is_held_back_is_not_fitted() -> None:
    data = noise_market(1000)
    fitted, held_back = split(data, PLAN)
    assert held_back.times[0] - fitted.times[-1] == (PLAN.purge_steps + 1) * data.step_s
    assert len(held_back) == pytest.approx(150, abs=2)
    changed = noise_market(1000)
    for name in ("price", "trend", "volatility", "block"):
        getattr(changed, name)[-150:] *= 1.5
    stage, other = (PathwiseStage(split(d, PLAN)[0], PLAN, 0) for d in (data, changed))
    assert [stage.advance(lambda: False) for _ in range(3)] == [other.advance(lambda: False) for _ in range(3)]


def test_the_baseline_without_training_is_the_baseline() -> None:
    data = noise_market()
    silent = {name: array * 0 for name, array in PathwiseStage(data, PLAN, 0).weights().items()}
    assert score(data, silent, PLAN) == score(data, None, PLAN)


def test_a_short_history_is_seen_only_so_often() -> None:
    plan = TrainingPlan(1500, 200_000)
    assert plan.steps_for(noise_market(400))[0] < 30
    assert plan.steps_for(noise_market(400))[1] < 20_000
    assert plan.steps_for(noise_market(20_000))[0] > 450
    assert replace(plan, most_passes=None).steps_for(noise_market(400)) == (1500, 200_000)


def test_a_span_too_short_to_train_on_is_refused() -> None:
    with pytest.raises(JobError, match="longer span"):
        train_seed(noise_market(20), PLAN, 0)


def test_training_leaves_torch_and_numpy_as_they_were() -> None:
    torch.manual_seed(1)
    np.random.seed(1)
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), torch.get_num_threads()  # type: ignore[union-attr]
    train_seed(noise_market(200), replace(PLAN, pathwise_steps=1, ppo_steps=0), 0)
    assert torch.equal(before[0], torch.get_rng_state())
    assert np.array_equal(before[1], np.random.get_state()[1])  # type: ignore[arg-type]
    assert before[2] == torch.get_num_threads()


def test_the_curve_is_a_table_and_a_plot(uninterrupted: TrainedSeed, tmp_path: Path) -> None:
    table, plot = write_curve(uninterrupted.curve, tmp_path, "curve")
    lines = table.read_text().splitlines()
    assert lines[0] == ",".join(COLUMNS)
    assert len(lines) == 1 + len(uninterrupted.curve)
    assert {line.split(",")[1] for line in lines[1:]} == {"pathwise", "ppo"}
    assert plot.read_bytes()[:4] == b"\x89PNG"
