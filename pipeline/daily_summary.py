"""One message a day: what each wallet is worth and earned, and what went wrong, for an operator who did not look."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from shared.alerts import raise_alert
from shared.clock import floor_time
from shared.db import Database, load_queries

KEY = "daily-summary"
READY = timedelta(minutes=10)  # after midnight the trader has decided on the day's last close
DAY = timedelta(days=1)


def raise_summary(database: Database, now: datetime) -> bool:
    """Writes the summary of yesterday (UTC) as an alert, once; True when it was written now."""
    midnight = floor_time(now, 86_400)
    queries = load_queries("notify")
    if now < midnight + READY or database.fetch(queries["is_told"], {"key": KEY, "day": now.date()}):
        return False
    span = {"from_time": midnight - DAY, "to_time": midnight}
    lines = [f"{span['from_time']:%A %Y-%m-%d} (UTC)"]
    wallets = database.fetch(queries["day_of_wallets"], span)
    if not wallets:
        return False  # nothing trades: nothing to sum up
    # Many wallets make a message longer than channels take: what went wrong stands before the place where it is cut.
    lines.append(_jobs_line(database.fetch(queries["day_of_jobs"], span)))
    alerts = {row["severity"]: row["alerts"] for row in database.fetch(queries["day_of_alerts"], span)}
    lines.append(f"Alerts: {alerts.get('critical', 0)} critical, {alerts.get('warning', 0)} warnings")
    wallets.sort(key=lambda wallet: _decided(wallet, midnight))
    lines += [_wallet_line(wallet, midnight) for wallet in wallets]
    raise_alert(database, now, "info", KEY, "\n".join(lines))
    return True


def _decided(wallet: Mapping[str, Any], midnight: datetime) -> bool:
    """Whether the wallet decided on the day; those that did not come first."""
    return wallet["last_decision"] is not None and wallet["last_decision"] > midnight - DAY


def _wallet_line(wallet: Mapping[str, Any], midnight: datetime) -> str:
    """The return is of a unit's value, so that a deposit is none."""
    name = f"{wallet['name']} ({wallet['mode']})"
    if wallet["start_value"] and _decided(wallet, midnight):
        earned = f"{wallet['end_value'] / wallet['start_value'] - 1:+.2%} on the day"
    elif wallet["last_decision"] is None:
        earned = "no decision yet"
    elif not _decided(wallet, midnight):
        earned = f"NO DECISION on the day, the last one at {wallet['last_decision']:%Y-%m-%d %H:%M}"
    else:
        earned = "its first day"
    return f"{name}: equity {wallet['equity']:,.2f} {wallet['quote']}, {earned}; holds {wallet['held'] or 'nothing'}"


def _jobs_line(jobs: list[dict[str, Any]]) -> str:
    failed = [f"{job['job']} {job['failed']} of {job['runs']}" for job in jobs if job["failed"]]
    ran = f"Jobs: {sum(job['runs'] for job in jobs)} runs"
    return f"{ran}, FAILED: {', '.join(failed)}" if failed else f"{ran}, none failed"
