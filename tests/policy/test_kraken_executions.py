"""What our client makes of Kraken's executions messages, one by one. No I/O."""

from __future__ import annotations

import itertools
import json
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policy.execution.venues.kraken_executions import (
    Connected,
    Execution,
    ExecutionEvent,
    ExecutionSession,
    Gap,
    Trade,
)
from shared.exchanges.kraken_socket import Lost

TOKEN = "a-secret-token"
AT = "2023-09-22T10:33:05.709993Z"
AT_S = 1_695_378_785.709993
ACCEPTED = {"method": "subscribe", "success": True, "result": {"channel": "executions"}, "req_id": 1}
# As in the venue's documentation: a trade that fills its order says partially_filled.
TRADE = """{"order_id":"OK4GJX-KSTLS-7DZZO5","order_userref":3,"exec_id":"TGBB7L-HT5LX-J3BZ4A","exec_type":"trade",
"trade_id":62887576,"symbol":"BTC/USD","side":"sell","last_qty":0.00500000,"last_price":26599.9,"liquidity_ind":"t",
"cost":132.9995,"order_type":"limit","timestamp":"2023-09-22T10:33:05.709993Z","order_status":"partially_filled",
"cum_qty":0.005,"cum_cost":132.9995,"avg_price":26599.9,"fee_usd_equiv":0.3458,"cl_ord_id":"ours",
"fees":[{"asset":"USD","qty":0.34580000000000000001}]}"""
NEW: dict[str, Any] = {"exec_type": "new", "order_id": "OA", "order_status": "new", "timestamp": AT}


def message(*elements: Any, sequence: Any = 1, kind: str = "update") -> str:
    """The elements as texts of JSON or as what makes them."""
    data = ",".join(element if isinstance(element, str) else json.dumps(element) for element in elements)
    return f'{{"channel":"executions","type":"{kind}","data":[{data}],"sequence":{json.dumps(sequence)}}}'


def connected() -> ExecutionSession:
    session = ExecutionSession(TOKEN)
    session.requests()
    session.receive(json.dumps(ACCEPTED), 0.0)
    return session


def told(*texts: str) -> list[ExecutionEvent]:
    session = connected()
    return [event for text in texts for event in session.receive(text, 0.0)]


def ids(events: list[ExecutionEvent]) -> list[str]:
    return [event.venue_order_id if isinstance(event, Execution) else type(event).__name__ for event in events]


def test_the_subscription_asks_for_open_orders_and_last_trades_with_its_token_once() -> None:
    session = ExecutionSession(TOKEN)
    (request,) = session.requests()
    params = {"channel": "executions", "token": TOKEN, "snap_orders": True, "snap_trades": True}
    assert json.loads(request) == {"method": "subscribe", "params": params, "req_id": 1}
    assert session.requests() == []


def test_a_connection_begins_with_a_gap_since_nobody_heard_what_happened_before() -> None:
    session = ExecutionSession(TOKEN)
    assert not session.connected
    first, second = session.receive(json.dumps(ACCEPTED), 0.0)
    assert first == Connected()
    assert isinstance(second, Gap)
    assert session.connected


def test_a_trade_is_read_with_its_exact_digits_and_does_not_end_its_order() -> None:
    (event,) = told(message(TRADE))
    trade = Trade("TGBB7L-HT5LX-J3BZ4A", Decimal("0.005"), Decimal("26599.9"), Decimal("132.9995"),
                  (("USD", Decimal("0.34580000000000000001")),), maker=False)  # fmt: skip
    assert event == Execution(
        "trade", "OK4GJX-KSTLS-7DZZO5", "ours", "BTC/USD", "sell", "partially_filled",
        None, Decimal("0.005"), trade, None, AT_S, snapshot=False,
    )  # fmt: skip
    assert not event.ended


