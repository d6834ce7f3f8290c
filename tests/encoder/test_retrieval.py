"""Retrieval is scored fairly: planted knowledge wins, ignorance wins nothing, and nothing of the future is used."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from encoder.evaluation.retrieval import BASELINES, EMBARGO_S, METHODS, Moments, score_retrieval
from encoder.schema import HORIZONS_S

HOUR, DAY = 3600, 86_400
DAYS = 420
FIRST_ASKED = 200 * DAY


def world(seed: int = 0, instruments: int = 3, told: bool = True) -> Moments:
    """Every 12 hours for 420 days: outcomes of a volatility that ``told`` embeddings name, and that trailing
    volatility and HAR see through noise."""
    rng = np.random.default_rng(seed)
    as_of = np.repeat(np.arange(DAYS * 2) * 12 * HOUR, instruments)
    n = len(as_of)
    state = rng.normal(0, 0.8, n)
    truth = 0.01 * np.exp(state)[:, None] * np.sqrt([1.0, 4.0, 24.0])
    angle = state if told else rng.normal(0, 0.8, n)
    embedding = np.zeros((n, 64), dtype=np.float32)
    embedding[:, 0], embedding[:, 1] = np.cos(angle / 2), np.sin(angle / 2)
    return Moments(
        embedding=embedding,
        as_of=as_of,
        instrument=np.tile(np.arange(instruments), DAYS * 2),
        outcomes=rng.normal(0, truth),
        volatility=0.01 * np.exp(state + rng.normal(0, 0.8, n)),
        har=truth * np.exp(rng.normal(0, 0.5, (n, 3))),
        forecast=truth * np.exp(rng.normal(0, 0.1 if told else 0.5, (n, 3))),
    )


def asked_of(moments: Moments) -> Moments:
    return moments.select(np.flatnonzero(moments.as_of >= FIRST_ASKED))


@pytest.fixture(scope="module")
def planted() -> dict[str, Any]:
    return score_retrieval(world(), asked_of(world()), k=25)


def test_planted_knowledge_beats_every_baseline_that_lacks_it(planted: dict[str, Any]) -> None:
    for horizon in HORIZONS_S:
        scores = planted["horizons"][f"{horizon}s"]
        for other in ("matched_random", "har_random", "unconditional"):
            gain = scores["gains"]["analogs"][other]
            assert gain["share"] > 0.03, (horizon, other)
            assert gain["p_better"] < 0.01
        crps = {name: method["crps"] for name, method in scores["methods"].items()}
        assert min(crps, key=lambda name: crps[name]) in ("analogs", "analogs_raw", "forecast_random")
        assert crps["unconditional"] > crps["matched_random"]
        assert scores["methods"]["analogs"]["spread_spearman"] > scores["methods"]["matched_random"]["spread_spearman"]


def test_every_methods_bands_cover_what_they_claim(planted: dict[str, Any]) -> None:
    for scores in planted["horizons"].values():
        assert set(scores["methods"]) == set(METHODS)
        for name, method in scores["methods"].items():
            for level, coverage in method["coverage"].items():
                assert coverage["share"] == pytest.approx(float(level.rstrip("%")) / 100, abs=0.05), name
                assert coverage["error"]["mean"] == pytest.approx(
                    coverage["share"] - float(level.rstrip("%")) / 100, abs=1e-9
                )
            assert sum(method["pit"]) == pytest.approx(1.0)
            assert max(method["pit"]) < 0.16


def test_embeddings_that_know_nothing_gain_nothing() -> None:
    blind = world(1, told=False)
    blind = replace(blind, forecast=blind.har)
    scores = score_retrieval(blind, asked_of(blind), k=25)["horizons"]["86400s"]
    assert abs(scores["gains"]["analogs"]["har_random"]["share"]) < 0.02
    assert scores["gains"]["analogs_raw"]["matched_random"]["share"] < 0


def test_a_good_forecast_is_not_taken_for_retrieval() -> None:
    """Embeddings are noise, the forecast is better than HAR's: it wins, finding moments does not."""
    truth = world(1)
    blind = replace(world(1, told=False), outcomes=truth.outcomes, har=truth.har, forecast=truth.forecast)
    gains = score_retrieval(blind, asked_of(blind), k=25)["horizons"]["86400s"]["gains"]
    assert gains["analogs"]["matched_random"]["share"] > 0.015
    assert gains["analogs"]["har_random"]["share"] > 0.015
    assert abs(gains["analogs"]["forecast_random"]["share"]) < 0.01
    assert abs(gains["analogs_ewma"]["ewma_random"]["share"]) < 0.02
    assert gains["analogs_raw"]["matched_random"]["share"] < 0


def test_deciles_are_of_what_was_known_at_the_first_question_scored() -> None:
    """Questions from the first day on calibrate: at theirs there was nothing to take deciles of."""
    moments, scored_after = world(), 300 * DAY
    from_first, usual = (
        score_retrieval(moments, asked, k=25, scored_after=scored_after)["horizons"]["86400s"]["methods"]
        for asked in (moments, asked_of(moments))
    )
    assert from_first["matched_random"]["crps"] == pytest.approx(usual["matched_random"]["crps"], rel=0.02)
    assert from_first["matched_random"]["crps"] < 0.97 * from_first["unconditional"]["crps"]
    with pytest.raises(ValueError, match="moments ended a day before the first question scored, at least 250"):
        score_retrieval(moments, moments, k=25, scored_after=30 * DAY)


