"""The steering, for `make status`: what each track says, and what the language model costs and has earned."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from rich.table import Table

from meta_controller.llm import endpoint_of
from meta_controller.llm_record import spending
from meta_controller.trust_rows import newest_trust
from shared.db import Database, load_queries
from shared.settings import Settings


def steering_table(database: Database, now: datetime) -> Table | None:
    """The newest steering of each track; None where nobody has steered yet."""
    rows = database.fetch(load_queries("cli")["current_steering"], {"now": now})
    if not rows:
        return None
    table = Table(title="Steering", title_justify="left")
    for column in ("track", "as of", "by", "regime", "exposure", "target", "aversion", "valid"):
        table.add_column(column, no_wrap=True)
    for row in rows:
        valid = "paused" if row["pause"] else "yes" if row["valid_until"] > now else "EXPIRED"
        table.add_row(
            row["track"],
            f"{row['as_of']:%m-%d %H:%M}",
            row["source"],
            row["regime"] or "–",
            f"≤ {row['max_exposure']:.2f}",
            f"{row['target_volatility']:.0%}",
            f"{row['risk_aversion']:.1f}",
            valid,
        )
    return table


def silence(database: Database, wallet: Mapping[str, Any], now: datetime) -> list[str]:
    """That nobody steers a wallet's track any more, if so."""
    rows = database.fetch(load_queries("cli")["current_steering"], {"now": now})
    mine = next((row for row in rows if row["track"] == wallet["track"]), None)
    if mine is not None and mine["valid_until"] > now:
        return []
    since = "nobody has ever steered" if mine is None else f"the last word is of {mine['as_of']:%Y-%m-%d %H:%M}, on"
    return [
        f"{wallet['name']}: {since} track {wallet['track']}: half exposure, after a day no entries; `make run-meta`"
    ]


def llm_lines(database: Database, settings: Settings, now: datetime) -> list[str]:
    """Whether a language model is asked, what it has cost, and its weight in the live steering."""
    llm, endpoint = settings.llm, endpoint_of(settings)
    if llm.mode == "off" or endpoint is None:
        return []
    spent, trust = spending(database, now), newest_trust(database, now, now, llm.model, llm.prompt)
    earned = f"has earned a weight of {trust.weight:.2f} ({trust.as_of:%Y-%m-%d})" if trust else "is not assessed yet"
    caps = {
        "an hour": (spent.hour, llm.usd_an_hour),
        "a day": (spent.day, llm.usd_a_day),
        "30 days": (spent.month, llm.usd_a_month),
    }
    return [
        f"LLM {llm.model} at {endpoint.host}, mode {llm.mode}: {earned}; {_last_call(database, now)}",
        "  spent " + ", ".join(f"{cost:.4f} of {cap:g} USD in {span}" for span, (cost, cap) in caps.items()),
    ]


def _last_call(database: Database, now: datetime) -> str:
    last = database.fetch_one(load_queries("cli")["last_llm_call"], {"now": now})
    if last is None:
        return "never asked"
    error = f": {last['error'][:120]}" if last["error"] else ""
    return f"call {last['id']} of {last['as_of']:%m-%d %H:%M} {last['status']}{error}"
