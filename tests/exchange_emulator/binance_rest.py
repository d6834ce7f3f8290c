"""Binance's spot market over REST, to its documentation (developers.binance.com); no live venue was asked.

Prices and quantities are strings of eight decimals, times milliseconds; an error is a status of 400 and
``{"code": -1121, "msg": "Invalid symbol."}``.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from aiohttp import web

from shared.exchanges.simulated import EPOCH
from tests.exchange_emulator.binance_private import BinancePrivate
from tests.exchange_emulator.binance_requests import TYPES
from tests.exchange_emulator.binance_signature import skew_s
from tests.exchange_emulator.binance_wallet import BinanceWallet
from tests.exchange_emulator.binance_words import (
    MS,
    NS_PER_MS,
    ApiError,
    Arguments,
    illegal,
    missing,
    page_size,
    text,
    told_error,
    too_many,
    whole,
)
from tests.exchange_emulator.book import book_at
from tests.exchange_emulator.distortion import disorder_rows, distort_bars
from tests.exchange_emulator.market import NS, Bar, Trade
from tests.exchange_emulator.rest import Answer, Call, add_venue, as_json

if TYPE_CHECKING:
    from tests.exchange_emulator.server import Emulator

INTERVALS_S = {
    "1m": 60, "3m": 180, "5m": 300, "15m": 900, "30m": 1_800, "1h": 3_600, "2h": 7_200, "4h": 14_400, "6h": 21_600,
    "8h": 28_800, "12h": 43_200, "1d": 86_400,
}  # fmt: skip
LIMIT, MAX_LIMIT, MAX_DEPTH = 500, 1_000, 5_000
DAY_S = 86_400
WEIGHTS = {"exchangeInfo": 20, "depth": 5, "trades": 25, "aggTrades": 4, "klines": 2, "ticker/24hr": 2}  # others 1


def add_routes(app: web.Application, emulator: Emulator) -> None:
    add_venue(app, emulator, BinanceRest(emulator))
    add_venue(app, emulator, BinanceWallet(emulator))


class BinanceRest:
    prefix = "/api/v3/"

    def __init__(self, emulator: Emulator) -> None:
        self._emulator, self._market, self._faults = emulator, emulator.market, emulator.faults
        self._listed = {symbol.replace("/", ""): symbol for symbol in emulator.market.symbols}
        self._private = BinancePrivate(emulator)
        self._methods: dict[str, Callable[[Arguments], Any]] = {
            "ping": lambda _arguments: {},
            "time": self._time,
            "exchangeInfo": self._exchange_info,
            "klines": self._klines,
            "ticker/24hr": self._ticker,
            "ticker/bookTicker": self._book_ticker,
            "depth": self._depth,
            "trades": self._trades,
            "aggTrades": self._agg_trades,
        }

    # --- rest.Venue ---

    def answer(self, call: Call) -> Answer:
        limit, is_private = self._emulator.binance_limit, self._private.serves(call)
        if not limit.admit(self._private.weight(call) if is_private else WEIGHTS.get(call.endpoint, 1)):
            return self.too_many(limit.retry_after_s())
        if not is_private and call.endpoint not in self._methods:
            return Answer(b"<html><body><h2>404 Not found</h2></body></html>", 404, "text/html")
        try:
            told = self._private.answer(call) if is_private else self._methods[call.endpoint](call.arguments)
        except ApiError as error:
            return error.answer()
        return Answer(as_json(told), headers={"X-MBX-USED-WEIGHT-1M": str(limit.used)})

    def symbol(self, arguments: Arguments) -> str | None:
        return self._listed.get(arguments.get("symbol", ""))

    def error(self, words: str | None) -> Answer:
        return told_error(words)

    def null(self) -> Answer:
        return Answer(b"null")

    def too_many(self, retry_after_s: int) -> Answer:
        return too_many(retry_after_s)

    # --- the venue ---

    def _time(self, _arguments: Arguments) -> Any:
        return {"serverTime": int((self._now() + skew_s(self._faults, "time")) * MS)}

    def _exchange_info(self, arguments: Arguments) -> Any:
        rule = self._faults.active("maintenance", surface="rest", endpoint="exchangeInfo")
        if rule is not None:
            self._faults.spend(rule)
        status = "TRADING" if rule is None else "BREAK"
        symbols = [self._symbol_info(name, status) for name in self._asked(arguments, "exchangeInfo")]
        return {"timezone": "UTC", "serverTime": int(self._now() * MS), "rateLimits": [], "exchangeFilters": [],
                "symbols": symbols}  # fmt: skip

    def _symbol_info(self, name: str, status: str) -> dict[str, Any]:
        rules = self._emulator.rules.of("binance", self._listed[name])
        base, quote = self._listed[name].split("/")
        tick, lot = text(rules.tick_size), text(rules.lot_size)
        return {
            "symbol": name,
            "status": status,
            "baseAsset": base,
            "baseAssetPrecision": 8,
            "quoteAsset": quote,
            "quotePrecision": 8,
            "quoteAssetPrecision": 8,
            "orderTypes": list(TYPES),
            "ocoAllowed": True,
            "allowTrailingStop": True,
            "isSpotTradingAllowed": True,
            "isMarginTradingAllowed": False,
            "filters": [
                {"filterType": "PRICE_FILTER", "minPrice": tick, "maxPrice": "1000000.00000000", "tickSize": tick},
                {
                    "filterType": "LOT_SIZE",
                    "minQty": text(rules.min_quantity),
                    "maxQty": "9000.00000000",
                    "stepSize": lot,
                },
                {"filterType": "NOTIONAL", "minNotional": text(rules.min_notional), "applyMinToMarket": True},
            ],
            "permissions": [],
            "permissionSets": [["SPOT"]],
        }

    def _klines(self, arguments: Arguments) -> Any:
        """Opened within startTime..endTime, both inclusive: the first ``limit``, or the last without startTime."""
        _, symbol = self._one(arguments, "klines")
        width = INTERVALS_S.get(arguments.get("interval", ""))
        if width is None:
            raise ApiError(-1120, "Invalid interval.")
        now, limit = self._now(), page_size(arguments, LIMIT, MAX_LIMIT)
        end = min(int(now), whole(arguments, "endTime", int(now * MS)) // MS)
        newest = end // width * width
        start = newest - (limit - 1) * width
        if "startTime" in arguments:
            start = max(EPOCH, -(-whole(arguments, "startTime", 0) // (width * MS)) * width)
            newest = min(newest, start + (limit - 1) * width)
        if newest < start:
            return []
        if newest + width > now:
            *closed, last = self._market.bars_at(symbol, width, start, now)
            still_open = [last]
        else:
            closed, still_open = self._market.bars(symbol, width, start, newest + width), []
        closed = distort_bars(self._faults, closed, width, now, "rest", "klines", symbol)
        rows = [_kline(bar, width) for bar in (*closed, *still_open)]
        return disorder_rows(self._faults, rows, "klines", symbol)

    def _ticker(self, arguments: Arguments) -> Any:
        return self._each(arguments, "ticker/24hr", self._ticker_of)

    def _ticker_of(self, name: str) -> dict[str, Any]:
        symbol, now = self._listed[name], self._now()
        day = self._market.bars_at(symbol, 60, int(now) - DAY_S, now)
        volume, notional = sum(bar.volume for bar in day), sum(bar.notional for bar in day)
        (trade,) = self._market.latest_trades(symbol, int(now * NS), 1)
        first, count = day[0], sum(bar.count for bar in day)
        change = trade.price - first.open
        return {
            "priceChange": text(change),
            "priceChangePercent": f"{100 * change / first.open:.3f}",
            "weightedAvgPrice": text(notional / volume),
            "prevClosePrice": text(first.open),
            "lastPrice": text(trade.price),
            "lastQty": text(trade.volume),
            **self._book_ticker_of(name),
            "openPrice": text(first.open),
            "highPrice": text(max(bar.high for bar in day)),
            "lowPrice": text(min(bar.low for bar in day)),
            "volume": text(volume),
            "quoteVolume": text(notional),
            "openTime": first.opened * MS,
            "closeTime": int(now * MS),
            "firstId": trade.id - count + 1,
            "lastId": trade.id,
            "count": count,
        }

    def _book_ticker(self, arguments: Arguments) -> Any:
        return self._each(arguments, "ticker/bookTicker", self._book_ticker_of)

    def _book_ticker_of(self, name: str) -> dict[str, Any]:
        (bid,), (ask,) = book_at(self._market, self._listed[name], self._now(), 1)
        return {
            "symbol": name,
            "bidPrice": text(bid.price),
            "bidQty": text(bid.volume),
            "askPrice": text(ask.price),
            "askQty": text(ask.volume),
        }

    def _depth(self, arguments: Arguments) -> Any:
        _, symbol = self._one(arguments, "depth")
        bids, asks = book_at(self._market, symbol, self._now(), page_size(arguments, 100, MAX_DEPTH))
        bids, asks = ([[text(x.price), text(x.volume)] for x in side] for side in (bids, asks))
        return {"lastUpdateId": self._newest(symbol, 1)[0].id, "bids": bids, "asks": asks}

    def _trades(self, arguments: Arguments) -> Any:
        _, symbol = self._one(arguments, "trades")
        rows = [_trade(trade) for trade in self._newest(symbol, page_size(arguments, LIMIT, MAX_LIMIT))]
        return disorder_rows(self._faults, rows, "trades", symbol)

    def _agg_trades(self, arguments: Arguments) -> Any:
        """From ``fromId`` on, within startTime..endTime (inclusive), or the newest; each trade is its own aggregate."""
        _, symbol = self._one(arguments, "aggTrades")
        limit, now_ns = page_size(arguments, LIMIT, MAX_LIMIT), int(self._now() * NS)
        until_ns = min(now_ns, (whole(arguments, "endTime", now_ns // NS_PER_MS) + 1) * NS_PER_MS - 1)
        if "fromId" in arguments:
            first = min(whole(arguments, "fromId", 1), self._newest(symbol, 1)[0].id + 1)
            trades = self._market.trades(symbol, self._market.time_of(symbol, max(1, first)) - 1, now_ns, limit)
        elif "startTime" in arguments:
            trades = self._market.trades(symbol, whole(arguments, "startTime", 0) * NS_PER_MS - 1, until_ns, limit)
        else:
            trades = self._market.latest_trades(symbol, until_ns, limit)
        return disorder_rows(self._faults, [_agg_trade(trade) for trade in trades], "aggTrades", symbol)

    # --- small things ---

    def _now(self) -> float:
        return self._emulator.clock.now()

    def _newest(self, symbol: str, limit: int) -> list[Trade]:
        return self._market.latest_trades(symbol, int(self._now() * NS), limit)

    def _one(self, arguments: Arguments, endpoint: str) -> tuple[str, str]:
        """The symbol that is asked for, as Binance writes it and as BASE/QUOTE."""
        if "symbol" not in arguments:
            raise missing("symbol")
        (name,) = self._asked(arguments, endpoint)
        return name, self._listed[name]

    def _asked(self, arguments: Arguments, endpoint: str) -> list[str]:
        """What ``symbol=`` or ``symbols=["…"]`` names, or all that is listed."""
        listed = [name for name in self._listed if not self._is_delisted(name, endpoint)]
        if "symbol" in arguments:
            names = [arguments["symbol"]]
        elif "symbols" in arguments:
            names = _names(arguments["symbols"])
        else:
            return listed
        if not set(names) <= set(listed):
            raise ApiError(-1121, "Invalid symbol.")
        return names

    def _each(self, arguments: Arguments, endpoint: str, row: Callable[[str], Any]) -> Any:
        """One object for one symbol, else a list."""
        rows = [row(name) for name in self._asked(arguments, endpoint)]
        return rows[0] if "symbol" in arguments else rows

    def _is_delisted(self, name: str, endpoint: str) -> bool:
        rule = self._faults.active("delisting", self._listed[name], "rest", endpoint)
        if rule is not None:
            self._faults.spend(rule)
        return rule is not None


def _names(given: str) -> list[str]:
    """Of a JSON list of strings."""
    try:
        names = json.loads(given)
    except ValueError:
        names = None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise illegal("symbols")
    return names


def _kline(bar: Bar, width: int) -> list[Any]:
    """Takers' purchases, its last figures, are not counted here: half of everything."""
    prices = map(text, (bar.open, bar.high, bar.low, bar.close))
    halves = text(bar.volume / 2), text(bar.notional / 2)
    closes = (bar.opened + width) * MS - 1
    return [bar.opened * MS, *prices, text(bar.volume), closes, text(bar.notional), bar.count, *halves, "0"]


def _trade(trade: Trade) -> dict[str, Any]:
    return {
        "id": trade.id,
        "price": text(trade.price),
        "qty": text(trade.volume),
        "quoteQty": text(trade.price * trade.volume),
        "time": trade.time_ns // NS_PER_MS,
        "isBuyerMaker": trade.side == "sell",
        "isBestMatch": True,
    }


def _agg_trade(trade: Trade) -> dict[str, Any]:
    return {
        "a": trade.id,
        "p": text(trade.price),
        "q": text(trade.volume),
        "f": trade.id,
        "l": trade.id,
        "T": trade.time_ns // NS_PER_MS,
        "m": trade.side == "sell",
        "M": True,
    }
