"""One fold: train, embed, ask everyone, score. A pure function of candles up to the fold's end, written as JSON.

Whoever is asked learns from the same moments, at most 40,000 of them. The net sees the first 85 % of the
training span; penalties and rounds are chosen on the other 15 %, where its embeddings are as they will be in
the test: of windows it was not fitted on.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from encoder.evaluation.baselines import BOTH, HAR, Inputs
from encoder.evaluation.forecasts import Forecasts, forecast_all, split_to_learn
from encoder.evaluation.nets import see, train_nets, training_windows
from encoder.evaluation.panel import Panel, build_panel
from encoder.evaluation.recipe import Recipe, Source
from encoder.evaluation.retrieval import Moments, score_retrieval
from encoder.evaluation.scoring import Result, score_classes, score_regression
from encoder.evaluation.splits import LONGEST_HORIZON_S, Fold, asset
from encoder.evaluation.targets import CLASSES, REGRESSIONS
from encoder.schema import HORIZONS_S
from shared.market_data import BoolArray
from shared.rows import FloatArray, IntArray

PROBED = 40_000  # moments that baselines and probes learn from, evenly spread
QUESTIONS_S = 6 * 3600  # between the questions that are put to analogs
CALIBRATED_S = 270 * 86_400  # of questions before the test, whose outcomes calibrate the bands of those in it
LEARN, CALIBRATE, ASK = 1, 2, 4  # what a moment is for; the first two may meet
UNUSUAL = (0.99, 0.999)  # of ood


def fold_path(directory: Path, number: int) -> Path:
    return directory / f"fold-{number}.json"


def run_fold(source: Source, fold: Fold, recipe: Recipe, directory: Path, progress: bool) -> Result:
    """The fold's result; read again when it is already there, else computed and written whole or not at all.

    The training in it resumes from its own checkpoints in ``directory``.
    """
    path = fold_path(directory, fold.number)
    if path.exists():
        stored: Result = json.loads(path.read_text(encoding="utf-8"))
        return stored
    from encoder.checkpoints import remove_checkpoints

    checkpoints = directory / f"training-{fold.number}"
    result = evaluate_fold(source, fold, recipe, checkpoints, progress)
    write_json(path, finite(result))
    remove_checkpoints(checkpoints)
    parsed: Result = json.loads(path.read_text(encoding="utf-8"))
    return parsed


def write_json(path: Path, content: Any) -> None:
    """Durably, under another name first: a kill leaves the whole file or none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".draft")
    with draft.open("w", encoding="utf-8") as sink:
        json.dump(content, sink, indent=1, allow_nan=False)
        sink.flush()
        os.fsync(sink.fileno())
    draft.rename(path)


