"""Kraken's public REST market data, through krakenex; no key is needed and none is ever given.

Facts from https://docs.kraken.com/api-reference/market-data/get-ohlc-data: OHLC serves the most recent 720 entries
only, and the last entry is the current, not-yet-committed one. Older candles are built from Trades, which serves
1000 a page from the market's first (docs.kraken.com/api-reference/market-data/get-recent-trades).
"""

from __future__ import annotations

import math
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any, TypeVar

import krakenex
import requests

from shared.clock import Timer
from shared.exchanges.environment import read_once
from shared.exchanges.kraken_pairs import (
    Pair,
    both_names,
    canonical,
    parse_assets,
    parse_pairs,
    parse_rules,
    spellings,
)
from shared.exchanges.protocol import (
    Capabilities,
    ExchangeError,
    NotListed,
    StreamEvent,
    VenueStatus,
    provenance_at,
    require_storable,
)
from shared.exchanges.resilience import PassingTrouble, VenueCalls, excerpt, retry_after_s, root_cause
from shared.exchanges.trade_candles import Trade, TradeCandles
from shared.rows import Candles, InstrumentRules
from shared.settings import FeedSettings

INTERVALS_MIN = (1, 5, 15, 30, 60, 240, 1_440, 10_080)
TIMEOUT_S = 15.0
PAIRS_TTL_S = 3_600.0  # a delisting or a new tick must be noticed
TRADES_PAGE = 1_000
NS = 1_000_000_000
PASSING_STATUS = (500, 502, 503, 504, 520, 521, 522, 523, 524, 525)
# "Try later" in the API's words, and what it is about; the first that matches.
PASSING_ERRORS = {
    "EAPI:Rate limit exceeded": "rate_limited",
    "EGeneral:Too many requests": "rate_limited",
    "EService: Throttled": "rate_limited",
    "EService:Unavailable": "maintenance",
    "EService:": "server_error",
    "EGeneral:Internal error": "server_error",
}
WEBSOCKET_URL = "wss://ws.kraken.com/v2"
STATUSES: dict[str, VenueStatus] = {
    "online": "online", "maintenance": "maintenance", "cancel_only": "cancel_only", "post_only": "post_only",
}  # fmt: skip
T = TypeVar("T")


