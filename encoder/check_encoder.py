"""The daily look at the active encoder: is it old, has the market drifted away from it, does it still know anything?

Input: models, embeddings, market_data. Output: encoder_checks, alerts, trainings. ``python -m encoder.check_encoder``

Speaks about the day that ended last (UTC), so that it says the same at whatever hour it runs.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import numpy as np

from encoder.comparison import probe_errors
from encoder.outcomes import Seen, read_seen
from shared.alerts import raise_alert
from shared.clock import Clock, floor_time
from shared.db import Database, load_queries
from shared.job import Context, Outcome, job, job_parser, run_job_command
from shared.rows import FloatArray
from shared.settings import Settings

RECENT = timedelta(days=7)
REFERENCE = timedelta(days=120)  # what recent embeddings are held against
FIRST_KNOWN = timedelta(days=30)  # whose errors recent ones are held against
FITTED = timedelta(days=180)
LEAST_RECENT = 84  # embeddings of a week
BINS = 10
DRIFTED_PSI, DRIFTED_SHARE = 0.25, 0.25  # a dimension drifted, if no week of the reference did more; so did the whole
LEAST_WEEKS = 12  # of the reference: of nine, a fifth of clean weeks drifted
UNUSUAL_OOD, UNUSUAL_SHARE = 0.99, 0.1  # of training windows one in a hundred is as unusual
DEGRADED = 1.25  # error of the last week by that of the first month
DAY_S = 86_400


@dataclass(frozen=True, slots=True)
class Findings:
    """A day's measures; None: too few embeddings to tell."""

    stale_days: float
    drift_share: float | None
    psi_max: float | None
    psi_mean: float | None
    ood_share: float | None
    error_ratio: float | None


@job("check_encoder")
def run_once(clock: Clock, database: Database, settings: Settings) -> Outcome:
    """Writes the day's check, an alert for each finding, and asks for a training on drift or degradation."""
    now, queries = clock.now(), load_queries("encoder")
    as_of = floor_time(now, DAY_S)
    active = next((v for v in database.fetch(queries["encoder_versions"]) if v["status"] == "active"), None)
    if active is None:
        return Outcome("nothing", {"because": "no encoder is active; run `make train-encoder`"})
    key = {"model_id": active["id"], "as_of": as_of}
    if database.fetch_one(queries["was_checked"], key) is not None:
        return Outcome("nothing", {"because": f"encoder {active['id']} was checked on {as_of.date()}"})
    findings = measure(database, active, settings.universe.decision_timeframe_s, as_of)
    found = judge(findings, settings.encoder.stale_after_days)
    measured = {name: getattr(findings, name) for name in Findings.__slots__}
    verdict = ", ".join(found) or ("good" if None not in measured.values() else "good, as far as can be told")
    with database.transaction():
        database.execute(queries["insert_check"], key | measured | {"verdict": verdict, "recorded_at": now})
        for name, message in found.items():
            told = f"encoder {active['id']}: {message}"
            raise_alert(database, now, "warning", f"encoder-{name}:{active['id']}", told)
        reasons = {n: m for n, m in found.items() if n in ("drifted", "degraded")}
        asked = _ask(database, now, active["id"], reasons, timedelta(days=settings.encoder.stale_after_days))
    return Outcome("done", {"model_id": active["id"], "verdict": verdict, **measured, "training_asked": asked})


def _ask(database: Database, now: datetime, model_id: int, reasons: dict[str, str], longest_wait: timedelta) -> bool:
    """Asks for a training, unless one is open or a newer encoder waits, no longer than that, to be switched to."""
    if not reasons:
        return False
    params = {
        "reason": f"encoder {model_id}: {'; '.join(reasons.values())}",
        "requested_by": "check_encoder",
        "at": now,
        "longest_wait": longest_wait,
    }
    return bool(database.execute(load_queries("encoder")["request_training"], params))


def judge(findings: Findings, stale_after_days: float) -> dict[str, str]:
    """What is wrong, each with a sentence for the alert."""
    found = {}
    if findings.stale_days > stale_after_days:
        found["stale"] = (
            f"its training ends {findings.stale_days:.0f} days ago, more than {stale_after_days:g}: make train-encoder"
        )
    if findings.drift_share is not None and findings.drift_share > DRIFTED_SHARE:
        found["drifted"] = (
            f"{findings.drift_share:.0%} of its dimensions drifted in the last 7 days (PSI above {DRIFTED_PSI} and "
            f"that of every week of its reference; the highest is {findings.psi_max:.2f})"
        )
    if findings.ood_share is not None and findings.ood_share > UNUSUAL_SHARE:
        found["unusual"] = f"{findings.ood_share:.0%} of the last 7 days are more unusual than 99 % of its training"
    if findings.error_ratio is not None and findings.error_ratio > DEGRADED:
        found["degraded"] = (
            f"its probe's error over the last 7 days is {findings.error_ratio:.2f} times that of its first 30 days"
        )
    return found


