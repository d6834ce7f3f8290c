"""Kraken's public REST API, to its documentation (docs.kraken.com/api, market data); no live venue was asked.

HTTP 200 even for API errors: ``{"error": [...], "result": ...}``.
"""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from email.utils import format_datetime
from typing import TYPE_CHECKING, Any

from aiohttp import web

from shared.clock import from_unix
from tests.exchange_emulator.book import Level, book_at
from tests.exchange_emulator.distortion import disorder_rows, distort_bars
from tests.exchange_emulator.kraken_pairs import Pair, asset_altname, asset_id, asset_info
from tests.exchange_emulator.market import NS, Bar, Trade
from tests.exchange_emulator.rest import Answer, Call, add_venue, as_json

if TYPE_CHECKING:
    from tests.exchange_emulator.server import Emulator

INTERVALS_MIN = (1, 5, 15, 30, 60, 240, 1_440, 10_080, 21_600)
SERVED = 720  # candles
MAX_TRADES, MAX_DEPTH, DEPTH, SPREADS = 1_000, 500, 100, 200
SECONDS_END = 10**12  # a ``since`` of trades below this is in seconds, not nanoseconds
DAY_S = 86_400
DEFAULT_SKEW_S = 10.0

Arguments = dict[str, str]


class ApiError(Exception):
    """Kraken's own words."""


UNKNOWN_PAIR = "EQuery:Unknown asset pair"
INVALID = "EGeneral:Invalid arguments"


def add_routes(app: web.Application, emulator: Emulator) -> None:
    add_venue(app, emulator, KrakenRest(emulator))


