"""Which pages are asked of a venue through ccxt, and what a page proves about the candles that it does not hold."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from shared.exchanges.ccxt_venue import MS, CcxtExchange
from shared.exchanges.protocol import ExchangeError
from tests.exchange_emulator.server import Emulator
from tests.shared.test_exchange_ccxt import BTC, CLOSE, HOUR, MINUTE, ask, binance, emulated, emulator, fake

__all__ = ["binance", "emulated", "emulator", "fake"]  # fixtures


class Windowed:
    """A venue that answers only with what lies in the window of ``limit`` candles from ``since`` on."""

    def __init__(self, binance: CcxtExchange, truth: Any, page: int) -> None:
        binance.capabilities = replace(binance.capabilities, candle_page=page)
        binance._client().fetch_ohlcv = self.fetch
        self.rows = [[(at - MINUTE) * MS, *prices] for at, *prices in zip(*map(list, truth), strict=True)]
        self.asked: list[int] = []

    def fetch(self, _symbol: str, _timeframe: str, since: int, limit: int) -> list[Any]:
        self.asked.append(since)
        return [row for row in self.rows if since <= row[0] < since + limit * 60_000]


@pytest.mark.parametrize("page", [1, 7, 60, 100])
def test_holes_wider_than_a_page_end_nothing_early(binance: CcxtExchange, emulator: Emulator, page: int) -> None:
    whole = emulator.market.truth(BTC, MINUTE, CLOSE - HOUR, CLOSE)
    there = np.ones(60, dtype=bool)
    there[10:40] = there[58:] = False
    kept = whole[there]
    columns = (kept.as_of, kept.open, kept.high, kept.low, kept.close, kept.volume)
    venue = Windowed(binance, columns, page)
    candles = ask(binance)
    np.testing.assert_array_equal(candles.as_of, kept.as_of)
    np.testing.assert_array_equal(candles.volume, kept.volume)
    assert venue.asked == sorted(set(venue.asked))


def test_a_venue_that_ignores_since_ends_it_all_the_same(binance: CcxtExchange) -> None:
    latest = [[(CLOSE - 2 * MINUTE) * MS, 1.0, 1.0, 1.0, 1.0, 1.0], [(CLOSE - MINUTE) * MS, 2.0, 2.0, 2.0, 2.0, 2.0]]
    binance._client().fetch_ohlcv = lambda *_args, **_more: latest
    assert ask(binance).as_of.tolist() == [CLOSE - MINUTE, CLOSE]
    assert len(binance.candles(BTC, MINUTE, CLOSE - 3 * HOUR, CLOSE - 2 * HOUR)) == 0


def test_the_venues_clock_is_asked_before_a_new_close_and_never_for_history(
    binance: CcxtExchange, emulator: Emulator
) -> None:
    binance.candles(BTC, MINUTE, CLOSE - HOUR, CLOSE)
    assert emulator.requests["time"] == 1
    binance.candles(BTC, MINUTE, CLOSE - 2 * HOUR, CLOSE)
    assert emulator.requests["time"] == 1
    assert binance.candles(BTC, MINUTE, CLOSE - HOUR, CLOSE + HOUR).as_of[-1] == CLOSE
    assert emulator.requests["time"] == 2


@pytest.mark.parametrize("exercised", ["emulator", "never"])
def test_without_a_venues_clock_only_a_newer_candle_proves_a_close(
    binance: CcxtExchange, emulator: Emulator, exercised: Any
) -> None:
    """The caller's clock may be ahead: an hour here."""
    binance.capabilities = replace(binance.capabilities, exercised=exercised)
    binance._client().has["fetchTime"] = False
    assert binance.server_time() is None
    assert binance.candles(BTC, MINUTE, CLOSE - HOUR, CLOSE + HOUR).as_of[-1] == CLOSE
    assert len(ask(binance)) == 60
    assert emulator.requests["time"] == 0
    asked = emulator.requests["klines"]
    binance.candles(BTC, MINUTE, CLOSE - 2 * HOUR, CLOSE - HOUR)  # history: what has begun since is known
    assert emulator.requests["klines"] == asked + 1


def test_without_a_venues_clock_nothing_has_closed_where_nothing_has_begun(binance: CcxtExchange) -> None:
    binance._client().has["fetchTime"] = False
    binance._client().fetch_ohlcv = lambda *_args, **_more: []
    assert len(ask(binance)) == 0


class NeverTried:
    """A venue outside EXERCISED with these candles (open times), of which ``serve`` picks by ``since`` and limit."""

    def __init__(self, binance: CcxtExchange, opened: list[int], serve: str, page: int = 20) -> None:
        binance.capabilities = replace(binance.capabilities, exercised="never", candle_page=page)
        binance._client().fetch_ohlcv = self.fetch
        self.opened, self.serve, self.asked = opened, serve, 0

    def fetch(self, _symbol: str, _timeframe: str, since: int | None, limit: int) -> list[Any]:
        self.asked += 1
        after = [at for at in self.opened if since is None or at >= since // MS]
        chosen = {
            "latest": self.opened[-limit:],
            "depth": [at for at in after if at >= self.opened[-limit]][:limit],
            "first": after[:limit],
            "window": [at for at in after if since is None or at < since // MS + limit * MINUTE],
        }[self.serve]
        return [[at * MS, 1.0, 1.0, 1.0, 1.0, 1.0] for at in chosen]


MINUTES = [CLOSE - n * MINUTE for n in range(100, -1, -1)]  # open times; the last is not closed


@pytest.mark.parametrize("serve", ["latest", "depth"])
def test_candles_that_an_untried_venue_may_only_be_too_shallow_for_are_never_called_missing(
    binance: CcxtExchange, serve: str
) -> None:
    NeverTried(binance, MINUTES, serve)
    with pytest.raises(ExchangeError, match=r"got .* and later: what is missing before") as refused:
        binance.candles(BTC, MINUTE, CLOSE - HOUR, CLOSE)
    assert refused.value.kind == "malformed"
    assert len(binance.candles(BTC, MINUTE, CLOSE - 10 * MINUTE, CLOSE)) == 10


@pytest.mark.parametrize("serve", ["first", "window"])
@pytest.mark.parametrize("begins", [29, 45])  # with 29 begins the second page
@pytest.mark.parametrize("hole", [0, 1, 19, 20, 21, 45])
def test_holes_of_an_untried_venue_are_holes_where_it_serves_what_was_asked(
    binance: CcxtExchange, serve: str, begins: int, hole: int
) -> None:
    there = MINUTES[:begins] + MINUTES[begins + hole :]
    venue = NeverTried(binance, there, serve)
    expected = [at + MINUTE for at in there if CLOSE - 90 * MINUTE <= at < CLOSE]
    assert binance.candles(BTC, MINUTE, CLOSE - 90 * MINUTE, CLOSE).as_of.tolist() == expected
    assert venue.asked <= 7
    hole_since, hole_until = MINUTES[begins], MINUTES[begins + hole]
    assert len(binance.candles(BTC, MINUTE, hole_since, hole_until)) == 0
