"""The hourly job: market_data → regime_calls, market_state and policy_config, on all tracks.

    python -m meta_controller.run_metacontroller [--at TIME | --from TIME --to TIME]

The experts call what follows the newest closed bar, the pool makes one call of theirs, the rules turn it into steering.
Where a language model is configured it is asked then; whatever it says or fails to say, every track has its row.
A batch pass makes the rows that hourly runs would have made; a language model is never asked about the past.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from dataclasses import fields
from datetime import datetime
from typing import Any

from psycopg.types.json import Jsonb

from meta_controller.call_rows import call_rows, copy_in, write_fits
from meta_controller.llm import Endpoint, endpoint_of
from meta_controller.market_index import NoCall, ShortHistory
from meta_controller.regime_run import RegimeRun, read_regimes
from meta_controller.steering import Past
from meta_controller.strategist import Consultation, DatabaseRefused, consult
from meta_controller.tracks import TrackRows, llm_rows, rule_rows
from shared.alerts import raise_alert
from shared.clock import Clock, floor_time, from_unix, to_unix
from shared.db import Database, load_queries
from shared.job import Context, JobError, Outcome, UsageError, job, job_parser, run_job_command
from shared.market_data import UnknownInstrument
from shared.rows import MarketState, PolicyConfig
from shared.settings import Settings, SettingsError

log = logging.getLogger("sextant.metacontroller")
Span = tuple[datetime, datetime]


@job("run_metacontroller")
def run_once(
    clock: Clock,
    database: Database,
    settings: Settings,
    span: Span | None = None,
    endpoint: Endpoint | None = None,
) -> Outcome:
    """Calls the newest closed bar, or with ``span`` every close in [from, to]; asks ``endpoint``, if there is one,
    about the newest bar.

    UsageError for a span that reaches into the future; JobError for a universe without candles.
    """
    step_s = settings.universe.decision_timeframe_s
    first, last = _moments(clock.now(), step_s, span)
    try:
        run = read_regimes(database, settings.universe, first, last)
    except UnknownInstrument as error:
        raise JobError(str(error)) from None
    _alert_of_short_history(database, clock, run.skipped)
    past = Past.read(database, from_unix(first), from_unix(last))
    rows = TrackRows()
    for as_of in run.called:
        rule_rows(rows, run, past, as_of, settings.risk, answered_by_rules=endpoint is None or span is not None)
    written = _write(database, run, rows, clock.now())
    if endpoint is not None and span is None and run.called:
        written = _add(written, _ask(clock, database, settings, endpoint, run, past))
    return _outcome(written, len(run.called), run.skipped)


def _moments(now: datetime, step_s: int, span: Span | None) -> tuple[int, int]:
    """The first and the last close to call, in Unix seconds."""
    if span is None:
        newest = to_unix(floor_time(now, step_s))
        return newest, newest
    if span[1] > now:
        raise UsageError(
            f"--to {span[1].isoformat()} has not come yet (now is {now.isoformat()}); choose a past moment"
        )
    if span[0] > span[1]:
        raise UsageError(f"--from {span[0].isoformat()} lies after --to {span[1].isoformat()}; swap them")
    return -(-to_unix(span[0]) // step_s) * step_s, to_unix(floor_time(span[1], step_s))


def _ask(
    clock: Clock, database: Database, settings: Settings, endpoint: Endpoint, run: RegimeRun, past: Past
) -> dict[str, int]:
    """The tracks llm and live of the newest moment: what the rules wrote is committed by now, and stays."""
    as_of = run.called[-1]
    if past.has("llm", from_unix(as_of)) and past.has("live", from_unix(as_of)):
        return {}
    try:
        consultation = consult(clock, database, settings, endpoint, from_unix(as_of), past, run)
    except Exception as error:  # whatever a model's answer can break, the live track keeps its row
        log.exception("asking the LLM failed")
        what = str(error) if isinstance(error, DatabaseRefused) else type(error).__name__  # others may quote the model
        told = f"asking the LLM failed: {what}; the job's log says where"
        raise_alert(database, clock.now(), "warning", "llm-failed", told)
        consultation = Consultation(f"asking failed: {type(error).__name__}")
    if consultation.call_id is None:
        log.warning("the LLM was not asked", extra={"reason": consultation.reason})
    rows = TrackRows()
    llm_rows(rows, run, past, as_of, settings, consultation)
    now = clock.now()
    with database.transaction():
        written = _write_tracks(database, rows, now)
        consultation.keep(database, as_of=from_unix(as_of), now=now)
    return written


def _write(database: Database, run: RegimeRun, rows: TrackRows, now: datetime) -> dict[str, int]:
    """Writes all rows or none; a row that is there already stays as it is. Returns how many are new."""
    calls = [row for name, (as_of, made) in run.new_calls().items() for row in call_rows(name, as_of, made, now)]
    with database.transaction():
        write_fits(database, run.new_fits, run.timeframe_s, now)
        copy_in(database, "copy_calls", calls)
        copy_in(database, "copy_outcomes", [(*row, now) for row in run.new_outcomes])
        return _write_tracks(database, rows, now)


def _write_tracks(database: Database, rows: TrackRows, now: datetime) -> dict[str, int]:
    queries = load_queries("meta_controller")
    states = database.execute_many(queries["insert_market_state"], [_params(row, now) for row in rows.states])
    configs = database.execute_many(queries["insert_policy_config"], [_params(row, now) for row in rows.configs])
    return {"market_state": states, "policy_config": configs}


def _params(row: MarketState | PolicyConfig, now: datetime) -> dict[str, Any]:
    params = {field.name: getattr(row, field.name) for field in fields(row)} | {"recorded_at": now}
    if isinstance(row, PolicyConfig):
        params["strategy_weights"] = Jsonb(row.strategy_weights)
    return params


def _add(one: dict[str, int], other: dict[str, int]) -> dict[str, int]:
    return {name: one.get(name, 0) + other.get(name, 0) for name in one | other}


def _alert_of_short_history(database: Database, clock: Clock, skipped: Sequence[NoCall]) -> None:
    short = [reason for reason in skipped if isinstance(reason, ShortHistory)]
    if short:
        message = f"no regime call and no steering for {len(short)} bars, the last because of {short[-1]}"
        raise_alert(database, clock.now(), "warning", "metacontroller-short-history", message)


def _outcome(written: dict[str, int], called: int, skipped: Sequence[NoCall]) -> Outcome:
    result: dict[str, Any] = {"called": called, "skipped": len(skipped), **written}
    if skipped:
        result["reason"] = str(skipped[-1])
    elif not any(written.values()):
        result["reason"] = "called before" if called else "no bar closes in this span"
    return Outcome("done" if any(written.values()) else "nothing", result)


def _endpoint(context: Context) -> Endpoint | None:
    """The language model, where one is configured and the question is about the present. By an emulator's clock, which
    may run fast, only one on this machine is asked: the caps on cost count hours."""
    if context.arguments.at or context.settings.llm.mode == "off":
        return None
    try:
        endpoint = endpoint_of(context.settings)
    except (
        SettingsError
    ) as error:  # a key copied badly must not cost the steering: the rules go on, and a person is told
        log.error(str(error))
        raise_alert(context.database, context.clock.now(), "warning", "llm-settings", f"the LLM is not asked: {error}")
        return None
    return None if endpoint and context.settings.clock_url and not endpoint.is_local else endpoint


def _work(context: Context) -> Outcome:
    bounds = context.arguments.span_from, context.arguments.span_to
    if (bounds[0] is None) != (bounds[1] is None):
        raise UsageError("--from and --to go together: give both for a batch pass, neither for the newest bar")
    span = None if bounds[0] is None else bounds
    return run_once(context.clock, context.database, context.settings, span, _endpoint(context))


def main(argv: list[str] | None = None) -> int:
    parser = job_parser("Calls the market's regime and writes the steering that follows from it.", span=True)
    return run_job_command("meta_controller", parser, _work, argv)


if __name__ == "__main__":
    sys.exit(main())
