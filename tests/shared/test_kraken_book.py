"""The order book of Kraken's WebSocket client: believed only while its checksum is right."""

from __future__ import annotations

import json
import zlib
from decimal import Decimal

import pytest

from shared.exchanges.kraken_book import Book, digits
from shared.exchanges.kraken_stream import (
    BOOK_TOP_S,
    WRONG_BOOKS,
    WRONG_BOOKS_S,
)
from shared.exchanges.protocol import BookTop, StreamTrouble
from tests.shared.kraken_messages import (
    BTC,
    ETH,
    EXAMPLE,
    EXAMPLE_ASKS,
    EXAMPLE_BIDS,
    EXAMPLE_CHECKSUM,
    answers,
    book,
    candle,
    kinds,
    ohlc,
    session,
)


def test_the_checksum_of_the_documentations_example_is_right() -> None:
    assert session().receive(EXAMPLE, 0) == [BookTop(BTC, 45283.5, 45285.2)]


@pytest.mark.parametrize(
    ("printed", "expected"),
    [("45285.2", "452852"), ("0.00100000", "100000"), ("0.00000005", "5"), ("0.05000", "5000"), ("10.0", "100")],
)
def test_the_checksum_reads_numbers_as_printed(printed: str, expected: str) -> None:
    assert digits(Decimal(printed)) == expected


def test_updates_change_add_remove_and_push_out_levels() -> None:
    live = session()
    live.receive(EXAMPLE, 0)
    # A better ask pushes out the tenth (45299.5), a bid is removed, another changes.
    asks = "45284.9 2.00000000 " + " ".join(EXAMPLE_ASKS.split()[:-2])
    bids = " ".join(EXAMPLE_BIDS.split()[2:-1]) + " 9.00000000"
    whole = Book()
    whole.apply({"asks": parsed(asks), "bids": parsed(bids), "checksum": 0}, snapshot=True)
    update = book("45284.9 2.00000000", "45283.5 0.00000000 45276.6 9.00000000", whole.checksum(), "update")
    assert live.receive(update, BOOK_TOP_S) == [BookTop(BTC, 45283.4, 45284.9)]
    gone = book("45284.9 0.0", "", 0, "update")
    assert kinds(live.receive(gone, BOOK_TOP_S)) == ["checksum"]  # the level pushed out does not come back by itself


def test_a_bid_that_was_pushed_out_does_not_come_back_by_itself() -> None:
    whole = Book()
    bids = "45284.0 1.00000000 " + " ".join(EXAMPLE_BIDS.split()[:-2])
    whole.apply({"asks": parsed(EXAMPLE_ASKS), "bids": parsed(bids), "checksum": 0}, snapshot=True)
    live = session()
    live.receive(EXAMPLE, 0)
    update = book("", "45284.0 1.00000000", whole.checksum(), "update")
    assert live.receive(update, BOOK_TOP_S) == [BookTop(BTC, 45284.0, 45285.2)]


def test_a_snapshot_replaces_the_book() -> None:
    live = session()
    live.receive(EXAMPLE, 0)
    fresh = Book()
    fresh.apply({"asks": parsed("7.5 1"), "bids": parsed("7.4 1"), "checksum": 0}, snapshot=True)
    assert live.receive(book("7.5 1", "7.4 1", fresh.checksum()), BOOK_TOP_S) == [BookTop(BTC, 7.4, 7.5)]


def parsed(text: str) -> list[dict[str, Decimal]]:
    numbers = [Decimal(number) for number in text.split()]
    return [{"price": p, "qty": q} for p, q in zip(numbers[::2], numbers[1::2], strict=True)]


def test_a_wrong_checksum_drops_the_book_and_subscribes_it_anew() -> None:
    live = session(BTC, ETH)
    live.receive(EXAMPLE, 0)
    wrong = book("45285.3 1.0", "", EXAMPLE_CHECKSUM, "update")
    (trouble,) = live.receive(wrong, 10)
    assert isinstance(trouble, StreamTrouble)
    assert (trouble.kind, BTC in trouble.detail, "anew" in trouble.detail) == ("checksum", True, True)
    asked = [json.loads(request) for request in live.requests()]
    assert [(a["method"], a["params"]["channel"], a["params"]["symbol"]) for a in asked] == [
        ("unsubscribe", "book", [BTC]),
        ("subscribe", "book", [BTC]),
    ]
    assert asked[1]["params"]["snapshot"] is True
    assert live.receive(wrong, 20) == []  # still under way: no second complaint, and no price
    for request in asked:
        for answer in answers(json.dumps(request)):
            assert live.receive(answer, 20) == []
    assert kinds(live.receive(EXAMPLE, 20)) == ["BookTop"]


def test_a_malformed_book_is_dropped_like_a_wrong_one() -> None:
    live = session()
    live.receive(EXAMPLE, 0)
    assert kinds(live.receive(book("45285.2 -1", "", 0, "update"), 10)) == ["bad_message"]
    assert len(live.requests()) == 2
    assert live.receive(book("", "", EXAMPLE_CHECKSUM, "update"), 20) == []


@pytest.mark.parametrize(
    "level", ["1e90 1", "1 1e90", "1e-90 1", "-1 1", '"1" 1', "true 1", "1 0e-999999", "1 0e999999"]
)
def test_a_level_that_is_no_price_and_quantity_is_malformed(level: str) -> None:
    assert kinds(session().receive(book(level, "", 0), 0)) == ["bad_message"]


def test_a_book_that_stays_wrong_is_given_up_and_the_candles_go_on() -> None:
    live = session()
    wrong = book(EXAMPLE_ASKS, EXAMPLE_BIDS, 1)
    assert [kinds(live.receive(wrong, 1_000 + t)) for t in range(WRONG_BOOKS)] == [["checksum"]] * WRONG_BOOKS
    asked = [json.loads(request)["method"] for request in live.requests()]
    assert asked == ["unsubscribe", "subscribe"] * (WRONG_BOOKS - 1) + ["unsubscribe"]
    assert live.receive(EXAMPLE, 1_000 + WRONG_BOOKS) == []
    assert kinds(live.receive(ohlc(candle()), 1_000 + WRONG_BOOKS)) == ["CandleUpdate"]


def test_rare_wrong_checksums_never_give_a_book_up() -> None:
    live = session()
    for turn in range(2 * WRONG_BOOKS):
        now = turn * (WRONG_BOOKS_S / (WRONG_BOOKS - 1) + 1)
        assert kinds(live.receive(book(EXAMPLE_ASKS, EXAMPLE_BIDS, 1), now)) == ["checksum"]
        assert kinds(live.receive(EXAMPLE, now)) == ["BookTop"]


def test_best_prices_come_at_most_once_a_second_and_symbol() -> None:
    live = session(BTC, ETH)
    other = EXAMPLE.replace(BTC, ETH)
    assert [kinds(live.receive(EXAMPLE, t)) for t in (0, 0.5, 0.99, 1.0)] == [["BookTop"], [], [], ["BookTop"]]
    assert kinds(live.receive(other, 1.0)) == ["BookTop"]


def test_a_book_with_an_empty_side_has_no_best_prices() -> None:
    empty = Book()
    assert empty.apply({"asks": [], "bids": [], "checksum": 0}, snapshot=True)
    assert empty.top() is None
    for side in ("asks", "bids"):  # whole numbers come without a decimal point
        empty.apply({side: [{"price": 7, "qty": 1}], "checksum": 0}, snapshot=True)
        assert empty.checksum() == zlib.crc32(b"71")
        assert empty.top() is None
    assert session().receive(book("", "", 0), 0) == []
