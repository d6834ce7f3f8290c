"""Candles built from a list of trades, page by page, exactly as the venue builds its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal

from shared.rows import Candles

NS = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Trade:
    """``id`` is the venue's; volume in base units."""

    id: int
    time_ns: int
    price: float
    volume: Decimal


@dataclass(slots=True)
class _Bar:
    open: float
    high: float
    low: float
    close: float
    volume: Decimal  # a float sum would depend on the order
    trades: int

    def add(self, trade: Trade) -> None:
        self.high, self.low = max(self.high, trade.price), min(self.low, trade.price)
        self.close = trade.price
        self.volume += trade.volume
        self.trades += 1


class TradeCandles:
    """Takes pages of trades, oldest first, that may overlap; gives the candles that no later trade can change.

    ``known_until`` (Unix seconds) is the close up to which all is known; the interval of the newest trade is kept
    back, for the next page may hold more of it.
    """

    def __init__(self, timeframe_s: int, first_opened: int) -> None:
        self.known_until, self._timeframe_s = first_opened, timeframe_s
        self._bars: dict[int, _Bar] = {}  # by open time
        self._last_page: frozenset[int] = frozenset()

    def add(self, page: Sequence[Trade]) -> int:
        """How many trades of the page were new."""
        news = {trade.id: trade for trade in page if trade.id not in self._last_page}
        for trade in sorted(news.values(), key=lambda trade: (trade.time_ns, trade.id)):
            opened = trade.time_ns // NS // self._timeframe_s * self._timeframe_s
            self._add_to(opened, trade)
            self.known_until = max(self.known_until, opened)
        self._last_page = frozenset(trade.id for trade in page)
        return len(news)

    def nothing_more_until(self, end: int) -> None:
        """The venue has no further trade before ``end``."""
        self.known_until = max(self.known_until, end)

    def take(self, since: int, until: int) -> Candles:
        """The finished candles with since < as_of <= until that were not taken before."""
        done = sorted(opened for opened in self._bars if opened < self.known_until)
        bars = [(opened + self._timeframe_s, self._bars.pop(opened)) for opened in done]
        rows = [
            (at, b.open, b.high, b.low, b.close, float(b.volume), b.trades) for at, b in bars if since < at <= until
        ]
        return Candles.from_columns(list(zip(*rows, strict=True))) if rows else Candles.empty()

    def _add_to(self, opened: int, trade: Trade) -> None:
        bar = self._bars.get(opened)
        if bar is None:
            price = trade.price
            self._bars[opened] = _Bar(price, price, price, price, trade.volume, 1)
        else:
            bar.add(trade)
