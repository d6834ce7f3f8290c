"""The soak in small: some hours of the schedule, each kind of mishap once, and each of its own laws broken once."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest

from pipeline.soak.jobs import Jobs, Times
from pipeline.soak.plan import DAY, HOUR, QUIET_S, Kind, Mishap, mishaps
from pipeline.soak.report import report
from pipeline.soak.soak import NS, Soak, Stopped
from pipeline.soak.world import START, SYMBOLS, World, open_world
from shared.clock import from_unix
from shared.db import Database, load_queries
from shared.embedded_db import ensure_running
from shared.settings import ScheduledJob, Settings, load_settings

DAYS, QUIET_HOURS = 4 / 24, 1.5
PATIENCE_S = 120.0
UNHEARD = {"surface": "rest", "endpoint": "AddOrder", "times": 1, "fault": "close", "phase": "after_effect"}
READS = {"surface": "rest", "endpoint": "OpenOrders", "times": 1, "fault": "reset", "phase": "before"}
REVISED = {"surface": "rest", "endpoint": "OHLC", "times": 1, "fault": "revision", "parameter": "next close"}
MAINTENANCE = {"surface": "rest", "fault": "maintenance"}
PLAN = [
    Mishap(0.01 * HOUR, "venue", UNHEARD),  # the first order of all
    Mishap(0.01 * HOUR, "kill", number=9.0),  # the second one is sent, and nobody wrote down its answer
    Mishap(0.1 * HOUR, "database", number=1.0),
    Mishap(0.2 * HOUR, "venue", REVISED),
    Mishap(0.3 * HOUR, "asleep", number=1_500.0),
    Mishap(0.9 * HOUR, "venue", READS),
    Mishap(1.0 * HOUR, "money", number=1_000.0),
    Mishap(1.2 * HOUR, "venue", MAINTENANCE, 900.0),
    Mishap(1.5 * HOUR, "clock", number=30.0),
    Mishap(1.8 * HOUR, "clock"),
    Mishap(2.0 * HOUR, "stop", word="flatten"),
    Mishap(2.4 * HOUR, "resume"),
]


@pytest.fixture
def world(settings: Settings, tmp_path: Path) -> Iterator[World]:
    told = load_settings(home=settings.home_path, db_name=settings.db_name)
    schedule = {name: job for name, job in told.schedule.items() if name != "backup"}  # it has tests of its own
    with open_world(told.model_copy(update={"schedule": schedule}), tmp_path) as (world, _sink):
        yield world


def run(world: World) -> Soak:
    soak = Soak(world, PLAN, DAYS, lambda: cut_connections(world), quiet_s=QUIET_HOURS * HOUR)
    assert soak.run(time.monotonic() + PATIENCE_S)
    soak.reconcile()
    return soak


def cut_connections(world: World) -> None:
    """The sender's. The superuser's right: the owner may not."""
    server = ensure_running(world.settings.home_path)
    superuser = Database(server.url("postgres", server.superuser_password, world.settings.db_name))
    superuser.fetch(load_queries("crash")["end_sessions"])
    superuser.close()


def broken(soak: Soak, finished: bool = True) -> list[str]:
    """But for memory, which says nothing of so short a time."""
    soak.early_kib = soak.late_kib
    return report(soak, finished, 1.0).broken


def test_some_hours_of_mishaps_break_no_law_and_each_law_can_be_broken(world: World) -> None:
    assert Jobs(world).by_name.keys() == load_settings().schedule.keys()
    soak = run(world)
    assert broken(soak) == []
    check_that_it_happened(soak)
    break_each_law(soak)


def check_that_it_happened(soak: Soak) -> None:
    counts, world = soak.counts, soak.world
    happened = ("sender: kill", "sender: database", "operator: flatten", "clock set wrong", "asleep", "deposit")
    assert counts.mishaps == dict.fromkeys(happened, 1)
    assert counts.reasons["sender: killed"] + counts.reasons["settle: killed"] == 1
    assert counts.reasons["sender: AdminShutdown"] + counts.reasons["settle: AdminShutdown"] == 1
    assert counts.due["trader"] == counts.due["settle"] == DAYS * DAY / 300
    assert 4 <= counts.missed["feed"] <= 6  # while the machine slept
    for name in counts.due:
        assert counts.due[name] == counts.succeeded[name] + counts.failed[name] + counts.missed[name]
    served = world.venue.ask("GET", "faults")["served"]
    assert {"close", "reset", "revision", "maintenance"} <= served.keys()
    orders = world.rows("orders")
    assert sum("sending" in order["events"] for order in orders) >= 8  # bought, protected, sold, bought
    assert any("unknown" in order["events"] and order["events"][-1] == "filled" for order in orders)
    assert {row["asset"]: row["amount"] for row in world.rows("money")}["USD"] > 1_000
    assert world.rows("paper_orders", at=world.clock.now())
    lines = report(soak, True, 1.0).lines
    assert any(line.startswith("trader ") and f" {counts.succeeded['trader']} " in line for line in lines)


def break_each_law(soak: Soak) -> None:
    world, whole = soak.world, int((START + DAY) * NS)
    assert broken(soak, finished=False) == ["the time ran out before the last day was over"]
    soak.stops.append(Stopped("pause", int(START * NS), whole))
    assert {told.split()[0] for told in broken(soak)} == {"buy"}
    soak.stops[-1] = replace(soak.stops[-1], mandate="halt")
    assert {told.split()[0] for told in broken(soak)} >= {"buy", "sell"}
    soak.stops.pop()
    soak.counts.quiet_failures.append("trader: KeyError")
    assert broken(soak) == ["failed when all was well: trader: KeyError"]
    soak.counts.quiet_failures.clear()
    soak.early_kib = int(soak.late_kib / 1.11)
    assert ["memory grew" in told for told in report(soak, True, 1.0).broken] == [True]
    owner = world.database("owner").connection
    newest = "(SELECT max(as_of) - interval '1 hour' FROM market_data WHERE timeframe_s = 300)"
    owner.execute(f"UPDATE market_data SET volume = volume + 1 WHERE as_of = {newest}")
    assert Counter(told.split(":")[0] for told in broken(soak)) == dict.fromkeys(SYMBOLS, 1)
    owner.execute(f"DELETE FROM market_data WHERE as_of = {newest}")
    assert ["missing" in told for told in broken(soak)] == [True, True]


def test_the_plan_is_the_seeds_and_leaves_time_to_heal() -> None:
    plan = mishaps(7, 30.0)
    assert plan == mishaps(7, 30.0) != mishaps(8, 30.0)
    assert plan == sorted(plan, key=lambda mishap: mishap.at)
    assert {mishap.kind for mishap in plan} == set(get_args(Kind))
    ends = [mishap for mishap in plan if mishap.kind in ("clock", "resume")]
    assert max(mishap.at for mishap in plan if mishap not in ends) < 30 * DAY - QUIET_S
    assert {mishap.word for mishap in plan if mishap.kind == "stop"} == {"pause", "kill", "flatten", "halt"}


def test_a_job_is_due_when_its_cron_line_says_and_its_delay_later() -> None:
    job = ScheduledJob(module="policy.execution.sender", cron="2-59/5 * * * *", delay_s=30)
    times, due, moments = Times(job), from_unix(START), []
    for _ in range(3):
        due = times.after(due)
        moments.append(due.timestamp() - START)
    assert moments == [150.0, 450.0, 750.0]
