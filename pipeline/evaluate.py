"""Is the policy worth it? Anchored walk-forward with everything fitted anew in each fold, against simple baselines.

Input: candle files, or the stored candles. Output: evaluation_folds and one row of evaluations, the trials in
SEXTANT_HOME/trials.jsonl, a table, a page. ``--profile quick`` says no verdict; ``full`` on real candles is the only
source of one. Killed at any moment, it goes on from what is there when it is asked for again: equal candles, settings
and code are the same evaluation.
``python -m pipeline.evaluate [--profile quick|full] [--data FILE …] [--folds] [--seeds] [--jobs]``
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

from psycopg.types.json import Json

from candles.candle_files import FileRefused
from pipeline.evaluation.contestants import BASELINES, ENSEMBLE, Contestant, read_contestants, seed_name
from pipeline.evaluation.fold import LEDGER, train, try_fold
from pipeline.evaluation.key import evaluation_key
from pipeline.evaluation.plan import FULL_FOLDS, Fold, Profile, ProfileName, in_words, make_profile, plan_folds
from pipeline.evaluation.pooling import Pooled, conclude, pool
from pipeline.evaluation.prepare import FoldTask, prepare
from pipeline.evaluation.scratch import drop_all_scratch
from pipeline.evaluation.sources import Source, read_files, read_stored
from pipeline.evaluation.telling import build_report, terms_of, verdict_sentence
from policy.recipe import made_by, recipe_hash
from policy.report import terminal_report, write_page
from shared.clock import Clock, SystemClock, floor_time
from shared.db import Database, load_queries
from shared.job import Context, Outcome, UsageError, job, job_parser, run_job_command
from shared.performance import TrialsLedger
from shared.settings import Settings
from shared.tasks import run_tasks

JOBS = 2


@dataclass(frozen=True, slots=True)
class Request:
    """``folds`` and ``seeds`` None: the profile's own; ``data`` empty: the stored candles up to the last midnight."""

    profile: ProfileName = "quick"
    data: tuple[Path, ...] = ()
    folds: int | None = None
    seeds: int | None = None
    jobs: int = JOBS


@job("evaluate")
def run_once(clock: Clock, database: Database, settings: Settings, request: Request) -> Outcome:
    """Evaluates; UsageError where there is too little to evaluate on, JobError or TaskError when a fold fails."""
    now, step_s = clock.now(), settings.universe.decision_timeframe_s
    source = _read(database, request, now, step_s)
    profile = make_profile(request.profile, settings, request.folds, request.seeds)
    folds = plan_folds(source, profile, step_s)
    key = evaluation_key(source, folds, profile, settings)
    why_none = _why_no_verdict(profile, source, settings)
    for line in (*(f"left out: {one}" for one in source.left_out), *in_words(folds)):
        print(line)
    print(f"{profile.name}: {profile.seeds} seeds a fold, key {key[:12]}" + (f" ({why_none})" if why_none else ""))
    run_folds(database, settings, source, profile, folds, key, request.jobs, now)
    pooled = pool(read_contestants(database, key))
    trials = TrialsLedger(settings.home_path / LEDGER).read()
    found = conclude(pooled, profile, trials)
    verdict = None if why_none else found["verdict"]["word"]
    row = _row(key, settings, source, profile, folds, found, verdict, clock.now())
    stored = database.fetch_one(load_queries("policy_evaluation")["insert_evaluation"], row)
    assert stored is not None
    page = settings.home_path / "reports" / f"evaluation_{stored['id']}.html"
    _tell(pooled, found, source, verdict, why_none, folds, page)
    return Outcome(
        "done" if stored["new"] else "nothing",
        {"evaluation_id": stored["id"], "key": key, "verdict": verdict or why_none, "report": str(page)},
    )


@job("evaluate")  # the same lock: never under a run that needs them
def forget(clock: Clock, database: Database, settings: Settings) -> Outcome:
    """Drops what unfinished evaluations left to go on from; rows, reports and the ledger stay."""
    dropped = drop_all_scratch(settings)
    shutil.rmtree(settings.home_path / "evaluations", ignore_errors=True)
    return Outcome("done" if dropped else "nothing", {"dropped": dropped})


def _read(database: Database, request: Request, now: datetime, step_s: int) -> Source:
    if not request.data:
        return read_stored(database, floor_time(now, 86_400), step_s)
    try:
        return read_files(request.data, now, step_s)
    except FileRefused as error:
        raise UsageError(str(error)) from error


def _why_no_verdict(profile: Profile, source: Source, settings: Settings) -> str:
    """Empty where there is one."""
    if source.provenance == "simulated":
        return f"{profile.name}: no verdict, the candles are SIMULATED"
    if profile.name == "quick":
        return "quick: no verdict"
    seeds = settings.policy.seeds
    if profile.folds < FULL_FOLDS or profile.seeds < seeds:
        return f"full: no verdict on {profile.folds} folds of {profile.seeds} seeds, it takes {FULL_FOLDS} of {seeds}"
    return ""


