"""One order book as Kraken's WebSocket v2 sends it, believed only while its checksum is right.

Rules from https://docs.kraken.com/exchange/guides/websockets/book-checksum-v2: apply all levels of a message
(a quantity of 0 removes its level), cut each side to the subscribed depth, then compare the CRC32.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from decimal import Decimal
from typing import Any

DEPTH = 10  # subscribed, and what the checksum covers whatever is subscribed
MOST_DIGITS = 40  # of a price or quantity; a longer one is an attack on memory, not a number

Side = dict[Decimal, str]  # the level's price -> its part of the checksum's text


class Book:
    """Feed it every element of the channel ``book``, parsed with ``parse_float=Decimal``, snapshot first."""

    def __init__(self) -> None:
        self._asks: Side = {}
        self._bids: Side = {}

    def apply(self, element: dict[str, Any], *, snapshot: bool) -> bool:
        """Whether the book is right after this element: its checksum is the one that the element states.

        KeyError, TypeError or ValueError: it is not a book's element, and the book must not be used any more.
        """
        if snapshot:
            self._asks, self._bids = {}, {}
        _update(self._asks, element.get("asks", ()))
        _update(self._bids, element.get("bids", ()))
        self._asks = {price: self._asks[price] for price in sorted(self._asks)[:DEPTH]}
        self._bids = {price: self._bids[price] for price in sorted(self._bids, reverse=True)[:DEPTH]}
        return bool(element["checksum"] == self.checksum())

    def checksum(self) -> int:
        """CRC32 over asks from low to high, then bids from high to low."""
        return zlib.crc32("".join((*self._asks.values(), *self._bids.values())).encode())

    def top(self) -> tuple[float, float] | None:
        """Best bid and ask; None while a side is empty."""
        if not self._asks or not self._bids:
            return None
        return float(next(iter(self._bids))), float(next(iter(self._asks)))


def _update(side: Side, levels: Iterable[Any]) -> None:
    for level in levels:
        price, quantity = _decimal(level["price"]), _decimal(level["qty"])
        if quantity:
            side[price] = digits(price) + digits(quantity)
        else:
            side.pop(price, None)


def _decimal(value: Any) -> Decimal:
    number = Decimal(value) if isinstance(value, int) and not isinstance(value, bool) else value
    if not isinstance(number, Decimal):
        raise TypeError(f"not a number: {value!r:.50}")
    if not number.is_finite() or number < 0 or max(number.adjusted(), -int(number.as_tuple().exponent)) > MOST_DIGITS:
        raise ValueError(f"not a price or quantity: {value!r:.50}")
    return number


def digits(number: Decimal) -> str:
    """The number as printed, without decimal point and leading zeros: 0.00100000 -> 100000."""
    return f"{number:f}".replace(".", "").lstrip("0")  # not str(): 0.00000005 would read 5E-8
