"""The ensemble as ONNX: the median, and how far the nets agree."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
import torch

from policy.decision_kernel import OBSERVATION_SIZE
from policy.policy_export import export_ensemble
from policy.policy_network import ActorNet, Weights, act_of, baseline_of
from shared.onnx_check import check_onnx


def nets(count: int, size: float = 100.0) -> list[Weights]:
    found = []
    for seed in range(count):
        torch.manual_seed(seed)
        net = ActorNet((16, 8))
        with torch.no_grad():
            net.linear[-1].weight.mul_(size)
        found.append(net.weights())
    return found


def answer(onnx: bytes, observation: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    check_onnx(onnx)
    session = onnxruntime.InferenceSession(onnx, providers=["CPUExecutionProvider"])
    action, agreement = session.run(["action", "agreement"], {"observation": observation})
    return action, agreement


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("instruments", [1, 7])
def test_the_graph_is_median_and_agreement_in_numpy(count: int, instruments: int) -> None:
    seeds = nets(count)
    observation = np.random.default_rng(count).normal(size=(instruments, OBSERVATION_SIZE)).astype(np.float32)
    actions = np.array([act_of(net)(observation) for net in seeds])
    action, agreement = answer(export_ensemble(seeds), observation)
    assert action.shape == agreement.shape == (instruments,)
    np.testing.assert_allclose(action, np.median(actions, axis=0), atol=1e-5)
    np.testing.assert_allclose(agreement, np.clip(1.0 - actions.std(axis=0) / 0.5, 0.0, 1.0), atol=1e-5)


def test_actions_are_clipped_before_they_are_compared() -> None:
    """Two nets that both shout agree, however differently loud."""
    seeds = [dict(net) for net in nets(2, size=0.0)]
    for net, loud in zip(seeds, (5.0, 50.0), strict=True):
        net["bias_2"] = np.array([loud], np.float32)
    action, agreement = answer(export_ensemble(seeds), np.zeros((1, OBSERVATION_SIZE), np.float32))
    assert (action[0], agreement[0]) == (1.0, 1.0)


def test_nets_that_contradict_each_other_hold_nothing() -> None:
    seeds = [dict(net) for net in nets(2, size=0.0)]
    seeds[0]["bias_2"], seeds[1]["bias_2"] = np.array([1.0], np.float32), np.array([-1.0], np.float32)
    action, agreement = answer(export_ensemble(seeds), np.zeros((1, OBSERVATION_SIZE), np.float32))
    assert (action[0], agreement[0]) == (0.0, 0.0)


def test_an_ensemble_of_baselines_is_the_baseline() -> None:
    observation = np.random.default_rng(0).normal(size=(4, OBSERVATION_SIZE)).astype(np.float32)
    action, agreement = answer(export_ensemble([baseline_of(net) for net in nets(3)]), observation)
    assert not action.any()
    assert (agreement == 1.0).all()


def test_equal_weights_give_equal_bytes() -> None:
    assert export_ensemble(nets(3)) == export_ensemble(nets(3))


def test_what_does_not_belong_together_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        export_ensemble([])
    other = ActorNet((8, 8)).weights()
    with pytest.raises(ValueError, match="same layers"):
        export_ensemble([*nets(1), other])
