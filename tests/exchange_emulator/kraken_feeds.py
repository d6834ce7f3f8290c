"""What Kraken's WebSocket v2 tells in each public channel: a snapshot, then updates as time passes. No I/O.

Shapes from docs.kraken.com/exchange/api-reference/spot-websocket-v2. Numbers are JSON numbers with their exact digits.
Like the venue's, a feed has news only where there was a trade: nothing tells that a candle is closed.
"""

from __future__ import annotations

import json
import zlib
from decimal import Decimal
from typing import Any, Protocol

from shared.clock import from_unix
from tests.exchange_emulator.book import Level, book_at
from tests.exchange_emulator.distortion import distort_bars
from tests.exchange_emulator.faults import Switchboard
from tests.exchange_emulator.kraken_pairs import LOT_DECIMALS, Pair, asset_info
from tests.exchange_emulator.market import NS, Bar, Market, Trade

INTERVALS_MIN = (1, 5, 15, 30, 60, 240, 1_440, 10_080, 21_600)
DEPTHS = (10, 25, 100, 500, 1_000)
CHECKED_DEPTH = 10
SNAPSHOT_BARS, SNAPSHOT_TRADES = 10, 50
HOUR_S, DAY_S = 3_600, 86_400

Side = dict[Decimal, Decimal]  # price -> quantity, the best first
Data = Any  # of one message: a list of elements, or the instruments


class Feed(Protocol):
    """One subscription. ``now`` in virtual Unix seconds, never smaller than the last time."""

    def snapshot(self, now: float) -> Data:
        """To be asked first, also where it is not sent: the updates are what is new since."""
        ...

    def updates(self, now: float) -> list[Data]:
        """What happened since the last call, oldest first; one item a message."""
        ...


