"""What an operator wants to know at a glance: wallets, positions, jobs, data age, and what blocks trading."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from pipeline.place import place_lines
from pipeline.promote import promotion_line
from pipeline.schedule import cron_trigger
from pipeline.status_positions import position_lines
from pipeline.status_steering import llm_lines, silence, steering_table
from pipeline.stopping import wallet_state
from shared.clock import open_clock
from shared.db import Database, load_queries
from shared.errors import SextantError
from shared.schema import open_database
from shared.settings import ScheduledJob, Settings, SettingsError, load_settings

ALERT_WINDOW = timedelta(days=7)
REPLAYED = timedelta(hours=1)  # a run whose clock is farther from the wall's than this was a replay
Row = Mapping[str, Any]


def age(now: datetime, at: datetime | None) -> str:
    if at is None:
        return "never"
    seconds = int((now - at).total_seconds())
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds // size} {unit} ago"
    return f"{seconds} s ago"


def next_run(job: ScheduledJob, now: datetime) -> datetime | None:
    at: datetime | None = cron_trigger(job).get_next_fire_time(None, now)
    return at


def print_wallets(database: Database, settings: Settings, now: datetime, console: Console) -> None:
    queries = load_queries("cli")
    states = wallet_states(database, settings, now)
    positions = database.fetch(queries["wallet_positions"])
    for w in database.fetch(queries["wallet_overview"], {"now": now}):
        own = [p for p in positions if p["wallet_id"] == w["id"]]
        held = [f"{p['quantity'].normalize():f} {p['symbol']}" for p in own]
        decided = f"{w['last_decision']:%Y-%m-%d %H:%M}" if w["last_decision"] else "never"
        today = w["equity"] - w["day_start"]
        console.print(
            f"[bold]{w['name']}[/]: {w['mode']} wallet on {escape(w['venue'])}, steered by track {w['track']}"
        )
        for line in (
            f"  equity {w['equity']:,.2f} {w['quote']} ({today:+,.2f} today), cash {w['cash']:,.2f}",
            f"  holds {', '.join(held) or 'nothing'}",
            *(f"  {line}" for line in position_lines(database, w["id"], own)),
            f"  last decision {decided}; {states[w['name']]}",
            *(live_lines(database, w, now) if w["mode"] == "live" else ()),
            *(f"  {line}" for line in place_lines(database, w["id"], now)),
        ):
            _print_plain(console, line)


def wallet_states(database: Database, settings: Settings, now: datetime) -> dict[str, str]:
    """What each wallet may do, and why not more: its operator's commands, KILL files and emergency stops."""
    rows = database.fetch(load_queries("operator")["wallet_stops"], {"now": now})
    return {row["name"]: wallet_state(settings.home_path, row) for row in rows}


def live_lines(database: Database, wallet: Row, now: datetime) -> list[str]:
    """How ledger and account agree, and what is under way at the venue."""
    row = database.fetch_one(load_queries("cli")["live_wallet"], {"wallet_id": wallet["id"]})
    assert row is not None
    if row["recorded_at"] is None:
        return ["  its account was never reconciled: is the sender running?"]
    found = f"  reconciled {age(now, row['recorded_at'])}: matched {row['matched']}, unmatched {row['unmatched']}"
    held = f"; not managed: {row['unmanaged']}" if row["unmanaged"] else ""
    return [f"{found}; {row['stops']} stops rest, {row['undecided']} orders of unknown fate{held}"]


def _print_plain(console: Console, line: str) -> None:
    """What people and venues wrote, with its brackets and colons as they wrote them."""
    console.print(line, markup=False, emoji=False)


def jobs_table(database: Database, settings: Settings, now: datetime) -> Table:
    table = Table(title="Jobs (UTC)", title_justify="left")
    for column in ("job", "last run", "status", "next"):
        table.add_column(column, no_wrap=column != "status")
    planned: dict[str, datetime] = {}
    services = {job.module.rpartition(".")[2] for job in settings.schedule.values() if job.service}
    for job in settings.schedule.values():
        name, at = job.module.rpartition(".")[2], next_run(job, now)
        if at is not None:
            planned[name] = min(at, planned.get(name, at))
    runs = {run["job"]: run for run in database.fetch(load_queries("cli")["last_runs"])}
    for name in sorted(runs.keys() | planned.keys()):
        run, at = runs.get(name), planned.get(name)
        last = age(now, run["started_at"] if run else None)
        following = "always on" if name in services else f"{at:%H:%M}" if at else "by hand"
        table.add_row(name, last, Text(_run_status(run)), following)
    return table


def _run_status(run: Row | None) -> str:
    if run is None:
        return "–"
    replayed = abs(run["started_at"] - run["clock_at"]) > REPLAYED
    status = f"{run['status']}, as of {run['clock_at']:%Y-%m-%d %H:%M}" if replayed else run["status"]
    return f"{status}: {run['error'][:120]}" if run["error"] else status


