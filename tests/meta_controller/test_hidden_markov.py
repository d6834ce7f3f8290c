from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from meta_controller.regimes import hidden_markov
from meta_controller.regimes.hidden_markov import STATES, emissions, forward, learn, moments, observe, smoothed, weigh
from meta_controller.regimes.states import FILTER_S, STEP_S, in_steps
from shared.rows import FloatArray, IntArray
from tests.meta_controller.test_states import fitted, market

seeds = st.integers(0, 10_000)


def small_chain(seed: int, steps: int = 5, states: int = 3) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Likelihoods of one sequence, transition and start."""
    rng = np.random.default_rng(seed)
    likelihoods: FloatArray = rng.uniform(0.01, 1.0, (steps, 1, states))
    return likelihoods, rng.dirichlet(np.ones(states), states), rng.dirichlet(np.ones(states))


def joint(likelihoods: FloatArray, transition: FloatArray, start: FloatArray) -> dict[tuple[int, ...], float]:
    """The probability of every path together with the observations."""
    steps, _, states = likelihoods.shape
    found = {}
    for path in product(range(states), repeat=steps):
        p = start[path[0]] * likelihoods[0, 0, path[0]]
        for t in range(1, steps):
            p *= transition[path[t - 1], path[t]] * likelihoods[t, 0, path[t]]
        found[path] = float(p)
    return found


@given(seeds)
def test_filtered_is_what_summing_over_all_paths_gives(seed: int) -> None:
    likelihoods, transition, start = small_chain(seed)
    found = forward(likelihoods, transition, start)
    for t in range(len(likelihoods)):
        paths = joint(likelihoods[: t + 1], transition, start)
        by_state = np.zeros(3)
        for path, p in paths.items():
            by_state[path[t]] += p
        assert found[t, 0] == pytest.approx(by_state / by_state.sum(), rel=1e-9)


@given(seeds)
def test_learning_counts_what_summing_over_all_paths_gives(seed: int) -> None:
    likelihoods, transition, start = small_chain(seed)
    paths = joint(likelihoods, transition, start)
    total = sum(paths.values())
    share, moves = np.zeros((5, 3)), np.zeros((3, 3))
    for path, p in paths.items():
        for t, state in enumerate(path):
            share[t, state] += p / total
            if t:
                moves[path[t - 1], state] += p / total
    found_share, found_moves = smoothed(likelihoods, transition, start)
    assert found_share[:, 0] == pytest.approx(share, rel=1e-9)
    assert found_moves == pytest.approx(moves, rel=1e-9)


def drawn(seed: int, steps: int = 180, count: int = 40) -> tuple[FloatArray, IntArray]:
    """Sequences [steps, count, 1] of four states a standard deviation apart, that stay with probability 0.94."""
    rng = np.random.default_rng(seed)
    states = np.empty((steps, count), np.int64)
    states[0] = rng.integers(0, STATES, count)
    for t in range(1, steps):
        states[t] = np.where(rng.random(count) < 0.92, states[t - 1], rng.integers(0, STATES, count))
    means = np.array([-1.5, -0.5, 0.5, 1.5])
    observed: FloatArray = means[states] + 0.3 * rng.standard_normal(states.shape)
    return observed[..., None], states


def test_a_planted_chain_is_found_again() -> None:
    observed, states = drawn(3)
    found = learn(observed)
    assert found["means"] == pytest.approx([-1.5, -0.5, 0.5, 1.5], abs=0.05)
    assert found["variances"] == pytest.approx([0.09] * 4, abs=0.02)
    assert np.diag(found["transition"]) == pytest.approx([0.94] * 4, abs=0.02)
    assert np.sum(found["transition"], axis=1) == pytest.approx(np.ones(4), abs=1e-12)
    later, states = drawn(4)
    assert (weigh(later, found).argmax(axis=2) == states).mean() > 0.95


def test_memory_tells_states_apart_that_a_single_look_does_not() -> None:
    observed, states = drawn(3)
    blurred = observed + np.random.default_rng(5).normal(0.0, 0.8, observed.shape)
    found = learn(blurred)
    likelihoods = emissions(blurred[..., 0], np.array(found["means"]), np.array(found["variances"]))
    alone = (likelihoods.argmax(axis=2) == states).mean()
    assert (weigh(blurred, found).argmax(axis=2) == states).mean() > alone + 0.1


def test_a_filter_forgets_where_it_began() -> None:
    """A call's filter begins FILTER_S before its block: it says what one that began twice as long ago says."""
    history = market(6000)
    observed = observe(history)
    step, steps, states = history.bars(STEP_S), FILTER_S // STEP_S, fitted("hidden_markov")["states"]
    long, short = (weigh(in_steps(observed[-n * step :], step), states) for n in (2 * steps, steps))
    assert abs(long[-1] - short[-1]).max() < 1e-6
    assert abs(long[steps] - short[0]).max() > 1e-3  # where it begins they differ


def test_a_state_that_nothing_is_in_has_the_moments_of_the_whole() -> None:
    scores = np.random.default_rng(0).normal(1.0, 2.0, (50, 2))
    share = np.zeros((50, 2, STATES))
    share[..., 0] = 1.0
    means, variances = moments(scores, share)
    assert means == pytest.approx([scores.mean()] * STATES)
    assert variances == pytest.approx([scores.var()] * STATES)


def test_no_variance_falls_below_its_floor() -> None:
    found = learn(np.zeros((100, 8, 1)))
    assert min(found["variances"]) == 0.05
    assert np.isfinite(weigh(np.full((10, 8, 1), 4.0), found)).all()


def test_a_calm_step_is_seen_from_a_wild_one() -> None:
    history = market(6000)
    scores = observe(history)[:, 0]
    weights = weigh(in_steps(scores[:, None], 4), fitted("hidden_markov")["states"]).reshape(-1, STATES)
    wildness = weights @ np.arange(STATES)
    assert np.corrcoef(wildness, scores)[0, 1] > 0.8


def test_states_that_learning_left_in_another_order_are_put_in_that_of_volatility(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    observed, _ = drawn(3)
    whole = learn(observed)

    def upside_down(scores: FloatArray, share: FloatArray) -> tuple[FloatArray, FloatArray]:
        means, variances = moments(scores, share)
        return means[::-1], variances[::-1] * np.array([4.0, 3.0, 2.0, 1.0])

    monkeypatch.setattr(hidden_markov, "moments", upside_down)
    monkeypatch.setattr(hidden_markov, "ITERATIONS", 0)
    found = learn(observed)
    assert found["means"] == sorted(found["means"])
    assert found["variances"] == sorted(found["variances"])
    assert found["means"] == pytest.approx(whole["means"], abs=0.3)
