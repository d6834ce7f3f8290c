"""The sender: carries approved intents to the venue and writes down what it said. Imports no model runtime.

Input: orders (through approve()), limits, commands, KILL files, market_data, the accounts of live wallets.
Output: order_events, fills, external_fills, cash_flows, reconciliations, key_checks; orders that protect or end a
position. One transaction an outcome. It alone holds keys.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from policy.execution import crashpoints
from policy.execution.desk import Desk, Row, Session, Superseded, WalletBusy
from policy.execution.live_sender import run_pass
from policy.execution.paper_sender import send_on_paper
from policy.execution.requests import KeyRefused
from policy.execution.venues.protocol import CouldNotAsk, TakeNonce, TradingVenue
from policy.execution.wallet_keys import credentials_of
from shared.alerts import raise_alert
from shared.clock import Clock
from shared.db import Database, DatabaseError, DatabaseUnavailable, load_queries
from shared.errors import SextantError
from shared.job import Context, JobError, Outcome, UsageError, job, job_parser, run_job_command
from shared.settings import Settings
from shared.wallets_file import WalletEntry, load_wallets

log = logging.getLogger("sextant.sender")
OpenVenue = Callable[[Row, TakeNonce], tuple[TradingVenue, WalletEntry]]


class LiveWallets:
    """The live wallets' desks, kept from pass to pass by a sender that stays: each has its lock and its epoch."""

    def __init__(self, settings: Settings, open_venue: OpenVenue) -> None:
        self._settings, self._open_venue = settings, open_venue
        self._desks: dict[int, Desk] = {}

    @property
    def home(self) -> Path:
        """Where the KILL files lie."""
        return self._settings.home_path

    def run(self, clock: Clock, database: Database) -> tuple[dict[str, int], dict[str, str]]:
        """One pass over every live wallet: (counts, failures by wallet). One wallet's trouble never stops another's."""
        counts: dict[str, int] = {}
        failures: dict[str, str] = {}
        for wallet in database.fetch(load_queries("live_sender")["live_wallets"], {"now": clock.now()}):
            try:
                for name, number in self._run_one(clock, database, wallet).items():
                    counts[name] = counts.get(name, 0) + number
            except WalletBusy as error:
                log.info(str(error))
            except Exception as error:  # whatever ails one wallet, the others are worked for
                failures[wallet["name"]] = f"{type(error).__name__}: {error}"
                self._give_up(clock, database, wallet, error)
        return counts, failures

    def _run_one(self, clock: Clock, database: Database, wallet: Row) -> dict[str, int]:
        desk = self._desks.get(wallet["id"])
        if desk is None:
            desk = self._desks[wallet["id"]] = self._open(clock, database, wallet)
        desk.wallet, desk.counts = wallet, {}
        run_pass(desk)
        return desk.counts

    def _open(self, clock: Clock, database: Database, wallet: Row) -> Desk:
        session = Session(clock, database, wallet)
        try:
            venue, entry = self._open_venue(wallet, session.take_nonce)
        except SextantError:
            session.end()
            raise
        everything = entry.managed_capital == "all"
        return Desk(
            clock=clock,
            database=database,
            settings=self._settings,
            home=self._settings.home_path,
            wallet=wallet,
            venue=venue,
            session=session,
            managed_capital=None if entry.managed_capital == "all" else entry.managed_capital,
            manages_all=everything,
        )

    def _give_up(self, clock: Clock, database: Database, wallet: Row, error: Exception) -> None:
        """The pass ends here, and the next one begins a new epoch. What the venue did not answer may pass; the rest is
        for people."""
        desk = self._desks.pop(wallet["id"], None)
        foreseen = isinstance(error, (CouldNotAsk, SextantError, KeyRefused, DatabaseError))
        log.warning("the pass ended early", extra={"wallet": wallet["name"], "why": str(error)}, exc_info=not foreseen)
        loud = isinstance(error, (KeyRefused, DatabaseError)) or getattr(error, "fatal", False) or not foreseen
        key = f"sender-{type(error).__name__}:{wallet['name']}"
        # A lost database takes no alert, and the lock went with it; one that refused a row takes both.
        with suppress(*((DatabaseError, DatabaseUnavailable) if isinstance(error, DatabaseError) else ())):
            if desk is not None and not isinstance(error, Superseded):
                desk.session.end()
            told = str(error) if wallet["name"] in str(error) else f"wallet {wallet['name']}: {error}"
            raise_alert(database, clock.now(), "critical" if loud else "warning", key, told)

    def with_desk(self, clock: Clock, database: Database, wallet: Row, work: Callable[[Desk], object]) -> None:
        """Something else than a pass, in an epoch of its own. WalletBusy: a sender works for the wallet."""
        desk = self._open(clock, database, wallet)
        try:
            work(desk)
        finally:
            desk.session.end()

    def rehearse(self, clock: Clock, database: Database) -> Outcome:
        """Prints what a pass over each live wallet would do; sends nothing."""
        from policy.execution.dry_run import dry_pass

        wallets = database.fetch(load_queries("live_sender")["live_wallets"], {"now": clock.now()})
        for wallet in wallets:
            try:
                self.with_desk(clock, database, wallet, dry_pass)
            except (WalletBusy, CouldNotAsk, SextantError) as error:
                print(f"{wallet['name']}: {error}")
        return Outcome("done" if wallets else "nothing", {"rehearsed": len(wallets)})

    def venues(self) -> dict[int, TradingVenue]:
        """Of the wallets that are worked for at the moment, by wallet id."""
        return {wallet_id: desk.venue for wallet_id, desk in self._desks.items()}

    def close(self) -> None:
        """Leaves every wallet to the next sender."""
        for desk in self._desks.values():
            desk.session.end()
        self.forget()

    def forget(self) -> None:
        """The connection that held the locks is gone."""
        self._desks = {}


