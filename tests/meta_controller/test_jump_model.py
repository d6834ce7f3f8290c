from __future__ import annotations

import dataclasses
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from meta_controller.regimes import jump_model
from meta_controller.regimes.jump_model import (
    PENALTY,
    STATES,
    best_path,
    costs,
    forward_values,
    learn,
    means,
    observe,
    weigh,
)
from shared.rows import FloatArray, IntArray
from tests.meta_controller.test_states import market

seeds = st.integers(0, 10_000)
penalties = st.sampled_from([0.0, 0.3, 1.0, 10.0])


def total_cost(cost: FloatArray, path: tuple[int, ...], penalty: float) -> float:
    jumps = sum(a != b for a, b in zip(path[1:], path[:-1], strict=True))
    return float(sum(cost[t, 0, state] for t, state in enumerate(path))) + penalty * jumps


@given(seed=seeds, penalty=penalties)
def test_forward_values_are_the_least_costs_of_paths_that_end_there(seed: int, penalty: float) -> None:
    cost = np.random.default_rng(seed).uniform(0.0, 2.0, (5, 1, 3))
    found = forward_values(cost, penalty)
    for t in range(5):
        least = np.full(3, np.inf)
        for path in product(range(3), repeat=t + 1):
            least[path[-1]] = min(least[path[-1]], total_cost(cost, path, penalty))
        assert found[t, 0] == pytest.approx(least - least.min(), abs=1e-12)


@given(seed=seeds, penalty=penalties)
def test_the_best_path_costs_the_least(seed: int, penalty: float) -> None:
    cost = np.random.default_rng(seed).uniform(0.0, 2.0, (6, 1, 3))
    found = tuple(best_path(cost, penalty)[:, 0].tolist())
    least = min(total_cost(cost, path, penalty) for path in product(range(3), repeat=6))
    assert total_cost(cost, found, penalty) == pytest.approx(least, abs=1e-12)


def objective(observed: FloatArray, path: IntArray, centres: FloatArray) -> float:
    chosen = np.take_along_axis(costs(observed, centres), path[..., None], axis=2)
    return float(chosen.sum() + PENALTY * (np.diff(path, axis=0) != 0).sum())


@given(seeds)
def test_neither_half_of_a_round_makes_the_fit_worse(seed: int) -> None:
    rng = np.random.default_rng(seed)
    observed = rng.normal(0.0, 3.0, (40, 5, 2))
    centres = rng.normal(0.0, 1.0, (STATES, 2))
    path = rng.integers(0, STATES, (40, 5))
    last = objective(observed, path, centres)
    for _ in range(4):
        path = best_path(costs(observed, centres), PENALTY)
        halfway = objective(observed, path, centres)
        centres = means(observed, path, centres)
        now = objective(observed, path, centres)
        assert now <= halfway + 1e-9 <= last + 2e-9
        last = now


def planted(seed: int) -> tuple[FloatArray, IntArray]:
    """Sequences [180, 24, 6] of three states of 30 steps each, wilder from one to the next."""
    rng = np.random.default_rng(seed)
    states = np.repeat(rng.integers(0, STATES, (6, 24)), 30, axis=0)
    observed: FloatArray = rng.normal(0.0, 0.7, (180, 24, 6))
    observed[..., :3] += (1.5 * (states - 1))[..., None]
    return observed, states


def test_planted_states_are_found_again_and_seen_online() -> None:
    observed, _ = planted(1)
    found = learn(observed)
    assert np.array(found["centres"])[:, :3] == pytest.approx(np.array([[-1.5] * 3, [0.0] * 3, [1.5] * 3]), abs=0.1)
    later, states = planted(2)
    online = weigh(later, found).argmax(axis=2)
    assert (online == states)[np.arange(180) % 30 >= 10].mean() > 0.99
    assert (np.diff(online, axis=0) != 0).sum(axis=0).mean() < 6.0


def test_a_state_is_left_once_the_evidence_has_paid_the_penalty() -> None:
    """Where the centres are two apart a step in the wrong one costs 2: a penalty of 10 is outdone by the sixth."""
    observed = np.full((60, 1, 1), -1.0)
    observed[20:24] = 1.0  # a blip
    observed[40:] = 1.0
    states = weigh(observed, {"centres": [[-1.0], [1.0]], "penalty": 10.0}).argmax(axis=2)[:, 0]
    assert states.tolist() == [0] * 45 + [1] * 15


@given(seeds)
def test_the_likeliest_state_is_the_cheapest(seed: int) -> None:
    rng = np.random.default_rng(seed)
    observed, centres = rng.normal(size=(20, 3, 2)), rng.normal(size=(STATES, 2))
    weights = weigh(observed, {"centres": centres.tolist(), "penalty": 1.0})
    assert weights.sum(axis=2) == pytest.approx(np.ones((20, 3)), abs=1e-12)
    assert np.array_equal(weights.argmax(axis=2), forward_values(costs(observed, centres), 1.0).argmin(axis=2))


def test_a_higher_penalty_jumps_less() -> None:
    cost = np.random.default_rng(0).uniform(0.0, 2.0, (200, 4, 3))
    jumps = [(np.diff(best_path(cost, penalty), axis=0) != 0).sum() for penalty in (0.0, 1.0, 3.0, 100.0)]
    assert jumps == sorted(jumps, reverse=True)
    assert jumps[-1] == 0 < jumps[-2]


def test_a_state_never_taken_keeps_its_centre() -> None:
    observed, path = np.ones((4, 2, 2)), np.zeros((4, 2), np.int64)
    otherwise = np.arange(6.0).reshape(3, 2)
    assert means(observed, path, otherwise).tolist() == [[1.0, 1.0], [2.0, 3.0], [4.0, 5.0]]


def test_features_know_a_rise_from_a_fall_and_a_fall_is_the_wilder_downside() -> None:
    history = market(3000)
    rise, fall = history.returns.copy(), history.returns.copy()
    rise[-24:], fall[-24:] = abs(rise[-24:]), -abs(fall[-24:])
    up, down = (observe(dataclasses.replace(history, returns=returns))[-1] for returns in (rise, fall))
    assert up[:2] == pytest.approx(down[:2], abs=1e-9)  # the size of returns is the same
    assert up[2] < down[2]
    assert (up[3:5] > 0).all()
    assert (down[3:5] < 0).all()


def test_learning_ends_when_nothing_moves(monkeypatch: pytest.MonkeyPatch) -> None:
    observed, _ = planted(1)
    found = learn(observed)
    monkeypatch.setattr(jump_model, "ITERATIONS", 200)
    assert learn(observed) == found