def test_a_mixed_message_is_read_element_by_element() -> None:
    trade = TRADE.replace("OK4GJX-KSTLS-7DZZO5", "OT")
    canceled = NEW | {"exec_type": "canceled", "order_id": "OC", "reason": "User requested"}
    events = told(message(NEW, trade, canceled, kind="snapshot"))
    assert ids(events) == ["OA", "OT", "OC"]
    assert [(event.kind, event.trade is not None, event.ended, event.reason, event.snapshot)
            for event in events if isinstance(event, Execution)] == [
        ("new", False, False, None, True),
        ("trade", True, False, None, True),
        ("canceled", False, True, "User requested", True),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "ended"),
    [("pending_new", False), ("new", False), ("filled", True), ("iceberg_refill", False), ("canceled", True),
     ("expired", True), ("amended", False), ("restated", False), ("status", False)],
)  # fmt: skip
def test_only_the_kind_tells_that_an_order_has_ended(kind: str, ended: bool) -> None:
    for status in ("new", "partially_filled", "filled", "canceled"):
        (event,) = told(message(NEW | {"exec_type": kind, "order_status": status}))
        assert isinstance(event, Execution)
        assert (event.ended, event.status) == (ended, status)


def test_whole_numbers_are_decimals_too() -> None:
    (event,) = told(message(NEW | {"order_qty": 2, "cum_qty": 0}))
    assert isinstance(event, Execution)
    assert (event.quantity, event.filled) == (Decimal(2), Decimal(0))
    assert isinstance(event.quantity, Decimal)


@pytest.mark.parametrize(
    "spoilt",
    [
        {"order_id": None}, {"order_id": ""}, {"order_id": 7}, {"exec_type": "exploded"}, {"timestamp": None},
        {"timestamp": "2023-09-22T10:33:05"}, {"timestamp": "soon"}, {"side": "long"}, {"cl_ord_id": 5},
        {"cum_qty": "0.5"}, {"cum_qty": True}, {"reason": 3}, {"exec_type": "trade"},
    ],
    ids=str,
)  # fmt: skip
def test_a_bad_element_is_a_gap_and_does_not_spoil_its_neighbours(spoilt: dict[str, Any]) -> None:
    assert ids(told(message(NEW, NEW | spoilt, TRADE))) == ["OA", "Gap", "OK4GJX-KSTLS-7DZZO5"]


@pytest.mark.parametrize(
    "spoilt",
    ['"last_qty":0', '"last_qty":-1', '"last_qty":null', '"last_price":0.0', '"exec_id":null', '"exec_id":""',
     '"liquidity_ind":"x"', '"fees":[{"asset":"USD"}]', '"fees":[{"asset":"USD","qty":"1"}]', '"cost":false'],
)  # fmt: skip
def test_a_trade_that_cannot_be_one_is_a_gap(spoilt: str) -> None:
    assert ids(told(message(f"{TRADE[:-1]},{spoilt}}}"))) == ["Gap"]  # of a name that comes twice the last one counts


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "7", '"method"', "null", '{"channel":"executions"}', '{"data":[]}', "NaN",
     '{"channel":"executions","type":"snapshot","data":7,"sequence":1}',
     '{"channel":"executions","type":"other","data":[],"sequence":1}',
     '{"channel":"executions","type":"update","data":[NaN],"sequence":1}',
     '{"method":"subscribe","success":true}', '{"method":"add_order","success":true}', '{"method":"subscribe"}'],
)  # fmt: skip
def test_an_unreadable_message_is_a_gap(text: str) -> None:
    assert ids(told(text)) == ["Gap"]


def test_a_gap_quotes_what_could_not_be_read() -> None:
    for text in ('{"channel":"executions","hint":7}', message({"hint": 7})):
        (gap,) = told(text)
        assert isinstance(gap, Gap)
        assert "hint" in gap.reason
        assert "KeyError" in gap.reason


def test_another_ones_answer_does_not_connect() -> None:
    session = ExecutionSession(TOKEN)
    assert ids(session.receive('{"method":"add_order","success":true}', 0.0)) == ["Gap"]
    assert not session.connected


