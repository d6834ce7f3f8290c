"""Proofs before profits: ``python -m policy.canaries.run_canaries [--long] [--jobs 2]``.

Input: nothing but the code. Output: a table, and one row of canary_runs under the hash of kernel, decision path and
training code (policy.recipe): a promotion asks for a green one. Exit code 1 when any canary is red.

oracle: the next return, leaked with noise, becomes profit · null: where nothing is known, nobody beats the baseline ·
known answer: markets whose optimum a dynamic programme knows · parity: environment and backtest, to the bit (the paper
jobs: tests/pipeline/test_parity.py) · fees: a higher one never makes anybody trade or earn more.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from psycopg.types.json import Json

from policy.canaries.findings import Finding, table
from policy.recipe import recipe_hash
from shared.clock import Clock
from shared.db import Database, load_queries
from shared.job import Context, JobError, Outcome, job, job_parser, run_job_command
from shared.tasks import run_tasks

NULL_MARKETS, NULL_MARKETS_LONG = 20, 100
PATHS, PATHS_LONG, PATHS_A_TASK = 1_000, 10_000, 250
Task = tuple[str, Any]


def tasks_of(long: bool) -> list[Task]:
    """The longest first, so that no process is left alone with one at the end."""
    from policy.canaries.proofs import KNOWN

    paths = PATHS_LONG if long else PATHS
    made: list[Task] = [("known answer", name) for name in KNOWN]
    made += [("oracle", None)]
    made += [("parity", range(first, first + PATHS_A_TASK)) for first in range(0, paths, PATHS_A_TASK)]
    return made + [("null", seed) for seed in range(NULL_MARKETS_LONG if long else NULL_MARKETS)]


def work(task: Task) -> Any:
    """One task, in whatever process: what came out of it, for ``findings_of``."""
    from policy.canaries import proofs

    kind, argument = task
    made: Mapping[str, Callable[[], Any]] = {
        "known answer": partial(proofs.prove_known_answer, argument),
        "oracle": proofs.prove_oracle,
        "parity": partial(proofs.prove_parity, argument),
        "null": partial(proofs.run_null, argument),
    }
    return made[kind]()


def findings_of(tasks: Sequence[Task], results: Sequence[Any]) -> list[Finding]:
    """Of all tasks; parity and null count over many of them."""
    from policy.canaries import proofs

    by_kind: dict[str, list[Any]] = {}
    for (kind, _), result in zip(tasks, results, strict=True):
        by_kind.setdefault(kind, []).append(result)
    found = [one for kind in ("oracle", "known answer") for result in by_kind[kind] for one in result]
    return found + proofs.null_findings(by_kind["null"]) + proofs.parity_findings(by_kind["parity"])


@job("canaries")
def run_once(clock: Clock, database: Database, long: bool = False, jobs: int = 2, progress: bool = False) -> Outcome:
    """Runs all of them and stores the row, green or red; JobError when it is red."""
    began, tasks = time.monotonic(), tasks_of(long)
    recipe = recipe_hash()  # of the code as it was imported, should a file change meanwhile

    def told(task: Task, result: Any) -> None:
        if progress:
            print(f"{time.monotonic() - began:6.1f} s  {task[0]} {task[1] or ''}", file=sys.stderr, flush=True)

    results = run_tasks(work, tasks, jobs, name=lambda task: f"canary {task[0]} {task[1] or ''}", done=told)
    findings = findings_of(tasks, results)
    red = [finding for finding in findings if not finding.passed]
    seconds = time.monotonic() - began
    row = {
        "recipe_hash": recipe, "green": not red, "results": Json([finding.row() for finding in findings]),
        "seconds": seconds, "recorded_at": clock.now(),
    }  # fmt: skip
    stored = database.fetch_one(load_queries("policy_evaluation")["insert_canary_run"], row)
    assert stored is not None  # an INSERT … RETURNING returns its row
    print(table(findings))
    if red:
        raise JobError(
            f"canary run {stored['id']} is RED: {', '.join(f'{one.canary} ({one.name})' for one in red)}; this code "
            "may not be promoted: the kernel or the training is broken, see the table"
        )
    print(f"canary run {stored['id']} is green, recipe {recipe[:12]}, {seconds:.0f} s")
    return Outcome("done", {"canary_run_id": stored["id"], "green": True, "findings": len(findings)})


def main(argv: list[str] | None = None) -> int:
    parser = job_parser(__doc__ or "")
    parser.add_argument("--long", action="store_true", help="100 null markets and 10,000 random paths")
    parser.add_argument("--jobs", type=int, default=2, help="processes at once (default 2)")

    def begin(context: Context) -> Outcome:
        asked = context.arguments
        return run_once(context.clock, context.database, asked.long, asked.jobs, progress=True)

    return run_job_command("policy", parser, begin, argv)


if __name__ == "__main__":
    sys.exit(main())
