"""Trains the policy on out-of-sample embeddings and writes it as one ONNX row of models.

Input: market_data, embeddings (of the active encoder, only those known at their time), market_state.
Output: one row of models, kind policy, active; the learning curve in SEXTANT_HOME/reports.
``python -m policy.train_policy [--from --to] [--steps] [--ppo-steps] [--seeds] [--jobs] [--at]``
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray

from policy.inputs import Inputs, timestamps
from policy.observation import policy_schema
from policy.recipe import made_by
from policy.run_trader import operator_limits, trading_rules
from policy.simulator import BarGrid
from policy.training_data import TrainingData
from shared.clock import Clock, floor_time, to_unix
from shared.db import Database
from shared.job import Context, JobError, Outcome, UsageError, job, job_parser, run_job_command
from shared.market_data import find_instruments, read_candles
from shared.model_store import Model, active_model, save_model
from shared.rows import Instrument
from shared.settings import Settings
from shared.tasks import run_tasks

MIN_DECISIONS = 200
TRACK = "rules"  # whose market state training sees: the live one may not reach back so far


@dataclass(frozen=True, slots=True)
class _Task:
    """One seed; what a process of its own needs."""

    data: TrainingData
    plan: Any  # TrainingPlan: PyTorch is imported where a task runs
    seed: int
    directory: Path | None
    progress: bool


def _train_one(task: _Task) -> Any:
    from policy.training import train_seed

    return train_seed(task.data, task.plan, task.seed, task.directory, task.progress)


@job("train_policy")
def run_once(
    clock: Clock,
    database: Database,
    settings: Settings,
    trained_from: datetime,
    trained_to: datetime,
    progress: bool = False,
    *,
    jobs: int | None = None,
) -> Outcome:
    """Trains [policy] seeds policies, ``jobs`` at a time (None: as many as there are cores), and stores them as one.

    A training that was stopped goes on where it was when the same span is asked for again."""
    if not trained_from < trained_to <= clock.now():
        raise UsageError(f"the training span {trained_from} to {trained_to} must be forward and end by {clock.now()}")
    encoder = active_model(database, "encoder")
    if encoder is None:
        raise JobError("no active encoder; run `make train-encoder` first: the policy learns from its embeddings")
    universe = settings.universe
    instruments = find_instruments(database, universe.venue, universe.symbols)
    data = load_training_data(database, settings, instruments, encoder, trained_from, trained_to)
    directory = _directory(settings, database, encoder, trained_from, trained_to)
    trained = _train_all(data, settings, directory, progress, jobs)
    from policy.policy_export import export_ensemble
    from policy.training_plan import plan_of

    plan = plan_of(settings)
    cells = _steered(data, trained, plan)
    steering = _steering(cells)
    metrics = _summary(trained) | made_by(settings) | {"steering": steering}
    model_id = save_model(
        database,
        kind="policy",
        onnx=export_ensemble([one.weights for one in trained]),
        schema=policy_schema(universe.decision_timeframe_s, encoder.schema_hash, plan.reach),
        trained_from=trained_from,
        trained_to=trained_to,
        label_horizon_s=0,
        provenance="simulated" if any(i.provenance == "simulated" for i in instruments) else "real",
        encoder_id=encoder.id,
        metrics=metrics,
        recorded_at=clock.now(),
    )
    shutil.rmtree(directory, ignore_errors=True)
    curve = _write_curve(trained, settings, model_id)
    from policy.steering_report import write_steering

    write_steering(cells, settings.home_path / "reports", f"steering-policy-{model_id}")
    told = {name: metrics[name] for name in ("chosen", "steps") if name in metrics} | {"broken": steering["broken"]}
    return Outcome("done", {"model_id": model_id, **told, "learning_curve": curve})


def load_training_data(
    database: Database,
    settings: Settings,
    instruments: Sequence[Instrument],
    encoder: Model,
    first: datetime,
    last: datetime,
) -> TrainingData:
    """Every decision time of the span with what was known at it, and the bars between; JobError when too little.

    Embeddings from before the encoder was known count as missing: a learner feeds only on out-of-sample outputs of the
    one before it."""
    step_s = settings.universe.decision_timeframe_s
    operator, stale = operator_limits(settings), settings.execution.stale_after_s
    inputs = Inputs(database, instruments, step_s, TRACK, encoder.id, operator, first, last, stale)
    times = timestamps(first, last, step_s)
    moments = np.array([to_unix(as_of) for as_of in times], dtype=np.int64)
    base_s = max(i.base_timeframe_s for i in instruments)
    start, end = to_unix(first), to_unix(last)
    series = [read_candles(database, i.id, base_s, start, end) for i in instruments]
    data = TrainingData.of(
        symbols=[i.symbol for i in instruments],
        times=moments.tolist(),
        markets=[inputs.at(as_of) for as_of in times],
        grid=BarGrid.of(series, base_s, start, end),
        rules=trading_rules(instruments, settings),
        step_s=step_s,
    )
    data.complete[moments < to_unix(encoder.known_from)] = False
    usable = int(data.complete.any(axis=1).sum())
    if usable < MIN_DECISIONS:
        raise JobError(
            f"only {usable} decisions from {first} to {last} have embeddings and market state known in time (the "
            f"active encoder is known from {encoder.known_from}); need {MIN_DECISIONS}. Run `make run-encoder` and "
            f"`make run-meta` with FROM/TO over the span, or give the policy a later span"
        )
    return data


def _train_all(data: TrainingData, settings: Settings, directory: Path, progress: bool, jobs: int | None) -> list[Any]:
    seeds = range(settings.policy.seed, settings.policy.seed + settings.policy.seeds)
    jobs = jobs or min(len(seeds), os.cpu_count() or 1)
    from policy.training_plan import plan_of

    plan = plan_of(settings)
    tasks = [_Task(data, plan, seed, directory, progress and jobs == 1) for seed in seeds]
    if progress and jobs > 1:
        print(f"training {len(tasks)} seeds, {jobs} at a time", file=sys.stderr)
    return run_tasks(
        _train_one,
        tasks,
        jobs,
        name=lambda task: f"training the policy, seed {task.seed}",
        done=lambda task, made: progress and print(f"seed {task.seed}: {_told(made.metrics)}", file=sys.stderr),
    )


def _steered(data: TrainingData, trained: Sequence[Any], plan: Any) -> list[Any]:
    """The policy under a grid of steerings, on what was held back (cells of policy.steering_report)."""
    from policy.policy_network import act_of
    from policy.steering_report import measure_grid
    from policy.strategies.residual import Residual
    from policy.training import split

    nets = [act_of(one.weights) for one in trained]

    def act(observation: NDArray[np.float32]) -> Residual:  # as the exported ensemble does (policy.policy_export)
        said = np.array([net(observation) for net in nets])
        return Residual(np.median(said, axis=0), np.clip(1.0 - said.std(axis=0) / 0.5, 0.0, 1.0), plan.reach)

    held_back = split(data, plan)[1]
    return measure_grid(held_back, act, plan.validation_terms())


def _steering(cells: Sequence[Any]) -> dict[str, Any]:
    """Of the cells under wide caps (risk aversion, mean exposure), (turnover penalty, turnover a year), and in words
    what the policy breaks."""
    from policy.steering_report import violations

    plain = max(cell.max_position for cell in cells)
    wide = [cell for cell in cells if cell.max_position == plain]
    return {
        "exposure": [[c.risk_aversion, c.exposure] for c in wide if c.turnover_penalty == 1.0],
        "turnover": [[c.turnover_penalty, c.turnover] for c in wide if c.risk_aversion == 1.0],
        "broken": violations(cells),
    }


def _told(metrics: dict[str, Any]) -> str:
    if "not_validated" in metrics:
        return f"{metrics['chosen']} (not validated: {metrics['not_validated']})"
    chosen = metrics["chosen"]
    return (
        f"{chosen} chosen on held-back data: reward {metrics[f'validation_reward_{chosen}']:+.4f} a step, baseline "
        f"{metrics['validation_reward_baseline']:+.4f}"
    )


def _summary(trained: Sequence[Any]) -> dict[str, Any]:
    """How many seeds ended as what, and each one's own metrics."""
    chosen = [one.metrics["chosen"] for one in trained]
    return {
        "seeds": [dict(one.metrics) for one in trained],
        "chosen": {name: chosen.count(name) for name in dict.fromkeys(chosen)},
        "steps": {name: sum(one.metrics["steps"].get(name, 0) for one in trained) for name in ("pathwise", "ppo")},
    }


