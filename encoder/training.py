"""The training loop: a pure function of windows, plan and code, however often it is interrupted.

All that is random in step k is drawn from generators seeded by (seed, k) alone, and the learning rate is a
function of k, so weights and moments are all that a checkpoint needs: resumed equals uninterrupted, bit for
bit on the CPU at a fixed number of threads. On a GPU nothing is promised about bits.
"""

from __future__ import annotations

import math
import signal
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from encoder.augment import add_noise, augment, draw_mask
from encoder.checkpoints import Checkpoint, read_checkpoint, remove_checkpoints, write_checkpoint
from encoder.dataset import TrainingSet
from encoder.encoder_model import PATCHES, Batch, Encoder, Heads, Losses, Statistics, losses
from encoder.fingerprint import fingerprint
from shared.features import CHANNELS
from shared.job import JobError, JobStopped, UsageError
from shared.rows import FloatArray

LEARNING_RATE = 2e-3
WEIGHT_DECAY = 0.05
WARM_UP = 0.05  # of the steps
LONGEST_GRADIENT = 1.0
SMALLEST_SCALE = 0.1  # of a channel or feature: one that hardly moved in training must not shout when it does
SMALLEST_SPREAD = 1e-6  # of a label
MEASURED = 8192  # windows, evenly spread, that means and scales are taken from
BLOCK = 512  # windows whose channels are in memory at a time
THREADS = 1  # two gain a quarter on an idle machine and lose sixfold on a busy one; and bits never depend on cores
REPORTED_STEPS = 50  # the losses reported are means over the last steps
CHECKPOINT_S = 30.0
FIRST_STEPS, TIMED_STEPS = 2, 8  # of a calibration: those that warm up, those whose median counts

Device = Literal["auto", "cpu", "cuda"]
History = list[tuple[float, ...]]  # a step's losses, in the order of Losses


class TrainingStopped(JobStopped):
    """A training that was asked to stop and left a checkpoint to go on from."""


@dataclass(frozen=True, slots=True)
class TrainingPlan:
    """What is done with the windows. ``steps``, or None: as many as fit into ``minutes``, measured once.

    ``most_passes``: never more than so many over all windows (None: as many as it takes). ``note`` travels in the
    checkpoints and changes nothing. No steps: the net as it is before training.
    """

    steps: int | None
    batch_size: int
    seed: int
    minutes: float | None = None
    most_passes: float | None = None
    device: Device = "auto"
    threads: int = THREADS
    note: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if (self.steps is None) == (self.minutes is None):
            raise ValueError("a plan has either steps or minutes")


@dataclass(frozen=True, slots=True)
class Fitted:
    """``encoder`` and ``heads`` are on the CPU, in evaluation mode; ``losses``: means over the last steps."""

    encoder: Encoder
    heads: Heads
    losses: dict[str, float]
    steps: int
    device: str


def fit(
    data: TrainingSet,
    plan: TrainingPlan,
    directory: Path | None = None,
    progress: bool = False,
    checkpoint_s: float = CHECKPOINT_S,
) -> Fitted:
    """Trains on all windows of ``data``; resumes from a checkpoint of the same training in ``directory``.

    Every ``checkpoint_s`` seconds, at the end, and when SIGTERM or SIGINT ask it to stop (TrainingStopped) it
    leaves a checkpoint; the caller removes them when the result is safe. Without a directory there are none, and
    signals do what they always do. UsageError when the device is not there.
    """
    device = find_device(plan.device)
    with reproducible(plan.threads, device):
        if directory is None:
            training = _Training(data, plan, device, _count_steps(data, plan, device))
            _run(training, progress, lambda: False)
        else:
            training = _run_with_checkpoints(data, plan, device, _Keeper(directory, checkpoint_s), progress)
        return training.fitted()


def find_device(wanted: Device) -> str:
    """``cpu`` or ``cuda``; UsageError when a GPU is wanted and PyTorch sees none."""
    seen = torch.cuda.is_available()
    if wanted == "cuda" and not seen:
        built = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "built without CUDA"
        raise UsageError(
            f"--device cuda: PyTorch {torch.__version__} ({built}) sees no NVIDIA GPU here; install its driver and a "
            "CUDA build of PyTorch, or use --device cpu"
        )
    return "cuda" if seen and wanted != "cpu" else "cpu"