class KrakenRest:
    prefix = "/0/public/"

    def __init__(self, emulator: Emulator) -> None:
        self._emulator, self._market, self._faults = emulator, emulator.market, emulator.faults
        self._pairs = [Pair(symbol) for symbol in emulator.market.symbols]
        self._named = {name.upper(): pair for pair in self._pairs for name in pair.names}
        self._methods: dict[str, Callable[[Arguments], Any]] = {
            "Time": self._time,
            "SystemStatus": self._system_status,
            "Assets": self._assets,
            "AssetPairs": self._asset_pairs,
            "Ticker": self._ticker,
            "OHLC": self._ohlc,
            "Trades": self._trades,
            "Depth": self._depth,
            "Spread": self._spread,
        }

    # --- rest.Venue ---

    def answer(self, call: Call) -> Answer:
        endpoint, arguments = call.endpoint, call.arguments
        if not self._emulator.kraken_limit.admit():
            return self.error("EAPI:Rate limit exceeded")
        if endpoint not in self._methods:
            return self.error("EGeneral:Unknown method")
        try:
            result = self._methods[endpoint](arguments)
        except ApiError as error:
            return self.error(str(error))
        return Answer(as_json({"error": [], "result": result}))

    def symbol(self, arguments: Arguments) -> str | None:
        pair = self._named.get(arguments.get("pair", "").upper())
        return None if pair is None else pair.symbol

    def error(self, text: str | None) -> Answer:
        return Answer(as_json({"error": [text or "EService:Unavailable"]}))

    def null(self) -> Answer:
        return Answer(as_json({"error": [], "result": None}))

    def too_many(self, retry_after_s: int) -> Answer:
        return Answer(b"Too Many Requests", 429, "text/plain", {"Retry-After": str(retry_after_s)})

    # --- the venue ---

    def _time(self, _arguments: Arguments) -> Any:
        rule = self._faults.active("clock_skew", surface="rest", endpoint="Time")
        if rule is None:
            now = self._now()
        else:
            now = self._now() + float(DEFAULT_SKEW_S if rule.parameter is None else rule.parameter)
            self._faults.spend(rule)
        return {"unixtime": int(now), "rfc1123": format_datetime(from_unix(now))}

    def _system_status(self, _arguments: Arguments) -> Any:
        status = "online"
        for name in ("maintenance", "cancel_only", "post_only"):
            rule = self._faults.active(name, surface="rest", endpoint="SystemStatus")
            if rule is not None:
                status = name
                self._faults.spend(rule)
                break
        return {"status": status, "timestamp": f"{from_unix(int(self._now())):%Y-%m-%dT%H:%M:%SZ}"}

    def _assets(self, arguments: Arguments) -> Any:
        assets = dict.fromkeys(asset for pair in self._pairs for asset in pair.assets)
        wanted = arguments["asset"].upper().split(",") if "asset" in arguments else None
        found = {
            asset_id(asset): asset_info(asset)
            for asset in assets
            if wanted is None or {asset_id(asset), asset_altname(asset), asset} & set(wanted)
        }
        if wanted is not None and len(found) < len(wanted):
            raise ApiError("EQuery:Unknown asset")
        return found

    def _asset_pairs(self, arguments: Arguments) -> Any:
        return {
            pair.id: pair.info(self._emulator.rules.of("kraken", pair.symbol))
            for pair in self._asked(arguments, "AssetPairs")
        }

    def _ticker(self, arguments: Arguments) -> Any:
        return {pair.id: self._tick(pair.symbol) for pair in self._asked(arguments, "Ticker")}

    def _tick(self, symbol: str) -> Any:
        now = self._now()
        today = self._market.bars_at(symbol, DAY_S, int(now // DAY_S * DAY_S), now)[-1]
        day = self._market.bars_at(symbol, 60, int(now) - DAY_S, now)
        volume = sum(bar.volume for bar in day)
        vwap = sum(bar.notional for bar in day) / volume
        bids, asks = book_at(self._market, symbol, now, 1)
        (trade,) = self._market.latest_trades(symbol, int(now * NS), 1)
        price, lots = self._price(symbol), _lots
        return {
            "a": _best(asks[0], price),
            "b": _best(bids[0], price),
            "c": [price(trade.price), lots(trade.volume)],
            "v": [lots(today.volume), lots(volume)],
            "p": [price(today.vwap), price(vwap)],
            "t": [today.count, sum(bar.count for bar in day)],
            "l": [price(today.low), price(min(bar.low for bar in day))],
            "h": [price(today.high), price(max(bar.high for bar in day))],
            "o": price(today.open),
        }

    def _ohlc(self, arguments: Arguments) -> Any:
        """Of the latest 720 only, those opened after ``since``; the current one comes last, always."""
        pair, interval = self._one(arguments, "OHLC"), _whole(arguments, "interval", 1)
        if interval not in INTERVALS_MIN:
            raise ApiError(INVALID)
        now, width, since = self._now(), 60 * interval, _whole(arguments, "since", 0)
        current = int(now // width * width)
        first = min(max(current - (SERVED - 1) * width, since + 1), current)
        *committed, last = self._market.bars_at(pair.symbol, width, first, now)
        cursor = committed[-1].opened if committed else max(since, current - width)
        committed = distort_bars(self._faults, committed, width, now, "rest", "OHLC", pair.symbol)
        rows = [self._entry(pair.symbol, bar) for bar in (*committed, last)]
        return {pair.id: disorder_rows(self._faults, rows, "OHLC", pair.symbol), "last": cursor}

    def _entry(self, symbol: str, bar: Bar) -> list[Any]:
        prices = map(self._price(symbol), (bar.open, bar.high, bar.low, bar.close, bar.vwap))
        return [bar.opened, *prices, _lots(bar.volume), bar.count]

    def _trades(self, arguments: Arguments) -> Any:
        """The first of those after ``since`` (ns, exclusive), or the newest where it is not given."""
        pair, now_ns = self._one(arguments, "Trades"), int(self._now() * NS)
        count = _whole(arguments, "count", MAX_TRADES)
        if not 1 <= count <= MAX_TRADES:
            raise ApiError(INVALID)
        if "since" in arguments:
            since = _whole(arguments, "since", 0)
            since *= NS if since < SECONDS_END else 1
            trades = self._market.trades(pair.symbol, since, now_ns, count)
        else:
            since = now_ns
            trades = self._market.latest_trades(pair.symbol, now_ns, count)
        rows = [self._trade(pair.symbol, trade) for trade in trades]
        last = trades[-1].time_ns if trades else since
        return {pair.id: disorder_rows(self._faults, rows, "Trades", pair.symbol), "last": str(last)}

    def _trade(self, symbol: str, trade: Trade) -> list[Any]:
        price, side = self._price(symbol)(trade.price), trade.side[0]
        return [price, _lots(trade.volume), trade.time_ns / NS, side, "l", "", trade.id]

    def _depth(self, arguments: Arguments) -> Any:
        pair, count = self._one(arguments, "Depth"), _whole(arguments, "count", DEPTH)
        if not 1 <= count <= MAX_DEPTH:
            raise ApiError(INVALID)
        bids, asks = book_at(self._market, pair.symbol, self._now(), count)
        price = self._price(pair.symbol)
        asks, bids = ([[price(x.price), f"{x.volume:.3f}", x.time] for x in side] for side in (asks, bids))
        return {pair.id: {"asks": asks, "bids": bids}}

    def _spread(self, arguments: Arguments) -> Any:
        pair, since = self._one(arguments, "Spread"), _whole(arguments, "since", 0)
        price, tick = self._price(pair.symbol), self._market.rules(pair.symbol).tick_size
        trades = self._market.latest_trades(pair.symbol, int(self._now() * NS), SPREADS)
        rows = [[t.time_ns // NS, price(t.price - tick), price(t.price + tick)] for t in trades]
        rows = [row for row in rows if row[0] >= since]
        return {pair.id: rows, "last": rows[-1][0] if rows else since}

    # --- small things ---

    def _now(self) -> float:
        return self._emulator.clock.now()

    def _one(self, arguments: Arguments, endpoint: str) -> Pair:
        if "pair" not in arguments:
            raise ApiError(INVALID)
        pairs = self._asked(arguments, endpoint)
        if len(pairs) != 1:
            raise ApiError(UNKNOWN_PAIR)
        return pairs[0]

    def _asked(self, arguments: Arguments, endpoint: str) -> list[Pair]:
        """The pairs that ``pair=`` names, or all that are listed."""
        listed = [pair for pair in self._pairs if not self._is_delisted(pair, endpoint)]
        if "pair" not in arguments:
            return listed
        asked = [self._named.get(name.upper()) for name in arguments["pair"].split(",")]
        found = [pair for pair in asked if pair is not None and pair in listed]
        if len(found) < len(asked):
            raise ApiError(UNKNOWN_PAIR)
        return found

    def _is_delisted(self, pair: Pair, endpoint: str) -> bool:
        rule = self._faults.active("delisting", pair.symbol, "rest", endpoint)
        if rule is not None:
            self._faults.spend(rule)
        return rule is not None

    def _price(self, symbol: str) -> Callable[[Decimal], str]:
        decimals = self._market.price_decimals(symbol)
        return lambda value: f"{value:.{decimals}f}"


def _lots(volume: Decimal) -> str:
    return f"{volume:.8f}"


def _best(level: Level, price: Callable[[Decimal], str]) -> list[str]:
    """[price, whole lots, lots]."""
    return [price(level.price), str(int(level.volume)), f"{level.volume:.3f}"]


def _whole(arguments: Arguments, name: str, default: int) -> int:
    text = arguments.get(name, str(default))
    try:
        return int(Decimal(text))
    except (ArithmeticError, ValueError):
        raise ApiError(INVALID) from None