class KrakenExchange:
    """The venue ``kraken``. Objects share the rate limit where they share a ``home``; else hold one of these."""

    name = "kraken"
    capabilities = Capabilities(
        timeframes_s=tuple(60 * minutes for minutes in INTERVALS_MIN),
        requests_per_s=1.0,  # counted per IP
        exercised="emulator",
        candle_depth=720,
        candle_page=720,
        streams_candles=True,
        builds_from_trades=True,
        sandbox=False,
        client_order_ids=True,
        oco=False,
        order_types=("market", "limit", "stop-loss", "stop-loss-limit", "take-profit", "take-profit-limit",
                     "trailing-stop", "trailing-stop-limit", "iceberg"),
    )  # fmt: skip

    def __init__(
        self,
        rest_url: str | None = None,
        websocket_url: str | None = None,
        *,
        timer: Timer | None = None,
        requests_per_s: float | None = None,
        home: Path | None = None,
    ) -> None:
        """``rest_url`` without the version, like https://api.kraken.com; there ``requests_per_s`` may be higher."""
        allowed = self.capabilities.requests_per_s
        rate = requests_per_s or allowed
        if rest_url is None and rate > allowed:
            raise ExchangeError(
                f"kraken allows {allowed:g} requests/s, not {rate:g}: lower venues.kraken.requests_per_s"
            )
        self.capabilities = replace(self.capabilities, requests_per_s=rate)
        self.calls = VenueCalls(self.name, rate, timer=timer, home=home)
        self._rest_url, self._websocket_url = rest_url, websocket_url or WEBSOCKET_URL
        self.provenance = provenance_at(rest_url)
        self._thread = threading.local()

    def resolve(self, symbol: str) -> str:
        """The canonical BASE/QUOTE that Kraken lists: the symbol itself, else its dollar-token quote as USD.

        XBT and BTC, XDG and DOGE are one asset each. ExchangeError names what was tried.
        """
        tried = spellings(symbol)
        pairs = self.pairs()
        for candidate in tried:
            if candidate in pairs:
                return candidate
        raise NotListed(f"kraken lists no {symbol!r}: tried {', '.join(map(both_names, tried))}")

    def rules(self, symbol: str) -> InstrumentRules:
        """Tick, lot, least cost (costmin) and least quantity (ordermin), and the pair's own status."""
        pair = self._pair(symbol)
        try:
            rules = parse_rules(pair.info)
        except (TypeError, ValueError, KeyError, ArithmeticError) as error:
            message = f"kraken AssetPairs {pair.id}: no rules in {excerpt(pair.info)}"
            raise ExchangeError(message, kind="malformed") from error
        return require_storable(rules, f"kraken {symbol}")

    def pairs(self) -> dict[str, Pair]:
        """Every pair that is listed, by its symbol; up to an hour old."""
        return self._ask("AssetPairs", {}, parse_pairs, PAIRS_TTL_S)

    def assets(self) -> dict[str, str]:
        """Every asset's common name by Kraken's id, XXBT -> BTC; up to an hour old."""
        return self._ask("Assets", {}, parse_assets, PAIRS_TTL_S)

    def server_time(self) -> float:
        return self._ask("Time", {}, lambda result: float(result["unixtime"]))

    def status(self) -> VenueStatus:
        return self._ask("SystemStatus", {}, lambda result: STATUSES[result["status"]])

    def candles(self, symbol: str, timeframe_s: int, since: int, until: int) -> Candles:
        """The committed candles with since < as_of <= until (Unix seconds), of the latest 720 at most.

        ExchangeError: a symbol that is not listed (resolve it first), a timeframe Kraken does not serve, no
        answer after a few tries, or an answer that is not candles.
        """
        _check_timeframe(timeframe_s)
        pair = self._pair(symbol)
        if until <= since:
            return Candles.empty()
        rows = self._committed_rows(pair.id, timeframe_s, since, until)
        candles = _to_candles([rows[opened] for opened in sorted(rows)], timeframe_s)
        return candles[(candles.as_of > since) & (candles.as_of <= until)]

    def candles_from_trades(
        self, symbol: str, timeframe_s: int, since: int, until: int
    ) -> Iterator[tuple[Candles, int]]:
        """See BuildsFromTrades. One call for each 1000 trades: a busy year is some 20,000 calls, at one a second."""
        _check_timeframe(timeframe_s)
        pair = self._pair(symbol)
        first, end = since // timeframe_s * timeframe_s, until // timeframe_s * timeframe_s
        building = TradeCandles(timeframe_s, first)
        cursor = max(0, first * NS - 1)  # trades after it are served
        while building.known_until < end:
            question = {"pair": pair.id, "since": cursor, "count": TRADES_PAGE}
            page, last = self._ask("Trades", question, _parse_trades)
            news = building.add(page)
            if not news and len(page) >= TRADES_PAGE:
                message = f"kraken Trades {pair.id}: no end to the trades of one moment, {last} ns"
                raise ExchangeError(message, kind="malformed")
            if not news:
                building.nothing_more_until(end)
            yield building.take(since, end), min(building.known_until, end)
            # Its last nanosecond again: more trades of that same moment may stand on the next page.
            cursor = max(cursor, last - 1)

    def stream(
        self, symbols: Sequence[str], timeframe_s: int, feed: FeedSettings | None = None
    ) -> AsyncIterator[StreamEvent]:
        """See StreamsCandles: candles and best prices over WebSocket v2, for ever."""
        require_one_market(self._rest_url, self._websocket_url)
        from shared.exchanges.kraken_socket import StreamOptions
        from shared.exchanges.kraken_stream import stream_kraken

        feed = feed or FeedSettings()
        options = StreamOptions(feed.silence_s, feed.reconnect_s, feed.reconnect_max_s)
        return stream_kraken(self._websocket_url, symbols, timeframe_s, options)

    def _committed_rows(self, pair_id: str, timeframe_s: int, since: int, until: int) -> dict[int, tuple[float, ...]]:
        """Rows by open time, page after page until one reaches ``until`` or brings nothing new."""
        rows: dict[int, tuple[float, ...]] = {}
        cursor = max(0, since - timeframe_s)  # `since` is an open time, and entries after it are served
        while True:
            question = {"pair": pair_id, "interval": timeframe_s // 60, "since": cursor}
            entries, last = self._ask("OHLC", question, _parse_page)
            page = {int(row[0]): row for row in entries}
            if len(page) < len(entries):
                self.calls.note("duplicate", f"OHLC {question}")
            if list(page) != sorted(page):
                self.calls.note("reorder", f"OHLC {question}")
            current = max(page, default=0)  # the newest is not committed, wherever it stands in the list
            committed = {opened: row for opened, row in page.items() if opened < current}
            news = committed.keys() - rows.keys()
            rows |= committed
            reached_until = bool(page) and current + timeframe_s > until
            if reached_until or not news or last <= cursor:
                return rows
            cursor = last

    def _pair(self, symbol: str) -> Pair:
        pair = self.pairs().get(canonical(symbol))
        if pair is None:
            raise NotListed(f"kraken lists no {both_names(symbol)}; resolve() finds the symbol it has instead")
        return pair

    def _ask(self, method: str, question: Mapping[str, Any], parse: Callable[[Any], T], ttl_s: float = 0.0) -> T:
        """What ``parse`` makes of the ``result`` object of one public call."""
        asked = f"{method} {question}" if question else method
        return self.calls.read(asked, lambda: self._ask_once(f"kraken {asked}", method, question, parse), ttl_s)

    def _ask_once(self, asked: str, method: str, question: Mapping[str, Any], parse: Callable[[Any], T]) -> T:
        try:
            answer = self._api().query_public(method, dict(question), timeout=TIMEOUT_S)
        except requests.exceptions.JSONDecodeError as error:
            raise PassingTrouble("not_json", f"the answer is not JSON: {excerpt(error.doc)}") from error
        except requests.exceptions.RequestException as error:
            raise _request_trouble(asked, error) from error
        except (ValueError, RecursionError) as error:  # JSON that nests too deep, a number of thousands of digits
            raise PassingTrouble("not_json", f"the answer cannot be read: {excerpt(error)}") from error
        result = _result(answer, asked)
        try:
            return parse(result)
        except (TypeError, ValueError, LookupError, AttributeError, ArithmeticError) as error:
            message = f"{asked}: the answer is malformed ({type(error).__name__}: {error}): {excerpt(result)}"
            raise ExchangeError(message, kind="malformed") from error

    def _api(self) -> krakenex.API:
        """This thread's: a requests session is not made for several."""
        if not hasattr(self._thread, "api"):
            # Times of trades have more digits than a float holds, and it matters on which side of a close they fall.
            self._thread.api = krakenex.API().json_options(parse_float=Decimal)
            self._thread.api.uri = (self._rest_url or self._thread.api.uri).rstrip("/")
            read_once(self._thread.api.session, self._thread.api.uri)
        return self._thread.api


def require_one_market(rest_url: str | None, websocket_url: str | None) -> None:
    """An emulator's candles must never be stored among real ones, nor under their name."""
    if provenance_at(rest_url) != provenance_at(websocket_url):
        told = "kraken: give rest_url and websocket_url together: one is on this machine, the other is not"
        raise ExchangeError(f"{told} ([venues.kraken])")


def _check_timeframe(timeframe_s: int) -> None:
    if timeframe_s % 60 or timeframe_s // 60 not in INTERVALS_MIN:
        raise ExchangeError(f"kraken has no {timeframe_s} s candles: it serves {INTERVALS_MIN} minutes")


def _request_trouble(asked: str, error: requests.exceptions.RequestException) -> PassingTrouble | ExchangeError:
    """What became of a question that has no answer with status 200."""
    detail = f"{type(error).__name__}: {excerpt(error)}"
    if error.response is None:
        kind = "timeout" if isinstance(error, requests.exceptions.Timeout) else "transport"
        return PassingTrouble(kind, root_cause(error))
    if error.response.status_code == 429:
        return PassingTrouble("rate_limited", detail, retry_after_s(error.response.headers))
    if error.response.status_code in PASSING_STATUS:
        return PassingTrouble("server_error", detail, retry_after_s(error.response.headers))
    return ExchangeError(f"{asked}: {excerpt(error)}", kind="venue_error")


def _result(answer: object, asked: str) -> dict[str, Any]:
    """The result of an envelope ``{"error": [...], "result": {...}}``."""
    if not isinstance(answer, dict):
        raise PassingTrouble("no_result", f"not an answer: {excerpt(answer)}")
    errors = answer.get("error")
    if errors:
        text = excerpt(errors)
        for words, kind in PASSING_ERRORS.items():
            if words in text:
                raise PassingTrouble(kind, text)
        raise ExchangeError(f"{asked}: {text}", kind="venue_error")
    result = answer.get("result")
    if not isinstance(result, dict):
        raise PassingTrouble("no_result", f"no result: {excerpt(answer)}")
    return result


# --- candles ---


def _parse_page(result: Mapping[str, Any]) -> tuple[list[tuple[float, ...]], int]:
    """Rows (open time, open, high, low, close, volume, trades) as they came, and the id to continue from.

    The pair's key is Kraken's own (XXBTZUSD), whatever name was asked for.
    """
    (entries,) = (entries for key, entries in result.items() if key != "last")
    return [_parse_entry(entry) for entry in entries], int(result["last"])


def _parse_entry(entry: Any) -> tuple[float, ...]:
    """[time, open, high, low, close, vwap, volume, count], prices and volume as strings."""
    opened, open_, high, low, close, _vwap, volume, count = entry
    row = (int(opened), float(open_), float(high), float(low), float(close), float(volume), int(count))
    if not all(map(math.isfinite, row)):
        raise ValueError(f"a number is not finite in {entry}")
    return row


def _to_candles(rows: list[tuple[float, ...]], timeframe_s: int) -> Candles:
    if not rows:
        return Candles.empty()
    opened, *columns = zip(*rows, strict=True)
    return Candles.from_columns([[int(t) + timeframe_s for t in opened], *columns])


def _parse_trades(result: Mapping[str, Any]) -> tuple[list[Trade], int]:
    """The trades and the time of the last, in ns since 1970."""
    (entries,) = (entries for key, entries in result.items() if key != "last")
    return [_parse_trade(entry) for entry in entries], int(result["last"])


def _parse_trade(entry: Any) -> Trade:
    """[price, volume, time, buy or sell, market or limit, miscellaneous, trade id]"""
    price, volume, time, _side, _type, _misc, number = entry
    trade = Trade(int(number), int(Decimal(time) * NS), float(price), Decimal(volume))
    if not (math.isfinite(trade.price) and trade.price > 0 and trade.volume.is_finite() and trade.volume >= 0):
        raise ValueError(f"no price or no volume in {entry}")
    return trade
