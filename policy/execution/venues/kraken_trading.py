"""Trading on Kraken over its private REST API. Each method is one question or one act, never repeated.

Facts: reliability.md §1.5 and §7. The client id is no idempotency key: unique among open orders only. An order's
deadline makes the unknown decidable: after it, what is nowhere will never be.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID

from policy.execution.venues.kraken_errors import (
    Answer,
    NoAnswer,
    changed,
    is_fatal,
    is_no_such_order,
    is_throttled,
    placed,
)
from policy.execution.venues.kraken_messages import (
    Names,
    Row,
    Unplaceable,
    add_order,
    amount_of,
    deadline_of,
    is_tradable,
    parse_balances,
    parse_entry,
    parse_fill,
    parse_order,
    parse_rights,
)
from policy.execution.venues.kraken_private import COSTS, COUNTER, DECAY_PER_S, PrivateKraken, counter_of
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
    Unknown,
    VenueFill,
    VenueOrder,
)
from shared.clock import Timer
from shared.exchanges.kraken import KrakenExchange
from shared.exchanges.protocol import ExchangeError, VenueStatus
from shared.exchanges.resilience import RetryPolicy, excerpt
from shared.rows import InstrumentRules

EXECUTIONS_URL = "wss://ws-auth.kraken.com/v2"
TIMEOUT_S = 10.0
LEDGER_MARGIN_S = 60.0  # by which a trade and its ledger entries may differ in time
MALFORMED = (TypeError, ValueError, LookupError, AttributeError, ArithmeticError)
T = TypeVar("T")
U = TypeVar("U")


class KrakenTrading:
    """One account of the venue ``kraken``. ``symbols``: the wallet's, as instruments have them."""

    name = "kraken"
    capabilities = TradingCapabilities(
        deadline=True,
        amend=True,
        order_types=("market", "limit", "stop", "take_profit", "trailing_stop"),
    )

    def __init__(
        self,
        credentials: Credentials,
        take_nonce: TakeNonce,
        symbols: Sequence[str],
        rest_url: str | None = None,
        executions_url: str = EXECUTIONS_URL,
        *,
        requests_per_s: float | None = None,
        home: Path | None = None,
        timer: Timer | None = None,
    ) -> None:
        """``requests_per_s`` is of the public questions, which share the venue's limit; processes that give the same
        ``home`` keep that one and the key's own together. Asks nobody."""
        self.executions_url = executions_url
        self._private = PrivateKraken(credentials, rest_url, TIMEOUT_S)
        self._counter = counter_of(credentials, rest_url, timer, home)
        self._take_nonce, self._symbols = take_nonce, tuple(symbols)
        self._market = KrakenExchange(rest_url, timer=timer, requests_per_s=requests_per_s, home=home)
        self._market.calls.retry = RetryPolicy(tries=1)  # nothing is repeated here, not even a public question
        self._names = Names()
        self._told: dict[
            str, tuple[Row, VenueFill]
        ] = {}  # of the last look at trades, with their ledger entries merged

    # --- acts ---

    def place(self, order: NewOrder, nonce: int) -> Placed:
        """See TradingVenue. Rejected also for what was never sent, because it cannot be said to Kraken."""
        try:
            question = add_order(order, self._pair_id(order.symbol))
        except (Unplaceable, ExchangeError) as error:
            return Rejected(f"not sent: {error}")
        try:
            return placed(self._private.ask("AddOrder", question, nonce))
        except NoAnswer as trouble:
            return Unknown(f"kraken AddOrder: {trouble}")

    def cancel(self, symbol: str, venue_order_id: str) -> Changed:
        def is_done(result: Any) -> bool:
            return int(result["count"]) > 0 and not result.get("pending")

        return self._change("CancelOrder", {"txid": venue_order_id}, is_done)

    def amend(
        self,
        symbol: str,
        venue_order_id: str,
        quantity: Decimal,
        stop_price: Decimal | None,
        deadline: float | None = None,
    ) -> Changed:
        question = {"txid": venue_order_id, "order_qty": f"{quantity:f}"}
        if stop_price is not None:
            question["trigger_price"] = f"{stop_price:f}"
        if deadline is not None:
            question["deadline"] = deadline_of(deadline)
        return self._change("AmendOrder", question, lambda result: bool(result["amend_id"]))

    def _change(self, method: str, question: Row, is_done: Callable[[Any], bool]) -> Changed:
        nonce = self._take_nonce()
        try:
            answer = self._private.ask(method, question, nonce)
        except NoAnswer as trouble:
            return Unknown(f"kraken {method}: {trouble}")
        return changed(method, answer, _confirms(answer, is_done))

    # --- orders ---

    def open_orders(self) -> list[VenueOrder]:
        self._learn_names()
        return self._orders("OpenOrders", "open", {})

    def closed_orders(self, since: float) -> list[VenueOrder]:
        self._learn_names()
        ended = self._orders("ClosedOrders", "closed", {"start": _before(since), "closetime": "close"})
        return [order for order in ended if order.closed_at is not None and order.closed_at >= since]

    def find(self, symbol: str, client_id: UUID, venue_order_id: str | None, since: float) -> VenueOrder | None:
        """By the venue's id where it is known; else, or if the venue does not know it, by ours: open orders before
        closed ones, for an order may close in between. CouldNotAsk where two orders have that id."""
        self._learn_names()
        if venue_order_id is not None:
            order = self._query(venue_order_id)
            if order is not None:
                return order
        by_id = {"cl_ord_id": str(client_id)}
        listed = [*self._orders("OpenOrders", "open", by_id)]
        listed += self._orders("ClosedOrders", "closed", by_id | {"start": _before(since)})
        found = {order.venue_order_id: order for order in listed if order.client_id == str(client_id)}
        if len(found) > 1:
            raise CouldNotAsk(f"kraken has {len(found)} orders with our id {client_id}: {', '.join(sorted(found))}")
        return next(iter(found.values()), None)

    def _query(self, txid: str) -> VenueOrder | None:
        """None: the lists have to tell. An answer without the order proves nothing."""
        answer = self._send("QueryOrders", {"txid": txid})
        if is_no_such_order(answer.errors):
            return None
        rows = self._result("QueryOrders", answer)
        if txid not in rows:
            return None
        return self._parsed("QueryOrders", rows, lambda told: parse_order(txid, told[txid], self._names))

    def _orders(self, method: str, key: str, question: Row) -> list[VenueOrder]:
        rows = self._pages(method, key, question)
        orders = self._parsed(method, rows, lambda told: [parse_order(t, row, self._names) for t, row in told.items()])
        return sorted(orders, key=lambda order: (order.opened_at, order.venue_order_id))

    # --- money ---

    def fills(self, since: float) -> list[VenueFill]:
        """See TradingVenue. CouldNotAsk while a trade's ledger entries are not there yet. A trade on margin exchanges
        nothing: what it costs and settles is in the ledger alone."""
        self._learn_names()
        trades = self._pages("TradesHistory", "trades", {"start": _before(since)})
        trades = self._parsed("TradesHistory", trades, lambda told: _spot_since(since, told))
        told = {trade_id: self._told[trade_id] for trade_id, row in trades.items() if self._is_told(trade_id, row)}
        new = {trade_id: row for trade_id, row in trades.items() if trade_id not in told}
        for trade_id, fill in self._merged(since, new).items():
            told[trade_id] = new[trade_id], fill
        self._told = told
        return sorted((fill for _, fill in told.values()), key=lambda fill: (fill.filled_at, fill.venue_trade_id))

    def _is_told(self, trade_id: str, row: Row) -> bool:
        """Whether a trade was told just so before: its ledger entries do not change, and asking for them costs."""
        return trade_id in self._told and self._told[trade_id][0] == row

    def _merged(self, since: float, trades: Mapping[str, Row]) -> dict[str, VenueFill]:
        """Trades with their ledger entries, which are asked for if there is any."""
        legs: dict[str, list[LedgerEntry]] = {}
        if trades:
            for entry in self._entries(since - LEDGER_MARGIN_S, {"type": "trade"}):
                legs.setdefault(entry.reference, []).append(entry)
        fills = dict[str, VenueFill]()
        for trade_id, row in trades.items():
            merge = _merging(trade_id, legs.get(trade_id, []), self._names)
            fill = self._parsed("TradesHistory", row, merge)
            if fill is None:
                raise CouldNotAsk(f"kraken's ledger lags: trade {trade_id} has no entries for both of its assets yet")
            fills[trade_id] = fill
        return fills

    def ledger(self, since: float) -> list[LedgerEntry]:
        """See TradingVenue; without movements of what is staked or earns, whose other half is there as staking."""
        self._learn_names()
        return [entry for entry in self._entries(since, {}) if entry.at >= since and is_tradable(entry.asset)]

    def balances(self) -> dict[str, Balance]:
        """See TradingVenue. CouldNotAsk also for an answer without any asset."""
        self._learn_names()
        result = self._result("BalanceEx", self._send("BalanceEx", {}))
        if not result:
            raise CouldNotAsk("kraken BalanceEx: no asset at all: an account that never held any, or no answer")
        return self._parsed("BalanceEx", result, lambda told: parse_balances(told, self._names))

    def _entries(self, since: float, question: Row) -> list[LedgerEntry]:
        rows = self._pages("Ledgers", "ledger", {**question, "start": _before(since)})
        entries = self._parsed(
            "Ledgers", rows, lambda told: [parse_entry(i, row, self._names) for i, row in told.items()]
        )
        return sorted(entries, key=lambda entry: (entry.at, entry.id))

    # --- the key and the venue ---

    def key_rights(self) -> KeyRights:
        result = self._result("GetApiKeyInfo", self._send("GetApiKeyInfo", {}))
        return self._parsed("GetApiKeyInfo", result, parse_rights)

    def websocket_token(self) -> str:
        """For the private channels, valid for 15 minutes until it is used. A secret, like the key."""
        result = self._result("GetWebSocketsToken", self._send("GetWebSocketsToken", {}))
        token = result.get("token")
        if not isinstance(token, str) or not token:
            raise CouldNotAsk("kraken GetWebSocketsToken: an answer without a token")
        return token

    def server_time(self) -> float:
        return self._public(self._market.server_time)

    def status(self) -> VenueStatus:
        return self._public(self._market.status)

    def rules(self, symbol: str) -> InstrumentRules:
        return self._public(lambda: self._market.rules(symbol))

    # --- asking ---

    def _send(self, method: str, question: Row) -> Answer:
        if self._counter is not None:
            self._counter.acquire(COSTS.get(method, 1.0))
        nonce = self._take_nonce()
        try:
            answer = self._private.ask(method, question, nonce)
        except NoAnswer as trouble:
            raise CouldNotAsk(f"kraken {method}: {trouble}") from None
        if self._counter is not None and is_throttled(answer.errors):
            self._counter.pause(COUNTER / DECAY_PER_S)  # until the venue's own counter is empty, wherever it stood
        return answer

    def _result(self, method: str, answer: Answer) -> dict[str, Any]:
        if answer.errors:
            raise CouldNotAsk(f"kraken {method}: {excerpt(', '.join(answer.errors))}", fatal=is_fatal(answer.errors))
        if not isinstance(answer.result, dict):
            raise CouldNotAsk(f"kraken {method}: no result: {excerpt(answer.result)}")
        return answer.result

    def _pages(self, method: str, key: str, question: Row) -> dict[str, Any]:
        """All rows by id, newest page first; what comes in meanwhile may be among them or not. OpenOrders has no count:
        it is one page."""
        rows, seen, first_count = dict[str, Any](), 0, None
        while True:
            asked = {**question, "ofs": seen} if seen else question
            result = self._result(method, self._send(method, asked))
            page, count = self._parsed(method, result, lambda told: _page(told, key))
            if count is None:
                return rows | page
            first_count = count if first_count is None else first_count
            seen += len(page)
            if seen < count and not page.keys() - rows.keys():
                raise CouldNotAsk(f"kraken {method}: {len(rows)} of {count} rows, and no more came")
            rows |= page
            if seen >= count and len(rows) < first_count:
                raise CouldNotAsk(f"kraken {method}: {len(rows)} of {first_count} rows, the pages overlapped")
            if seen >= count:
                return rows

    def _parsed(self, method: str, told: T, parse: Callable[[T], U]) -> U:
        try:
            return parse(told)
        except MALFORMED as error:
            message = f"kraken {method}: the answer is malformed ({type(error).__name__}: {error}): {excerpt(told)}"
            raise CouldNotAsk(message) from None

    def _public(self, ask: Callable[[], T]) -> T:
        try:
            return ask()
        except ExchangeError as error:
            raise CouldNotAsk(str(error)) from error

    # --- names ---

    def _learn_names(self) -> None:
        """Once: pairs and assets keep their names. Known names are no reason to fail later."""
        if not self._names.assets:
            self._public(self._learn)

    def _learn(self) -> None:
        assets, pairs = self._market.assets(), self._market.pairs()
        self._names.learn(assets, pairs, self._symbols)

    def _pair_id(self, symbol: str) -> str:
        """ExchangeError where the venue lists none, or could not be asked."""
        if symbol not in self._names.pair_ids:
            self._learn()
        if symbol not in self._names.pair_ids:
            raise ExchangeError(f"kraken lists no {symbol}")
        return self._names.pair_ids[symbol]


def _confirms(answer: Answer, is_done: Callable[[Any], bool]) -> bool:
    try:
        return is_done(answer.result)
    except MALFORMED:
        return False


def _merging(trade_id: str, legs: Sequence[LedgerEntry], names: Names) -> Callable[[Row], VenueFill | None]:
    return lambda row: parse_fill(trade_id, row, legs, names)


def _page(result: Row, key: str) -> tuple[dict[str, Any], int | None]:
    rows = result[key]
    if not isinstance(rows, dict):
        raise TypeError(f"{key} is {type(rows).__name__}")
    return rows, int(result["count"]) if "count" in result or key != "open" else None


def _spot_since(since: float, rows: Row) -> dict[str, Any]:
    return {
        row_id: row
        for row_id, row in rows.items()
        if float(row["time"]) >= since and not amount_of(row.get("margin") or 0)
    }


def _before(since: float) -> int:
    """``start`` is exclusive and taken in whole seconds."""
    return int(since) - 1
