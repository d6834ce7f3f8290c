"""The watcher in its thread against the emulator's executions: with each fault, a fill is heard or a Gap is."""

from __future__ import annotations

import asyncio
import base64
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator
from decimal import Decimal

import krakenex
import pytest

from policy.execution.venues.execution_watcher import ExecutionWatcher
from policy.execution.venues.kraken_executions import (
    Connected,
    Disconnected,
    Execution,
    ExecutionEvent,
    Gap,
)
from policy.execution.venues.protocol import CouldNotAsk
from shared.exchanges.kraken_socket import StreamOptions
from tests.exchange_emulator.faults import Rule
from tests.exchange_emulator.kraken_executions import TOKEN_S
from tests.exchange_emulator.kraken_ids import kraken_id
from tests.exchange_emulator.records import Order, Request
from tests.exchange_emulator.server import Emulator

BTC, ACCOUNT = "BTC/USD", "main"
PATIENT = StreamOptions(silence_s=4, reconnect_s=0.01, reconnect_max_s=0.05)  # silence where none is meant: a slow core
IMPATIENT = StreamOptions(silence_s=0.5, reconnect_s=0.01, reconnect_max_s=0.05)
IN_TIME_S = 5.0
TENTH = Decimal("0.1")

Wanted = Callable[[ExecutionEvent], bool]


@pytest.fixture
def emulator() -> Iterator[Emulator]:
    with Emulator((BTC,)) as running:
        running.heartbeat_s = 0.05
        running.engine.accounts.open(ACCOUNT)
        running.engine.accounts.deposit(ACCOUNT, "USD", Decimal(1_000_000))
        yield running


@pytest.fixture
def watcher(emulator: Emulator) -> Iterator[ExecutionWatcher]:
    """Connected; the first Gap is taken."""
    with watching(emulator) as watcher:
        until(watcher, lambda event: isinstance(event, Gap))
        yield watcher


def watching(emulator: Emulator, options: StreamOptions = PATIENT) -> ExecutionWatcher:
    return ExecutionWatcher(emulator.websocket_url, lambda: emulator.tokens.issue(ACCOUNT), options)


def until(watcher: ExecutionWatcher, wanted: Wanted) -> list[ExecutionEvent]:
    """The news up to the batch with the first wanted one."""
    seen: list[ExecutionEvent] = []
    ends = time.monotonic() + IN_TIME_S
    while not any(wanted(event) for event in seen):
        left = ends - time.monotonic()
        assert left > 0, seen
        seen += watcher.wait(left)
    return seen


def during(watcher: ExecutionWatcher, seconds: float) -> list[ExecutionEvent]:
    seen: list[ExecutionEvent] = []
    ends = time.monotonic() + seconds
    while (left := ends - time.monotonic()) > 0:
        seen += watcher.wait(left)
    return seen


def buy(emulator: Emulator, client_id: str) -> Order:
    """Filled at once, a virtual second after whatever was before: its events are a message of their own."""
    emulator.clock.advance(1)
    return emulator.engine.place(ACCOUNT, Request(BTC, "buy", "market", TENTH, client_id=client_id))


def is_filled(client_id: str) -> Wanted:
    return lambda event: isinstance(event, Execution) and (event.client_id, event.kind) == (client_id, "filled")


def is_trade(trade_id: str) -> Wanted:
    return lambda event: trade_id in trade_ids([event])


def is_connected(event: ExecutionEvent) -> bool:
    return isinstance(event, Connected)


def trade_ids(events: list[ExecutionEvent]) -> list[str]:
    return [event.trade.venue_trade_id for event in events if isinstance(event, Execution) and event.trade]


def true_ids(emulator: Emulator, *orders: Order) -> list[str]:
    numbers = [order.number for order in orders]
    return [kraken_id("T", fill.number) for fill in emulator.engine.view(ACCOUNT).fills if fill.order in numbers]


def kinds(events: list[ExecutionEvent]) -> list[str]:
    return [event.kind if isinstance(event, Execution) else type(event).__name__ for event in events]


def inject(emulator: Emulator, fault: str, parameter: float | str | None = None) -> None:
    emulator.faults.inject(Rule(fault, "stream", "executions", times=1, parameter=parameter))


