"""Switches to a new encoder without a gap: dual write, back-fill, compare, switch, retire.

Input: models, market_data, embeddings. Output: embeddings, models.status. ``python -m encoder.upgrade [--to MODEL]``

Each step can be killed and done again: the shadow is found by its status, the back-fill writes what is missing,
the switch is one transaction. Until then the old encoder is the active one. Nothing is deleted but an index.
"""

from __future__ import annotations

import sys
from datetime import datetime
from typing import Any

from encoder.comparison import LOOK_BACK, Comparison, compare
from encoder.outcomes import read_seen
from encoder.run_encoder import embed_missing
from shared.clock import Clock
from shared.db import Database, load_queries
from shared.job import Context, JobError, Outcome, UsageError, job, job_parser, run_job_command
from shared.model_store import ModelRefused
from shared.settings import Settings

WORSE = 0.05  # of R²: more, and not by chance, and the new one is clearly worse
BY_CHANCE = 0.05  # p-value
Version = dict[str, Any]  # a row of the query encoder_versions


@job("encoder_upgrade")
def run_once(
    clock: Clock, database: Database, settings: Settings, to: int | None = None, force: bool = False
) -> Outcome:
    """Makes ``to`` the active encoder, or the shadow in progress, or the newest candidate.

    JobError or ModelRefused when it does not fit or is clearly worse: it is what it was, and the active one stays.
    ``force`` switches to a worse one.
    """
    now, timeframe_s = clock.now(), settings.universe.decision_timeframe_s
    settle_indexes(database)
    versions = database.fetch(load_queries("encoder")["encoder_versions"])
    active = next((version for version in versions if version["status"] == "active"), None)
    if active is None:
        raise JobError("no encoder is active, so there is none to follow; `make train-encoder` makes the first one")
    target = _choose(versions, to)
    if target is None or target["id"] == active["id"]:
        because = f"encoder {active['id']} is active and no other waits; `make train-encoder` trains one"
        return Outcome("nothing", {"active": active["id"], "because": because})
    _begin_dual_write(database, versions, target)
    try:
        written = _back_fill(database, active, target, timeframe_s, now)
        comparison = _compare(database, active, target, timeframe_s, now)
        if not force:
            _refuse_worse(active, target, comparison)
    except (JobError, ModelRefused):
        _change(database, target["id"], "shadow", "retired" if target["status"] == "retired" else "candidate")
        raise
    database.execute(load_queries("encoder")["build_analog_index"], {"model_id": target["id"]})
    switch(database, active["id"], target["id"])
    settle_indexes(database)
    return Outcome("done", _told(database, active, target, written, comparison))


def _choose(versions: list[Version], to: int | None) -> Version | None:
    if to is not None:
        found = next((version for version in versions if version["id"] == to), None)
        if found is None:
            known = ", ".join(f"{version['id']} ({version['status']})" for version in versions)
            raise UsageError(f"--to {to}: there is no such encoder; there are {known}")
        return found
    for status in ("shadow", "candidate"):
        waiting = [version for version in versions if version["status"] == status]
        if waiting:
            return waiting[-1]
    return None


def _begin_dual_write(database: Database, versions: list[Version], target: Version) -> None:
    """From here on run_encoder writes the target beside the active one; another shadow steps back."""
    with database.transaction():
        for version in versions:
            if version["status"] == "shadow" and version["id"] != target["id"]:
                _change(database, version["id"], "shadow", "candidate")
        if target["status"] != "shadow":
            _change(database, target["id"], target["status"], "shadow")


def _change(database: Database, model_id: int, old: str, new: str) -> None:
    """JobError when somebody else has moved it in the meantime."""
    params = {"model_id": model_id, "old": old, "new": new}
    if database.fetch_one(load_queries("encoder")["change_status"], params) is None:
        raise JobError(f"encoder {model_id} is no longer {old}: something else changed it; run the upgrade again")


def _back_fill(database: Database, active: Version, target: Version, timeframe_s: int, now: datetime) -> int:
    """Embeds as far back as the active one goes; the number of rows written."""
    span = database.fetch_one(load_queries("encoder")["embedded_span"], {"model_id": active["id"]})
    if span is None or span["first"] is None:
        raise JobError(
            f"the active encoder {active['id']} has no embeddings to compare with: run `make run-encoder` first"
        )
    return embed_missing(database, target["id"], timeframe_s, now, (min(span["first"], now), now)).embedded


