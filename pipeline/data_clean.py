"""Deletes bookkeeping that is too old to matter; never what was traded, decided, learnt or measured.

Input: the database, as its owner, for no job's role may delete. Output: fewer rows in job_runs, venue_checks,
alert_deliveries and alerts.
"""

from __future__ import annotations

import sys
from datetime import timedelta

from pipeline.dumps import live_name, owner_connection
from shared.clock import Clock, SystemClock
from shared.db import Database, load_queries
from shared.job import Context, Outcome, UsageError, job, job_parser, run_job_command
from shared.settings import Settings

KEEP_DAYS = 400  # a year to look back on, and the same season before it
FEWEST_DAYS = 30  # what status, alerts and the tests of going live look back on


@job("data_clean")
def run_once(clock: Clock, database: Database, settings: Settings, keep_days: int = KEEP_DAYS) -> Outcome:
    """Deletes in one transaction; how many rows of each table."""
    now = min(clock.now(), SystemClock().now())  # at a moment of the future (--at) all would be old
    before = {"before": now - timedelta(days=keep_days)}
    queries = load_queries("data_clean")
    with owner_connection(settings, live_name(settings)) as owner, owner.transaction():
        deleted = {table: owner.execute(query, before).rowcount for table, query in queries.items()}
    return Outcome("done" if any(deleted.values()) else "nothing", deleted)


def _work(context: Context) -> Outcome:
    days: int = context.arguments.days
    if days < FEWEST_DAYS:
        raise UsageError(f"--days {days}: the last {FEWEST_DAYS} days are always kept")
    return run_once(context.clock, context.database, context.settings, days)


def main(argv: list[str] | None = None) -> int:
    parser = job_parser("Deletes old job runs, venue checks and alerts; never what was traded, decided or measured.")
    parser.add_argument("--days", type=int, default=KEEP_DAYS, help="days that are kept")
    return run_job_command("cli", parser, _work, argv)


if __name__ == "__main__":
    sys.exit(main())
