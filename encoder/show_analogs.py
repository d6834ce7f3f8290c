"""Shows the past moments most like one, and what followed them: a table, calibrated quantiles, a picture.

Input: embeddings, market_data, models. Output: none but a PNG in <home>/reports.
``python -m encoder.show_analogs SYMBOL [--at] [--k 20] [--venue]``
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from encoder.analog_chart import AnalogChart, write_chart
from encoder.analog_library import Library, Outlook, outlook, read_library
from encoder.schema import HORIZONS_S
from shared.analogs import Analogs, NoEmbedding, find_analogs
from shared.clock import Clock, floor_time, from_unix, to_unix
from shared.db import Database, load_queries
from shared.job import Context, JobError, Outcome, job_parser, run_job_command
from shared.market_data import find_instruments, read_candles
from shared.rows import FloatArray, Instrument
from shared.settings import Settings

if TYPE_CHECKING:
    from rich.table import Table

SEARCHED = 50  # analogs behind the bands; fewer are shown
SHOWN = 20
DRAWN_CANDLES = 96
NAMES = ("1h", "4h", "24h")
LEAST_TESTED = 30  # outcomes: the share inside a band is uncertain by ±15 points (two standard errors at 80 %) even so
EXPLANATION = """\
Quantiles of what follows, in %, calibrated on so many days and stretched by so much for 50/80/90 %.
Covered: past outcomes inside such bands, each calibrated on the days before it. No direction is forecast."""
EQUAL = "Bands of equal width: the stretched wider one came out narrower and was widened to the one inside it."
PERCENTS = (5, 10, 25, 50, 75, 90, 95)


@dataclass(frozen=True, slots=True)
class Encoder:
    """The active encoder's row, without its bytes."""

    id: int
    known_from: datetime
    provenance: str
    timeframe_s: int


@dataclass(frozen=True, slots=True)
class Shown:
    """All that is told about one moment."""

    instrument: Instrument
    at: datetime
    encoder: Encoder
    analogs: Analogs
    symbols: dict[int, str]
    outlook: Outlook

    @property
    def doubts(self) -> dict[str, str]:
        """Why not to believe it: in a word, and in words."""
        found = {}
        if self.at < self.encoder.known_from:
            found["IN-SAMPLE"] = (
                f"proves nothing: encoder {self.encoder.id} has seen what followed, being known only from "
                f"{self.encoder.known_from:%Y-%m-%d %H:%M}"
            )
        if "simulated" in (self.encoder.provenance, self.instrument.provenance):
            found["SIMULATED"] = "nothing here is about a real market"
        return found


def show(
    clock: Clock, database: Database, settings: Settings, symbol: str, *, venue: str | None, exact: bool, shown: int
) -> tuple[str, Path]:
    """The text, and where the picture was written. ``exact``: the clock's time was asked for, not the newest moment.

    JobError without an active encoder, an embedding, or enough of a past; UnknownInstrument.
    """
    encoder = _active_encoder(database)
    (instrument,) = find_instruments(database, venue or settings.universe.venue, [symbol])
    at = _moment(database, encoder, instrument, clock.now(), exact)
    known_by = max(at, encoder.known_from)
    params = {"model_id": encoder.id, "timeframe_s": encoder.timeframe_s}
    embedded = database.fetch_rows(Instrument, load_queries("analogs")["embedded_instruments"], params)
    instruments = [i for i in embedded if i.provenance == instrument.provenance]
    analogs = find_analogs(database, encoder.id, instrument.id, encoder.timeframe_s, at, HORIZONS_S, SEARCHED, known_by)
    if len(analogs) < SEARCHED:
        raise JobError(
            f"only {len(analogs)} moments before {at:%Y-%m-%d %H:%M} can be analogs, {SEARCHED} are needed (one a "
            "day, with a known outcome): embed a longer past with `make run-encoder FROM=… TO=…`"
        )
    library = read_library(database, encoder.id, encoder.timeframe_s, [i.id for i in instruments], at, known_by)
    result = outlook(library, analogs, instrument.id, at, encoder.known_from)
    told = Shown(instrument, at, encoder, analogs, _symbols(instruments), result)
    path = settings.home_path / "reports" / f"analogs-{symbol.replace('/', '-')}-{at:%Y%m%dT%H%M}.png"
    write_chart(_chart(database, told, library, shown), path)
    return _as_text(told, shown), path


