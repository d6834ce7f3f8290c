from __future__ import annotations

import os
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meta_controller.scoring import recalibrate
from meta_controller.trust import (
    AT_STAKE,
    DAY_S,
    ENOUGH,
    Bets,
    Evidence,
    Mode,
    Scored,
    bets_of,
    combined,
    gather,
    temperatures,
    wealth,
    weight,
)
from shared.rows import FloatArray, IntArray

SHORT, LONG = 4 * 3600, 24 * 3600
DAYS = 365
WORLDS = int(os.environ.get("TRUST_WORLDS", "1000"))  # noqa: TID251 (of the tests, not of a job)
GOOD = Evidence(
    calls=2000, days=300.0, e_better=400.0, e_worse=0.1, p_book=0.97, temperature=1.2, skill=0.02, silent_days=0.5
)


def softmax(logits: FloatArray) -> FloatArray:
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=-1, keepdims=True))


def slow(rng: np.random.Generator, n: int, worlds: int, spread: float) -> FloatArray:
    """Logits that wander about 0, correlated by 0.97 from one call to the next: [n, worlds, 2, 3]."""
    steps = rng.normal(0.0, spread * np.sqrt(1.0 - 0.97**2), (n, worlds, 2, 3))
    for i in range(1, n):
        steps[i] += 0.97 * steps[i - 1]
    return steps


def drawn(rng: np.random.Generator, truth: FloatArray) -> IntArray:
    """A class from each triple of [..., 3]."""
    return np.asarray((rng.random((*truth.shape[:-1], 1)) > np.cumsum(truth, axis=-1)[..., :2]).sum(axis=-1))


def world(
    rng: np.random.Generator, horizon_s: int, days: int, nearness: float, worlds: int = 1, spread: float = 0.6
) -> list[Scored]:
    """Calls of a pool and an LLM whose disagreement is autocorrelated and changes its size, and what happened, drawn
    from a truth between the two: ``nearness`` of the way from the pool to the LLM. At 0.5 both have the same expected
    Brier score at every call, given the past."""
    n = days * DAY_S // horizon_s
    common, apart = slow(rng, n, worlds, 1.0), slow(rng, n, worlds, spread)
    size = np.exp(slow(rng, n, worlds, 0.5)[:, :, :1, :1])  # heteroscedastic
    pool, llm = softmax(common), softmax(common + size * apart)
    happened = drawn(rng, (1.0 - nearness) * pool + nearness * llm)
    as_of = horizon_s * np.arange(n, dtype=np.int64)
    return [Scored(horizon_s, as_of, llm[:, w], pool[:, w], happened[:, w]) for w in range(worlds)]


def stacked_bets(worlds: list[Scored]) -> Bets:
    """The bets of many worlds beside each other, [n, worlds], without recalibration."""
    all_bets = [bets_of(one, np.ones(len(one))) for one in worlds]
    return Bets(*(np.stack([getattr(b, name) for b in all_bets], axis=1) for name in Bets.__slots__))


