"""What a venue must offer; one file a venue satisfies it, chosen by the registry dict."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Literal, Protocol, runtime_checkable
from urllib.parse import urlsplit

from shared.errors import SextantError
from shared.rows import Candles, InstrumentRules
from shared.settings import FeedSettings

VenueStatus = Literal["online", "maintenance", "cancel_only", "post_only"]
LOOPBACK = ("127.0.0.1", "localhost", "::1")
FINEST_STEP = Decimal("1e-8")  # of money and quantities in the database: numeric(28, 8)


class ExchangeError(SextantError):
    """The venue could not be asked, or answered with something that is not an answer.

    ``kind`` is a stable word, for counting. What may pass, after the last try: timeout, transport, not_json,
    no_result, rate_limited, server_error, maintenance. What will not: venue_error (the venue says no), malformed (an
    answer that is not what was asked for), circuit_open (not asked: it has not answered lately), refused (not asked:
    this venue has no such thing).
    """

    def __init__(self, message: str, *, kind: str = "refused") -> None:
        super().__init__(message)
        self.kind = kind


class NotListed(ExchangeError):
    """The venue answered, and lists no such symbol: never was, or is delisted."""


def provenance_at(rest_url: str | None) -> str:
    """What serves under a venue's name from this very machine is an emulator: its candles are an invented market's."""
    host = urlsplit(rest_url).hostname if rest_url else None
    return "simulated" if host in LOOPBACK else "real"


def require_storable(rules: InstrumentRules, symbol: str) -> InstrumentRules:
    """The rules; ExchangeError where the database would round the tick, the lot or the least quantity, to zero even."""
    for name, step in (("tick", rules.tick_size), ("lot", rules.lot_size), ("least quantity", rules.min_quantity)):
        if step % FINEST_STEP:
            raise ExchangeError(f"{symbol}: its {name} of {step} is finer than 1e-8, which this version cannot store")
    return rules


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a venue can do, as its documentation says, and whether anything ever tried it.

    ``exercised`` is 'emulator' (its file runs against tests/exchange_emulator), 'itself' (it needs no network)
    or 'never' (written to the documentation only).
    """

    timeframes_s: tuple[int, ...]
    requests_per_s: float  # public calls that the venue allows, sustained
    exercised: Literal["emulator", "itself", "never"]
    candle_depth: int | None = None  # how many of its latest candles it serves; None: all there ever were
    candle_page: int | None = None  # most candles in one answer; None: no limit
    streams_candles: bool = False  # a WebSocket of this project's own (StreamsCandles)
    builds_from_trades: bool = False  # older candles than candle_depth can be built (BuildsFromTrades)
    sandbox: bool = False
    client_order_ids: bool = False
    oco: bool = False
    order_types: tuple[str, ...] = ()


class Exchange(Protocol):
    """A venue that serves closed candles. Symbols are BASE/QUOTE; the file maps them at the door.

    Safe to call from several threads; all calls of one object share one rate limit.
    """

    name: str
    provenance: str  # 'real' or 'simulated'; models inherit it, and only real ones may ever trade live
    capabilities: Capabilities

    def resolve(self, symbol: str) -> str:
        """The symbol under which this venue lists it; ExchangeError if none. A pair quoted in USDT or USDC that is not
        listed is the same base in USD, where that is. All other methods take the resolved symbol."""
        ...

    def rules(self, symbol: str) -> InstrumentRules:
        """What the venue demands of orders; NotListed where it lists no such symbol (any more)."""
        ...

    def candles(self, symbol: str, timeframe_s: int, since: int, until: int) -> Candles:
        """The closed candles with since < as_of <= until (Unix seconds), as far as the venue serves them: closed by
        the venue's clock, for ``until`` may lie in its future. An answer that is none is an ExchangeError."""
        ...

    def server_time(self) -> float | None:
        """The venue's clock in Unix seconds; None where the venue has none of its own (simulated)."""
        ...

    def status(self) -> VenueStatus: ...


@runtime_checkable
class BuildsFromTrades(Protocol):
    """A venue whose older candles can be built from its list of trades."""

    def candles_from_trades(
        self, symbol: str, timeframe_s: int, since: int, until: int
    ) -> Iterator[tuple[Candles, int]]:
        """Page by page the closed candles with since < as_of <= until, oldest first, each page with the close up to
        which all is now known (Unix seconds): a stretch without trades has no candles but is known all the same."""
        ...


@dataclass(frozen=True, slots=True)
class CandleUpdate:
    """The newest state of one candle that may still be open; ``opened`` in Unix seconds."""

    symbol: str
    opened: int
    open: float
    high: float
    low: float
    close: float
    volume: float
    trades: int


@dataclass(frozen=True, slots=True)
class BookTop:
    """Best prices of a book whose checksum was right."""

    symbol: str
    bid: float
    ask: float


@dataclass(frozen=True, slots=True)
class StreamState:
    """``connected`` is True once all symbols are subscribed, False when the connection is lost."""

    connected: bool
    venue_status: VenueStatus


@dataclass(frozen=True, slots=True)
class StreamTrouble:
    """Something that was wrong and survived; ``kind`` is a stable word, for counting."""

    kind: str
    detail: str


StreamEvent = CandleUpdate | BookTop | StreamState | StreamTrouble


@runtime_checkable
class StreamsCandles(Protocol):
    """A venue that pushes candles."""

    def stream(
        self, symbols: Sequence[str], timeframe_s: int, feed: FeedSettings | None = None
    ) -> AsyncIterator[StreamEvent]:
        """Events for ever: reconnects by itself, with backoff and jitter. Ends when the iterator is closed.

        ``feed`` says how long silence is borne and how long to wait before the next connection.
        """
        ...
