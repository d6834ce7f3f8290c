"""A Gaussian hidden Markov model of the logarithm of volatility, filtered.

Four states of volatility over the last STEP_S against the last half-year's, learnt by expectation-maximisation
(Baum et al. 1970; scaled recursions as in Rabiner 1989, §V.A). A call uses the probabilities of the states given the
past only, by the forward recursion: neither the backward one nor Viterbi's path, which know what came later.

Returns are no second observation: on BTC and ETH, 2019 to 2021, they took from the volatility's skill and added
nothing to the trend's.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from meta_controller.market_index import MarketHistory
from meta_controller.regimes.expert import Parameters
from meta_controller.regimes.states import STEP_S, StateModel, volatility_score
from shared.rows import FloatArray

STATES = 4
ITERATIONS = 20  # 40 call the same to the fourth digit
STAY = 0.95  # of a step: where the transitions begin
LEAST_VARIANCE = 0.05  # of the scores, whose own is near 1: no state shrinks to a point
PSEUDO_COUNT = 1.0  # of each transition, and of the whole sample in each state: none is ever empty


def observe(history: MarketHistory) -> FloatArray:
    return volatility_score(history, STEP_S)[:, None]


def learn(observed: FloatArray) -> dict[str, Any]:
    """Parameters from sequences [steps, sequences, 1]; states in the order of their volatility."""
    scores = observed[..., 0]
    share = np.eye(STATES)[np.searchsorted(np.quantile(scores, np.arange(1, STATES) / STATES), scores)]
    means, variances = moments(scores, share)
    transition = np.full((STATES, STATES), (1.0 - STAY) / (STATES - 1))
    np.fill_diagonal(transition, STAY)
    start = np.full(STATES, 1.0 / STATES)
    for _ in range(ITERATIONS):
        likelihoods = emissions(scores, means, variances)
        share, moves = smoothed(likelihoods, transition, start)
        means, variances = moments(scores, share)
        transition = (moves + PSEUDO_COUNT) / (moves + PSEUDO_COUNT).sum(axis=1, keepdims=True)
        start = (share[0].sum(axis=0) + PSEUDO_COUNT) / (share.shape[1] + STATES * PSEUDO_COUNT)
    order = np.argsort(means, kind="stable")
    return {"means": means[order].tolist(), "variances": variances[order].tolist(), "start": start[order].tolist(),
            "transition": transition[np.ix_(order, order)].tolist()}  # fmt: skip


def weigh(observed: FloatArray, parameters: Parameters) -> FloatArray:
    """P(state | the observations up to each step), [steps, sequences, states]."""
    means, variances, transition, start = (
        np.array(parameters[name]) for name in ("means", "variances", "transition", "start")
    )
    return forward(emissions(observed[..., 0], means, variances), transition, start)


def emissions(scores: FloatArray, means: FloatArray, variances: FloatArray) -> FloatArray:
    """How likely each score is in each state, [..., states], relative to the state where it is likeliest."""
    logs = -0.5 * ((scores[..., None] - means) ** 2 / variances + np.log(variances))
    return np.asarray(np.exp(logs - logs.max(axis=-1, keepdims=True)))


def forward(likelihoods: FloatArray, transition: FloatArray, start: FloatArray) -> FloatArray:
    """P(state at t | observations up to t), [steps, sequences, states], for ``likelihoods`` of that shape."""
    found = np.empty_like(likelihoods)
    expected = np.broadcast_to(start, likelihoods.shape[1:])
    for t, likelihood in enumerate(likelihoods):
        joint = expected * likelihood
        found[t] = joint / joint.sum(axis=-1, keepdims=True)
        expected = (found[t][:, :, None] * transition).sum(axis=1)
    return found


def smoothed(likelihoods: FloatArray, transition: FloatArray, start: FloatArray) -> tuple[FloatArray, FloatArray]:
    """For learning only: P(state at t | all observations), [steps, sequences, states], and how often each state is
    expected to have followed each, [states, states]."""
    before = forward(likelihoods, transition, start)
    after = np.ones_like(likelihoods)
    for t in range(len(likelihoods) - 2, -1, -1):
        back = ((likelihoods[t + 1] * after[t + 1])[:, None, :] * transition).sum(axis=-1)
        after[t] = back / back.sum(axis=-1, keepdims=True)
    share = before * after
    share /= share.sum(axis=-1, keepdims=True)
    pairs = before[:-1, :, :, None] * transition * (likelihoods[1:] * after[1:])[:, :, None, :]
    pairs /= pairs.sum(axis=(-1, -2), keepdims=True)
    return share, pairs.sum(axis=(0, 1))


def moments(scores: FloatArray, share: FloatArray) -> tuple[FloatArray, FloatArray]:
    """The mean and the variance of each state's scores, [states]; PSEUDO_COUNT of the whole sample in each."""
    weight = share.sum(axis=(0, 1)) + PSEUDO_COUNT
    means = ((share * scores[..., None]).sum(axis=(0, 1)) + PSEUDO_COUNT * scores.mean()) / weight
    squares = (share * (scores[..., None] - means) ** 2).sum(axis=(0, 1)) + PSEUDO_COUNT * scores.var()
    return means, np.maximum(squares / weight, LEAST_VARIANCE)


EXPERT = StateModel(observe, learn, weigh).expert()
