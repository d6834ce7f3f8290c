"""Trains an encoder on stored candles of several symbols and venues and stores it with its model card.

Input: market_data. Output: one row of models: the first encoder of a database becomes the active one, a later
one a candidate (``make encoder-upgrade``).
``python -m encoder.train_encoder [--symbols …] [--from --to] [--steps | --minutes] [--device] [--at]``
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, get_args
from urllib.parse import quote

import torch

from encoder.checkpoints import newest_checkpoint
from encoder.dataset import LABEL_HORIZON_S, build_training_set, candles_between
from encoder.fingerprint import recipe_hash
from encoder.model_card import check, describe, export, split
from encoder.schema import encoder_schema, require_timeframe
from encoder.training import Device, TrainingPlan, find_device, fit, reproducible
from shared.clock import Clock, SystemClock, floor_time, from_unix, parse_time, to_unix
from shared.db import Database
from shared.job import Context, JobError, Outcome, UsageError, job, job_parser, run_job_command
from shared.market_data import UnknownInstrument, find_instruments, read_candles
from shared.model_store import active_model, save_model, schema_hash
from shared.rows import Candles, Instrument
from shared.settings import Settings

RESUMED_SPAN = timedelta(days=1)  # an unfinished training that ends longer ago is not worth finishing
KEPT = timedelta(days=30)  # checkpoints that nobody went on from


def train(
    candles_by_instrument: Sequence[Candles],
    *,
    timeframe_s: int,
    trained_from: datetime,
    trained_to: datetime,
    plan: TrainingPlan,
    directory: Path | None = None,
    progress: bool = False,
) -> tuple[bytes, dict[str, Any]]:
    """The encoder as ONNX bytes and what is worth knowing about it.

    Uses candles with trained_from < as_of <= trained_to only, also for labels. The last 15 % of the windows
    are never fitted: they score the probe and calibrate ood. Equal candles and plan give equal bytes on the
    CPU, resumed from a checkpoint in ``directory`` or not. JobError when there are too few windows,
    ModelRefused when the stored graph would not say what the net says.
    """
    inside = [candles_between(candles, to_unix(trained_from), to_unix(trained_to)) for candles in candles_by_instrument]
    fitted, held = split(build_training_set(inside, timeframe_s))
    net = fit(fitted, plan, directory, progress)
    with reproducible(plan.threads, "cpu"):
        onnx = export(net.encoder, fitted, held)
        scores = check(net.encoder, onnx, fitted, held)
    return onnx, {
        "candles": sum(map(len, inside)),
        "windows_fitted": len(fitted),
        "windows_held_out": len(held),
        "parameters": sum(parameter.numel() for parameter in net.encoder.parameters()),
        "steps": net.steps,
        **({} if plan.minutes is None else {"minutes": plan.minutes}),
        "batch_size": plan.batch_size,
        "seed": plan.seed,
        "device": net.device,
        "threads": plan.threads,
        "torch": str(torch.__version__),
        "recipe": recipe_hash(plan.batch_size),
        **{f"loss_{name}": round(value, 4) for name, value in net.losses.items()},
        **scores,
    }


@dataclass(frozen=True, slots=True)
class _Source:
    """What is trained on."""

    names: list[str]
    series: list[Candles]
    provenance: str
    warnings: list[str]


@job("train_encoder")
def run_once(
    clock: Clock,
    database: Database,
    settings: Settings,
    trained_from: datetime | None = None,
    trained_to: datetime | None = None,
    progress: bool = False,
    *,
    symbols: Sequence[str] = (),
    steps: int | None = None,
    minutes: float | None = None,
    device: Device = "auto",
) -> Outcome:
    """Trains on (trained_from, trained_to] and stores the model: active if it is the first, else a candidate.

    By default on [encoder] train_on (empty: the universe), from the first candle until 24 hours ago: the model
    is known from trained_to + 24 h, which is then now, not tomorrow. A training that was stopped or killed goes
    on where it was when it is asked for again; with the default end, at the end it had then, up to a day ago.
    """
    found = find_device(device)  # before the work: it may not be there
    timeframe_s = settings.universe.decision_timeframe_s
    require_timeframe(timeframe_s)
    names = [_full_name(name, settings) for name in symbols or settings.encoder.train_on or settings.universe.symbols]
    default = steps is None and minutes is None
    if default:
        steps = settings.encoder.train_steps
    batch_size, seed = settings.encoder.batch_size, settings.encoder.seed
    most = settings.encoder.train_passes if default else None
    note = {"symbols": names, "timeframe_s": timeframe_s, "from": trained_from and trained_from.isoformat()}
    note |= {"until": trained_to and trained_to.isoformat(), "steps": steps, "minutes": minutes, "most_passes": most}
    note |= {"batch_size": batch_size, "seed": seed, "device": found}
    directory = _directory_of(settings, database, note)
    newest = floor_time(clock.now(), timeframe_s) - timedelta(seconds=LABEL_HORIZON_S)
    trained_to = trained_to or _unfinished(directory, note, newest) or newest
    if trained_to > clock.now():
        raise UsageError(f"--to {trained_to.isoformat()} is in the future: it is {clock.now().isoformat()}")
    source = _read(database, names, timeframe_s, trained_from, trained_to)
    trained_from = trained_from or _first_open(source.series, timeframe_s)
    if trained_from >= trained_to:
        raise UsageError(f"--from {trained_from.isoformat()} is not before --to {trained_to.isoformat()}")
    note |= {"to": trained_to.isoformat()}
    plan = TrainingPlan(steps, batch_size, seed, minutes, most, device, note=note)
    span = {"trained_from": trained_from, "trained_to": trained_to}
    onnx, metrics = train(
        source.series, timeframe_s=timeframe_s, **span, plan=plan, directory=directory, progress=progress
    )
    metrics["symbols"] = source.names
    card = _store(database, onnx, metrics, source, timeframe_s, trained_from, trained_to, clock.now())
    shutil.rmtree(directory, ignore_errors=True)
    warnings = {"warnings": source.warnings} if source.warnings else {}
    return Outcome("done", card | warnings)


def _store(
    database: Database,
    onnx: bytes,
    metrics: dict[str, Any],
    source: _Source,
    timeframe_s: int,
    trained_from: datetime,
    trained_to: datetime,
    now: datetime,
) -> dict[str, Any]:
    """Writes the row of models; the model card."""
    schema = encoder_schema(timeframe_s)
    model_id = save_model(
        database,
        kind="encoder",
        onnx=onnx,
        schema=schema,
        trained_from=trained_from,
        trained_to=trained_to,
        label_horizon_s=LABEL_HORIZON_S,
        provenance=source.provenance,
        encoder_id=None,
        metrics=metrics,
        recorded_at=now,
        status="candidate",
    )
    active = active_model(database, "encoder")
    return {
        "model_id": model_id,
        "status": "active" if active is not None and active.id == model_id else "candidate",
        "trained_from": trained_from.isoformat(),
        "trained_to": trained_to.isoformat(),
        "known_from": (trained_to + timedelta(seconds=LABEL_HORIZON_S)).isoformat(),
        "sha256": hashlib.sha256(onnx).hexdigest(),
        "schema_hash": schema_hash(schema),
        **metrics,
    }


def _directory_of(settings: Settings, database: Database, note: dict[str, Any]) -> Path:
    """Where the checkpoints of a request are kept: each has a folder of its own, so that none removes another's.

    What has lain there untouched for 30 days is removed.
    """
    parent = settings.home_path / "training" / f"encoder-{quote(database.connection.info.dbname, safe='')}"
    before = (SystemClock().now() - KEPT).timestamp()  # files have no other clock
    for folder in parent.iterdir() if parent.is_dir() else ():
        if folder.stat().st_mtime < before:
            shutil.rmtree(folder, ignore_errors=True)
    return parent / hashlib.sha256(json.dumps(note, sort_keys=True).encode()).hexdigest()[:16]


def _unfinished(directory: Path, note: dict[str, Any], newest: datetime) -> datetime | None:
    """Where the span of a stopped training of the same request ends; None for none, or one that is too old."""
    checkpoint = newest_checkpoint(directory)
    if checkpoint is None:
        return None
    kept = dict(checkpoint.state["note"])
    ended = parse_time(kept.pop("to"))
    return ended if kept == note and newest - RESUMED_SPAN <= ended <= newest else None


def _full_name(name: str, settings: Settings) -> str:
    """``venue:SYMBOL``"""
    return name if ":" in name else f"{settings.universe.venue}:{name}"


def _read(
    database: Database, names: Sequence[str], timeframe_s: int, after: datetime | None, until: datetime
) -> _Source:
    """The candles of ``venue:SYMBOL`` names as far as they are stored, and a warning that names the others."""
    known: list[Instrument] = []
    missing: list[str] = []
    for name in dict.fromkeys(names):
        venue, _, symbol = name.partition(":")
        try:
            known += find_instruments(database, venue, [symbol])
        except UnknownInstrument:
            missing.append(name)
    advice = f"no candles of {', '.join(missing)} are stored; run `make backfill` or `make import-csv FILE=…`"
    if not known:
        raise JobError(advice)
    start = to_unix(after) if after else 0
    return _Source(
        names=[f"{i.venue}:{i.symbol}" for i in known],
        series=[read_candles(database, i.id, timeframe_s, start, to_unix(until)) for i in known],
        provenance="simulated" if any(i.provenance == "simulated" for i in known) else "real",
        warnings=[advice] if missing else [],
    )


def _first_open(series: Sequence[Candles], timeframe_s: int) -> datetime:
    """When the first candle opened; JobError when there is none."""
    firsts = [int(candles.as_of[0]) for candles in series if len(candles)]
    if not firsts:
        raise JobError(f"there are no candles of {timeframe_s} s to train on; run `make backfill`")
    return from_unix(min(firsts) - timeframe_s)


def main(argv: list[str] | None = None) -> int:
    parser = job_parser("Trains an encoder: the first becomes the active one, a later one a candidate.", span=True)
    parser.add_argument("--symbols", nargs="+", default=(), metavar="[VENUE:]SYMBOL", help="instead of the universe")
    budget = parser.add_mutually_exclusive_group()
    budget.add_argument("--steps", type=int, help="instead of [encoder] train_steps")
    budget.add_argument("--minutes", type=float, help="as many steps as fit, measured once at the beginning")
    parser.add_argument("--device", choices=get_args(Device), default="auto", help="auto: a GPU if there is one")
    return run_job_command("encoder", parser, _work, argv)


def _work(context: Context) -> Outcome:
    arguments = context.arguments
    if arguments.steps is not None and arguments.steps < 1:
        raise UsageError(f"--steps {arguments.steps}: at least 1")
    if arguments.minutes is not None and not 0 < arguments.minutes < float("inf"):
        raise UsageError(f"--minutes {arguments.minutes}: more than 0")
    outcome = run_once(
        context.clock,
        context.database,
        context.settings,
        arguments.span_from,
        arguments.span_to,
        progress=True,
        symbols=arguments.symbols,
        steps=arguments.steps,
        minutes=arguments.minutes,
        device=arguments.device,
    )
    if outcome.status == "done":
        print(describe(outcome.result))
    return outcome


if __name__ == "__main__":
    sys.exit(main())
