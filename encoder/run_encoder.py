"""Embeds each closed candle's window with every encoder in use: active, shadow, and the active policy's own.

Input: market_data, models. Output: embeddings. ``python -m encoder.run_encoder [--at] [--from --to] [--model]``

The new candles of all instruments go through a model together. An embedding's bits depend on its window alone
(encoder/inference.py), so a batch pass writes the bits that hourly runs write. Each block of windows is written
as soon as it is embedded: what a killed back-fill has written stays, and the next one goes on after it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import numpy as np

from encoder.embedding_rows import Moments, embedded_closes, write_embeddings
from encoder.inference import embed
from encoder.schema import encoder_schema
from shared.alerts import Severity, raise_alert
from shared.clock import Clock, to_unix
from shared.db import Database, load_queries
from shared.features import WINDOW, Grid, Windows
from shared.job import Context, JobError, Outcome, UsageError, job, job_parser, run_job_command
from shared.market_data import UnknownInstrument, find_instruments, read_candles
from shared.model_store import Model, ModelRefused, model_by_id
from shared.rows import IntArray
from shared.settings import Settings

CATCH_UP = timedelta(hours=48)  # how far back a first run goes; --from/--to goes farther
BLOCK = 2048  # windows cut at a time: 28 MB
CRITICAL = ("active", "of the policy")  # without these nothing can be traded

Span = tuple[datetime, datetime]


@dataclass(slots=True)
class Written:
    """What one encoder's pass did: rows written, and closes whose windows had too many gaps for one, by series (those
    whose windows would begin before the series does are not counted)."""

    embedded: int = 0
    windows_with_gaps: dict[str, int] = field(default_factory=dict)


@job("run_encoder")
def run_once(
    clock: Clock, database: Database, settings: Settings, span: Span | None = None, model_id: int | None = None
) -> Outcome:
    """Embeds every close since each series' newest embedding, or what is missing in ``span``, as far as now.

    With ``model_id`` by that encoder only, in use or not. An encoder that is refused is an alert, and the rest goes
    on; JobError at the end when it is the active one, the one that the active policy learnt from, or asked for.
    """
    now, timeframe_s = clock.now(), settings.universe.decision_timeframe_s
    if span is not None:
        _check_span(span, now)
    wanted = _wanted(database, model_id)
    if not wanted:
        because = "no encoder is active; run `make train-encoder`"
        raise_alert(database, now, "warning", "no-encoder", because)
        return Outcome("nothing", {"because": because})
    by_model: dict[int, Written] = {}
    refused: dict[int, ModelRefused] = {}
    for encoder_id in wanted:
        try:
            by_model[encoder_id] = embed_missing(database, encoder_id, timeframe_s, now, span)
        except ModelRefused as error:
            refused[encoder_id] = error
            severity: Severity = "critical" if wanted[encoder_id] in CRITICAL else "warning"
            raise_alert(database, now, severity, f"encoder-refused:{encoder_id}", str(error))
    decisive = [error for i, error in refused.items() if wanted[i] in (*CRITICAL, "asked")]
    if decisive:
        raise JobError("; ".join(map(str, decisive))) from decisive[0]
    return _outcome(wanted, by_model, [*map(str, refused.values()), *_missing_symbols(database, settings)])


def _outcome(wanted: dict[int, str], by_model: dict[int, Written], warnings: list[str]) -> Outcome:
    """Counts of the first encoder of ``wanted`` at the top, the active one's where there is one."""
    embedded = {i: written.embedded for i, written in by_model.items()}
    main = next(iter(by_model), None)
    result: dict[str, Any] = {"model_id": main, "embedded": sum(embedded.values())}
    result["windows_with_gaps"] = {} if main is None else by_model[main].windows_with_gaps
    if len(wanted) > 1:
        result["by_model"] = {str(i): count for i, count in embedded.items()}
    return Outcome("done" if result["embedded"] else "nothing", result | ({"warnings": warnings} if warnings else {}))


def _check_span(span: Span, now: datetime) -> None:
    first, last = span
    if last > now:
        raise UsageError(f"--to {last.isoformat()} is in the future: it is {now.isoformat()}")
    if first > last:
        raise UsageError(f"--from {first.isoformat()} is after --to {last.isoformat()}")


