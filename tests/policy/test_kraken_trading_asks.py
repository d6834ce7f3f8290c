"""What Kraken tells of an account: whole pages, exact amounts, plain names; or CouldNotAsk, never half an answer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any

import pytest
import requests

from policy.execution.venues.kraken_trading import KrakenTrading
from policy.execution.venues.protocol import CouldNotAsk, KeyRights
from tests.policy.kraken_account import (
    CLIENT_ID,
    FIRST_NONCE,
    NOW,
    FakeAccount,
    connected,
    envelope,
    paged,
    told_order,
)
from tests.policy.test_kraken_trading import BODIES

Ask = Callable[[KrakenTrading], Any]
ASKS: dict[str, Ask] = {
    "OpenOrders": lambda venue: venue.open_orders(),
    "ClosedOrders": lambda venue: venue.closed_orders(NOW - 60),
    "TradesHistory": lambda venue: venue.fills(NOW - 60),
    "Ledgers": lambda venue: venue.ledger(NOW - 60),
    "BalanceEx": lambda venue: venue.balances(),
    "GetApiKeyInfo": lambda venue: venue.key_rights(),
    "QueryOrders": lambda venue: venue.find("BTC/USD", CLIENT_ID, "OAAA", NOW),
    "GetWebSocketsToken": lambda venue: venue.websocket_token(),
    "Time": lambda venue: venue.server_time(),
    "SystemStatus": lambda venue: venue.status(),
    "AssetPairs": lambda venue: venue.rules("BTC/USD"),
}
PRIVATE = sorted(set(ASKS) - {"Time", "SystemStatus", "AssetPairs"})


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


# --- R6: could not ask is neither empty nor not found ---


@pytest.mark.parametrize("method", sorted(ASKS))
def test_trouble_of_any_kind_is_never_an_empty_answer(fake: FakeAccount, venue: KrakenTrading, method: str) -> None:
    warnings = {"no errors", "null errors", "one definite, one not"}
    troubles: list[Any] = [BODIES[name] for name in BODIES if name not in warnings]
    troubles += [requests.exceptions.ReadTimeout(), requests.exceptions.ConnectionError(), 17, [], "text"]
    for trouble in troubles:
        fake.replies[method] = trouble
        with pytest.raises(CouldNotAsk) as refused:
            ASKS[method](venue)
        assert not refused.value.fatal
        venue._market.calls.breaker.succeeded()  # or it is not even asked after eight of them


@pytest.mark.parametrize("method", PRIVATE)
@pytest.mark.parametrize(
    ("error", "fatal"),
    [("EAPI:Invalid key", True), ("EAPI:Invalid signature", True), ("EGeneral:Permission denied", True),
     ("EAPI:Invalid nonce", False), ("EAPI:Rate limit exceeded", False), ("EService:Busy", False)],
)  # fmt: skip
def test_a_refused_question_tells_whether_somebody_must_look(
    fake: FakeAccount, venue: KrakenTrading, method: str, error: str, fatal: bool
) -> None:
    fake.replies[method] = envelope(None, error)
    with pytest.raises(CouldNotAsk, match=error) as refused:
        ASKS[method](venue)
    assert refused.value.fatal == fatal


def test_each_question_is_one_request_with_the_next_nonce(fake: FakeAccount, venue: KrakenTrading) -> None:
    fake.replies |= {"OpenOrders": {"open": {}}, "BalanceEx": requests.exceptions.ReadTimeout(), "GetApiKeyInfo": None}
    venue.open_orders()
    for ask in (venue.balances, venue.key_rights):
        with pytest.raises(CouldNotAsk):
            ask()
    assert [(method, int(form["nonce"]) - FIRST_NONCE) for method, form in fake.sent] == [
        ("OpenOrders", 0), ("BalanceEx", 1), ("GetApiKeyInfo", 2),
    ]  # fmt: skip


# --- orders ---


def test_an_open_order_is_told_in_plain_words(fake: FakeAccount, venue: KrakenTrading) -> None:
    stop = told_order(vol="0.5", vol_exec="0.1", descr={"ordertype": "stop-loss", "price": "25500.0", "type": "sell"})
    trailing = told_order(
        stopprice="27000.1", cl_ord_id=None, descr={"ordertype": "trailing-stop", "price": "+5.0000%"}
    )
    fake.replies["OpenOrders"] = {"open": {"OA": stop, "OB": trailing, "OC": told_order("pending")}}
    first, second, third = venue.open_orders()
    assert (first.venue_order_id, first.client_id, first.symbol, first.side) == (
        "OA",
        str(CLIENT_ID),
        "BTC/USD",
        "sell",
    )
    assert (first.state, first.quantity, first.filled) == ("open", Decimal("0.5"), Decimal("0.1"))
    assert (first.stop_price, first.opened_at, first.closed_at) == (Decimal(25500), NOW - 60.5, None)
    assert (second.client_id, second.stop_price) == (None, Decimal("27000.1"))
    assert (third.state, third.stop_price, third.detail) == ("open", None, "limit pending")


@pytest.mark.parametrize(
    ("status", "filled", "state"),
    [("closed", "0.25", "filled"), ("closed", "0.2", "canceled"), ("canceled", "0.1", "canceled"),
     ("expired", "0", "expired")],
)  # fmt: skip
def test_an_ended_order_says_how_much_of_it_was_filled(
    fake: FakeAccount, venue: KrakenTrading, status: str, filled: str, state: str
) -> None:
    fake.replies["ClosedOrders"] = paged("closed", {"OA": told_order(status, vol_exec=filled)})
    (ended,) = venue.closed_orders(NOW)
    assert (ended.state, ended.filled, ended.closed_at) == (state, Decimal(filled), NOW)
    assert ended.detail == f"limit {status} User requested"
    assert venue.closed_orders(NOW + 0.5) == [], "what ended before was not asked for"
    (form, _) = fake.forms("ClosedOrders")
    assert (int(form["start"]), form["closetime"]) == (int(NOW) - 1, "close")


@pytest.mark.parametrize(
    "broken",
    [{"status": "resting"}, {"vol": "much"}, {"vol": None}, {"vol_exec": "NaN"}, {"opentm": True},
     {"descr": {"type": "?"}}, {"status": "closed", "closetm": None}],
)  # fmt: skip
def test_one_order_that_is_not_understood_spoils_the_list(
    fake: FakeAccount, venue: KrakenTrading, broken: dict[str, Any]
) -> None:
    fake.replies["OpenOrders"] = {"open": {"OA": told_order(), "OB": told_order(**broken)}}
    with pytest.raises(CouldNotAsk, match="malformed"):
        venue.open_orders()


def test_all_pages_are_read_and_a_row_that_moved_is_there_once(fake: FakeAccount, venue: KrakenTrading) -> None:
    rows = {f"O{n:03}": told_order("canceled") for n in range(120)}

    def growing(form: dict[str, str]) -> Any:
        """One order more is closed between each two pages."""
        ofs, news = int(form.get("ofs", 0)), len(fake.forms("ClosedOrders")) - 1
        all_rows = {f"ONEW{n}": told_order("canceled") for n in range(news)} | rows
        return {"closed": dict(list(all_rows.items())[ofs : ofs + 50]), "count": len(all_rows)}

    fake.replies["ClosedOrders"] = growing
    assert rows.keys() <= {order.venue_order_id for order in venue.closed_orders(NOW - 60)}
    assert [form.get("ofs") for form in fake.forms("ClosedOrders")] == [None, "50", "100"]


@pytest.mark.parametrize("kept", [0, 30, 50])
def test_pages_that_do_not_add_up_are_no_answer(fake: FakeAccount, venue: KrakenTrading, kept: int) -> None:
    rows = {f"O{n:03}": told_order("canceled") for n in range(kept)}
    fake.replies["ClosedOrders"] = lambda form: {"closed": {} if "ofs" in form else rows, "count": 80}
    with pytest.raises(CouldNotAsk, match=f"{kept} of 80 rows"):
        venue.closed_orders(NOW - 60)
    fake.replies["ClosedOrders"] = {"closed": rows, "count": 80}  # the same page for ever
    with pytest.raises(CouldNotAsk, match=f"{kept} of 80 rows"):
        venue.closed_orders(NOW - 60)
    fake.replies["ClosedOrders"] = {"closed": rows}
    with pytest.raises(CouldNotAsk, match="malformed"):
        venue.closed_orders(NOW - 60)


# --- one order ---


def find(venue: KrakenTrading, txid: str | None = None) -> str | None:
    order = venue.find("BTC/USD", CLIENT_ID, txid, NOW - 60)
    return None if order is None else order.venue_order_id


def lists(fake: FakeAccount, open_: dict[str, Any], closed: dict[str, Any]) -> None:
    fake.replies |= {"OpenOrders": {"open": open_}, "ClosedOrders": paged("closed", closed)}


def test_an_order_is_found_open_or_closed_by_our_id(fake: FakeAccount, venue: KrakenTrading) -> None:
    lists(fake, {"OA": told_order()}, {})
    assert find(venue) == "OA"
    lists(fake, {}, {"OB": told_order("closed", vol_exec="0.25")})
    assert find(venue) == "OB"
    lists(fake, {}, {})
    assert find(venue) is None
    assert {form["cl_ord_id"] for _, form in fake.sent} == {str(CLIENT_ID)}
    assert [method for method, _ in fake.sent] == ["OpenOrders", "ClosedOrders"] * 3, "it may close in between"


def test_a_venue_that_ignores_the_question_finds_no_others_order(fake: FakeAccount, venue: KrakenTrading) -> None:
    other = told_order(cl_ord_id="906bcc85-1866-4b4b-9d0d-880bbcbe7447")
    lists(fake, {"OA": other, "OB": told_order(cl_ord_id=None)}, {})
    assert find(venue) is None


def test_an_order_that_closes_while_it_is_looked_for_is_one_order(fake: FakeAccount, venue: KrakenTrading) -> None:
    lists(fake, {"OA": told_order()}, {"OA": told_order("closed", vol_exec="0.25")})
    order = venue.find("BTC/USD", CLIENT_ID, None, NOW)
    assert order is not None
    assert order.state == "filled"


def test_two_orders_of_one_intent_are_told_and_none_is_chosen(fake: FakeAccount, venue: KrakenTrading) -> None:
    lists(fake, {"OB": told_order()}, {"OA": told_order("closed")})
    with pytest.raises(CouldNotAsk, match=r"2 orders with our id.*OA, OB"):
        find(venue)


def test_the_venues_own_id_is_asked_for_first_and_its_ignorance_is_not_believed(
    fake: FakeAccount, venue: KrakenTrading
) -> None:
    fake.replies["QueryOrders"] = {"OA": told_order("closed", vol_exec="0.25")}
    assert find(venue, "OA") == "OA"
    assert [method for method, _ in fake.sent] == ["QueryOrders"]
    lists(fake, {"OB": told_order()}, {})
    for unknown in (envelope(None, "EOrder:Unknown order"), {}, {"OTHER": told_order()}):
        fake.replies["QueryOrders"] = unknown
        assert find(venue, "OA") == "OB"


@pytest.mark.parametrize("method", ["OpenOrders", "ClosedOrders"])
def test_half_a_look_finds_nothing_out(fake: FakeAccount, venue: KrakenTrading, method: str) -> None:
    lists(fake, {}, {})
    fake.replies[method] = envelope(None, "EService:Unavailable")
    with pytest.raises(CouldNotAsk):
        find(venue)


# --- the key and the venue ---


@pytest.mark.parametrize(
    ("told", "rights"),
    [
        ({"permissions": ["query-funds", "modify-trades", "close-trades"], "nonceWindow": "0", "ipAllowlist": ["::1"]},
         KeyRights(True, False, True, 0)),
        ({"permissions": ["query-funds", "withdraw-funds"], "nonceWindow": 10, "ipAllowlist": []},
         KeyRights(False, True, False, 10)),
        ({"permissions": ["Withdraw something new"]}, KeyRights(False, True, None, None)),
    ],
)  # fmt: skip
def test_a_keys_rights(fake: FakeAccount, venue: KrakenTrading, told: dict[str, Any], rights: KeyRights) -> None:
    fake.replies["GetApiKeyInfo"] = told
    assert venue.key_rights() == rights


@pytest.mark.parametrize("told", [{}, {"permissions": None}, {"permissions": "withdraw-funds"}, {"permissions": [7]}])
def test_rights_that_are_not_told_are_not_assumed(
    fake: FakeAccount, venue: KrakenTrading, told: dict[str, Any]
) -> None:
    fake.replies["GetApiKeyInfo"] = told
    with pytest.raises(CouldNotAsk, match="malformed"):
        venue.key_rights()


def test_the_token_of_the_private_channels(fake: FakeAccount, venue: KrakenTrading) -> None:
    fake.replies["GetWebSocketsToken"] = {"token": "very secret", "expires": 900}
    assert venue.websocket_token() == "very secret"


def test_clock_status_and_rules_are_the_public_ones(fake: FakeAccount, venue: KrakenTrading) -> None:
    fake.replies |= {"Time": {"unixtime": 1_750_000_030}, "SystemStatus": {"status": "cancel_only"}}
    assert (venue.server_time(), venue.status()) == (1_750_000_030.0, "cancel_only")
    rules = venue.rules("BTC/USDT")
    assert (rules.tick_size, rules.min_quantity, rules.status) == (Decimal("0.1"), Decimal("0.00005"), "online")
    assert not fake.sent


def test_a_public_question_is_not_repeated_either(fake: FakeAccount, venue: KrakenTrading) -> None:
    asked = list[dict[str, str]]()
    fake.replies["Time"] = lambda form: asked.append(form) or b"<html>"
    with pytest.raises(CouldNotAsk):
        venue.server_time()
    assert len(asked) == 1
