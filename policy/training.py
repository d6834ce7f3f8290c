"""Training: the pathwise gradient, cloned into PPO; then whichever did best on held-back data.

A pure function of data, plan and seed on one machine, however often it is interrupted. The net starts at the baseline
(trend × volatility target) and falls back to it, exactly, where neither stage earns a better reward on the held-back
end of the span, net of all frictions; the metrics say so.
"""

from __future__ import annotations

import hashlib
import math
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from policy.book_run import run_book
from policy.checkpoints import Checkpoint, read_checkpoint, write_checkpoint
from policy.pathwise_training import PathwiseStage
from policy.policy_network import Weights, act_of, baseline_of, shrunk
from policy.ppo_training import PpoStage
from policy.recipe import recipe_hash
from policy.strategies.residual import Residual
from policy.training_data import TrainingData
from policy.training_plan import TrainedSeed, TrainingPlan
from shared.job import JobError, JobStopped

__all__ = ["TrainedSeed", "TrainingPlan", "TrainingStopped", "act_of", "score", "train_seed"]

CHECKPOINT_S = 20.0
CURVE_POINTS = 200  # of each stage
MIN_VALIDATION = 24  # decisions with a complete view
BASELINE = "baseline"
SHARES = (("half", 0.5), ("quarter", 0.25))  # of its actions that a stage's net is also judged with

Stage = PathwiseStage | PpoStage


class TrainingStopped(JobStopped):
    """A training that was asked to stop and left a checkpoint to go on from."""


def train_seed(
    data: TrainingData, plan: TrainingPlan, seed: int, directory: Path | None = None, progress: bool = False
) -> TrainedSeed:
    """One policy. With a ``directory`` it leaves checkpoints there and goes on from one of the same training; SIGTERM
    and SIGINT then end it after the current step with TrainingStopped. The caller removes the directory when the result
    is safe. JobError when the span is too short to train on."""
    fitted, held_back = split(data, plan)
    with reproducible(), _signals(directory is not None) as asked:
        keeper = _Keeper(directory, data, plan, seed)
        run_ = _Run(fitted, held_back, plan, seed, keeper, lambda: bool(asked), progress)
        for name in ("pathwise", "ppo"):
            run_.stage(name)
    weights, metrics = _choose(_with_shrunk(run_.candidates), held_back, plan)
    return TrainedSeed(weights, {"seed": seed, "steps": run_.steps_done, **metrics}, run_.curve)


def split(data: TrainingData, plan: TrainingPlan) -> tuple[TrainingData, TrainingData]:
    """What is fitted and what is held back, ``purge_steps`` apart."""
    cut = int(len(data) * (1.0 - plan.held_back))
    fitted, held_back = data.part(0, max(cut - plan.purge_steps, 0)), data.part(cut, len(data))
    if len(fitted) < 3 or not fitted.complete[:-1].any():
        raise JobError(
            f"of {len(data)} decision times {len(fitted)} are left to fit, {int(fitted.complete.sum())} of them seen "
            "whole; give the policy a longer span, or run the encoder and the meta-controller over it first"
        )
    return fitted, held_back


def score(data: TrainingData, weights: Mapping[str, Any] | None, plan: TrainingPlan) -> dict[str, float]:
    """One book through all of ``data`` without resets, on true frictions: mean ``reward``, ``log_return``, ``turnover``
    a year (one way, ÷ mean equity) and mean ``exposure``. ``weights`` None: the baseline."""
    net = None if weights is None else act_of(weights)

    def act(observation: np.ndarray[Any, Any]) -> Residual:
        assert net is not None
        return Residual(net(observation), np.ones(len(observation)), plan.reach)

    book = run_book(data, None if net is None else act, plan.validation_terms())
    years = len(book.rewards) * data.step_s / (365 * 86_400)
    return {
        "reward": float(np.mean(book.rewards)),
        "log_return": math.log(max(book.equity[-1], 1e-9) / book.equity[0]),
        "turnover": book.traded / float(book.equity.mean()) / years,
        "exposure": float(book.weights.sum(axis=1).mean()),
    }


