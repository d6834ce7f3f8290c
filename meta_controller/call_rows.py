"""Calls, outcomes and fits as rows: read into a Track of what was called and what happened, and written."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray
from psycopg.types.json import Jsonb

from meta_controller.controller import HORIZONS_S, TRENDS, VOLATILITIES
from meta_controller.expert_calls import Fit, FitKey
from meta_controller.market_index import MarketHistory
from meta_controller.outcomes import UNKNOWN, Outcomes
from meta_controller.pool import Track
from meta_controller.regimes.expert import CLASSES, Calls
from shared.clock import from_unix
from shared.db import Database, load_queries
from shared.market_data import MICROSECONDS, POSTGRES_EPOCH_S, read_records
from shared.rows import IntArray

SENT_CALL = np.dtype([("as_of", ">i8"), ("horizon_s", ">i4"), ("p", ">f8", (CLASSES,))])
SENT_OUTCOME = np.dtype([("as_of", ">i8"), ("horizon_s", ">i4"), ("trend", ">i4"), ("volatility", ">i4")])

OutcomeRow = tuple[Any, ...]


def read_fits(database: Database, timeframe_s: int, first: int, last: int) -> dict[FitKey, Fit]:
    """The stored fits made in [first, last] (Unix seconds)."""
    params = {"timeframe_s": timeframe_s, "first": from_unix(first), "last": from_unix(last)}
    rows = database.fetch(load_queries("meta_controller")["stored_fits"], params)
    return {(row["expert"], row["fitted_at"]): Fit(**row) for row in rows}


def read_track(database: Database, experts: Sequence[str], first: int, last: int) -> Track:
    """What the experts called in [first, last] (Unix seconds), and what followed."""
    queries, track = load_queries("meta_controller"), Track(experts)
    span = {"first": from_unix(first), "last": from_unix(last)}
    sent = {name: read_records(database, queries["read_calls"], span | {"expert": name}, SENT_CALL) for name in experts}
    add_sent_calls(track, sent)
    for row in read_records(database, queries["read_outcomes"], span, SENT_OUTCOME).tolist():
        as_of, horizon_s, trend, volatility = row
        track.add_outcome(as_of // MICROSECONDS + POSTGRES_EPOCH_S, horizon_s, (trend, volatility))
    return track


def read_expert(database: Database, expert: str, first: int, last: int) -> tuple[list[int], Calls]:
    """One expert's calls in [first, last] (Unix seconds): moments, and [moments, horizons, CLASSES]."""
    params = {"expert": expert, "first": from_unix(first), "last": from_unix(last)}
    return laid_out(read_records(database, load_queries("meta_controller")["read_calls"], params, SENT_CALL))


def add_sent_calls(track: Track, sent: Mapping[str, NDArray[Any]]) -> None:
    """Adds SENT_CALL records, by expert; horizons that are not called any more are left out."""
    every = sorted({t for records in sent.values() for t in unix(records["as_of"].astype(np.int64)).tolist()})
    row_of = {t: row for row, t in enumerate(every)}
    calls = {}
    for name, records in sent.items():
        moments, mine = laid_out(records)
        calls[name] = np.full((len(every), len(HORIZONS_S), CLASSES), np.nan)
        calls[name][[row_of[t] for t in moments]] = mine
    track.add_calls(every, calls)


def laid_out(records: NDArray[Any]) -> tuple[list[int], Calls]:
    """One expert's records: moments (Unix seconds), and [moments, horizons, CLASSES], NaN where one is missing."""
    moments, row = np.unique(unix(records["as_of"].astype(np.int64)), return_inverse=True)
    calls = np.full((len(moments), len(HORIZONS_S), CLASSES), np.nan)
    for horizon, horizon_s in enumerate(HORIZONS_S):
        mine = records["horizon_s"] == horizon_s
        calls[row[mine], horizon] = records["p"][mine]
    return moments.tolist(), calls


def unix(sent: IntArray) -> IntArray:
    """Unix seconds of timestamps as they are sent."""
    return sent // MICROSECONDS + POSTGRES_EPOCH_S


def call_rows(expert: str, as_of: Sequence[int], calls: Calls, recorded_at: datetime) -> Iterator[tuple[Any, ...]]:
    """The rows of copy_calls; ``calls`` [moments, horizons, CLASSES], nothing where NaN."""
    for at, both in zip(as_of, calls.tolist(), strict=True):
        moment = from_unix(at)
        for horizon_s, six in zip(HORIZONS_S, both, strict=True):
            if six[0] == six[0]:
                yield (expert, moment, horizon_s, *six, None, False, moment, recorded_at)


def outcome_rows(
    found: Outcomes, history: MarketHistory, horizon_s: int, wanted: Sequence[int]
) -> Iterator[OutcomeRow]:
    """The rows of copy_outcomes but for recorded_at, of those of the ``wanted`` moments whose outcome is known."""
    passes_s = history.bars(horizon_s) * history.timeframe_s  # a bar may be longer than the horizon
    for t, i in history.rows_of(wanted).items():
        if UNKNOWN not in (found.trend[i], found.volatility[i]):
            yield (from_unix(t), horizon_s, TRENDS[found.trend[i]], VOLATILITIES[found.volatility[i]],
                   float(found.log_return[i]), float(found.realised[i]), float(found.t_statistic[i]),
                   float(found.efficiency[i]), from_unix(t + passes_s))  # fmt: skip


def copy_in(database: Database, query: str, rows: Sequence[tuple[Any, ...]]) -> None:
    """Writes rows that are not there yet."""
    if rows:
        with (
            database.connection.cursor() as cursor,
            cursor.copy(load_queries("meta_controller")[query]) as copy,
        ):
            for row in rows:
                copy.write_row(row)


def write_fits(database: Database, fits: Sequence[Fit], timeframe_s: int, now: datetime) -> int:
    rows = [
        {"expert": fit.expert, "timeframe_s": timeframe_s, "fitted_at": from_unix(fit.fitted_at), "bars": fit.bars,
         "parameters": Jsonb(dict(fit.parameters)), "recorded_at": now}
        for fit in fits
    ]  # fmt: skip
    return database.execute_many(load_queries("meta_controller")["insert_fit"], rows)
