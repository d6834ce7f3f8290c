"""The evaluation from stored candles to the stored verdict: nothing from later, nothing computed twice."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from psycopg.types.json import Json

from encoder import model_card
from encoder.dataset import TrainingSet
from encoder.encoder_model import Encoder
from encoder.evaluate import Request, read_source, run_once
from encoder.evaluation import baselines, panel, probes, scoring
from encoder.evaluation import fold as fold_module
from encoder.evaluation.baselines import Inputs
from encoder.evaluation.fold import evaluate_fold, finite, fold_path, write_json
from encoder.evaluation.forecasts import Forecasts
from encoder.evaluation.nets import training_windows
from encoder.evaluation.recipe import Recipe, Source
from encoder.evaluation.retrieval import Moments
from encoder.evaluation.run_folds import evaluation_key, run_folds
from encoder.evaluation.splits import Fold, walk_forward
from encoder.evaluation.targets import REGRESSIONS
from shared.clock import ReplayClock, from_unix
from shared.db import load_queries
from shared.job import JobError, UsageError
from shared.rows import Candles
from shared.settings import Settings
from tests.encoder.evaluation_world import HOUR, START, clustered_candles
from tests.encoder.small_encoder import save_encoder
from tests.helpers import DatabaseFor, random_candles, store_candles

N = 6600
DAY = 86_400
NAMES = ("test:AAA/USDT", "test:BBB/USDT", "test:CCC/USDT")
REQUEST = Request(folds=1, hold_out=["CCC"], steps=3, jobs=1)


@pytest.fixture(autouse=True)
def _smaller(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer moments, penalties and iterations: the same code in seconds."""
    for module in (panel, scoring):
        monkeypatch.setattr(module, "STRIDE_S", 6 * HOUR)
    monkeypatch.setattr(fold_module, "QUESTIONS_S", 12 * HOUR)
    monkeypatch.setattr(probes, "PENALTIES", (1e-4, 1e-1))
    monkeypatch.setattr(probes, "NEWTON_STEPS", 3)
    monkeypatch.setattr(baselines, "POWER_STEPS", 1)


@pytest.fixture
def _exported_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The graph of equal weights and windows is made once: it takes seconds."""
    made: dict[bytes, bytes] = {}

    def export(net: Encoder, *data: TrainingSet) -> bytes:
        parts = [*(weights.numpy() for weights in net.state_dict().values()), *(part.features for part in data)]
        key = b"".join(part.tobytes() for part in parts)
        if key not in made:
            made[key] = real(net, *data)
        return made[key]

    real = model_card.export
    monkeypatch.setattr(model_card, "export", export)


@pytest.fixture(scope="module")
def series() -> tuple[Candles, ...]:
    return tuple(clustered_candles(N, seed) for seed in range(3))


def evaluated(database_for: DatabaseFor, settings: Settings, said: list[str]) -> dict[str, object]:
    clock = ReplayClock(from_unix(START + (N + 5) * HOUR))
    outcome = run_once(clock, database_for("encoder"), settings, REQUEST, said.append)
    assert outcome.status == "done"
    row = database_for("owner").fetch_one(
        "SELECT * FROM encoder_evaluations WHERE id = %(id)s", {"id": outcome.result["evaluation_id"]}
    )
    assert row is not None
    return row


@pytest.mark.usefixtures("_exported_once")
def test_from_candles_to_the_verdict_and_again_without_work(
    series: tuple[Candles, ...], database_for: DatabaseFor, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, candles in zip(NAMES, series, strict=True):
        store_candles(database_for, *name.split(":"), HOUR, candles)
    said: list[str] = []
    row = evaluated(database_for, settings, said)
    assert row["symbols"] == list(NAMES)
    assert row["folds"] == 1
    (fold,) = row["results"]["folds"]
    assert set(fold["seen"]["tasks"]["log_volatility_86400s"]["scores"]["HAR"]) == set(NAMES[:2])
    assert set(fold["unseen"]["tasks"]["log_volatility_86400s"]["scores"]["HAR"]) == {NAMES[2]}
    assert len(row["verdict"].splitlines()) >= 22
    assert all(len(line) <= 120 for line in said[-1].splitlines() if "aim" not in line and "against" not in line)
    _knows_its_own_past(fold)

    monkeypatch.setattr(fold_module, "evaluate_fold", lambda *_: pytest.fail("computed again"))
    again: list[str] = []
    second = evaluated(database_for, settings, again)
    assert second["results"] == row["results"]
    assert again[-1] == said[-1]
    _poisoned_future_changes_nothing(series, fold)


def _knows_its_own_past(fold: dict) -> None:
    scores = {
        name: np.mean([s["r2"] for s in by_series.values()])
        for name, by_series in fold["seen"]["tasks"]["log_volatility_86400s"]["scores"].items()
    }
    assert scores["HAR"] > 0.3
    assert scores["HAR"] > scores["persistence"]
    assert scores["HAR ⊕ embedding"] > 0.3


def _poisoned_future_changes_nothing(series: tuple[Candles, ...], expected: dict) -> None:
    """What came after the fold's end, turned upside down, changes no number of it."""
    recipe = Recipe(HOUR, 3, None, 256, 7, ("CCC",))
    (fold,) = walk_forward(START + HOUR, START + N * HOUR, 1, HOUR)
    later = tuple(
        Candles.concatenate(
            [c, replace(clustered_candles(N + 200, 99)[N:], as_of=c.as_of[-1] + HOUR * np.arange(1, 201))]
        )
        for c in series
    )
    result = json.loads(json.dumps(finite(evaluate_fold(Source(NAMES, later), fold, recipe, None, False))))
    del result["seconds"]
    assert result == {name: value for name, value in expected.items() if name != "seconds"}