def _wanted(database: Database, model_id: int | None) -> dict[int, str]:
    """The encoders to run and what each is used as, the active one first."""
    if model_id is not None:
        return {model_id: "asked"}
    return {row["id"]: row["used_as"] for row in database.fetch(load_queries("encoder")["encoders_in_use"])}


def _missing_symbols(database: Database, settings: Settings) -> list[str]:
    """A warning that names the symbols of the universe that have no candles at all, if there are any."""
    try:
        find_instruments(database, settings.universe.venue, settings.universe.symbols)
    except UnknownInstrument as error:
        return [str(error)]
    return []


def embed_missing(
    database: Database, model_id: int, timeframe_s: int, now: datetime, span: Span | None = None
) -> Written:
    """Embeds and writes what one encoder has not: since each series' newest embedding, or anywhere in ``span``.

    ModelRefused when the encoder does not fit this program or this timeframe, or gives no embeddings.
    """
    model = model_by_id(database, model_id, encoder_schema(timeframe_s))
    written = Written()
    blocks = _blocks(database, model, timeframe_s, now, span, written.windows_with_gaps)
    for instruments, windows in _packed(blocks):
        embedded = embed(model, windows)
        moments = Moments(instruments, windows.as_of)
        written.embedded += write_embeddings(database, model, timeframe_s, moments, embedded, now)
    return written


def _blocks(
    database: Database, model: Model, timeframe_s: int, now: datetime, span: Span | None, with_gaps: dict[str, int]
) -> Iterator[tuple[int, Windows]]:
    """The windows to embed, series by series, oldest first, at most BLOCK at a time; counts those with gaps."""
    params = {"model_id": model.id, "timeframe_s": timeframe_s, "until": now}
    for series in database.fetch(load_queries("encoder")["series_to_embed"], params):
        instrument_id = series["instrument_id"]
        first, last = span or ((series["newest"] or now - CATCH_UP) + timedelta(seconds=1), now)
        before = to_unix(first) - WINDOW * timeframe_s  # a window's first candle closes later than this
        candles = read_candles(database, instrument_id, timeframe_s, before, to_unix(last))
        closes = candles.as_of[candles.as_of >= first.timestamp()]
        if not len(closes):
            continue
        grid = Grid(candles, timeframe_s)
        good = np.isin(closes, grid.usable())
        usable, refused = closes[good], closes[~good]
        gaps = int(np.count_nonzero(refused - (WINDOW - 1) * timeframe_s >= to_unix(series["oldest"])))
        if gaps:
            with_gaps[series["name"]] = gaps
        new = usable[~np.isin(usable, embedded_closes(database, model.id, instrument_id, timeframe_s, first, last))]
        for i in range(0, len(new), BLOCK):
            yield instrument_id, grid.windows(new[i : i + BLOCK])


def _packed(blocks: Iterator[tuple[int, Windows]]) -> Iterator[tuple[IntArray, Windows]]:
    """The windows of small blocks together, [N] instruments and N < 2 * BLOCK windows at a time."""
    waiting: list[tuple[int, Windows]] = []
    for block in blocks:
        waiting.append(block)
        if sum(len(windows) for _, windows in waiting) >= BLOCK:
            yield _join(waiting)
            waiting = []
    if waiting:
        yield _join(waiting)


def _join(blocks: Sequence[tuple[int, Windows]]) -> tuple[IntArray, Windows]:
    instruments = np.concatenate([np.full(len(windows), instrument_id) for instrument_id, windows in blocks])
    return instruments, Windows.concatenate([windows for _, windows in blocks])


def main(argv: list[str] | None = None) -> int:
    parser = job_parser("Embeds each closed candle's window with every encoder in use.", span=True)
    parser.add_argument("--model", type=int, help="by this encoder only, in use or not")
    return run_job_command("encoder", parser, _work, argv)


def _work(context: Context) -> Outcome:
    arguments, now = context.arguments, context.clock.now()
    if arguments.span_from is None and arguments.span_to is not None:
        raise UsageError("--to needs --from: which closes shall be embedded?")
    span = None if arguments.span_from is None else (arguments.span_from, arguments.span_to or now)
    return run_once(context.clock, context.database, context.settings, span, arguments.model)


if __name__ == "__main__":
    sys.exit(main())