def _with_shrunk(candidates: Mapping[str, Weights]) -> dict[str, Weights]:
    """What the stages made, and the same nearer to the baseline, where being too sure costs less (shrinkage: James &
    Stein, 1961). The stages themselves come last: without anything to validate on, they stay."""
    nearer = {
        f"{name}_{word}": shrunk(weights, share) for name, weights in candidates.items() for word, share in SHARES
    }
    return nearer | dict(candidates)


def _choose(
    candidates: Mapping[str, Weights], held_back: TrainingData, plan: TrainingPlan
) -> tuple[Weights, dict[str, Any]]:
    """The best of the stages and the baseline on what was held back."""
    newest = list(candidates)[-1]
    seen = int(held_back.complete[:-1].any(axis=1).sum()) if len(held_back) >= 3 else 0
    if seen < MIN_VALIDATION:
        why = f"the held-back end has {seen} decisions with a complete view, {MIN_VALIDATION} are needed to compare"
        return candidates[newest], {"chosen": newest, "not_validated": why}
    scores = {BASELINE: score(held_back, None, plan)}
    scores |= {name: score(held_back, weights, plan) for name, weights in candidates.items()}
    chosen = max(scores, key=lambda name: scores[name]["reward"])  # the baseline where others only equal it
    metrics: dict[str, Any] = {"chosen": chosen}
    for name, values in scores.items():
        metrics |= {f"validation_{key}_{name}": round(value, 6) for key, value in values.items()}
    return baseline_of(candidates[newest]) if chosen == BASELINE else candidates[chosen], metrics


