"""Judges the encoder's recipe: anchored walk-forward over stored candles, beside every simple baseline.

Input: market_data. Output: one row of encoder_evaluations, and the tables. Trains an encoder a fold; writes no model.
``python -m encoder.evaluate [--timeframe 1h] [--symbols venue:SYMBOL …] [--folds 4] [--from --to]
[--hold-out SOL …] [--steps N | --minutes M] [--jobs 2]``
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

from psycopg.types.json import Json

from encoder.evaluation.recipe import Recipe, Source
from encoder.evaluation.splits import Fold, asset, choose_held_out, walk_forward
from encoder.index_recall import index_recall, plain
from encoder.schema import require_timeframe
from shared.clock import Clock, floor_time, from_unix, to_unix
from shared.db import Database, load_queries
from shared.job import Context, JobError, Outcome, UsageError, job, job_parser, run_job_command
from shared.market_data import read_candles
from shared.rows import Candles
from shared.settings import TIMEFRAMES, Settings

FOLDS = 4
JOBS = 2
LEAST_CANDLES = 1000  # of a series, else it is left out


@dataclass(frozen=True, slots=True)
class Request:
    """What is to be evaluated; see the command's options."""

    timeframe_s: int = 3600
    symbols: Sequence[str] = ()
    folds: int = FOLDS
    span_from: datetime | None = None
    span_to: datetime | None = None
    hold_out: Sequence[str] | None = None
    minutes: float | None = None
    steps: int | None = None  # neither: [encoder] train_steps and train_passes, as the encoder in use is trained
    jobs: int = JOBS


@job("evaluate_encoder")
def run_once(
    clock: Clock, database: Database, settings: Settings, request: Request, say: Callable[[str], None] = print
) -> Outcome:
    """Evaluates and stores one row; what was computed before, in whole or fold by fold, is read again.

    JobError when a fold is stopped or there are too few candles; the same request then goes on from there.
    """
    from encoder.evaluation.report import report
    from encoder.evaluation.run_folds import evaluation_key, run_folds
    from encoder.evaluation.verdict import verdict
    from encoder.fingerprint import recipe_hash

    require_timeframe(request.timeframe_s)
    source = read_source(database, request, clock)
    folds = walk_forward(*_span(source, request), request.folds, request.timeframe_s)
    recipe = Recipe(
        timeframe_s=request.timeframe_s,
        steps=request.steps if request.steps or request.minutes else settings.encoder.train_steps,
        minutes=None if request.steps is not None else request.minutes,
        batch_size=settings.encoder.batch_size,
        seed=settings.encoder.seed,
        held_out=choose_held_out(source.names, request.hold_out),
        most_passes=settings.encoder.train_passes if request.steps is None and request.minutes is None else None,
    )
    made_by = recipe_hash(recipe.batch_size)
    key = evaluation_key(source, folds, recipe, made_by)
    directory = settings.home_path / "evaluations" / key[:16]
    say(_describe(source, folds, recipe))
    results = run_folds(source, folds, recipe, directory, request.jobs, say)
    say(report(results))
    recall = index_recall(database, clock.now())
    say(str(recall))
    steps = {fold["training"]["steps"] for fold in results}
    row = {
        "recipe_hash": made_by,
        "steps": steps.pop() if len(steps) == 1 else None,
        "timeframe_s": request.timeframe_s,
        "symbols": list(source.names),
        "evaluated_from": from_unix(folds[0].train_from),
        "evaluated_to": from_unix(folds[-1].until),
        "folds": len(folds),
        "results": Json({"key": key, "held_out": list(recipe.held_out), "index": plain(recall), "folds": results}),
        "verdict": "\n".join(verdict(results)),
        "recorded_at": clock.now(),
    }
    stored = database.fetch_one(load_queries("evaluation")["insert_evaluation"], row)
    assert stored is not None  # an insert without conflict returns its row
    return Outcome("done", {"evaluation_id": stored["id"], "model_id": stored["model_id"], "key": key})