def test_what_is_not_about_executions_is_no_event() -> None:
    texts = ['{"channel":"heartbeat"}', '{"channel":"status","type":"update","data":[{"system":"online"}]}',
             '{"channel":"balances","type":"update","data":[{}],"sequence":9}', '{"method":"pong"}']  # fmt: skip
    assert told(*texts) == []


def test_messages_in_sequence_are_no_gap() -> None:
    assert ids(told(message(kind="snapshot"), message(NEW, sequence=2), message(TRADE, sequence=3))) == [
        "OA", "OK4GJX-KSTLS-7DZZO5",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("sequences", "expected"),
    [
        ((1, 3, 4), ["O0", "Gap", "O1", "O2"]),  # one is lost, once
        ((2, 3), ["Gap", "O0", "O1"]),  # the first is lost
        ((1, 3, 2, 4), ["O0", "Gap", "O1", "Gap", "O2", "Gap", "O3"]),  # two are swapped
        ((5, 6, 1, 2), ["Gap", "O0", "O1", "Gap", "O2", "O3"]),  # counting began anew
        ((1, None, 2), ["O0", "Gap", "O1", "O2"]),
        ((1, "2", 2), ["O0", "Gap", "O1", "O2"]),
        ((1, True, 2), ["O0", "Gap", "O1", "O2"]),
        ((1, 1, 2), ["O0", "Gap", "O1", "O2"]),  # the same number, another message
    ],
)
def test_a_gap_stands_before_the_message_that_shows_it(sequences: tuple[Any, ...], expected: list[str]) -> None:
    texts = [message(NEW | {"order_id": f"O{n}"}, sequence=sequence) for n, sequence in enumerate(sequences)]
    assert ids(told(*texts)) == expected


def test_the_same_message_twice_is_told_once() -> None:
    assert ids(told(*[message(NEW)] * 3, message(NEW, sequence=2))) == ["OA", "OA"]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(1, 5), max_size=9) | st.integers(0, 5).map(lambda last: [*range(1, last + 1)]))
def test_whatever_is_lost_doubled_or_swapped_what_arrives_is_told_and_what_does_not_is_a_gap(
    arriving: list[int],
) -> None:
    sent = {n: message(TRADE.replace("TGBB7L", f"T{n}"), sequence=n) for n in range(1, 6)}
    events = told(*(sent[n] for n in arriving))
    heard = {event.trade.venue_trade_id[:2] for event in events if isinstance(event, Execution) and event.trade}
    assert heard == {f"T{n}" for n in arriving}
    once = [n for n, _ in itertools.groupby(arriving)]
    is_whole = once == list(range(1, len(once) + 1))
    assert any(isinstance(event, Gap) for event in events) is not is_whole


def test_a_refusal_ends_the_connection_without_telling_the_token() -> None:
    refusal = {"method": "subscribe", "success": False, "error": f"ESession:Invalid session {TOKEN}", "req_id": 1}
    for session in (ExecutionSession(TOKEN), connected()):
        with pytest.raises(Lost, match="Invalid session") as lost:
            session.receive(json.dumps(refusal), 0.0)
        assert lost.value.trouble.kind == "subscription_refused"
        assert TOKEN not in lost.value.trouble.detail


def test_a_subscription_that_is_not_answered_is_given_up() -> None:
    session = ExecutionSession(TOKEN)
    for _ in range(5):
        session.listened(1.0)
        session.check(0.0, 5.0)
    session.listened(0.1)
    with pytest.raises(Lost, match="no answer"):
        session.check(0.0, 5.0)
    answered = connected()
    answered.listened(60.0)
    answered.check(60.0, 5.0)


def test_only_a_connection_that_has_stood_for_a_while_makes_the_next_loss_a_new_one() -> None:
    session = ExecutionSession(TOKEN)
    session.check(100.0, 5.0)
    assert not session.stood
    session.receive(json.dumps(ACCEPTED), 100.0)
    session.check(104.9, 5.0)
    assert not session.stood
    session.check(105.0, 5.0)
    assert session.stood