def finite(content: Any) -> Any:
    """The same with None for what is no number: neither JSON nor PostgreSQL know NaN."""
    if isinstance(content, dict):
        return {key: finite(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [finite(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


def evaluate_fold(source: Source, fold: Fold, recipe: Recipe, checkpoints: Path | None, progress: bool) -> Result:
    """Trains on what is not held out up to the fold's train_to, and scores all series after it, seen and unseen.

    JobError, before the training, for too few windows or moments to learn from.
    """
    lap = _Stopwatch()
    series = [candles[candles.as_of <= fold.until] for candles in source.series]
    seen = np.array([asset(name) not in recipe.held_out for name in source.names])
    panel, roles = _choose(build_panel(series, recipe.timeframe_s), fold, seen)
    learn, ask = np.flatnonzero(roles & LEARN), np.flatnonzero(roles & ASK)
    fitted, held = training_windows([series[k] for k in np.flatnonzero(seen)], fold, recipe.timeframe_s)
    cut = int(held.as_of[0])  # the first close that is not fitted
    split_to_learn(panel.select(learn), cut)  # too few are said before the training, not after it
    lap("moments")
    nets = train_nets(fitted, held, recipe, checkpoints, progress)
    lap("training")
    inputs, ood = see(series, panel, learn, nets, recipe)
    lap("embedding")
    forecasts = forecast_all(inputs, learn, cut)
    lap("probes")
    result: Result = {
        "fold": asdict(fold),
        "har": list(forecasts.har),
        "training": nets.training,
        "penalties": forecasts.penalties,
        "learnt": len(learn),
    }
    for group, wanted in (("seen", True), ("unseen", False)):
        rows = ask[seen[panel.series[ask]] == wanted]
        if not len(rows):
            continue
        asked = np.flatnonzero((roles & (CALIBRATE | ASK) > 0) & (seen[panel.series] == wanted))
        result[group] = {
            "moments": len(rows),
            "tasks": _score(panel, rows, forecasts, source.names),
            "ood": {f"{level}": float((ood[rows] > level).mean()) for level in UNUSUAL},
            "retrieval": _score_analogs(inputs, forecasts, np.flatnonzero(seen[panel.series]), asked, fold),
        }
    lap("scores")
    return result | {"seconds": lap.seconds}


def _score(panel: Panel, rows: IntArray, forecasts: Forecasts, names: Sequence[str]) -> Result:
    asked = panel.select(rows)
    scores: Result = {}
    for task in (*REGRESSIONS, *CLASSES):
        given = {forecaster: values[rows] for forecaster, values in forecasts.of[task].items()}
        if task in CLASSES:
            scores[task] = score_classes(asked, task, given, names)
        else:
            scores[task] = score_regression(asked, task, given, forecasts.smears[task], names)
    return scores


def _score_analogs(inputs: Inputs, forecasts: Forecasts, library: IntArray, asked: IntArray, fold: Fold) -> Result:
    """Questions every six hours, answered from moments of seen series; ``why_not`` where nothing can be scored."""
    panel = inputs.panel
    moments = Moments(
        inputs.embedding,
        panel.as_of,
        panel.series,
        np.column_stack([panel.targets[f"return_{h}s"] for h in HORIZONS_S]),
        np.exp(panel.known["log_ewma"]),
        _volatilities(forecasts, HAR),
        _volatilities(forecasts, BOTH),
    )
    sparse = panel.as_of % QUESTIONS_S == 0
    kept = library[(panel.as_of[library] < fold.test_from) | sparse[library]]
    questions = asked[sparse[asked]]
    try:
        return score_retrieval(moments.select(kept), moments.select(questions), scored_after=fold.test_from)
    except ValueError as error:
        return {"why_not": str(error)}


def _volatilities(forecasts: Forecasts, forecaster: str) -> FloatArray:
    """[N, horizons], of a candle."""
    return np.column_stack(
        [np.exp(forecasts.of[task][forecaster]) * np.sqrt(forecasts.smears[task][forecaster]) for task in REGRESSIONS]
    )


class _Stopwatch:
    """Seconds of real time since the last lap, by name."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.monotonic()

    def __call__(self, name: str) -> None:
        now = time.monotonic()
        self.seconds[name] = round(now - self._last, 1)
        self._last = now


def _choose(panel: Panel, fold: Fold, seen: BoolArray) -> tuple[Panel, IntArray]:
    """The moments of use and what each is for [N]: LEARN, of seen series with labels inside the training span,
    thinned evenly; CALIBRATE, every six hours of the days before the test; ASK, the test."""
    roles = np.zeros(len(panel), np.int64)
    inside = (panel.as_of >= fold.train_from) & (panel.as_of + LONGEST_HORIZON_S <= fold.train_to)
    learn = np.flatnonzero(inside & seen[panel.series])
    roles[learn[:: max(1, math.ceil(len(learn) / PROBED))]] |= LEARN
    before = (panel.as_of >= fold.test_from - CALIBRATED_S) & (panel.as_of < fold.test_from)
    roles[before & (panel.as_of % QUESTIONS_S == 0)] |= CALIBRATE
    roles[(panel.as_of >= fold.test_from) & (panel.as_of <= fold.test_to)] |= ASK
    return panel.select(roles > 0), roles[roles > 0]
