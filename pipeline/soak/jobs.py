"""The schedule's jobs, called in this process: what `python -m …` would do at each of their times."""

from __future__ import annotations

import signal
from collections.abc import Callable
from datetime import datetime, timedelta

from apscheduler.triggers.cron import CronTrigger

from candles import backfill, quality, refresh_rules, run_feed
from encoder import check_encoder, retrain, run_encoder
from meta_controller import assess_llm, run_metacontroller
from pipeline import backup, data_clean, notify
from pipeline.schedule import cron_trigger
from pipeline.soak.world import World
from policy import run_trader
from policy.execution import sender
from policy.execution.sender import LiveWallets
from shared.job import Outcome
from shared.settings import ScheduledJob

Job = Callable[[], Outcome]


class Jobs:
    """Each of settings.schedule by its name. ``live`` is the sender's process: one that stays, as the loop's does."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.live: LiveWallets = world.live_wallets()
        self.by_name: dict[str, Job] = {
            "feed": self._feed,
            "backfill": self._backfill,
            "quality": lambda: quality.run_once(world.clock, world.database("candles")),
            "refresh_rules": lambda: refresh_rules.run_once(world.clock, world.database("candles"), world.exchange),
            "encoder": lambda: run_encoder.run_once(world.clock, world.database("encoder"), world.settings),
            "encoder_check": lambda: check_encoder.run_once(world.clock, world.database("encoder"), world.settings),
            "retrain": lambda: retrain.run_once(world.clock, world.database("encoder"), world.settings),
            "meta": lambda: run_metacontroller.run_once(world.clock, world.database("meta_controller"), world.settings),
            "assess_llm": lambda: assess_llm.run_once(world.clock, world.database("meta_controller"), world.settings),
            "settle": self._sender,
            "trader": lambda: run_trader.run_once(world.clock, world.database("policy"), world.settings),
            "sender": self._sender,
            "notify": lambda: notify.run_once(world.clock, world.database("cli"), world.settings),
            "backup": self._backup,
            "data_clean": lambda: data_clean.run_once(world.clock, world.database("cli"), world.settings),
        }

    def _feed(self) -> Outcome:
        """As cron runs it: --once. Its event loop takes SIGTERM for itself, and leaves it without a handler."""
        world, before = self._world, signal.getsignal(signal.SIGTERM)
        try:
            return run_feed.run_feed(world.clock, world.database("candles"), world.settings, world.exchange, True)
        finally:
            signal.signal(signal.SIGTERM, before)

    def _backfill(self) -> Outcome:
        world = self._world
        return backfill.run_once(
            world.clock, world.database("candles"), world.settings, world.exchange, look_back=True
        )  # fmt: skip

    def _sender(self) -> Outcome:
        return sender.run_once(self._world.clock, self._world.database("sender"), self.live)

    def _backup(self) -> Outcome:
        world = self._world
        return backup.run_once(world.clock, world.database("cli"), world.settings, world.backups)

    def new_sender(self) -> None:
        """The old process is gone, and with it its connection, its locks and what it knew."""
        self._world.drop_connections("sender")
        self.live = self._world.live_wallets()


class Times:
    """When one job is due, by its cron line."""

    def __init__(self, job: ScheduledJob) -> None:
        self._trigger: CronTrigger = cron_trigger(job)
        self._delay = timedelta(seconds=job.delay_s)

    def after(self, due: datetime) -> datetime:
        """The first time later than ``due``, which was one or is the beginning."""
        fired = due - self._delay
        following: datetime | None = self._trigger.get_next_fire_time(fired, fired)
        assert following is not None
        return following + self._delay