class _Training:
    """Weights, moments and the step they are at."""

    def __init__(self, data: TrainingSet, plan: TrainingPlan, device: str, steps: int) -> None:
        self.data, self.plan, self.device, self.steps = data, plan, device, steps
        self.step = 0
        self.history: History = []
        torch.manual_seed(plan.seed)
        self.statistics = measure(data)
        self.encoder, self.heads = Encoder(self.statistics).to(device), Heads().to(device)
        self.labels = torch.from_numpy(data.labels)
        self.center, self.spread = self.labels.mean(0), self.labels.std(0).clamp_min(SMALLEST_SPREAD)
        self.optimizer = torch.optim.AdamW(
            list(self.parameters().values()), LEARNING_RATE, weight_decay=WEIGHT_DECAY, fused=True
        )

    def parameters(self) -> dict[str, Tensor]:
        parts = (("encoder", self.encoder), ("heads", self.heads))
        return {f"{part}.{name}": value for part, module in parts for name, value in module.named_parameters()}

    def advance(self) -> float:
        """One step; its loss."""
        for group in self.optimizer.param_groups:
            group["lr"] = LEARNING_RATE * _learning_rate(self.step, self.steps)
        self.encoder.train()
        loss = self._losses()
        total = loss.total()
        if not torch.isfinite(total):
            raise JobError(f"the loss of step {self.step + 1} is {total.item()}; the training is given up")
        self.optimizer.zero_grad()
        total.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.parameters().values(), LONGEST_GRADIENT)
        self.optimizer.step()
        self.step += 1
        self.history = [*self.history[1 - REPORTED_STEPS :], tuple(part.item() for part in loss)]
        return total.item()

    def _losses(self) -> Losses:
        """Everything random in here depends on (seed, step) only: dropout on torch's own, the rest on ``generator``."""
        seeds = np.random.SeedSequence([self.plan.seed, self.step]).generate_state(2, np.uint64)
        torch.manual_seed(int(seeds[0]))
        generator = torch.Generator().manual_seed(int(seeds[1]))
        size = self.plan.batch_size
        chosen = torch.randint(len(self.data), (size,), generator=generator).numpy()
        parts = self.data.channels(chosen), self.data.features[chosen], self.data.labels[chosen]
        shown = augment(Batch(*map(torch.from_numpy, parts)), generator)
        shown = shown._replace(labels=(shown.labels - self.center) / self.spread)
        channel_scale = self.statistics.channel_scale.reshape(1, -1, 1)
        seen = add_noise(shown, channel_scale, self.statistics.feature_scale, generator)
        masked = draw_mask(size, PATCHES, generator)
        return losses(self.encoder, self.heads, self._move(seen), self._move(shown), masked.to(self.device))

    def _move(self, batch: Batch) -> Batch:
        return Batch(*(part.to(self.device) for part in batch))

    def checkpoint(self, fingerprint: str) -> Checkpoint:
        tensors = dict(self.parameters())
        for name, parameter in self.parameters().items():
            for kind, value in self.optimizer.state.get(parameter, {}).items():
                tensors[f"{kind} {name}"] = value
        state = {
            "steps": self.steps,
            "minutes": self.plan.minutes,
            "losses": self.history,
            "note": dict(self.plan.note),
        }
        return Checkpoint(self.step, fingerprint, state, tensors)

    def restore(self, checkpoint: Checkpoint) -> None:
        parameters = self.parameters()
        moments: dict[int, dict[str, Tensor]] = {}
        for k, (name, parameter) in enumerate(parameters.items()):
            parameter.data.copy_(checkpoint.tensors[name])
            moments[k] = {
                kind: checkpoint.tensors[f"{kind} {name}"]
                for kind in ("step", "exp_avg", "exp_avg_sq")
                if f"{kind} {name}" in checkpoint.tensors
            }
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict(
            {"state": {k: moment for k, moment in moments.items() if moment}, "param_groups": groups}
        )
        self.step = checkpoint.step
        self.history = [tuple(losses_) for losses_ in checkpoint.state["losses"]]

    def fitted(self) -> Fitted:
        means = [float(np.mean(part)) for part in zip(*self.history, strict=True)]
        named = dict(zip(Losses._fields, means, strict=True)) if means else {}
        return Fitted(self.encoder.cpu().eval(), self.heads.cpu().eval(), named, self.steps, self.device)


def _count_steps(data: TrainingSet, plan: TrainingPlan, device: str) -> int:
    """As the plan says, or as many as fit into its minutes: timed on a training that is thrown away. A window is seen
    no more often than the plan allows."""
    most = math.inf if plan.most_passes is None else math.ceil(plan.most_passes * len(data) / plan.batch_size)
    if plan.steps is not None:
        return int(min(plan.steps, most))
    assert plan.minutes is not None
    trial = _Training(data, plan, device, steps=10_000)
    for _ in range(FIRST_STEPS):
        trial.advance()
    seconds = []
    for _ in range(TIMED_STEPS):
        started = time.perf_counter()
        trial.advance()  # reads the loss, so it waits for the device
        seconds.append(time.perf_counter() - started)
    return int(min(max(1, plan.minutes * 60 / statistics.median(seconds)), most))


def _run(training: _Training, progress: bool, pause: Callable[[], bool]) -> None:
    """Steps until the last one, or until ``pause`` after a step says so."""
    bar = tqdm(
        desc="train_encoder",
        total=training.steps,
        initial=training.step,
        unit="step",
        disable=not progress,
        file=sys.stderr,
        mininterval=1.0,
    )
    with bar:
        while training.step < training.steps:
            loss = training.advance()
            bar.set_postfix(loss=f"{loss:.3f}", refresh=False)
            bar.update()
            if pause():
                return