def read_source(database: Database, request: Request, clock: Clock) -> Source:
    """The candles of the request's series, by default up to the last midnight (UTC), so that the same request goes on
    when a candle arrives; UsageError for a series that is not stored, JobError when none has candles enough."""
    rows = database.fetch(load_queries("evaluation")["evaluated_instruments"], {"timeframe_s": request.timeframe_s})
    ids = {f"{row['venue']}:{row['symbol']}": int(row["id"]) for row in rows}
    unknown = sorted(set(request.symbols) - set(ids))
    if unknown:
        raise UsageError(
            f"no candles of {request.timeframe_s} s of {', '.join(unknown)} are stored; there are "
            f"{', '.join(ids) or 'none'} (a series is named venue:SYMBOL)"
        )
    after = to_unix(request.span_from) - 1 if request.span_from else 0
    until = to_unix(min(request.span_to or floor_time(clock.now(), 86_400), clock.now()))
    series: dict[str, Candles] = {}
    for name in request.symbols or ids:
        candles = read_candles(database, ids[name], request.timeframe_s, after, until)
        if len(candles) >= LEAST_CANDLES:
            series[name] = candles
    if not series:
        raise JobError(
            f"no series has {LEAST_CANDLES} candles of {request.timeframe_s} s to evaluate on; run `make backfill` or "
            "`make import-csv FILE=…`"
        )
    return Source(tuple(series), tuple(series.values()))


def _span(source: Source, request: Request) -> tuple[int, int]:
    """Of the request; else from when half of the series had begun, so that the first fold has company."""
    firsts = sorted(int(candles.as_of[0]) for candles in source.series)
    from_ = to_unix(request.span_from) if request.span_from else firsts[(len(firsts) - 1) // 2]
    return max(from_, firsts[0]), max(int(candles.as_of[-1]) for candles in source.series)


def _describe(source: Source, folds: Sequence[Fold], recipe: Recipe) -> str:
    held = [name for name in source.names if asset(name) in recipe.held_out]
    budget = f"{recipe.steps} steps" if recipe.steps is not None else f"{recipe.minutes:g} minutes"
    return (
        f"{len(folds)} folds from {from_unix(folds[0].train_from):%Y-%m-%d} to {from_unix(folds[-1].until):%Y-%m-%d}, "
        f"{budget} of training each; trained on {', '.join(n for n in source.names if n not in held)}; "
        f"never on {', '.join(held) or '(none: fewer than five assets)'}"
    )


def main(argv: list[str] | None = None) -> int:
    parser = job_parser("Judges the encoder against simple baselines, out of sample.", span=True)
    parser.add_argument("--timeframe", choices=list(TIMEFRAMES), default="1h", help="of the candles (default 1h)")
    parser.add_argument("--symbols", nargs="+", default=(), metavar="VENUE:SYMBOL", help="default: all that are stored")
    parser.add_argument("--folds", type=int, default=FOLDS)
    parser.add_argument("--hold-out", nargs="*", metavar="ASSET", help="never trained on; default: each fifth asset")
    budget = parser.add_mutually_exclusive_group()
    budget.add_argument("--steps", type=int, help="of training a fold (default: [encoder] train_steps)")
    budget.add_argument("--minutes", type=float, help="of training a fold, instead of steps")
    parser.add_argument("--jobs", type=int, default=JOBS, help="folds at a time (default 2)")
    return run_job_command("encoder", parser, _work, argv)


def _work(context: Context) -> Outcome:
    a = context.arguments
    if a.steps is not None and a.steps < 1:
        raise UsageError(f"--steps {a.steps}: at least 1")
    if a.minutes is not None and not 0 < a.minutes < float("inf"):
        raise UsageError(f"--minutes {a.minutes}: more than 0")
    if a.jobs < 1:
        raise UsageError(f"--jobs {a.jobs}: at least 1")
    request = Request(
        timeframe_s=TIMEFRAMES[a.timeframe],
        symbols=a.symbols,
        folds=a.folds,
        span_from=a.span_from,
        span_to=a.span_to,
        hold_out=a.hold_out,
        minutes=a.minutes,
        steps=a.steps,
        jobs=a.jobs,
    )
    return run_once(context.clock, context.database, context.settings, request)


if __name__ == "__main__":
    sys.exit(main())
