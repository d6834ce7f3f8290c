"""Trains the encoder on the stored candles of the universe and makes it the active one.

Input: market_data. Output: one row of models. ``python -m encoder.train_encoder [--from --to] [--steps] [--at]``
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from encoder.augment import add_noise, augment, draw_mask
from encoder.dataset import LABEL_HORIZON, Dataset, build_dataset, candles_between, split_in_time
from encoder.encoder_model import (
    PATCHES,
    Encoder,
    Exported,
    Heads,
    Losses,
    export_onnx,
    losses,
)
from encoder.novelty import Novelty, summarise
from encoder.probe import probe_scores
from encoder.schema import encoder_schema
from shared.clock import Clock, floor_time, from_unix, to_unix
from shared.db import Database
from shared.job import Context, JobError, Outcome, UsageError, job, job_parser, run_job_command
from shared.market_data import UnknownInstrument, find_instruments, read_candles
from shared.model_store import save_model
from shared.rows import Candles, Instrument
from shared.settings import Settings

LEARNING_RATE = 2e-3
WEIGHT_DECAY = 0.05
WARM_UP = 0.05  # of the steps
SMALLEST_SCALE = 0.1  # of a channel: one that hardly moved in training must not shout when it does
SMALLEST_SPREAD = 1e-6  # of a label
THREADS = 1  # two gain a quarter on an idle machine and lose sixfold on a busy one; and bits never depend on cores
SAMPLE = 512  # training windows kept in the graph, and as many that calibrate ood
REPORTED_STEPS = 50  # the losses reported are means over the last steps
BATCH_OF_INFERENCE = 512


def train(
    candles_by_instrument: Sequence[Candles],
    *,
    timeframe_s: int,
    trained_from: datetime,
    trained_to: datetime,
    steps: int,
    batch_size: int,
    seed: int,
    progress: bool,
) -> tuple[bytes, dict[str, Any]]:
    """The encoder as ONNX bytes and what is worth knowing about it.

    Uses candles with trained_from < as_of <= trained_to only, also for labels. The last 15 % of the windows
    are never fitted: they score the probe and calibrate ood. Equal data and seed give equal bytes. JobError
    when there are too few windows.
    """
    inside = [candles_between(candles, to_unix(trained_from), to_unix(trained_to)) for candles in candles_by_instrument]
    data = build_dataset(inside, timeframe_s)
    fit, held = split_in_time(data, timeframe_s)
    with _deterministic(seed):
        encoder, last = _fit(fit, steps, batch_size, seed, progress)
        fit_embeddings, held_embeddings = _embed(encoder, fit), _embed(encoder, held)
        novelty = Novelty(*_sample(encoder, fit, fit_embeddings))
        novelty.calibrate(*_sample(encoder, held, held_embeddings))
        onnx = export_onnx(Exported(encoder, novelty))
    metrics = {
        "candles": sum(map(len, inside)),
        "windows_fitted": len(fit),
        "windows_held_out": len(held),
        "parameters": sum(parameter.numel() for parameter in encoder.parameters()),
        "steps": steps,
        "batch_size": batch_size,
        "seed": seed,
        **{f"loss_{name}": round(value, 4) for name, value in last.items()},
        **probe_scores(fit, held, fit_embeddings.double().numpy(), held_embeddings.double().numpy()),
    }
    return onnx, metrics


@contextmanager
def _deterministic(seed: int) -> Iterator[None]:
    """One seed, one thread, deterministic kernels; leaves torch as it was."""
    threads, strict = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    memory = torch.utils.deterministic
    fills, memory.fill_uninitialized_memory = memory.fill_uninitialized_memory, False  # type: ignore[attr-defined]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        torch.set_num_threads(THREADS)
        torch.use_deterministic_algorithms(True)
        try:
            yield
        finally:
            torch.set_num_threads(threads)
            torch.use_deterministic_algorithms(strict)
            memory.fill_uninitialized_memory = fills  # type: ignore[attr-defined]


def _fit(data: Dataset, steps: int, batch_size: int, seed: int, progress: bool) -> tuple[Encoder, dict[str, float]]:
    """The fitted encoder, in evaluation mode, and its mean losses over the last steps."""
    windows, labels = torch.from_numpy(data.windows), torch.from_numpy(data.labels.astype(np.float32))
    center, spread = labels.mean(0), labels.std(0).clamp_min(SMALLEST_SPREAD)
    encoder, heads = Encoder(*_channel_statistics(data.windows)), Heads()
    parameters = [*encoder.parameters(), *heads.parameters()]
    optimizer = torch.optim.AdamW(parameters, LEARNING_RATE, weight_decay=WEIGHT_DECAY, fused=True)
    warm_up = max(1, int(steps * WARM_UP))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _learning_rate(step, warm_up, steps))
    generator = torch.Generator().manual_seed(seed)
    history: list[Losses] = []
    bar = tqdm(range(steps), desc="train_encoder", disable=not progress, file=sys.stderr, mininterval=1.0)
    for step in bar:
        batch = torch.randint(len(data), (batch_size,), generator=generator)
        shown, wanted = augment(windows[batch], labels[batch], generator)
        seen, masked = add_noise(shown, encoder.scale, generator), draw_mask(batch_size, PATCHES, generator)
        loss = losses(encoder, heads, seen, shown, (wanted - center) / spread, masked)
        optimizer.zero_grad()
        loss.total().backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        history = [*history[1 - REPORTED_STEPS :], Losses(*(part.detach() for part in loss))]
        if step % 20 == 0:
            bar.set_postfix(loss=f"{loss.total().item():.3f}")
    means = [float(torch.stack(parts).mean()) for parts in zip(*history, strict=True)]
    return encoder.eval(), dict(zip(Losses._fields, means, strict=True))


def _learning_rate(step: int, warm_up: int, steps: int) -> float:
    """Of LEARNING_RATE: a linear rise, then half a cosine down to zero."""
    if step < warm_up:
        return (step + 1) / warm_up
    return 0.5 * (1 + float(np.cos(np.pi * (step - warm_up) / max(1, steps - warm_up))))


def _channel_statistics(windows: NDArray[np.float32]) -> tuple[Tensor, Tensor]:
    mean = windows.mean(axis=(0, 2), dtype=np.float64)
    scale = np.maximum(windows.std(axis=(0, 2), dtype=np.float64), SMALLEST_SCALE)
    return torch.from_numpy(mean.astype(np.float32)), torch.from_numpy(scale.astype(np.float32))


@torch.no_grad()
def _embed(encoder: Encoder, data: Dataset) -> Tensor:
    """[N, 64]"""
    parts = torch.split(torch.from_numpy(data.windows), BATCH_OF_INFERENCE)
    return torch.cat([encoder(part)[1] for part in parts])


def _sample(encoder: Encoder, data: Dataset, embeddings: Tensor) -> tuple[Tensor, Tensor]:
    """Embeddings and summaries of at most 512 windows, evenly spread over time."""
    chosen = np.unique(np.linspace(0, len(data) - 1, min(SAMPLE, len(data))).astype(int))
    return embeddings[chosen], summarise(encoder.standardise(torch.from_numpy(data.windows[chosen])))


@job("train_encoder")
def run_once(
    clock: Clock,
    database: Database,
    settings: Settings,
    trained_from: datetime | None = None,
    trained_to: datetime | None = None,
    progress: bool = False,
) -> Outcome:
    """Trains on (trained_from, trained_to] and stores the model as the active encoder.

    By default from the first candle until one label horizon (24 candles) ago: the model is known from
    trained_to + label horizon, which is then now, not tomorrow.
    """
    timeframe_s = settings.universe.decision_timeframe_s
    horizon_s = LABEL_HORIZON * timeframe_s
    trained_to = trained_to or floor_time(clock.now(), timeframe_s) - timedelta(seconds=horizon_s)
    if trained_to > clock.now():
        raise UsageError(f"--to {trained_to.isoformat()} is in the future: it is {clock.now().isoformat()}")
    instruments, missing = _known_instruments(database, settings)
    after = to_unix(trained_from) if trained_from else 0
    series = [read_candles(database, i.id, timeframe_s, after, to_unix(trained_to)) for i in instruments]
    trained_from = trained_from or _first_open(series, timeframe_s)
    if trained_from >= trained_to:
        raise UsageError(f"--from {trained_from.isoformat()} is not before --to {trained_to.isoformat()}")
    onnx, metrics = train(
        series,
        timeframe_s=timeframe_s,
        trained_from=trained_from,
        trained_to=trained_to,
        steps=settings.encoder.train_steps,
        batch_size=settings.encoder.batch_size,
        seed=settings.encoder.seed,
        progress=progress,
    )
    model_id = save_model(
        database,
        kind="encoder",
        onnx=onnx,
        schema=encoder_schema(timeframe_s),
        trained_from=trained_from,
        trained_to=trained_to,
        label_horizon_s=horizon_s,
        provenance="simulated" if any(i.provenance == "simulated" for i in instruments) else "real",
        encoder_id=None,
        metrics=metrics,
        recorded_at=clock.now(),
    )
    known_from = (trained_to + timedelta(seconds=horizon_s)).isoformat()
    warnings = {"warnings": missing} if missing else {}
    return Outcome("done", {"model_id": model_id, "known_from": known_from, **metrics, **warnings})


def _known_instruments(database: Database, settings: Settings) -> tuple[list[Instrument], list[str]]:
    """The universe as far as candles of it are stored, and a warning for each symbol that has none."""
    known: list[Instrument] = []
    missing: list[str] = []
    for symbol in settings.universe.symbols:
        try:
            known += find_instruments(database, settings.universe.venue, [symbol])
        except UnknownInstrument as error:
            missing.append(str(error))
    if not known:
        raise JobError("; ".join(missing))
    return known, missing


def _first_open(series: Sequence[Candles], timeframe_s: int) -> datetime:
    """When the first candle opened; JobError when there is none."""
    firsts = [int(candles.as_of[0]) for candles in series if len(candles)]
    if not firsts:
        raise JobError(f"there are no candles of {timeframe_s} s to train on; run `make backfill`")
    return from_unix(min(firsts) - timeframe_s)


def main(argv: list[str] | None = None) -> int:
    parser = job_parser("Trains the encoder and makes it the active one.", span=True)
    parser.add_argument("--steps", type=int, help="instead of [encoder] train_steps")
    return run_job_command("encoder", parser, _work, argv)


def _work(context: Context) -> Outcome:
    settings, arguments = context.settings, context.arguments
    if arguments.steps is not None:
        if arguments.steps < 1:
            raise UsageError(f"--steps {arguments.steps}: at least 1")
        encoder = settings.encoder.model_copy(update={"train_steps": arguments.steps})
        settings = settings.model_copy(update={"encoder": encoder})
    return run_once(context.clock, context.database, settings, arguments.span_from, arguments.span_to, progress=True)


if __name__ == "__main__":
    sys.exit(main())
