"""A fold after its preparation: train each seed on it, then test all seeds, their ensemble and the baselines."""

from __future__ import annotations

import io
import json
import math
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.evaluation.contestants import (
    BASELINE,
    BASELINES,
    ENSEMBLE,
    Contestant,
    Kind,
    read_contestants,
    seed_name,
    write_contestant,
)
from pipeline.evaluation.prepare import FoldTask
from pipeline.evaluation.scratch import drop_scratch
from pipeline.evaluation.trials import (
    Tested,
    contributions_by_day,
    cost_curve,
    measure,
    regimes_by_day,
    request_of,
    shifted,
    try_baselines,
    try_policy,
    under_other_terms,
)
from policy.laboratory import Laboratory
from policy.observation import policy_schema
from policy.policy_export import export_ensemble
from policy.policy_model import PolicyModel
from policy.recipe import recipe_hash
from policy.train_policy import load_training_data
from policy.training import train_seed
from policy.training_plan import plan_of
from shared.db import Database
from shared.market_data import find_instruments
from shared.model_store import active_model, model_by_id, save_model
from shared.performance import Trial, TrialsLedger
from shared.performance.returns import DAYS_A_YEAR, sharpe
from shared.rows import FloatArray
from shared.schema import open_database

Weights = Mapping[str, NDArray[Any]]
LEDGER = "trials.jsonl"


@dataclass(frozen=True, slots=True)
class Trained:
    weights: Weights
    metrics: Mapping[str, Any]
    seconds: float

    def to_bytes(self) -> bytes:
        """npz without pickles; the metrics as JSON in an entry of their own."""
        buffer = io.BytesIO()
        told = np.frombuffer(json.dumps([dict(self.metrics), self.seconds]).encode(), np.uint8)
        np.savez(buffer, allow_pickle=False, **{"__told__": told, **self.weights})
        return buffer.getvalue()

    @staticmethod
    def from_bytes(data: bytes) -> Trained:
        with np.load(io.BytesIO(data), allow_pickle=False) as entries:
            weights = {name: entries[name] for name in entries.files}
        metrics, seconds = json.loads(weights.pop("__told__").tobytes())
        return Trained(weights, metrics, seconds)


def train(task: FoldTask) -> None:
    """Trains the task's seed in the fold's scratch database and leaves the weights in a file; nothing where it is."""
    assert task.seed is not None
    path = weights_file(task, task.seed)
    if path.exists():
        return
    started, fold, settings = time.monotonic(), task.fold, task.settings
    database = open_database(settings, "policy")
    try:
        encoder = active_model(database, "encoder")
        assert encoder is not None  # prepare() trained it
        instruments = find_instruments(database, task.venue, fold.symbols)
        data = load_training_data(database, settings, instruments, encoder, fold.policy_from, fold.policy_to)
    finally:
        database.close()
    directory = path.with_suffix("")
    made = train_seed(data, plan_of(settings), task.seed, directory)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_suffix(".part")
    beside.write_bytes(Trained(made.weights, made.metrics, time.monotonic() - started).to_bytes())
    beside.rename(path)
    shutil.rmtree(directory, ignore_errors=True)


def weights_file(task: FoldTask, seed: int) -> Path:
    return task.series.parent / f"fold-{task.fold.number}-seed-{seed}.npz"


def try_fold(task: FoldTask, seeds: Sequence[int]) -> None:
    """Tests all that the fold has and writes their rows to the main database, each as soon as it is known and none
    twice; then the scratch database is dropped."""
    main, scratch = open_database(task.main, "policy"), open_database(task.settings, "policy")
    try:
        _Test(task, main, scratch).run(seeds)
    finally:
        main.close()
        scratch.close()
    drop_scratch(task.main, task.settings)


