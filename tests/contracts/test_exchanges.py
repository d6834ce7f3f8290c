"""What every registered venue must keep; a new venue joins by a line in VENUES below.

Those that live on the network are asked through tests/exchange_emulator.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import pytest

from shared.clock import Timer
from shared.exchanges import EXCHANGES, Exchange, ExchangeError, open_exchange
from shared.exchanges.protocol import BuildsFromTrades, NotListed, StreamsCandles, provenance_at
from shared.rows import CANDLE_FIELDS, UNKNOWN_TRADES, Candles
from shared.settings import VenueSettings
from tests.exchange_emulator.faults import Rule
from tests.exchange_emulator.server import START, Emulator

NOW = int(START)  # 30 s into a minute: the candle that opened at NOW // 60 * 60 is not closed
MINUTE, HOUR = 60, 3_600
PASSING = {"timeout", "transport", "not_json", "no_result", "rate_limited", "server_error", "maintenance"}


@dataclass(frozen=True)
class Venue:
    """How a venue is tried: as ``name`` in the registry, with this symbol."""

    symbol: str
    provenance: str
    emulated: bool = False


VENUES = {
    "binance": Venue("BTC/USDT", "real", emulated=True),
    "kraken": Venue("BTC/USDT", "real", emulated=True),
    "paper": Venue("SIM-BTC/USDT", "simulated"),
    "paper:kraken": Venue("BTC/USDT", "real", emulated=True),
    "simulated": Venue("SIM-BTC/USDT", "simulated"),
}


@pytest.mark.parametrize("name", sorted(EXCHANGES))
def test_a_registered_venue_is_under_contract_or_admits_that_nothing_ever_tried_it(name: str) -> None:
    assert (name in VENUES) == (open_exchange(name).capabilities.exercised != "never")


@pytest.fixture(params=sorted(VENUES))
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def venue(name: str) -> Venue:
    return VENUES[name]


@pytest.fixture(scope="module")
def emulated() -> Iterator[Emulator]:
    with Emulator(("BTC/USDT", "ETH/USD", "DOGE/USD")) as emulator:
        yield emulator


@pytest.fixture
def emulator(emulated: Emulator) -> Iterator[Emulator]:
    yield emulated
    emulated.faults.clear()


@pytest.fixture
def exchange(name: str, emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> Exchange:
    """At the emulator, with waits a hundred times as short."""
    timer = Timer(lambda: 100 * time.monotonic(), lambda seconds: time.sleep(seconds / 100))
    monkeypatch.setattr("shared.exchanges.resilience.Timer", lambda: timer)
    binance = VenueSettings(rest_url=emulator.rest_url, requests_per_s=20.0)
    kraken = binance.model_copy(update={"websocket_url": emulator.websocket_url})
    return open_exchange(name, {"binance": binance, "kraken": kraken})


@pytest.fixture(params=[60, 300, HOUR])
def timeframe_s(request: pytest.FixtureRequest) -> int:
    return int(request.param)


@pytest.fixture
def candles(exchange: Exchange, venue: Venue, timeframe_s: int) -> Candles:
    return exchange.candles(venue.symbol, timeframe_s, NOW - 600 * timeframe_s, NOW)


def assert_same(left: Candles, right: Candles, *, trades: bool = True) -> None:
    for field in CANDLE_FIELDS:
        if field != "trades" or trades:
            np.testing.assert_array_equal(getattr(left, field), getattr(right, field))


# --- what it says of itself ---


def test_it_opens_without_the_network_and_says_what_it_is(name: str) -> None:
    exchange = open_exchange(name)
    assert exchange.name == {"paper": "simulated", "paper:kraken": "kraken"}.get(name, name)
    assert exchange.provenance == VENUES[name].provenance


def test_what_an_emulator_serves_is_never_called_real(exchange: Exchange) -> None:
    assert exchange.provenance == "simulated"


@pytest.mark.parametrize(
    ("url", "provenance"),
    [
        (None, "real"), ("https://api.kraken.com", "real"), ("http://10.0.0.7:8765", "real"),
        ("http://127.0.0.1:8765", "simulated"), ("http://localhost", "simulated"), ("http://[::1]:1", "simulated"),
        ("https://127.0.0.1.example.com", "real"),
    ],
)  # fmt: skip
def test_only_this_machine_is_taken_for_an_emulator(url: str | None, provenance: str) -> None:
    assert provenance_at(url) == provenance


@pytest.mark.parametrize("any_name", [*sorted(EXCHANGES), "paper:kraken", "bitstamp"])
def test_its_capabilities_are_sane(any_name: str) -> None:
    exchange = open_exchange(any_name)
    can = exchange.capabilities
    assert {60, 300, HOUR} <= set(can.timeframes_s)
    assert list(can.timeframes_s) == sorted(set(can.timeframes_s))
    assert 0 < can.requests_per_s <= (10 if can.exercised != "itself" else math.inf)
    assert can.candle_depth is None or can.candle_depth >= 100
    assert can.candle_page is None or 100 <= can.candle_page <= 10_000
    assert not can.builds_from_trades or isinstance(exchange, BuildsFromTrades)
    assert not can.streams_candles or isinstance(exchange, StreamsCandles)
    assert len(set(can.order_types)) == len(can.order_types)


def test_its_clock_and_status(exchange: Exchange, venue: Venue) -> None:
    told = exchange.server_time()
    assert told is None if not venue.emulated else told == NOW
    assert exchange.status() == "online"


def test_maintenance_is_told(exchange: Exchange, venue: Venue, emulator: Emulator) -> None:
    emulator.faults.inject(Rule("maintenance"))
    assert exchange.status() == ("maintenance" if venue.emulated else "online")


# --- candles ---


def test_candles_are_sorted_unique_and_on_the_grid(candles: Candles, timeframe_s: int) -> None:
    assert len(candles) > 20
    assert (np.diff(candles.as_of) > 0).all()
    assert (candles.as_of % timeframe_s == 0).all()


def test_candles_closed_within_the_window_and_none_is_missing(candles: Candles, timeframe_s: int) -> None:
    close = NOW // timeframe_s * timeframe_s
    np.testing.assert_array_equal(candles.as_of, close - timeframe_s * np.arange(599, -1, -1))


def test_candles_are_the_markets(venue: Venue, emulator: Emulator, candles: Candles, timeframe_s: int) -> None:
    truth = emulator.market.truth("BTC/USDT", timeframe_s, NOW - 600 * timeframe_s, NOW)
    if venue.emulated:
        assert_same(candles, truth, trades=bool((candles.trades != UNKNOWN_TRADES).any()))
    else:  # the market itself; a venue tells volumes in 1e-8
        np.testing.assert_array_equal(candles.close, truth.close)
        np.testing.assert_allclose(candles.volume, truth.volume, rtol=0, atol=1e-8 * timeframe_s / MINUTE)


def test_a_window_takes_its_end_and_leaves_its_beginning(exchange: Exchange, venue: Venue) -> None:
    close = NOW // HOUR * HOUR
    for since, until, expected in (
        (close - HOUR, close, [close]),
        (close - HOUR - 1, close + 1, [close - HOUR, close]),
        (close - HOUR + 1, close, [close]),
        (close - HOUR, close - 1, []),
        (close, close, []),
        (close, close - 5 * HOUR, []),
    ):
        assert exchange.candles(venue.symbol, HOUR, since, until).as_of.tolist() == expected


def test_the_open_candle_is_never_served(exchange: Exchange, venue: Venue, emulator: Emulator) -> None:
    """Not even to a caller whose clock is an hour ahead, where the venue has a clock to know better."""
    if not venue.emulated:
        pytest.skip("has no clock: it serves what closed by the caller's")
    candles = exchange.candles(venue.symbol, MINUTE, NOW - 10 * MINUTE, NOW + HOUR)
    assert candles.as_of[-1] == NOW // MINUTE * MINUTE
    assert_same(candles, emulator.market.truth("BTC/USDT", MINUTE, NOW - 10 * MINUTE, NOW), trades=False)


def test_candles_are_consistent_and_positive(candles: Candles) -> None:
    assert (candles.low > 0).all()
    assert (candles.low <= np.minimum(candles.open, candles.close)).all()
    assert (candles.high >= np.maximum(candles.open, candles.close)).all()
    assert (candles.volume >= 0).all()
    assert (candles.trades >= UNKNOWN_TRADES).all()
    assert all(np.isfinite(getattr(candles, field)).all() for field in CANDLE_FIELDS)


def test_two_halves_are_the_whole(exchange: Exchange, venue: Venue, timeframe_s: int) -> None:
    since = NOW - 500 * timeframe_s
    whole = exchange.candles(venue.symbol, timeframe_s, since, NOW)
    for middle in (NOW - 250 * timeframe_s, NOW - 77 * timeframe_s - 13):
        halves = [exchange.candles(venue.symbol, timeframe_s, *ends) for ends in ((since, middle), (middle, NOW))]
        assert_same(Candles.concatenate(halves), whole)


def test_page_boundaries_lose_and_repeat_nothing(exchange: Exchange, venue: Venue, emulator: Emulator) -> None:
    can = exchange.capabilities
    page = can.candle_page or 1_000
    for n in (page - 1, page, page + 1, 2 * page + 7):
        n = min(n, (can.candle_depth or n + 1) - 1)  # of a depth, the open candle takes one place
        close = NOW // MINUTE * MINUTE
        candles = exchange.candles(venue.symbol, MINUTE, close - n * MINUTE, close)
        np.testing.assert_array_equal(candles.as_of, close - MINUTE * np.arange(n - 1, -1, -1))


def test_rows_that_come_twice_or_in_reverse_change_nothing(
    exchange: Exchange, venue: Venue, emulator: Emulator
) -> None:
    truth = exchange.candles(venue.symbol, MINUTE, NOW - HOUR, NOW)
    for fault in ("duplicate", "reorder"):
        emulator.faults.inject(Rule(fault, surface="rest"))
        assert_same(exchange.candles(venue.symbol, MINUTE, NOW - HOUR, NOW), truth)
        emulator.faults.clear()


def test_a_missing_candle_stays_missing(exchange: Exchange, venue: Venue, emulator: Emulator) -> None:
    if not venue.emulated:
        pytest.skip("none is ever missing")
    missing = NOW // MINUTE * MINUTE - 10 * MINUTE
    emulator.faults.inject(Rule("gap", parameter=missing))
    candles = exchange.candles(venue.symbol, MINUTE, NOW - HOUR, NOW)
    assert len(candles) == 59
    assert missing + MINUTE not in candles.as_of


def test_threads_may_ask_at_once(exchange: Exchange, venue: Venue) -> None:
    windows = [(NOW - (n + 1) * HOUR, NOW - n * HOUR) for n in range(8)]
    alone = [exchange.candles(venue.symbol, MINUTE, *window) for window in windows]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda window: exchange.candles(venue.symbol, MINUTE, *window), windows))
    for one, other in zip(alone, together, strict=True):
        assert_same(one, other)


# --- candles from trades ---


@pytest.mark.parametrize("fault", [None, "duplicate", "reorder"])
def test_candles_from_trades_are_those_of_the_venue(
    exchange: Exchange, venue: Venue, emulator: Emulator, fault: str | None
) -> None:
    if not exchange.capabilities.builds_from_trades:
        pytest.skip("does not claim it")
    assert isinstance(exchange, BuildsFromTrades)
    since, until = NOW - 20 * HOUR - 7, NOW
    if fault is not None:
        emulator.faults.inject(Rule(fault, endpoint="Trades"))
    pages = list(exchange.candles_from_trades(venue.symbol, 300, since, until))
    assert len(pages) > 4
    built = Candles.concatenate([candles for candles, _ in pages])
    assert_same(built, exchange.candles(venue.symbol, 300, since, until))
    known = [until_ for _, until_ in pages]
    assert known == sorted(known)
    assert known[-1] == NOW // 300 * 300
    assert all(len(candles) == 0 or candles.as_of[-1] <= until_ for candles, until_ in pages)


# --- symbols and errors ---


def test_an_unknown_symbol_is_refused(exchange: Exchange) -> None:
    asks: list[Callable[[str], object]] = [
        exchange.resolve,
        exchange.rules,
        lambda symbol: exchange.candles(symbol, HOUR, NOW - 30 * HOUR, NOW),
    ]
    for symbol in ("NOPE/NOTHING", "not a symbol", "", "BTC/USDT:USDT"):
        for ask in asks:
            with pytest.raises(ExchangeError):
                ask(symbol)


def test_a_dollar_that_is_not_listed_is_another_dollar_under_its_own_symbol(exchange: Exchange, venue: Venue) -> None:
    if not venue.emulated:
        pytest.skip("lists every quote")
    assert exchange.resolve("ETH/USDT") == "ETH/USD"
    assert exchange.resolve("DOGE/USDC") == "DOGE/USD"
    with pytest.raises(ExchangeError):
        exchange.candles("ETH/USDT", HOUR, NOW - 30 * HOUR, NOW)


def test_a_timeframe_that_nobody_serves_is_refused(exchange: Exchange, venue: Venue) -> None:
    with pytest.raises(ExchangeError) as refused:
        exchange.candles(venue.symbol, 61, NOW - HOUR, NOW)
    assert refused.value.kind == "refused"


def test_resolving_settles_at_once(exchange: Exchange, venue: Venue) -> None:
    resolved = exchange.resolve(venue.symbol)
    assert exchange.resolve(resolved) == resolved


def test_rules_are_positive_and_exact(exchange: Exchange, venue: Venue, emulator: Emulator) -> None:
    rules = exchange.rules(venue.symbol)
    assert rules.tick_size == emulator.market.rules("BTC/USDT").tick_size
    assert rules.lot_size > 0
    assert rules.min_notional > 0
    assert rules.min_quantity > 0
    assert rules.status == "online"


def test_a_delisted_symbol_is_told_from_a_venue_in_trouble(
    exchange: Exchange, venue: Venue, emulator: Emulator
) -> None:
    """By rules(): fault 41, what is delisted must be marked, and an outage must not delist anything."""
    if not venue.emulated:
        pytest.skip("lists every symbol for ever")
    emulator.faults.inject(Rule("http_5xx", surface="rest"))
    with pytest.raises(ExchangeError) as refused:
        exchange.rules(venue.symbol)
    assert not isinstance(refused.value, NotListed)
    emulator.faults.clear()
    emulator.faults.inject(Rule("delisting", symbol=venue.symbol))
    with pytest.raises(NotListed):
        exchange.rules(venue.symbol)


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (Rule("reset"), "transport"),
        (Rule("close"), "transport"),
        (Rule("short_body"), "transport"),
        (Rule("html"), "not_json"),
        (Rule("bad_json"), "not_json"),
        (Rule("empty"), "not_json"),
        (Rule("null_result"), "no_result"),
        (Rule("http_429", parameter=2), "rate_limited"),
        (Rule("http_5xx", parameter=500), "server_error"),
        (Rule("http_5xx", parameter=502), "server_error"),
        (Rule("http_5xx", parameter=520), "server_error"),
    ],
    ids=lambda value: value if isinstance(value, str) else f"{value.fault} {value.parameter or ''}",
)
def test_trouble_has_a_kind_and_what_may_pass_is_survived(
    exchange: Exchange, venue: Venue, emulator: Emulator, fault: Rule, kind: str
) -> None:
    if not venue.emulated:
        pytest.skip("asks nobody")
    truth, asked = candles_and_questions(exchange, venue, emulator)
    for endpoint in asked:  # one after the other, or trouble at the first hides what becomes of it at the second
        emulator.faults.inject(replace(fault, endpoint=endpoint))
        with pytest.raises(ExchangeError) as refused:
            exchange.candles(venue.symbol, MINUTE, NOW - HOUR, NOW)
        assert refused.value.kind == kind
        emulator.faults.clear()
        if kind in PASSING:
            emulator.faults.inject(replace(fault, endpoint=endpoint, times=2))
        assert_same(exchange.candles(venue.symbol, MINUTE, NOW - HOUR, NOW), truth)
        emulator.faults.clear()


def test_the_venues_own_error_is_never_an_empty_answer(exchange: Exchange, venue: Venue, emulator: Emulator) -> None:
    if not venue.emulated:
        pytest.skip("asks nobody")
    for endpoint in candles_and_questions(exchange, venue, emulator)[1]:
        emulator.faults.inject(Rule("error", endpoint=endpoint))
        with pytest.raises(ExchangeError):
            exchange.candles(venue.symbol, MINUTE, NOW - HOUR, NOW)
        emulator.faults.clear()


def candles_and_questions(exchange: Exchange, venue: Venue, emulator: Emulator) -> tuple[Candles, list[str]]:
    """An hour's candles, and the endpoints they come from once all that a venue keeps is kept."""
    exchange.candles(venue.symbol, MINUTE, NOW - HOUR, NOW)
    before = emulator.requests.copy()
    candles = exchange.candles(venue.symbol, MINUTE, NOW - HOUR, NOW)
    asked = list(emulator.requests - before)
    assert asked
    return candles, asked


@pytest.mark.parametrize("any_name", sorted(EXCHANGES.keys() - {"paper", "simulated"}))
def test_a_faster_pace_than_the_venue_allows_is_refused_at_its_own_address(any_name: str) -> None:
    with pytest.raises(ExchangeError, match="allows"):
        open_exchange(any_name, {any_name: VenueSettings(requests_per_s=1e6)})