class _Keeper:
    """Writes the checkpoints of one training."""

    def __init__(self, directory: Path, every_s: float) -> None:
        self.directory, self.every_s = directory, every_s
        self.mark, self.step, self.written = "", -1, time.monotonic()

    def resume(self, data: TrainingSet, plan: TrainingPlan, device: str) -> _Training:
        """At the newest checkpoint of the same training, or at the beginning with nothing of another one left."""
        settings = {
            name: getattr(plan, name) for name in ("steps", "minutes", "most_passes", "batch_size", "seed", "threads")
        }
        self.mark = fingerprint(data, settings | {"device": device})
        checkpoint = read_checkpoint(self.directory, self.mark)
        if checkpoint is None:
            remove_checkpoints(self.directory)  # else a later step of another training would pass for the newest
            return _Training(data, plan, device, _count_steps(data, plan, device))
        training = _Training(data, plan, device, checkpoint.state["steps"])
        training.restore(checkpoint)
        self.step = training.step
        return training

    def save(self, training: _Training) -> None:
        if self.step == training.step:
            return
        try:
            write_checkpoint(self.directory, training.checkpoint(self.mark))
        except OSError as error:
            raise JobError(
                f"the checkpoint of step {training.step} can't be written to {self.directory}: {error}; look at free "
                "space and permissions and run again: training goes on from the checkpoint before, if there is one"
            ) from error
        self.step, self.written = training.step, time.monotonic()

    def save_if_due(self, training: _Training) -> None:
        if time.monotonic() - self.written >= self.every_s:
            self.save(training)


def _run_with_checkpoints(
    data: TrainingSet, plan: TrainingPlan, device: str, keeper: _Keeper, progress: bool
) -> _Training:
    training = keeper.resume(data, plan, device)

    def pause() -> bool:
        keeper.save_if_due(training)
        return bool(asked)

    with _signals() as asked:
        keeper.save(training)  # keeps the number of steps, and says at once if nothing can be written
        _run(training, progress, pause)
        keeper.save(training)
    if asked and training.step < training.steps:
        raise TrainingStopped(
            f"training was stopped by {asked[0]} after step {training.step} of {training.steps}; run the same command "
            f"again to go on from there (checkpoint in {keeper.directory})"
        )
    return training


@contextmanager
def _signals() -> Iterator[list[str]]:
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
        for number in (signal.SIGTERM, signal.SIGINT):
            before[number] = signal.signal(number, note)
    except ValueError:
        yield asked
        return
    try:
        yield asked
    finally:
        restore()


@contextmanager
def reproducible(threads: int, device: str) -> Iterator[None]:
    """A fixed number of threads and, on the CPU, deterministic kernels only; leaves torch as it was."""
    before, strict = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    memory = torch.utils.deterministic
    fills, memory.fill_uninitialized_memory = memory.fill_uninitialized_memory, False  # type: ignore[attr-defined]
    with torch.random.fork_rng(devices=[torch.cuda.current_device()] if device == "cuda" else []):
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(device == "cpu")
        try:
            yield
        finally:
            torch.set_num_threads(before)
            torch.use_deterministic_algorithms(strict)
            memory.fill_uninitialized_memory = fills  # type: ignore[attr-defined]


def measure(data: TrainingSet) -> Statistics:
    """Means and standard deviations of channels and features, over at most 8192 windows evenly spread over time."""
    chosen = np.unique(np.linspace(0, len(data) - 1, min(MEASURED, len(data))).astype(np.int64))
    total, squares, count = np.zeros(len(CHANNELS)), np.zeros(len(CHANNELS)), 0
    for i in range(0, len(chosen), BLOCK):
        block = data.channels(chosen[i : i + BLOCK]).astype(np.float64)
        total += block.sum(axis=(0, 2))
        squares += (block * block).sum(axis=(0, 2))
        count += block.shape[0] * block.shape[2]
    mean = total / count
    features = data.features[chosen].astype(np.float64)
    return Statistics(
        _tensor(mean),
        _tensor(np.maximum(np.sqrt(np.maximum(squares / count - mean * mean, 0.0)), SMALLEST_SCALE)),
        _tensor(features.mean(axis=0)),
        _tensor(np.maximum(features.std(axis=0), SMALLEST_SCALE)),
    )


def _tensor(values: FloatArray) -> Tensor:
    return torch.from_numpy(values.astype(np.float32))


def _learning_rate(step: int, steps: int) -> float:
    """Of LEARNING_RATE: a linear rise, then half a cosine down to zero."""
    warm_up = max(1, int(steps * WARM_UP))
    if step < warm_up:
        return (step + 1) / warm_up
    return 0.5 * (1 + math.cos(math.pi * (step - warm_up) / max(1, steps - warm_up)))
