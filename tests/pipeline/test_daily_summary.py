"""The summary of a day: told once, in the morning, with returns that deposits do not flatter."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest

from pipeline.alert_channels import in_words
from pipeline.daily_summary import KEY, READY, raise_summary
from shared.alerts import raise_alert
from shared.db import Database
from tests.helpers import NOON, DatabaseFor, random_candles, store_candles

MIDNIGHT = NOON.replace(hour=0)
DAY = timedelta(days=1)
HOUR = timedelta(hours=1)

WALLET = """
INSERT INTO wallets (name, venue, mode, quote, track, taker_fee_bps, slippage_bps, impact, recorded_at)
VALUES (%(name)s, 'test', 'paper', 'USDT', 'live', 40, 5, 1, %(at)s)
"""
FLOW = """
INSERT INTO cash_flows (wallet_id, asset, amount, kind, reference, at, recorded_at)
VALUES (%(wallet)s, %(asset)s, %(amount)s, 'adoption', %(asset)s, %(at)s, %(at)s)
"""
DECISION = """
INSERT INTO decisions (wallet_id, instrument_id, as_of, source, wanted_weight, allowed_weight, baseline_weight, clamps,
                       reason, price, quantity_held, cash, equity, units, code_version, settings_hash, recorded_at)
VALUES (%(wallet)s, 1, %(at)s, 'policy', 0, 0, 0, '[]', 'test', 1, 0, 0, %(equity)s, %(units)s, 'test', 'test', %(at)s)
"""
RUN = """
INSERT INTO job_runs (layer, job, clock_at, started_at, status)
VALUES ('policy', %(job)s, %(at)s, %(at)s, %(status)s)
"""


@pytest.fixture
def owner(database_for: DatabaseFor) -> Database:
    return database_for("owner")


@pytest.fixture
def decide(owner: Database) -> Callable[..., None]:
    def write(wallet: int, at: datetime, equity: float, units: float = 1.0) -> None:
        owner.execute(DECISION, {"wallet": wallet, "at": at, "equity": equity, "units": units})

    return write


def told(owner: Database) -> list[str]:
    rows = owner.fetch("SELECT message FROM alerts WHERE key = %(key)s AND severity = 'info' ORDER BY id", {"key": KEY})
    return [row["message"] for row in rows]


def test_a_day_in_a_message(database_for: DatabaseFor, owner: Database, decide: Callable[..., None]) -> None:
    """w1: a unit went from 100 to 103, though a deposit doubled the equity; w2 stands still; w3 is new; w4 waits."""
    store_candles(database_for, "test", "AAA/USDT", 300, random_candles(5, 300))
    for name in ("w1", "w2", "w3", "w4"):
        owner.execute(WALLET, {"name": name, "at": NOON})
    for asset, amount in (("USDT", 1234.5), ("AAA", "0.5")):
        owner.execute(FLOW, {"wallet": 1, "asset": asset, "amount": amount, "at": NOON})
    decide(1, MIDNIGHT - DAY - HOUR, 1.0)
    decide(1, MIDNIGHT - DAY, 1000.0, 10.0)
    decide(1, MIDNIGHT, 2060.0, 20.0)
    decide(1, MIDNIGHT + HOUR / 12, 1.0)
    decide(2, MIDNIGHT - DAY, 1000.0)
    decide(3, MIDNIGHT - HOUR, 1000.0)
    for at, job, status in ((-DAY, "run_trader", "done"), (-HOUR, "run_trader", "failed"), (-HOUR, "sender", "nothing"),
                            (-DAY - HOUR, "sender", "failed"), (0 * DAY, "sender", "failed")):  # fmt: skip
        owner.execute(RUN, {"job": job, "at": MIDNIGHT + at, "status": status})
    for key, severity in (("a", "critical"), ("b", "warning"), ("c", "warning"), ("d", "info")):
        raise_alert(database_for("sender"), MIDNIGHT - HOUR, severity, key, "m")  # type: ignore[arg-type]
    raise_alert(database_for("sender"), MIDNIGHT, "critical", "of today", "m")

    assert raise_summary(database_for("cli"), MIDNIGHT + READY)
    equity = owner.fetch_one("SELECT equity FROM equity WHERE wallet_id = 1")
    assert equity is not None
    assert told(owner) == [
        f"Friday 2024-05-31 (UTC)\n"
        "Jobs: 3 runs, FAILED: run_trader 1 of 2\n"
        "Alerts: 1 critical, 2 warnings\n"
        "w2 (paper): equity 0.00 USDT, NO DECISION on the day, the last one at 2024-05-31 00:00; holds nothing\n"
        "w4 (paper): equity 0.00 USDT, no decision yet; holds nothing\n"
        f"w1 (paper): equity {equity['equity']:,.2f} USDT, +3.00% on the day; holds 0.5 AAA/USDT\n"
        "w3 (paper): equity 0.00 USDT, its first day; holds nothing"
    ]


def test_it_is_told_once_a_day_when_the_day_is_complete(database_for: DatabaseFor, owner: Database) -> None:
    cli: Any = database_for("cli")
    assert not raise_summary(cli, MIDNIGHT + READY), "no wallet, nothing to sum up"
    owner.execute(WALLET, {"name": "w", "at": NOON})
    assert not raise_summary(cli, MIDNIGHT + READY - timedelta(seconds=1))
    assert raise_summary(cli, MIDNIGHT + READY)
    assert not raise_summary(cli, MIDNIGHT + DAY - HOUR)
    assert not raise_summary(cli, MIDNIGHT + DAY)
    assert raise_summary(cli, MIDNIGHT + DAY + HOUR)
    assert [message.split("\n")[0] for message in told(owner)] == [
        "Friday 2024-05-31 (UTC)",
        "Saturday 2024-06-01 (UTC)",
    ]
    assert told(owner)[0].split("\n")[1:3] == ["Jobs: 0 runs, none failed", "Alerts: 0 critical, 0 warnings"]


def test_what_went_wrong_is_not_cut_off_by_fifty_wallets(owner: Database, database_for: DatabaseFor) -> None:
    for n in range(50):
        owner.execute(WALLET, {"name": f"wallet-{n:02}", "at": NOON})
    owner.execute(RUN, {"job": "run_trader", "at": MIDNIGHT - HOUR, "status": "failed"})
    assert raise_summary(database_for("cli"), MIDNIGHT + READY)
    (message,) = told(owner)
    sent = in_words({"severity": "info", "key": KEY, "message": message, "since": MIDNIGHT, "layer": "cli"})
    assert message not in sent.body, "it is longer than channels take"
    assert "FAILED: run_trader 1 of 1" in sent.body
