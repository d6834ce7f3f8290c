"""What a feature is worth: the R² lost without it, out of sample, with an error that lets noise be noise."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from encoder import feature_importance
from encoder.feature_importance import (
    Importance,
    Selection,
    fit_lightgbm,
    fit_ridge,
    importance,
    select,
    stand_ins,
)
from shared.rows import FloatArray, IntArray

N, HOUR, DAY = 3000, 3600, 86_400
PURGE = 5 * DAY


def closes(n: int = N) -> IntArray:
    return 1_700_006_400 + HOUR * np.arange(n)  # 24 a day, from midnight


def market(seed: int = 0) -> tuple[FloatArray, FloatArray]:
    """Six features of which the target knows 0 (as it is), 1 (bent) and 5 (by day); 2, 3 and 4 are noise."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(N, 6))
    features[:, 5] = rng.normal(size=N // 24 + 1)[np.arange(N) // 24]
    target = features[:, 0] + np.abs(features[:, 1]) + features[:, 5] + rng.normal(size=N)
    return features, target


def test_what_the_target_knows_is_found_and_noise_is_not() -> None:
    features, target = market()
    found = importance(features, target, closes(), PURGE)
    assert list(found) == ["ridge", "lightgbm"]
    assert found["ridge"].kept.tolist() == [True, False, False, False, False, False]
    assert found["lightgbm"].kept.tolist() == [True, True, False, False, False, False]
    variance = 1 + (1 - 2 / np.pi) + 1 + 1
    assert found["ridge"].r2 == pytest.approx(2 / variance, abs=0.1)
    assert found["ridge"].lost[0] == pytest.approx(2 / variance, abs=0.1)  # shuffled: twice the variance it explained
    assert found["lightgbm"].r2 > found["ridge"].r2 + 0.05


def test_shuffled_within_days_what_is_the_same_all_day_loses_nothing() -> None:
    features, target = market()
    for found in importance(features, target, closes(), PURGE).values():
        assert found.lost[5] == found.error[5] == 0.0


def test_noise_is_kept_no_more_often_than_two_errors_allow() -> None:
    rng = np.random.default_rng(1)
    features = rng.normal(size=(N, 40))
    target = np.repeat(rng.normal(size=N // 24), 24) + 0.3 * rng.normal(size=N)  # a day's label is much the same
    kept = importance(features, target + 4 * features[:, 0], closes(), PURGE)["ridge"].kept
    assert kept[0]
    assert kept[1:].sum() <= 4


def test_the_same_seed_gives_the_same_bits_and_another_one_others() -> None:
    features, target = market()
    one, same, other = (importance(features, target, closes(), PURGE, seed) for seed in (3, 3, 4))
    for model in one:
        assert one[model].lost.tobytes() == same[model].lost.tobytes()
        assert one[model].lost.tobytes() != other[model].lost.tobytes()


def test_rows_may_come_in_any_order_and_targets_may_be_unknown() -> None:
    features, target = market()
    more = np.concatenate([features, np.full((500, 6), 9.0)])
    unknown = np.concatenate([target, np.full(500, np.nan)])
    at = np.concatenate([closes(), closes(500)])
    order = np.random.default_rng(0).permutation(len(at))
    expected = importance(features, target, closes(), PURGE)
    actual = importance(more[order], unknown[order], at[order], PURGE)
    for model in expected:
        assert actual[model].lost.tobytes() == expected[model].lost.tobytes()


def parts(
    monkeypatch: pytest.MonkeyPatch, features: FloatArray, at: IntArray, purge_s: int
) -> tuple[set[int], set[int]]:
    """The rows that were fitted and those that were scored, told by the features' last column."""
    seen: list[set[int]] = []

    def fit(known: FloatArray, target: FloatArray, seed: int) -> Callable[[FloatArray], FloatArray]:
        seen.append(set(target.astype(int).tolist()))
        return lambda new: np.zeros(len(new))

    def score(_: object, __: FloatArray, target: FloatArray, *___: object) -> Importance:
        seen.append(set(target.astype(int).tolist()))
        return Importance(0.0, np.zeros(1), np.zeros(1))

    monkeypatch.setattr(feature_importance, "MODELS", {"ridge": fit})
    monkeypatch.setattr(feature_importance, "_score", score)
    importance(features, np.arange(len(at), dtype=float), at, purge_s)
    return seen[0], seen[1]


def test_what_is_fitted_ends_a_purge_before_what_is_scored(monkeypatch: pytest.MonkeyPatch) -> None:
    early, later = parts(monkeypatch, np.zeros((N, 1)), closes(), PURGE)
    assert early == set(range(2100 - 120 + 1))  # the last one ends 120 hours before the first that is scored
    assert later == set(range(2100, N))


def test_of_many_later_windows_some_are_scored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feature_importance, "MOST_LATER", 50)
    _, later = parts(monkeypatch, np.zeros((N, 1)), closes(), PURGE)
    assert len(later) == 50
    assert later < set(range(2100, N))


def test_statistics_are_of_the_windows_that_are_fitted(monkeypatch: pytest.MonkeyPatch) -> None:
    features, target = market()
    expected = importance(features, target, closes(), PURGE)["ridge"]
    poisoned = target.copy()
    poisoned[1982:2100] = 1e6  # between what is fitted and what is scored
    assert importance(features, poisoned, closes(), PURGE)["ridge"].lost.tobytes() == expected.lost.tobytes()
    seen: list[FloatArray] = []
    monkeypatch.setattr(feature_importance, "MODELS", {"ridge": lambda X, y, s: seen.append(X) or fit_ridge(X, y, s)})
    importance(features * 7 + 3, target, closes(), PURGE)
    np.testing.assert_allclose(seen[0].mean(axis=0), 0, atol=1e-9)
    np.testing.assert_allclose(seen[0].std(axis=0), 1)


@pytest.mark.parametrize("n", [0, 3, 100])
def test_too_few_windows_are_refused(n: int) -> None:
    features, target = market()
    with pytest.raises(ValueError, match=f"{n} windows leave none to fit"):
        importance(features[:n], target[:n], closes(n), PURGE)


def test_a_target_that_never_varies_is_nobodys_merit() -> None:
    features, _ = market()
    for found in importance(features, np.ones(N), closes(), PURGE).values():
        assert not found.kept.any()


def test_the_error_counts_weeks() -> None:
    losses, weeks = np.array([1.0, 3.0, 2.0, 6.0]), np.array([0, 0, 1, 1])
    # mean 3; the weeks' sums of deviations are -2 and 2: sqrt((4 + 4)·2/1) / 4
    assert feature_importance._standard_error(losses, weeks) == pytest.approx(1.0)
    assert feature_importance._standard_error(losses, np.zeros(4, int)) == np.inf


def test_windows_of_one_week_are_counted_together(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[IntArray] = []
    monkeypatch.setattr(feature_importance, "_standard_error", lambda losses, weeks: seen.append(weeks) or 1.0)
    features, target = market()
    importance(features, target, closes(), PURGE)
    later = closes()[2100:]
    assert np.diff(later[np.diff(seen[0], prepend=0) > 0]).tolist() == [7 * DAY] * 4
    assert seen[0].max() == 5


def test_nothing_is_kept_of_a_model_that_is_worse_than_the_mean() -> None:
    assert Importance(0.1, np.array([0.03, 0.01]), np.array([0.01, 0.01])).kept.tolist() == [True, False]
    assert Importance(-0.1, np.array([0.03, 0.01]), np.array([0.01, 0.01])).kept.tolist() == [False, False]


def test_ridge_is_least_squares_with_a_small_penalty() -> None:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(500, 3))
    X = (X - X.mean(axis=0)) / X.std(axis=0)
    predict = fit_ridge(X, X @ np.array([1.0, -2.0, 0.0]) + 5, 0)
    weights = predict(np.eye(3)) - predict(np.zeros((1, 3)))
    assert predict(np.zeros((1, 3)))[0] == pytest.approx(5)
    assert weights == pytest.approx(np.array([1.0, -2.0, 0.0]) / 1.01, abs=0.01)


def test_lightgbm_sees_what_is_bent() -> None:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(2000, 2))
    predict = fit_lightgbm(X, np.abs(X[:, 0]), 0)
    assert predict(np.array([[-1.5, 0.0], [0.0, 0.0], [1.5, 0.0]])) == pytest.approx([1.5, 0.1, 1.5], abs=0.4)


# ── which stand for which ───────────────────────────────────────────────────────────────────────────────
def test_the_earliest_of_those_that_say_the_same_stands_for_them() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 2000))
    features = np.column_stack([a, b, 3 - 2 * a, a + 0.2 * b, a + 0.5 * b, np.ones(2000), b + 0.01 * a])
    assert stand_ins(features).tolist() == [0, 1, 0, 0, 4, 5, 1]


