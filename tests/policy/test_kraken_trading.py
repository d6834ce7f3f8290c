"""Orders on Kraken: what is said, and what an answer means. Only proof makes an order accepted or rejected."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest
import requests
from hypothesis import given
from hypothesis import strategies as st

from policy.execution.venues import open_trading
from policy.execution.venues.kraken_messages import Unplaceable, add_order
from policy.execution.venues.kraken_trading import KrakenTrading
from policy.execution.venues.protocol import Accepted, Credentials, Done, Gone, NewOrder, Rejected, Unknown
from shared.exchanges.protocol import ExchangeError
from shared.settings import Settings
from tests.policy.kraken_account import CLIENT_ID, KEY, NOW, SECRET, FakeAccount, connected, envelope, order

NONCE = 1_750_000_030_123_456_789
TXID = "OFGKYQ-FHPCQ-HUQFEK"
ADDED = {"descr": {"order": "buy 0.25 XBTUSD @ market"}, "txid": [TXID]}


@pytest.fixture
def account() -> Iterator[tuple[FakeAccount, KrakenTrading]]:
    with connected() as pair:
        yield pair


@pytest.fixture
def fake(account: tuple[FakeAccount, KrakenTrading]) -> FakeAccount:
    return account[0]


@pytest.fixture
def venue(account: tuple[FakeAccount, KrakenTrading]) -> KrakenTrading:
    return account[1]


# --- what is said ---


def test_an_order_is_one_request_with_the_nonce_that_was_given(fake: FakeAccount, venue: KrakenTrading) -> None:
    fake.replies["AddOrder"] = ADDED
    assert venue.place(order(deadline=NOW + 5), NONCE) == Accepted(TXID)
    assert fake.sent == [
        ("AddOrder", {
            "pair": "XXBTZUSD", "type": "buy", "ordertype": "market", "volume": "0.25", "cl_ord_id": str(CLIENT_ID),
            "oflags": "fciq", "deadline": "2025-06-15T15:07:15.250000Z", "nonce": str(NONCE),
        }),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"type": "limit", "limit_price": "30000.1"}, {"ordertype": "limit", "price": "30000.1", "timeinforce": "GTC"}),
        ({"type": "limit", "limit_price": "1E+4", "time_in_force": "ioc"}, {"price": "10000", "timeinforce": "IOC"}),
        ({"type": "limit", "limit_price": "1", "time_in_force": "fok"}, {"timeinforce": "FOK"}),
        ({"type": "limit", "limit_price": "1", "post_only": True}, {"oflags": "post,fciq", "timeinforce": "GTC"}),
        ({"type": "stop", "stop_price": "25500", "side": "sell"},
         {"ordertype": "stop-loss", "price": "25500", "trigger": "last", "type": "sell"}),
        ({"type": "take_profit", "stop_price": "40000"}, {"ordertype": "take-profit", "price": "40000"}),
        ({"type": "trailing_stop", "trail": "0.15"},
         {"ordertype": "trailing-stop", "price": "+15%", "trigger": "last"}),
        ({"type": "trailing_stop", "trail": "0.0125"}, {"price": "+1.25%"}),
        ({"quantity": "1e-8"}, {"volume": "0.00000001"}),
        ({"symbol": "BTC/USDT"}, {"pair": "XBTUSDT"}),
    ],
)  # fmt: skip
def test_each_order_is_said_in_krakens_words(
    fake: FakeAccount, venue: KrakenTrading, changes: dict[str, Any], said: dict[str, str]
) -> None:
    fake.replies["AddOrder"] = ADDED
    amounts = {"quantity", "limit_price", "stop_price", "trail"}
    changes = {name: Decimal(value) if name in amounts else value for name, value in changes.items()}
    venue.place(order(**changes), NONCE)
    ((_, form),) = fake.sent
    assert said.items() <= form.items()
    assert "deadline" not in form


@given(amount=st.decimals(min_value=Decimal("1e-8"), max_value=Decimal("1e9"), places=8))
def test_amounts_are_said_to_the_last_digit_and_never_in_scientific_notation(amount: Decimal) -> None:
    said = add_order(order(type="limit", quantity=amount, limit_price=amount.normalize()), "XXBTZUSD")
    assert Decimal(said["volume"]) == Decimal(said["price"]) == amount
    assert set(said["volume"] + said["price"]) <= set("0123456789.")


@pytest.mark.parametrize(
    "changes",
    [
        {"type": "limit"}, {"type": "stop"}, {"type": "trailing_stop"}, {"type": "take_profit"},
        {"limit_price": Decimal(1)}, {"type": "stop", "stop_price": Decimal(1), "limit_price": Decimal(1)},
        {"quantity": Decimal(0)}, {"quantity": Decimal(-1)}, {"quantity": Decimal("NaN")},
        {"type": "limit", "limit_price": Decimal("Infinity")}, {"post_only": True}, {"time_in_force": "ioc"},
        {"type": "limit", "limit_price": Decimal(1), "post_only": True, "time_in_force": "ioc"},
    ],
)  # fmt: skip
def test_what_cannot_be_said_as_it_is_meant_is_never_sent(
    fake: FakeAccount, venue: KrakenTrading, changes: dict[str, Any]
) -> None:
    with pytest.raises(Unplaceable):
        add_order(order(**changes), "XXBTZUSD")
    outcome = venue.place(order(**changes), NONCE)
    assert isinstance(outcome, Rejected)
    assert "not sent" in outcome.reason
    assert not fake.sent


@pytest.mark.parametrize("symbol", ["NOPE/USD", "BTC/EUR"])
def test_an_order_for_what_is_not_listed_is_rejected_unsent(
    fake: FakeAccount, venue: KrakenTrading, symbol: str
) -> None:
    assert venue.place(order(symbol=symbol), NONCE) == Rejected(f"not sent: kraken lists no {symbol}")
    assert not fake.sent


def test_without_the_pairs_nothing_is_sent_and_with_them_they_are_not_needed_again(
    fake: FakeAccount, venue: KrakenTrading
) -> None:
    fake.replies |= {"AddOrder": ADDED, "AssetPairs": requests.exceptions.ConnectTimeout("no")}
    outcome = venue.place(order(), NONCE)
    assert isinstance(outcome, Rejected)
    assert not outcome.fatal
    assert not fake.sent
    fake.replies["AssetPairs"] = {"XXBTZUSD": {"altname": "XBTUSD", "wsname": "XBT/USD"}}
    assert venue.place(order(), NONCE) == Accepted(TXID)
    del fake.replies["AssetPairs"], fake.replies["Assets"]
    assert venue.place(order(), NONCE + 1) == Accepted(TXID)


# --- what an answer means (reliability.md §1.5 and §7) ---

REJECTED = [
    "EOrder:Insufficient funds", "EOrder:Order minimum not met", "EOrder:Cost minimum not met",
    "EOrder:Tick size check failed", "EOrder:Orders limit exceeded", "EOrder:Rate limit exceeded",
    "EOrder:Post only order", "EOrder:Invalid price", "EOrder:Trading agreement required",
    "EGeneral:Invalid arguments", "EGeneral:Invalid arguments:volume", "EGeneral:Temporary lockout",
    "EQuery:Unknown asset pair", "EAPI:Invalid nonce", "EAPI:Rate limit exceeded",
    "EService:Market in cancel_only mode", "EService:Market in post_only mode", "EService: Throttled: 1750000031",
    "EService:Throttled: 1750000031",
]  # fmt: skip
RULES = {"EOrder:Order minimum not met": "minimum quantity", "EOrder:Cost minimum not met": "minimum notional",
         "EOrder:Tick size check failed": "tick size", "EOrder:Invalid price": "tick size"}  # fmt: skip
FATAL = ["EAPI:Invalid key", "EAPI:Invalid signature", "EGeneral:Permission denied"]
UNKNOWN = [
    "EService:Unavailable", "EService:Busy", "EService:Timeout", "EService:Deadline elapsed",
    "EGeneral:Internal error", "EDatabase:Internal error", "EOrder:Something new",
    "EGeneral:Invalid arguments:cl_ord_id", "EOrder:Insufficient fundsX", "Insufficient funds", "EAPI", "",
    "EOrder:Unknown order",
]  # fmt: skip


@pytest.mark.parametrize("error", [*REJECTED, *FATAL, *UNKNOWN])
def test_an_error_rejects_an_order_only_if_it_is_a_definite_one(
    fake: FakeAccount, venue: KrakenTrading, error: str
) -> None:
    fake.replies["AddOrder"] = envelope(None, error)
    outcome = venue.place(order(), NONCE)
    assert isinstance(outcome, Unknown if error in UNKNOWN else Rejected)
    assert getattr(outcome, "fatal", False) == (error in FATAL)
    assert not isinstance(outcome, Accepted)
    assert error in outcome.reason
    assert getattr(outcome, "rule", "") == RULES.get(error, "")
    assert len(fake.sent) == 1


BODIES: dict[str, bytes] = {
    "html": b"<!DOCTYPE html><html></html>", "empty": b"", "broken": b'{"error":[],"result":{"txid":["OAB',
    "null": b'{"error":[],"result":null}', "nothing": b'{"error":[],"result":{}}', "no result": b'{"error":[]}',
    "no errors": b'{"result":{"txid":["OABC"]}}', "null errors": b'{"error":null,"result":{"txid":["OABC"]}}',
    "text error": b'{"error":"EOrder:Insufficient funds","result":{"txid":["OABC"]}}',
    "odd errors": b'{"error":[7]}', "list": b"[]", "number": b"17", "null itself": b"null",
    "no txids": b'{"error":[],"result":{"txid":[]}}', "null txid": b'{"error":[],"result":{"txid":[null]}}',
    "text txid": b'{"error":[],"result":{"txid":"OABC"}}', "empty txid": b'{"error":[],"result":{"txid":[""]}}',
    "two txids": b'{"error":[],"result":{"txid":["OABC","ODEF"]}}',
    "both": b'{"error":["EOrder:Insufficient funds"],"result":{"txid":["OABC"]}}',
    "one definite, one not": b'{"error":["EOrder:Insufficient funds","EService:Busy"]}',
    "validated": b'{"error":[],"result":{"descr":{"order":"buy"}}}', "NaN": b'{"error":[],"result":NaN}',
    "deep": b"[" * 100_000, "long number": b'{"error":[],"result":' + b"9" * 5_000 + b"}", "not text": b"\xff\xfe\xfa",
}  # fmt: skip


@pytest.mark.parametrize("body", BODIES)
def test_an_answer_that_is_none_leaves_the_order_unknown(fake: FakeAccount, venue: KrakenTrading, body: str) -> None:
    fake.replies["AddOrder"] = BODIES[body]
    assert isinstance(venue.place(order(), NONCE), Unknown)
    assert len(fake.sent) == 1


@pytest.mark.parametrize("status", [302, 307, 400, 403, 418, 429, 500, 502, 503, 504, 520, 525, 599])
def test_a_status_that_is_no_answer_leaves_the_order_unknown_and_is_never_followed(
    fake: FakeAccount, venue: KrakenTrading, status: int
) -> None:
    fake.status, fake.headers = status, {"Location": "http://127.0.0.1:9/0/private/AddOrder"}
    fake.replies["AddOrder"] = envelope(None, "EOrder:Insufficient funds") if status < 400 else b"<html>"
    assert isinstance(venue.place(order(), NONCE), Unknown)
    assert len(fake.sent) == 1


@pytest.mark.parametrize(
    "error",
    [requests.exceptions.ReadTimeout(), requests.exceptions.ConnectionError(), requests.exceptions.SSLError(),
     requests.exceptions.ChunkedEncodingError(), requests.exceptions.InvalidHeader(KEY), OSError("no route"),
     MemoryError()],
)  # fmt: skip
def test_trouble_on_the_way_leaves_the_order_unknown(fake: FakeAccount, venue: KrakenTrading, error: Exception) -> None:
    fake.replies["AddOrder"] = error
    outcome = venue.place(order(), NONCE)
    assert isinstance(outcome, Unknown)
    assert KEY not in outcome.reason
    assert len(fake.sent) == 1


def test_a_warning_beside_a_txid_takes_nothing_away(fake: FakeAccount, venue: KrakenTrading) -> None:
    fake.replies["AddOrder"] = json.dumps({"error": ["WGeneral:Something"], "result": ADDED}).encode()
    assert venue.place(order(), NONCE) == Accepted(TXID)


# --- cancel and amend ---


def test_a_cancellation_is_done_gone_rejected_or_unknown(fake: FakeAccount, venue: KrakenTrading) -> None:
    def canceled(reply: Any) -> Any:
        fake.replies["CancelOrder"] = reply
        return venue.cancel("BTC/USD", TXID)

    assert canceled({"count": 1}) == Done()
    assert isinstance(canceled(envelope(None, "EOrder:Unknown order")), Gone)
    assert isinstance(canceled(envelope(None, "EAPI:Rate limit exceeded")), Rejected)
    unclear = ({"count": 0}, {"count": 1, "pending": True}, {}, None, b"<html>", envelope(None, "EService:Busy"))
    assert all(isinstance(canceled(reply), Unknown) for reply in unclear)
    assert [form["txid"] for form in fake.forms("CancelOrder")] == [TXID] * 9


def test_an_amendment_names_the_whole_new_size_and_the_trigger(fake: FakeAccount, venue: KrakenTrading) -> None:
    def amended(reply: Any, stop_price: Decimal | None = None) -> Any:
        fake.replies["AmendOrder"] = reply
        return venue.amend("BTC/USD", TXID, Decimal("1e-3"), stop_price)

    assert amended({"amend_id": "TTW6PD-RC36L-ZZSWNU"}, Decimal("25500.5")) == Done()
    assert isinstance(amended(envelope(None, "EOrder:Unknown order")), Gone)
    assert isinstance(amended(envelope(None, "EOrder:Insufficient funds")), Rejected)
    assert all(isinstance(amended(reply), Unknown) for reply in ({}, {"amend_id": ""}, None, b""))
    first, *others = fake.forms("AmendOrder")
    assert (first["txid"], first["order_qty"], first["trigger_price"]) == (TXID, "0.001", "25500.5")
    assert not any("trigger_price" in form for form in others)


def test_a_sender_that_was_taken_over_sends_nothing(fake: FakeAccount, venue: KrakenTrading) -> None:
    def taken_over() -> int:
        raise PermissionError("another sender has taken over")

    venue._take_nonce = taken_over
    for act in (lambda: venue.cancel("BTC/USD", TXID), lambda: venue.amend("BTC/USD", TXID, Decimal(1), None)):
        with pytest.raises(PermissionError):
            act()
    with pytest.raises(PermissionError):
        venue.open_orders()
    assert not fake.sent


# --- the key ---


@pytest.mark.parametrize(
    ("key", "secret"), [("", SECRET), ("k\n", SECRET), ("k k", SECRET), (KEY, ""), (KEY, "not base64!"), (KEY, "AAAA!")]
)
def test_what_cannot_be_a_key_is_refused_and_not_quoted(settings_without_home: Settings, key: str, secret: str) -> None:
    with pytest.raises(ExchangeError) as refused:
        open_trading("kraken", settings_without_home, Credentials(key, secret), lambda: 1, ["BTC/USD"])
    assert not secret or secret not in str(refused.value)
    assert not key or key not in str(refused.value).split()


@pytest.fixture
def settings_without_home(tmp_path: Any) -> Settings:
    return Settings(home=tmp_path)


def test_only_a_registered_venue_trades(settings_without_home: Settings) -> None:
    opened = open_trading("kraken", settings_without_home, Credentials(KEY, SECRET), lambda: 1, ["BTC/USD"])
    assert opened.name == "kraken"
    with pytest.raises(ExchangeError, match=r"nobody can trade on 'paper'.*kraken"):
        open_trading("paper", settings_without_home, Credentials(KEY, SECRET), lambda: 1, [])


def test_nothing_of_the_key_is_ever_told(
    fake: FakeAccount, venue: KrakenTrading, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG):
        for reply in (ADDED, b"<html>" + KEY.encode(), requests.exceptions.ConnectionError(f"{KEY} {SECRET}"), b""):
            fake.replies["AddOrder"] = reply
            told = [repr(venue.place(order(), NONCE)), repr(venue), repr(vars(venue)), str(Credentials(KEY, SECRET))]
            assert not any(hidden in text for hidden in (KEY, SECRET) for text in [*told, caplog.text])


def test_two_orders_of_one_intent_are_two_requests_only_if_asked_twice(fake: FakeAccount, venue: KrakenTrading) -> None:
    """The client id goes along, but the venue need not refuse it: who asks twice sends twice (rule R3)."""
    fake.replies["AddOrder"] = ADDED
    again: NewOrder = replace(order(), quantity=Decimal(1))
    venue.place(order(), NONCE)
    venue.place(again, NONCE + 1)
    assert [form["cl_ord_id"] for form in fake.forms("AddOrder")] == [str(CLIENT_ID)] * 2
