"""Carries alerts to the operator's channels, each once, and a summary of each day.

Input: alerts, and what the summary sums up. Output: alert_deliveries, alerts (the summary; a channel that takes
nothing), operator_checks (of ``--test``); messages.

The row is claimed before its message is sent. A channel that refuses is asked again, later each time. A delivery that
broke off in between (a kill, a power cut) may have arrived: a critical alert is then sent again, at least once;
any other is not, at most once.
"""

from __future__ import annotations

import sys
from datetime import datetime, timedelta
from typing import Any

from psycopg.types.json import Json

from pipeline.alert_channels import Channel, Message, in_words, open_channels, send
from pipeline.daily_summary import raise_summary
from shared.alerts import raise_alert
from shared.clock import Clock
from shared.db import Database, load_queries
from shared.job import Context, JobError, Outcome, UsageError, job, job_parser, run_job_command
from shared.settings import Settings

FRESH = timedelta(days=3)  # what is older is no news; a new channel is not flooded with the past
WAITS_S = (60, 300, 1800, 7200, 28_800)  # from the first attempt to each further one; after the last: given up
AILING = 3  # attempts after which the other channels hear of it
MOST_A_RUN = 20  # messages a channel; the services refuse floods
NO_CHANNEL = "set ALERT_URLS in config/.env, as docs/operations.md shows"


@job("notify")
def run_once(clock: Clock, database: Database, settings: Settings) -> Outcome:
    """Sends what is due; refused when a channel refused."""
    now, channels = clock.now(), open_channels(settings)
    if not channels:
        return Outcome("nothing", {"next": f"no channel is set: {NO_CHANNEL}"})
    raise_summary(database, now)
    counts = {"sent": 0, "refused": 0}
    for channel in channels:
        for alert in due_alerts(database, channel, now):
            reason = deliver(database, channel, alert, now)
            counts["refused" if reason else "sent"] += 1
            if reason:
                if alert["attempts"] + 1 >= AILING:
                    _tell_the_others(database, channel, reason, now)
                break  # it would refuse the rest, too: at the next run, when this one waits, they have their turn
    if counts["refused"]:
        return Outcome("refused", counts)
    return Outcome("done" if counts["sent"] else "nothing", counts)


def due_alerts(database: Database, channel: Channel, now: datetime) -> list[dict[str, Any]]:
    asked = {
        "channel": channel.name,
        "severities": list(channel.severities),
        "oldest": now - FRESH,
        "now": now,
        "waits_s": list(WAITS_S),
        "most": MOST_A_RUN,
    }
    return database.fetch(load_queries("notify")["due_alerts"], asked)


def deliver(database: Database, channel: Channel, alert: dict[str, Any], now: datetime) -> str | None:
    """Claims, sends, and writes down what became of it; why the channel refused, None where it took it."""
    queries = load_queries("notify")
    claim = {"alert_id": alert["id"], "channel": channel.name, "attempts": alert["attempts"], "now": now}
    if database.fetch_one(queries["claim_delivery"], claim) is None:
        return None  # another one sends it
    reason = send(channel, in_words(alert))
    database.execute(queries["end_delivery"], claim | {"delivered_at": None if reason else now, "error": reason})
    return reason


def _tell_the_others(database: Database, channel: Channel, reason: str, now: datetime) -> None:
    told = f"{channel.name} takes no alerts: {reason}; mend its address in ALERT_URLS, then `make alert-test`"
    raise_alert(database, now, "warning", f"alert-channel:{channel.name}", told)


def try_channels(database: Database, settings: Settings, now: datetime) -> Outcome:
    """Sends a test through each channel, says and records what came of it; JobError when one refused."""
    channels = open_channels(settings)
    if not channels:
        raise UsageError(f"there is no channel to test: {NO_CHANNEL}")
    text = f"A test of {now:%Y-%m-%d %H:%M} UTC: this channel works. Nothing is to be done."
    found = {}
    for channel in channels:
        reason = send(channel, Message(channel.least, "Sextant: a test", text))
        found[channel.name] = reason or "delivered"
        print(f"{channel.name} ({channel.least} and worse): {found[channel.name]}")
    passed = set(found.values()) == {"delivered"}
    check = {"kind": "alert-test", "passed": passed, "details": Json({"channels": found}), "at": now}
    database.execute(load_queries("notify")["insert_operator_check"], check)
    if not passed:
        raise JobError("a channel refused the test: mend its address in ALERT_URLS (config/.env) and test again")
    return Outcome("done", {"channels": len(found)})


def _work(context: Context) -> Outcome:
    if context.arguments.test:
        return try_channels(context.database, context.settings, context.clock.now())
    return run_once(context.clock, context.database, context.settings)


def main(argv: list[str] | None = None) -> int:
    parser = job_parser("Carries alerts to the channels of ALERT_URLS, and a summary of each day.")
    parser.add_argument("--test", action="store_true", help="send a test through each channel instead")
    return run_job_command("cli", parser, _work, argv)


if __name__ == "__main__":
    sys.exit(main())