def test_a_chain_of_look_alikes_is_not_one_cluster() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 5000))
    turned = [np.cos(angle) * a + np.sin(angle) * b for angle in (0.0, 0.25, 0.5, 0.6)]
    assert stand_ins(np.column_stack(turned)).tolist() == [0, 0, 2, 2]


def test_look_alikes_do_not_hide_each_other() -> None:
    features, target = market()
    both = np.column_stack([features, features[:, 0] + 0.01 * features[:, 2]])
    found = select(both, {"target": target, "noise": np.random.default_rng(5).normal(size=N)}, closes(), PURGE)
    assert found.windows == N
    assert found.stand_in.tolist() == [0, 1, 2, 3, 4, 5, 0]
    assert found.own.tolist() == [0, 1, 2, 3, 4, 5]
    assert found.best("target")[0] == "lightgbm"
    assert found.kept.tolist() == [True, True, False, False, False, False, False]


def test_a_feature_is_kept_for_any_one_target_by_the_better_model() -> None:
    def one(r2: float, *lost: float) -> Importance:
        return Importance(r2, np.array(lost), np.full(len(lost), 0.01))

    by_target = {
        "a": {"ridge": one(0.5, 0.0, 0.1, 0.0), "lightgbm": one(0.4, 0.1, 0.0, 0.0)},
        "b": {"ridge": one(0.1, 0.0, 0.0, 0.1), "lightgbm": one(0.2, 0.0, 0.0, 0.021)},
    }
    assert Selection(9, np.array([0, 0, 2, 3]), by_target).kept.tolist() == [False, False, True, True]
