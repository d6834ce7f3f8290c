"""The catalogue of features, and what each is worth on the stored candles.

Input: market_data. Output: a table. ``python -m encoder.feature_report [--symbols …] [--from --to] [--at]``
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from io import StringIO
from typing import TYPE_CHECKING

import numpy as np

from encoder.evaluation.panel import Panel, build_panel
from encoder.feature_importance import ERRORS, Selection, select
from encoder.schema import HORIZONS_S, require_timeframe
from shared.clock import from_unix, to_unix
from shared.features import FEATURES, WINDOW, Grid, compute_features
from shared.job import Context, Outcome, UsageError, job_parser, run_job_command
from shared.market_data import UnknownInstrument, find_instruments, read_candles
from shared.rows import Candles, FloatArray, Instrument

if TYPE_CHECKING:
    from rich.table import Table

MOST_WINDOWS = 20_000  # drawn at random: the whole takes a minute or two
LEAST_WINDOWS = 2_000
BLOCK = 1024  # windows measured at a time
SEED = 7
WIDTH = 120  # columns of the table
TARGETS = {
    "log RV 1h": "log_volatility_3600s",
    "log RV 4h": "log_volatility_14400s",
    "log RV 24h": "log_volatility_86400s",
    "trend down": "trend_class",
    "trend up": "trend_class",
    "large move": "large_move",
}
CLASSES = {"trend down": 0, "trend up": 2}  # of trend_class, each a yes or no of its own


def measure(series: Sequence[Candles], timeframe_s: int) -> Selection | None:
    """What each feature is worth on these candles; None where there are less than 2,000 windows to ask about.

    Targets are those of the evaluation of encoders (encoder/evaluation/targets.py), for classes yes or no.
    Between the last window fitted and the first one scored lies a window and the longest horizon.
    """
    if not any(map(len, series)):
        return None
    panel = build_panel(series, timeframe_s)
    if len(panel) < LEAST_WINDOWS:
        return None
    drawn = np.sort(np.random.default_rng(SEED).permutation(len(panel))[:MOST_WINDOWS])
    panel = panel.select(drawn)
    purge_s = WINDOW * timeframe_s + max(HORIZONS_S)
    return select(_features(series, panel, timeframe_s), targets(panel.targets), panel.as_of, purge_s, SEED)


def targets(known: Mapping[str, FloatArray]) -> dict[str, FloatArray]:
    """What is asked, by the name shown, each [N]: numbers as they are, a class as 1 or 0; NaN where unknown."""
    asked = {}
    for name, source in TARGETS.items():
        values = known[source]
        asked[name] = np.where(np.isnan(values), np.nan, values == CLASSES[name]) if name in CLASSES else values
    return asked


def _features(series: Sequence[Candles], panel: Panel, timeframe_s: int) -> FloatArray:
    """[N, F] of the panel's moments."""
    features = np.empty((len(panel), len(FEATURES)))
    for k in np.unique(panel.series):
        grid, rows = Grid(series[k], timeframe_s), np.flatnonzero(panel.series == k)
        for block in np.array_split(rows, max(1, len(rows) // BLOCK)):
            features[block] = compute_features(grid.windows(panel.as_of[block]))
    return features


def catalogue(width: int = WIDTH) -> str:
    """Every feature as plain text: name, length, formula, source."""
    table = _table()
    table.add_column("feature", no_wrap=True)
    table.add_column("L", justify="right")
    table.add_column("formula", overflow="fold", ratio=2)
    table.add_column("source", overflow="fold", ratio=1)
    for name, feature in FEATURES.items():
        table.add_row(name, str(feature.length), feature.formula, feature.source)
    return _plain(table, width)


def as_text(selection: Selection, width: int = WIDTH) -> str:
    """What each feature is worth, as plain text."""
    table = _table()
    table.add_column("feature", no_wrap=True)
    table.add_column("L", justify="right")
    for target in TARGETS:
        table.add_column(target.replace(" ", "\n", 1), justify="right", no_wrap=True)
    table.add_column("kept", no_wrap=True)
    names, own, kept = list(FEATURES), selection.own.tolist(), selection.kept
    for j, (name, feature) in enumerate(FEATURES.items()):
        if j in own:
            worth = [*_figures(selection, own.index(j)), "yes" if kept[j] else ""]
        else:
            worth = [*("",) * len(TARGETS), f"= {names[selection.stand_in[j]]}"]
        table.add_row(name, str(feature.length), *worth)
    return _plain(table, width) + "".join(f"{line}\n" for line in _legend(selection))


def _table() -> Table:
    from rich import box
    from rich.table import Table

    return Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 0, 0, 1), show_edge=False)