def test_a_series_that_is_not_stored_and_a_database_without_candles_are_refused(
    database_for: DatabaseFor, settings: Settings
) -> None:
    clock = ReplayClock(from_unix(START))
    with pytest.raises(UsageError, match="no candles of 3600 s of test:DDD/USDT are stored"):
        run_once(clock, database_for("encoder"), settings, Request(symbols=["test:DDD/USDT"]))
    with pytest.raises(JobError, match="make backfill"):
        run_once(clock, database_for("encoder"), settings, Request())


def test_folds_in_processes_of_their_own_say_why_they_ended(tmp_path: Path) -> None:
    short = tuple(clustered_candles(760, seed) for seed in range(2))
    folds = [Fold(1, START + HOUR, START + 380 * HOUR, START + 700 * HOUR, START + 736 * HOUR, START + 760 * HOUR)]
    recipe = Recipe(HOUR, 1, None, 8, 7, ())
    said: list[str] = []
    with pytest.raises(JobError, match=r"fold 1 ended early: \d+ training windows.*run the same command again"):
        run_folds(Source(NAMES[:2], short), folds, recipe, tmp_path, 2, said.append)
    assert said == ["fold 1 runs"]
    assert not fold_path(tmp_path, 1).exists()


def test_a_fold_with_too_few_windows_to_fit_is_refused() -> None:
    series = tuple(random_candles(800, 300, seed) for seed in range(2))
    first, last = int(series[0].as_of[0]), int(series[0].as_of[-1])
    fold = Fold(1, first, last, last, last, last)
    with pytest.raises(JobError, match=r"windows to fit and .* days of candles of 300 s .* would do"):
        training_windows(series, fold, 300)


