"""Any venue that ccxt knows, for its public spot market data; no key is needed and none is ever given.

ccxt is trusted with shapes and names only. It answers garbage (HTML with status 200, null) as if all were well and
mixes what may pass with what will not in its exceptions, so both are judged here, by what really came over the wire.
"""

from __future__ import annotations

import json
import logging
import math
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from decimal import Decimal
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from shared.clock import Timer, from_unix
from shared.exchanges.protocol import (
    Capabilities,
    ExchangeError,
    NotListed,
    VenueStatus,
    provenance_at,
    require_storable,
)
from shared.exchanges.resilience import CACHE_TTL_S, PassingTrouble, VenueCalls, excerpt, retry_after_s, root_cause
from shared.rows import UNKNOWN_TRADES, Candles, InstrumentRules

TIMEOUT_MS = 15_000
MARKETS_TTL_S = 3_600.0
DAY_S, MINUTE_S, MS = 86_400, 60, 1_000
PAGE = 100  # candles a page, where ccxt does not say how many
MOST_REQUESTS_PER_S = 10.0  # calls weigh differently; at this pace the heaviest of ours stay below all known limits
PASSING_STATUS = (408, 500, 502, 503, 504, 520, 521, 522, 523, 524, 525, 526, 530)
DOLLARS = {"USDT": ("USD",), "USDC": ("USD",), "USD": ("USDT", "USDC")}  # quotes to try instead
EXERCISED = frozenset({"binance"})  # in tests/exchange_emulator
CLIENT_ORDER_IDS = frozenset({"binance", "bitget", "coinbase", "kucoin"})  # documented; ccxt's tables do not tell
STATUS_ELSEWHERE = frozenset({"binance"})  # whose status is of another API than its spot market
OCO = re.compile(r"(^|[/-])oco([/-]|$)", re.IGNORECASE)
SPOT_ONLY: dict[str, dict[str, Any]] = {
    "binance": {"fetchCurrencies": False, "fetchMarkets": {"types": ["spot"]}},
    "bitget": {"fetchMarkets": {"types": ["spot"]}},
    "kucoin": {"fetchMarkets": {"types": ["spot"], "fetchTickersFees": False}},
}
ORDER_TYPES = {
    "market": "createMarketOrder",
    "limit": "createLimitOrder",
    "post-only": "createPostOnlyOrder",
    "stop": "createStopOrder",
    "stop-limit": "createStopLimitOrder",
    "trailing-stop": "createTrailingAmountOrder",
}
STATUSES: dict[str, VenueStatus] = {"ok": "online", "maintenance": "maintenance", "shutdown": "maintenance",
                                    "error": "maintenance"}  # fmt: skip
T = TypeVar("T")


