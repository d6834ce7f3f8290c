"""The net that looks at one instrument, and its place in Stable-Baselines3."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest
import torch

from policy.decision_kernel import OBSERVATION_SIZE
from policy.observation import STRUCTURAL, observation_names
from policy.policy_network import ActorNet, InstrumentPolicy, act_of, baseline_of


def make_net(seed: int = 0) -> ActorNet:
    torch.manual_seed(seed)
    net = ActorNet((16, 8))
    with torch.no_grad():
        net.linear[-1].weight.mul_(100.0)
    return net


def rows(n: int = 5, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, OBSERVATION_SIZE)).astype(np.float32)


def make_policy(n: int, net: ActorNet) -> InstrumentPolicy:
    policy = InstrumentPolicy(
        gymnasium.spaces.Box(-5.0, 5.0, (n * OBSERVATION_SIZE,), np.float32),
        gymnasium.spaces.Box(-1.0, 1.0, (n,), np.float32),
        lambda _: 1e-3,
        net_arch=[16, 8],
    )
    policy.actor.load(net.weights())
    return policy


def test_a_fresh_net_starts_at_the_baseline() -> None:
    torch.manual_seed(1)
    assert np.abs(act_of(ActorNet().weights())(rows(200))).max() < 0.1


@pytest.mark.parametrize("name", STRUCTURAL)
def test_what_is_structural_does_not_reach_the_action(name: str) -> None:
    seen = rows()
    changed = seen.copy()
    changed[:, observation_names().index(name)] += 3.0
    net = make_net()
    assert np.array_equal(act_of(net.weights())(seen), act_of(net.weights())(changed))
    with torch.no_grad():
        assert torch.equal(net(torch.from_numpy(seen)), net(torch.from_numpy(changed)))


def test_everything_else_reaches_the_action() -> None:
    act, seen = act_of(make_net().weights()), rows(1)
    for k, name in enumerate(observation_names()):
        changed = seen.copy()
        changed[:, k] += 0.5
        assert (act(changed) != act(seen)).any() == (name not in STRUCTURAL), name


def test_each_instrument_is_judged_by_its_own_row_alone() -> None:
    act, seen = act_of(make_net().weights()), rows(4)
    np.testing.assert_allclose(act(seen), [act(row[None])[0] for row in seen], rtol=1e-5, atol=1e-7)


def test_numpy_and_torch_say_the_same() -> None:
    net, seen = make_net(), rows(50)
    with torch.no_grad():
        expected = net(torch.from_numpy(seen)).clamp(-1.0, 1.0).numpy()
    np.testing.assert_allclose(act_of(net.weights())(seen), expected, atol=1e-5)


def test_the_policy_of_stable_baselines_applies_the_same_net_to_every_instrument() -> None:
    net, seen = make_net(), rows(6)
    policy = make_policy(3, net)
    actions, _ = policy.predict(seen.reshape(2, -1), deterministic=True)
    np.testing.assert_allclose(actions.reshape(-1), act_of(net.weights())(seen), atol=1e-5)


def test_the_critic_does_not_mind_the_order_of_instruments() -> None:
    policy, seen = make_policy(3, make_net()), rows(3)
    forward = policy.predict_values(torch.from_numpy(seen.reshape(1, -1)))
    backward = policy.predict_values(torch.from_numpy(seen[::-1].copy().reshape(1, -1)))
    torch.testing.assert_close(forward, backward)


def test_what_policy_learns_is_what_the_actor_exports() -> None:
    policy = make_policy(2, make_net())
    observation = torch.from_numpy(rows(2).reshape(1, -1))
    before = policy.actor.weights()
    _, log_probability, _ = policy.evaluate_actions(observation, torch.ones((1, 2)))
    policy.optimizer.zero_grad()
    (-log_probability.mean()).backward()
    policy.optimizer.step()
    assert any((before[name] != array).any() for name, array in policy.actor.weights().items())


def test_a_net_at_the_baseline_always_answers_zero() -> None:
    assert not act_of(baseline_of(make_net().weights()))(rows(100)).any()


def test_weights_of_another_shape_are_refused() -> None:
    with pytest.raises(ValueError, match="weight_0 must be"):
        ActorNet((8, 8)).load(make_net().weights())
