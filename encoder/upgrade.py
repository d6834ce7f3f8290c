"""Switches to a new encoder without a gap: dual write, back-fill, compare, switch, retire.

Input: models, market_data, embeddings. Output: embeddings, models.status. ``python -m encoder.upgrade [--to MODEL]``

Each step can be killed and done again: the shadow is found by its status, the back-fill writes what is missing,
the switch is one transaction. Until then the old encoder is the active one. Nothing is deleted but an index. The new
one's index comes last: while it is built (65,000 rows: 22 to 40 s) run_encoder waits.
"""

from __future__ import annotations

import math
import sys
from datetime import datetime, timedelta
from typing import Any

from psycopg.errors import LockNotAvailable

from encoder.comparison import LOOK_BACK, SCORED, Comparison, compare
from encoder.dataset import LABEL_HORIZON_S
from encoder.outcomes import read_seen
from encoder.run_encoder import embed_missing
from shared.clock import Clock
from shared.db import Database, load_queries
from shared.job import Context, JobError, Outcome, UsageError, job, job_parser, run_job_command
from shared.model_store import ModelRefused
from shared.settings import Settings

WORSE = 0.05  # of R²: more, and not by chance, and the new one is clearly worse
BY_CHANCE = 0.05  # p-value
JUDGED_AFTER = SCORED + timedelta(seconds=LABEL_HORIZON_S)  # both were known
DAY = timedelta(days=1)
Version = dict[str, Any]  # a row of the query encoder_versions


@job("encoder_upgrade")
def run_once(
    clock: Clock, database: Database, settings: Settings, to: int | None = None, force: bool = False
) -> Outcome:
    """Makes ``to`` the active encoder, or one that is newer than it: the shadow in progress, or the newest candidate.

    One that nothing can be said about yet stays the shadow (status "nothing"). JobError when it is clearly worse,
    ModelRefused when it does not fit: then it is retired. The active one stays. ``force``: without a judgement.
    """
    outcome = _upgrade(database, settings.universe.decision_timeframe_s, clock.now(), to, force)
    warnings = settle_indexes(database)
    return Outcome(outcome.status, outcome.result | ({"warnings": warnings} if warnings else {}))


def _upgrade(database: Database, timeframe_s: int, now: datetime, to: int | None, force: bool) -> Outcome:
    versions = database.fetch(load_queries("encoder")["encoder_versions"])
    active = next((version for version in versions if version["status"] == "active"), None)
    if active is None:
        raise JobError("no encoder is active, so there is none to follow; `make train-encoder` makes the first one")
    target = _choose(versions, active, to)
    if target is None:
        return Outcome("nothing", {"active": active["id"], "because": _why_none(versions, active)})
    since = _embedded_since(database, active)
    _begin_dual_write(database, versions, target)
    try:
        written = _back_fill(database, target, timeframe_s, min(since, now), now)
    except ModelRefused:
        _change(database, target["id"], "shadow", "retired")
        raise
    comparison = _compare(database, active, target, timeframe_s, now)
    told = {"embedded": written} | {name: getattr(comparison, name) for name in Comparison.__slots__}
    if not force:
        unknown = _cannot_tell(active, target, comparison, now)
        if unknown is not None:
            return Outcome("nothing", {"active": active["id"], "shadow": target["id"], **told, "because": unknown})
        _refuse_worse(database, active, target, comparison)
    switch(database, active["id"], target["id"])
    return Outcome("done", {"active": target["id"], "retired": active["id"], **told, **_policy_of(database, target)})


def _choose(versions: list[Version], active: Version, to: int | None) -> Version | None:
    """The encoder to switch to; without ``to`` never one whose training ends no later than the active one's."""
    if to is not None:
        found = next((version for version in versions if version["id"] == to), None)
        if found is None:
            known = ", ".join(f"{version['id']} ({version['status']})" for version in versions)
            raise UsageError(f"--to {to}: there is no such encoder; there are {known}")
        return None if found is active else found
    waiting = [version for version in _waiting(versions) if version["trained_to"] > active["trained_to"]]
    return max(waiting, key=lambda v: (v["status"] == "shadow", v["trained_to"], v["id"]), default=None)


def _waiting(versions: list[Version]) -> list[Version]:
    return [version for version in versions if version["status"] in ("shadow", "candidate")]


def _why_none(versions: list[Version], active: Version) -> str:
    because = f"encoder {active['id']} is active and no newer one waits; `make train-encoder` trains one"
    older = ", ".join(f"{version['id']} ({version['status']})" for version in _waiting(versions))
    return because + (f". Trained until no later than it: {older}; to take one of them, TO_MODEL=…" if older else "")


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


def _embedded_since(database: Database, active: Version) -> datetime:
    span = database.fetch_one(load_queries("encoder")["embedded_span"], {"model_id": active["id"]})
    if span is None or span["first"] is None:
        raise JobError(
            f"the active encoder {active['id']} has no embeddings to compare with: run `make run-encoder` first"
        )
    first: datetime = span["first"]
    return first


def _back_fill(database: Database, target: Version, timeframe_s: int, since: datetime, now: datetime) -> int:
    """Embeds as far back as the active one goes; the number of rows written."""
    return embed_missing(database, target["id"], timeframe_s, now, (since, now)).embedded