class CcxtExchange:
    """One venue through ccxt. Objects share the rate limit where they share a ``home``; else hold one of each venue."""

    def __init__(
        self,
        venue_id: str,
        rest_url: str | None = None,
        *,
        timer: Timer | None = None,
        requests_per_s: float | None = None,
        home: Path | None = None,
    ) -> None:
        """``rest_url`` takes the place of scheme and host in all of the venue's addresses."""
        self.name = venue_id
        self._rest_url, self.provenance = rest_url, provenance_at(rest_url)
        self._thread = threading.local()
        client = self._client()
        allowed = min(MS / client.rateLimit, MOST_REQUESTS_PER_S)
        rate = requests_per_s or allowed
        if rest_url is None and rate > allowed:
            raise ExchangeError(
                f"{venue_id} allows {allowed:g} requests/s: lower requests_per_s of [venues.{venue_id}]"
            )
        self._timeframes = _timeframes(client)
        self.capabilities = _capabilities(client, rate, self._timeframes)
        self.calls = VenueCalls(venue_id, rate, timer=timer, home=home)
        self._known_time = -math.inf  # the venue's clock has reached this, Unix seconds

    def resolve(self, symbol: str) -> str:
        """The spot symbol that trades there: the symbol itself, else with another dollar as its quote."""
        markets = self._source().markets
        base, _, quote = symbol.upper().partition("/")
        tried = [f"{base}/{q}" for q in (quote, *DOLLARS.get(quote, ()))]
        for candidate in tried:
            if _is_spot(markets.get(candidate)) and markets[candidate].get("active") is not False:
                return candidate
        raise NotListed(f"{self.name} trades no {symbol!r}: tried {', '.join(tried)}")

    def rules(self, symbol: str) -> InstrumentRules:
        """Tick, lot, least cost and least quantity of an order (0 where the venue names none). A market that is not
        active takes no orders."""
        source, market = self._source(), self._market(symbol)
        try:
            rules = _rules(market, source.precisionMode)
        except (TypeError, ValueError, LookupError, ArithmeticError) as error:
            message = f"{self.name} {symbol}: no rules in {excerpt(market.get('precision'))} ({error})"
            raise ExchangeError(message, kind="malformed") from error
        return require_storable(rules, f"{self.name} {symbol}")

    def server_time(self) -> float | None:
        if not self._client().has["fetchTime"]:
            return None
        return self.calls.read("time", lambda: self._ask_once("time", lambda client: float(client.fetch_time()) / MS))

    def status(self) -> VenueStatus:
        """What the venue says; where it says nothing, maintenance is when none of its spot markets is active.

        The whole list of markets is megabytes: while it shows activity it is read once an hour, and the venue's clock
        is the sign of life (a venue without a clock gives none in between).
        """
        if self._client().has["fetchStatus"] is True and self.name not in STATUS_ELSEWHERE:
            ask = partial(self._ask_once, "status", lambda client: STATUSES[client.fetch_status()["status"]])
            return self.calls.read("status", ask)
        self.server_time()
        active = _any_active(self._source()) or _any_active(self._source(CACHE_TTL_S))  # its end is noticed soon
        return "online" if active else "maintenance"

    def candles(self, symbol: str, timeframe_s: int, since: int, until: int) -> Candles:
        """The candles with since < as_of <= until (Unix seconds) that had closed by the venue's own clock."""
        if timeframe_s not in self._timeframes:
            served = ", ".join(map(str, self._timeframes))
            raise ExchangeError(f"{self.name} has no {timeframe_s} s candles: it serves {served} s")
        self._market(symbol)
        first, last = since // timeframe_s * timeframe_s, until // timeframe_s * timeframe_s - timeframe_s
        last = min(last, self._last_closed(symbol, timeframe_s, last)) if first <= last else last
        rows = dict[int, tuple[float, ...]]()
        for page in self._pages(symbol, timeframe_s, first, last):
            rows |= {opened: row for opened, row in page.items() if first <= opened <= last}
        columns = zip(*((opened + timeframe_s, *rows[opened], UNKNOWN_TRADES) for opened in sorted(rows)), strict=True)
        return Candles.from_columns(list(columns)) if rows else Candles.empty()

    def _last_closed(self, symbol: str, timeframe_s: int, last: int) -> int:
        """Open time of the newest candle that had closed on the venue's clock *before* candles are asked for.

        Where the venue has no clock, a candle that has begun proves that all before it have closed, and ours proves
        nothing.
        """
        if self._known_time < last + timeframe_s:
            told = self.server_time()
            if told is None:
                told = max(self._page(symbol, timeframe_s, None, 2), default=0)
            self._known_time = max(self._known_time, told)
        return min(last, int(self._known_time // timeframe_s - 1) * timeframe_s)

    def _pages(self, symbol: str, timeframe_s: int, first: int, last: int) -> Iterator[dict[int, tuple[float, ...]]]:
        """Candles that opened from ``first`` to ``last``, and maybe more, oldest page first."""
        page_size = self.capabilities.candle_page or PAGE
        if self.capabilities.exercised == "never":
            yield from self._overlapping_pages(symbol, timeframe_s, first, last, page_size)
            return
        cursor = first
        while cursor <= last:
            wanted = min(page_size, (last - cursor) // timeframe_s + 1)
            yield (page := self._page(symbol, timeframe_s, cursor, wanted))
            newest = max(page, default=0)
            # An empty page is a hole as wide as the page; venues differ in whether they look beyond it.
            cursor = newest + timeframe_s if newest >= cursor else cursor + wanted * timeframe_s

    def _overlapping_pages(
        self, symbol: str, timeframe_s: int, first: int, last: int, page_size: int
    ) -> Iterator[dict[int, tuple[float, ...]]]:
        """Of a venue that nobody ever tried, which may serve its latest candles whatever is asked.

        Each question begins at a candle that should be there, so a page that begins later is no hole.
        """
        cursor = first - timeframe_s
        while cursor <= last:
            page = self._page(symbol, timeframe_s, cursor, page_size)
            oldest, newest, end = min(page, default=0), max(page, default=0), cursor + page_size * timeframe_s
            if oldest > cursor and newest >= end:
                message = (
                    f"{self.name} {symbol}: asked for candles from {from_unix(cursor)} on, got {from_unix(oldest)} and "
                    f"later: what is missing before may be there; ask from then on (make backfill --from)"
                )
                raise ExchangeError(message, kind="malformed")
            yield page
            if newest >= last:
                return
            cursor = newest if newest > cursor else end

    def _page(self, symbol: str, timeframe_s: int, opened: int | None, wanted: int) -> dict[int, tuple[float, ...]]:
        """Open time to (open, high, low, close, volume), from ``opened`` on; the latest where None."""
        timeframe, source = self._timeframes[timeframe_s], self._source()
        question = f"{symbol} {timeframe} from {opened or 'the latest'}, {wanted} candles"

        def ask(client: Any) -> dict[int, tuple[float, ...]]:
            if client.markets is not source.markets:
                client.set_markets_from_exchange(source)
            rows = client.fetch_ohlcv(symbol, timeframe, since=None if opened is None else opened * MS, limit=wanted)
            return dict(_parse_row(row, timeframe_s) for row in rows)

        return self.calls.read(question, lambda: self._ask_once(question, ask))

    def _market(self, symbol: str) -> Mapping[str, Any]:
        market = self._source().markets.get(symbol)
        if not _is_spot(market):
            raise NotListed(f"{self.name} lists no {symbol!r}; resolve() finds the symbol it has instead")
        found: Mapping[str, Any] = market
        return found

    def _source(self, ttl_s: float = MARKETS_TTL_S) -> Any:
        """A ccxt object that knows the markets; only read."""

        def load(_client: Any) -> Any:
            source = self._new_client()
            source.load_markets()
            if not any(map(_is_spot, source.markets.values())):
                raise PassingTrouble("no_result", "no spot market")
            return source

        return self.calls.read("markets", lambda: self._ask_once("markets", load), ttl_s)

    def _ask_once(self, question: str, ask: Callable[[Any], T]) -> T:
        """One call through this thread's ccxt object, and what its failure means."""
        ccxt, client, asked = _ccxt(), self._client(), f"{self.name} {question}"
        self._thread.wire = wire = Wire()
        try:
            return ask(client)
        except ccxt.BaseError as error:
            raise _trouble(ccxt, error, wire, asked) from error
        except (TypeError, ValueError, LookupError, AttributeError, ArithmeticError) as error:
            message = f"{asked}: the answer is malformed ({type(error).__name__}: {error}): {wire.excerpt}"
            raise ExchangeError(message, kind="malformed") from error

    def _client(self) -> Any:
        """This thread's: a ccxt object is not made for several."""
        if not hasattr(self._thread, "client"):
            self._thread.client = self._new_client()
        return self._thread.client

    def _new_client(self) -> Any:
        client = getattr(_ccxt(), self.name)(
            {
                "enableRateLimit": False,  # VenueCalls limits all threads together
                "timeout": TIMEOUT_MS,
                "maxRetriesOnFailure": 0,
                "options": SPOT_ONLY.get(self.name, {}),
            }
        )
        client.has["fetchCurrencies"] = False  # nothing here reads them, and they cost a call
        client.on_rest_response = self._on_answer
        if self._rest_url is not None:
            client.urls["api"] = _moved(client.urls["api"], self._rest_url.rstrip("/"))
        return client

    def _on_answer(
        self, status: int, _reason: str, _url: str, _method: str, headers: Any, body: str, *_rest: Any
    ) -> str:
        """ccxt's own hook, called with each raw answer of this thread before ccxt makes anything of it."""
        wire: Wire = self._thread.wire
        wire.status, wire.headers, wire.excerpt = status, headers, excerpt(body)
        if 200 <= status < 300:
            _require_content(body)
        return body.strip()


class Wire:
    """What came over the wire last."""

    def __init__(self) -> None:
        self.status: int | None = None
        self.headers: Mapping[str, str] = {}
        self.excerpt = ""


def _ccxt() -> Any:
    """Imported here, for it takes most of a second; its log would hold whole requests."""
    logging.getLogger("ccxt").setLevel(logging.INFO)
    return import_module("ccxt")


def _require_content(body: str) -> None:
    try:
        value = json.loads(body)
    except ValueError as error:
        raise PassingTrouble("not_json", f"the answer is not JSON: {excerpt(body)}") from error
    if value in (None, {}, ""):
        raise PassingTrouble("no_result", f"no result: {excerpt(body)}")


def _trouble(ccxt: Any, error: Exception, wire: Wire, asked: str) -> PassingTrouble | ExchangeError:
    """By ccxt's class where the venue said something that ccxt knows, else by the HTTP status."""
    detail = f"{type(error).__name__}: {excerpt(error)}"
    by_status = re.match(r"\S+ [A-Z]+ https?:", str(error)) is not None  # not the venue's words, but ccxt's
    if isinstance(error, ccxt.RateLimitExceeded | ccxt.DDoSProtection):
        return PassingTrouble("rate_limited", detail, retry_after_s(wire.headers))
    if isinstance(error, ccxt.OnMaintenance):
        return PassingTrouble("maintenance", detail)
    if isinstance(error, ccxt.RequestTimeout):
        return PassingTrouble("timeout", root_cause(error))
    if wire.status is None and isinstance(error, ccxt.NetworkError):
        return PassingTrouble("transport", root_cause(error))
    if isinstance(error, ccxt.BadResponse):
        return PassingTrouble("no_result", detail)
    if wire.status in PASSING_STATUS or (isinstance(error, ccxt.OperationFailed) and not by_status):
        return PassingTrouble("server_error", detail, retry_after_s(wire.headers))
    return ExchangeError(f"{asked}: {detail}", kind="venue_error")


def _moved(addresses: Any, base: str) -> Any:
    """All addresses of a nested dict with ``base`` in the place of scheme and host (which may be a {hostname})."""
    if isinstance(addresses, dict):
        return {key: _moved(value, base) for key, value in addresses.items()}
    return base + urlsplit(addresses).path


def _is_spot(market: Any) -> bool:
    return (
        market is not None and market.get("spot") is True and market["symbol"] == f"{market['base']}/{market['quote']}"
    )


def _any_active(source: Any) -> bool:
    return any(_is_spot(market) and market.get("active") is not False for market in source.markets.values())


# --- capabilities and rules ---


def _timeframes(client: Any) -> dict[int, str]:
    """Seconds to ccxt's name, of those that divide a day: weeks and months begin where each venue likes."""
    seconds = {client.parse_timeframe(name): name for name in client.timeframes}
    return {s: seconds[s] for s in sorted(seconds) if s >= MINUTE_S and DAY_S % s == 0}


def _capabilities(client: Any, rate: float, timeframes: Mapping[int, str]) -> Capabilities:
    spot = client.features.get("spot") or {}
    return Capabilities(
        timeframes_s=tuple(timeframes),
        requests_per_s=rate,
        exercised="emulator" if client.id in EXERCISED else "never",
        candle_page=(spot.get("fetchOHLCV") or {}).get("limit") or PAGE,
        sandbox=bool(spot.get("sandbox") or client.urls.get("test")),
        client_order_ids=client.id in CLIENT_ORDER_IDS,
        oco=any(map(OCO.search, _paths(client.api))),
        order_types=tuple(name for name, has in ORDER_TYPES.items() if client.has.get(has)),
    )


def _paths(api: Any) -> Iterator[str]:
    """Every key of ccxt's tree of endpoints."""
    if isinstance(api, dict):
        for key, below in api.items():
            yield str(key)
            yield from _paths(below)


def _rules(market: Mapping[str, Any], precision_mode: int) -> InstrumentRules:
    limits = market.get("limits") or {}
    least = {name: Decimal(str((limits.get(name) or {}).get("min") or 0)) for name in ("cost", "amount")}
    step = partial(_step, mode=precision_mode)
    return InstrumentRules(
        tick_size=step(market["precision"]["price"]),
        lot_size=step(market["precision"]["amount"]),
        min_notional=least["cost"],
        min_quantity=least["amount"],
        status="cancel_only" if market.get("active") is False else "online",
    )


def _step(precision: Any, mode: int) -> Decimal:
    """ccxt's floats are shortest forms of the venue's decimals: their text is exact, their value is not."""
    ccxt = _ccxt()
    if mode == ccxt.DECIMAL_PLACES:
        return Decimal(1).scaleb(-int(precision))
    if mode != ccxt.TICK_SIZE:
        raise ValueError("counted in significant digits, which no fixed step can say")
    step = Decimal(str(precision))
    if not (step.is_finite() and step > 0):
        raise ValueError(f"{precision} is no step")
    return step


# --- candles ---


def _parse_row(row: Any, timeframe_s: int) -> tuple[int, tuple[float, ...]]:
    """[open time in ms, open, high, low, close, volume]"""
    opened, *values = row
    numbers = tuple(map(float, values))
    if len(numbers) != 5 or not all(map(math.isfinite, numbers)):
        raise ValueError(f"not five numbers in {row}")
    if opened % (timeframe_s * MS):
        raise ValueError(f"{row} does not begin on the grid of {timeframe_s} s")
    return int(opened) // MS, numbers
