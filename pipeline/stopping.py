"""Stopping and resuming. A stop is a file first (shared/kill_file.py) and a row of commands second, so that it holds
without a database; a resume is a row first and takes the file away second, so that a crash between leaves the stop.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from pipeline.commands import issue_command, no_wallet, operator_name
from shared.clock import SystemClock
from shared.db import Database, load_queries
from shared.errors import SextantError
from shared.job import Context, Outcome, UsageError, run_job_command
from shared.kill_file import CannotStop, content_of, file_mandate, in_words, kill_path, lift, strictest, write_stop
from shared.settings import HomeSettings

STOPS = ("pause", "kill", "halt")
WISH = "operator's wish"
IN_WORDS = {
    "pause": "no entries from now on",
    "kill": "no entries, and entry orders are cancelled; stops stay",
    "flatten": "no entries, entry orders are cancelled, and positions are sold",
    "halt": "nothing is sent at all, exits neither",
}
Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Stop:
    """One stop of one wallet, or of all (None)."""

    home: Path
    wallet: str | None
    mandate: str
    reason: str
    issuer: str

    @property
    def path(self) -> Path:
        return kill_path(self.home, self.wallet)


def target(arguments: argparse.Namespace) -> str | None:
    """The wallet that a command is for, None for all; UsageError where it says neither, or both."""
    if arguments.all == (arguments.wallet is not None):
        raise UsageError(f"{arguments.action} which wallet? WALLET=… or ALL=1; `make wallets` lists them")
    wallet: str | None = arguments.wallet
    return wallet


def stop_command(parser: argparse.ArgumentParser, argv: list[str] | None) -> int:
    """``make pause|kill|halt``: exit 0 when file and row stand, 1 when only one of them does, 2 for a wrong word."""
    arguments = parser.parse_args(argv)
    mandate = "flatten" if arguments.action == "kill" and arguments.flatten else arguments.action
    reason = (arguments.reason or "").strip() or WISH  # a stop is never refused for want of words
    try:
        stop = Stop(_home(), target(arguments), mandate, reason, operator_name())
        path = stop.path
    except (UsageError, ValueError) as error:
        print(error, file=sys.stderr)
        return 2
    made, failed, row = False, False, _Row()
    try:
        made = write_stop(stop.home, stop.wallet, mandate, reason, stop.issuer, SystemClock().now())
    except CannotStop as error:
        print(error, file=sys.stderr)
        failed = True
    code = run_job_command("cli", parser, lambda context: row.write(context, stop, made), argv)
    if row.nobody:
        return code  # a name mistyped: nothing was stopped, and no file of ours is left
    if not failed:
        print(f"{mandate} for {stop.wallet or 'all wallets'}: {IN_WORDS[mandate]} ({path})", flush=True)
    if code and not failed and content_of(path) is not None:
        print(
            f"the stop is not in the database. {path} stands and stops what is sent from this SEXTANT_HOME; say it "
            "again when the database is back, so that the trader and `make status` know it",
            file=sys.stderr,
        )
    return code or int(failed)


def _home() -> Path:
    """SEXTANT_HOME, even where other settings are wrong; ValueError says how to stop where that is wrong, too."""
    try:
        return HomeSettings().home_path
    except ValueError as error:
        raise ValueError(f"SEXTANT_HOME is not known ({error}); make an empty file KILL in it by hand") from None


class _Row:
    """The row beside the file. ``nobody``: there is no such wallet, and the file that was made for it is gone again."""

    def __init__(self) -> None:
        self.nobody = False

    def write(self, context: Context, stop: Stop, made: bool) -> Outcome:
        """A stop is never of the future (--at, a clock elsewhere): it would not hold until then."""
        at = min(context.clock.now(), SystemClock().now())
        try:
            issue_command(context.database, at, stop.wallet, stop.mandate, stop.reason, stop.issuer)
        except UsageError:
            self.nobody = True
            if made:
                stop.path.unlink(missing_ok=True)
            raise
        return Outcome("done", {stop.mandate: stop.wallet or "all wallets"})


def resume_command(context: Context) -> Outcome:
    arguments, home, now = context.arguments, _home(), context.clock.now()
    if arguments.at is not None:
        raise UsageError("a wallet is resumed now: --at would lift what came in since, unseen")
    reason = (arguments.reason or "").strip()
    wallet = target(arguments)
    if wallet is not None:
        resume(context.database, home, now, wallet, reason, operator_name())
        return Outcome("done", {"resume": wallet})
    resumed, left = resume_all(context.database, home, now, reason, operator_name())
    for name, why in left.items():
        print(f"{name} stays stopped: {why}; `make resume WALLET={name} REASON=…`")
    return Outcome("done", {"resume": resumed, "left": sorted(left)})


def resume(
    database: Database, home: Path, now: datetime, wallet: str, reason: str, issuer: str, key: str | None = None
) -> bool:
    """Lets one wallet trade, whatever stopped it; False when this idempotency key was used before: nothing is lifted.

    UsageError: all are stopped by the file KILL, or it was stopped and no reason is given.
    """
    everything = kill_path(home, None)
    if content_of(everything) is not None:
        raise UsageError(
            f"all wallets are stopped by {everything} ({in_words(everything)}): `make resume ALL=1 REASON=…` lifts "
            "that first"
        )
    seen = content_of(kill_path(home, wallet))
    with database.transaction():
        row = _wallets(database, now).get(wallet)
        if row is None:
            raise no_wallet(wallet)
        stops = [*own_stops(home, row), *([row["for_all"]] if row["for_all"] else [])]
        if stops and not reason:
            raise UsageError(f"say why (REASON=…): {wallet} was stopped by {'; '.join(stops)}")
        if not issue_command(database, now, wallet, "resume", reason or WISH, issuer, key):
            return False
    _lift(home, wallet, seen)
    return True


def resume_all(
    database: Database, home: Path, now: datetime, reason: str, issuer: str
) -> tuple[list[str], dict[str, str]]:
    """Lifts what was said for all wallets, and that alone: a wallet that was also stopped by itself, or was never
    resumed, stays as it is. Returns who trades again, and who does not and why. UsageError: no reason is given, or
    nothing was said for all."""
    if not reason:
        raise UsageError("say why (REASON=…): all wallets trade again")
    seen = content_of(kill_path(home, None))
    with database.transaction():
        rows = _wallets(database, now)
        if seen is None and not any(row["for_all"] for row in rows.values()):
            raise UsageError(
                "nothing stops all wallets; `make wallets` shows what stops each, `make resume WALLET=…` one"
            )
        left = {name: "; ".join(own_stops(home, row)) for name, row in rows.items()}
        left |= {name: "it was never resumed" for name, row in rows.items() if not (row["resumed"] or left[name])}
        resumed = [name for name, row in rows.items() if not left[name] and (row["for_all"] or seen is not None)]
        for name in resumed:
            issue_command(database, now, name, "resume", reason, issuer)
    _lift(home, None, seen)
    return resumed, {name: why for name, why in left.items() if why}


def _wallets(database: Database, now: datetime) -> dict[str, Row]:
    """What stops each, to be judged and lifted in one transaction: no stop comes in between."""
    database.fetch(load_queries("operator")["resume_alone"])
    return {row["name"]: row for row in database.fetch(load_queries("operator")["wallet_stops"], {"now": now})}


def own_stops(home: Path, row: Row) -> list[str]:
    """What stops a wallet by itself since its last resume, in words: its commands, risk, its file."""
    path = kill_path(home, row["name"])
    file = [] if content_of(path) is None else [f"{path.name}: {in_words(path)}"]
    return [said for said in (row["own"], row["risk"]) if said] + file


def _lift(home: Path, wallet: str | None, seen: bytes | None) -> None:
    if not lift(home, wallet, seen):
        path = kill_path(home, wallet)
        raise SextantError(
            f"another stop came in meanwhile ({in_words(path)}), and {path} stands; look, and say it again"
        )


def wallet_state(home: Path, row: Row) -> str:
    """What a wallet may do by file and rows (``wallet_stops``), in a word, and why."""
    mandate = strictest(file_mandate(home, row["name"]), None if row["mandate"] == "trade" else row["mandate"])
    if mandate is None:
        return f"entries stopped by risk: {row['risk']}" if row["risk"] else "trades"
    everything = kill_path(home, None)
    because = own_stops(home, row) + ([row["for_all"]] if row["for_all"] else [])
    because += [] if content_of(everything) is None else [f"{everything.name}: {in_words(everything)}"]
    return f"{mandate}: {IN_WORDS[mandate]} ({'; '.join(because) or 'never resumed'})"
