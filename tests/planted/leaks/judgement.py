"""Statistics and verdict: luck that passes for skill."""

from __future__ import annotations

from tests.planted.leak import Leak

BOOTSTRAP = "shared/performance/bootstrap.py"
DRAWN = "tests/shared/performance/test_bootstrap.py"

LEAKS = (
    Leak(
        "unpaired-bootstrap",
        "policy and baseline are drawn on different days",
        BOOTSTRAP,
        "baselines = counts @ own",
        "baselines = rng.permutation(counts, axis=1) @ own",
        (DRAWN,),
    ),
    Leak(
        "luck-of-the-seed-forgotten",
        "the bootstrap holds every seed in equal parts",
        BOOTSTRAP,
        "shares = seed_shares(len(policy), len(parts), size, rng)",
        "shares = np.full((size, len(parts), len(policy)), 1.0 / len(policy))",
        (DRAWN,),
    ),
    Leak(
        "days-drawn-one-by-one",
        "the bootstrap's blocks are single days, so clustered luck looks like evidence",
        BOOTSTRAP,
        "begins = rng.random((replicates, days)) < 1.0 / block",
        "begins = rng.random((replicates, days)) < 1.0",
        (DRAWN,),
    ),
    Leak(
        "best-seed-by-its-test",
        "the verdict is about the seed that did best in the test",
        "shared/performance/verdict.py",
        "difference = paired_difference(policy, baseline, folds, replicates=replicates, seed=seed)",
        "best = policy[[int(sharpes(policy).argmax())]]\n"
        "    difference = paired_difference(best, baseline, folds, replicates=replicates, seed=seed)",
        ("tests/shared/performance/test_leak_verdict.py",),
    ),
    Leak(
        "trials-counted-as-one",
        "the Sharpe ratio is not deflated by the trials that were made",
        "shared/performance/deflation.py",
        "best = expected_best(trials, used)",
        "best = expected_best(1, used)",
        ("tests/shared/performance/test_deflation.py",),
    ),
    Leak(
        "ledger-counts-recipes",
        "the ledger counts a recipe once however many seeds were looked at",
        "shared/performance/ledger.py",
        "{(t.kind, t.recipe_hash, t.daily_active_sharpe): t for t in self.entries}",
        "{(t.kind, t.recipe_hash): t for t in self.entries}",
        ("tests/shared/performance/test_ledger.py",),
    ),
    Leak(
        "shift-of-nothing",
        "the policy's own timing is among its random rivals",
        "policy/shifted_weights.py",
        "return np.sort(drawn) + least",
        "return np.sort(drawn)",
        ("tests/policy/test_shifted_weights.py",),
    ),
    Leak(
        "evaluations-shift-of-nothing",
        "in the evaluation, too, the policy's own timing is among its random rivals",
        "pipeline/evaluation/trials.py",
        "drawn = rng.integers(LEAST_SHIFT_DAYS * a_day,",
        "drawn = rng.integers(0,",
        ("tests/pipeline/test_leak_evaluation.py",),
    ),
    Leak(
        "another-days-baseline",
        "the baseline's returns are those of the day before",
        "pipeline/evaluation/fold.py",
        "tested.returns - baselines[BASELINE]",
        "tested.returns - np.roll(baselines[BASELINE], 1)",
        ("tests/pipeline/test_evaluate.py::test_the_ledger_has_one_trial_for_each_seed_of_each_fold",),
    ),
)  # fmt: skip