def _plain(table: Table, width: int) -> str:
    from rich.console import Console

    out = StringIO()
    Console(file=out, width=width, force_terminal=False, color_system=None, highlight=False).print(table)
    return "".join(f"{line.rstrip()}\n" for line in out.getvalue().splitlines())


def _figures(selection: Selection, at: int) -> Iterator[str]:
    """Of one column that stands for itself: its importance for each target, starred where it is beyond doubt."""
    for target in TARGETS:
        _, best = selection.best(target)
        yield f"{round(100 * best.lost[at], 2) + 0.0:.2f}{'*' if best.kept[at] else ' '}"


def _legend(selection: Selection) -> Iterator[str]:
    models = (f"{target} {model} {found.r2:.3f}" for target in TARGETS for model, found in [selection.best(target)])
    yield ""
    yield f"{selection.windows:,} windows. R² on the later 30 %, of the better model: {', '.join(models)}."
    yield "Figures: percentage points of that R² lost when the feature is shuffled within days, mean of 5 shuffles;"
    yield f"*: more than {ERRORS:g} standard errors (clustered by week), and the model beats the mean."
    yield "= NAME: its |correlation| with NAME is above 0.95; models were given NAME alone."
    yield f"Kept: {int(selection.kept.sum())} of {len(FEATURES)}."


def _instruments(context: Context) -> list[Instrument]:
    """The symbols asked for, all of them; else what is stored of the universe."""
    universe, wanted = context.settings.universe, context.arguments.symbols
    if wanted:
        return find_instruments(context.database, universe.venue, wanted)
    known: list[Instrument] = []
    for symbol in universe.symbols:
        with suppress(UnknownInstrument):
            known += find_instruments(context.database, universe.venue, [symbol])
    return known


def _work(context: Context) -> Outcome:
    arguments, now = context.arguments, context.clock.now()
    timeframe_s = context.settings.universe.decision_timeframe_s
    require_timeframe(timeframe_s)
    after = to_unix(arguments.span_from) if arguments.span_from else 0
    until = to_unix(min(arguments.span_to or now, now))
    if after >= until:
        raise UsageError(f"--from {arguments.span_from.isoformat()} is not before {from_unix(until).isoformat()}")
    instruments = _instruments(context)
    print(catalogue())
    series = [read_candles(context.database, i.id, timeframe_s, after, until) for i in instruments]
    selection = measure(series, timeframe_s)
    if selection is None:
        print(f"Their importance takes {LEAST_WINDOWS:,} windows of candles: widen the span, or run `make backfill`.")
        return Outcome("nothing", {"features": len(FEATURES)})
    print(as_text(selection))
    result = {"features": len(FEATURES), "windows": selection.windows, "kept": int(selection.kept.sum())}
    return Outcome("done", result)


def main(argv: list[str] | None = None) -> int:
    parser = job_parser("List the features and what each is worth on the stored candles.", span=True)
    parser.add_argument("--symbols", nargs="+", help="these instead of the universe's, like BTC/USDT ETH/USDT")
    return run_job_command("encoder", parser, _work, argv)


if __name__ == "__main__":
    sys.exit(main())