def test_too_few_moments_are_said_before_the_training(
    series: tuple[Candles, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Windows enough for a net, but volatility has had no terciles yet."""
    fold = Fold(1, START + HOUR, START + 95 * DAY, START + 110 * DAY, START + 119 * DAY, START + 120 * DAY)
    monkeypatch.setattr(fold_module, "train_nets", lambda *_: pytest.fail("trained"))
    with pytest.raises(JobError, match=r"0 and \d+ moments to learn volatility_class from, .* fewer folds"):
        evaluate_fold(Source(NAMES, series), fold, Recipe(HOUR, 1, None, 8, 7, ()), None, False)


def test_a_short_span_is_refused_before_anything_is_done(
    series: tuple[Candles, ...], database_for: DatabaseFor, settings: Settings
) -> None:
    store_candles(database_for, "test", "AAA/USDT", HOUR, series[0][: 200 * 24])
    clock = ReplayClock(from_unix(START + 200 * DAY))
    with pytest.raises(UsageError, match=r"1 folds of 100\.0 days are too short, 120\.0 are needed"):
        run_once(clock, database_for("encoder"), settings, REQUEST)


@pytest.mark.parametrize("timeframe_s", [14_400, 86_400])
def test_candles_that_do_not_divide_the_horizons_are_refused(
    timeframe_s: int, database_for: DatabaseFor, settings: Settings
) -> None:
    clock = ReplayClock(from_unix(START))
    with pytest.raises(UsageError, match=rf"candles of {timeframe_s} s do not divide the encoder's horizons"):
        run_once(clock, database_for("encoder"), settings, Request(timeframe_s=timeframe_s))


def test_the_span_ends_at_midnight_unless_told(series: tuple[Candles, ...], database_for: DatabaseFor) -> None:
    store_candles(database_for, "test", "AAA/USDT", HOUR, series[0])
    database = database_for("encoder")
    midnight, later = (ReplayClock(from_unix(START + 200 * DAY + h * HOUR)) for h in (0, 7))
    ends = [
        int(read_source(database, request, clock).series[0].as_of[-1]) - START
        for request, clock in (
            (Request(), midnight),
            (Request(), later),
            (Request(span_to=from_unix(START + 200 * DAY + 3 * HOUR)), later),
            (Request(span_to=from_unix(START + 300 * DAY)), later),
        )
    ]
    assert ends == [200 * DAY, 200 * DAY, 200 * DAY + 3 * HOUR, 200 * DAY + 7 * HOUR]


def test_an_evaluation_is_of_a_model_of_its_recipe_steps_and_timeframe(database_for: DatabaseFor) -> None:
    made = (("r", 3, HOUR), ("r", 600, HOUR), ("r", 3, 300), ("s", 3, HOUR))
    ids = [
        save_encoder(database_for, seed, timeframe_s=timeframe_s, metrics={"recipe": recipe, "steps": steps})
        for seed, (recipe, steps, timeframe_s) in enumerate(made)
    ]

    def attached(recipe: str, steps: int | None, timeframe_s: int) -> int | None:
        row = {"recipe_hash": recipe, "steps": steps, "timeframe_s": timeframe_s, "symbols": ["a:A/B"], "folds": 1}
        row |= {"evaluated_from": from_unix(START), "evaluated_to": from_unix(START + DAY), "results": Json({})}
        row |= {"verdict": "x", "recorded_at": from_unix(START + 2 * DAY)}
        stored = database_for("encoder").fetch_one(load_queries("evaluation")["insert_evaluation"], row)
        assert stored is not None
        return stored["model_id"]

    assert attached("r", 3, HOUR) == ids[0]
    assert attached("r", 600, HOUR) == ids[1]
    assert attached("r", 3, 300) == ids[2]
    assert attached("s", 600, HOUR) is None
    assert attached("r", 600, 300) is None
    assert attached("r", None, HOUR) is None


def test_nobody_learns_from_the_last_day_or_from_what_is_held_out(
    series: tuple[Candles, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What reaches the net, the probes and the library of analogs of a fold."""
    (fold,) = walk_forward(START + HOUR, START + N * HOUR, 1, HOUR)
    got: dict[str, Any] = {"libraries": [], "asked": []}

    def windows(of: Any, *_: object) -> tuple[None, Any]:
        got["trained_on"] = of
        return None, SimpleNamespace(as_of=np.array([fold.train_to - 20 * DAY]))

    def see(_: object, of: panel.Panel, *__: object) -> tuple[Inputs, np.ndarray]:
        empty = np.zeros((len(of), 64), np.float32)
        return Inputs(of, empty, empty, empty, empty), np.zeros(len(of))

    def forecast(inputs: Inputs, learn: np.ndarray, cut: int) -> Forecasts:
        got["learnt"], got["cut"] = inputs.panel.select(learn), cut
        forecasters = dict.fromkeys(("HAR", "HAR ⊕ embedding"), np.zeros(len(inputs.panel)))
        of, smears = (
            dict.fromkeys(REGRESSIONS, forecasters),
            dict.fromkeys(REGRESSIONS, dict.fromkeys(forecasters, 1.0)),
        )
        return Forecasts(of, smears, {}, ())

    def retrieve(library: Moments, questions: Moments, **_: object) -> dict[str, Any]:
        got["libraries"].append(library)
        got["asked"].append(questions)
        return {}

    fakes = {"training_windows": windows, "see": see, "forecast_all": forecast, "score_retrieval": retrieve}
    fakes |= {"train_nets": lambda *_: SimpleNamespace(training={}), "_score": lambda *_: {}}
    for name, fake in fakes.items():
        monkeypatch.setattr(fold_module, name, fake)
    evaluate_fold(Source(NAMES, series), fold, Recipe(HOUR, 3, None, 256, 7, ("BBB",)), None, False)

    assert [candles.close[0] for candles in got["trained_on"]] == [series[0].close[0], series[2].close[0]]
    assert set(got["learnt"].series) == {0, 2}
    assert fold.train_to - 12 * HOUR < got["learnt"].as_of.max() + DAY <= fold.train_to
    assert got["cut"] == fold.train_to - 20 * DAY
    assert [set(library.instrument) for library in got["libraries"]] == [{0, 2}, {0, 2}]
    assert [set(asked.instrument) for asked in got["asked"]] == [{0, 2}, {1}]


def test_the_key_tells_candles_folds_and_settings_apart() -> None:
    candles = clustered_candles(2000, 1)
    source = Source(("a:A/B",), (candles,))
    recipe = Recipe(HOUR, 1, None, 8, 7, ())
    folds = walk_forward(START, START + 6000 * HOUR, 1, HOUR)
    changed = Candles(**{name: getattr(candles, name).copy() for name in Candles.__slots__})
    changed.volume[1000] += 1e-9
    keys = {
        evaluation_key(source, folds, recipe, "x"),
        evaluation_key(source, folds, recipe, "y"),
        evaluation_key(source, folds, replace(recipe, steps=2), "x"),
        evaluation_key(source, folds, replace(recipe, most_passes=8.0), "x"),
        evaluation_key(source, [replace(folds[0], until=1)], recipe, "x"),
        evaluation_key(Source(("a:A/C",), (candles,)), folds, recipe, "x"),
        evaluation_key(Source(("a:A/B",), (changed,)), folds, recipe, "x"),
    }
    assert len(keys) == 7
    assert evaluation_key(source, folds, recipe, "x") in keys


def test_a_kill_while_writing_leaves_no_half_of_a_result(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "fold-1.json"
    with pytest.raises(ValueError, match="JSON"):
        write_json(path, {"a": 1, "b": float("nan")})
    assert not path.exists()
    write_json(path, finite({"a": [float("inf"), 1.5], "b": {"c": float("nan")}}))
    assert json.loads(path.read_text()) == {"a": [None, 1.5], "b": {"c": None}}