def test_gains_are_what_the_mean_scores_say(planted: dict[str, Any]) -> None:
    scores = planted["horizons"]["14400s"]
    crps = {name: method["crps"] for name, method in scores["methods"].items()}
    for other in BASELINES:
        gain = scores["gains"]["analogs"][other]
        assert gain["share"] == pytest.approx(1 - crps["analogs"] / crps[other], abs=0.01)
        assert gain["test"]["mean"] == pytest.approx(gain["share"], abs=1e-6)  # as many questions of each
    assert json.loads(json.dumps(planted)) == planted
    assert planted["k"] == 25


def test_the_same_seed_gives_the_same_scores_another_draws_others(planted: dict[str, Any]) -> None:
    assert score_retrieval(world(), asked_of(world()), k=25) == planted
    other = score_retrieval(world(), asked_of(world()), k=25, seed=1)["horizons"]["3600s"]["methods"]
    same = planted["horizons"]["3600s"]["methods"]
    assert other["analogs"]["crps"] == same["analogs"]["crps"]
    assert other["har_random"]["crps"] != same["har_random"]["crps"]


def test_the_order_of_the_rows_does_not_matter(planted: dict[str, Any]) -> None:
    shuffle = np.random.default_rng(5).permutation
    moments, asked = world(), asked_of(world())
    shuffled = score_retrieval(moments.select(shuffle(len(moments))), asked.select(shuffle(len(asked))), k=25)
    analogs, same = (s["horizons"]["86400s"]["methods"]["analogs"] for s in (shuffled, planted))
    assert analogs["crps"] == pytest.approx(same["crps"], rel=1e-9)


def test_what_had_not_ended_a_day_before_the_question_does_not_count() -> None:
    """Questions of the first 300 days; the library from their last such moment on is spoilt."""
    moments, last = world(2), 300 * DAY
    asked = moments.select(np.flatnonzero((moments.as_of >= FIRST_ASKED) & (moments.as_of <= last)))
    late = moments.as_of > last - max(HORIZONS_S) - EMBARGO_S
    spoilt = replace(
        moments,
        outcomes=np.where(late[:, None], 9.0, moments.outcomes),
        har=np.where(late[:, None], 1e-9, moments.har),
        volatility=np.where(late, 77.0, moments.volatility),
    )
    assert late.sum() > 300
    before, after = score_retrieval(moments, asked, k=25), score_retrieval(spoilt, asked, k=25)
    assert before["horizons"] == after["horizons"]
    late |= moments.as_of > last - 20 * DAY
    touched = replace(moments, outcomes=np.where(late[:, None], 9.0, moments.outcomes))
    assert score_retrieval(touched, asked, k=25)["horizons"] != before["horizons"]


def test_earlier_questions_calibrate_and_are_not_scored() -> None:
    moments = world(3)
    asked = asked_of(moments)
    scored_after = 300 * DAY
    scores = score_retrieval(moments, asked, k=25, scored_after=scored_after)["horizons"]["3600s"]
    assert scores["questions"] == int((asked.as_of > scored_after).sum())
    unknown = replace(asked, outcomes=np.where((asked.as_of > 400 * DAY)[:, None], np.nan, asked.outcomes))
    fewer = score_retrieval(moments, unknown, k=25, scored_after=scored_after)["horizons"]["3600s"]
    assert fewer["questions"] == int(((asked.as_of > scored_after) & (asked.as_of <= 400 * DAY)).sum())


def test_each_horizon_is_rescaled_by_its_own_forecast(planted: dict[str, Any]) -> None:
    noise = np.random.default_rng(6).lognormal(0, 2, (len(world()), 2))
    moments = replace(world(), forecast=np.column_stack([noise, world().forecast[:, 2]]))
    scores = score_retrieval(moments, asked_of(moments), k=25)["horizons"]
    assert scores["86400s"] == planted["horizons"]["86400s"]
    assert scores["14400s"] != planted["horizons"]["14400s"]


def test_too_short_a_past_is_said() -> None:
    moments = world(4)
    with pytest.raises(ValueError, match="0 of 2520 moments ended a day before the first question scored"):
        score_retrieval(moments, moments.select(np.flatnonzero(moments.as_of < 9 * DAY)), k=25)
    one_a_day = replace(moments, as_of=moments.as_of // (100 * DAY) * (100 * DAY))
    with pytest.raises(ValueError, match="finds 25 analogs"):
        score_retrieval(one_a_day, one_a_day.select(np.flatnonzero(one_a_day.as_of >= 300 * DAY)), k=25)
    few = moments.select(np.flatnonzero((moments.as_of > 300 * DAY) & (moments.as_of < 310 * DAY)))
    with pytest.raises(ValueError, match="can be calibrated by past ones"):
        score_retrieval(moments, few, k=25)
