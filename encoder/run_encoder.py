"""Embeds each closed candle's window with the active encoder.

Input: market_data, models. Output: embeddings. ``python -m encoder.run_encoder [--at] [--from --to]``

Each window is laid out, measured and run alone, so that a batch pass writes the bits that hourly runs write.
"""

from __future__ import annotations

import sys
from datetime import datetime, timedelta
from typing import Any

from encoder.schema import encoder_schema
from shared.alerts import raise_alert
from shared.clock import Clock, from_unix, to_unix
from shared.db import Database, load_queries
from shared.embeddings import vector_text
from shared.features import WINDOW, window_features
from shared.job import Context, JobError, Outcome, UsageError, job, job_parser, run_job_command
from shared.market_data import UnknownInstrument, find_instruments, read_candles
from shared.model_store import Model, ModelRefused, active_model
from shared.settings import Settings

CATCH_UP = timedelta(hours=48)  # how far back a first run goes; --from/--to goes farther

Row = dict[str, Any]


@job("run_encoder")
def run_once(
    clock: Clock, database: Database, settings: Settings, span: tuple[datetime, datetime] | None = None
) -> Outcome:
    """Embeds every close since the newest embedding, or every close in ``span``, as far as now."""
    now = clock.now()
    timeframe_s = settings.universe.decision_timeframe_s
    if span is not None:
        _check_span(span, now)
    model = _load_encoder(database, timeframe_s)
    if model is None:
        because = "no encoder is active; run `make train-encoder`"
        raise_alert(database, now, "warning", "no-encoder", because)
        return Outcome("nothing", {"because": because})
    newest = {} if span else _newest(database, model, timeframe_s, now)
    rows: list[Row] = []
    with_gaps: dict[str, int] = {}
    missing: list[str] = []
    for symbol in settings.universe.symbols:
        try:
            (instrument,) = find_instruments(database, settings.universe.venue, [symbol])
        except UnknownInstrument as error:
            missing.append(str(error))
            continue
        first, last = span or (newest.get(instrument.id, now - CATCH_UP) + timedelta(seconds=1), now)
        embedded, with_gaps[symbol] = _embed(database, model, instrument.id, timeframe_s, first, last)
        rows += [row | {"recorded_at": now} for row in embedded]
    with database.transaction():
        written = database.execute_many(load_queries("encoder")["insert_embedding"], rows)
    result: dict[str, Any] = {"model_id": model.id, "embedded": written, "windows_with_gaps": with_gaps}
    return Outcome("done" if written else "nothing", result | ({"warnings": missing} if missing else {}))


def _check_span(span: tuple[datetime, datetime], now: datetime) -> None:
    first, last = span
    if last > now:
        raise UsageError(f"--to {last.isoformat()} is in the future: it is {now.isoformat()}")
    if first > last:
        raise UsageError(f"--from {first.isoformat()} is after --to {last.isoformat()}")


def _load_encoder(database: Database, timeframe_s: int) -> Model | None:
    try:
        return active_model(database, "encoder", encoder_schema(timeframe_s))
    except ModelRefused as error:
        raise JobError(str(error)) from error


def _newest(database: Database, model: Model, timeframe_s: int, now: datetime) -> dict[int, datetime]:
    """The newest embedded close of each instrument, as known at ``now``."""
    query = load_queries("encoder")["newest_embeddings"]
    rows = database.fetch(query, {"model_id": model.id, "timeframe_s": timeframe_s, "until": now})
    return {row["instrument_id"]: row["as_of"] for row in rows}


def _embed(
    database: Database, model: Model, instrument_id: int, timeframe_s: int, first: datetime, last: datetime
) -> tuple[list[Row], int]:
    """A row for each stored close in [first, last], and how many closes had too many gaps for one."""
    before = to_unix(first) - WINDOW * timeframe_s  # a window's first candle closes later than this
    candles = read_candles(database, instrument_id, timeframe_s, before, to_unix(last))
    closes = candles.as_of[candles.as_of >= first.timestamp()].tolist()
    rows: list[Row] = []
    for as_of in closes:
        window = window_features(candles, as_of, timeframe_s)
        if window is None:
            continue
        embedding, ood = model.run({"window": window[None]})
        at = from_unix(as_of)
        row: Row = {"model_id": model.id, "instrument_id": instrument_id, "timeframe_s": timeframe_s, "as_of": at}
        row |= {"embedding": vector_text(embedding[0]), "ood": float(ood[0]), "known_from": max(at, model.known_from)}
        rows.append(row)
    return rows, len(closes) - len(rows)


def main(argv: list[str] | None = None) -> int:
    parser = job_parser("Embeds each closed candle's window with the active encoder.", span=True)
    return run_job_command("encoder", parser, _work, argv)


def _work(context: Context) -> Outcome:
    first, last = context.arguments.span_from, context.arguments.span_to
    if first is None and last is None:
        return run_once(context.clock, context.database, context.settings)
    if first is None:
        raise UsageError("--to needs --from: which closes shall be embedded?")
    return run_once(context.clock, context.database, context.settings, (first, last or context.clock.now()))


if __name__ == "__main__":
    sys.exit(main())
