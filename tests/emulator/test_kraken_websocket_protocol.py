"""The emulated WebSocket v2 of Kraken by itself: what a bare socket is told, and what each feed makes of the market."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager
from decimal import Decimal
from typing import Any

import ccxt.pro
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from shared.exchanges.kraken_book import DEPTH, Book
from tests.exchange_emulator.kraken_feeds import BookFeed, OhlcFeed, checksum, to_json
from tests.exchange_emulator.market import NS, Market
from tests.exchange_emulator.server import Emulator

BTC, ETH = "BTC/USD", "ETH/USD"
MINUTE = 60
START = 1_750_000_030.0  # half a minute has passed
OPEN = int(START // MINUTE * MINUTE)


@pytest.fixture
def emulator() -> Iterator[Emulator]:
    with Emulator((BTC, ETH), start=START) as running:
        running.heartbeat_s = 0.05
        yield running


@asynccontextmanager
async def raw(emulator: Emulator) -> AsyncGenerator[ClientConnection]:
    """A bare socket, past the status message."""
    async with asyncio.timeout(2.5), connect(emulator.websocket_url) as socket:
        status = json.loads(await socket.recv())
        assert (status["channel"], status["data"][0]["system"]) == ("status", "online")
        yield socket


async def ask(socket: ClientConnection, text: str, answers: int = 1) -> list[dict[str, Any]]:
    """The next messages that are not heartbeats, with their numbers as Decimals."""
    await socket.send(text)
    found: list[dict[str, Any]] = []
    while len(found) < answers:
        message = json.loads(await socket.recv(), parse_float=Decimal)
        if message.get("channel") != "heartbeat":
            found.append(message)
    return found


def subscribing(channel: str, *symbols: str, method: str = "subscribe", **params: Any) -> str:
    named = {"symbol": symbols} if symbols else {}
    return json.dumps({"method": method, "params": {"channel": channel, **named, **params}, "req_id": 5})


def test_a_ping_is_answered_with_its_number_or_without(emulator: Emulator) -> None:
    async def main() -> list[dict[str, Any]]:
        async with raw(emulator) as socket:
            return await ask(socket, '{"method":"ping","req_id":101}') + await ask(socket, '{"method":"ping"}')

    first, second = asyncio.run(main())
    assert (first["method"], first["req_id"]) == ("pong", 101)
    assert set(second) == {"method", "time_in", "time_out"}


def test_heartbeats_come_only_after_a_subscription(emulator: Emulator) -> None:
    async def main() -> None:
        async with raw(emulator) as socket:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.2):
                    await socket.recv()
            await ask(socket, subscribing("trade", BTC))
            assert [json.loads(await socket.recv()) for _ in range(3)] == [{"channel": "heartbeat"}] * 3

    asyncio.run(main())


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        (subscribing("ohlc", "XBT/USD", interval=1), "Currency pair not supported XBT/USD"),
        (subscribing("ohlc", BTC, interval=7), "Subscription ohlc interval not supported"),
        (subscribing("ohlc", BTC, interval="1"), "Subscription ohlc interval not supported"),
        (subscribing("book", BTC, depth=11), "Subscription depth not supported"),
        (subscribing("gossip", BTC), "Subscription name invalid"),
        (subscribing("ohlc"), "Pair field must be an array"),
        (subscribing("ohlc", BTC, method="unsubscribe"), "Subscription Not Found"),
        ('{"method":"dance","req_id":5}', "Event(s) not found"),
    ],
)
def test_what_cannot_be_done_is_refused_in_words(emulator: Emulator, request_: str, words: str) -> None:
    async def main() -> list[dict[str, Any]]:
        async with raw(emulator) as socket:
            return await ask(socket, request_)

    (answer,) = asyncio.run(main())
    assert (answer["success"], answer["error"], answer["req_id"]) == (False, words, 5)
    assert {"time_in", "time_out"} <= set(answer)


def test_nonsense_is_answered_and_the_connection_goes_on(emulator: Emulator) -> None:
    async def main() -> list[dict[str, Any]]:
        async with raw(emulator) as socket:
            return [(await ask(socket, text))[0] for text in ("nonsense", "[1]", '{"method":"ping"}')]

    assert [answer.get("error") for answer in asyncio.run(main())] == ["Malformed request"] * 2 + [None]


def test_each_symbol_is_answered_by_itself_and_once(emulator: Emulator) -> None:
    async def main() -> list[dict[str, Any]]:
        async with raw(emulator) as socket:
            both = await ask(socket, subscribing("trade", BTC, "NO/PE", ETH), 3)
            return both + await ask(socket, subscribing("trade", ETH))

    first, refused, second, again = asyncio.run(main())
    assert first["result"] == {"channel": "trade", "symbol": BTC, "snapshot": False}
    assert (refused["success"], refused["symbol"]) == (False, "NO/PE")
    assert (second["success"], second["result"]["symbol"]) == (True, ETH)
    assert again["error"] == "Already subscribed"


def test_candles_carry_exact_numbers_and_are_named_by_their_beginning(emulator: Emulator) -> None:
    async def main() -> list[dict[str, Any]]:
        async with raw(emulator) as socket:
            return await ask(socket, subscribing("ohlc", BTC, interval=5), 2)

    ack, snapshot = asyncio.run(main())
    assert ack["result"] | {"warnings": 0} == {"channel": "ohlc", "symbol": BTC, "interval": 5, "snapshot": True,
                                               "warnings": 0}  # fmt: skip
    assert (snapshot["type"], snapshot["timestamp"][:19]) == ("snapshot", "2025-06-15T15:07:10")
    closed = snapshot["data"][-2]
    (bar,) = emulator.market.bars(BTC, 300, OPEN // 300 * 300 - 300, OPEN // 300 * 300)
    assert (closed["interval_begin"], closed["timestamp"]) == (
        "2025-06-15T15:00:00.000000000Z",
        "2025-06-15T15:05:00.000000Z",
    )
    assert [closed[name] for name in ("open", "high", "low", "close", "volume", "vwap", "trades")] == [
        bar.open, bar.high, bar.low, bar.close, bar.volume, bar.vwap, bar.count]  # fmt: skip


def test_trades_and_ticker_and_instruments_are_told(emulator: Emulator) -> None:
    async def main() -> list[dict[str, Any]]:
        async with raw(emulator) as socket:
            told = await ask(socket, subscribing("trade", BTC, snapshot=True), 2)
            told += await ask(socket, subscribing("ticker", BTC), 2) + await ask(socket, subscribing("instrument"), 2)
            told += await ask(socket, subscribing("trade", BTC, method="unsubscribe"))
            emulator.clock.advance(30)
            return told + await ask(socket, '{"method":"ping"}', 2)

    _, trades, _, ticker, _, instruments, unsubscribed, *later = asyncio.run(main())
    latest = emulator.market.latest_trades(BTC, int(START * NS), 50)
    assert [(t["trade_id"], t["price"], t["qty"], t["side"]) for t in trades["data"]] == [
        (t.id, t.price, t.volume, t.side) for t in latest
    ]
    (tick,) = ticker["data"]
    assert tick["bid"] < tick["last"] == latest[-1].price < tick["ask"]
    assert tick["low"] <= tick["last"] <= tick["high"]
    assert [(p["symbol"], p["price_precision"]) for p in instruments["data"]["pairs"]] == [(BTC, 2), (ETH, 2)]
    assert unsubscribed["success"] is True
    assert {message.get("channel", "pong") for message in later} == {"ticker", "pong"}


def test_the_emulator_stops_at_once_and_says_goodbye() -> None:
    other = Emulator((BTC,), start=START).__enter__()

    async def main() -> float:
        async with raw(other) as socket:
            started = time.monotonic()
            stopping = asyncio.create_task(asyncio.to_thread(other.__exit__, None, None, None))
            with pytest.raises(ConnectionClosed) as closed:
                await socket.recv()
            await stopping
            assert closed.value.rcvd is not None
            assert closed.value.rcvd.code == 1001
            return time.monotonic() - started

    assert asyncio.run(main()) < 1


def test_without_a_snapshot_the_first_word_is_the_next_trade(emulator: Emulator) -> None:
    async def main() -> dict[str, Any]:
        async with raw(emulator) as socket:
            await ask(socket, subscribing("ohlc", BTC, interval=1, snapshot=False))
            await ask(socket, '{"method":"ping"}')  # nothing else came before
            emulator.clock.advance(20)
            return next(m for m in await ask(socket, '{"method":"ping"}', 2) if m.get("channel") == "ohlc")

    update = asyncio.run(main())
    (bar,) = emulator.market.bars_at(BTC, MINUTE, OPEN, START + 20)
    assert (update["type"], update["data"][0]["trades"]) == ("update", bar.count)


def test_trades_are_told_once_and_in_order(emulator: Emulator) -> None:
    async def main() -> list[int]:
        told: list[int] = []
        async with raw(emulator) as socket:
            await ask(socket, subscribing("trade", BTC))
            for _ in range(3):
                emulator.clock.advance(40)
                while (
                    not told or told[-1] != emulator.market.latest_trades(BTC, int(emulator.clock.now() * NS), 1)[0].id
                ):
                    message = json.loads(await socket.recv())
                    told += [trade["trade_id"] for trade in message.get("data", ())]
        return told

    expected = emulator.market.trades(BTC, int(START * NS), int((START + 120) * NS))
    assert asyncio.run(main()) == [trade.id for trade in expected]


def test_the_stream_client_of_ccxt_works_unchanged(emulator: Emulator) -> None:
    venue = ccxt.pro.kraken({"enableRateLimit": False})
    venue.urls["api"]["public"] = emulator.rest_url
    venue.urls["api"]["ws"]["publicV2"] = emulator.websocket_url

    async def main() -> tuple[Any, Any, Any]:
        try:
            async with asyncio.timeout(2.5):
                candles = await venue.watch_ohlcv(BTC, "1m")
                book, ticker = await venue.watch_order_book(BTC, 10), await venue.watch_ticker(BTC)
                return candles, book, ticker
        finally:
            await venue.close()

    candles, book, ticker = asyncio.run(main())
    (*_, bar) = (bar for bar in emulator.market.bars_at(BTC, MINUTE, OPEN - MINUTE, START) if bar.count)
    assert candles[-1][1:] == [float(value) for value in (bar.open, bar.high, bar.low, bar.close, bar.volume)]
    assert book["bids"][0][0] < float(emulator.market.last_price(BTC, START)) < book["asks"][0][0]
    assert ticker["last"] == float(emulator.market.last_price(BTC, START))


# --- feeds, without a socket ---


@pytest.fixture(scope="module")
def market() -> Market:
    return Market((BTC,))


def test_every_update_of_a_book_leads_from_right_to_right(market: Market) -> None:
    feed, book = BookFeed(market, BTC, DEPTH), Book()
    (element,) = decimals(feed.snapshot(START))
    assert book.apply(element, snapshot=True)
    sizes = []
    for trade in market.trades(BTC, int(START * NS), int((START + 1_200) * NS)):
        ((element,),) = map(decimals, feed.updates(trade.time_ns / NS + 1e-6))
        sizes.append(len(element["asks"]))
        assert book.apply(element, snapshot=False), trade
    assert feed.updates(trade.time_ns / NS + 1e-6) == []
    assert len(sizes) > 80
    assert any(level["qty"] == 0 for level in element["asks"] + element["bids"]) or min(sizes) < 2 * DEPTH


def decimals(data: Any) -> Any:
    return json.loads(to_json(data), parse_float=Decimal)


def test_the_emulators_checksum_is_the_documentations(market: Market) -> None:
    from tests.shared.kraken_messages import EXAMPLE_ASKS, EXAMPLE_BIDS, EXAMPLE_CHECKSUM

    def side(text: str) -> dict[Decimal, Decimal]:
        numbers = [Decimal(number) for number in text.split()]
        return dict(zip(numbers[::2], numbers[1::2], strict=True))

    assert checksum(side(EXAMPLE_ASKS), side(EXAMPLE_BIDS)) == EXAMPLE_CHECKSUM


def test_nothing_tells_that_a_candle_closed_until_the_next_trade(emulator: Emulator) -> None:
    market, close = emulator.market, OPEN + MINUTE
    feed = OhlcFeed(market, emulator.faults, BTC, 1)
    feed.snapshot(START)
    first_after = market.trades(BTC, close * NS, (close + MINUTE) * NS)[0].time_ns / NS
    assert [bar[0]["trades"] for bar in feed.updates(close - 0.001)] == [market.bars(BTC, MINUTE, OPEN, close)[0].count]
    assert feed.updates(first_after - 0.001) == []
    ((opened,),) = feed.updates(first_after + 0.001)  # the closed one's last state is known already
    assert (opened["trades"], opened["interval_begin"]) == (1, "2025-06-15T15:08:00.000000000Z")