def _active_encoder(database: Database) -> Encoder:
    rows = database.fetch_rows(Encoder, load_queries("analogs")["active_encoder"])
    if not rows:
        raise JobError("no encoder is active; run `make train-encoder`")
    return rows[0]


def _moment(database: Database, encoder: Encoder, instrument: Instrument, now: datetime, exact: bool) -> datetime:
    """The close that is asked about: of the newest embedding, or the last close up to ``now``."""
    if exact:
        return floor_time(now, encoder.timeframe_s)
    params = {"model_id": encoder.id, "instrument_id": instrument.id, "timeframe_s": encoder.timeframe_s, "until": now}
    row = database.fetch_one(load_queries("analogs")["newest_embedding"], params)
    if row is None or row["as_of"] is None:
        raise NoEmbedding(
            f"encoder {encoder.id} has no embedding of {instrument.symbol} on {instrument.venue}: `make run-encoder`"
        )
    at: datetime = row["as_of"]
    return at


def _symbols(instruments: list[Instrument]) -> dict[int, str]:
    """Symbols by id, with the venue where there are several."""
    several = len({i.venue for i in instruments}) > 1
    return {i.id: f"{i.venue} {i.symbol}" if several else i.symbol for i in instruments}


def _chart(database: Database, told: Shown, library: Library, shown: int) -> AnalogChart:
    step, at = told.encoder.timeframe_s, to_unix(told.at)
    past = np.arange(-DRAWN_CANDLES, 1) * step
    future = np.arange(max(HORIZONS_S) // step + 1) * step
    analogs = told.analogs
    now = library.volatility_at(np.array([told.instrument.id]), np.array([at]))
    ratio = now / library.volatility_at(analogs.instrument, analogs.as_of)
    offsets = np.concatenate([past, future])
    moments = list(zip(analogs.instrument.tolist(), analogs.as_of.tolist(), strict=True))[:shown]
    paths = np.stack([_path(database, i, step, t, offsets) for i, t in moments]) * ratio[: len(moments), None]
    own = _path(database, told.instrument.id, step, at, offsets)
    (price,) = read_candles(database, told.instrument.id, step, at - 1, at).close
    return AnalogChart(
        title=f"{told.instrument.symbol} at {told.at:%Y-%m-%d %H:%M} UTC and the {len(moments)} moments most like it",
        subtitle=" · ".join(_explained(told)),
        warning=" · ".join(told.doubts),
        past_s=past.astype(np.float64),
        present=own[: len(past)],
        before=paths[:, : len(past)],
        future_s=future.astype(np.float64),
        after=paths[:, len(past) :],
        followed=own[len(past) :],
        horizons_s=np.array(HORIZONS_S, dtype=np.float64),
        half_widths=told.outlook.half_widths,
        price=float(price),
    )


def _explained(told: Shown) -> list[str]:
    result = told.outlook
    return [
        f"bands from {len(told.analogs)} analogs, calibrated on {result.moments[-1]} days",
        f"24h: 80 % band ±{100 * np.expm1(result.half_widths[-1, 1]):.1f} %",
    ]


def _path(database: Database, instrument_id: int, step: int, at: int, offsets: np.ndarray[Any, Any]) -> FloatArray:
    """Log returns from the close at ``at``, seconds ``offsets`` from it; a missing close is as the one before, and
    NaN where nothing is stored any more."""
    candles = read_candles(database, instrument_id, step, at + int(offsets[0]) - 1, at + int(offsets[-1]))
    close, times = np.log(candles.close), at + offsets
    rows = np.searchsorted(candles.as_of, times, side="right") - 1
    path = close[np.maximum(rows, 0)] - close[np.searchsorted(candles.as_of, at)]
    return np.where(times <= candles.as_of[-1], path, np.nan)


def _as_text(told: Shown, shown: int) -> str:
    """At most 110 columns, without escape codes."""
    from io import StringIO

    from rich.console import Console

    out = StringIO()
    console = Console(file=out, width=110, force_terminal=False, color_system=None, highlight=False)
    label = f"{told.instrument.symbol} on {told.instrument.venue} at {told.at:%Y-%m-%d %H:%M} UTC"
    console.print(f"{label}, seen by encoder {told.encoder.id}", markup=False)
    for word, doubt in told.doubts.items():
        console.print(f"{word}: {doubt}", markup=False)
    console.print()
    console.print(_analog_table(told, shown))
    console.print()
    console.print(_quantile_table(told.outlook))
    console.print(EXPLANATION, markup=False)
    if (np.diff(told.outlook.half_widths, axis=1) == 0).any():
        console.print(EQUAL, markup=False)
    if told.outlook.honest[-1] < told.outlook.moments[-1]:
        seen = int(told.outlook.moments[-1] - told.outlook.honest[-1])
        console.print(f"{seen} of these days are older than the encoder: what it says of them may be flattered.")
    return "".join(f"{line.rstrip()}\n" for line in out.getvalue().splitlines())


def _table() -> Table:
    from rich import box
    from rich.table import Table

    return Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 0, 0, 1), show_edge=False)


