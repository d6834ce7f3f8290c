"""Kraken's public REST market data, through krakenex; no key is needed and none is ever given.

Facts from https://docs.kraken.com/api-reference/market-data/get-ohlc-data: OHLC serves the most recent 720 entries
only, and the last entry is the current, not-yet-committed one. Deeper history comes from elsewhere (see the backfill).
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Any, Protocol

import krakenex
import requests

from shared.exchanges.protocol import Capabilities, ExchangeError, VenueStatus
from shared.rows import Candles, InstrumentRules

SYMBOL = re.compile(r"[A-Z0-9.]+/[A-Z0-9.]+")
INTERVALS_MIN = (1, 5, 15, 30, 60, 240, 1_440, 10_080)
# Kraken's own names for two assets; everywhere else in Sextant they are BTC and DOGE.
COMMON_NAMES = {"XBT": "BTC", "XDG": "DOGE"}
KRAKEN_NAMES = {common: own for own, common in COMMON_NAMES.items()}
DOLLAR_TOKENS = ("USDT", "USDC")  # whose pairs may be listed against USD only
DEFAULT_COSTMIN = "0.5"

MIN_SPACING_S = 1.0  # public calls are counted per IP, about one a second
TIMEOUT_S = 15.0
MAX_TRIES = 4
BACKOFF_S = 2.0  # doubles with each try
# "Try later" in the API's words. Safe to repeat here because everything in this file only reads.
PASSING_ERRORS = ("EAPI:Rate limit exceeded", "EService:")
PASSING_STATUS = (429, 500, 502, 503, 504, 520, 521, 522, 523, 524)
EXCERPT = 200  # characters of an answer quoted in an error


class KrakenApi(Protocol):
    """What is used of krakenex.API."""

    uri: str

    def query_public(self, method: str, data: dict[str, Any] | None = None, timeout: float | None = None) -> Any: ...


@dataclass(frozen=True, slots=True)
class Pair:
    id: str
    info: Mapping[str, Any]  # as AssetPairs tells it; read only when asked for, so a strange pair spoils no other


class _Passing(Exception):
    """A failure that may pass if the same question is asked later."""


class KrakenExchange:
    """The venue ``kraken``. One process should hold one of these: its spacing of calls is its own."""

    name = "kraken"
    provenance = "real"
    capabilities = Capabilities(
        timeframes_s=tuple(60 * minutes for minutes in INTERVALS_MIN),
        requests_per_s=1.0,
        exercised="emulator",
        candle_depth=720,
        candle_page=720,
    )

    def __init__(
        self,
        api: KrakenApi | None = None,
        *,
        uri: str | None = None,
        sleep: Callable[[float], None] = time.sleep,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._api: KrakenApi = krakenex.API() if api is None else api
        if uri is not None:
            self._api.uri = uri
        self._sleep, self._monotonic = sleep, monotonic
        self._last_call = -math.inf
        self._pairs: dict[str, Pair] = {}

    def resolve(self, symbol: str) -> str:
        """The canonical BASE/QUOTE that Kraken lists: the symbol itself, else its dollar-token quote as USD.

        XBT and BTC, XDG and DOGE are one asset each. ExchangeError names what was tried.
        """
        tried = _spellings(symbol)
        pairs = self._listed()
        for candidate in tried:
            if candidate in pairs:
                return candidate
        raise ExchangeError(f"kraken lists no {symbol!r}: tried {', '.join(map(_both_names, tried))}")

    def rules(self, symbol: str) -> InstrumentRules:
        """Tick, lot and minimum cost; Kraken's separate minimum quantity (ordermin) is not among them."""
        pair = self._pair(symbol)
        try:
            return _parse_rules(pair.info)
        except (TypeError, ValueError, KeyError, InvalidOperation) as error:
            raise ExchangeError(f"kraken AssetPairs {pair.id}: no rules in {_excerpt(pair.info)}") from error

    def server_time(self) -> float:
        result = self._ask("Time", {})
        try:
            return float(result["unixtime"])
        except (KeyError, TypeError, ValueError) as error:
            raise ExchangeError(f"kraken Time: no time in {_excerpt(result)}") from error

    def status(self) -> VenueStatus:
        said = self._ask("SystemStatus", {}).get("status")
        known: dict[object, VenueStatus] = {"online": "online", "maintenance": "maintenance",
                                            "cancel_only": "cancel_only", "post_only": "post_only"}  # fmt: skip
        if said not in known:
            raise ExchangeError(f"kraken SystemStatus: not a status: {_excerpt(said)}")
        return known[said]

    def candles(self, symbol: str, timeframe_s: int, since: int, until: int) -> Candles:
        """The committed candles with since < as_of <= until (Unix seconds), of the latest 720 at most.

        ExchangeError: a symbol that is not listed (resolve it first), a timeframe Kraken does not serve, no
        answer after a few tries, or an answer that is not candles.
        """
        if timeframe_s % 60 or timeframe_s // 60 not in INTERVALS_MIN:
            raise ExchangeError(f"kraken has no {timeframe_s} s candles: it serves {INTERVALS_MIN} minutes")
        pair = self._pair(symbol)
        if until <= since:
            return Candles.empty()
        rows = self._committed_rows(pair.id, timeframe_s, since, until)
        candles = _to_candles([rows[opened] for opened in sorted(rows)], timeframe_s)
        return candles[(candles.as_of > since) & (candles.as_of <= until)]

    def _committed_rows(self, pair_id: str, timeframe_s: int, since: int, until: int) -> dict[int, tuple[float, ...]]:
        """Rows by open time, page after page until one reaches ``until`` or brings nothing new."""
        rows: dict[int, tuple[float, ...]] = {}
        cursor = max(0, since - timeframe_s)  # `since` is an open time, and entries after it are served
        while True:
            question = {"pair": pair_id, "interval": timeframe_s // 60, "since": cursor}
            page, last = _parse_page(self._ask("OHLC", question), question)
            committed = {int(row[0]): row for row in page[:-1]}
            news = committed.keys() - rows.keys()
            rows |= committed
            reached_until = bool(page) and page[-1][0] + timeframe_s > until
            if reached_until or not news or last <= cursor:
                return rows
            cursor = last

    def _pair(self, symbol: str) -> Pair:
        pair = self._listed().get(_canonical(symbol))
        if pair is None:
            raise ExchangeError(f"kraken lists no {_both_names(symbol)}; resolve() finds the symbol it has instead")
        return pair

    def _listed(self) -> dict[str, Pair]:
        """Every pair by its canonical symbol; asked once."""
        if not self._pairs:
            self._pairs = _parse_pairs(self._ask("AssetPairs", {}))
        return self._pairs

    def _ask(self, method: str, question: dict[str, Any]) -> dict[str, Any]:
        """The ``result`` object of one public call, asked again with patience while the trouble may pass."""
        for attempt in range(1, MAX_TRIES + 1):
            try:
                return self._ask_once(method, question)
            except _Passing as trouble:
                if attempt == MAX_TRIES:
                    asked = f"kraken {method} {question}"
                    raise ExchangeError(f"{asked}: {trouble}; gave up after {attempt} tries") from trouble
                self._sleep(BACKOFF_S * 2 ** (attempt - 1))
        raise AssertionError("unreachable")

    def _ask_once(self, method: str, question: dict[str, Any]) -> dict[str, Any]:
        asked = f"kraken {method} {question}"
        self._keep_distance()
        try:
            answer = self._api.query_public(method, question, timeout=TIMEOUT_S)
        except requests.exceptions.JSONDecodeError as error:
            raise ExchangeError(f"{asked}: the answer is not JSON: {_excerpt(error.doc)}") from error
        except requests.exceptions.RequestException as error:
            status = None if error.response is None else error.response.status_code
            if status is None or status in PASSING_STATUS:
                raise _Passing(f"{type(error).__name__}: {_excerpt(error)}") from error
            raise ExchangeError(f"{asked}: {_excerpt(error)}") from error
        return _result(answer, asked)

    def _keep_distance(self) -> None:
        wait = self._last_call + MIN_SPACING_S - self._monotonic()
        if wait > 0:
            self._sleep(wait)
        self._last_call = self._monotonic()


def _excerpt(answer: object) -> str:
    text = " ".join(str(answer).split())
    return text if len(text) <= EXCERPT else text[:EXCERPT] + "…"


def _result(answer: object, asked: str) -> dict[str, Any]:
    """The result of an envelope ``{"error": [...], "result": {...}}``."""
    if not isinstance(answer, dict):
        raise ExchangeError(f"{asked}: not an answer: {_excerpt(answer)}")
    errors = answer.get("error")
    if errors:
        text = _excerpt(errors)
        if any(passing in text for passing in PASSING_ERRORS):
            raise _Passing(text)
        raise ExchangeError(f"{asked}: {text}")
    result = answer.get("result")
    if not isinstance(result, dict):
        raise ExchangeError(f"{asked}: no result: {_excerpt(answer)}")
    return result


# --- symbols and pairs ---


def _canonical(symbol: str) -> str:
    """BASE/QUOTE in common names, e.g. XBT/USDT -> BTC/USDT."""
    return "/".join(COMMON_NAMES.get(asset, asset) for asset in symbol.upper().split("/"))


def _both_names(symbol: str) -> str:
    canonical = _canonical(symbol)
    own = "/".join(KRAKEN_NAMES.get(asset, asset) for asset in canonical.split("/"))
    return canonical if own == canonical else f"{canonical} ({own})"


def _spellings(symbol: str) -> list[str]:
    """The canonical symbols to try, in order."""
    canonical = _canonical(symbol)
    if not SYMBOL.fullmatch(canonical):
        raise ExchangeError(f"kraken lists no {symbol!r}: a symbol reads BASE/QUOTE, like BTC/USD")
    base, quote = canonical.split("/")
    return [canonical, f"{base}/USD"] if quote in DOLLAR_TOKENS else [canonical]


def _parse_pairs(result: dict[str, Any]) -> dict[str, Pair]:
    pairs: dict[str, Pair] = {}
    for pair_id, info in result.items():
        if isinstance(info, dict):
            pairs.setdefault(_canonical(_listed_symbol(pair_id, info)), Pair(pair_id, info))
    if not pairs:
        raise ExchangeError(f"kraken AssetPairs: no pair in {_excerpt(result)}")
    return pairs


def _listed_symbol(pair_id: str, info: Mapping[str, Any]) -> str:
    """``wsname`` (XBT/USDT); where it is absent, ``altname`` (XBTUSDT) cut at the quote asset's name."""
    if info.get("wsname"):
        return str(info["wsname"])
    altname, quote = str(info.get("altname") or pair_id), str(info.get("quote", ""))
    for name in (quote, quote[1:]):  # ZUSD is spelled USD in names
        if name and altname.endswith(name) and altname != name:
            return f"{altname.removesuffix(name)}/{name}"
    return altname


def _parse_rules(info: Mapping[str, Any]) -> InstrumentRules:
    tick = info.get("tick_size") or Decimal(1).scaleb(-int(info["pair_decimals"]))
    return InstrumentRules(
        tick_size=Decimal(tick),
        lot_size=Decimal(1).scaleb(-int(info["lot_decimals"])),
        min_notional=Decimal(info.get("costmin") or DEFAULT_COSTMIN),
    )


# --- candles ---


def _parse_page(result: dict[str, Any], question: dict[str, Any]) -> tuple[list[tuple[float, ...]], int]:
    """Rows (open time, open, high, low, close, volume, trades), oldest first, and the id to continue from.

    The pair's key is Kraken's own (XXBTZUSD), whatever name was asked for.
    """
    try:
        last = int(result["last"])
        (entries,) = (entries for key, entries in result.items() if key != "last")
        return [_parse_entry(entry) for entry in entries], last
    except (TypeError, ValueError, KeyError, IndexError) as error:
        raise ExchangeError(f"kraken OHLC {question}: not candles ({error}): {_excerpt(result)}") from error


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
