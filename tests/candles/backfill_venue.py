"""A recorded venue for tests of the backfill: it may lack symbols, rename them, break, die, or serve too little."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import numpy as np

from candles.store import default_rules
from shared.clock import ReplayClock, from_unix, to_unix
from shared.db import Database
from shared.exchanges import ExchangeError
from shared.exchanges.protocol import Capabilities, VenueStatus
from shared.exchanges.recorded import RecordedExchange
from shared.rows import Candles, InstrumentRules
from tests.helpers import NOON, random_candles

FIVE, HOUR = 300, 3600
END = to_unix(NOON) + 6 * HOUR
RULES = default_rules(100.0)
A, B = "AAA/USDT", "BBB/USDT"
DAY_AGO = NOON - timedelta(days=1)
FAST = 1_000.0  # requests a second: asked by threads, and not slowed down


class Killed(BaseException):
    """What nothing catches: the process is gone."""


class TickingClock(ReplayClock):
    def forward(self, step: timedelta) -> None:
        self.set(self.now() + step)


@dataclass
class Venue:
    """It remembers what it was asked: symbol, since, until."""

    series: dict[str, Candles]
    timeframe_s: int = FIVE
    depth: int | None = None
    page: int | None = None
    rate: float = math.inf
    renamed: dict[str, str] = field(default_factory=dict)
    broken: dict[str, str] = field(default_factory=dict)  # symbol -> the question that fails
    rules_of: dict[str, InstrumentRules] = field(default_factory=dict)  # others than RULES
    beyond_s: int = 0  # serves candles that close this much later than asked
    before_answer: Callable[[str, int], object] = lambda symbol, asked: None  # called with how often it was asked
    asked: list[tuple[str, int, int]] = field(default_factory=list)
    name: str = "test"
    provenance: str = "real"
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities((self.timeframe_s,), self.rate, "itself", candle_depth=self.depth, candle_page=self.page)

    def server_time(self) -> None:
        return None

    def status(self) -> VenueStatus:
        return "online"

    def _recorded(self, symbol: str, question: str) -> RecordedExchange:
        if self.broken.get(symbol) == question:
            raise ExchangeError(f"{symbol}: the venue does not answer")
        return RecordedExchange(self.name, "real", self.timeframe_s, self.series, dict.fromkeys(self.series, RULES))

    def resolve(self, symbol: str) -> str:
        return self._recorded(symbol, "resolve").resolve(self.renamed.get(symbol, symbol))

    def rules(self, symbol: str) -> InstrumentRules:
        rules = self._recorded(symbol, "rules").rules(symbol)
        return self.rules_of.get(symbol, rules)

    def candles(self, symbol: str, timeframe_s: int, since: int, until: int) -> Candles:
        with self.lock:
            self.asked.append((symbol, since, until))
            asked = len(self.asked)
        self.before_answer(symbol, asked)
        return self._recorded(symbol, "candles").candles(symbol, timeframe_s, since, until + self.beyond_s)


@dataclass
class TradesVenue(Venue):
    """Builds older candles from trades, ``trades_page`` candles a page. Built ones have a volume of 1."""

    trades_page: int = 100
    built: list[tuple[str, int, int]] = field(default_factory=list)  # every page
    before_page: Callable[[int], object] = lambda pages: None

    def candles_from_trades(
        self, symbol: str, timeframe_s: int, since: int, until: int
    ) -> Iterator[tuple[Candles, int]]:
        for start in range(since, until, self.trades_page * timeframe_s):
            end = min(start + self.trades_page * timeframe_s, until)
            self.before_page(len(self.built))
            self.built.append((symbol, start, end))
            c = self._recorded(symbol, "trades").candles(symbol, timeframe_s, start, end)
            yield Candles(c.as_of, c.open, c.high, c.low, c.close, np.ones(len(c)), c.trades), end


def two_days(timeframe_s: int = FIVE) -> dict[str, Candles]:
    n = 48 * HOUR // timeframe_s
    return {symbol: random_candles(n, timeframe_s, seed, END) for seed, symbol in enumerate((A, B))}


def without(candles: Candles, *closes: datetime) -> Candles:
    return candles[~np.isin(candles.as_of, [to_unix(at) for at in closes])]


def stored(database: Database, timeframe_s: int = FIVE) -> dict[str, list[int]]:
    rows = database.fetch(
        "SELECT i.venue, i.symbol, extract(epoch FROM m.as_of)::bigint AS as_of FROM market_data m "
        "JOIN instruments i ON i.id = m.instrument_id WHERE m.timeframe_s = %(t)s ORDER BY i.symbol, m.as_of",
        {"t": timeframe_s},
    )
    return {symbol: [r["as_of"] for r in rows if r["symbol"] == symbol] for symbol in {r["symbol"] for r in rows}}


def until(series: dict[str, Candles], last: int) -> dict[str, list[int]]:
    return {symbol: candles.as_of[candles.as_of <= last].tolist() for symbol, candles in series.items()}


def gaps(database: Database) -> list[tuple[datetime, int, str | None]]:
    """Each hole of the 5m series of A: its first missing close, how many are missing, the finding."""
    rows = database.fetch(
        "SELECT g.after, g.missing, g.finding FROM candle_gaps g JOIN instruments i ON i.id = g.instrument_id "
        "WHERE g.timeframe_s = 300 AND i.symbol = %(symbol)s ORDER BY g.after",
        {"symbol": A},
    )
    return [(from_unix(r["after"].timestamp() + FIVE), r["missing"], r["finding"]) for r in rows]


def since(series: dict[str, Candles], at: datetime) -> dict[str, list[int]]:
    return until({s: c[c.as_of > to_unix(at)] for s, c in series.items()}, to_unix(NOON))


def slots(asked: list[tuple[str, int, int]]) -> list[tuple[str, int]]:
    return [(symbol, close) for symbol, a, u in asked for close in range(a + FIVE, u + FIVE, FIVE)]


def minutes(n: float) -> timedelta:
    return timedelta(minutes=n)