# --- without faults ---


def test_an_order_is_heard_from_its_birth_to_its_end_with_exact_numbers(
    emulator: Emulator, watcher: ExecutionWatcher
) -> None:
    order = buy(emulator, "a")
    seen = until(watcher, is_filled("a"))
    fills = emulator.engine.view(ACCOUNT).fills
    assert kinds(seen) == ["pending_new", "new", *["trade"] * len(fills), "filled"]
    assert {event.venue_order_id for event in seen if isinstance(event, Execution)} == {kraken_id("O", order.number)}
    assert [event.ended for event in seen if isinstance(event, Execution)] == [False] * (len(seen) - 1) + [True]
    trades = [event.trade for event in seen if isinstance(event, Execution) and event.trade]
    assert [(trade.venue_trade_id, trade.quantity, trade.price, trade.cost, trade.fees, trade.maker)
            for trade in trades] == [
        (kraken_id("T", fill.number), fill.quantity, fill.price, fill.cost, (("USD", fill.fee),), False)
        for fill in fills
    ]  # fmt: skip
    assert isinstance(seen[-1], Execution)
    assert (seen[-1].filled, seen[-1].quantity, seen[-1].at) == (TENTH, TENTH, pytest.approx(emulator.clock.now()))


def test_a_partial_fill_and_its_cancellation_are_told_apart_from_a_full_one(
    emulator: Emulator, watcher: ExecutionWatcher
) -> None:
    limit = emulator.market.last_price(BTC, emulator.clock.now()) // 2
    order = emulator.engine.place(ACCOUNT, Request(BTC, "buy", "limit", TENTH, limit_price=limit, client_id="a"))
    emulator.engine.force_fill(order.number, TENTH / 4)
    emulator.engine.cancel(ACCOUNT, order.number)
    seen = until(watcher, lambda event: isinstance(event, Execution) and event.ended)
    assert kinds(seen) == ["pending_new", "new", "trade", "canceled"]
    last = seen[-1]
    assert isinstance(last, Execution)
    assert (last.filled, last.reason) == (TENTH / 4, "User requested")


def test_a_new_connection_hears_what_is_open_and_what_was_filled_and_that_it_may_have_missed_more(
    emulator: Emulator,
) -> None:
    filled = buy(emulator, "filled")
    limit = emulator.market.last_price(BTC, emulator.clock.now()) // 2
    emulator.engine.place(ACCOUNT, Request(BTC, "buy", "limit", TENTH, limit_price=limit, client_id="open"))
    with watching(emulator) as watcher:
        assert not watcher.connected
        fills = true_ids(emulator, filled)
        seen = until(watcher, is_trade(fills[-1]))
        assert watcher.connected
    assert kinds(seen) == ["Connected", "Gap", "new", *["trade"] * len(fills)]
    assert [event.client_id for event in seen if isinstance(event, Execution)] == ["open", *["filled"] * len(fills)]
    assert trade_ids(seen) == fills
    assert all(event.snapshot for event in seen if isinstance(event, Execution))


# --- each fault: B is bought under it, C after it ---


@pytest.mark.parametrize(
    ("fault", "b_is_told", "has_gap"),
    [
        ("drop_update", False, True),
        ("duplicate", True, False),
        ("sequence_gap", True, True),
        ("stream_bad_json", False, True),
        ("reorder", True, True),
    ],
)
def test_a_spoilt_message_is_told_or_a_gap_is(
    emulator: Emulator, watcher: ExecutionWatcher, fault: str, b_is_told: bool, has_gap: bool
) -> None:
    a = buy(emulator, "a")
    assert trade_ids(until(watcher, is_filled("a"))) == true_ids(emulator, a)
    inject(emulator, fault)
    b, c = buy(emulator, "b"), buy(emulator, "c")
    seen = until(watcher, is_filled("b" if fault == "reorder" else "c"))
    assert emulator.faults.served[fault] == 1
    assert sorted(trade_ids(seen)) == sorted(true_ids(emulator, *([b, c] if b_is_told else [c])))
    assert ("Gap" in kinds(seen)) is has_gap
    assert during(watcher, 0.1) == []
    assert watcher.connected


