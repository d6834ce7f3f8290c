from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meta_controller.controller import HORIZONS_S, LONG_HORIZON_S, SHORT_HORIZON_S
from meta_controller.pool import ETA, HALF_LIFE_S, Track, hedge, log_pool, round_of, told
from meta_controller.regimes.expert import CLASSES, FLOOR, Calls
from shared.rows import IntArray

HOUR_S = 3600
DAY = LONG_HORIZON_S
NAMES = ("a", "b", "c")


def random_calls(rng: np.random.Generator, shape: tuple[int, ...]) -> Calls:
    """[*shape, horizons, CLASSES], every class at least FLOOR."""
    triples = rng.dirichlet((1.0, 1.0, 1.0), (*shape, len(HORIZONS_S), 2)) * (1 - 3 * FLOOR) + FLOOR
    return triples.reshape(*shape, len(HORIZONS_S), CLASSES)


def filled(rng: np.random.Generator, hours: int, names: tuple[str, ...] = NAMES) -> tuple[Track, Calls, IntArray]:
    """A track of hourly calls from the epoch on, and the outcomes of all of them: [hours, horizons, 2]."""
    track, calls = Track(names), random_calls(rng, (len(names), hours))
    times = [HOUR_S * (k + 1) for k in range(hours)]
    track.add_calls(times, dict(zip(names, calls, strict=True)))
    labels = rng.integers(0, 3, (hours, len(HORIZONS_S), 2))
    for t, row in zip(times, labels.tolist(), strict=True):
        for horizon_s, (trend, volatility) in zip(HORIZONS_S, row, strict=True):
            track.add_outcome(t, horizon_s, (trend, volatility))
    return track, calls, labels


def test_without_scores_all_experts_count_alike() -> None:
    track = Track(NAMES)
    track.add_calls([DAY], dict(zip(NAMES, random_calls(np.random.default_rng(0), (3, 1)), strict=True)))
    assert track.weights(DAY, LONG_HORIZON_S) == pytest.approx(np.full((2, 3), 1 / 3))
    assert track.scored_rounds(DAY, LONG_HORIZON_S) == 0


def test_the_expert_that_calls_better_gets_the_weight_of_the_axis_it_is_better_in() -> None:
    track, calls = Track(("good", "bad")), np.full((2, 240, 2, CLASSES), 1 / 3)
    calls[0, :, :, :3], calls[1, :, :, :3] = (0.8, 0.1, 0.1), (0.1, 0.1, 0.8)
    times = [HOUR_S * (k + 1) for k in range(240)]
    track.add_calls(times, {"good": calls[0], "bad": calls[1]})
    for t in times:
        track.add_outcome(t, LONG_HORIZON_S, (0, 1))
    trend, volatility = track.weights(times[-1], LONG_HORIZON_S)
    assert trend[0] > 0.99
    assert volatility == pytest.approx([0.5, 0.5])
    assert track.weights(times[-1], SHORT_HORIZON_S) == pytest.approx(np.full((2, 2), 0.5))


def test_a_round_counts_when_its_last_outcome_is_known_and_not_before() -> None:
    rng = np.random.default_rng(1)
    track, calls, _ = filled(rng, 24 * 6)
    last = 24 * 6 * HOUR_S
    assert round_of(last, DAY) == 5
    assert track.scored_rounds(last, DAY) == 4  # days 0 to 3: a call of day 3 ends within day 4
    unknown = Track(NAMES)
    times = [HOUR_S * (k + 1) for k in range(24 * 6)]
    unknown.add_calls(times, dict(zip(NAMES, calls, strict=True)))
    for t in times[: 24 * 4]:
        unknown.add_outcome(t, DAY, track._labels[DAY, t])
    assert unknown.weights(last, DAY).tobytes() == track.weights(last, DAY).tobytes()


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(60, 160))
def test_the_future_does_not_move_a_weight(seed: int, hours: int) -> None:
    whole, calls, _ = filled(np.random.default_rng(seed), 160)
    t = hours * HOUR_S
    early = Track(NAMES)
    times = [HOUR_S * (k + 1) for k in range(hours)]
    early.add_calls(times, {name: calls[k, :hours] for k, name in enumerate(NAMES)})
    for horizon_s in HORIZONS_S:
        for at in times:
            if at + horizon_s <= t:
                early.add_outcome(at, horizon_s, whole._labels[horizon_s, at])
        assert early.weights(t, horizon_s).tobytes() == whole.weights(t, horizon_s).tobytes()


def test_an_expert_that_abstains_has_no_say_and_loses_none() -> None:
    losses = np.array([[0.5, 1.0, np.nan], [0.5, 1.0, np.nan], [0.4, 0.9, 0.4]])
    weights = hedge(losses, DAY)
    assert weights[0] > weights[2] > weights[1]
    now = hedge(losses, DAY, np.array([True, True, False]))
    assert now[2] == 0.0
    assert now.sum() == pytest.approx(1.0)
    assert hedge(losses, DAY, np.zeros(3, bool)).tolist() == [0.0, 0.0, 0.0]


