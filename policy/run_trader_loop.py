"""The trader as one long-lived process: the same tick as cron's, as soon as what it reads is there.

Input: what policy.run_trader reads; notifications of candles and embeddings. Output: what policy.run_trader writes.

A tick runs on each notification, and in any case on the base timeframe, ``execution.delay_s`` after each close: one
that is missed costs a delay and nothing else, as does an encoder that does not notify (new rows are looked for each
second). Since a candle is decided about once, a decision waits, PATIENCE_S at most, until candle and embedding of
all its instruments are in. Each tick takes the job's lock: cron may run beside it, and a second loop is merely idle.
A sign of life goes out once a base candle, as after each of cron's runs.
SIGTERM and SIGINT let a tick that runs end, and leave within LISTEN_S; a second one ends the process as usual.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from policy import run_trader
from shared.alerts import raise_alert
from shared.clock import Clock, Timer, floor_time, open_clock
from shared.db import Database, DatabaseError, DatabaseUnavailable, load_queries
from shared.errors import SextantError
from shared.heartbeat import beat
from shared.job import Outcome
from shared.log import configure_logging
from shared.schema import open_database
from shared.service import LISTEN_S, sleep_until_ended, stop_signals
from shared.settings import Settings, SettingsError, load_settings

log = logging.getLogger("sextant.trader_loop")
PATIENCE_S = 15.0  # beyond the decision's delay: when cron's trader would run
COLLECT_S = 0.25  # where nothing is to be decided: the symbols of one close arrive within moments, one tick for all
RETRY_S, RETRY_MAX_S = 1.0, 60.0  # between attempts to reach a lost database; doubles

Tick = Callable[[Clock, Database, Settings], Outcome]


@dataclass(slots=True)
class TraderLoop:
    """When to tick. ``listener`` only listens; ``database`` does the work, and its models stay loaded."""

    clock: Clock
    settings: Settings
    listener: Database
    database: Database
    tick: Tick
    timer: Timer = field(default_factory=Timer)
    ticks: int = 0
    _wanted_since: float | None = None  # elapsed seconds: something came in, and no tick has looked at it
    _on_time: datetime | None = None  # the next tick that needs no notification; None: at once
    _newest: tuple[datetime | None, datetime | None] | None = None

    def listen(self) -> None:
        self.listener.execute(load_queries("loop")["listen"])

    def step(self) -> None:
        """Waits up to LISTEN_S for something to do, and does it."""
        if self.listener.notifications(self._wait_s()):
            self._want()
        inputs, now = self._inputs(), self.clock.now()
        newest = (inputs["candle"], inputs["embedding"])
        if newest != self._newest or self._on_time is None or now >= self._on_time:
            self._want()
        self._newest = newest
        if self._wanted_since is not None and self._may_tick(inputs, now):
            self._run()

    def _want(self) -> None:
        self._wanted_since = self.timer.monotonic() if self._wanted_since is None else self._wanted_since

    def _wait_s(self) -> float:
        """Until the next moment at which something may be due."""
        if self._on_time is None:
            return 0.0
        wait_s = min(LISTEN_S, (self._on_time - self.clock.now()).total_seconds())
        if self._wanted_since is not None:
            wait_s = min(wait_s, max(self._wanted_since - self.timer.monotonic() + COLLECT_S, COLLECT_S))
        return max(wait_s, 0.0)

    def _decides_about(self, now: datetime) -> datetime:
        """The close that a tick would decide about now, as policy.run_trader does."""
        return floor_time(now - self._delay, self.settings.universe.decision_timeframe_s)

    @property
    def _delay(self) -> timedelta:
        return timedelta(seconds=self.settings.execution.delay_s)

    def _inputs(self) -> dict[str, Any]:
        params = {
            "as_of": self._decides_about(self.clock.now()),
            "timeframe_s": self.settings.universe.decision_timeframe_s,
        }
        row = self.database.fetch_one(load_queries("loop")["inputs"], params)
        assert row is not None  # an aggregate
        return row

    def _may_tick(self, inputs: dict[str, Any], now: datetime) -> bool:
        """Whether everything is there that a decision waits for, or has been waited for long enough."""
        if inputs["decided"]:
            assert self._wanted_since is not None
            return self._on_time is None or self.timer.monotonic() - self._wanted_since >= COLLECT_S
        patient_until = self._decides_about(now) + self._delay + timedelta(seconds=PATIENCE_S)
        return not inputs["awaited"] or now >= patient_until

    def _run(self) -> None:
        now = self.clock.now()
        base_s = self.settings.universe.base_timeframe_s
        on_time = self._on_time is None or now >= self._on_time
        self._on_time = floor_time(now - self._delay, base_s) + self._delay + timedelta(seconds=base_s)
        try:
            outcome = self.tick(self.clock, self.database, self.settings)
        except DatabaseError:
            raise  # reached anew
        except Exception:  # the job has recorded it and alarms; the next tick may fare better
            log.exception("a tick failed; the loop goes on")
            beat(self.settings.heartbeat_url, "run_trader", passed=False, wait=False)
            self._wanted_since = None
            return
        if outcome.status == "busy":
            self._wanted_since = self.timer.monotonic()  # another trader is at work: look again when it is done
            return
        self._wanted_since = None
        self.ticks += 1
        log.info(outcome.status, extra={"job": "run_trader", **outcome.result})
        if on_time:
            beat(self.settings.heartbeat_url, "run_trader", passed=True, wait=False)


def run_loop(
    clock: Clock,
    settings: Settings,
    ended: Callable[[], bool],
    tick: Tick = run_trader.run_once,
    timer: Timer | None = None,
) -> int:
    """Ticks until ``ended`` says so; the number of ticks. A database that is lost is reached anew, and alarmed about
    as soon as it is there."""
    timer = timer or Timer()
    ticks, wait_s = 0, RETRY_S
    lost_at, why = None, ""
    while not ended():
        try:
            with closing(open_database(settings, "policy")) as a, closing(open_database(settings, "policy")) as b:
                loop = TraderLoop(clock, settings, listener=a, database=b, tick=tick, timer=timer)
                loop.listen()
                log.info("listening for candles and embeddings")
                if lost_at is not None:
                    told = f"the trader loop was without its database for {timer.monotonic() - lost_at:.0f} s: {why}"
                    raise_alert(b, clock.now(), "warning", "trader-loop-lost-its-database", told)
                try:
                    while not ended():
                        loop.step()
                        if loop.ticks:
                            lost_at, wait_s = None, RETRY_S
                finally:
                    ticks += loop.ticks
        except (DatabaseError, DatabaseUnavailable) as error:
            lost_at = timer.monotonic() if lost_at is None else lost_at
            why = str(error).strip()
            log.error("the database is lost; nothing is decided until it is back", extra={"why": why, "wait_s": wait_s})
            sleep_until_ended(wait_s, ended, timer)
            wait_s = min(2 * wait_s, RETRY_MAX_S)
    return ticks


def main(argv: list[str] | None = None) -> int:
    argparse.ArgumentParser(description="The trader, woken by what comes in; ends by SIGTERM.").parse_args(argv)
    try:
        settings = load_settings()
        configure_logging(settings.log.level)
        with stop_signals() as asked:
            ticks = run_loop(open_clock(settings.clock_url), settings, lambda: bool(asked))
    except SettingsError as error:
        print(error, file=sys.stderr)
        return 2
    except SextantError as error:
        log.error(str(error), extra={"job": "run_trader_loop"})
        return 1
    log.info("done", extra={"job": "run_trader_loop", "ticks": ticks, "because": asked})
    return 0


if __name__ == "__main__":
    sys.exit(main())
