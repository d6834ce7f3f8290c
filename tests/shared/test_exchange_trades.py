"""Candles built from trades equal those of all trades at once, however the pages are cut."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.exchanges.kraken import KrakenExchange
from shared.exchanges.protocol import ExchangeError
from shared.exchanges.trade_candles import NS, Trade, TradeCandles
from shared.rows import CANDLE_FIELDS, Candles
from tests.shared.fake_kraken import FakeKraken, connect, serving

OPENED = 1_750_000_200  # on the grid of five minutes
FIVE = 300


def candles_of(trades: list[Trade], since: int, until: int) -> Candles:
    """The definition: all trades of each interval, in order of time."""
    rows = []
    for opened in sorted({t.time_ns // NS // FIVE * FIVE for t in trades}):
        mine = sorted((t for t in trades if t.time_ns // NS // FIVE * FIVE == opened), key=lambda t: (t.time_ns, t.id))
        prices, volume = [t.price for t in mine], float(sum(t.volume for t in mine))
        if since < opened + FIVE <= until:
            rows.append((opened + FIVE, prices[0], max(prices), min(prices), prices[-1], volume, len(mine)))
    return Candles.from_columns(list(zip(*rows, strict=True))) if rows else Candles.empty()


def assert_same(left: Candles, right: Candles) -> None:
    for field in CANDLE_FIELDS:
        np.testing.assert_array_equal(getattr(left, field), getattr(right, field))


@st.composite
def tapes(draw: st.DrawFn) -> list[Trade]:
    steps = st.one_of(st.just(0), st.integers(1, 40 * NS), st.integers(300 * NS, 2_000 * NS))
    time_ns, tape = OPENED * NS, []
    for number, step in enumerate(draw(st.lists(steps, max_size=60))):
        time_ns += step
        volume = Decimal(draw(st.integers(1, 10**12))).scaleb(-8)
        tape.append(Trade(number + 1, time_ns, draw(st.integers(1, 1000)) / 10, volume))
    return tape


class Tape:
    """Kraken's Trades: ``page`` of those after ``since``, or from it on, and the time of the last."""

    def __init__(self, trades: list[Trade], page: int, inclusive: bool) -> None:
        self.trades, self.page, self.inclusive = trades, page, inclusive

    def answer(self, query: dict[str, str]) -> Any:
        since = int(query["since"])
        found = [t for t in self.trades if t.time_ns > since or (self.inclusive and t.time_ns == since)][: self.page]
        rows = [[str(t.price), str(t.volume), _seconds(t.time_ns), "b", "l", "", t.id] for t in found]
        return {"error": [], "result": {"XXBTZUSD": rows, "last": str(found[-1].time_ns if found else since)}}


def _seconds(time_ns: int) -> float:
    return time_ns / NS


@pytest.fixture
def fake() -> FakeKraken:
    return FakeKraken()


@pytest.fixture
def kraken(fake: FakeKraken) -> Iterator[KrakenExchange]:
    with serving(fake) as uri:
        yield connect(uri)


@settings(max_examples=150, deadline=None)
@given(
    tape=tapes(), size=st.integers(1, 20), overlap=st.integers(0, 3), skip=st.integers(0, 3), span=st.integers(1, 40)
)
def test_however_the_pages_are_cut_the_candles_are_the_same(
    tape: list[Trade], size: int, overlap: int, skip: int, span: int
) -> None:
    since, until = OPENED + skip * FIVE, OPENED + (skip + span) * FIVE
    building, parts = TradeCandles(FIVE, since), []
    for start in range(0, len(tape), size):
        building.add(tape[max(0, start - min(overlap, size)) : start + size][::-1])
        part = building.take(since, until)
        assert (part.as_of <= building.known_until).all()
        parts.append(part)
    building.nothing_more_until(until)
    parts.append(building.take(since, until))
    assert_same(Candles.concatenate(parts), candles_of(tape, since, until))


def some_trades(n: int, step_ns: int = 7_300_001_000) -> list[Trade]:
    return [Trade(i + 1, OPENED * NS + i * step_ns, 100.0 + i % 17, Decimal(i + 1) / 1000) for i in range(n)]


@pytest.mark.parametrize("inclusive", [False, True])
def test_kraken_is_asked_page_by_page_and_says_how_far_it_is_known(
    fake: FakeKraken, kraken: KrakenExchange, inclusive: bool
) -> None:
    trades = some_trades(500)
    fake.answers["Trades"] = Tape(trades, 100, inclusive).answer
    until = OPENED + 20 * FIVE
    pages = list(kraken.candles_from_trades("BTC/USD", FIVE, OPENED, until))
    assert_same(Candles.concatenate([candles for candles, _ in pages]), candles_of(trades, OPENED, until))
    assert [known for _, known in pages] == sorted(known for _, known in pages)
    assert pages[-1][1] == until
    assert all((candles.as_of <= known).all() for candles, known in pages)
    times = [int(query["since"]) for query in fake.calls("Trades")]
    assert times[0] == OPENED * NS - 1
    assert times == sorted(set(times))