class _Run:
    """Both stages of one seed, with their progress bar, curve and checkpoints."""

    def __init__(
        self,
        data: TrainingData,
        held_back: TrainingData,
        plan: TrainingPlan,
        seed: int,
        keeper: _Keeper,
        stopped: Callable[[], bool],
        progress: bool,
    ) -> None:
        self.data, self.plan, self.seed = data, plan, seed
        self.keeper, self.stopped, self.progress = keeper, stopped, progress
        self.resumed = keeper.resume()
        self.candidates: dict[str, Weights] = {}
        self.curve: list[dict[str, Any]] = []
        self.steps_done: dict[str, int] = {}
        if self.resumed is not None:
            self.curve, self.steps_done = list(self.resumed.state["curve"]), dict(self.resumed.state["steps_done"])
            self.candidates |= _unpacked(self.resumed.tensors)

    def stage(self, name: str) -> None:
        """Does one stage, or what is left of it, or nothing where a checkpoint says that it was done."""
        resumed = self.resumed
        later = resumed is not None and resumed.state["stage"] != name and name in self.candidates
        stage = self._begin(name) if not later else None
        if stage is None:
            return
        if resumed is not None and resumed.state["stage"] == name:
            stage.restore(resumed.state["step"], resumed.tensors)
            self.curve = [point for point in self.curve if point["stage"] != name or point["step"] <= stage.step]
        self._advance(stage)
        self.steps_done[name] = stage.step * stage.environment_steps()
        if stage.steps or not self.candidates:
            self.candidates[name] = stage.weights()

    def _begin(self, name: str) -> Stage | None:
        if name == "pathwise":
            return PathwiseStage(self.data, self.plan, self.seed)
        return PpoStage(self.data, self.plan, self.seed, self.candidates["pathwise"]) if self.plan.ppo_steps else None

    def _advance(self, stage: Stage) -> None:
        every = max(1, stage.steps // CURVE_POINTS)
        rewards: list[float] = []
        bar = tqdm(
            desc=f"policy seed {self.seed}, {stage.name}", total=stage.steps, initial=stage.step, unit="step",
            disable=not self.progress, file=sys.stderr, mininterval=0.5,
        )  # fmt: skip
        with bar:
            while stage.step < stage.steps:
                reward = stage.advance(self.stopped)
                if reward is not None:
                    rewards.append(reward)
                    bar.set_postfix(reward=f"{reward:+.4f}", refresh=False)
                    bar.update()
                    if stage.step % every == 0 or stage.step == stage.steps:
                        self.curve.append(self._point(stage, rewards))
                        rewards = []
                        self.keeper.save_if_due(self, stage)
                if self.stopped():
                    if reward is not None:
                        self.keeper.save(self, stage)
                    raise TrainingStopped(
                        f"training was stopped in the {stage.name} stage of seed {self.seed} at step {stage.step} of "
                        f"{stage.steps}; run the same command again to go on from the last checkpoint"
                    )

    def _point(self, stage: Stage, rewards: list[float]) -> dict[str, Any]:
        return {
            "seed": self.seed,
            "stage": stage.name,
            "step": stage.step,
            "environment_steps": stage.step * stage.environment_steps(),
            "reward": sum(rewards) / len(rewards),
        }


class _Keeper:
    """The checkpoint of one seed; none without a directory."""

    def __init__(self, directory: Path | None, data: TrainingData, plan: TrainingPlan, seed: int) -> None:
        self.path = None if directory is None else directory / f"seed-{seed}.safetensors"
        self.mark = "" if directory is None else fingerprint(data, plan, seed)
        self.written = time.monotonic()

    def resume(self) -> Checkpoint | None:
        return None if self.path is None else read_checkpoint(self.path, self.mark)

    def save_if_due(self, run_: _Run, stage: Stage) -> None:
        if time.monotonic() - self.written >= CHECKPOINT_S:
            self.save(run_, stage)

    def save(self, run_: _Run, stage: Stage) -> None:
        if self.path is None:
            return
        state = {"stage": stage.name, "step": stage.step, "curve": run_.curve, "steps_done": run_.steps_done}
        try:
            write_checkpoint(self.path, Checkpoint(self.mark, state, stage.tensors() | _packed(run_.candidates)))
        except OSError as error:
            raise JobError(
                f"the checkpoint {self.path} can't be written: {error}; look at free space and permissions and run "
                "again: training goes on from the checkpoint before, if there is one"
            ) from error
        self.written = time.monotonic()


def _packed(candidates: Mapping[str, Weights]) -> dict[str, Tensor]:
    return {
        f"candidate/{name}/{key}": torch.from_numpy(array)
        for name, weights in candidates.items()
        for key, array in weights.items()
    }


def _unpacked(tensors: Mapping[str, Tensor]) -> dict[str, Weights]:
    candidates: dict[str, Weights] = {}
    for name, tensor in tensors.items():
        if name.startswith("candidate/"):
            _, stage, key = name.split("/")
            candidates.setdefault(stage, {})[key] = tensor.numpy().copy()
    return candidates


def fingerprint(data: TrainingData, plan: TrainingPlan, seed: int) -> str:
    """sha256 of all that the weights depend on: code, versions, plan, seed and data."""
    digest = hashlib.sha256(f"{recipe_hash()} {torch.__version__} {np.__version__} {seed} {plan!r}".encode())
    for part in (data, data.grid, data.rules):
        for name in part.__slots__:
            value = getattr(part, name)
            digest.update(name.encode())
            if isinstance(value, np.ndarray):
                digest.update(f"{value.dtype}{value.shape}".encode() + np.ascontiguousarray(value).data)
            elif name not in ("grid", "rules"):
                digest.update(repr(value).encode())
    return digest.hexdigest()


@contextmanager
def _signals(listen: bool) -> Iterator[list[str]]:
    """The names of the stop signals that came; a second one does what it always does. Main thread only: elsewhere
    Python lets nobody listen, and a signal ends the process as usual."""
    asked: list[str] = []
    before: dict[int, Any] = {}

    def note(number: int, _: object) -> None:
        asked.append(signal.Signals(number).name)
        restore()

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    try:
        for number in (signal.SIGTERM, signal.SIGINT) if listen else ():
            before[number] = signal.signal(number, note)
    except ValueError:
        before.clear()
    try:
        yield asked
    finally:
        restore()


@contextmanager
def reproducible() -> Iterator[None]:
    """One thread and deterministic kernels only; leaves torch as it was. Two threads are slower for nets this small."""
    threads, strict = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    memory = torch.utils.deterministic
    fills, memory.fill_uninitialized_memory = memory.fill_uninitialized_memory, False  # type: ignore[attr-defined]
    numpy_state = np.random.get_state()  # Stable-Baselines3 shuffles by numpy's global generator
    with torch.random.fork_rng(devices=[]):
        torch.set_num_threads(1)
        torch.use_deterministic_algorithms(True)
        try:
            yield
        finally:
            torch.set_num_threads(threads)
            torch.use_deterministic_algorithms(strict)
            memory.fill_uninitialized_memory = fills  # type: ignore[attr-defined]
            np.random.set_state(numpy_state)
