"""Probes against independent solvers, and the whole table of forecasters on worlds whose truth is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.optimize import minimize

from encoder.evaluation import forecasts, probes
from encoder.evaluation.baselines import (
    BOTH,
    CLOCK,
    EMBEDDING,
    FORECASTERS,
    HAR,
    PERSISTENCE,
    TIME,
    Inputs,
    design,
    fit_pca,
    smear,
)
from encoder.evaluation.forecasts import Forecasts, forecast_all
from encoder.evaluation.panel import Panel, build_panel
from encoder.evaluation.probes import Design, fit_logistic, fit_ridge, ridge_probe
from encoder.evaluation.scoring import score_classes, score_regression
from encoder.evaluation.splits import LONGEST_HORIZON_S
from encoder.evaluation.targets import CLASSES, REGRESSIONS
from shared.features import FEATURES
from shared.forecast_tests import Estimate
from shared.job import JobError
from tests.encoder.evaluation_world import HOUR, clustered_candles

RNG = np.random.default_rng(1)
NAMES = ("a:A/B", "a:C/B")


def test_ridge_is_the_minimum_of_its_loss_and_leaves_free_columns_alone() -> None:
    x, free = RNG.normal(size=(200, 3)) * [1, 5, 0.1], RNG.normal(size=(200, 1))
    y = x @ [1.0, 0.2, 3.0] + 2 * free[:, 0] + 7 + RNG.normal(size=200)
    given = Design.of(x, free=free)
    z = (given.columns - given.columns.mean(0)) / given.columns.std(0)

    def loss(w: np.ndarray) -> float:
        return float(((y - w[0] - z @ w[1:]) ** 2).mean() + 0.3 * (w[2:] ** 2).sum())

    best = minimize(loss, np.zeros(5), tol=1e-12).x
    assert fit_ridge(given, y, 0.3)(given) == pytest.approx(best[0] + z @ best[1:], abs=1e-4)
    strong = fit_ridge(given, y, 1e9)(given)
    assert np.corrcoef(strong, free[:, 0])[0, 1] == pytest.approx(1)


@pytest.mark.parametrize("classes", [2, 3])
def test_logistic_regression_is_the_minimum_of_its_loss(classes: int) -> None:
    x = RNG.normal(size=(300, 2)) * [1, 4]
    labels = (x @ RNG.normal(size=(2, classes)) + RNG.gumbel(size=(300, classes))).argmax(1)
    z = np.column_stack([np.ones(300), (x - x.mean(0)) / x.std(0)])

    def loss(flat: np.ndarray) -> float:
        w = flat.reshape(3, classes - 1)
        scores = np.column_stack([z @ w, np.zeros(300)])
        scores -= np.log(np.exp(scores).sum(1, keepdims=True))
        return float(-scores[np.arange(300), labels].mean() + 0.5 * 0.01 * (w[1:] ** 2).sum())

    w = minimize(loss, np.zeros(3 * (classes - 1)), tol=1e-10).x.reshape(3, classes - 1)
    powers = np.exp(np.column_stack([z @ w, np.zeros(300)]))
    given = fit_logistic(Design.of(x), labels, classes, 0.01)(Design.of(x))
    assert given == pytest.approx(powers / powers.sum(1, keepdims=True), abs=2e-3)
    assert given.sum(1) == pytest.approx(np.ones(300))


def test_a_logit_of_near_twins_does_not_explode_on_a_short_span() -> None:
    """Two past volatilities that hardly differ where they are fitted and do in the test."""
    past, noise, chance = RNG.normal(size=400), RNG.normal(size=400), RNG.random(400)
    happened = (chance < 1 / (1 + np.exp(-past))).astype(np.int64)
    fitted = Design.of(free=np.column_stack([past, past + 1e-4 * noise])[:100])
    given = fit_logistic(fitted, happened[:100], 2, 0.0)(Design.of(free=np.column_stack([past, past + 0.3 * noise])))
    losses = -np.log(given[np.arange(100, 400), happened[100:]])
    assert losses.mean() < 0.7
    assert losses.max() < 5


def test_the_penalty_is_chosen_on_later_moments() -> None:
    x = RNG.normal(size=(120, 60))
    early = np.arange(120) < 80
    *_, noisy = ridge_probe(Design.of(x), RNG.normal(size=120), early, ~early)
    *_, clear = ridge_probe(Design.of(x), x[:, 0], early, ~early)
    assert noisy == max(probes.PENALTIES)
    assert clear == min(probes.PENALTIES)


def test_pca_finds_the_directions_that_vary() -> None:
    hidden = RNG.normal(size=(500, 5)).astype(np.float32)
    sample = (hidden @ RNG.normal(size=(5, 100)) + 0.01 * RNG.normal(size=(500, 100))).astype(np.float32)
    components = fit_pca(sample, 7)(sample)
    assert components.shape == (500, 64)
    assert components.std(0) == pytest.approx(np.ones(64), abs=0.05)
    rest = hidden - components[:, :5] @ np.linalg.lstsq(components[:, :5], hidden, rcond=None)[0]
    assert np.abs(rest).max() < 0.1


def test_smearing_makes_the_mean_of_the_variance_right() -> None:
    residuals = RNG.normal(0, 0.5, 200_000)
    assert smear(residuals) == pytest.approx(math.exp(2 * 0.25), rel=0.03)
    assert smear(np.zeros(3)) == 1.0


def world(spread: float) -> tuple[Panel, int]:
    """Two series, every third hour, and where the test begins."""
    panel = build_panel([clustered_candles(6600, seed, spread=spread) for seed in (3, 4)], HOUR)
    panel = panel.select(panel.as_of % (3 * HOUR) == 0)
    return panel, int(np.quantile(panel.as_of, 0.6))


@pytest.fixture(autouse=True)
def _two_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three cost five times as much; they are fitted above, and by everyone in test_evaluate.py."""
    monkeypatch.setattr(forecasts, "CLASSES", {task: CLASSES[task] for task in ("large_move", "direction_86400s")})