def _directory(settings: Settings, database: Database, encoder: Model, first: datetime, last: datetime) -> Path:
    """Where the checkpoints of a request are kept: each has a folder of its own, so that none disturbs another's."""
    name = quote(database.connection.info.dbname, safe="")
    asked = f"{encoder.id} {first.isoformat()} {last.isoformat()} {settings.universe.symbols} {settings.policy!r}"
    return settings.home_path / "training" / f"policy-{name}" / hashlib.sha256(asked.encode()).hexdigest()[:16]


def _write_curve(trained: Sequence[Any], settings: Settings, model_id: int) -> str:
    """The plot's path, '' where there was nothing to learn."""
    from policy.learning_curve import write_curve

    points = [point for one in trained for point in one.curve]
    if not points:
        return ""
    _, plot = write_curve(points, settings.home_path / "reports", f"learning-curve-policy-{model_id}")
    return str(plot)


def _command(context: Context) -> Outcome:
    arguments, settings = context.arguments, context.settings
    given = {"pathwise_steps": arguments.steps, "ppo_steps": arguments.ppo_steps, "seeds": arguments.seeds}
    changed = {name: value for name, value in given.items() if value is not None}
    for name, value in changed.items():
        if value < (name == "seeds"):
            raise UsageError(f"--{name.replace('_', '-')} {value} is too few")
    settings = settings.model_copy(update={"policy": settings.policy.model_copy(update=changed)})
    last = arguments.span_to or floor_time(context.clock.now(), settings.universe.decision_timeframe_s)
    encoder = active_model(context.database, "encoder")
    first = arguments.span_from or (encoder.known_from if encoder else None)
    if first is None:
        raise JobError("no active encoder; run `make train-encoder` first: the policy learns from its embeddings")
    return run_once(context.clock, context.database, settings, first, last, True, jobs=arguments.jobs)


def main(argv: list[str] | None = None) -> int:
    parser: argparse.ArgumentParser = job_parser(
        "Train the policy; default span: since the encoder is known.", span=True
    )
    parser.add_argument("--steps", type=int, help="gradient steps through the surrogate (default: settings)")
    parser.add_argument("--ppo-steps", type=int, help="environment steps of the fine-tuning (default: settings)")
    parser.add_argument("--seeds", type=int, help="policies trained beside each other (default: settings)")
    parser.add_argument("--jobs", type=int, help="of them at a time (default: as many as there are cores)")
    return run_job_command("policy", parser, _command, argv)


if __name__ == "__main__":
    sys.exit(main())
