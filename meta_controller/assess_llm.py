"""The daily look at the LLM: how good were its calls, is its paper book ahead, how much of the steering has it earned?

    python -m meta_controller.assess_llm [--at TIME]

Input: regime_calls, regime_outcomes, llm_calls, the decisions of paper wallets on tracks llm and rules. Output:
llm_trust, outcomes of memory_logs, alerts. Speaks about what was known at the last midnight (UTC), so that it says the
same at whatever hour it runs. Another model or another prompt starts over at zero.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np

from meta_controller.controller import HORIZONS_S
from meta_controller.llm_memory import settle_memories
from meta_controller.trust import DAY_S, Scored, gather, weight
from shared.alerts import raise_alert
from shared.clock import Clock, floor_time, open_clock, to_unix
from shared.db import Database, load_queries
from shared.job import Context, Outcome, job, job_parser, run_job_command
from shared.performance import paired_difference
from shared.performance.bootstrap import LEAST_DAYS
from shared.rows import FloatArray
from shared.settings import Settings

Key = dict[str, Any]  # as_of, model, prompt


@dataclass(frozen=True, slots=True)
class Before:
    """The assessment before: the weight it left, and since when (Unix seconds) that is above 0."""

    weight: float
    promoted: int | None


@job("assess_llm")
def run_once(clock: Clock, database: Database, settings: Settings, recorder: Clock | None = None) -> Outcome:
    """Settles memories, then writes the day's assessment of the configured model and prompt, and an alert where its
    weight rose or fell by what was found. ``recorder``: when that is recorded, where ``clock`` tells a past moment;
    no prompt that was built since may find it when it is built again."""
    now, queries = clock.now(), load_queries("trust")
    recorded_at = now if recorder is None else recorder.now()
    settled = settle_memories(database, recorded_at)
    key: Key = {"as_of": floor_time(now, DAY_S), "model": settings.llm.model, "prompt": settings.llm.prompt}
    name = f"{key['model']} with {key['prompt']}"
    if (was := database.fetch_one(queries["was_assessed"], key)) is not None:
        reason = f"{name} was assessed for {key['as_of'].date()}: {was['verdict']}"
        return Outcome("done" if settled else "nothing", {"memories_settled": settled, "reason": reason})
    asked = database.fetch_one(queries["was_ever_asked"], key)
    if asked is None or asked["first"] is None:
        reason = f"{name} has made no call that counts: there is nothing to assess"
        return Outcome("done" if settled else "nothing", {"memories_settled": settled, "reason": reason})
    before = read_before(database, key)
    evidence = gather(read_scored(database, key), to_unix(key["as_of"]), before.promoted, book_ahead(database, key))
    new, verdict = weight(before.weight, evidence, settings.llm.mode)
    measured = {column: getattr(evidence, column) for column in ("calls", "days", "e_better", "e_worse", "p_book")}
    found = measured | {"temperature": evidence.temperature, "weight": new, "verdict": verdict}
    with database.transaction():
        database.execute(queries["insert_trust"], key | found | {"recorded_at": recorded_at})
        if settings.llm.mode in ("trusted", "full"):
            _alert(database, now, name, before.weight, new, verdict)
    return Outcome("done", {"memories_settled": settled, **found})


def read_before(database: Database, key: Key) -> Before:
    """What the day before left to this model and prompt; nothing, where another one was assessed last."""
    row = database.fetch_one(load_queries("trust")["trust_before"], key)
    if row is None or (row["model"], row["prompt"]) != (key["model"], key["prompt"]):
        return Before(0.0, None)
    return Before(row["weight"], None if row["promoted"] is None else to_unix(row["promoted"]))


def read_scored(database: Database, key: Key) -> list[Scored]:
    """The counted calls that were settled by ``as_of``, for each horizon."""
    rows = database.fetch(load_queries("trust")["counted_calls"], key)
    return [_scored(horizon, [row for row in rows if row["horizon_s"] == horizon]) for horizon in HORIZONS_S]


def _scored(horizon_s: int, rows: list[dict[str, Any]]) -> Scored:
    def calls(who: str) -> FloatArray:
        return np.array([row[who] for row in rows], np.float64).reshape(-1, 2, 3)

    as_of = np.array([row["as_of"] for row in rows], np.int64)
    happened = np.array([(row["trend"], row["volatility"]) for row in rows], np.int64).reshape(-1, 2)
    return Scored(horizon_s, as_of, calls("llm"), calls("pool"), happened)


def book_ahead(database: Database, key: Key) -> float | None:
    """P(the Sharpe ratio of the paper book on track llm is above that of the one on rules), by block bootstrap; None
    for fewer than 60 common days under this model and prompt.

    Wallets are compared that trade the same on the same terms; of several such pairs, the one with most days.
    """
    queries = load_queries("trust")
    since = database.fetch_one(queries["steered_since"], key)
    if since is None or since["since"] is None:
        return None
    pairs = database.fetch(queries["paired_books"])
    series = [paired_returns(database, key["as_of"], since["since"], pair["llm"], pair["rules"]) for pair in pairs]
    longest = max(series, key=lambda pair: len(pair[0]), default=None)
    if longest is None or len(longest[0]) < LEAST_DAYS:
        return None
    return paired_difference(longest[0], longest[1]).p_above_0


def paired_returns(
    database: Database, as_of: datetime, since: datetime, llm: int, rules: int
) -> tuple[FloatArray, FloatArray]:
    """Daily returns of two wallets, [days] each, of the days on which both were seen at the end and at the end of the
    day before; without days on which money came or went other than by trading."""
    params = {"llm": llm, "rules": rules, "since": since, "as_of": as_of}
    rows = database.fetch(load_queries("trust")["paired_equity"], params)
    day = np.array([row["day"] for row in rows], np.int64)
    flowed = np.array([row["flowed"] for row in rows], np.bool_)
    equity = np.array([(row["llm"], row["rules"]) for row in rows], np.float64).reshape(-1, 2)
    whole = (np.diff(day) == DAY_S) & ~flowed[1:]
    returns = (equity[1:] / equity[:-1] - 1.0)[whole]
    return returns[:, 0], returns[:, 1]


def _alert(database: Database, now: datetime, name: str, before: float, new: float, verdict: str) -> None:
    if new > before:
        raise_alert(database, now, "info", f"llm-promoted:{name}", f"{name}: {verdict}")
    elif new < before:
        raise_alert(database, now, "warning", f"llm-demoted:{name}", f"{name}: {verdict}")


def _work(context: Context) -> Outcome:
    recorder = open_clock(context.settings.clock_url) if context.arguments.at else None
    return run_once(context.clock, context.database, context.settings, recorder)


def main(argv: list[str] | None = None) -> int:
    parser = job_parser("Scores the LLM's calls against the pool's and says how much of the steering it has earned.")
    return run_job_command("meta_controller", parser, _work, argv)


if __name__ == "__main__":
    sys.exit(main())
