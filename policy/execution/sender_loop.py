"""The sender as one long-lived process: a pass as soon as an intent is written or an execution is heard.

Input and output as policy.execution.sender. A pass runs on each notification of an intent or a command, on each event
of a venue's executions channel, and at least every PASS_EVERY_S: one that is missed costs a delay and nothing else, for
what is written down is only what the venue answers when it is asked. SIGTERM and SIGINT let the pass that runs end.
"""

from __future__ import annotations

import argparse
import logging
import select
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from typing import Any, Protocol, runtime_checkable

from policy.execution import crashpoints, sender
from policy.execution.sender import LiveWallets, environment, venue_opener
from policy.execution.venues.execution_watcher import ExecutionWatcher
from policy.execution.venues.kraken_executions import ExecutionEvent
from policy.execution.venues.protocol import TradingVenue
from shared.alerts import raise_alert
from shared.clock import Clock, Timer, open_clock
from shared.db import Database, DatabaseError, DatabaseUnavailable, load_queries
from shared.errors import SextantError
from shared.heartbeat import beat
from shared.log import configure_logging
from shared.schema import open_database
from shared.service import LISTEN_S, sleep_until_ended, stop_signals
from shared.settings import Settings, SettingsError, load_settings

log = logging.getLogger("sextant.sender_loop")
PASS_EVERY_S = 30.0  # without news: candles fill paper orders, stops move, venues are asked
RETRY_S, RETRY_MAX_S = 1.0, 60.0  # between attempts to reach a lost database; doubles


@runtime_checkable
class TellsExecutions(Protocol):
    """A venue that pushes what happens to orders."""

    executions_url: str

    def websocket_token(self) -> str: ...


class SenderLoop:
    """When to pass. ``listener`` only listens; ``database`` does the work and holds the wallets' locks."""

    def __init__(
        self, clock: Clock, listener: Database, database: Database, live: LiveWallets, timer: Timer, stack: ExitStack
    ) -> None:
        self._clock, self._listener, self._database, self._live = clock, listener, database, live
        self._timer = timer
        self._watchers: dict[int, tuple[TradingVenue, ExecutionWatcher]] = {}
        stack.callback(self._stop_watching)
        self._next_pass = timer.monotonic()
        self.passes = 0

    def step(self) -> bool:
        """Waits up to LISTEN_S for something to do, and does it; whether there was."""
        if not self._heard() and self._timer.monotonic() < self._next_pass:
            return False
        self._next_pass = self._timer.monotonic() + PASS_EVERY_S
        outcome = sender.run_once(self._clock, self._database, self._live)
        self.passes += outcome.status != "busy"
        self._watch()
        return True

    def _heard(self) -> bool:
        """Whether an intent, a command or an execution came in."""
        watchers = {wallet_id: watcher for wallet_id, (_, watcher) in self._watchers.items()}
        wait_s = max(0.0, min(LISTEN_S, self._next_pass - self._timer.monotonic()))
        ears: list[Any] = [self._listener.connection, *watchers.values()]
        select.select(ears, [], [], wait_s)
        heard = [event for wallet_id, watcher in watchers.items() for event in self._news(wallet_id, watcher)]
        return bool(self._listener.notifications(0.0)) or bool(heard)

    def _news(self, wallet_id: int, watcher: ExecutionWatcher) -> Sequence[ExecutionEvent]:
        """What one wallet's venue tells. One that tells no more is not listened to until the next pass: its wallet goes
        by the clock meanwhile, and the others go on."""
        try:
            return watcher.wait(0.0)
        except DatabaseError:
            raise
        except Exception as error:
            log.warning("its executions are not heard", extra={"wallet_id": wallet_id, "why": str(error)})
            watcher.stop()
            del self._watchers[wallet_id]
            return ()

    def _stop_watching(self) -> None:
        while self._watchers:
            self._watchers.popitem()[1][1].stop()

    def _watch(self) -> None:
        """Listens to the venues of the wallets that are worked for now, and no longer to others."""
        venues = self._live.venues()
        for wallet_id, (venue, watcher) in list(self._watchers.items()):
            if venues.get(wallet_id) is not venue:  # its epoch is over: a token of it would be refused
                watcher.stop()
                del self._watchers[wallet_id]
        for wallet_id, venue in venues.items():
            if wallet_id not in self._watchers and isinstance(venue, TellsExecutions):
                watcher = ExecutionWatcher(venue.executions_url, venue.websocket_token)
                self._watchers[wallet_id] = (venue, watcher.__enter__())


def run_loop(
    clock: Clock, settings: Settings, live: LiveWallets, ended: Callable[[], bool], timer: Timer | None = None
) -> int:
    """Passes until ``ended`` says so; the number of passes. A database that is lost is reached anew, and alarmed about
    as soon as it is there: meanwhile nothing is sent."""
    timer = timer or Timer()
    passes, wait_s, lost_at, why = 0, RETRY_S, None, ""
    while not ended():
        try:
            with ExitStack() as stack:
                listener, database = (stack.enter_context(closing(open_database(settings, "sender"))) for _ in "ab")
                stack.callback(live.forget)
                listener.execute(load_queries("live_sender")["listen"])
                if lost_at is not None:
                    told = f"the sender was without its database for {timer.monotonic() - lost_at:.0f} s: {why}"
                    raise_alert(database, clock.now(), "critical", "sender-lost-its-database", told)
                    lost_at, wait_s = None, RETRY_S
                loop = SenderLoop(clock, listener, database, live, timer, stack)
                try:
                    while not ended():
                        if loop.step():
                            beat(settings.heartbeat_url, "sender", True)
                finally:
                    passes += loop.passes
                live.close()
        except (DatabaseError, DatabaseUnavailable) as error:
            lost_at = timer.monotonic() if lost_at is None else lost_at
            why = str(error).strip()
            log.error("the database is lost; nothing is sent until it is back", extra={"why": why, "wait_s": wait_s})
            sleep_until_ended(wait_s, ended, timer)
            wait_s = min(2 * wait_s, RETRY_MAX_S)
    return passes


def main(argv: list[str] | None = None) -> int:
    argparse.ArgumentParser(description="The sender, woken by what comes in; ends by SIGTERM.").parse_args(argv)
    try:
        settings = load_settings()
        configure_logging(settings.log.level)
        crashpoints.arm(settings.crash_at)
        live = LiveWallets(settings, venue_opener(settings, environment()))
        log.info("listening for intents, commands and executions")
        with stop_signals() as asked:
            passes = run_loop(open_clock(settings.clock_url), settings, live, lambda: bool(asked))
    except SettingsError as error:
        print(error, file=sys.stderr)
        return 2
    except SextantError as error:
        log.error(str(error), extra={"job": "sender_loop"})
        return 1
    log.info("done", extra={"job": "sender_loop", "passes": passes, "because": asked})
    return 0


if __name__ == "__main__":
    sys.exit(main())