def run_folds(
    database: Database,
    settings: Settings,
    source: Source,
    profile: Profile,
    folds: Sequence[Fold],
    key: str,
    jobs: int,
    now: datetime,
) -> None:
    """Leaves every row of every fold in the database; what is there already is not computed again.

    Three rounds of independent tasks: prepare each fold, train each seed of it, try them all. The longest come first.
    """
    seeds = tuple(settings.policy.seed + k for k in range(profile.seeds))
    todo = [fold for fold in reversed(folds) if not _complete(read_contestants(database, key), fold, seeds)]
    if len(todo) < len(folds):
        print(f"{len(folds) - len(todo)} of {len(folds)} folds are there already")
    if not todo:
        return
    series = settings.home_path / "evaluations" / key[:16] / "series.npz"
    if not series.exists():
        source.save(series)
    tasks = [
        FoldTask(settings, now, key, profile, fold, source.venue, source.provenance, source.timeframe_s, series)
        for fold in todo
    ]
    said = partial(_said, SystemClock().now())  # of real time, whatever the evaluation takes for now
    run_tasks(prepare, tasks, jobs, name=str, done=said("prepared"))
    seeded = [task.with_seed(seed) for task in tasks for seed in seeds]
    run_tasks(train, seeded, jobs, name=str, done=said("trained"))
    run_tasks(partial(try_fold, seeds=seeds), tasks, jobs, name=str, done=said("tested"))
    shutil.rmtree(series.parent)  # the rows have it all


def _said(started: datetime, what: str) -> Callable[[FoldTask, object], None]:
    def say(task: FoldTask, result: object) -> None:
        minutes = (SystemClock().now() - started).total_seconds() / 60
        print(f"{task} {what} ({minutes:.1f} minutes since the start)", flush=True)

    return say


def _complete(there: Sequence[Contestant], fold: Fold, seeds: Sequence[int]) -> bool:
    wanted = {*map(seed_name, seeds), ENSEMBLE, *BASELINES}
    return wanted <= {one.name for one in there if one.fold == fold.number}


def _row(
    key: str, settings: Settings, source: Source, profile: Profile, folds: Sequence[Fold], found: dict[str, Any],
    verdict: str | None, at: datetime,
) -> dict[str, Any]:  # fmt: skip
    about = {"profile": asdict(profile), "venue": source.venue, "left_out": list(source.left_out)}
    about |= {"training": made_by(settings)["training"] | {"seeds": profile.seeds}}
    return {
        "key": key,
        "recipe_hash": recipe_hash(),
        "profile": profile.name,
        "provenance": source.provenance,
        "evaluated_from": folds[0].test_from,
        "evaluated_to": folds[-1].test_to,
        "folds": len(folds),
        "seeds": profile.seeds,
        "results": Json(found | about),
        "verdict": verdict,
        "recorded_at": at,
    }


def _tell(
    pooled: Pooled, found: dict[str, Any], source: Source, verdict: str | None, why_none: str, folds: Sequence[Fold],
    page: Path,
) -> None:  # fmt: skip
    """Prints the tables and writes the page."""
    about = {
        "universe": "the 8 with most quote volume in the 90 days before each test, ended coins included",
        "candles": f"{source.provenance}, of {source.venue}, {source.timeframe}",
        "left out": "; ".join(source.left_out) or "nothing",
        "recipe": recipe_hash()[:16],
    }
    terms = terms_of(folds[0].test_from, folds[-1].test_to, about)
    report = build_report(pooled, found, terms, source.provenance, verdict, why_none)
    print(terminal_report(report))
    write_page(report, page)
    print(("" if verdict is None else "Verdict. ") + verdict_sentence(found, verdict, why_none))
    print(f"report: {page}")


def main(argv: list[str] | None = None) -> int:
    parser = job_parser("Evaluates the policy by anchored walk-forward, against simple baselines.")
    parser.add_argument("--profile", choices=("quick", "full"), default="quick", help="only full gives a verdict")
    parser.add_argument("--data", nargs="+", type=Path, default=(), help="candle files (default: the stored candles)")
    parser.add_argument("--folds", type=int, help="default: quick 2, full 6 (calendar years)")
    parser.add_argument("--seeds", type=int, help="default: quick 2, full [policy] seeds")
    parser.add_argument("--forget", action="store_true", help="drop what unfinished evaluations left, and do no more")
    parser.add_argument("--jobs", type=int, default=JOBS, help="processes at a time (default 2)")
    return run_job_command("policy", parser, _work, argv)


def _work(context: Context) -> Outcome:
    a = context.arguments
    for name in ("folds", "seeds", "jobs"):
        value = getattr(a, name)
        if value is not None and value < 1:
            raise UsageError(f"--{name} {value}: at least 1")
    if a.forget:
        return forget(context.clock, context.database, context.settings)
    request = Request(a.profile, tuple(a.data), a.folds, a.seeds, a.jobs)
    return run_once(context.clock, context.database, context.settings, request)


if __name__ == "__main__":
    sys.exit(main())