@settings(max_examples=150, deadline=None)
@given(
    st.integers(1, 120).flatmap(
        lambda rounds: st.lists(
            st.lists(st.floats(0.0, -math.log(FLOOR)), min_size=3, max_size=3), min_size=rounds, max_size=rounds
        )
    ),
    st.sampled_from(HORIZONS_S),
)
def test_the_mean_of_the_experts_never_loses_more_to_the_best_than_the_bound(
    losses: list[list[float]], horizon_s: int
) -> None:
    """The inequality of the module's docstring, with what the weights at each round may know."""
    rows = np.array(losses)
    gamma = 2.0 ** (-horizon_s / HALF_LIFE_S)
    age = gamma ** np.arange(len(rows) - 1, -1, -1.0)
    weights = [hedge(rows[: max(0, d - 1)], horizon_s) if d > 1 else np.full(3, 1 / 3) for d in range(len(rows))]
    paid = np.array([w @ row for w, row in zip(weights, rows, strict=True)])
    regret = (age[:, None] * (paid[:, None] - rows)).sum(axis=0).max()
    spread = rows.max(axis=1) - rows.min(axis=1)
    before = np.concatenate([[0.0], spread[:-1]])
    bound = math.log(3) / ETA + ETA * float((age * (spread**2 / 8 + spread * before / 4)).sum())
    assert regret <= bound + 1e-9


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 10_000), st.lists(st.floats(0.01, 1.0), min_size=3, max_size=3))
def test_a_pool_is_a_forecast_and_never_worse_than_its_members_on_average(seed: int, raw: list[float]) -> None:
    calls = random_calls(np.random.default_rng(seed), (3,))[:, 0]
    weights = np.array([raw, raw[::-1]]) / sum(raw)
    pooled = log_pool(calls, weights)
    assert pooled[:3].sum() == pytest.approx(1.0, abs=1e-12)
    assert pooled[3:].sum() == pytest.approx(1.0, abs=1e-12)
    for axis in range(2):
        classes = slice(3 * axis, 3 * axis + 3)
        worst_allowed = -(weights[axis, :, None] * np.log(calls[:, classes])).sum(axis=0)
        assert (-np.log(pooled[classes]) <= worst_allowed + 1e-12).all()


def test_the_pools_trend_is_the_mean_of_half_a_horizon_and_holes_and_volatility_are_left_as_they_are() -> None:
    rng = np.random.default_rng(4)
    times = [HOUR_S * k for k in (*range(1, 40), 45, 46, 47, 48)]  # five hours were not called
    calls = random_calls(rng, (len(NAMES), len(times)))
    track = Track(NAMES)
    track.add_calls(times, dict(zip(NAMES, calls, strict=True)))
    equal = np.full((2, len(NAMES)), 1 / len(NAMES))
    raw = np.stack([[log_pool(calls[:, n, h], equal) for h in range(2)] for n in range(len(times))])
    for horizon, horizon_s in enumerate(HORIZONS_S):
        recent = [n for n, t in enumerate(times) if times[-1] - horizon_s // 2 < t]
        assert len(recent) == (2, 7)[horizon]
        expected = np.exp(np.log(raw[recent, horizon, :3]).mean(axis=0))
        pooled = track.pooled(times[-1])[horizon]
        assert pooled[:3] == pytest.approx(expected / expected.sum())
        assert pooled[3:] == pytest.approx(raw[-1, horizon, 3:])


def test_the_future_does_not_move_a_pooled_call() -> None:
    whole, calls, _ = filled(np.random.default_rng(6), 160)
    for hours in (50, 97, 120):
        early, times = Track(NAMES), [HOUR_S * (k + 1) for k in range(hours)]
        early.add_calls(times, {name: calls[k, :hours] for k, name in enumerate(NAMES)})
        for horizon_s in HORIZONS_S:
            for at in times[: hours - horizon_s // HOUR_S]:
                early.add_outcome(at, horizon_s, whole._labels[horizon_s, at])
        assert early.pooled(times[-1]).tobytes() == whole.pooled(times[-1]).tobytes()


def test_what_is_older_counts_for_less() -> None:
    losses = np.zeros((31, 2))
    losses[0, 0], losses[30, 1] = 1.0, 1.0  # a month ago, and now
    weights = hedge(losses, DAY)
    assert math.log(weights[0] / weights[1]) == pytest.approx(ETA / 2)


def test_one_expert_alone_is_the_pool() -> None:
    calls = random_calls(np.random.default_rng(3), (2,))[:, 1]
    assert log_pool(calls, np.array([[1.0, 0.0], [0.0, 1.0]])) == pytest.approx(
        np.concatenate([calls[0, :3], calls[1, 3:]])
    )


def test_one_more_expert_joins_with_what_it_called() -> None:
    track, _, _ = filled(np.random.default_rng(5), 24 * 8)
    t = 24 * 8 * HOUR_S
    called = {HOUR_S * k: np.full((2, CLASSES), 1 / 3) for k in range(1, 24 * 8 + 1)}
    joined = track.joined_by("llm", called)
    assert joined.experts == (*NAMES, "llm")
    assert joined.calls_at(t)[:3].tobytes() == track.calls_at(t).tobytes()
    assert joined.weights(t, DAY).shape == (2, 4)
    assert joined.weights(t, DAY)[:, 3].min() > 0.25  # who spreads its bets beats who guesses
    assert track.joined_by("llm", {}).weights(t, DAY)[:, 3].tolist() == [0.0, 0.0]


def test_the_weights_are_told_heaviest_first() -> None:
    assert (
        told(NAMES, np.array([[0.2, 0.78, 0.02], [0.5, 0.5, 0.0]]))
        == "trend by b 0.78, a 0.20; volatility by a 0.50, b 0.50"
    )