def _analog_table(told: Shown, shown: int) -> Table:
    table = _table()
    for heading in ("when (UTC)", "symbol"):
        table.add_column(heading)
    for heading in ("similarity", *(f"after {name}" for name in NAMES)):
        table.add_column(heading, justify="right")
    analogs = told.analogs
    for i in range(min(shown, len(analogs))):
        when = f"{from_unix(int(analogs.as_of[i])):%Y-%m-%d %H:%M}"
        outcomes = (_percent(value) for value in analogs.outcomes[i].tolist())
        table.add_row(when, told.symbols[int(analogs.instrument[i])], f"{analogs.similarity[i]:.3f}", *outcomes)
    return table


def _quantile_table(result: Outlook) -> Table:
    table = _table()
    table.add_column("after")
    for heading in (*(f"{percent} %" for percent in PERCENTS), "days", "stretched", "covered", "of"):
        table.add_column(heading, justify="right", no_wrap=True)
    for h, name in enumerate(NAMES):
        inner = result.half_widths[h].tolist()
        widths = [*(-half for half in reversed(inner)), 0.0, *inner]
        quantiles = (_percent(width).removesuffix(" %") for width in widths)
        stretched = "/".join(f"{factor:.2f}" for factor in result.factors[h])
        shares = "/".join(f"{100 * share:.0f}" for share in result.covered[h])
        covered = shares if result.tested[h] >= LEAST_TESTED else "too few"
        table.add_row(name, *quantiles, str(result.moments[h]), stretched, covered, str(result.tested[h]))
    return table


def _percent(log_return: float) -> str:
    return f"{100 * np.expm1(log_return):+.2f} %" if log_return else "0.00 %"


def _count(text: str) -> int:
    count = int(text) if text.isdecimal() else 0
    if not 1 <= count <= SEARCHED:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 to {SEARCHED}")
    return count


def _work(context: Context) -> Outcome:
    a = context.arguments
    asked = {"venue": a.venue, "exact": a.at is not None, "shown": a.k}
    text, path = show(context.clock, context.database, context.settings, a.symbol, **asked)
    print(text)
    print(f"picture: {path}")
    return Outcome("done", {"picture": str(path)})


def main(argv: list[str] | None = None) -> int:
    parser = job_parser("Show the past moments most like one, and what followed them.")
    parser.add_argument("symbol", help="like BTC/USDT")
    parser.add_argument("--venue", help="where (default: the venue of the settings)")
    parser.add_argument("--k", type=_count, default=SHOWN, help=f"how many to show (default {SHOWN}, most {SEARCHED})")
    return run_job_command("encoder", parser, _work, argv)


if __name__ == "__main__":
    sys.exit(main())