def test_an_llm_that_is_no_better_is_rarely_promoted() -> None:
    """Ville's inequality in worlds of a year, looked at every midnight, for both directions. A thousand show a rate of
    7 % as too high; ``TRUST_WORLDS=2000`` in the environment makes it the long form (`make test-long`)."""
    rng = np.random.default_rng(11)
    crossed = []
    for _ in range(WORLDS // 200):  # in chunks, for memory
        short, long = (stacked_bets(world(rng, h, DAYS, 0.5, worlds=200)) for h in (SHORT, LONG))
        for sign in (1.0, -1.0):
            lost = (short.most_lost, long.most_lost) if sign > 0 else (short.most_won, long.most_won)
            midnight = wealth(sign * short.gain, lost[0])[5::6]
            crossed.append(((midnight + wealth(sign * long.gain, lost[1])) / 2.0 >= ENOUGH).any(axis=0))
    better, worse = np.concatenate(crossed[::2]), np.concatenate(crossed[1::2])
    assert len(better) == WORLDS
    assert better.mean() <= 0.05
    assert worse.mean() <= 0.05
    assert better.any()  # the test could find something


def test_bets_that_look_ahead_would_be_found_out() -> None:
    """The worlds can tell an honest test from one that chooses its bets after the outcome."""
    bets = stacked_bets(world(np.random.default_rng(12), LONG, DAYS, 0.5, worlds=100))
    peeking = wealth(np.maximum(bets.gain, 0.5 * bets.gain), bets.most_lost)
    assert (peeking >= ENOUGH).any(axis=0).mean() > 0.5


def test_wealth_is_expected_to_stay_where_neither_is_better() -> None:
    """Exactly, over the nine outcomes of one call drawn from the truth between both forecasters."""
    rng = np.random.default_rng(5)
    pool, llm = rng.dirichlet(np.ones(3), (50, 2)), rng.dirichlet(np.ones(3), (50, 2))
    expected, lowest = np.zeros(50), np.full(50, np.inf)
    for trend in range(3):
        for volatility in range(3):
            happened = np.tile(np.array([[trend, volatility]]), (50, 1))
            bets = bets_of(Scored(LONG, np.zeros(50, np.int64), llm, pool, happened), np.ones(50))
            truth = (pool + llm) / 2.0
            after = np.array([wealth(bets.gain[i : i + 1], bets.most_lost[i : i + 1])[0] for i in range(50)])
            expected += truth[:, 0, trend] * truth[:, 1, volatility] * after
            lowest = np.minimum(lowest, bets.gain)
            assert (bets.gain >= -bets.most_lost - 1e-12).all()
            assert (bets.gain <= bets.most_won + 1e-12).all()
    np.testing.assert_allclose(expected, 1.0, atol=1e-12)
    np.testing.assert_allclose(lowest, -bets.most_lost, atol=1e-12)  # the bound is reached


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.floats(0.0, 1.0), st.floats(-1.0, 1.0)), min_size=1, max_size=40),
    st.integers(0, 39),
)
def test_no_bet_risks_more_than_half_and_none_looks_ahead(calls: list[tuple[float, float]], cut: int) -> None:
    most_lost = np.array([lost for lost, _ in calls])
    gain = np.array([max(gain, -lost) for lost, gain in calls])
    path = wealth(gain, most_lost)
    assert (path[1:] >= (1.0 - AT_STAKE) * path[:-1] - 1e-12).all()
    cut = min(cut, len(calls) - 1)
    np.testing.assert_array_equal(wealth(gain[: cut + 1], most_lost[: cut + 1]), path[: cut + 1])


def test_where_both_say_the_same_nothing_is_won_or_lost() -> None:
    calls = world(np.random.default_rng(1), LONG, 50, 0.5, spread=0.0)[0]
    bets = bets_of(calls, np.ones(50))
    np.testing.assert_array_equal(wealth(bets.gain, bets.most_lost), 1.0)


def test_gains_are_brier_scores_by_hand() -> None:
    llm, pool = np.array([[[0.7, 0.2, 0.1], [0.2, 0.3, 0.5]]]), np.array([[[0.4, 0.3, 0.3], [0.3, 0.3, 0.4]]])
    scored = Scored(LONG, np.array([0]), llm, pool, np.array([[0, 2]]))
    hers = (0.3**2 + 0.2**2 + 0.1**2) + (0.2**2 + 0.3**2 + 0.5**2)
    theirs = (0.6**2 + 0.3**2 + 0.3**2) + (0.3**2 + 0.3**2 + 0.6**2)
    assert bets_of(scored, np.ones(1)).gain[0] == pytest.approx((theirs - hers) / 4.0, abs=1e-15)