class _Test:
    def __init__(self, task: FoldTask, main: Database, scratch: Database) -> None:
        self.task, self.main, self.scratch = task, main, scratch
        self.there = {c.name: c for c in read_contestants(main, task.key) if c.fold == task.fold.number}

    def run(self, seeds: Sequence[int]) -> None:
        trained = {seed: self._trained(seed) for seed in seeds}
        plan = plan_of(self.task.settings)
        singles = {seed: self._save(export_ensemble([one.weights]), plan.reach) for seed, one in trained.items()}
        onnx = export_ensemble([one.weights for one in trained.values()])
        together = self._save(onnx, plan.reach)
        lab = self._laboratory("off")
        assert lab.policy is not None  # just saved
        baselines = self._baselines(lab)
        hold = baselines["buy_and_hold"]
        for seed, one in trained.items():
            if seed_name(seed) not in self.there:
                tested = try_policy(lab, self._model(lab, singles[seed]).act, hold)
                self._record(seed, one, tested.returns - baselines[BASELINE])
                metrics = {"figures": tested.figures, "training": dict(one.metrics)}
                self._write(seed_name(seed), "seed", tested.returns, metrics, one.to_bytes(), one.seconds)
        if ENSEMBLE not in self.there:
            self._ensemble(lab, self._model(lab, together), hold, onnx)

    def _trained(self, seed: int) -> Trained:
        row = self.there.get(seed_name(seed))
        if row is not None and row.model is not None:
            return Trained.from_bytes(row.model)
        return Trained.from_bytes(weights_file(self.task, seed).read_bytes())

    def _save(self, onnx: bytes, reach: float) -> int:
        """As the active policy of the scratch database; the same bytes again are the same model."""
        settings, fold = self.task.settings, self.task.fold
        encoder = active_model(self.scratch, "encoder")
        assert encoder is not None
        return save_model(
            self.scratch,
            kind="policy",
            onnx=onnx,
            schema=policy_schema(settings.universe.decision_timeframe_s, encoder.schema_hash, reach),
            trained_from=fold.policy_from,
            trained_to=fold.policy_to,
            label_horizon_s=0,
            provenance=self.task.provenance,
            encoder_id=encoder.id,
            metrics={"recipe": recipe_hash()},
            recorded_at=fold.test_from,
        )

    def _model(self, lab: Laboratory, model_id: int) -> PolicyModel:
        assert lab.policy is not None
        return PolicyModel(model_by_id(self.scratch, model_id), lab.policy.encoder)

    def _laboratory(self, limits: str) -> Laboratory:
        fold, settings = self.task.fold, self.task.settings
        return Laboratory(self.scratch, settings, request_of(settings, fold.test_from, fold.test_to, limits))

    def _baselines(self, lab: Laboratory) -> dict[str, FloatArray]:
        if all(name in self.there for name in BASELINES):
            return {name: self.there[name].returns for name in BASELINES}
        started, found = time.monotonic(), try_baselines(lab)
        for name, tested in found.items():
            metrics: dict[str, Any] = {"figures": tested.figures}
            if name == BASELINE:
                metrics["contributions"] = self._contributions(lab, tested)
            self._write(name, "baseline", tested.returns, metrics, None, time.monotonic() - started)
        return {name: tested.returns for name, tested in found.items()}

    def _ensemble(self, lab: Laboratory, model: PolicyModel, hold: FloatArray, onnx: bytes) -> None:
        started, profile = time.monotonic(), self.task.profile
        tested = try_policy(lab, model.act, hold)
        allowed = tested.path.allowed
        limited = self._laboratory("operator")
        under_limits = measure(limited, limited.trade("policy", model.act), hold)
        metrics = {
            "figures": tested.figures,
            "operator": {
                "figures": under_limits.figures,
                "returns": under_limits.returns.tolist(),
                "stops": under_limits.path.emergency_stops,
            },
            "terms": under_other_terms(lab, model.act),
            "cost_curve": cost_curve(lab, allowed),
            "shifts": shifted(lab, allowed, profile.shifts, self.task.fold.number),
            "regimes": regimes_by_day(lab, len(tested.returns)),
            "contributions": self._contributions(lab, tested),
        }
        self._write(ENSEMBLE, "ensemble", tested.returns, metrics, onnx, time.monotonic() - started)

    def _contributions(self, lab: Laboratory, tested: Tested) -> dict[str, list[float]]:
        by_day = contributions_by_day(lab, tested.path)
        return {s: column.tolist() for s, column in zip(self.task.fold.symbols, by_day.T, strict=True)}

    def _record(self, seed: int, one: Trained, active: FloatArray) -> None:
        """One line of the ledger for each policy that was trained and looked at, once."""
        ledger = TrialsLedger(self.task.main.home_path / LEDGER)
        what = {"key": self.task.key, "fold": self.task.fold.number, "seed": seed, "profile": self.task.profile.name}
        if any(trial.what == what for trial in ledger.read().entries):
            return  # a run that was killed between the ledger and the row
        annual = sharpe(active)
        daily = None if annual is None else annual / math.sqrt(DAYS_A_YEAR)
        ledger.append(Trial(self.task.at, "evaluation", recipe_hash(), what, daily, len(active)))

    def _write(
        self,
        name: str,
        kind: Kind,
        returns: FloatArray,
        metrics: Mapping[str, Any],
        model: bytes | None,
        seconds: float,
    ) -> None:
        fold = self.task.fold
        one = Contestant(
            fold.number, name, kind, fold.symbols, fold.test_from, fold.test_to, returns, metrics, model, seconds
        )
        write_contestant(self.main, self.task.key, one, self.task.at)
