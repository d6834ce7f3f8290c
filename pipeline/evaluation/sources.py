"""What an evaluation is about: spot series of one venue and quote, and the universe that is traded from a moment on.

The universe is fixed in advance by what was known then: the largest by quote volume of the 90 days before, coins that
have since ended included. Choosing among those that still trade today would flatter.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np

from candles.candle_files import read_candle_file, series_from_name
from shared.clock import to_unix
from shared.db import Database, load_queries
from shared.job import UsageError
from shared.market_data import read_candles
from shared.rows import CANDLE_FIELDS, Candles
from shared.settings import TIMEFRAMES

UNIVERSE = 8
TRAILING = timedelta(days=90)
LEAST_HISTORY = timedelta(days=30)  # of a coin before it may be chosen: younger ones have no signal
FUTURES = ("usdm", "coinm")  # how the venues of perpetuals end: nothing here pays their funding


@dataclass(frozen=True, slots=True)
class Source:
    """Candles by symbol, all of one venue, quote, timeframe and provenance; ``left_out`` says what was not taken."""

    venue: str
    timeframe_s: int
    provenance: str
    series: Mapping[str, Candles]
    left_out: tuple[str, ...]

    @property
    def timeframe(self) -> str:
        return next(name for name, seconds in TIMEFRAMES.items() if seconds == self.timeframe_s)

    @property
    def first(self) -> int:
        """When the first candle opened, Unix seconds."""
        return min(int(candles.as_of[0]) for candles in self.series.values()) - self.timeframe_s

    @property
    def last(self) -> int:
        return max(int(candles.as_of[-1]) for candles in self.series.values())

    def sha256(self) -> str:
        digest = hashlib.sha256(f"{self.venue} {self.timeframe_s} {self.provenance}".encode())
        for symbol in sorted(self.series):
            digest.update(symbol.encode())
            for field in CANDLE_FIELDS:
                digest.update(np.ascontiguousarray(getattr(self.series[symbol], field)).data)
        return digest.hexdigest()

    def save(self, path: Path) -> None:
        """For the folds' own processes: every one of them must see these candles, whatever is stored meanwhile."""
        columns = {f"{s}|{f}": getattr(c, f) for s, c in self.series.items() for f in CANDLE_FIELDS}
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_suffix(".part")
        with beside.open("wb") as file:
            np.savez(file, **columns)
        beside.rename(path)


def load_series(path: Path, symbols: Sequence[str]) -> dict[str, Candles]:
    """What ``Source.save`` wrote of some symbols."""
    with np.load(path, allow_pickle=False) as columns:
        return {s: Candles.from_columns([columns[f"{s}|{f}"] for f in CANDLE_FIELDS]) for s in symbols}


@dataclass(frozen=True, slots=True)
class _Series:
    venue: str
    symbol: str
    timeframe_s: int
    provenance: str
    candles: Candles

    @property
    def kind(self) -> tuple[str, str, int]:
        return self.venue, self.symbol.partition("/")[2], self.timeframe_s

    def __str__(self) -> str:
        return f"{self.venue}:{self.symbol} ({self.timeframe_s} s)"


def read_files(paths: Sequence[Path], now: datetime, decision_s: int) -> Source:
    """The series of candle files (``<venue>_<BASE>-<QUOTE>_<timeframe>``); bad rows are left out and told.

    FileRefused for a file that cannot be read, UsageError where nothing usable is left."""
    found, told = [], []
    for path in paths:
        kind = series_from_name(path, None, None, None)
        parsed = read_candle_file(path, kind.timeframe_s, to_unix(now))
        if parsed.refused:
            told.append(f"{path.name}: {parsed.refused} rows refused ({parsed.refused_counts})")
        found.append(_Series(kind.venue, kind.symbol, kind.timeframe_s, "real", parsed.candles))
    return _one_market(found, told, decision_s)


def read_stored(database: Database, until: datetime, decision_s: int) -> Source:
    """All stored series up to ``until``, real ones where there are any. UsageError where there are none."""
    rows = database.fetch(load_queries("policy_evaluation")["stored_series"])
    real = [row for row in rows if row["provenance"] == "real"]
    found = [
        _Series(
            row["venue"], row["symbol"], row["base_timeframe_s"], row["provenance"],
            read_candles(database, row["id"], row["base_timeframe_s"], 0, to_unix(until)),
        )
        for row in real or rows
    ]  # fmt: skip
    told = [f"{len(rows) - len(real)} simulated series: there are real ones"] if real and len(real) < len(rows) else []
    return _one_market(found, told, decision_s)


def _one_market(found: Iterable[_Series], told: Sequence[str], decision_s: int) -> Source:
    """A wallet trades on one venue in one quote: the one with most series is taken, of equals the one with most
    candles; the others are told."""
    left_out, markets = list(told), defaultdict[tuple[str, str, int], list[_Series]](list)
    for one in found:
        if one.venue.endswith(FUTURES):
            left_out.append(f"{one}: futures, not spot")
        elif one.timeframe_s not in TIMEFRAMES.values() or one.timeframe_s > decision_s:
            left_out.append(f"{one}: too coarse to decide every {decision_s} s on")
        elif not len(one.candles):
            left_out.append(f"{one}: no usable candle")
        else:
            markets[one.kind].append(one)
    if not markets:
        raise UsageError(
            f"there are no spot candles of {decision_s} s or finer to evaluate on "
            f"({'; '.join(left_out) or 'none at all'}); "
            'pass DATA="FILE …", or run `make backfill` or `make import-csv FILE=…`'
        )
    ranked = sorted(markets.values(), key=lambda some: (-len(some), -sum(len(one.candles) for one in some)))
    chosen = ranked[0]
    for others in ranked[1:]:
        names = ", ".join(one.symbol for one in others)
        kept = f"{chosen[0].venue} has more series, or longer ones"
        left_out.append(f"{others[0].venue} {names} ({others[0].timeframe_s} s): {kept}")
    venue, _, timeframe_s = chosen[0].kind
    series = {one.symbol: one.candles for one in chosen}
    return Source(venue, timeframe_s, chosen[0].provenance, series, tuple(left_out))


def choose_universe(source: Source, at: datetime, most: int = UNIVERSE) -> tuple[str, ...]:
    """The symbols with the most quote volume (Σ volume · close) in the 90 days up to ``at``, largest first: known then,
    and nothing of later. Those that had ended or were younger than 30 days are no candidates."""
    moment, since = to_unix(at), to_unix(at - TRAILING)
    volumes: dict[str, float] = {}
    for symbol, candles in source.series.items():
        young = int(candles.as_of[0]) > moment - LEAST_HISTORY.total_seconds()
        recent = candles[(candles.as_of > since) & (candles.as_of <= moment)]
        ended = not len(recent) or int(recent.as_of[-1]) <= moment - 86_400
        if not young and not ended:
            volumes[symbol] = float(recent.volume @ recent.close)
    return tuple(sorted(volumes, key=lambda symbol: (-volumes[symbol], symbol))[:most])
