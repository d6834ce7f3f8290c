"""PBO against a literal cross-validation, and SPA's direction."""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import pytest

from shared.performance.overfitting import probability_of_backtest_overfitting, superior_predictive_ability
from shared.rows import FloatArray


def noise(days: int, candidates: int, seed: int) -> FloatArray:
    return np.random.default_rng(seed).standard_t(5, (days, candidates)) * 0.01


def literally(returns: FloatArray, blocks: int) -> list[float]:
    """The logits of Bailey et al., section 2, one split at a time."""
    parts = np.split(returns[len(returns) % blocks :], blocks)
    logits = []
    for chosen in combinations(range(blocks), blocks // 2):
        inside = np.concatenate([parts[i] for i in chosen])
        outside = np.concatenate([parts[i] for i in range(blocks) if i not in chosen])
        best = int(np.argmax(inside.mean(axis=0) / inside.std(axis=0)))
        ratios = outside.mean(axis=0) / outside.std(axis=0)
        omega = (1 + int((ratios < ratios[best]).sum())) / (returns.shape[1] + 1)
        logits.append(math.log(omega / (1 - omega)))
    return logits


@pytest.mark.parametrize(("days", "blocks"), [(48, 4), (103, 6), (64, 8)])
def test_the_logits_are_those_of_the_literal_cross_validation(days: int, blocks: int) -> None:
    returns = noise(days, 5, days)
    found = probability_of_backtest_overfitting(returns, blocks)
    expected = literally(returns, blocks)
    assert found.logits.tolist() == pytest.approx(expected)
    assert found.probability == np.mean(np.array(expected) <= 0)


def test_sixteen_blocks_are_split_in_all_12870_ways() -> None:
    assert len(probability_of_backtest_overfitting(noise(1000, 20, 1)).logits) == 12_870


def test_the_best_of_noise_is_overfitted() -> None:
    found = [probability_of_backtest_overfitting(noise(600, 20, seed), 10) for seed in range(12)]
    assert np.mean([one.probability for one in found]) == pytest.approx(0.5, abs=0.12)
    assert np.mean([one.loss for one in found]) == pytest.approx(0.5, abs=0.15)


def test_one_candidate_with_skill_is_not() -> None:
    returns = noise(600, 20, 1)
    returns[:, 3] += 0.003
    found = probability_of_backtest_overfitting(returns, 10)
    assert found.probability < 0.01
    assert found.loss < 0.01


def test_copies_of_one_candidate_rank_in_the_middle() -> None:
    copies = np.repeat(noise(200, 1, 1), 5, axis=1)
    assert np.abs(probability_of_backtest_overfitting(copies, 4).logits) == pytest.approx(0)


@pytest.mark.parametrize(("shape", "blocks"), [((100, 1), 4), ((100, 3), 5), ((7, 3), 4)])
def test_what_cannot_be_split_is_refused(shape: tuple[int, int], blocks: int) -> None:
    with pytest.raises(ValueError, match=r"two candidates|even number"):
        probability_of_backtest_overfitting(np.ones(shape), blocks)


def test_superior_ability_is_found_where_it_is_and_only_there() -> None:
    models, benchmark = noise(800, 6, 105), noise(800, 1, 205)[:, 0]
    nothing = superior_predictive_ability(models, benchmark, replicates=300)
    assert nothing.consistent > 0.1
    assert nothing.lower <= nothing.consistent <= nothing.upper
    models[:, 2] += 0.003
    assert superior_predictive_ability(models, benchmark, replicates=300).upper < 0.01
    assert superior_predictive_ability(models - 0.01, benchmark, replicates=300).consistent >= 0.5


def test_the_benchmark_itself_is_no_model() -> None:
    benchmark = noise(100, 1, 2)[:, 0]
    with pytest.raises(ValueError, match="model 1 never differs"):
        superior_predictive_ability(np.stack([benchmark * 2, benchmark], axis=1), benchmark)
