"""Lets a wallet trade live, or says what is missing: the checklist, printed and kept in live_grants.

A check that fails revokes: approve() reads the newest row. ``LIVE_CONFIRM=main python -m pipeline.go_live main
[--dry-run]``; exit 0 when all passed, 1 when something is missing.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path

from psycopg.types.json import Json

from pipeline.alert_channels import open_channels
from pipeline.commands import no_wallet
from pipeline.funding import adopt_managed_capital
from pipeline.go_live_checks import Check, checklist
from shared.db import Database, load_queries
from shared.job import Context, JobError, Outcome, UsageError, job_parser, run_job_command
from shared.wallets_file import entry_if_named


def go_live(
    database: Database,
    home: Path,
    now: datetime,
    wallet: str,
    environ: Mapping[str, str],
    reason: str,
    dry_run: bool = False,
    channels: Sequence[str] = (),
) -> list[Check]:
    """Goes through the checklist and, unless ``dry_run``, writes down what was found: granted if all passed, revoked if
    not. ``channels``: the names of those that alerts go to now. UsageError: no such wallet."""
    queries = load_queries("operator")
    row = database.fetch_one(queries["wallet_to_go_live"], {"wallet": wallet, "now": now})
    if row is None:
        raise no_wallet(wallet)
    checks = checklist(database, home, now, row, environ, channels)
    missing = [check.name for check in checks if not check.passed]
    if not dry_run:
        grant = {
            "wallet_id": row["id"],
            "granted": not missing,
            "checks": Json([{"name": c.name, "passed": c.passed, "seen": c.seen} for c in checks]),
            "capital": row["equity"],
            "reason": f"{reason}; missing: {', '.join(missing)}" if missing else reason,
            "at": now,
        }
        database.execute(queries["insert_live_grant"], grant)
    return checks


def _work(context: Context) -> Outcome:
    a, database, now = context.arguments, context.database, context.clock.now()
    if a.wallet is None:
        raise UsageError("go live with which wallet? LIVE_CONFIRM=… make go-live WALLET=…; `make wallets` lists them")
    if not a.reason.strip():
        raise UsageError("say why (REASON=…): going live is written down with its reason")
    if not a.dry_run:
        if a.at is not None:
            raise UsageError(
                "a wallet goes live now: --at, at which an old finding would be a fresh one, is for --dry-run"
            )
        _adopt_what_the_file_says(database, now, a.wallet)
    # the environment, not the settings: config/.env must not be able to confirm once and for all
    environ, home = os.environ, context.settings.home_path  # noqa: TID251
    channels = [channel.name for channel in open_channels(context.settings)]
    checks = go_live(database, home, now, a.wallet, environ, a.reason, a.dry_run, channels)
    for check in checks:
        print(f"[{'pass' if check.passed else 'FAIL'}] {check.name}: {check.seen}")
        if not check.passed:
            print(f"       {check.todo}")
    missing = [check.name for check in checks if not check.passed]
    if missing:
        may_not = "would not be let live" if a.dry_run else "may not trade live"
        raise JobError(f"wallet {a.wallet} {may_not}: {', '.join(missing)}")
    if a.dry_run:
        return Outcome("nothing", {"wallet": a.wallet, "next": "all passed; without DRY_RUN=1 it is let live"})
    return Outcome("done", {"wallet": a.wallet, "live": True, "next": f"`make resume WALLET={a.wallet} REASON=…`"})


def _adopt_what_the_file_says(database: Database, now: datetime, wallet: str) -> None:
    """managed_capital of config/wallets.json, the first time; what cannot be adopted yet the checklist shows."""
    entry = entry_if_named(wallet)
    if entry is None:
        return
    try:
        adopted = adopt_managed_capital(database, now, entry)
    except UsageError as error:
        print(error)
        return
    if adopted is not None:
        print(f"{adopted.normalize():f} {entry.quote} of its account are managed from now on (managed_capital)")


def main(argv: list[str] | None = None) -> int:
    parser = job_parser("The checklist of going live: all of it passes, or the wallet does not trade live.")
    parser.add_argument("wallet", nargs="?")
    parser.add_argument("--dry-run", action="store_true", help="look and print, write nothing")
    parser.add_argument("--reason", default="operator's wish")
    return run_job_command("cli", parser, _work, argv)


if __name__ == "__main__":
    sys.exit(main())
