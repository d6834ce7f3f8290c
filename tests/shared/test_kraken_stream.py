"""What Kraken's WebSocket client makes of each message about candles, subscriptions and status."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.exchanges.kraken_socket import EXCERPT, Lost
from shared.exchanges.kraken_stream import Session
from shared.exchanges.protocol import BookTop, CandleUpdate, StreamState, StreamTrouble
from tests.shared.kraken_messages import (
    BTC,
    ETH,
    EXAMPLE,
    EXAMPLE_CHECKSUM,
    HEARTBEAT,
    MINUTE,
    ONLINE,
    OPENED,
    answers,
    book,
    candle,
    kinds,
    ohlc,
    session,
)

# --- candles ---


def test_a_candle_is_named_by_its_beginning_and_carries_every_value() -> None:
    (update,) = session().receive(ohlc(candle(high=85755.1, low=85754.5, close=85754.9)), 0)
    assert update == CandleUpdate(BTC, OPENED, 85754.8, 85755.1, 85754.5, 85754.9, 0.00126522, 5)


def test_every_element_of_a_snapshot_is_a_candle_and_one_bad_element_spoils_no_other() -> None:
    elements = [candle(OPENED - 120), candle(OPENED - 60, close=None), "candle", candle(OPENED)]
    events = session().receive(ohlc(*elements, kind="snapshot"), 0)
    assert kinds(events) == ["CandleUpdate", "bad_message", "bad_message", "CandleUpdate"]
    assert [e.opened for e in events if isinstance(e, CandleUpdate)] == [OPENED - 120, OPENED]


def test_an_older_candle_is_reported_and_not_yielded() -> None:
    live = session()
    live.receive(ohlc(candle(OPENED)), 0)
    assert kinds(live.receive(ohlc(candle(OPENED - 60)), 0)) == ["out_of_order"]
    assert kinds(live.receive(ohlc(candle(OPENED + 60), sent=OPENED + 61), 0)) == ["CandleUpdate"]


def test_an_older_state_of_the_same_candle_is_out_of_order_by_the_time_it_was_sent() -> None:
    live = session()
    live.receive(ohlc(candle(trades=12), sent=OPENED + 2.918), 0)
    assert kinds(live.receive(ohlc(candle(trades=5), sent=OPENED + 2.264627814), 0)) == ["out_of_order"]
    assert kinds(live.receive(ohlc(candle(trades=13), sent=None), 0)) == ["CandleUpdate"]


def test_each_symbol_has_an_order_of_its_own() -> None:
    live = session(BTC, ETH)
    live.receive(ohlc(candle(OPENED)), 0)
    assert kinds(live.receive(ohlc(candle(OPENED - 60, ETH)), 0)) == ["CandleUpdate"]


def test_only_the_very_same_event_is_a_duplicate() -> None:
    live = session()
    live.receive(ohlc(candle()), 0)
    assert kinds(live.receive(ohlc(candle()), 0)) == ["duplicate"]
    assert kinds(live.receive(ohlc(candle(), sent=OPENED + 3), 0)) == ["CandleUpdate"]  # sent anew: harmless
    assert kinds(live.receive(ohlc(candle(trades=6), sent=OPENED + 3), 0)) == ["CandleUpdate"]


def test_a_snapshot_repeats_history_and_is_neither_duplicate_nor_out_of_order() -> None:
    live = session()
    live.receive(ohlc(candle(OPENED)), 0)
    again = ohlc(candle(OPENED - 60), candle(OPENED), kind="snapshot")
    assert kinds(live.receive(again, 0)) == ["CandleUpdate", "CandleUpdate"]
    assert kinds(live.receive(ohlc(candle(OPENED - 60)), 0)) == ["out_of_order"]  # history did not turn time back


def test_a_candle_from_the_future_does_not_put_the_true_ones_out_of_order() -> None:
    live = session()
    assert kinds(live.receive(ohlc(candle(OPENED + 86_400)), 0)) == ["bad_message"]
    assert kinds(live.receive(ohlc(candle(OPENED)), 0)) == ["CandleUpdate"]


@pytest.mark.parametrize(("early_s", "kind"), [(0.9, "CandleUpdate"), (1.1, "bad_message")])
def test_the_venues_own_clocks_may_differ_by_a_second(early_s: float, kind: str) -> None:
    assert kinds(session().receive(ohlc(candle(OPENED), sent=OPENED - early_s), 0)) == [kind]


def test_the_newest_state_of_a_candle_is_what_the_next_is_judged_by() -> None:
    live = session()
    first, second, third = (ohlc(candle(trades=n), sent=OPENED + n) for n in (1, 2, 3))
    assert [kinds(live.receive(m, 0)) for m in (first, third, third, second)] == [
        ["CandleUpdate"], ["CandleUpdate"], ["duplicate"], ["out_of_order"]]  # fmt: skip


@pytest.mark.parametrize(
    "changed",
    [
        {"symbol": "DOGE/USD"},
        {"symbol": ["BTC/USD"]},
        {"interval": 5},
        {"close": "85754.8"},
        {"close": True},
        {"trades": 5.5},
        {"trades": True},
        {"interval_begin": "2026-10-06T18:06:00.5Z"},
        {"interval_begin": "2026-10-06T18:06:00"},
        {"interval_begin": 1_791_309_960},
    ],
)
def test_a_candle_of_wrong_shape_is_a_bad_message(changed: dict[str, Any]) -> None:
    assert kinds(session().receive(ohlc(candle(**changed)), 0)) == ["bad_message"]


@pytest.mark.parametrize("missing", ["symbol", "open", "high", "low", "close", "volume", "trades", "interval_begin"])
def test_a_candle_without_a_value_is_a_bad_message(missing: str) -> None:
    element = candle()
    del element[missing]
    assert kinds(session().receive(ohlc(element), 0)) == ["bad_message"]


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", "1e99999999999999999999", "9" * 5000])
def test_a_number_that_is_not_finite_is_a_bad_message(number: str) -> None:
    text = ohlc(candle(volume="NUMBER")).replace('"NUMBER"', number)
    assert kinds(session().receive(text, 0)) == ["bad_message"]


@pytest.mark.parametrize(
    "text",
    ["", "<html>", '{"channel":"ohlc"', "null", "[]", '"method"', '["method"]', "7", "{}", '{"channel":"gossip"}',
     '{"channel":["ohlc"]}', '{"channel":"ohlc","type":"update"}', '{"channel":"ohlc","type":"update","data":7}',
     '{"channel":"ohlc","type":"rumour","data":[{}]}', '{"method":"dance","success":true}', '{"method":"subscribe"}',
     '{"method":"subscribe","success":true,"result":{"symbol":"BTC/USD","channel":"ohlc"},"req_id":99}',
     '{"channel":"status","type":"update","data":[{"system":"fine"}]}', "[" * 100_000, b"\xff\xfe\x00"],
)  # fmt: skip
def test_what_is_not_a_message_of_the_protocol_is_a_bad_message(text: str | bytes) -> None:
    live = session()
    (trouble,) = live.receive(text, 0)
    assert isinstance(trouble, StreamTrouble)
    assert trouble.kind == "bad_message"
    assert len(trouble.detail) < 3 * EXCERPT
    assert live.status == "online"


PLAUSIBLE = st.sampled_from(
    ["channel", "type", "data", "ohlc", "book", "status", "snapshot", "update", "method", "subscribe", "success",
     "result", "symbol", BTC, "asks", "bids", "price", "qty", "checksum", "interval_begin", "2026-10-06T18:06:00Z",
     "trades", "open", "interval", "req_id", "error", "system", "online"]
)  # fmt: skip
LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | PLAUSIBLE
ANY_JSON = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(PLAUSIBLE, inner, max_size=6), max_leaves=20
)
MESSAGES = st.fixed_dictionaries(
    {},
    optional={"channel": st.sampled_from(["ohlc", "book", "status"]), "type": st.sampled_from(["snapshot", "update"])}
    | dict.fromkeys(["success", "symbol", "req_id", "timestamp"], LEAVES)
    | {"method": PLAUSIBLE, "data": ANY_JSON, "result": ANY_JSON},
)
ELEMENTS = st.fixed_dictionaries(
    {"symbol": st.just(BTC)},
    optional={name: LEAVES for name in candle() if name != "symbol"}
    | {"asks": ANY_JSON, "bids": ANY_JSON, "checksum": LEAVES},
)


@settings(max_examples=150, deadline=None)
@given(st.one_of(ANY_JSON, MESSAGES, MESSAGES.flatmap(lambda m: ELEMENTS.map(lambda e: m | {"data": [e]}))))
def test_no_json_whatever_raises_out_of_the_parser(message: Any) -> None:
    live = session()
    events = live.receive(json.dumps(message), 0)
    assert all(isinstance(event, CandleUpdate | BookTop | StreamState | StreamTrouble) for event in events)
    assert kinds(live.receive(ohlc(candle(OPENED + 600), kind="snapshot", sent=OPENED + 601), 0)) == ["CandleUpdate"]


@settings(max_examples=50, deadline=None)
@given(st.text() | st.binary())
def test_no_text_whatever_raises_out_of_the_parser(text: str | bytes) -> None:
    assert all(isinstance(event, StreamTrouble | StreamState) for event in session().receive(text, 0))


# --- subscriptions and status ---


def test_both_channels_are_asked_for_all_symbols_once() -> None:
    first, second = (json.loads(r) for r in Session((BTC, ETH, BTC), 300, "online").requests())
    assert first["params"] == {"channel": "ohlc", "symbol": [BTC, ETH], "interval": 5, "snapshot": True}
    assert second["params"] == {"channel": "book", "symbol": [BTC, ETH], "depth": 10, "snapshot": True}
    assert first["req_id"] != second["req_id"]


def test_connected_is_said_once_and_only_when_every_subscription_is_answered() -> None:
    live = Session((BTC, ETH), MINUTE, "online")
    acks = [answer for request in live.requests() for answer in answers(request)]
    said = [live.receive(ack, 0) for ack in acks]
    assert said == [[], [], [], [StreamState(True, "online")]]
    assert live.receive('{"method":"pong","req_id":1}', 0) == []


def test_a_refused_symbol_is_named_and_the_others_go_on() -> None:
    live = Session(("GONE/USD", BTC), MINUTE, "online")
    events = [e for r in live.requests() for a in answers(r, ("GONE/USD",)) for e in live.receive(a, 0)]
    assert kinds(events) == ["subscription_refused", "subscription_refused", "StreamState"]
    refusals = [e.detail for e in events if isinstance(e, StreamTrouble)]
    assert [("ohlc" in d, "book" in d, "GONE/USD" in d) for d in refusals] == [(True, False, True), (False, True, True)]
    assert kinds(live.receive(ohlc(candle()), 0)) == ["CandleUpdate"]
    live.check(1, 5)


def test_a_refused_book_leaves_the_candles_alone() -> None:
    live = Session((BTC,), MINUTE, "online")
    candles, books = live.requests()
    live.receive(answers(candles)[0], 0)
    assert kinds(live.receive(answers(books, refused=(BTC,))[0], 0)) == ["subscription_refused", "StreamState"]
    live.check(0, 5)
    refusal = {"method": "unsubscribe", "success": False, "symbol": BTC, "error": "Subscription Not Found"}
    assert kinds(live.receive(json.dumps(refusal), 0)) == ["subscription_refused"]
    live.check(0, 5)


def test_a_refusal_without_a_symbol_refuses_the_whole_request() -> None:
    live = Session((BTC, ETH), MINUTE, "online")
    ohlc_request, _ = live.requests()
    refusal = {"method": "subscribe", "success": False, "error": "no", "req_id": json.loads(ohlc_request)["req_id"]}
    (trouble,) = live.receive(json.dumps(refusal), 0)
    assert isinstance(trouble, StreamTrouble)
    assert (BTC in trouble.detail, ETH in trouble.detail) == (True, True)


def test_a_connection_of_which_everything_was_refused_is_lost() -> None:
    with pytest.raises(Lost) as lost:
        session(BTC, refused=(BTC,)).check(0, 5)
    assert lost.value.trouble.kind == "disconnected"


def test_the_end_of_a_running_subscription_is_a_refusal_and_its_book_is_gone() -> None:
    live = session(BTC, ETH)
    live.receive(EXAMPLE, 0)
    ended = {"method": "subscribe", "success": False, "error": "Currency pair not supported", "symbol": BTC}
    assert kinds(live.receive(json.dumps(ended), 0)) == ["subscription_refused"]
    assert live.receive(book("", "", EXAMPLE_CHECKSUM, "update"), 5) == []
    live.check(5, 5)  # the other one goes on
    live.receive(json.dumps(ended | {"symbol": ETH}), 5)
    with pytest.raises(Lost):
        live.check(5, 5)


def test_unanswered_subscriptions_are_silence_though_heartbeats_come() -> None:
    live = Session((BTC,), MINUTE, "online")
    first, _ = live.requests()
    live.listened(4)
    live.receive(json.dumps(HEARTBEAT), 4)
    live.receive(answers(first)[0], 4)
    live.listened(5)
    live.check(9, 5)
    live.listened(0.1)
    with pytest.raises(Lost) as lost:
        live.check(9.1, 5)
    assert lost.value.trouble.kind == "silence"


def test_a_later_subscription_has_all_its_time_to_be_answered() -> None:
    live = session()
    live.listened(100)
    live.receive(book("1 1", "", 0), 100)  # a wrong checksum: the book is asked for anew
    live.listened(5)
    live.check(105, 5)
    live.listened(0.1)
    with pytest.raises(Lost):
        live.check(105.1, 5)


def test_the_consumers_own_time_is_not_the_venues_silence() -> None:
    live = Session((BTC,), MINUTE, "online")
    live.requests()
    live.receive(json.dumps(HEARTBEAT), 3600)
    live.check(3600, 5)


def test_a_connection_has_stood_when_it_was_connected_for_the_patience() -> None:
    live = session()
    live.check(4.9, 5)
    assert not live.stood
    live.check(5.0, 5)
    assert live.stood


def test_the_status_is_told_and_remembered() -> None:
    live = session()
    said = json.dumps(ONLINE).replace("online", "cancel_only")
    assert live.receive(said, 0) == [StreamState(True, "cancel_only")]
    assert Session((BTC,), MINUTE, live.status).receive(said, 0) == [StreamState(False, "cancel_only")]
