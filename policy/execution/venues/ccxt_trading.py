"""Trading on Binance's spot market through unmodified ccxt, which signs and carries requests here and nothing more.

What came over the wire is read and judged by this project (binance_errors, binance_rows): ccxt takes garbage for an
order, rounds through floats, and mixes certain refusals with unknown outcomes in its exceptions.

Binance has no nonces. Each signed call still takes the key's next one, for taking it fails where another sender has
taken over; but the venue itself refuses nobody, so a sender that is paused between that and its call is stopped by the
order's deadline alone: ``timestamp`` and ``recvWindow`` say until when on the venue's clock a request is good.
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from decimal import Decimal
from importlib import import_module
from typing import Any, TypeVar
from urllib.parse import urlsplit
from uuid import UUID

from policy.execution.venues import binance_errors as errors
from policy.execution.venues import binance_rows as rows
from policy.execution.venues.protocol import (
    Balance,
    Changed,
    CouldNotAsk,
    Credentials,
    KeyRights,
    LedgerEntry,
    NewOrder,
    Placed,
    Rejected,
    TakeNonce,
    TradingCapabilities,
    VenueFill,
    VenueOrder,
)
from shared.clock import Clock
from shared.exchanges.protocol import VenueStatus
from shared.exchanges.resilience import root_cause
from shared.rows import InstrumentRules

TIMEOUT_MS = 10_000
MS, DAY_S = 1_000, 86_400
WINDOW_MS, MOST_WINDOW_MS = 5_000, 60_000  # how long a request is good; the most that the venue takes
PAGE = 1_000
LAUNCHED_S = 1_498_867_200  # 2017-07-01: there is no older history
HISTORY_MS = 89 * DAY_S * MS  # deposits and withdrawals are told for less than 90 days at a time
CREDIT_S = 7 * DAY_S  # what was asked for this long before may have been credited only now
LENT = "LD"  # before an asset's name
CAPABILITIES = TradingCapabilities(
    deadline=True,
    amend=False,  # it can only make an order smaller; cancel, then place anew
    order_types=("market", "limit", "stop", "take_profit", "trailing_stop"),
)
ADDRESSES = ("public", "private", "sapi")  # of ccxt's; the others are never to be reached
OPTIONS = {"fetchCurrencies": False, "fetchMarkets": {"types": ["spot"]}, "maxRetriesOnFailure": 0}
MALFORMED = (LookupError, TypeError, ValueError, ArithmeticError, AttributeError)
T = TypeVar("T")


class CcxtTrading:
    """One account. Orders and trades are told of ``symbols`` (BASE/QUOTE), open orders and balances of all.

    Ids are the venue's with the symbol before them (BTCUSDT:28), for it numbers each symbol by itself. The ledger is
    trades, deposits and withdrawals of coins: what moved to other wallets of the same owner, fiat and conversions are
    not in it.
    """

    name = "binance"
    capabilities = CAPABILITIES

    def __init__(
        self,
        credentials: Credentials,
        take_nonce: TakeNonce,
        symbols: Collection[str],
        clock: Clock,
        rest_url: str | None = None,
    ) -> None:
        """``rest_url`` takes the place of scheme and host in all of the venue's addresses."""
        self._credentials, self._take_nonce, self._clock = credentials, take_nonce, clock
        self._symbols = {_symbol_id(symbol): symbol for symbol in symbols}
        self._named: dict[str, str] = {}  # of others that open orders were for: symbol id to BASE/QUOTE
        self._offset_s: float | None = None  # of the venue's clock from ours; None: to be asked for
        self._read_up: dict[str, tuple[float, int]] = {}  # by symbol id (t, n): all orders below n ended before t
        self._came: errors.Answer | None = None  # over the wire, for the call that is under way
        self._client = self._new_client(rest_url)

    def place(self, order: NewOrder, nonce: int) -> Placed:
        """``nonce`` was taken for this order; the venue has none. Without a deadline it is good for 5 s."""
        trouble = rows.unsupported(order)
        if trouble is not None:
            return Rejected(f"not sent: {trouble}")
        try:
            now_ms = self._venue_ms()
        except CouldNotAsk as error:
            return Rejected(f"not sent: {error}")
        window_ms = WINDOW_MS if order.deadline is None else min(MOST_WINDOW_MS, int(order.deadline * MS) - now_ms)
        if window_ms <= 0:
            return Rejected("not sent: its deadline has passed")
        symbol_id = _symbol_id(order.symbol)
        asked = rows.order_parameters(order, symbol_id) | {"timestamp": now_ms, "recvWindow": window_ms}
        return errors.placed(self._send("private_post_order", asked), symbol_id, str(order.client_id))

    def cancel(self, symbol: str, venue_order_id: str) -> Changed:
        number = _number(venue_order_id)
        try:
            asked = {"symbol": _symbol_id(symbol), "orderId": number} | self._stamp()
        except CouldNotAsk as error:
            return Rejected(f"not sent: {error}")
        return errors.canceled(self._send("private_delete_order", asked), number)

    def amend(
        self,
        symbol: str,
        venue_order_id: str,
        quantity: Decimal,
        stop_price: Decimal | None,
        deadline: float | None = None,
    ) -> Changed:
        return Rejected(f"not sent: {self.name} changes no order in place; cancel {venue_order_id}, then place another")

    def open_orders(self) -> Sequence[VenueOrder]:
        found = self._ask("private_get_openorders", {}, list)
        return [self._order(row) for row in self._by_number("openOrders", found, "orderId").values()]

    def closed_orders(self, since: float) -> Sequence[VenueOrder]:
        """Of ``symbols``. An account of more than 1,000 orders of one is read from its beginning once a start."""
        since = _floor(since, MS)
        found = [order for symbol_id in self._symbols for order in self._orders(symbol_id, since)]
        ended = [(order.closed_at, order) for order in found if order.closed_at is not None]
        return [order for at, order in sorted(ended, key=lambda each: each[0]) if at >= since]

    def find(self, symbol: str, client_id: UUID, venue_order_id: str | None, since: float) -> VenueOrder | None:
        """By the venue's own id where it is known, else by ours: one place has open and closed ones, however old."""
        by_id = (
            {"origClientOrderId": str(client_id)} if venue_order_id is None else {"orderId": _number(venue_order_id)}
        )
        answer = self._send("private_get_order", {"symbol": _symbol_id(symbol)} | by_id | self._stamp())
        if answer.status == 400 and answer.refusal is not None and answer.refusal[0] == errors.NO_SUCH_ORDER:
            return None
        return self._order(errors.told(answer, f"order {client_id}", dict))

    def fills(self, since: float) -> Sequence[VenueFill]:
        """Of ``symbols``."""
        found = [fill for symbol_id in self._symbols for fill in self._fills(symbol_id, _floor(since, MS))]
        return sorted(found, key=lambda fill: fill.filled_at)

    def ledger(self, since: float) -> Sequence[LedgerEntry]:
        """A withdrawal is told when it is asked for, and comes back if it fails; a deposit when it is credited."""
        since = _floor(since, 1)
        entries = [entry for fill in self.fills(since) for entry in rows.trade_entries(fill)]
        for row in self._history("sapi_get_capital_deposit_hisrec", since):
            entries += _read("deposits", row, rows.deposit_entries)
        for row in self._history("sapi_get_capital_withdraw_history", since):
            entries += _read("withdrawals", row, rows.withdrawal_entries)
        once = {entry.id: entry for entry in entries if entry.at >= since}
        return sorted(once.values(), key=lambda entry: entry.at)

    def balances(self) -> dict[str, Balance]:
        """What is lent to the venue's savings is an asset of its own there (LDBTC) and left out."""
        told = _read("account", self._ask("private_get_account", {}, dict), rows.balances_of)
        lent = {asset for asset in told if asset.startswith(LENT) and asset.removeprefix(LENT) in told}
        return {asset: balance for asset, balance in told.items() if asset not in lent}

    def key_rights(self) -> KeyRights:
        return _read("apiRestrictions", self._ask("sapi_get_account_apirestrictions", {}, dict), rows.rights_of)

    def server_time(self) -> float:
        """What the next requests are stamped with goes by this answer, too."""
        asked = self._clock.now()
        answer = self._ask("public_get_time", {}, dict, is_signed=False)
        told = _read("time", answer, lambda row: rows.whole(row["serverTime"]) / MS)
        self._offset_s = told - asked.timestamp()
        return told

    def status(self) -> VenueStatus:
        """Maintenance is when none of ``symbols`` trades."""
        for symbol_id in self._symbols:
            market = self._market(symbol_id)
            if market is not None and _read("exchangeInfo", market, rows.rules_of).status == "online":
                return "online"
        return "maintenance"

    def rules(self, symbol: str) -> InstrumentRules:
        """Of a market that does not trade now: cancel_only. CouldNotAsk: the venue does not list it (any more)."""
        market = self._market(_symbol_id(symbol))
        if market is None:
            raise CouldNotAsk(f"{self.name} lists no {symbol}: it may be delisted")
        return _read("exchangeInfo", market, rows.rules_of)

    # --- lists, to their end ---

    def _orders(self, symbol_id: str, since: float) -> list[VenueOrder]:
        """All of one symbol but some that ended before ``since``.

        They come by number, that is by when they were placed, and an old one may have ended just now. So all are read
        but the first ones of which it is known that they had ended before.
        """
        known_at, first = self._read_up.get(symbol_id, (float("inf"), 1))
        if since < known_at:
            newest = self._ask("private_get_allorders", {"symbol": symbol_id, "limit": PAGE}, list)
            if len(newest) < PAGE:
                return [self._order(row) for row in self._by_number("allOrders", newest, "orderId").values()]
            first = 1
        found = self._walk("private_get_allorders", symbol_id, "orderId", first, "orderId")
        orders = {number: self._order(row) for number, row in sorted(found.items())}
        unsettled = (n for n, order in orders.items() if order.closed_at is None or order.closed_at >= since)
        self._read_up[symbol_id] = since, next(unsettled, max(orders, default=first - 1) + 1)
        return list(orders.values())

    def _fills(self, symbol_id: str, since: float) -> list[VenueFill]:
        """Of one symbol: the newest page has them all where it is not full or reaches back far enough."""
        newest = self._ask("private_get_mytrades", {"symbol": symbol_id, "limit": PAGE}, list)
        fills = self._each_fill(symbol_id, self._by_number("myTrades", newest, "id"))
        if len(newest) >= PAGE and all(fill.filled_at >= since for fill in fills):
            fills = self._each_fill(symbol_id, self._walk("private_get_mytrades", symbol_id, "fromId", 0, "id"))
        return [fill for fill in fills if fill.filled_at >= since]

    def _each_fill(self, symbol_id: str, found: Mapping[int, Mapping[str, Any]]) -> list[VenueFill]:
        symbol = self._symbols[symbol_id]
        return [_read("myTrades", row, lambda row: rows.fill_of(row, symbol)) for row in found.values()]

    def _walk(self, method: str, symbol_id: str, cursor: str, first: int, key: str) -> dict[int, Mapping[str, Any]]:
        """All rows numbered ``first`` or higher, page by page."""
        found: dict[int, Mapping[str, Any]] = {}
        while True:
            page = self._ask(method, {"symbol": symbol_id, cursor: first, "limit": PAGE}, list)
            found |= self._by_number(method, page, key)
            if len(page) < PAGE:
                return found
            if max(found) < first:
                raise CouldNotAsk(f"{self.name} {method}: the page from {first} on has nothing from {first} on")
            first = max(found) + 1

    def _history(self, method: str, since: float) -> Iterator[Mapping[str, Any]]:
        """Rows of deposits or withdrawals, from some days before ``since`` on: what was asked for then may end now."""
        start, now_ms = int(max(since - CREDIT_S, LAUNCHED_S) * MS), self._venue_ms()
        while start <= now_ms:
            window = {"startTime": start, "endTime": min(now_ms, start + HISTORY_MS), "limit": PAGE}
            offset = 0
            while True:
                page = self._ask(method, window | {"offset": offset}, list)
                yield from page
                if len(page) < PAGE:
                    break
                offset += len(page)
            start = window["endTime"] + 1

    def _by_number(self, question: str, found: list[Any], key: str) -> dict[int, Mapping[str, Any]]:
        """Each row once; CouldNotAsk where two of one number differ."""
        once: dict[int, Mapping[str, Any]] = {}
        for row in found:
            number = _read(question, row, lambda row: rows.whole(row[key]))
            if once.setdefault(number, row) != row:
                raise CouldNotAsk(f"{self.name} {question}: two different rows are numbered {number}")
        return once

    def _order(self, row: Mapping[str, Any]) -> VenueOrder:
        symbol = self._symbol(_read("order", row, lambda row: str(row["symbol"])))
        return _read("order", row, lambda row: rows.order_of(row, symbol))

    def _symbol(self, symbol_id: str) -> str:
        known = self._symbols.get(symbol_id) or self._named.get(symbol_id)
        if known is not None:
            return known
        market = self._market(symbol_id)
        if market is None:
            raise CouldNotAsk(f"{self.name} lists no {symbol_id}, of which it told an order")
        named = _read("exchangeInfo", market, lambda row: f"{row['baseAsset']}/{row['quoteAsset']}")
        return self._named.setdefault(symbol_id, named)

    def _market(self, symbol_id: str) -> Mapping[str, Any] | None:
        """Its row of exchangeInfo; None where the venue lists no such symbol."""
        answer = self._send("public_get_exchangeinfo", {"symbol": symbol_id})
        if answer.status == 400 and answer.refusal is not None and answer.refusal[0] == errors.NO_SUCH_SYMBOL:
            return None
        found = errors.told(answer, f"exchangeInfo of {symbol_id}", dict)
        by_id: dict[str, Any] = _read(
            "exchangeInfo", found, lambda told: {row["symbol"]: row for row in told["symbols"]}
        )
        if symbol_id not in by_id:
            raise CouldNotAsk(f"{self.name} exchangeInfo of {symbol_id} tells of {', '.join(by_id) or 'nothing'}")
        row: Mapping[str, Any] = by_id[symbol_id]
        return row

    # --- one call ---

    def _ask(self, method: str, asked: Mapping[str, Any], kind: Any, *, is_signed: bool = True) -> Any:
        answer = self._send(method, {**asked, **(self._stamp() if is_signed else {})})
        return errors.told(answer, f"{method} {asked or ''}".strip(), kind)

    def _stamp(self) -> dict[str, int]:
        self._take_nonce()
        return {"timestamp": self._venue_ms(), "recvWindow": WINDOW_MS}

    def _venue_ms(self) -> int:
        if self._offset_s is None:
            self.server_time()
        assert self._offset_s is not None
        return int((self._clock.now().timestamp() + self._offset_s) * MS)

    def _send(self, method: str, asked: dict[str, Any]) -> errors.Answer:
        """One request, once; whatever ccxt makes of the answer, what came over the wire is what counts."""
        self._came = None
        try:
            getattr(self._client, method)(asked)
        except Exception as error:  # also what ccxt itself stumbles over in an answer
            if self._came is None:
                return errors.Answer(None, self._without_secrets(f"{type(error).__name__}: {root_cause(error)}"))
        answer = self._came or errors.Answer(None, f"no answer came for {method}")
        if answer.refusal is not None and answer.refusal[0] == errors.CLOCK:
            self._offset_s = None
        return answer

    def _on_answer(self, status: int, _reason: str, _url: str, _method: str, _headers: Any, body: str, *_: Any) -> str:
        """ccxt's own hook, called with each raw answer before ccxt makes anything of it."""
        self._came = errors.Answer(status, body)
        return body.strip()

    def _without_secrets(self, text: str) -> str:
        """A library's words may quote a request: its headers, or an address with a signature."""
        for secret in (self._credentials.key.strip(), self._credentials.secret.strip()):
            text = text.replace(secret, "…") if secret else text
        return re.sub(r"\?\S*", "?…", text)

    def _new_client(self, rest_url: str | None) -> Any:
        """Of ccxt, which must neither repeat a call, nor follow to another address, nor log a key."""
        ccxt = import_module("ccxt")  # here, for it takes most of a second
        key = {"apiKey": self._credentials.key, "secret": self._credentials.secret}
        client = ccxt.binance({**key, "enableRateLimit": False, "timeout": TIMEOUT_MS, "options": OPTIONS})
        repeats = client.handle_option_integer_and_params({}, "order", "maxRetriesOnFailure", 0)[0]
        if repeats != 0:
            raise RuntimeError(f"ccxt would repeat a call {repeats} times, and with it an order")
        for name in ("ccxt", client.logger.name):
            logging.getLogger(name).setLevel(logging.INFO)
        client.session.max_redirects = 0
        client.on_rest_response = self._on_answer
        addresses = {name: client.urls["api"][name] for name in ADDRESSES}
        if rest_url is not None:
            addresses = {name: rest_url.rstrip("/") + urlsplit(url).path for name, url in addresses.items()}
        client.urls["api"] = addresses
        return client


def _symbol_id(symbol: str) -> str:
    return symbol.replace("/", "")


def _floor(since: float, parts: int) -> float:
    """On the venue's own grid of so many parts of a second: it cuts off what comes after."""
    return math.floor(since * parts) / parts


def _number(venue_order_id: str) -> int:
    """Of BTCUSDT:28."""
    return int(venue_order_id.rpartition(":")[2])


def _read(question: str, row: Any, reader: Callable[[Any], T]) -> T:
    """What ``reader`` makes of it; CouldNotAsk where it is not what was asked for."""
    try:
        return reader(row)
    except MALFORMED as error:
        told = " ".join(str(row).split())[: errors.EXCERPT]
        raise CouldNotAsk(f"binance {question}: malformed ({type(error).__name__}: {error}): {told}") from error
