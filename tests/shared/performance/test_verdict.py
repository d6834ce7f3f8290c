"""The verdict's words, and how often they are right where the truth is known (issue 5, item 9)."""

from __future__ import annotations

import numpy as np
import pytest

from shared.performance import SharpeDifference, judge
from shared.performance.bootstrap import paired_difference
from shared.performance.planted import World, planted_worlds
from shared.performance.verdict import word_of

WORLDS = 200
YEAR = 365


def share_beats(world: World, years: int, replicates: int = 200) -> float:
    policies, baselines, folds = planted_worlds(world, WORLDS, years * YEAR, np.random.default_rng(years))
    words = [
        word_of(paired_difference(policy, baseline, folds, replicates=replicates))
        for policy, baseline in zip(policies, baselines, strict=True)
    ]
    return words.count("beats") / WORLDS


@pytest.mark.parametrize(
    "world", [World(), World(same_volatility=False), World(information_ratio=-0.5)], ids=["equal", "noise", "worse"]
)
def test_no_skill_is_said_to_beat_in_at_most_one_world_of_twenty(world: World) -> None:
    assert share_beats(world, years=4) <= 0.05


def test_an_information_ratio_of_one_is_found_in_six_years() -> None:
    """Six, as four are too few for any honest test: the best possible one finds 64 % (bench/verdict.py)."""
    assert share_beats(World(information_ratio=1.0), years=6) >= 0.75


def test_planted_worlds_are_what_they_say() -> None:
    world = World(information_ratio=1.0)
    policies, baselines, folds = planted_worlds(world, 400, 1000, np.random.default_rng(1))
    active = policies - baselines[:, None]
    assert np.sqrt(active.var(axis=2).mean() * YEAR) == pytest.approx(0.10, rel=0.03)
    assert active.mean() * YEAR == pytest.approx(0.10, rel=0.05)
    assert (policies.std(axis=2) / baselines.std(axis=1)[:, None]).mean() == pytest.approx(1.0, rel=0.01)
    assert np.sqrt(baselines.var(axis=1).mean() * YEAR) == pytest.approx(0.20, rel=0.03)
    assert np.unique(folds).tolist() == [0, 1, 2, 3]
    lean = np.mean([np.corrcoef(a[1:], a[:-1])[0, 1] for a in active.reshape(-1, 1000)])
    assert 0.02 < lean < 0.06
    noisier, _, _ = planted_worlds(World(same_volatility=False), 400, 1000, np.random.default_rng(1))
    assert (noisier.std(axis=2) / baselines.std(axis=1)[:, None]).mean() == pytest.approx(np.sqrt(1.25), rel=0.01)


@pytest.mark.parametrize(
    ("above_0", "above_minus_02", "word"),
    [
        (0.95, 1.0, "beats"),
        (0.9499, 0.99, "not worse"),
        (0.2, 0.9, "not worse"),
        (0.2, 0.8999, "baseline wins"),
    ],
)
def test_the_words_follow_from_the_probabilities(above_0: float, above_minus_02: float, word: str) -> None:
    assert word_of(SharpeDifference(0.0, -1.0, 1.0, above_0, above_minus_02, 5.0, 100)) == word


def days(annual_sharpe: float, n: int = 1500, seed: int = 1) -> np.ndarray:
    shocks = np.random.default_rng(seed).standard_normal(n)
    standard = (shocks - shocks.mean()) / shocks.std(ddof=1)
    return 0.01 * standard + 0.01 * annual_sharpe / np.sqrt(YEAR)


def test_a_policy_that_is_the_baseline_is_not_worse_and_does_not_beat() -> None:
    verdict = judge(np.stack([days(1.0)] * 3), days(1.0), trials=5, replicates=100)
    assert (verdict.word, verdict.p_above_0, verdict.p_above_minus_02) == ("not worse", 0.0, 1.0)
    assert (verdict.deflated, verdict.flags) == (None, ())


def test_the_verdict_carries_its_figures_and_reasons() -> None:
    verdict = judge(days(1.5), days(0.5), replicates=100)
    assert verdict.word == "beats"
    assert (verdict.policy_sharpe, verdict.baseline_sharpe) == (pytest.approx(1.5), pytest.approx(0.5))
    assert verdict.difference.point == pytest.approx(1.0)
    assert "Sharpe difference +1.00" in verdict.reasons[0]
    assert "at least the 0.95 asked for by “beats”" in verdict.reasons[1]
    assert "below the 0.95" in judge(days(0.5), days(1.5), replicates=100).reasons[1]


def test_what_is_too_good_is_a_suspected_bug() -> None:
    assert judge(days(1.99), days(0.5), replicates=100).flags == ()
    (flag,) = judge(np.stack([days(1.0), days(2.01)]), days(0.5), replicates=100).flags
    assert flag.startswith("suspected bug: a net Sharpe of 2.01")


def test_a_short_span_is_flagged() -> None:
    (flag,) = judge(days(1.0, 1000), days(0.5, 1000), replicates=100).flags
    assert flag.startswith("short span: 1000 days")


def test_many_trials_are_flagged() -> None:
    policy, baseline = days(1.0) + 0.3 * days(0.5, seed=3), days(1.0)
    few, many = (judge(policy, baseline, trials=trials, replicates=100) for trials in (1, 1000))
    assert few.deflated is not None
    assert many.deflated is not None
    assert few.deflated.probability > many.deflated.probability
    assert many.flags[-1].startswith("after 1000 trials")
    assert many.word == few.word  # told beside the word, not in it