def test_a_late_message_shows_as_a_gap_and_is_told_when_it_comes(emulator: Emulator, watcher: ExecutionWatcher) -> None:
    inject(emulator, "late_event", 30.0)
    b, c = buy(emulator, "b"), buy(emulator, "c")
    seen = until(watcher, is_filled("c"))
    assert trade_ids(seen) == true_ids(emulator, c)
    assert kinds(seen)[0] == "Gap"
    emulator.clock.advance(30)
    assert trade_ids(until(watcher, is_filled("b"))) == true_ids(emulator, b)
    assert during(watcher, 0.1) == []


@pytest.mark.parametrize("fault", ["silence", "stream_close", "stream_reset"])
def test_a_lost_connection_comes_back_with_a_gap_and_the_last_fills(emulator: Emulator, fault: str) -> None:
    with watching(emulator, IMPATIENT if fault == "silence" else PATIENT) as watcher:
        until(watcher, lambda event: isinstance(event, Gap))
        inject(emulator, fault)
        fills = true_ids(emulator, buy(emulator, "b"))
        seen = until(watcher, is_trade(fills[-1]))
        assert kinds(seen) == ["Disconnected", "Connected", "Gap", *["trade"] * len(fills)]
        assert trade_ids(seen) == fills
        c = buy(emulator, "c")
        assert true_ids(emulator, c)[0] in trade_ids(until(watcher, is_trade(true_ids(emulator, c)[-1])))


def test_what_the_venue_forgets_to_number_is_heard_by_nobody(emulator: Emulator, watcher: ExecutionWatcher) -> None:
    """The limit of hints, and why the sender asks from time to time even when all is quiet."""
    inject(emulator, "drop_update", "unnumbered")
    buy(emulator, "b")
    c = buy(emulator, "c")
    seen = until(watcher, is_filled("c"))
    assert trade_ids(seen) == true_ids(emulator, c)
    assert "Gap" not in kinds(seen)


def test_a_fill_after_the_cancellation_was_told_is_told(emulator: Emulator, watcher: ExecutionWatcher) -> None:
    limit = emulator.market.last_price(BTC, emulator.clock.now()) // 2
    emulator.engine.cancel_trouble = lambda _order: ("fill_after_cancel", 2.0)
    order = emulator.engine.place(ACCOUNT, Request(BTC, "buy", "limit", TENTH, limit_price=limit))
    emulator.engine.cancel(ACCOUNT, order.number)
    seen = until(watcher, lambda event: isinstance(event, Execution) and event.ended)
    assert trade_ids(seen) == []
    emulator.clock.advance(3)
    (late,) = until(watcher, lambda event: isinstance(event, Execution))
    assert trade_ids([late]) == true_ids(emulator, order) != []


# --- tokens ---


def test_a_token_from_the_rest_api_opens_the_accounts_executions(emulator: Emulator) -> None:
    """With krakenex as it comes."""
    secret = base64.b64encode(b"no secret").decode()
    emulator.engine.accounts.add_key(ACCOUNT, "key", secret)
    api = krakenex.API("key", secret)
    api.uri = emulator.rest_url
    with ExecutionWatcher(
        emulator.websocket_url, lambda: api.query_private("GetWebSocketsToken")["result"]["token"], PATIENT
    ) as watcher:
        until(watcher, is_connected)
        order = buy(emulator, "a")
        assert trade_ids(until(watcher, is_filled("a"))) == true_ids(emulator, order)
    api.close()


def test_a_token_that_the_venue_calls_expired_is_replaced(emulator: Emulator) -> None:
    inject(emulator, "token_expiry")
    with watching(emulator) as watcher:
        seen = until(watcher, is_connected)
    assert kinds(seen)[:2] == ["Disconnected", "Connected"]
    assert "ESession:Invalid session" in str(seen[0])


def test_an_old_token_is_refused_and_the_next_connection_has_a_new_one(emulator: Emulator) -> None:
    tokens = [emulator.tokens.issue(ACCOUNT)]
    emulator.clock.advance(TOKEN_S)

    def fetch() -> str:
        return tokens.pop() if tokens else emulator.tokens.issue(ACCOUNT)

    with ExecutionWatcher(emulator.websocket_url, fetch, PATIENT) as watcher:
        assert kinds(until(watcher, is_connected))[:2] == ["Disconnected", "Connected"]