@job("sender")
def run_once(clock: Clock, database: Database, live: LiveWallets | None = None, home: Path | None = None) -> Outcome:
    """Paper wallets, then the live ones (``live`` is None where only paper is simulated). ``home``: whose KILL files
    paper obeys, too; that of ``live`` where it is given."""
    counts = send_on_paper(database, clock.now(), live.home if live is not None else home)
    failures: dict[str, str] = {}
    if live is not None:
        sent, failures = live.run(clock, database)
        counts = {name: counts.get(name, 0) + sent.get(name, 0) for name in (*counts, *sent)}
    result: dict[str, Any] = {name: count for name, count in counts.items() if count}
    return Outcome("done" if result else "nothing", result | ({"failures": failures} if failures else {}))


def venue_opener(settings: Settings, environ: Mapping[str, str]) -> OpenVenue:
    """Opens a wallet's venue with its key from ``environ``, as config/wallets.json names it."""

    def open_venue(wallet: Row, take_nonce: TakeNonce) -> tuple[TradingVenue, WalletEntry]:
        from policy.execution.venues import open_trading  # brings a venue's library: paper wallets need none

        wallets = load_wallets()
        entry = wallets.entry(wallet["name"])
        if entry.venue != wallet["venue"]:
            raise UsageError(f"wallet {entry.name} is on {wallet['venue']}, and config/wallets.json says {entry.venue}")
        credentials = credentials_of(entry, environ, wallets.wallets)
        venue = open_trading(entry.venue, settings, credentials, take_nonce, wallet["symbols"])
        return venue, entry

    return open_venue


def environment() -> Mapping[str, str]:
    """The process's own, where wallet keys are: not config/.env, which every layer reads."""
    return os.environ  # noqa: TID251 (see above)


def main(argv: list[str] | None = None) -> int:
    parser = job_parser("Carry approved orders to the venue; write down what it said.")
    parser.add_argument("--dry-run", action="store_true", help="live wallets: everything but the send")

    def work(context: Context) -> Outcome:
        crashpoints.arm(context.settings.crash_at)
        live = LiveWallets(context.settings, venue_opener(context.settings, environment()))
        if context.arguments.dry_run:
            return live.rehearse(context.clock, context.database)
        try:
            outcome = run_once(context.clock, context.database, live)
        finally:
            live.close()
        if failed := outcome.result.get("failures"):  # what was done stands, and the exit code and heartbeat tell
            raise JobError("; ".join(f"wallet {name}: {why}" for name, why in failed.items()))
        return outcome

    return run_job_command("sender", parser, work, argv)


if __name__ == "__main__":
    sys.exit(main())
