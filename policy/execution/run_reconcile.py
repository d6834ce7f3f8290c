"""`make reconcile`: compares every live wallet's ledger with its account now, prints both, exits 1 on any difference.

Input and output as the sender's; it sends nothing. Where a sender works for the wallet, its newest comparison is shown.
"""

from __future__ import annotations

import sys
from datetime import datetime

from policy.execution.desk import Row, WalletBusy
from policy.execution.live_sender import look
from policy.execution.sender import LiveWallets, environment, venue_opener
from shared.clock import Clock
from shared.db import Database, load_queries
from shared.job import Context, JobError, Outcome, job, job_parser, run_job_command


@job("reconcile")
def run_once(clock: Clock, database: Database, live: LiveWallets) -> Outcome:
    """One comparison of every live wallet, printed; JobError where anything does not match or could not be asked."""
    wallets = database.fetch(load_queries("live_sender")["live_wallets"], {"now": clock.now()})
    wrong: list[str] = []
    for wallet in wallets:
        try:
            live.with_desk(clock, database, wallet, look)
            told = "compared now"
        except WalletBusy:
            told = "a sender works for it: its newest comparison"
        except Exception as error:  # each wallet is told about, whatever ails another
            print(f"{wallet['name']}: could not be compared: {error}")
            wrong.append(wallet["name"])
            continue
        row = database.fetch_one(load_queries("live_sender")["newest_reconciliation"], {"wallet_id": wallet["id"]})
        print(in_words(wallet["name"], told, row, clock.now()))
        if row is None or row["unmatched"]:
            wrong.append(wallet["name"])
    if wrong:
        raise JobError(f"{', '.join(wrong)}: ledger and account do not match, or could not be compared")
    return Outcome("done" if wallets else "nothing", {"wallets": len(wallets)})


def in_words(name: str, told: str, row: Row | None, now: datetime) -> str:
    if row is None:
        return f"{name}: never compared"
    minutes = (now - row["recorded_at"]).total_seconds() / 60
    lines = [f"{name}: {told} ({minutes:.0f} min ago): matched {row['matched']}, unmatched {row['unmatched']}"]
    lines += [
        f"  {finding['kind']:8} {finding['what']}: {finding['ours']} here, {finding['theirs']} there"
        for finding in row["findings"]
    ]
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    parser = job_parser("Compare the ledger of every live wallet with its account.")

    def work(context: Context) -> Outcome:
        live = LiveWallets(context.settings, venue_opener(context.settings, environment()))
        return run_once(context.clock, context.database, live)

    return run_job_command("sender", parser, work, argv)


if __name__ == "__main__":
    sys.exit(main())