def data_table(database: Database, now: datetime) -> Table:
    table = Table(title="Candles", title_justify="left")
    for column in ("venue", "symbol", "candle", "newest close", "age", "provenance"):
        table.add_column(column)
    for row in database.fetch(load_queries("cli")["data_age"]):
        newest = row["newest"]
        provenance = row["provenance"].upper() if row["provenance"] == "simulated" else row["provenance"]
        shown = f"{newest:%Y-%m-%d %H:%M}" if newest else "none"
        table.add_row(row["venue"], row["symbol"], f"{row['timeframe_s']} s", shown, age(now, newest), provenance)
    return table


def venue_lines(database: Database, now: datetime) -> list[str]:
    found = []
    for check in database.fetch(load_queries("cli")["last_venue_checks"]):
        skew = check["clock_skew_s"]
        clock = "" if skew is None else f", our clock {abs(skew):.1f} s {'ahead' if skew > 0 else 'behind'}"
        found.append(f"{check['venue']}: {check['status'].replace('_', ' ')}{clock} ({age(now, check['recorded_at'])})")
    return found


def blockers(database: Database, settings: Settings, now: datetime) -> list[str]:
    """Each reason, in words, for which no new position would be opened at this moment."""
    queries = load_queries("cli")
    wallets = database.fetch(queries["wallet_overview"], {"now": now})
    found = [] if wallets else ["there is no wallet: `make demo` or `make wallet WALLET=… CAPITAL=…`"]
    newest = {(r["venue"], r["symbol"]): r["newest"] for r in database.fetch(queries["data_age"])}
    stale = timedelta(seconds=settings.execution.stale_after_s)
    kinds = {m["kind"] for m in database.fetch(queries["active_models"])}
    if wallets and "policy" not in kinds:
        found.append("no active policy model: the baseline trades; `make train-encoder`, then `make train-policy`")
    states = wallet_states(database, settings, now)
    for wallet in wallets:
        if states[wallet["name"]] != "trades":
            found.append(f"{wallet['name']}: {states[wallet['name']]}; `make resume WALLET={wallet['name']} REASON=…`")
        if wallet["mode"] == "live":
            found += live_blockers(database, wallet)
        found += silence(database, wallet, now)
        for symbol in wallet["symbols"]:
            at = newest.get((wallet["venue"], symbol))
            if at is None or now - at > stale:
                found.append(f"{wallet['name']}: candles of {symbol} on {wallet['venue']} are from {age(now, at)}")
    for decision in database.fetch(queries["last_decisions"]):
        found += [f"last decision on {decision['symbol']}: {c['rule']}: {c['because']}" for c in decision["clamps"]]
    return found


def live_blockers(database: Database, wallet: Row) -> list[str]:
    """What else keeps a live wallet's orders away: nobody let it live, or its account does not match its ledger."""
    name, row = wallet["name"], database.fetch_one(load_queries("cli")["live_wallet"], {"wallet_id": wallet["id"]})
    assert row is not None
    let = [] if wallet["granted"] else [
        f"{name}: not let live: nothing is sent; `LIVE_CONFIRM={name} make go-live WALLET={name}`"
    ]  # fmt: skip
    differs = [f"{name}: ledger and account do not match: no entries; `make reconcile`"] if row["unmatched"] else []
    return [*let, *differs]


def show(database: Database, settings: Settings, now: datetime, console: Console) -> None:
    queries = load_queries("cli")
    print_wallets(database, settings, now, console)
    console.print(jobs_table(database, settings, now), data_table(database, now))
    for line in venue_lines(database, now):
        _print_plain(console, line)
    if (steering := steering_table(database, now)) is not None:
        console.print(steering)
    for line in llm_lines(database, settings, now):
        _print_plain(console, line)
    models = database.fetch(queries["active_models"])
    for m in models:
        console.print(f"{m['kind']} model {m['id']} ({m['provenance']}), known from {m['known_from']:%Y-%m-%d %H:%M}")
        if m["kind"] == "policy":
            _print_plain(console, f"  {promotion_line(database, m['id'])}")
    console.print("[bold]What blocks or limits trading[/]")
    for reason in blockers(database, settings, now) or ["nothing"]:
        console.print(f"  • {reason}", highlight=False, markup=False, emoji=False)
    alerts = database.fetch(queries["recent_alerts"], {"since": now - ALERT_WINDOW})
    if alerts:
        console.print("[bold]Alerts of the last 7 days[/]")
    for alert in alerts:
        told = f"{alert['severity']} {alert['layer']}: {alert['message']}"
        _print_plain(console, f"  {alert['recorded_at']:%m-%d %H:%M} {told}")


def main(argv: list[str] | None = None) -> int:
    argparse.ArgumentParser(description="Wallets, jobs, data, and what blocks trading.").parse_args(argv)
    try:
        settings = load_settings()
        database = open_database(settings, "cli")
    except SettingsError as error:
        print(error, file=sys.stderr)
        return 2
    except SextantError as error:
        print(error, file=sys.stderr)
        return 1
    show(database, settings, open_clock(settings.clock_url).now(), Console())
    database.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
