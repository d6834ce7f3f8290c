"""The comparison of two encoders: what a probe reads, on moments both have, and how far neighbours agree."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import numpy as np
import pytest

from encoder.comparison import compare, neighbour_overlap, probe_errors
from encoder.dataset import label
from encoder.outcomes import LOG_VOLATILITY_24H, Seen, known_before, read_seen
from encoder.run_encoder import run_once
from shared.clock import ReplayClock, from_unix, to_unix
from shared.rows import FloatArray
from shared.settings import Settings
from tests.encoder.small_encoder import save_encoder
from tests.helpers import NOON, DatabaseFor, random_candles, store_candles

HOUR = 3600
T0 = to_unix(NOON)
KNOWN = NOON + timedelta(hours=500)


def seen(knowledge: float, seed: int = 0, n: int = 1000, instruments: int = 2) -> Seen:
    """Embeddings [2n, 64] whose first coordinate knows the outcome as well as ``knowledge`` says, 1 being all."""
    outcomes = np.random.default_rng(99).normal(-5, 1, (instruments, n)).ravel()
    rng = np.random.default_rng(seed)
    embedding = rng.normal(0, 1, (instruments * n, 64))
    embedding[:, 0] = knowledge * (outcomes + 5) + (1 - knowledge) * embedding[:, 0]
    embedding /= np.linalg.norm(embedding, axis=1, keepdims=True)
    as_of = np.tile(T0 + HOUR * np.arange(n), instruments)
    return Seen(np.repeat(np.arange(instruments), n), as_of, embedding, np.full(len(as_of), 0.5), outcomes)


def test_who_knows_more_scores_higher_and_the_difference_is_no_chance() -> None:
    result = compare(seen(0.8), seen(0.2, seed=1), KNOWN, HOUR)
    assert result.r2_old is not None
    assert result.r2_new is not None
    assert result.p_worse is not None
    assert result.r2_old > 0.5 > 0.3 > result.r2_new
    assert result.p_worse < 0.001
    assert (result.moments, result.scored, result.in_sample) == (2000, 1000, False)
    back = compare(seen(0.2, seed=1), seen(0.8), KNOWN, HOUR)
    assert (back.r2_old, back.r2_new, back.overlap) == (result.r2_new, result.r2_old, result.overlap)
    assert back.p_worse == pytest.approx(1 - result.p_worse)


def test_an_encoder_against_itself_differs_in_nothing() -> None:
    result = compare(seen(0.5), seen(0.5), KNOWN, HOUR)
    assert result.r2_old == result.r2_new
    assert result.overlap == 1.0
    assert result.p_worse == 0.5


def test_only_moments_that_both_saw_are_compared_whatever_their_order() -> None:
    old, new = seen(0.5), seen(0.5)
    shuffled = new.select(np.random.default_rng(0).permutation(len(new))[:1500])
    result = compare(old, shuffled, KNOWN, HOUR)
    assert result.moments == 1500
    assert result.overlap == 1.0
    assert result.r2_old == result.r2_new


def test_the_probe_is_fitted_on_what_was_known_before_and_scored_after() -> None:
    moments = seen(0.5)
    late = moments.as_of >= KNOWN.timestamp()
    unknown = ~late & (moments.as_of + 24 * HOUR > KNOWN.timestamp())
    errors = probe_errors(moments, KNOWN)
    assert errors is not None
    assert len(errors.squared) == late.sum()
    poisoned = replace(moments, outcome=np.where(unknown, 1e6, moments.outcome))
    again = probe_errors(poisoned, KNOWN)
    assert again is not None
    assert (again.squared == errors.squared).all(), "outcomes not known at the time are not fitted"
    fitted = known_before(moments, KNOWN)
    assert fitted.sum() == 2 * (500 - 24 + 1)
    assert not fitted[moments.as_of + 24 * HOUR > KNOWN.timestamp()].any()


def test_too_little_known_since_is_scored_in_sample_and_says_so() -> None:
    result = compare(seen(0.8), seen(0.8, seed=1), from_unix(T0 + HOUR * 990), HOUR)
    assert result.in_sample
    assert result.scored == 2 * (30 * 24 + 1)
    assert result.r2_old is not None


@pytest.mark.parametrize(("hours", "in_sample"), [(7 * 24 + 1, False), (7 * 24, False), (7 * 24 - 1, True)])
def test_seven_days_after_both_were_known_are_judged_by_however_many_instruments(hours: int, in_sample: bool) -> None:
    moments = seen(0.8, n=1000, instruments=5)
    assert compare(moments, moments, from_unix(T0 + HOUR * (999 - hours)), HOUR).in_sample == in_sample


@pytest.mark.parametrize("n", [0, 1, 60])
def test_too_few_moments_give_no_numbers(n: int) -> None:
    result = compare(seen(0.8, n=n), seen(0.8, n=n), KNOWN, HOUR)
    assert (result.r2_old, result.r2_new, result.p_worse) == (None, None, None)
    assert result.moments == 2 * n


def slow_overlap(old: Seen, new: Seen, query: int, gap_s: int) -> float:
    def nearest(of: Seen) -> set[int]:
        similarity: FloatArray = of.embedding @ of.embedding[query]
        allowed = [
            i for i in range(len(of))
            if of.instrument_id[i] != of.instrument_id[query] or abs(of.as_of[i] - of.as_of[query]) >= gap_s
        ]  # fmt: skip
        return set(sorted(allowed, key=lambda i: -similarity[i])[:50])

    return len(nearest(old) & nearest(new)) / 50


def test_the_overlap_is_the_share_of_the_50_nearest_by_brute_force() -> None:
    old, new = seen(0.9, n=400), seen(0.9, seed=3, n=400)
    queries = np.unique(np.linspace(0, 799, 300).astype(int)).tolist()
    expected = np.mean([slow_overlap(old, new, query, 288 * HOUR) for query in queries])
    overlap, chance = neighbour_overlap(old, new, HOUR)
    assert overlap == pytest.approx(expected)
    assert chance is not None
    assert 50 / 800 < chance < 50 / 400


def test_what_is_read_is_one_models_with_the_outcomes_known_by_then(
    database_for: DatabaseFor, settings: Settings
) -> None:
    candles = random_candles(500, HOUR, 3, end=T0)
    instrument_id = store_candles(database_for, "test", "AAA/USDT", HOUR, candles)
    one, other = save_encoder(database_for), save_encoder(database_for, seed=1)
    encoder, span = database_for("encoder"), (NOON - timedelta(hours=100), NOON)
    for model_id in (one, other):
        run_once(ReplayClock(NOON), encoder, settings, span, model_id)
    until = NOON - timedelta(hours=10)
    found = read_seen(encoder, one, HOUR, NOON - timedelta(hours=60), until)
    assert found.as_of.tolist() == (T0 - HOUR * np.arange(59, 9, -1)).tolist()
    assert set(found.instrument_id.tolist()) == {instrument_id}
    assert np.isnan(found.outcome).tolist() == [False] * 26 + [True] * 24
    closes, labels = label(candles, HOUR)
    expected = labels[np.isin(closes, found.as_of[:26]), LOG_VOLATILITY_24H]
    assert found.outcome[:26].tolist() == pytest.approx(expected.tolist())
    at = int(np.flatnonzero(candles.as_of == found.as_of[0])[0])
    r = np.diff(np.log(candles.close[at : at + 25]))
    assert found.outcome[0] == pytest.approx(np.log(np.sqrt((r * r).mean())))
    assert (found.embedding != read_seen(encoder, other, HOUR, NOON - timedelta(hours=60), until).embedding).any()
    assert len(read_seen(encoder, 99, HOUR, NOON, NOON)) == 0