@pytest.mark.parametrize(("nearness", "found"), [(1.0, "better"), (0.0, "worse"), (0.5, "neither")])
def test_half_a_year_tells_better_from_worse(nearness: float, found: str) -> None:
    rng, days = np.random.default_rng(3), 180
    scored = [world(rng, h, days, nearness, spread=1.0)[0] for h in (SHORT, LONG)]
    evidence = gather(scored, days * DAY_S, None, None)
    assert (evidence.e_better >= ENOUGH, evidence.e_worse >= ENOUGH) == (found == "better", found == "worse")
    assert evidence.calls == days * 7
    assert evidence.days == pytest.approx(days - SHORT / DAY_S)
    assert evidence.silent_days == 0.0
    assert evidence.skill is not None
    assert (evidence.skill > 0.02) == (found == "better")


def test_evidence_knows_nothing_that_was_not_settled() -> None:
    """Whatever happens after a midnight changes nothing that was found at it, for any day and either direction."""
    rng = np.random.default_rng(4)
    scored = [world(rng, h, 100, 0.8)[0] for h in (SHORT, LONG)]
    changed = [replace(one, happened=np.where((one.settled > 80 * DAY_S)[:, None], 0, one.happened),
                       llm=np.where((one.as_of >= 80 * DAY_S)[:, None, None], 1.0 / 3.0, one.llm))
               for one in scored]  # fmt: skip
    assert gather(changed, 80 * DAY_S, None, None) == gather(scored, 80 * DAY_S, None, None)
    assert gather(changed, 81 * DAY_S, None, None) != gather(scored, 81 * DAY_S, None, None)


def test_a_temperature_is_fitted_on_what_was_settled_before_its_day() -> None:
    rng = np.random.default_rng(6)
    honest = world(rng, SHORT, 120, 1.0)[0]
    sure = replace(honest, llm=recalibrate(honest.llm, 0.4))  # so the true temperature is 2.5
    (used,), newest = temperatures([sure], 120 * DAY_S)
    assert (used[:6] == 1.0).all()  # of the first day nothing was known
    assert newest == pytest.approx(2.5, rel=0.15)
    assert len(np.unique(used)) <= 120
    later = replace(sure, happened=np.where((sure.settled > 60 * DAY_S)[:, None], 1, sure.happened))
    (again,), other = temperatures([later], 120 * DAY_S)
    before = sure.as_of < 61 * DAY_S
    np.testing.assert_array_equal(again[before], used[before])
    assert (again[~before] != used[~before]).all()
    assert other != newest


def test_overconfidence_is_forgiven_by_recalibration() -> None:
    """An LLM that knows more than the pool and says so too loudly is found to be better all the same."""
    rng, days = np.random.default_rng(7), 180
    scored = [world(rng, h, days, 1.0)[0] for h in (SHORT, LONG)]
    loud = [replace(one, llm=recalibrate(one.llm, 0.4)) for one in scored]
    bets = bets_of(loud[0], np.ones(len(loud[0])))
    assert wealth(bets.gain, bets.most_lost)[-1] < 1.0
    assert gather(loud, days * DAY_S, None, None).e_better >= ENOUGH


def test_worse_is_counted_since_the_promotion_and_four_months_at_most() -> None:
    rng = np.random.default_rng(8)
    good, bad = (world(rng, SHORT, 180, nearness, spread=1.2)[0] for nearness in (1.0, 0.0))
    turned = Scored(SHORT, good.as_of, *(
        np.where((good.as_of < 100 * DAY_S).reshape(-1, *[1] * (a.ndim - 1)), a, b)
        for a, b in ((good.llm, bad.llm), (good.pool, bad.pool), (good.happened, bad.happened))
    ))  # fmt: skip
    at = 180 * DAY_S
    unpromoted = gather([turned], at, None, None)
    assert unpromoted.e_worse >= ENOUGH
    assert gather([turned], at, 10 * DAY_S, None) == unpromoted
    fresh = gather([turned], at, 179 * DAY_S, None)
    assert fresh == replace(unpromoted, e_worse=fresh.e_worse)
    assert 1.0 != fresh.e_worse < ENOUGH