class OhlcFeed:
    """Candles as trades change them; the last state of a closed one comes with the first trade after it."""

    def __init__(self, market: Market, faults: Switchboard, symbol: str, interval_min: int) -> None:
        self._market, self._faults, self._symbol = market, faults, symbol
        self._interval_min, self._width = interval_min, 60 * interval_min
        self._newest = 0
        self._told: Bar | None = None  # the newest state, as it truly is

    def snapshot(self, now: float) -> Data:
        return [self._element(bar) for bar in self._news(now, self._current(now) - (SNAPSHOT_BARS - 1) * self._width)]

    def updates(self, now: float) -> list[Data]:
        if _newest(self._market, self._symbol, now).id == self._newest:
            return []
        told = self._told
        since = self._current(now) if told is None else told.opened
        return [[self._element(bar)] for bar in self._news(now, since) if bar != told]

    def _news(self, now: float, since: int) -> list[Bar]:
        """The candles with trades opened from ``since`` on, as they are served."""
        bars = [bar for bar in self._market.bars_at(self._symbol, self._width, since, now) if bar.count]
        self._newest = _newest(self._market, self._symbol, now).id
        if bars:
            self._told = bars[-1]
        current = self._current(now)
        closed = [bar for bar in bars if bar.opened < current]
        still_open = [bar for bar in bars if bar.opened == current and not self._is_left_out(bar)]
        return distort_bars(self._faults, closed, self._width, now, "stream", "ohlc", self._symbol) + still_open

    def _is_left_out(self, bar: Bar) -> bool:
        """A gap that names its candle swallows it from its first trade on."""
        rule = self._faults.active("gap", self._symbol, "stream", "ohlc")
        return rule is not None and rule.parameter is not None and 0 <= float(rule.parameter) - bar.opened < self._width

    def _current(self, now: float) -> int:
        return int(now // self._width * self._width)

    def _element(self, bar: Bar) -> dict[str, Any]:
        return {
            "symbol": self._symbol,
            "open": bar.open,
            "high": bar.high,
            "low": bar.low,
            "close": bar.close,
            "trades": bar.count,
            "volume": bar.volume,
            "vwap": bar.vwap,
            "interval_begin": rfc3339(bar.opened * NS, 9),
            "interval": self._interval_min,
            "timestamp": rfc3339((bar.opened + self._width) * NS),
        }


class BookFeed:
    """The best levels around the last price; a level that better ones push out is not taken back."""

    def __init__(self, market: Market, symbol: str, depth: int) -> None:
        self._market, self._symbol, self._depth = market, symbol, depth
        self._newest = 0
        self._bids: Side = {}
        self._asks: Side = {}

    def snapshot(self, now: float) -> Data:
        self._bids, self._asks = self._read(now)
        return [self._element(self._bids, self._asks, now)]

    def updates(self, now: float) -> list[Data]:
        if _newest(self._market, self._symbol, now).id == self._newest:
            return []
        before_bids, before_asks = self._bids, self._asks
        self._bids, self._asks = self._read(now)
        bids = _changes(before_bids, self._bids, self._depth)
        asks = _changes(before_asks, self._asks, self._depth)
        return [[self._element(bids, asks, now)]]

    def _read(self, now: float) -> tuple[Side, Side]:
        self._newest = _newest(self._market, self._symbol, now).id
        bids, asks = book_at(self._market, self._symbol, now, self._depth)
        return self._as_side(bids), self._as_side(asks)

    def _as_side(self, levels: list[Level]) -> Side:
        tick = self._market.rules(self._symbol).tick_size
        return {level.price.quantize(tick): level.volume for level in levels}

    def _element(self, bids: Side, asks: Side, now: float) -> dict[str, Any]:
        sides = {
            name: [{"price": price, "qty": quantity} for price, quantity in side.items()]
            for name, side in (("bids", bids), ("asks", asks))
        }
        sent = rfc3339(_newest(self._market, self._symbol, now).time_ns)
        return {"symbol": self._symbol, **sides, "checksum": checksum(self._asks, self._bids), "timestamp": sent}


class TradeFeed:
    def __init__(self, market: Market, symbol: str) -> None:
        self._market, self._symbol = market, symbol
        self._since_ns = 0

    def snapshot(self, now: float) -> Data:
        trades = self._market.latest_trades(self._symbol, int(now * NS), SNAPSHOT_TRADES)
        self._since_ns = trades[-1].time_ns
        return [self._element(trade) for trade in trades]

    def updates(self, now: float) -> list[Data]:
        trades = self._market.trades(self._symbol, self._since_ns, int(now * NS))
        if not trades:
            return []
        self._since_ns = trades[-1].time_ns
        return [[self._element(trade) for trade in trades]]

    def _element(self, trade: Trade) -> dict[str, Any]:
        return {
            "symbol": self._symbol,
            "side": trade.side,
            "price": trade.price,
            "qty": trade.volume,
            "ord_type": "limit",
            "trade_id": trade.id,
            "timestamp": rfc3339(trade.time_ns),
        }


class TickerFeed:
    def __init__(self, market: Market, symbol: str) -> None:
        self._market, self._symbol = market, symbol
        self._newest = 0

    def snapshot(self, now: float) -> Data:
        return [self._element(now)]

    def updates(self, now: float) -> list[Data]:
        news = _newest(self._market, self._symbol, now).id != self._newest
        return [[self._element(now)]] if news else []

    def _element(self, now: float) -> dict[str, Any]:
        """The day is the last 24 whole hours and the current one."""
        trade = _newest(self._market, self._symbol, now)
        self._newest = trade.id
        day = self._market.bars_at(self._symbol, HOUR_S, int(now // HOUR_S * HOUR_S) - DAY_S, now)
        (bid, *_), (ask, *_) = book_at(self._market, self._symbol, now, 1)
        volume, tick = sum(bar.volume for bar in day), self._market.rules(self._symbol).tick_size
        return {
            "symbol": self._symbol,
            "bid": bid.price,
            "bid_qty": bid.volume,
            "ask": ask.price,
            "ask_qty": ask.volume,
            "last": trade.price,
            "volume": volume,
            "vwap": (sum(bar.notional for bar in day) / volume).quantize(tick),
            "low": min(bar.low for bar in day),
            "high": max(bar.high for bar in day),
            "change": trade.price - day[0].open,
            "change_pct": ((trade.price / day[0].open - 1) * 100).quantize(Decimal("0.01")),
            "timestamp": rfc3339(trade.time_ns),
        }


class InstrumentFeed:
    """The pairs and their precisions; nothing changes while the emulator runs but a delisting."""

    def __init__(self, market: Market, faults: Switchboard) -> None:
        self._market, self._faults = market, faults

    def snapshot(self, now: float) -> Data:
        listed = [s for s in self._market.symbols if not self._faults.active("delisting", s, "stream", "instrument")]
        assets = dict.fromkeys(asset for symbol in listed for asset in Pair(symbol).assets)
        return {
            "assets": [
                {"id": asset, "status": "enabled", "precision": asset_info(asset)["decimals"],
                 "precision_display": asset_info(asset)["display_decimals"], "borrowable": False,
                 "collateral_value": Decimal("0.0"), "margin_rate": Decimal("0.0")}
                for asset in assets
            ],
            "pairs": [self._pair(symbol) for symbol in listed],
        }  # fmt: skip

    def updates(self, now: float) -> list[Data]:
        return []

    def _pair(self, symbol: str) -> dict[str, Any]:
        rules, (base, quote) = self._market.rules(symbol), Pair(symbol).assets
        return {
            "symbol": symbol,
            "base": base,
            "quote": quote,
            "status": "online",
            "qty_precision": LOT_DECIMALS,
            "qty_increment": Decimal(1).scaleb(-LOT_DECIMALS),
            "qty_min": rules.lot_size,
            "price_precision": self._market.price_decimals(symbol),
            "price_increment": rules.tick_size,
            "cost_precision": 5,
            "cost_min": Decimal("0.5"),
            "marginable": False,
            "has_index": False,
        }


def checksum(asks: Side, bids: Side) -> int:
    """CRC32 of the ten best, asks first, each price and quantity as printed without point and leading zeros."""
    best = [*asks.items()][:CHECKED_DEPTH] + [*bids.items()][:CHECKED_DEPTH]
    printed = "".join(f"{number:f}".replace(".", "").lstrip("0") for level in best for number in level)
    return zlib.crc32(printed.encode())


def _changes(before: Side, after: Side, depth: int) -> Side:
    """What turns one side into the other: new quantities, and 0 for what is gone and was not pushed out."""
    changed = {price: quantity for price, quantity in after.items() if before.get(price) != quantity}
    gone = [price for price in before if price not in after]
    if len(after) == depth:
        best, *_, worst = after
        gone = [price for price in gone if (price < worst) == (best < worst)]
    return dict.fromkeys(gone, Decimal(0)) | changed


def _newest(market: Market, symbol: str, now: float) -> Trade:
    (trade,) = market.latest_trades(symbol, int(now * NS), 1)
    return trade


def rfc3339(at_ns: int, decimals: int = 6) -> str:
    whole, part = divmod(at_ns, NS)
    return f"{from_unix(whole):%Y-%m-%dT%H:%M:%S}.{f'{part:09d}'[:decimals]}Z"


def to_json(value: Any) -> str:
    """As json.dumps, with Decimals as numbers of exactly their digits."""
    if isinstance(value, Decimal):
        return f"{value:f}"
    if isinstance(value, dict):
        return "{" + ",".join(f"{json.dumps(key)}:{to_json(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(map(to_json, value)) + "]"
    return json.dumps(value)
