"""The verdict is about all seeds that were trained, not about the one that was lucky in the test."""

from __future__ import annotations

import numpy as np

from shared.performance import judge
from shared.performance.bootstrap import paired_difference


def test_a_lucky_seed_does_not_speak_for_the_others() -> None:
    rng = np.random.default_rng(1)
    baseline = rng.normal(0.0005, 0.01, 1200)
    policy = baseline + rng.normal(0.0, 0.004, (5, 1200))
    policy[3] += 0.002  # by itself it would beat the baseline clearly
    assert judge(policy[3], baseline, replicates=200).word == "beats"
    policy[4] -= 0.0025
    verdict = judge(policy, baseline, replicates=200, seed=4)
    assert verdict.difference == paired_difference(policy, baseline, replicates=200, seed=4)
    assert verdict.word != "beats"
    assert verdict.p_above_0 < 0.9
