"""Binance's spot account over REST, to its documentation; the engine behind it is every venue's.

Left out: fees in BNB, icebergs, cancel-replace, self-trade prevention, and OTO lists.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from tests.exchange_emulator.binance_account_rows import canceled_row, client_id, order_row, trade_row
from tests.exchange_emulator.binance_requests import Leg, request_of, side_of
from tests.exchange_emulator.binance_signature import admit, deadline_ns
from tests.exchange_emulator.binance_words import (
    BIPS,
    MS,
    NS_PER_MS,
    ApiError,
    Arguments,
    illegal,
    missing,
    page_size,
    text,
    whole,
)
from tests.exchange_emulator.distortion import disorder_rows
from tests.exchange_emulator.market import NS
from tests.exchange_emulator.records import ApiKey, Order, Refused, Request, Right
from tests.exchange_emulator.rest import Call
from tests.exchange_emulator.trouble import served_view

if TYPE_CHECKING:
    from tests.exchange_emulator.server import Emulator

LIMIT, MOST = 500, 1_000
DAY_MS = 86_400 * MS
TEN_SECONDS_NS, ORDERS_10S = 10 * NS, 100
LENT = ".S"  # how the engine calls what is staked; here it is LDBTC
WEIGHTS = {"GET order": 4, "GET openOrders": 6, "GET allOrders": 20, "GET myTrades": 20, "GET account": 20}
ALL_OPEN_WEIGHT = 80
GAINS, STOPS = ("LIMIT_MAKER", "TAKE_PROFIT", "TAKE_PROFIT_LIMIT"), ("STOP_LOSS", "STOP_LOSS_LIMIT")  # of a list
REFUSALS: dict[str, tuple[int, str]] = {
    "unknown_symbol": (-1121, "Invalid symbol."),
    "invalid": (-1013, "Invalid quantity."),
    "tick": (-1013, "Filter failure: PRICE_FILTER"),
    "lot": (-1013, "Filter failure: LOT_SIZE"),
    "minimum": (-1013, "Filter failure: LOT_SIZE"),
    "cost_minimum": (-1013, "Filter failure: NOTIONAL"),
    "funds": (-2010, "Account has insufficient balance for requested action."),
    "orders_limit": (-1013, "Filter failure: MAX_NUM_ORDERS"),
    "post_only": (-2010, "Order would immediately match and take."),
    "client_id": (-2010, "Duplicate order sent."),
    "deadline": (-1021, "Timestamp for this request is outside of the recvWindow."),
    "unknown_order": (-2011, "Unknown order sent."),
}
Handler = Callable[[Call, ApiKey], Any]


class BinancePrivate:
    """The signed half of /api/v3; BinanceRest asks it first."""

    def __init__(self, emulator: Emulator) -> None:
        self._emulator, self._engine, self._faults = emulator, emulator.engine, emulator.faults
        self._symbols = {symbol.replace("/", ""): symbol for symbol in emulator.market.symbols}
        self._lists: dict[str, int] = {}  # names of order lists to their numbers, of this process
        self._methods: dict[str, tuple[Right, Handler]] = {
            "GET account": ("read", self._account),
            "POST order": ("trade", self._place),
            "POST order/test": ("trade", self._test),
            "GET order": ("read", self._order),
            "DELETE order": ("trade", self._cancel),
            "GET openOrders": ("read", self._open_orders),
            "DELETE openOrders": ("trade", self._cancel_all),
            "GET allOrders": ("read", self._all_orders),
            "GET myTrades": ("read", self._my_trades),
            "POST orderList/oco": ("trade", self._place_oco),
            "DELETE orderList": ("trade", self._cancel_list),
        }

    def serves(self, call: Call) -> bool:
        return f"{call.method} {call.endpoint}" in self._methods

    def weight(self, call: Call) -> int:
        name = f"{call.method} {call.endpoint}"
        if name == "GET openOrders" and "symbol" not in call.arguments:
            return ALL_OPEN_WEIGHT
        return WEIGHTS.get(name, 1)

    def answer(self, call: Call) -> Any:
        """ApiError: what the venue refuses, and the engine with it."""
        right, handler = self._methods[f"{call.method} {call.endpoint}"]
        key = admit(self._emulator, call, right)
        try:
            return handler(call, key)
        except Refused as refused:
            raise ApiError(*REFUSALS[refused.refusal]) from None

    # --- placing ---

    def _place(self, call: Call, key: ApiKey) -> Any:
        request = self._request(call)
        self._check_pace(key)
        order = self._engine.place(key.account, request)
        detail = "FULL" if call.arguments["type"] in ("MARKET", "LIMIT") else "ACK"
        return self._placed(order, call.arguments.get("newOrderRespType", detail))

    def _test(self, call: Call, key: ApiKey) -> Any:
        self._engine.place(key.account, self._request(call), validate_only=True)
        return {}

    def _request(self, call: Call) -> Request:
        given = call.arguments
        named = given.get("newClientOrderId")
        return request_of(self._emulator, self._symbol(given), Leg(given), named, deadline_ns(call))

    def _check_pace(self, key: ApiKey) -> None:
        since = self._engine.now_ns() - TEN_SECONDS_NS
        if sum(order.opened_ns > since for order in self._engine.view(key.account).orders) >= ORDERS_10S:
            raise ApiError(-1015, f"Too many new orders; current limit is {ORDERS_10S} orders per 10 SECOND.", 429)

    def _placed(self, order: Order, detail: str) -> dict[str, Any]:
        row = order_row(order, ())
        told = {name: row[name] for name in ("symbol", "orderId", "orderListId", "clientOrderId")}
        told["transactTime"] = row["time"]
        if detail == "ACK":
            return told
        if detail not in ("RESULT", "FULL"):
            raise illegal("newOrderRespType")
        later = ("price", "origQty", "executedQty", "cummulativeQuoteQty", "status", "timeInForce", "type", "side")
        told |= {name: row[name] for name in later}
        if detail == "FULL":
            fills = [fill for fill in self._engine.view(order.account).fills if fill.order == order.number]
            wanted = ("price", "qty", "commission", "commissionAsset")
            trades = [trade_row(fill, order) for fill in fills]
            told["fills"] = [{name: row[name] for name in wanted} | {"tradeId": row["id"]} for row in trades]
        return told

    # --- lists of two ---

    def _place_oco(self, call: Call, key: ApiKey) -> Any:
        given, until_ns = call.arguments, deadline_ns(call)
        symbol, names = self._symbol(given), ("below", "above")
        near, far = names if side_of(given) == "sell" else reversed(names)  # of the market's price: the stop, the gain
        for name, allowed in ((far, GAINS), (near, STOPS)):
            if given.get(f"{name}Type") not in allowed:
                raise ApiError(-1158, "Order type not supported in OCO.")
        legs = [
            request_of(self._emulator, symbol, Leg(given, name), given.get(f"{name}ClientOrderId"), until_ns)
            for name in (near, far)
        ]
        orders = self._engine.place_oco(key.account, (legs[0], legs[1]))
        assert orders[0].group is not None
        self._lists[given.get("listClientOrderId", f"list_{orders[0].group}")] = orders[0].group
        return self._list(orders, "EXEC_STARTED", "EXECUTING", [self._placed(order, "RESULT") for order in orders])

    def _cancel_list(self, call: Call, key: ApiKey) -> Any:
        given = call.arguments
        symbol = self._symbol(given)
        if "orderListId" in given:
            group = whole(given, "orderListId")
        else:
            group = self._lists.get(given.get("listClientOrderId", ""), 0)
        orders = [o for o in self._engine.view(key.account).orders if o.symbol == symbol and o.group == group]
        if not any(order.is_open for order in orders):
            raise ApiError(-2011, "Unknown order sent.")
        ended = [self._engine.cancel(key.account, order.number) if order.is_open else order for order in orders]
        return self._list(ended, "ALL_DONE", "ALL_DONE", [canceled_row(order, call) for order in ended])

    def _list(self, orders: Iterable[Order], kind: str, state: str, reports: list[dict[str, Any]]) -> dict[str, Any]:
        first, *_ = orders = list(orders)
        name = next((name for name, group in self._lists.items() if group == first.group), f"list_{first.group}")
        ids = ("symbol", "orderId", "clientOrderId")
        return {
            "orderListId": first.group,
            "contingencyType": "OCO",
            "listStatusType": kind,
            "listOrderStatus": state,
            "listClientOrderId": name,
            "transactionTime": self._engine.now_ns() // NS_PER_MS,
            "symbol": first.symbol.replace("/", ""),
            "orders": [{each: row[each] for each in ids} for row in (order_row(order, ()) for order in orders)],
            "orderReports": reports,
        }

    # --- cancelling ---

    def _cancel(self, call: Call, key: ApiKey) -> Any:
        """One order of a list takes the others with it."""
        found = self._named(self._engine.view(key.account).orders, call)
        if found is None or not found.is_open:
            raise ApiError(-2011, "Unknown order sent.")
        ended = self._engine.cancel(key.account, found.number)
        for other in self._engine.view(key.account).orders:
            if found.group is not None and other.group == found.group and other.is_open:
                self._engine.cancel(key.account, other.number)
        return canceled_row(ended, call)

    def _cancel_all(self, call: Call, key: ApiKey) -> Any:
        symbol = self._symbol(call.arguments)
        mine = [order for order in self._engine.view(key.account).orders if order.symbol == symbol and order.is_open]
        if not mine:
            raise ApiError(-2011, "Unknown order sent.")
        return [canceled_row(self._engine.cancel(key.account, order.number), call) for order in mine]

    # --- asking ---

    def _account(self, call: Call, key: ApiKey) -> Any:
        view = served_view(self._engine, self._faults, key.account, call.endpoint)
        fees = self._engine.accounts.get(key.account).fees
        assets = dict.fromkeys(asset for symbol in self._emulator.market.symbols for asset in symbol.split("/"))
        told = dict.fromkeys(assets, ("0.00000000", "0.00000000"))
        for asset, balance in view.balances.items():
            name = "LD" + asset.removesuffix(LENT) if asset.endswith(LENT) else asset
            told[name] = text(balance.total - balance.held), text(balance.held)
        rows = [{"asset": asset, "free": free, "locked": held} for asset, (free, held) in told.items()]
        return {
            "makerCommission": int(fees.maker * BIPS),
            "takerCommission": int(fees.taker * BIPS),
            "buyerCommission": 0,
            "sellerCommission": 0,
            "canTrade": True,
            "canWithdraw": True,
            "canDeposit": True,
            "updateTime": self._engine.now_ns() // NS_PER_MS,
            "accountType": "SPOT",
            "balances": disorder_rows(self._faults, rows, call.endpoint, ""),
            "permissions": ["SPOT"],
        }

    def _order(self, call: Call, key: ApiKey) -> Any:
        view = served_view(self._engine, self._faults, key.account, call.endpoint)
        found = self._named(view.orders, call)
        if found is None:
            raise ApiError(-2013, "Order does not exist.")
        return order_row(found, view.fills)

    def _open_orders(self, call: Call, key: ApiKey) -> Any:
        symbol = self._symbol(call.arguments) if "symbol" in call.arguments else None
        view = served_view(self._engine, self._faults, key.account, call.endpoint)
        mine = [order for order in view.orders if order.is_open and symbol in (None, order.symbol)]
        return disorder_rows(self._faults, [order_row(o, view.fills) for o in mine], call.endpoint, symbol or "")

    def _all_orders(self, call: Call, key: ApiKey) -> Any:
        """From ``orderId`` on or within a day's window the first ``limit``, else the newest ones."""
        given, symbol = call.arguments, self._symbol(call.arguments)
        view = served_view(self._engine, self._faults, key.account, call.endpoint)
        rows = [order_row(order, view.fills) for order in view.orders if order.symbol == symbol]
        return disorder_rows(self._faults, self._page(rows, given, "orderId", "orderId"), call.endpoint, symbol)

    def _my_trades(self, call: Call, key: ApiKey) -> Any:
        given, symbol = call.arguments, self._symbol(call.arguments)
        view = served_view(self._engine, self._faults, key.account, call.endpoint)
        orders = {order.number: order for order in self._engine.view(key.account).orders}
        rows = [trade_row(fill, orders[fill.order]) for fill in view.fills if fill.symbol == symbol]
        if "orderId" in given:
            rows = [row for row in rows if row["orderId"] == whole(given, "orderId")]
        return disorder_rows(self._faults, self._page(rows, given, "fromId", "id"), call.endpoint, symbol)

    def _page(self, rows: list[dict[str, Any]], given: Arguments, cursor: str, key: str) -> list[dict[str, Any]]:
        size = page_size(given, LIMIT, MOST)
        if cursor in given:
            return [row for row in rows if row[key] >= whole(given, cursor)][:size]
        if "startTime" not in given and "endTime" not in given:
            return rows[-size:]
        start, end = whole(given, "startTime", 0), whole(given, "endTime", self._engine.now_ns() // NS_PER_MS)
        if "startTime" in given and "endTime" in given and end - start > DAY_MS:
            raise ApiError(-1127, "More than 24 hours between startTime and endTime.")
        return [row for row in rows if start <= row["time"] <= end][:size]

    # --- arguments ---

    def _symbol(self, given: Arguments) -> str:
        if "symbol" not in given:
            raise missing("symbol")
        symbol = self._symbols.get(given["symbol"])
        if symbol is None or self._faults.active("delisting", symbol, "rest") is not None:
            raise ApiError(-1121, "Invalid symbol.")
        return symbol

    def _named(self, orders: Iterable[Order], call: Call) -> Order | None:
        """By its number, else the newest with that client id."""
        given, symbol = call.arguments, self._symbol(call.arguments)
        if "orderId" not in given and "origClientOrderId" not in given:
            raise ApiError(-1102, "Param 'origClientOrderId' or 'orderId' must be sent, but both were empty/null!")
        mine = [order for order in orders if order.symbol == symbol]
        if "orderId" in given:
            mine = [order for order in mine if order.number == whole(given, "orderId")]
        else:
            mine = [order for order in mine if client_id(order) == given["origClientOrderId"]]
        return mine[-1] if mine else None