def asked(panel: Panel, split: int, embedding: np.ndarray) -> tuple[Forecasts, np.ndarray]:
    noise = RNG.normal(size=(4, len(panel), 64)).astype(np.float32)
    features = RNG.normal(size=(len(panel), len(FEATURES))).astype(np.float32)
    learn = np.flatnonzero(panel.as_of + LONGEST_HORIZON_S <= split)
    cut = int(np.quantile(panel.as_of[learn], 0.85))
    inputs = Inputs(panel, features, noise[0], noise[1], embedding.astype(np.float32))
    return forecast_all(inputs, learn, cut), np.flatnonzero(panel.as_of > split)


def test_smearing_is_of_moments_that_were_not_fitted() -> None:
    """Where the later part is twice as uncertain, everyone's variance says so, not only that of who fits least."""
    panel, split = world(0.6)
    learn = np.flatnonzero(panel.as_of + LONGEST_HORIZON_S <= split)
    cut = int(np.quantile(panel.as_of[learn], 0.85))
    surprise = np.where(panel.as_of >= cut, RNG.choice([-1.0, 1.0], len(panel)), 0.0)
    targets = {**panel.targets, **{task: panel.targets[task] + surprise for task in REGRESSIONS}}
    shaken = Panel(panel.series, panel.as_of, panel.known, targets)
    calm, _ = asked(panel, split, RNG.normal(size=(len(panel), 64)))
    made, _ = asked(shaken, split, RNG.normal(size=(len(panel), 64)))
    for task in REGRESSIONS:
        for forecaster in FORECASTERS:
            assert made.smears[task][forecaster] > 2.5 * calm.smears[task][forecaster], (task, forecaster)


def test_the_clock_is_a_baseline() -> None:
    """Volatility that follows the time of day alone: HAR with the clock knows it, HAR does not."""
    panel, _ = world(0.0)
    names = list(FEATURES)
    angle = 2 * np.pi * (panel.as_of % 86_400) / 86_400
    task = REGRESSIONS[0]
    targets = {**panel.targets, task: np.sin(angle) + RNG.normal(0, 0.1, len(panel))}
    panel = Panel(panel.series, panel.as_of, panel.known, targets)
    features = np.zeros((len(panel), len(FEATURES)), np.float32)
    features[:, names.index("day_sine")], features[:, names.index("day_cosine")] = np.sin(angle), np.cos(angle)
    inputs = Inputs(panel, features, *(np.zeros((len(panel), 64), np.float32),) * 3)
    wanted = {}
    for forecaster in (HAR, CLOCK):
        given = design(forecaster, task, inputs, ("1h", "1d", "1w"))
        assert given.free.all()
        wanted[forecaster] = np.corrcoef(fit_ridge(given, targets[task], 0.0)(given), targets[task])[0, 1]
    assert wanted[CLOCK] > 0.98
    assert wanted[HAR] < 0.3
    clock = [f"{span}_{wave}" for span in ("day", "half_day", "week", "half_week") for wave in ("sine", "cosine")]
    assert [names[column] for column in TIME] == clock