def test_the_trades_of_one_moment_may_stand_on_two_pages(fake: FakeKraken, kraken: KrakenExchange) -> None:
    trades = [Trade(i + 1, (OPENED + i // 7) * NS, 100.0 + i, Decimal(1)) for i in range(70)]
    fake.answers["Trades"] = Tape(trades, 10, inclusive=False).answer
    pages = list(kraken.candles_from_trades("BTC/USD", FIVE, OPENED, OPENED + FIVE))
    assert_same(Candles.concatenate([candles for candles, _ in pages]), candles_of(trades, OPENED, OPENED + FIVE))


def test_a_stretch_without_trades_is_known_all_the_same(fake: FakeKraken, kraken: KrakenExchange) -> None:
    early, late = some_trades(3), Trade(9, (OPENED + 50 * FIVE) * NS, 1.0, Decimal(1))
    fake.answers["Trades"] = Tape([*early, late], 3, inclusive=False).answer
    pages = list(kraken.candles_from_trades("BTC/USD", FIVE, OPENED, OPENED + 60 * FIVE))
    assert [len(candles) for candles, _ in pages] == [0, 1, 1]
    assert [known for _, known in pages] == [OPENED, OPENED + 50 * FIVE, OPENED + 60 * FIVE]
    fake.answers["Trades"] = Tape([], 3, inclusive=False).answer
    ((candles, known),) = kraken.candles_from_trades("BTC/USD", FIVE, OPENED, OPENED + 60 * FIVE + 7)
    assert (len(candles), known) == (0, OPENED + 60 * FIVE)


def test_the_interval_that_is_still_open_at_the_end_is_not_given(fake: FakeKraken, kraken: KrakenExchange) -> None:
    fake.answers["Trades"] = Tape(some_trades(100), 1_000, inclusive=False).answer
    pages = list(kraken.candles_from_trades("BTC/USD", FIVE, OPENED, OPENED + 2 * FIVE + 299))
    assert pages[-1][1] == OPENED + 2 * FIVE
    assert Candles.concatenate([candles for candles, _ in pages]).as_of.tolist() == [OPENED + FIVE, OPENED + 2 * FIVE]


def test_an_empty_window_asks_for_no_trades(fake: FakeKraken, kraken: KrakenExchange) -> None:
    assert list(kraken.candles_from_trades("BTC/USD", FIVE, OPENED, OPENED)) == []
    assert fake.calls("Trades") == []


def test_digits_beyond_a_float_decide_on_which_side_of_a_close_a_trade_falls(
    fake: FakeKraken, kraken: KrakenExchange
) -> None:
    close = OPENED + FIVE
    row = f'["1.0","1.0",{close - 1}.999999999,"b","l","",1]'
    body = f'{{"error":[],"result":{{"XXBTZUSD":[{row}],"last":"{close * NS - 1}"}}}}'.encode()
    kraken.resolve("BTC/USD")
    fake.fail((200, body))
    fake.answers["Trades"] = Tape([], 3, inclusive=False).answer
    pages = list(kraken.candles_from_trades("BTC/USD", FIVE, OPENED, close + FIVE))
    assert Candles.concatenate([candles for candles, _ in pages]).as_of.tolist() == [close]


def test_more_trades_at_one_moment_than_a_page_holds_is_an_error_and_no_endless_loop(
    fake: FakeKraken, kraken: KrakenExchange
) -> None:
    trades = [Trade(i + 1, OPENED * NS, 1.0, Decimal(1)) for i in range(1_500)]
    fake.answers["Trades"] = Tape(trades, 1_000, inclusive=False).answer
    with pytest.raises(ExchangeError, match="one moment") as refused:
        list(kraken.candles_from_trades("BTC/USD", FIVE, OPENED, OPENED + FIVE))
    assert refused.value.kind == "malformed"


@pytest.mark.parametrize(
    "row", ['["NaN","1",1,"b","l","",1]', '["0","1",1,"b","l","",1]', '["1","-1",1,"b","l","",1]', '["1","1",1]']
)
def test_a_trade_that_is_none_is_malformed(fake: FakeKraken, kraken: KrakenExchange, row: str) -> None:
    kraken.resolve("BTC/USD")
    fake.fail((200, f'{{"error":[],"result":{{"XXBTZUSD":[{row}],"last":"1"}}}}'.encode()))
    with pytest.raises(ExchangeError, match="kraken Trades") as refused:
        list(kraken.candles_from_trades("BTC/USD", FIVE, OPENED, OPENED + FIVE))
    assert refused.value.kind == "malformed"