def test_without_calls_there_is_no_evidence() -> None:
    empty = [Scored(h, np.empty(0, np.int64), np.empty((0, 2, 3)), np.empty((0, 2, 3)), np.empty((0, 2), np.int64))
             for h in (SHORT, LONG)]  # fmt: skip
    nothing = Evidence(0, 0.0, 1.0, 1.0, None, 1.0, None, None)
    assert gather(empty, DAY_S, None, None) == nothing
    assert gather([], DAY_S, None, None) == nothing
    assert combined([39.0]) == 20.0  # a horizon without calls still has its starting wealth


# ─────────────────────────────────────────────────────────────────────────────────────────────── the rule ──


@pytest.mark.parametrize(("previous", "risen"), [(0.0, 0.1), (0.1, 0.2), (0.3, 0.4), (0.45, 0.5), (0.5, 0.5)])
def test_a_weight_rises_by_a_tenth_a_day_to_a_half(previous: float, risen: float) -> None:
    new, verdict = weight(previous, GOOD, "trusted")
    assert new == risen
    for said in ("e_better 400", "e_worse 0.1 of 20", "300 of 120 days", "0.970 of 0.95", "skill +0.020"):
        assert said in verdict
    assert verdict.startswith("raised from" if risen > previous else "stays at 0.5, the most")


@pytest.mark.parametrize("previous", [0.0, 0.3])
@pytest.mark.parametrize(
    ("missing", "told"),
    [({"e_better": 19.99}, "not shown to be better"), ({"days": 119.9}, "fewer than 120 days"),
     ({"p_book": 0.949}, "not shown to be ahead"), ({"p_book": None}, "not shown to be ahead"),
     ({"skill": 0.0}, "over all calls is no better"), ({"e_better": float("nan")}, "not shown to be better")],
)  # fmt: skip
def test_each_condition_alone_blocks_the_rise(missing: dict[str, Any], told: str, previous: float) -> None:
    new, verdict = weight(previous, replace(GOOD, **missing), "trusted")
    assert new == previous
    assert verdict.startswith(f"stays at {previous:g}: ")
    assert told in verdict


def test_what_is_just_enough_is_enough() -> None:
    least = replace(GOOD, e_better=20.0, days=120.0, p_book=0.95, e_worse=19.99, silent_days=7.0, skill=1e-6)
    assert weight(0.0, least, "trusted")[0] == 0.1


@pytest.mark.parametrize("previous", [0.0, 0.1, 0.5])
@pytest.mark.parametrize(
    ("fault", "told"),
    [({"e_worse": 20.0}, "worse than the pool's"), ({"p_book": 0.49}, "behind the rules'"),
     ({"silent_days": 7.1}, "scored in 7 days"), ({"silent_days": None}, "scored in 7 days")],
)  # fmt: skip
def test_each_fault_alone_takes_all_at_once(fault: dict[str, Any], told: str, previous: float) -> None:
    new, verdict = weight(previous, replace(GOOD, **fault), "trusted")
    assert new == 0.0
    assert verdict.startswith(f"demoted from {previous:g} to 0: " if previous else "not trusted: ")
    assert told in verdict


@pytest.mark.parametrize("mode", ["off", "shadow"])
def test_who_is_not_to_be_followed_has_no_weight(mode: Mode) -> None:
    assert weight(0.5, GOOD, mode) == (0.0, weight(0.0, GOOD, mode)[1])
    assert weight(0.5, GOOD, "full") == weight(0.5, GOOD, "trusted")


@given(
    previous=st.sampled_from([0.0, 0.1, 0.2, 0.3, 0.4, 0.5]),
    e_better=st.floats(0, 1e300), e_worse=st.floats(0, 1e300), days=st.floats(0, 4000),
    p_book=st.none() | st.floats(0, 1), skill=st.none() | st.floats(-9, 1), silent_days=st.none() | st.floats(0, 900),
)  # fmt: skip
def test_no_evidence_moves_a_weight_up_faster_or_out_of_bounds(previous: float, **found: Any) -> None:
    new, verdict = weight(previous, Evidence(calls=5, temperature=1.0, **found), "trusted")
    assert 0.0 <= new <= min(0.5, previous + 0.1 + 1e-12)
    assert verdict
