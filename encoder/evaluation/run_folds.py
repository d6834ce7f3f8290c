"""The folds of an evaluation, several at once in processes of their own, each resumable."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from multiprocessing.connection import wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any

import numpy as np

from encoder.evaluation.fold import fold_path, run_fold
from encoder.evaluation.recipe import Recipe, Source
from encoder.evaluation.scoring import Result
from encoder.evaluation.splits import Fold
from shared.errors import SextantError
from shared.job import JobError
from shared.rows import CANDLE_FIELDS

HERE = Path(__file__).resolve().parent
SHARED = HERE.parent.parent / "shared"
CODE = (  # beside what encoder.fingerprint.recipe_hash covers
    *sorted(HERE.glob("*.py")),
    *(HERE.parent / f"{name}.py" for name in ("inference", "model_card", "novelty")),
    *(SHARED / f"{name}.py" for name in ("analog_bands", "analogs", "forecast_tests", "scores")),
)
NOT_IN_FOLDS = ("report.py", "retrieval_summary.py", "run_folds.py", "summary.py", "verdict.py")
PARENT_S = 2.0  # between looks whether the parent still lives


def evaluation_key(source: Source, folds: Sequence[Fold], recipe: Recipe, recipe_hash: str) -> str:
    """sha256 of all that a fold's result depends on: candles, folds, settings, code."""
    digest = hashlib.sha256(recipe_hash.encode())
    digest.update(json.dumps([asdict(fold) for fold in folds] + [asdict(recipe)], sort_keys=True).encode())
    for path in CODE:
        if path.name not in NOT_IN_FOLDS:
            digest.update(path.name.encode() + path.read_bytes())
    for name, candles in zip(source.names, source.series, strict=True):
        digest.update(name.encode())
        for field in CANDLE_FIELDS:
            digest.update(np.ascontiguousarray(getattr(candles, field)).data)
    return digest.hexdigest()


def run_folds(
    source: Source, folds: Sequence[Fold], recipe: Recipe, directory: Path, jobs: int, say: Callable[[str], None]
) -> list[Result]:
    """Every fold's result in order. Those already in ``directory`` are read, not computed again.

    With one job they run here, with more each in a process of its own. JobError with the reason when one fails or is
    told to stop; the others are stopped too, and what they did is kept.
    """
    todo = [fold for fold in folds if not fold_path(directory, fold.number).exists()]
    if len(todo) < len(folds):
        say(f"{len(folds) - len(todo)} of {len(folds)} folds are already there ({directory})")
    if jobs == 1:
        for fold in todo:
            started = time.monotonic()
            run_fold(source, fold, recipe, directory, progress=True)
            say(f"fold {fold.number} took {(time.monotonic() - started) / 60:.1f} minutes")
    else:
        _run_in_processes(source, todo, recipe, directory, jobs, say)
    return [run_fold(source, fold, recipe, directory, progress=False) for fold in folds]


def _run_in_processes(
    source: Source, todo: Sequence[Fold], recipe: Recipe, directory: Path, jobs: int, say: Callable[[str], None]
) -> None:
    # Of the processes started from here on: BLAS threads wait by spinning, and several folds would starve each other.
    os.putenv("OPENBLAS_NUM_THREADS", "1")
    context = multiprocessing.get_context("spawn")  # a fork would inherit the connection and PyTorch's threads
    waiting, running = list(todo), dict[Any, tuple[SpawnProcess, Fold]]()
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                fold = waiting.pop(0)
                arguments = (source, fold, recipe, directory, os.getpid())
                process = context.Process(target=_child, args=arguments, daemon=True)
                process.start()
                running[process.sentinel] = (process, fold)
                say(f"fold {fold.number} runs")
            for sentinel in wait(list(running)):
                process, fold = running.pop(sentinel)
                process.join()
                if process.exitcode:
                    raise JobError(f"fold {fold.number} ended early: {_reason(directory, fold, process.exitcode)}")
                say(f"fold {fold.number} is done")
    finally:
        for process, _ in running.values():
            process.terminate()  # a training writes its checkpoint first
        for process, _ in running.values():
            process.join()


def _reason(directory: Path, fold: Fold, exit_code: int) -> str:
    path = _error_path(directory, fold)
    told = path.read_text(encoding="utf-8") if path.exists() else f"exit code {exit_code}"
    return f"{told}; run the same command again to go on"


def _error_path(directory: Path, fold: Fold) -> Path:
    return directory / f"fold-{fold.number}.error"


def _child(source: Source, fold: Fold, recipe: Recipe, directory: Path, parent: int) -> None:
    """One fold in a process of its own; what went wrong is left in a file."""
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    error = _error_path(directory, fold)
    error.unlink(missing_ok=True)
    try:
        run_fold(source, fold, recipe, directory, progress=False)
    except Exception as failure:
        told = str(failure) if isinstance(failure, SextantError) else f"{type(failure).__name__}: {failure}"
        directory.mkdir(parents=True, exist_ok=True)
        error.write_text(told, encoding="utf-8")
        raise SystemExit(1) from failure


def _end_with(parent: int) -> None:
    """A child whose parent was killed must not go on beside the next run."""
    while os.getppid() == parent:
        time.sleep(PARENT_S)
    os._exit(1)