def test_nothing_of_the_later_part_is_in_the_earlier(monkeypatch: pytest.MonkeyPatch) -> None:
    panel, split = world(0.0)
    seen = {}

    def choose(of: Panel, early: np.ndarray, late: np.ndarray) -> tuple[str, ...]:
        seen.update(ends=of.as_of[early].max() + LONGEST_HORIZON_S, begins=of.as_of[late].min())
        raise StopIteration

    monkeypatch.setattr(forecasts, "choose_har", choose)
    with pytest.raises(StopIteration):
        asked(panel, split, RNG.normal(size=(len(panel), 64)))
    learn = panel.as_of[panel.as_of + LONGEST_HORIZON_S <= split]
    cut = int(np.quantile(learn, 0.85))
    assert cut - 12 * HOUR < seen["ends"] <= cut <= seen["begins"]


def test_what_an_embedding_knows_is_found_and_what_it_does_not_know_is_not() -> None:
    panel, split = world(0.6)
    embedding = RNG.normal(size=(len(panel), 64))
    embedding[:, 0] = np.nan_to_num(panel.targets[REGRESSIONS[2]]) * 2 + RNG.normal(0, 0.5, len(panel))
    embedding[:, 1] += np.nan_to_num(panel.targets["direction_86400s"])
    made, rows = asked(panel, split, embedding)
    test = panel.select(rows)
    assert set(made.of[REGRESSIONS[2]]) == set(FORECASTERS)
    given = {f: values[rows] for f, values in made.of[REGRESSIONS[2]].items()}
    result = score_regression(test, REGRESSIONS[2], given, made.smears[REGRESSIONS[2]], NAMES)
    r2 = {f: np.mean([s["r2"] for s in by.values()]) for f, by in result["scores"].items()}
    qlike = {f: np.mean([s["qlike"] for s in by.values()]) for f, by in result["scores"].items()}
    assert r2[HAR] > max(r2[PERSISTENCE], 0.3)
    assert r2[BOTH] > r2[HAR] + 0.05
    assert qlike[BOTH] < qlike[HAR]
    assert Estimate(*result["clark_west"]).p_above < 0.01
    assert Estimate(*result["gains"][BOTH][HAR]).mean == pytest.approx(qlike[HAR] - qlike[BOTH], rel=0.05)
    direction = {f: values[rows] for f, values in made.of["direction_86400s"].items()}
    areas = score_classes(test, "direction_86400s", direction, NAMES)
    assert areas["areas"][EMBEDDING][0] > 0.65
    low, high = Estimate(*areas["areas"][HAR]).interval()
    assert low < 0.53
    assert high > 0.47
    assert Estimate(*areas["area_gains"][EMBEDDING][HAR]).p_above < 0.01


def test_in_a_market_without_memory_nobody_knows_anything() -> None:
    panel, split = world(0.0)
    made, rows = asked(panel, split, RNG.normal(size=(len(panel), 64)))
    test = panel.select(rows)
    given = {f: values[rows] for f, values in made.of[REGRESSIONS[2]].items()}
    result = score_regression(test, REGRESSIONS[2], given, made.smears[REGRESSIONS[2]], NAMES)
    for forecaster, by_series in result["scores"].items():
        assert np.mean([s["r2"] for s in by_series.values()]) < 0.05, forecaster
    assert Estimate(*result["clark_west"]).p_above > 0.01
    for task in ("large_move", "direction_86400s"):
        chances = {f: values[rows] for f, values in made.of[task].items()}
        areas = score_classes(test, task, chances, NAMES)["areas"]
        for forecaster in (EMBEDDING, BOTH):
            low, high = Estimate(*areas[forecaster]).interval(0.999)
            assert low < 0.5 < high, (task, forecaster)


def test_too_few_moments_are_said() -> None:
    panel, split = world(0.0)
    few = panel.select(np.arange(0, len(panel), 40))
    with pytest.raises(JobError, match="evaluate over a longer span"):
        asked(few, split, RNG.normal(size=(len(few), 64)))


def test_every_class_task_has_a_past_to_persist() -> None:
    panel, _ = world(0.0)
    assert {f"last_{task}" for task in CLASSES} <= set(panel.known)
