"""The emulated ``executions`` of Kraken by itself: what a bare socket is told about an account's orders."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager
from decimal import Decimal
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection, connect

from tests.exchange_emulator.faults import Rule
from tests.exchange_emulator.kraken_executions import SNAPSHOT_FILLS, TOKEN_S
from tests.exchange_emulator.kraken_ids import kraken_id
from tests.exchange_emulator.records import Order, Request
from tests.exchange_emulator.server import Emulator

BTC, ACCOUNT, OTHER = "BTC/USD", "main", "other"
TENTH = Decimal("0.1")
INVALID = "ESession:Invalid session"


@pytest.fixture
def emulator() -> Iterator[Emulator]:
    with Emulator((BTC,)) as running:
        running.heartbeat_s = 0.05
        for account in (ACCOUNT, OTHER):
            running.engine.accounts.open(account)
            running.engine.accounts.deposit(account, "USD", Decimal(10_000_000))
        yield running


class Socket:
    """A bare socket; heartbeats are passed over, numbers are Decimals."""

    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection

    async def message(self) -> dict[str, Any]:
        while True:
            message: dict[str, Any] = json.loads(await self._connection.recv(), parse_float=Decimal)
            if message.get("channel") not in ("heartbeat", "status"):
                return message

    async def ask(self, method: str = "subscribe", **params: Any) -> dict[str, Any]:
        request = {"method": method, "params": {"channel": "executions", **params}, "req_id": 5}
        await self._connection.send(json.dumps(request))
        return await self.message()


@asynccontextmanager
async def raw(emulator: Emulator) -> AsyncGenerator[Socket]:
    async with asyncio.timeout(2.5), connect(emulator.websocket_url) as connection:
        yield Socket(connection)


def place(emulator: Emulator, type_: str = "limit", account: str = ACCOUNT, **changed: Any) -> Order:
    """A limit order rests far below the market; each order is a virtual second after the last."""
    emulator.clock.advance(1)
    if type_ == "limit":
        changed = {"limit_price": emulator.market.last_price(BTC, emulator.clock.now()) // 2} | changed
    side = changed.pop("side", "buy")
    return emulator.engine.place(account, Request(BTC, side, type_, TENTH, **changed))  # type: ignore[arg-type]


def told(emulator: Emulator, count: int, **params: Any) -> list[dict[str, Any]]:
    """The first messages after the acceptance of a subscription."""

    async def main() -> list[dict[str, Any]]:
        async with raw(emulator) as socket:
            accepted = await socket.ask(token=emulator.tokens.issue(ACCOUNT), **params)
            assert accepted["success"] is True, accepted
            return [await socket.message() for _ in range(count)]

    return asyncio.run(main())


def types(message: dict[str, Any]) -> list[str]:
    return [element["exec_type"] for element in message["data"]]


def test_it_is_accepted_with_the_defaults_of_the_venue(emulator: Emulator) -> None:
    async def main() -> dict[str, Any]:
        async with raw(emulator) as socket:
            return await socket.ask(token=emulator.tokens.issue(ACCOUNT))

    accepted = asyncio.run(main())
    assert (accepted["method"], accepted["success"], accepted["req_id"]) == ("subscribe", True, 5)
    assert accepted["result"] == {"channel": "executions", "snap_orders": True, "snap_trades": False}
    assert {"time_in", "time_out"} <= set(accepted)


def test_a_snapshot_mixes_open_orders_and_the_last_fills_and_leaves_out_what_has_ended(emulator: Emulator) -> None:
    rests, fills = place(emulator, client_id="rests"), place(emulator, "market")
    gone = place(emulator)
    emulator.engine.cancel(ACCOUNT, gone.number)
    (snapshot,) = told(emulator, 1, snap_trades=True)
    trades = [fill for fill in emulator.engine.view(ACCOUNT).fills if fill.order == fills.number]
    assert (snapshot["channel"], snapshot["type"], snapshot["sequence"]) == ("executions", "snapshot", 1)
    assert types(snapshot) == ["new", *["trade"] * len(trades)]
    first, *others = snapshot["data"]
    assert (first["order_id"], first["cl_ord_id"]) == (kraken_id("O", rests.number), "rests")
    assert [other["exec_id"] for other in others] == [kraken_id("T", fill.number) for fill in trades]


@pytest.mark.parametrize(
    ("params", "expected"),
    [({}, {"new"}), ({"snap_orders": False, "snap_trades": True}, {"trade"}),
     ({"snap_orders": True, "snap_trades": True}, {"new", "trade"})],
)  # fmt: skip
def test_a_snapshot_holds_what_was_asked_for(emulator: Emulator, params: dict[str, bool], expected: set[str]) -> None:
    place(emulator)
    place(emulator, "market")
    (snapshot,) = told(emulator, 1, **params)
    assert set(types(snapshot)) == expected


def test_without_a_snapshot_counting_begins_with_the_first_update(emulator: Emulator) -> None:
    async def main() -> dict[str, Any]:
        async with raw(emulator) as socket:
            await socket.ask(token=emulator.tokens.issue(ACCOUNT), snap_orders=False)
            place(emulator)
            return await socket.message()

    update = asyncio.run(main())
    assert (update["type"], update["sequence"], types(update)) == ("update", 1, ["pending_new", "new"])


def test_a_snapshot_has_no_more_than_the_last_fifty_fills(emulator: Emulator) -> None:
    order = place(emulator)
    for _ in range(SNAPSHOT_FILLS + 5):
        emulator.engine.force_fill(order.number, TENTH / 100)
    (snapshot,) = told(emulator, 1, snap_orders=False, snap_trades=True)
    assert [element["trade_id"] for element in snapshot["data"]] == list(range(6, SNAPSHOT_FILLS + 6))


def updates(emulator: Emulator, count: int, act: Any, **params: Any) -> list[dict[str, Any]]:
    """The messages after the snapshot."""

    async def main() -> list[dict[str, Any]]:
        async with raw(emulator) as socket:
            await socket.ask(token=emulator.tokens.issue(ACCOUNT), **params)
            await socket.message()
            act()
            return [await socket.message() for _ in range(count)]

    return asyncio.run(main())


def test_what_happens_at_one_moment_is_one_message_and_each_has_the_next_number(emulator: Emulator) -> None:
    def act() -> None:
        place(emulator, "market", client_id="a", userref=None)
        order = place(emulator)
        emulator.clock.advance(1)
        emulator.engine.cancel(ACCOUNT, order.number)

    first, second, third = updates(emulator, 3, act)
    assert [message["sequence"] for message in (first, second, third)] == [2, 3, 4]
    assert set(types(first)) == {"pending_new", "new", "trade", "filled"}
    assert (types(second), types(third)) == (["pending_new", "new"], ["canceled"])


def test_a_trade_says_partially_filled_although_it_fills_and_filled_follows(emulator: Emulator) -> None:
    (message,) = updates(emulator, 1, lambda: place(emulator, "market", client_id="a"))
    *_, trade, filled = message["data"]
    fill = emulator.engine.view(ACCOUNT).fills[-1]
    assert (trade["exec_type"], trade["order_status"], trade["cum_qty"]) == ("trade", "partially_filled", TENTH)
    assert (trade["last_qty"], trade["last_price"], trade["cost"]) == (fill.quantity, fill.price, fill.cost)
    assert (trade["fees"], trade["liquidity_ind"]) == ([{"asset": "USD", "qty": fill.fee}], "t")
    assert (trade["exec_id"], trade["cl_ord_id"]) == (kraken_id("T", fill.number), "a")
    assert (filled["exec_type"], filled["order_status"], filled["cum_qty"]) == ("filled", "filled", TENTH)


def test_a_stop_is_told_when_it_is_amended_triggered_and_filled(emulator: Emulator) -> None:
    def act() -> None:
        place(emulator, "market")
        emulator.clock.advance(1)
        price = emulator.market.last_price(BTC, emulator.clock.now())
        order = place(emulator, "stop", side="sell", stop_price=price // 2)
        emulator.clock.advance(1)
        emulator.engine.amend(ACCOUNT, order.number, stop_price=price * 2)  # above the market: it is triggered at once

    bought, placed, amended = updates(emulator, 3, act)
    assert types(bought)[-1] == "filled"
    (pending, new) = placed["data"]
    assert (pending["order_type"], pending["triggers"]["status"]) == ("stop-loss", "untriggered")
    assert "order_type" not in new  # the shortest of all
    kinds = types(amended)
    assert (kinds[:2], kinds[-1]) == (["amended", "status"], "filled")
    assert (amended["data"][0]["amended"], amended["data"][1]["triggers"]["status"]) == (True, "triggered")


def test_without_order_status_only_the_open_and_close_transitions_are_told(emulator: Emulator) -> None:
    (message,) = updates(emulator, 1, lambda: place(emulator, "market"), order_status=False)
    assert types(message) == ["new", "filled"]


def test_expiry_is_told_with_its_reason(emulator: Emulator) -> None:
    def act() -> None:
        place(emulator, expires_ns=emulator.engine.now_ns() + 5 * 10**9)
        emulator.clock.advance(10)

    _, expired = updates(emulator, 2, act)
    assert types(expired) == ["expired"]
    assert (expired["data"][0]["order_status"], expired["data"][0]["reason"]) == ("expired", "Order expired")


def test_an_account_hears_of_its_own_orders_only(emulator: Emulator) -> None:
    def act() -> None:
        place(emulator, account=OTHER)
        place(emulator, client_id="mine")

    (message,) = updates(emulator, 1, act)
    assert {element["cl_ord_id"] for element in message["data"]} == {"mine"}


def test_a_late_message_comes_once_behind_a_younger_one(emulator: Emulator) -> None:
    emulator.faults.inject(Rule("late_event", "stream", "executions", times=1, parameter=30.0))

    async def main() -> list[dict[str, Any]]:
        async with raw(emulator) as socket:
            await socket.ask(token=emulator.tokens.issue(ACCOUNT))
            seen = [await socket.message()]
            place(emulator)
            place(emulator)
            seen.append(await socket.message())
            emulator.clock.advance(30)
            seen.append(await socket.message())
            for _ in range(2):
                place(emulator)
                seen.append(await socket.message())
            return seen

    assert [message["sequence"] for message in asyncio.run(main())] == [1, 3, 2, 4, 5]


# --- tokens ---


def test_a_token_is_good_for_fifteen_minutes_and_then_for_as_long_as_its_connection_lives(emulator: Emulator) -> None:
    async def main() -> list[dict[str, Any]]:
        kept, used = emulator.tokens.issue(ACCOUNT), emulator.tokens.issue(ACCOUNT)
        async with raw(emulator) as socket:
            emulator.clock.advance(TOKEN_S - 1)
            answers = [await socket.ask(token=used)]
            await socket.message()
            emulator.clock.advance(1)
            place(emulator)
            answers += [await socket.message(), await socket.ask("unsubscribe", token=used)]
            return [*answers, await socket.ask(token=kept)]

    accepted, update, left, refused = asyncio.run(main())
    assert accepted["success"] is True
    assert types(update) == ["pending_new", "new"]
    assert (left["method"], left["success"]) == ("unsubscribe", True)
    assert (refused["success"], refused["error"], refused["req_id"]) == (False, INVALID, 5)


@pytest.mark.parametrize("params", [{}, {"token": "made-up"}, {"token": None}, {"token": 7}], ids=str)
def test_without_a_right_token_it_is_refused(emulator: Emulator, params: dict[str, Any]) -> None:
    async def main() -> dict[str, Any]:
        async with raw(emulator) as socket:
            return await socket.ask(**params)

    refused = asyncio.run(main())
    assert (refused["success"], refused["error"]) == (False, INVALID)


def test_a_second_subscription_of_a_connection_is_refused_and_a_new_one_after_the_end_counts_anew(
    emulator: Emulator,
) -> None:
    async def main() -> list[dict[str, Any]]:
        token = emulator.tokens.issue(ACCOUNT)
        async with raw(emulator) as socket:
            await socket.ask(token=token)
            first = await socket.message()
            again = await socket.ask(token=token)
            await socket.ask("unsubscribe", token=token)
            await socket.ask(token=token)
            return [first, again, await socket.message()]

    first, again, anew = asyncio.run(main())
    assert again["error"] == "Already subscribed"
    assert (first["sequence"], anew["sequence"]) == (1, 1)
