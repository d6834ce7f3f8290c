"""The calls of Kraken's private REST that only ask: orders, trades, ledger, balances, keys."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from typing import TYPE_CHECKING, Any, TypeVar

from tests.exchange_emulator.kraken_executions import TOKEN_S
from tests.exchange_emulator.kraken_ids import Kind, kraken_id, number_of
from tests.exchange_emulator.kraken_orders import is_true, number, order_info, trade_info
from tests.exchange_emulator.kraken_pairs import Pair, balance_id
from tests.exchange_emulator.kraken_rest import INVALID, UNKNOWN_PAIR, ApiError
from tests.exchange_emulator.market import NS
from tests.exchange_emulator.records import ApiKey, Entry, Fill, Order, Right, View
from tests.exchange_emulator.rest import Call
from tests.exchange_emulator.trouble import served_view

if TYPE_CHECKING:
    from tests.exchange_emulator.server import Emulator

Row = TypeVar("Row", Order, Fill, Entry)
PAGE, QUERY_LIMIT = 50, 50
DAYS_30_NS = 30 * 86_400 * NS
FEE_DECIMALS = Decimal("1e-4")
PERMISSIONS: dict[Right, tuple[str, ...]] = {
    "read": ("query-funds", "query-open-trades", "query-closed-trades", "query-ledger"),
    "trade": ("modify-trades", "close-trades"),
    "withdraw": ("withdraw-funds",),
}


class AccountData:
    def __init__(self, emulator: Emulator, named: Mapping[str, str]) -> None:
        self._emulator, self._faults, self._engine, self._named = emulator, emulator.faults, emulator.engine, named

    # --- orders ---

    def open_orders(self, key: ApiKey, call: Call) -> Any:
        view = self._view(key, call)
        rows = [o for o in _named_orders(view.orders, call) if o.is_open]
        return {"open": self._orders(rows[::-1], view, call)}

    def closed_orders(self, key: ApiKey, call: Call) -> Any:
        view, by = self._view(key, call), call.arguments.get("closetime", "both")
        if by not in ("open", "close", "both"):
            raise ApiError(f"{INVALID}:closetime")
        rows = [order for order in _named_orders(view.orders, call) if not order.is_open]
        rows.sort(key=lambda order: (order.closed_ns or 0, order.number))

        def times(order: Order) -> list[int]:
            both = {"open": [order.opened_ns], "close": [order.closed_ns or 0]}
            return both.get(by, [order.opened_ns, order.closed_ns or 0])

        page, count = self._page(rows, times, call, "O")
        return {"closed": self._orders(page, view, call), "count": count}

    def query_orders(self, key: ApiKey, call: Call) -> Any:
        view = self._view(key, call)
        found = _asked(_named_orders(view.orders, call), call, "txid", "O", "EOrder:Unknown order")
        return self._orders(found, view, call)

    def _orders(self, rows: Sequence[Order], view: View, call: Call) -> dict[str, Any]:
        fills = list(view.fills) if is_true(call.arguments, "trades") else None
        return {kraken_id("O", o.number): order_info(o, self._decimals(o.symbol), fills) for o in rows}

    # --- trades ---

    def trades_history(self, key: ApiKey, call: Call) -> Any:
        view = self._view(key, call)
        page, count = self._page(list(view.fills), lambda fill: [fill.at_ns], call, "T")
        return {"trades": self._trades(key, page, call), "count": count}

    def query_trades(self, key: ApiKey, call: Call) -> Any:
        found = _asked(self._view(key, call).fills, call, "txid", "T", "EQuery:Invalid trade")
        return self._trades(key, found, call)

    def _trades(self, key: ApiKey, rows: Sequence[Fill], call: Call) -> dict[str, Any]:
        with_ledgers = is_true(call.arguments, "ledgers")
        told = {}
        for fill in rows:
            order = self._engine.order(key.account, fill.order)
            if order is not None:
                told[kraken_id("T", fill.number)] = trade_info(fill, order, self._decimals(fill.symbol), with_ledgers)
        return told

    # --- ledger ---

    def ledgers(self, key: ApiKey, call: Call) -> Any:
        assets = {name.upper() for name in call.arguments.get("asset", "all").split(",")}
        kind = call.arguments.get("type", "all")
        rows = [
            entry
            for entry in self._view(key, call).entries
            if (assets == {"ALL"} or {balance_id(entry.asset), entry.asset, _altname(entry.asset)} & assets)
            and kind in ("all", entry.kind)
        ]
        page, count = self._page(rows, lambda entry: [entry.at_ns], call, "L")
        return {"ledger": {kraken_id("L", entry.number): _entry_info(entry) for entry in page}, "count": count}

    def query_ledgers(self, key: ApiKey, call: Call) -> Any:
        found = _asked(self._view(key, call).entries, call, "id", "L", "EQuery:Unknown ledger")
        return {kraken_id("L", entry.number): _entry_info(entry) for entry in found}

    # --- balances ---

    def balance(self, key: ApiKey, call: Call) -> Any:
        return {balance_id(asset): _amount(b.total) for asset, b in self._view(key, call).balances.items()}

    def balance_ex(self, key: ApiKey, call: Call) -> Any:
        return {
            balance_id(asset): {"balance": _amount(b.total), "hold_trade": _amount(b.held)}
            for asset, b in self._view(key, call).balances.items()
        }

    def trade_balance(self, key: ApiKey, call: Call) -> Any:
        """In dollars, at the last prices; there is no margin here."""
        now = self._engine.now_ns() / NS
        total = Decimal(0)
        for asset, balance in self._view(key, call).balances.items():
            if asset == "USD":
                total += balance.total
            elif f"{asset}/USD" in self._emulator.market.symbols:
                total += balance.total * self._emulator.market.last_price(f"{asset}/USD", now)
        text, none = str(total.quantize(FEE_DECIMALS)), "0.0000"
        return {"eb": text, "tb": text, "m": none, "uv": none, "n": none, "c": none, "v": none, "e": text, "mf": text}

    def trade_volume(self, key: ApiKey, call: Call) -> Any:
        account, since_ns = self._engine.accounts.get(key.account), self._engine.now_ns() - DAYS_30_NS
        volume = sum((fill.cost for fill in self._view(key, call).fills if fill.at_ns > since_ns), Decimal(0))
        asked = [name for name in call.arguments.get("pair", "").split(",") if name]
        if not {name.upper() for name in asked} <= set(self._named):
            raise ApiError(UNKNOWN_PAIR)
        pairs = [Pair(self._named[name.upper()]).id for name in asked]
        return {
            "currency": "ZUSD",
            "volume": str(volume.quantize(FEE_DECIMALS)),
            "fees": {pair: _fee(account.fees.taker) for pair in pairs},
            "fees_maker": {pair: _fee(account.fees.maker) for pair in pairs},
        }

    # --- the key ---

    def websockets_token(self, key: ApiKey, _call: Call) -> Any:
        return {"token": self._emulator.tokens.issue(key.account), "expires": TOKEN_S}

    def api_key_info(self, key: ApiKey, _call: Call) -> Any:
        """Needs no right."""
        known = self._engine.accounts.key(key.key) or key
        return {
            "apiKeyName": known.name,
            "apiKey": known.key,
            "nonce": str(known.last_nonce),
            "nonceWindow": str(known.nonce_window),
            "permissions": [text for right, texts in PERMISSIONS.items() if right in known.rights for text in texts],
            "ipAllowlist": list(known.ips),
            "validUntil": "0",
            "lastUsed": str(self._engine.now_ns() // NS),
        }

    # --- small things ---

    def _view(self, key: ApiKey, call: Call) -> View:
        return served_view(self._engine, self._faults, key.account, call.endpoint)

    def _decimals(self, symbol: str) -> int:
        return self._emulator.market.price_decimals(symbol)

    def _page(
        self, rows: Sequence[Row], times: Callable[[Row], list[int]], call: Call, kind: Kind
    ) -> tuple[list[Row], int]:
        """(at most 50 of those after ``start`` and up to ``end``, the newest first; how many there are)."""
        since = _moment(rows, times, call, "start", kind)
        until = _moment(rows, times, call, "end", kind)
        found = [
            row
            for row in reversed(rows)
            if any((since is None or at > since) and (until is None or at <= until) for at in times(row))
        ]
        offset = int(number(call.arguments, "ofs") or 0)
        if self._faults.take(("duplicate",), "rest", call.endpoint):
            offset = max(0, offset - 1)  # as when a new row pushes the others down between two pages
        page = found[offset : offset + PAGE]
        if self._faults.take(("reorder",), "rest", call.endpoint):
            page = page[::-1]
        return page, len(found)


def _moment(rows: Sequence[Row], times: Callable[[Row], list[int]], call: Call, name: str, kind: Kind) -> int | None:
    """In ns, of a Unix time or of the row with the id that is given."""
    text = call.arguments.get(name, "")
    wanted = number_of(kind, text)
    if wanted is not None:
        found = [row for row in rows if row.number == wanted]
        if not found:
            raise ApiError(f"{INVALID}:{name}")
        return times(found[0])[-1]
    seconds = number(call.arguments, name)
    return None if seconds is None else int(seconds * NS)


def _named_orders(orders: Sequence[Order], call: Call) -> list[Order]:
    """Those with the cl_ord_id and the userref that are asked for."""
    known, userref = call.arguments.get("cl_ord_id"), call.arguments.get("userref")
    return [
        order
        for order in orders
        if (known is None or order.client_id == known) and (userref is None or str(order.userref) == userref)
    ]


def _asked(rows: Sequence[Row], call: Call, name: str, kind: Kind, unknown: str) -> list[Row]:
    """By their ids, all of which must be known."""
    ids = [text.strip() for text in call.arguments.get(name, "").split(",") if text.strip()]
    if not 1 <= len(ids) <= QUERY_LIMIT:
        raise ApiError(f"{INVALID}:{name}")
    known = {row.number: row for row in rows}
    numbers = [number_of(kind, text) for text in ids]
    found = [known[wanted] for wanted in numbers if wanted is not None and wanted in known]
    if len(found) < len(ids):
        raise ApiError(unknown)
    return found


def _entry_info(entry: Entry) -> dict[str, Any]:
    return {
        "refid": kraken_id("T", entry.fill) if entry.fill is not None else kraken_id("Q", entry.number),
        "time": entry.at_ns / NS,
        "type": entry.kind,
        "subtype": entry.detail if entry.kind in ("transfer", "staking") else "",
        "aclass": "currency",
        "asset": balance_id(entry.asset),
        "amount": _amount(entry.amount),
        "fee": _amount(entry.fee),
        "balance": _amount(entry.balance),
    }


def _altname(asset: str) -> str:
    return Pair(f"{asset}/USD").wsname.split("/")[0]


def _amount(value: Decimal) -> str:
    """With ten digits, which is more than anything is booked with."""
    return f"{value:.10f}"


def _fee(rate: Decimal) -> dict[str, Any]:
    percent = f"{rate * 100:.4f}"
    return {
        "fee": percent,
        "minfee": percent,
        "maxfee": percent,
        "nextfee": None,
        "nextvolume": None,
        "tiervolume": "0.0000",
    }
