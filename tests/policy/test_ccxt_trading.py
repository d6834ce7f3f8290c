"""What CcxtTrading makes of each way an order, a cancellation or a question can go wrong, asked only once."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from policy.execution.venues import ccxt_trading
from policy.execution.venues.ccxt_trading import CcxtTrading
from policy.execution.venues.protocol import Accepted, CouldNotAsk, Credentials, Done, Gone, Rejected, Unknown
from tests.policy.ccxt_trading_world import ACK, CLIENT_ID, KEY, ORDER, SECRET, error, new_order, order_row, trading
from tests.policy.scripted_venue import Reply, ScriptedVenue

HTML = "<!DOCTYPE html><html><body>Just a moment...</body></html>"
GARBAGE = {
    "timeout": Reply(ending="hang"),
    "reset": Reply(ending="reset"),
    "close": Reply(ending="close"),
    "short body": Reply({"balances": [], "serverTime": 1}, ending="short"),
    "html": Reply(HTML),
    "broken json": Reply('{"symbol": "BTCUSDT", "orderId": 2'),
    "empty": Reply(""),
    "null": Reply("null"),
    "{}": Reply("{}"),
    "a number": Reply("28"),
    "a text": Reply('"ok"'),
    "an error with status 200": Reply({"code": -2013, "msg": "Order does not exist."}),
    "403": Reply(HTML, 403),
    "redirect": Reply("", 307, headers={"Location": "/elsewhere"}),
    "unexplained 429": Reply(HTML, 429),
} | {str(status): Reply(HTML, status) for status in (500, 502, 503, 504, 520, 525)}

UNKNOWN = GARBAGE | {
    "a list": Reply([ACK]),
    "no id": Reply({key: value for key, value in ACK.items() if key != "orderId"}),
    "id null": Reply(ACK | {"orderId": None}),
    "id true": Reply(ACK | {"orderId": True}),
    "another's order": Reply(ACK | {"clientOrderId": "web_1"}),
    "another symbol's": Reply(ACK | {"symbol": "ETHUSDT"}),
    "-1000": error(-1000, "An unknown error occurred while processing the request."),
    "-1001": error(-1001, "Internal error; unable to process your request. Please try again."),
    "-1006": error(-1006, "An unexpected response was received from the message bus. Execution status unknown."),
    "-1007": error(-1007, "Timeout waiting for response from backend server. Send status unknown."),
    "-1008": error(-1008, "Server is currently overloaded with other requests."),
    "a code nobody knows": error(-9999),
    "a definite code in a server error": error(-2010, status=500),
    "a code that is true": Reply({"code": True, "msg": "Rejected."}, 400),
    "a code that is no number": Reply({"code": "-2010", "msg": "Rejected."}, 400),
    "the same id in an open order": error(-2010, "Duplicate order sent."),
}
REJECTED = {
    code: error(code)
    for code in (-1003, -1010, -1013, -1014, -1015, -1020, -1021, -1100, -1102, -1111, -1121, -1199, -2010)
}
FATAL = {
    "-1002": error(-1002, "You are not authorized to execute this request.", 401),
    "-1022": error(-1022, "Signature for this request is not valid."),
    "-2014": error(-2014, "API-key format invalid.", 401),
    "-2015": error(-2015, "Invalid API-key, IP, or permissions for action.", 401),
    "disabled": error(-2010, "This account may not place or cancel orders."),
}


@pytest.fixture
def venue() -> Iterator[ScriptedVenue]:
    with ScriptedVenue() as scripted:
        yield scripted


def patient(account: CcxtTrading, reply: Reply) -> CcxtTrading:
    """Not for long where nothing will come."""
    if reply.ending == "hang":
        account._client.timeout = 150
    return account


# --- placing ---


def test_an_order_is_accepted_by_its_number_and_told_with_its_symbol(venue: ScriptedVenue) -> None:
    venue.say(ORDER, Reply(ACK))
    assert trading(venue).place(new_order(), 1) == Accepted("BTCUSDT:28")
    assert venue.count(ORDER) == 1


@pytest.mark.parametrize("name", UNKNOWN)
def test_what_may_have_reached_the_engine_is_unknown_and_never_sent_twice(venue: ScriptedVenue, name: str) -> None:
    venue.say(ORDER, UNKNOWN[name])
    account = trading(venue)
    account.server_time()
    assert isinstance(patient(account, UNKNOWN[name]).place(new_order(), 1), Unknown)
    assert venue.count(ORDER) == 1
    assert venue.count("GET /elsewhere") == venue.count("POST /elsewhere") == 0


@pytest.mark.parametrize("code", REJECTED)
def test_what_never_reached_the_engine_or_was_refused_by_it_is_rejected(venue: ScriptedVenue, code: int) -> None:
    venue.say(ORDER, REJECTED[code])
    placed = trading(venue).place(new_order(), 1)
    assert isinstance(placed, Rejected)
    assert not placed.fatal
    assert str(code) in placed.reason
    assert venue.count(ORDER) == 1


@pytest.mark.parametrize(
    ("code", "words", "rule"),
    [(-1013, "Filter failure: PRICE_FILTER", "tick size"), (-1013, "Filter failure: NOTIONAL", "minimum notional"),
     (-1013, "Filter failure: MIN_NOTIONAL", "minimum notional"),
     (-1013, "Filter failure: LOT_SIZE", "lot size or minimum quantity"),
     (-1013, "Filter failure: MARKET_LOT_SIZE", "lot size or minimum quantity"),
     (-1111, "Parameter 'quantity' has too much precision.", "tick size or lot size"),
     (-1013, "Filter failure: MAX_NUM_ORDERS", ""), (-2010, "Filter failure: LOT_SIZE", "")],
)  # fmt: skip
def test_the_filter_that_refused_an_order_is_told(venue: ScriptedVenue, code: int, words: str, rule: str) -> None:
    venue.say(ORDER, error(code, words))
    placed = trading(venue).place(new_order(), 1)
    assert isinstance(placed, Rejected)
    assert placed.rule == rule


@pytest.mark.parametrize("status", [429, 418])
def test_too_many_requests_in_the_venues_own_words_are_a_refusal(venue: ScriptedVenue, status: int) -> None:
    venue.say(ORDER, error(-1003, "Too much request weight used.", status))
    assert isinstance(trading(venue).place(new_order(), 1), Rejected)


@pytest.mark.parametrize("name", FATAL)
def test_a_bad_key_or_a_lost_right_is_fatal_for_orders_and_for_questions(venue: ScriptedVenue, name: str) -> None:
    venue.say(ORDER, FATAL[name])
    venue.say("GET /api/v3/account", FATAL[name])
    account = trading(venue)
    placed = account.place(new_order(), 1)
    assert isinstance(placed, Rejected)
    assert placed.fatal
    with pytest.raises(CouldNotAsk) as raised:
        account.balances()
    assert raised.value.fatal


def test_a_venue_that_nobody_listens_at_leaves_the_order_unknown(venue: ScriptedVenue) -> None:
    account = trading(venue)
    account.server_time()
    account._client.urls["api"]["private"] = "http://127.0.0.1:9/api/v3"
    assert isinstance(account.place(new_order(), 1), Unknown)


# --- cancelling ---


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (Reply(order_row(28, status="CANCELED")), Done),
        (error(-2011, "Unknown order sent."), Gone),
        (error(-2013, "Order does not exist."), Gone),
        (error(-2011, "Order was not canceled due to cancel restrictions."), Rejected),
        (error(-1021), Rejected),
        (error(-2015, status=401), Rejected),
        (Reply(order_row(29, status="CANCELED")), Unknown),
        (error(-1007), Unknown),
        (error(-2011, "Unknown order sent.", 502), Unknown),
        *((reply, Unknown) for name, reply in GARBAGE.items()),
    ],
)
def test_a_cancellation_is_done_gone_rejected_or_unknown(venue: ScriptedVenue, reply: Reply, expected: type) -> None:
    venue.say("DELETE /api/v3/order", reply)
    account = trading(venue)
    account.server_time()
    assert isinstance(patient(account, reply).cancel("BTC/USDT", "BTCUSDT:28"), expected)
    (asked,) = venue.all("DELETE /api/v3/order")
    assert (asked.arguments["symbol"], asked.arguments["orderId"]) == ("BTCUSDT", "28")


def test_it_changes_no_order_in_place_and_says_so_without_asking(venue: ScriptedVenue) -> None:
    assert isinstance(trading(venue).amend("BTC/USDT", "BTCUSDT:28", new_order().quantity, None), Rejected)
    assert venue.asked == []


# --- asking ---

QUESTIONS: dict[str, Callable[[CcxtTrading], Any]] = {
    "GET /api/v3/openOrders": lambda account: account.open_orders(),
    "GET /api/v3/allOrders": lambda account: account.closed_orders(0.0),
    "GET /api/v3/order": lambda account: account.find("BTC/USDT", CLIENT_ID, None, 0.0),
    "GET /api/v3/myTrades": lambda account: account.fills(0.0),
    "GET /api/v3/account": lambda account: account.balances(),
    "GET /api/v3/exchangeInfo": lambda account: account.rules("BTC/USDT"),
    "GET /api/v3/time": lambda account: account.server_time(),
    "GET /sapi/v1/account/apiRestrictions": lambda account: account.key_rights(),
    "GET /sapi/v1/capital/deposit/hisrec": lambda account: account.ledger(1_749_000_000.0),
    "GET /sapi/v1/capital/withdraw/history": lambda account: account.ledger(1_749_000_000.0),
}


@pytest.mark.parametrize("endpoint", QUESTIONS)
def test_no_garbage_is_ever_read_as_an_answer(venue: ScriptedVenue, endpoint: str) -> None:
    account = trading(venue)
    account.server_time()
    for empty in ("GET /api/v3/myTrades", "GET /sapi/v1/capital/deposit/hisrec"):
        venue.say(empty, Reply("[]"))
    wrong_rows = {
        "a wrong object": Reply({"symbols": [{}], "balances": [{}], "serverTime": "soon"}),
        "a wrong row": Reply([{"id": 1, "orderId": 1}]),
        "no row": Reply(["row"]),
        "no rows in a server error": Reply([], 500),
        "an answer in a server error": Reply({"serverTime": 1, "balances": []}, 500),
        "-1003": error(-1003, status=429),
    }
    for name, reply in (GARBAGE | wrong_rows).items():
        venue.say(endpoint, reply)
        with pytest.raises(CouldNotAsk) as raised:
            QUESTIONS[endpoint](patient(account, reply))
        account._client.timeout = 5_000
        assert not raised.value.fatal, name
        assert SECRET not in str(raised.value)


def test_an_order_that_the_venue_does_not_know_is_nowhere(venue: ScriptedVenue) -> None:
    venue.say("GET /api/v3/order", error(-2013, "Order does not exist."))
    assert trading(venue).find("BTC/USDT", CLIENT_ID, None, 0.0) is None


def test_a_failed_look_up_of_another_kind_is_not_nowhere(venue: ScriptedVenue) -> None:
    for reply in (error(-2026, "Order was archived."), error(-2013, "Order does not exist.", 503), error(-1121)):
        venue.say("GET /api/v3/order", reply)
        with pytest.raises(CouldNotAsk):
            trading(venue).find("BTC/USDT", CLIENT_ID, None, 0.0)


# --- keys ---


def test_no_key_reaches_a_log_or_an_error(venue: ScriptedVenue, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    account = trading(venue)
    venue.say(ORDER, Reply(ACK), Reply(ending="reset"))
    told = [account.place(new_order(), 1), account.place(new_order(), 2), account, account._credentials]
    venue.say("GET /api/v3/account", Reply(ending="reset"))
    with pytest.raises(CouldNotAsk) as raised:
        account.balances()
    text = caplog.text + repr(told) + str(raised.value)
    assert KEY not in text
    assert SECRET not in text
    assert account._without_secrets(f"{KEY} /a?b=1&signature=2 {SECRET}") == "… /a?… …"
    assert logging.getLogger("ccxt.base.exchange").getEffectiveLevel() >= logging.INFO


def test_a_key_that_fits_no_header_is_not_quoted(venue: ScriptedVenue) -> None:
    account = trading(venue)
    account._credentials = Credentials(KEY + "\n", SECRET)
    account._client.apiKey = KEY + "\n"
    placed = account.place(new_order(), 1)
    assert isinstance(placed, Unknown)
    assert KEY not in placed.reason


def test_only_the_three_addresses_that_are_used_are_known_to_the_client(venue: ScriptedVenue) -> None:
    assert trading(venue)._client.urls["api"] == {
        "public": venue.url + "/api/v3",
        "private": venue.url + "/api/v3",
        "sapi": venue.url + "/sapi/v1",
    }


def test_a_ccxt_that_would_repeat_calls_is_refused(venue: ScriptedVenue, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ccxt_trading.OPTIONS, "maxRetriesOnFailure", 2)
    with pytest.raises(RuntimeError, match="2 times"):
        trading(venue)


def test_a_sender_that_was_overtaken_asks_nothing(venue: ScriptedVenue) -> None:
    def overtaken() -> int:
        raise PermissionError("another sender has taken over")

    account = trading(venue, nonce=overtaken)
    for act in (lambda: account.cancel("BTC/USDT", "BTCUSDT:28"), account.open_orders, account.balances):
        with pytest.raises(PermissionError):
            act()
    assert venue.asked == []