def _compare(database: Database, active: Version, target: Version, timeframe_s: int, now: datetime) -> Comparison:
    old, new = (read_seen(database, version["id"], timeframe_s, now - LOOK_BACK, now) for version in (active, target))
    return compare(old, new, max(active["known_from"], target["known_from"]), timeframe_s)


def _cannot_tell(active: Version, target: Version, comparison: Comparison, now: datetime) -> str | None:
    """Why it is not known yet whether the target is worse, and what to do; None when it is known."""
    if not comparison.in_sample and comparison.p_worse is not None:
        return None
    known = max(active["known_from"], target["known_from"])
    stays = f"encoder {target['id']} stays the shadow, which run_encoder writes beside the active {active['id']}"
    wait = math.ceil((known + JUDGED_AFTER - now) / DAY)
    if wait > 0:
        return (
            f"there is no fair comparison yet: {SCORED.days} days after {known:%Y-%m-%d %H:%M}, when both were known, "
            f"and what followed them are needed; earlier moments flatter who was trained on them. {stays}: run `make "
            f"encoder-upgrade` again in {wait} day{'s' if wait > 1 else ''}, or switch now with FORCE=1"
        )
    return (
        f"there is no fair comparison: both have {comparison.moments} moments in common, too few of them around "
        f"{known:%Y-%m-%d %H:%M}, when both were known. {stays}: embed a longer span (make run-encoder FROM=…) and run "
        "`make encoder-upgrade` again, or switch now with FORCE=1"
    )


def _refuse_worse(database: Database, active: Version, target: Version, comparison: Comparison) -> None:
    assert comparison.r2_old is not None
    assert comparison.r2_new is not None
    assert comparison.p_worse is not None
    lost = max(comparison.r2_old, 0.0) - max(comparison.r2_new, 0.0)  # below 0 both know nothing
    if lost > WORSE and comparison.p_worse < BY_CHANCE:
        _change(database, target["id"], "shadow", "retired")
        raise JobError(
            f"encoder {target['id']} is clearly worse than {active['id']}: R² {comparison.r2_new:.3f} against "
            f"{comparison.r2_old:.3f} of ln volatility 24 h (p {comparison.p_worse:.3f}). It is retired, "
            f"{active['id']} stays active. Train another one, or switch with TO_MODEL={target['id']} FORCE=1"
        )


def switch(database: Database, old: int, new: int) -> None:
    """Retires ``old`` and activates ``new``: both or neither."""
    with database.transaction():
        _change(database, old, "active", "retired")
        _change(database, new, "shadow", "active")


def settle_indexes(database: Database) -> list[str]:
    """The active encoder has its index for browsing, a retired one has none any more; a warning for what had to wait
    too long for its turn at the table."""
    warnings = []
    for name in ("drop_analog_indexes_of_retired", "build_analog_index_of_active"):
        try:
            database.execute(load_queries("encoder")[name])
        except LockNotAvailable:
            work = name.replace("_", " ")
            warnings.append(f"embeddings are in use: {work} was put off; run `make encoder-upgrade` again for it")
    return warnings


def _policy_of(database: Database, target: Version) -> dict[str, str]:
    policy = database.fetch_one(load_queries("encoder")["policy_encoder"])
    if policy is None or policy["encoder_id"] == target["id"]:
        return {}
    return {
        "policy": f"policy {policy['policy_id']} goes on with encoder {policy['encoder_id']}, which run_encoder keeps "
        "writing, until `make train-policy`"
    }


def _print(result: dict[str, Any]) -> None:
    """The comparison as a table, for who typed the command."""
    from rich.console import Console
    from rich.table import Table

    def number(value: float | None) -> str:
        return "too few moments" if value is None else f"{value:.3f}"

    old, new = result.get("retired", result["active"]), result.get("shadow", result["active"])
    table = Table(title=f"encoder {old} → {new}", title_justify="left")
    table.add_column("on the same moments")
    table.add_column(f"{old} (old)", justify="right")
    table.add_column(f"{new} (new)", justify="right")
    how = "in-sample: no verdict" if result["in_sample"] else "out of sample"
    table.add_row(f"R² of ln volatility 24 h ({how})", number(result["r2_old"]), number(result["r2_new"]))
    table.add_row("p-value of the new one being worse", "", number(result["p_worse"]))
    table.add_row("neighbours in common, of 50", "", number(result["overlap"]))
    table.add_row("the same by chance", "", number(result["overlap_by_chance"]))
    console = Console(stderr=True)
    console.print(table)
    console.print(f"{result['moments']:,} moments, {result['scored']:,} scored; {result['embedded']:,} embedded now")
    for said in ("because", "policy"):
        if said in result:
            console.print(result[said], highlight=False)


def main(argv: list[str] | None = None) -> int:
    parser = job_parser("Switches to a new encoder: dual write, back-fill, compare, switch, retire.")
    parser.add_argument("--to", type=int, metavar="MODEL", help="this encoder, also a retired one: the way back")
    parser.add_argument("--force", action="store_true", help="even if it is clearly worse, or nobody can tell yet")
    return run_job_command("encoder", parser, _work, argv)


def _work(context: Context) -> Outcome:
    arguments = context.arguments
    outcome = run_once(context.clock, context.database, context.settings, arguments.to, arguments.force)
    if "moments" in outcome.result:
        _print(outcome.result)
    return outcome


if __name__ == "__main__":
    sys.exit(main())
