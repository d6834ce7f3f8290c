"""What fills cost beside what the kernel predicts: `make slippage-report [WALLET=] [FROM=] [TO=]`.

Backtests are as honest as the slippage they assume. The kernel predicts, from what was known when an order was sized
(its quantity, its volatility, the wallet's half spread and impact) and from the volume of the candle it was filled in,
how far from the market's price it fills. The market's price at a fill: on the straight line from its candle's open to
its close. A paper fill is at the open itself; what is left there is the rounding to the tick. A live fill has no open
of its own, so that single differences hold the path of the price within a candle: their mean is what counts.

What takes the book at once: market orders, and the immediate-or-cancel limits in which live wallets put their collar.
The kernel has no slippage for limits that rest, and a stop's reference is its level, not the clock. What is left out is
counted. ``python -m pipeline.slippage_report [--wallet] [--from] [--to]``; FROM is in, TO is not.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

from shared.db import Database, load_queries
from shared.errors import SextantError
from shared.job import UsageError, time_argument
from shared.money import to_float
from shared.performance.bootstrap import LEAST_BLOCK, LEAST_DAYS, block_length, stationary_indices
from shared.rows import FloatArray
from shared.schema import open_database
from shared.settings import SettingsError, load_settings
from shared.simulation.kernel import bar_years_sqrt, slippage_bps

WIDTH = 100
EVER, FOREVER = datetime(1970, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, tzinfo=UTC)
LEAST_FILLS = 10  # of fewer, no interval tells anything
REPLICATES = 2_000
NO_CANDLE = "its candle is not stored"


@dataclass(frozen=True, slots=True)
class Comparison:
    """One fill: basis points against the taker (positive: dear), and seconds from its intent to its fill."""

    symbol: str
    side: str
    predicted: float
    realised: float
    shortfall: float  # against the close it was sized at: slippage, and what the market did meanwhile
    latency_s: float

    @property
    def difference(self) -> float:
        return self.realised - self.predicted


@dataclass(frozen=True, slots=True)
class Line:
    """All fills of one symbol and side. ``low`` and ``high``: 95 % interval of the mean difference, or None."""

    symbol: str
    side: str
    fills: int
    predicted: float
    predicted_median: float
    realised: float
    realised_median: float
    difference: float
    low: float | None
    high: float | None
    shortfall: float
    latency_s: float  # the median


def compare(fill: Mapping[str, Any]) -> Comparison | str:
    """One row of the query ``fills``; or why it cannot be compared."""
    if fill["type"] != "market" and (fill["type"], fill["time_in_force"]) != ("limit", "ioc"):
        return f"{fill['type'].replace('_', '-')} orders"
    if fill["open"] is None:
        return NO_CANDLE
    timeframe_s = fill["timeframe_s"]
    left = (fill["as_of"] - fill["filled_at"]).total_seconds() / timeframe_s
    market = left * fill["open"] + (1.0 - left) * fill["close"]
    predicted = slippage_bps(
        float(fill["slippage_bps"]), float(fill["impact"]), fill["volatility"] * bar_years_sqrt(timeframe_s),
        to_float(fill["order_quantity"]), fill["volume"],
    )  # fmt: skip
    return Comparison(
        symbol=fill["symbol"],
        side=fill["side"],
        predicted=predicted,
        realised=_paid_bps(fill, market),
        shortfall=_paid_bps(fill, fill["reference_price"]),
        latency_s=(fill["filled_at"] - fill["intended_at"]).total_seconds(),
    )


def _paid_bps(fill: Mapping[str, Any], reference: float) -> float:
    """How much worse than ``reference`` the fill was for the wallet."""
    sign = 1.0 if fill["side"] == "buy" else -1.0
    return sign * (to_float(fill["price"]) / reference - 1.0) * 1e4


def mean_interval(differences: FloatArray, seed: int = 0) -> tuple[float, float] | tuple[None, None]:
    """The 95 % interval of the mean of [n] differences in order of time, by the stationary bootstrap: fills of one
    order, and of one hour, are alike. None of fewer than LEAST_FILLS."""
    n = len(differences)
    if n < LEAST_FILLS:
        return None, None
    best = block_length(differences) if n >= LEAST_DAYS else LEAST_BLOCK
    drawn = stationary_indices(n, max(LEAST_BLOCK, best), REPLICATES, np.random.default_rng(seed))
    low, high = np.quantile(differences[drawn].mean(axis=1), [0.025, 0.975])
    return float(low), float(high)


def line_of(symbol: str, side: str, fills: Sequence[Comparison]) -> Line:
    predicted, realised = [fill.predicted for fill in fills], [fill.realised for fill in fills]
    differences = np.array([fill.difference for fill in fills])
    low, high = mean_interval(differences)
    return Line(
        symbol,
        side,
        len(fills),
        statistics.fmean(predicted),
        statistics.median(predicted),
        statistics.fmean(realised),
        statistics.median(realised),
        float(differences.mean()),
        low,
        high,
        statistics.fmean(fill.shortfall for fill in fills),
        statistics.median(fill.latency_s for fill in fills),
    )


def report(
    database: Database, wallet: str | None = None, first: datetime = EVER, last: datetime = FOREVER
) -> tuple[list[Line], dict[str, int]]:
    """A line a symbol and side, and how many fills were left out for what reason. UsageError: no such wallet."""
    queries = load_queries("slippage")
    if wallet is not None and database.fetch_one(queries["wallet_named"], {"wallet": wallet}) is None:
        raise UsageError(f"there is no wallet {wallet!r}; `make status` lists them")
    groups: dict[tuple[str, str], list[Comparison]] = {}
    left_out: dict[str, int] = {}
    for fill in database.fetch(queries["fills"], {"wallet": wallet, "first": first, "last": last}):
        found = compare(fill)
        if isinstance(found, str):
            left_out[found] = left_out.get(found, 0) + 1
        else:
            groups.setdefault((found.symbol, found.side), []).append(found)
    return [line_of(*key, fills) for key, fills in sorted(groups.items())], left_out


def print_report(lines: Iterable[Line], left_out: Mapping[str, int], console: Console) -> None:
    table = Table(
        title="Slippage in basis points: mean (median)",
        title_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        show_edge=False,
    )
    table.add_column("symbol and side", no_wrap=True)
    for column in ("n", "predicted", "realised", "diff.", "95 %", "shortfall", "latency"):
        table.add_column(column, justify="right", no_wrap=True)
    for line in lines:
        interval = "–" if line.low is None else f"{line.low:+.2f} … {line.high:+.2f}"
        table.add_row(
            f"{line.side} {line.symbol}", f"{line.fills:,}", f"{line.predicted:.1f} ({line.predicted_median:.1f})",
            f"{line.realised:.1f} ({line.realised_median:.1f})", f"{line.difference:+.2f}", interval,
            f"{line.shortfall:+.2f}", f"{line.latency_s:,.1f} s",
        )  # fmt: skip
    console.print(table if table.row_count else "No fill of an order that takes the book to compare in this span.")
    for why, count in sorted(left_out.items()):
        console.print(f"left out: {count:,} fills, {why}", markup=False)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Fills beside what the kernel predicts of them.")
    parser.add_argument("--wallet")
    parser.add_argument("--from", dest="first", type=time_argument, default=EVER)
    parser.add_argument("--to", dest="last", type=time_argument, default=FOREVER)
    arguments = parser.parse_args(argv)
    try:
        database = open_database(load_settings(), "cli")
        try:
            lines, left_out = report(database, arguments.wallet, arguments.first, arguments.last)
        finally:
            database.close()
    except (SettingsError, UsageError) as error:
        print(error, file=sys.stderr)
        return 2
    except SextantError as error:
        print(error, file=sys.stderr)
        return 1
    print_report(lines, left_out, Console(width=WIDTH, highlight=False))
    return 0


if __name__ == "__main__":
    sys.exit(main())