def measure(database: Database, model: dict[str, Any], timeframe_s: int, as_of: datetime) -> Findings:
    """The measures of one encoder (a row of the query encoder_versions) for the days that end at ``as_of``."""
    recent = read_seen(database, model["id"], timeframe_s, as_of - RECENT, as_of)
    drift = measure_drift(_reference(database, model, timeframe_s, as_of), recent)
    enough = len(recent) >= LEAST_RECENT
    return Findings(
        stale_days=(as_of - model["trained_to"]) / timedelta(days=1),
        drift_share=None if drift is None else drift.share,
        psi_max=None if drift is None else float(drift.index.max()),
        psi_mean=None if drift is None else float(drift.index.mean()),
        ood_share=float((recent.ood > UNUSUAL_OOD).mean()) if enough else None,
        error_ratio=_error_ratio(database, model, timeframe_s, as_of),
    )


def _reference(database: Database, model: dict[str, Any], timeframe_s: int, as_of: datetime) -> Seen:
    """The last 120 days of its training; where these were not embedded, its first 120 days that were."""
    earliest = model["trained_to"] - REFERENCE
    query = load_queries("encoder")["first_embedding"]
    row = database.fetch_one(query, {"model_id": model["id"], "after": earliest})
    first = max(earliest, row["as_of"] - timedelta(seconds=timeframe_s)) if row and row["as_of"] else earliest
    until = min(first + REFERENCE, as_of - RECENT)
    return read_seen(database, model["id"], timeframe_s, first, max(first, until))


@dataclass(frozen=True, slots=True)
class Drift:
    """``index`` [64]: each dimension's population stability index; ``share``: of the dimensions that drifted."""

    index: FloatArray
    share: float


def measure_drift(reference: Seen, recent: Seen) -> Drift | None:
    """A week's embeddings against those of a longer time, over the instruments that both have; None: too few.

    Windows overlap by days, so a week's embeddings are a handful of independent ones and its index is high on any
    market: above 0.25 in half of the dimensions for the weeks of one and the same two months. So a dimension only
    drifted when its index is above 0.25 and above that of each week of the reference against the others.
    """
    reference = reference.select(np.isin(reference.instrument_id, recent.instrument_id))
    recent = recent.select(np.isin(recent.instrument_id, reference.instrument_id))
    if not len(reference) or len(recent) < LEAST_RECENT:
        return None
    week = (reference.as_of - reference.as_of.min()) // (RECENT // timedelta(seconds=1))
    weeks = [week == k for k in np.unique(week) if np.count_nonzero(week == k) >= LEAST_RECENT]
    if len(weeks) < LEAST_WEEKS:
        return None
    seen = reference.embedding
    usual = np.max([population_stability_index(seen[~own], seen[own]) for own in weeks], axis=0)
    index = population_stability_index(seen, recent.embedding)
    return Drift(index, float((index > np.maximum(usual, DRIFTED_PSI)).mean()))


def population_stability_index(before: FloatArray, after: FloatArray) -> FloatArray:
    """Of each column: Σ (q - p) ln(q / p) over ten bins that hold a tenth of ``before`` each (Siddiqi, Credit Risk
    Scorecards, 2006).

    ``before`` [n, D], ``after`` [m, D]; p and q are their shares. Half a count is added to each bin, so that an
    empty one is no infinity.
    """
    edges = np.quantile(before, np.linspace(0, 1, BINS + 1)[1:-1], axis=0)
    p, q = (
        np.array([_shares(column, values) for column, values in zip(edges.T, of.T, strict=True)])
        for of in (before, after)
    )
    index: FloatArray = ((q - p) * np.log(q / p)).sum(axis=1)
    return index


def _shares(edges: FloatArray, values: FloatArray) -> FloatArray:
    counts = np.bincount(np.searchsorted(edges, values), minlength=BINS) + 0.5
    shares: FloatArray = counts / counts.sum()
    return shares


def _error_ratio(database: Database, model: dict[str, Any], timeframe_s: int, as_of: datetime) -> float | None:
    """Root mean square error of a probe of ln volatility 24 h, fitted on what was known with the model: over the
    last 7 days whose outcome is known, by that over its first 30 days."""
    known_from, last = model["known_from"], as_of - timedelta(days=1) - RECENT
    if last < known_from + FIRST_KNOWN:
        return None
    seen = read_seen(database, model["id"], timeframe_s, known_from - FITTED, as_of)
    errors = probe_errors(seen, known_from)
    if errors is None:
        return None
    first = errors.squared[errors.as_of < (known_from + FIRST_KNOWN).timestamp()]
    recent = errors.squared[errors.as_of > last.timestamp()]
    if len(first) < LEAST_RECENT or len(recent) < LEAST_RECENT:
        return None
    return float(np.sqrt(recent.mean() / max(first.mean(), 1e-12)))


def main(argv: list[str] | None = None) -> int:
    parser = job_parser("The daily look at the active encoder: staleness, drift, lost knowledge.")
    return run_job_command("encoder", parser, _work, argv)


def _work(context: Context) -> Outcome:
    return run_once(context.clock, context.database, context.settings)


if __name__ == "__main__":
    sys.exit(main())
