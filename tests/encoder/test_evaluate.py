"""The evaluation from stored candles to the stored verdict: nothing from later, nothing computed twice."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from encoder.evaluate import Request, run_once
from encoder.evaluation import fold as fold_module
from encoder.evaluation import panel, scoring
from encoder.evaluation.fold import evaluate_fold, finite, fold_path, write_json
from encoder.evaluation.recipe import Recipe, Source
from encoder.evaluation.run_folds import evaluation_key, run_folds
from encoder.evaluation.splits import walk_forward
from shared.clock import ReplayClock, from_unix
from shared.job import JobError, UsageError
from shared.rows import Candles
from shared.settings import Settings
from tests.encoder.evaluation_world import HOUR, START, clustered_candles
from tests.helpers import DatabaseFor, store_candles

N = 6600
NAMES = ("test:AAA/USDT", "test:BBB/USDT", "test:CCC/USDT")
REQUEST = Request(folds=1, hold_out=["CCC"], steps=3, jobs=1)


@pytest.fixture(autouse=True)
def _every_six_hours(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer moments: the same code in seconds."""
    for module in (panel, scoring):
        monkeypatch.setattr(module, "STRIDE_S", 6 * HOUR)


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
    folds = walk_forward(START + HOUR, START + 760 * HOUR, 1, HOUR)
    recipe = Recipe(HOUR, 1, None, 8, 7, ())
    said: list[str] = []
    with pytest.raises(JobError, match=r"fold 1 ended early: \d+ training windows.*run the same command again"):
        run_folds(Source(NAMES[:2], short), folds, recipe, tmp_path, 2, said.append)
    assert said == ["fold 1 runs"]
    assert not fold_path(tmp_path, 1).exists()


def test_the_key_tells_candles_folds_and_settings_apart() -> None:
    candles = clustered_candles(2000, 1)
    source = Source(("a:A/B",), (candles,))
    recipe = Recipe(HOUR, 1, None, 8, 7, ())
    folds = walk_forward(START, START + 2000 * HOUR, 1, HOUR)
    changed = Candles(**{name: getattr(candles, name).copy() for name in Candles.__slots__})
    changed.volume[1000] += 1e-9
    keys = {
        evaluation_key(source, folds, recipe, "x"),
        evaluation_key(source, folds, recipe, "y"),
        evaluation_key(source, folds, replace(recipe, steps=2), "x"),
        evaluation_key(source, [replace(folds[0], until=1)], recipe, "x"),
        evaluation_key(Source(("a:A/C",), (candles,)), folds, recipe, "x"),
        evaluation_key(Source(("a:A/B",), (changed,)), folds, recipe, "x"),
    }
    assert len(keys) == 6
    assert evaluation_key(source, folds, recipe, "x") in keys


def test_a_kill_while_writing_leaves_no_half_of_a_result(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "fold-1.json"
    with pytest.raises(ValueError, match="JSON"):
        write_json(path, {"a": 1, "b": float("nan")})
    assert not path.exists()
    write_json(path, finite({"a": [float("inf"), 1.5], "b": {"c": float("nan")}}))
    assert json.loads(path.read_text()) == {"a": [None, 1.5], "b": {"c": None}}