def _compare(database: Database, active: Version, target: Version, timeframe_s: int, now: datetime) -> Comparison:
    old, new = (read_seen(database, version["id"], timeframe_s, now - LOOK_BACK, now) for version in (active, target))
    return compare(old, new, max(active["known_from"], target["known_from"]), timeframe_s)


def _refuse_worse(active: Version, target: Version, comparison: Comparison) -> None:
    if comparison.r2_old is None or comparison.r2_new is None or comparison.p_worse is None:
        raise JobError(
            f"encoder {target['id']} cannot be compared with {active['id']}: both have {comparison.moments} moments in "
            f"common, which is too few; embed a longer span (make run-encoder FROM=…), or switch with --force"
        )
    lost = max(comparison.r2_old, 0.0) - max(comparison.r2_new, 0.0)  # below 0 both know nothing
    if lost > WORSE and comparison.p_worse < BY_CHANCE:
        raise JobError(
            f"encoder {target['id']} is clearly worse than {active['id']}: R² {comparison.r2_new:.3f} against "
            f"{comparison.r2_old:.3f} of ln volatility 24 h (p {comparison.p_worse:.3f}); {active['id']} stays "
            "active. Train another one, or switch with --force"
        )


def switch(database: Database, old: int, new: int) -> None:
    """Retires ``old`` and activates ``new``: both or neither."""
    with database.transaction():
        _change(database, old, "active", "retired")
        _change(database, new, "shadow", "active")


def settle_indexes(database: Database) -> None:
    """The active encoder has its index for browsing, a retired one has none any more."""
    queries = load_queries("encoder")
    database.execute(queries["build_analog_index_of_active"])
    database.execute(queries["drop_analog_indexes_of_retired"])


def _told(database: Database, active: Version, target: Version, written: int, comparison: Comparison) -> dict[str, Any]:
    result: dict[str, Any] = {"active": target["id"], "retired": active["id"], "embedded": written}
    result |= {name: getattr(comparison, name) for name in Comparison.__slots__}
    policy = database.fetch_one(load_queries("encoder")["policy_encoder"])
    if policy is not None and policy["encoder_id"] != target["id"]:
        result["policy"] = (
            f"policy {policy['policy_id']} goes on with encoder {policy['encoder_id']}, which run_encoder keeps "
            "writing, until `make train-policy`"
        )
    return result


def _print(result: dict[str, Any]) -> None:
    """The comparison as a table, for who typed the command."""
    from rich.console import Console
    from rich.table import Table

    def number(value: float | None) -> str:
        return "too few moments" if value is None else f"{value:.3f}"

    table = Table(title=f"encoder {result['retired']} → {result['active']}", title_justify="left")
    table.add_column("on the same moments")
    for version in ("retired", "active"):
        table.add_column(f"{result[version]} ({'old' if version == 'retired' else 'new'})", justify="right")
    how = "in-sample: no verdict" if result["in_sample"] else "out of sample"
    table.add_row(f"R² of ln volatility 24 h ({how})", number(result["r2_old"]), number(result["r2_new"]))
    table.add_row("p-value of the new one being worse", "", number(result["p_worse"]))
    table.add_row("neighbours in common, of 50", "", number(result["overlap"]))
    table.add_row("the same by chance", "", number(result["overlap_by_chance"]))
    console = Console(stderr=True)
    console.print(table)
    console.print(f"{result['moments']:,} moments, {result['scored']:,} scored; {result['embedded']:,} embedded now")
    if "policy" in result:
        console.print(result["policy"])


def main(argv: list[str] | None = None) -> int:
    parser = job_parser("Switches to a new encoder: dual write, back-fill, compare, switch, retire.")
    parser.add_argument("--to", type=int, metavar="MODEL", help="this encoder, also a retired one: the way back")
    parser.add_argument("--force", action="store_true", help="even if it is clearly worse")
    return run_job_command("encoder", parser, _work, argv)


def _work(context: Context) -> Outcome:
    arguments = context.arguments
    outcome = run_once(context.clock, context.database, context.settings, arguments.to, arguments.force)
    if outcome.status == "done":
        _print(outcome.result)
    return outcome


if __name__ == "__main__":
    sys.exit(main())