def test_a_token_is_fetched_in_the_callers_thread_and_only_while_it_waits(emulator: Emulator) -> None:
    asked: list[str] = []

    def fetch() -> str:
        asked.append(threading.current_thread().name)
        return emulator.tokens.issue(ACCOUNT)

    with ExecutionWatcher(emulator.websocket_url, fetch, PATIENT) as watcher:
        assert select.select([watcher], [], [], IN_TIME_S)[0] == [watcher]  # it wants a token
        assert asked == []
        until(watcher, is_connected)
    assert asked == ["MainThread"]


def test_a_venue_that_gives_no_token_is_a_failed_try_and_another_sender_is_no_trouble_of_the_network(
    emulator: Emulator,
) -> None:
    troubles: list[Exception] = [PermissionError("fenced"), PermissionError("fenced"), CouldNotAsk("EService:Busy")]

    def fetch() -> str:
        if troubles:
            raise troubles.pop(0)
        return emulator.tokens.issue(ACCOUNT)

    with ExecutionWatcher(emulator.websocket_url, fetch, PATIENT) as watcher:
        for _ in range(2):
            with pytest.raises(PermissionError, match="fenced"):
                watcher.wait(IN_TIME_S)
        assert until(watcher, is_connected)[:2] == [Disconnected("no token: EService:Busy"), Connected()]


# --- waiting and stopping ---


def test_waiting_is_bounded_and_ends_as_soon_as_there_is_news(emulator: Emulator, watcher: ExecutionWatcher) -> None:
    began = time.monotonic()
    assert watcher.wait(0.1) == []
    assert 0.1 <= time.monotonic() - began < 0.5
    began = time.monotonic()
    buy(emulator, "a")
    assert watcher.wait(IN_TIME_S) != []
    assert time.monotonic() - began < 1


def test_its_bell_rings_for_news_and_is_quiet_after_they_are_taken(
    emulator: Emulator, watcher: ExecutionWatcher
) -> None:
    during(watcher, 0.05)
    assert select.select([watcher], [], [], 0)[0] == []
    buy(emulator, "a")
    assert select.select([watcher], [], [], IN_TIME_S)[0] == [watcher]
    until(watcher, is_filled("a"))
    assert select.select([watcher], [], [], 0)[0] == []


@pytest.mark.parametrize("place", ["connected", "no token yet", "between connections", "handshake"])
def test_it_stops_within_a_second_wherever_it_is(emulator: Emulator, place: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as deaf:  # accepts, and says nothing
        url = f"ws://127.0.0.1:{deaf.getsockname()[1]}" if place == "handshake" else emulator.websocket_url
        options = StreamOptions(silence_s=30, reconnect_s=30)
        watcher = ExecutionWatcher(url, lambda: emulator.tokens.issue(ACCOUNT), options)
        watcher.__enter__()
        if place == "connected":
            until(watcher, is_connected)
        elif place == "between connections":
            inject(emulator, "token_expiry")
            until(watcher, lambda event: isinstance(event, Disconnected))
        elif place == "handshake":
            assert watcher.wait(0.1) == []
        began = time.monotonic()
        watcher.stop()
        assert time.monotonic() - began < 1
        assert "executions" not in {thread.name for thread in threading.enumerate()}


def test_an_error_in_its_thread_is_heard_by_the_sender(emulator: Emulator) -> None:
    async def broken(_seconds: float) -> None:
        await asyncio.sleep(0.2)  # meanwhile the sender waits again
        raise ZeroDivisionError("a bug")

    inject(emulator, "token_expiry")
    options = StreamOptions(sleep=broken)
    with watching(emulator, options) as watcher:
        assert kinds(until(watcher, lambda event: isinstance(event, Disconnected))) == ["Disconnected"]
        began = time.monotonic()
        with pytest.raises(RuntimeError, match="no executions are heard") as heard:
            watcher.wait(IN_TIME_S)
        assert time.monotonic() - began < IN_TIME_S / 2
        assert isinstance(heard.value.__cause__, ZeroDivisionError)
