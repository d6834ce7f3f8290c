"""What every registered venue must keep; a new venue joins by a line in VENUES below.

Those that live on the network are asked through a local server.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

import numpy as np
import pytest

from shared.exchanges import EXCHANGES, Exchange, ExchangeError, open_exchange
from shared.rows import CANDLE_FIELDS, UNKNOWN_TRADES, Candles
from tests.shared.fake_kraken import NOW, FakeKraken, connect, serving

HOUR = 3_600
SINCE = NOW - 30 * HOUR


@contextmanager
def kraken() -> Iterator[Exchange]:
    with serving(FakeKraken()) as uri:
        yield connect(uri)


@contextmanager
def simulated() -> Iterator[Exchange]:
    yield open_exchange("simulated")


@dataclass(frozen=True)
class Venue:
    open: Callable[[], AbstractContextManager[Exchange]]
    symbol: str
    provenance: str


VENUES = {
    "kraken": Venue(kraken, "BTC/USDT", "real"),
    "simulated": Venue(simulated, "SIM-BTC/USDT", "simulated"),
}


def test_every_registered_venue_is_under_contract() -> None:
    assert set(VENUES) == set(EXCHANGES)


@pytest.fixture(params=sorted(VENUES))
def venue(request: pytest.FixtureRequest) -> Venue:
    return VENUES[request.param]


@pytest.fixture
def exchange(venue: Venue) -> Iterator[Exchange]:
    with venue.open() as opened:
        yield opened


@pytest.fixture(params=[60, 300, HOUR])
def timeframe_s(request: pytest.FixtureRequest) -> int:
    return int(request.param)


@pytest.fixture
def candles(exchange: Exchange, venue: Venue, timeframe_s: int) -> Candles:
    return exchange.candles(venue.symbol, timeframe_s, max(SINCE, NOW - 600 * timeframe_s), NOW)


@pytest.mark.parametrize("name", sorted(EXCHANGES))
def test_it_is_registered_under_its_own_name_and_opens_without_the_network(name: str) -> None:
    exchange = open_exchange(name)
    assert exchange.name == name
    assert exchange.provenance == VENUES[name].provenance


def test_candles_are_sorted_unique_and_on_the_grid(candles: Candles, timeframe_s: int) -> None:
    assert len(candles) > 20
    assert (np.diff(candles.as_of) > 0).all()
    assert (candles.as_of % timeframe_s == 0).all()


def test_candles_closed_within_the_window(candles: Candles, timeframe_s: int) -> None:
    assert candles.as_of[0] > max(SINCE, NOW - 600 * timeframe_s)
    assert NOW - timeframe_s < candles.as_of[-1] <= NOW


def test_a_window_takes_its_end_and_leaves_its_beginning(exchange: Exchange, venue: Venue) -> None:
    close = NOW // HOUR * HOUR
    assert exchange.candles(venue.symbol, HOUR, close - HOUR, close).as_of.tolist() == [close]
    assert len(exchange.candles(venue.symbol, HOUR, close - HOUR, close - 1)) == 0
    assert len(exchange.candles(venue.symbol, HOUR, close, close)) == 0


def test_candles_are_consistent_and_positive(candles: Candles) -> None:
    assert (candles.low > 0).all()
    assert (candles.low <= np.minimum(candles.open, candles.close)).all()
    assert (candles.high >= np.maximum(candles.open, candles.close)).all()
    assert (candles.volume >= 0).all()
    assert (candles.trades >= UNKNOWN_TRADES).all()
    assert all(np.isfinite(getattr(candles, name)).all() for name in CANDLE_FIELDS)


def test_two_halves_are_the_whole(exchange: Exchange, venue: Venue, timeframe_s: int) -> None:
    since = NOW - 500 * timeframe_s
    for middle in (NOW - 250 * timeframe_s, NOW - 77 * timeframe_s - 13):
        halves = [exchange.candles(venue.symbol, timeframe_s, *ends) for ends in ((since, middle), (middle, NOW))]
        joined, whole = Candles.concatenate(halves), exchange.candles(venue.symbol, timeframe_s, since, NOW)
        for name in CANDLE_FIELDS:
            np.testing.assert_array_equal(getattr(joined, name), getattr(whole, name))


def test_an_unknown_symbol_is_refused(exchange: Exchange) -> None:
    asks: list[Callable[[str], object]] = [
        exchange.resolve,
        exchange.rules,
        lambda symbol: exchange.candles(symbol, HOUR, SINCE, NOW),
    ]
    for symbol in ("NOPE/NOTHING", "not a symbol", ""):
        for ask in asks:
            with pytest.raises(ExchangeError):
                ask(symbol)


def test_a_timeframe_that_nobody_serves_is_refused(exchange: Exchange, venue: Venue) -> None:
    with pytest.raises(ExchangeError):
        exchange.candles(venue.symbol, 61, SINCE, NOW)


def test_resolving_settles_at_once(exchange: Exchange, venue: Venue) -> None:
    resolved = exchange.resolve(venue.symbol)
    assert exchange.resolve(resolved) == resolved


def test_rules_are_positive(exchange: Exchange, venue: Venue) -> None:
    rules = exchange.rules(venue.symbol)
    assert rules.tick_size > 0
    assert rules.lot_size > 0
    assert rules.min_notional > 0
