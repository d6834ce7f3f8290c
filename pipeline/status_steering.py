"""The steering, for `make status`: what each track says, and what the language model costs and has earned."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from textwrap import shorten
from typing import Any

from rich.table import Table

from meta_controller.llm import endpoint_of
from meta_controller.llm_record import spending
from meta_controller.trust_rows import newest_trust
from shared.db import Database, load_queries
from shared.settings import Settings, SettingsError

LABELS = ("as of", "by", "regime", "exposure", "target volatility", "risk aversion", "valid")
A_YEAR = timedelta(days=300)  # from here on a date without its year misleads
LONGEST_ERROR = 200


def steering_table(database: Database, now: datetime) -> Table | None:
    """The newest steering of each track, a column each; None where nobody has steered yet."""
    rows = database.fetch(load_queries("cli")["current_steering"], {"now": now})
    if not rows:
        return None
    table = Table(title="Steering", title_justify="left")
    for column in ("track", *(row["track"] for row in rows)):
        table.add_column(column, no_wrap=True)
    for told in zip(LABELS, *(_told(row, now) for row in rows), strict=True):
        table.add_row(*told)
    return table


def _told(row: Mapping[str, Any], now: datetime) -> list[str]:
    """In the order of LABELS."""
    return [
        _moment(row["as_of"], now),
        row["source"],
        row["regime"] or "–",
        f"≤ {row['max_exposure']:.2f}",
        f"{row['target_volatility']:.0%}",
        f"{row['risk_aversion']:.1f}",
        "paused" if row["pause"] else "yes" if row["valid_until"] > now else "EXPIRED",
    ]


def _moment(at: datetime, now: datetime) -> str:
    return f"{at:%m-%d %H:%M}" if now - at < A_YEAR else f"{at:%Y-%m-%d}"


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
    llm = settings.llm
    try:
        endpoint = None if llm.mode == "off" else endpoint_of(settings)
    except SettingsError as error:
        return [f"LLM {llm.model}: {error}; until then `make run-meta` fails, and nobody steers"]
    if endpoint is None:
        return []
    unpriced = "" if llm.model in llm.models else f'; NOT ASKED: [llm.models."{llm.model}"] tells no price'
    spent, trust = spending(database, now), newest_trust(database, now, now, llm.model, llm.prompt)
    earned = f"has earned a weight of {trust.weight:.2f} ({trust.as_of:%Y-%m-%d})" if trust else "is not assessed yet"
    caps = {
        "an hour": (spent.hour, llm.usd_an_hour),
        "a day": (spent.day, llm.usd_a_day),
        "30 days": (spent.month, llm.usd_a_month),
    }
    return [
        f"LLM {llm.model} at {endpoint.host}, mode {llm.mode}: {earned}; {_last_call(database, now)}{unpriced}",
        "  spent " + ", ".join(f"{cost:.4f} of {cap:g} USD in {span}" for span, (cost, cap) in caps.items()),
    ]


def _last_call(database: Database, now: datetime) -> str:
    last = database.fetch_one(load_queries("cli")["last_llm_call"], {"now": now})
    if last is None:
        return f"never asked{_unasked(database, now, None)}"
    error = f": {shorten(last['error'], LONGEST_ERROR, placeholder=' …')}" if last["error"] else ""
    told = f"call {last['id']} of {last['as_of']:%m-%d %H:%M} {last['status']}{error}"
    return told + _unasked(database, now, last["as_of"])


def _unasked(database: Database, now: datetime, asked: datetime | None) -> str:
    """That the newest steering of its track is the rules', without a question (over budget, no such prompt), if so."""
    rows = database.fetch(load_queries("cli")["current_steering"], {"now": now})
    mine = next((row for row in rows if row["track"] == "llm" and row["source"] == "rules"), None)
    if mine is None or (asked is not None and asked >= mine["as_of"]):
        return ""
    return f"; not asked about {_moment(mine['as_of'], now)}: `reasons` of policy_config, track llm, say why"
