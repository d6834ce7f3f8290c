"""The calls of Kraken's private REST that change orders."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from shared.clock import from_unix
from tests.exchange_emulator.kraken_ids import kraken_id, number_of
from tests.exchange_emulator.kraken_orders import (
    WORDS,
    client_id,
    deadline_ns,
    is_true,
    new_order,
    number,
    trail,
    words,
)
from tests.exchange_emulator.kraken_rest import DEFAULT_SKEW_S, INVALID, UNKNOWN_PAIR, ApiError
from tests.exchange_emulator.market import NS
from tests.exchange_emulator.records import ApiKey, Order, Refused, Request
from tests.exchange_emulator.rest import Call

if TYPE_CHECKING:
    from tests.exchange_emulator.server import Emulator

# What the engine's counter adds for an order of less than so many seconds, beside the 1 of an addition or amendment.
AMEND_COSTS = ((5, 3), (10, 2), (15, 1))
CANCEL_COSTS = ((5, 8), (10, 6), (15, 5), (45, 4), (90, 2), (300, 1))
BATCH, CANCEL_BATCH, DAY_S = (2, 15), 50, 86_400
UNKNOWN_ORDER = WORDS["unknown_order"]


class Trading:
    def __init__(self, emulator: Emulator, named: Mapping[str, str]) -> None:
        self._emulator, self._faults, self._engine, self._named = emulator, emulator.faults, emulator.engine, named

    # --- placing ---

    def add(self, key: ApiKey, call: Call) -> Any:
        request = self._request(call, call.arguments)
        if is_true(call.arguments, "validate"):
            return {"descr": {"order": self._words(self._engine.place(key.account, request, validate_only=True))}}
        order = self._place(key, request)
        return {"descr": {"order": self._words(order)}, "txid": [kraken_id("O", order.number)]}

    def add_batch(self, key: ApiKey, call: Call) -> Any:
        """All must make sense, or none is placed; then each is taken or refused by itself."""
        items = call.json.get("orders")
        if not isinstance(items, list) or not BATCH[0] <= len(items) <= BATCH[1]:
            raise ApiError(f"{INVALID}:orders")
        common = {name: text for name, text in call.arguments.items() if name in ("pair", "deadline")}
        texts = [{name: str(value) for name, value in item.items()} | common for item in items]
        requests = [self._request(call, arguments) for arguments in texts]
        if is_true(call.arguments, "validate"):
            drafts = [self._engine.place(key.account, request, validate_only=True) for request in requests]
            return {"orders": [{"descr": {"order": self._words(draft)}} for draft in drafts]}
        return {"orders": [self._item(key, request) for request in requests]}

    def _item(self, key: ApiKey, request: Request) -> dict[str, Any]:
        try:
            order = self._place(key, request)
        except Refused as refusal:
            return {"error": WORDS.get(refusal.refusal, INVALID)}
        except ApiError as error:
            return {"error": str(error)}
        return {"txid": kraken_id("O", order.number), "descr": {"order": self._words(order)}}

    def _request(self, call: Call, arguments: Mapping[str, str]) -> Request:
        symbol = self._symbol(arguments, call.endpoint)
        request = new_order(arguments, symbol, self._now_ns(call.endpoint))
        self._check_status(call.endpoint, symbol, request.post_only)
        return request

    def _place(self, key: ApiKey, request: Request) -> Order:
        self._count(key, request.symbol, 1)
        return self._engine.place(key.account, request)

    def _symbol(self, arguments: Mapping[str, str], endpoint: str) -> str:
        symbol = self._named.get(arguments.get("pair", "").upper())
        delisted = None if symbol is None else self._faults.active("delisting", symbol, "rest", endpoint)
        if delisted is not None:
            self._faults.spend(delisted)
        if symbol is None or delisted is not None:
            raise ApiError(UNKNOWN_PAIR)
        return symbol

    # --- changing ---

    def amend(self, key: ApiKey, call: Call) -> Any:
        """Keeps the order's id; a trailing stop's ``trigger_price`` is its new distance."""
        order = self._one(key, call.arguments)
        self._check_status(call.endpoint, order.symbol, order.post_only)
        self._count(key, order.symbol, 1 + self._young(order, AMEND_COSTS))
        trigger = call.arguments.get("trigger_price")
        trails = order.type == "trailing_stop"
        changed = self._engine.amend(
            key.account, order.number, number(call.arguments, "order_qty"), number(call.arguments, "limit_price"),
            None if trails else number(call.arguments, "trigger_price"),
            trail(trigger) if trails and trigger is not None else None,
            deadline_ns(call.arguments, self._now_ns(call.endpoint)),
        )  # fmt: skip
        return {"amend_id": kraken_id("Q", changed.number * NS + changed.changed_ns % NS)}

    def cancel(self, key: ApiKey, call: Call) -> Any:
        """By txid, by cl_ord_id, or all with a userref."""
        self._check_running(call.endpoint)
        text = call.arguments.get("txid", "")
        if text.lstrip("-").isdigit():
            found = [o for o in self._open(key) if o.userref == int(text)]
        else:
            found = [self._one(key, call.arguments)]
        if not found:
            raise ApiError(UNKNOWN_ORDER)
        return {"count": len([self._cancel(key, order) for order in found])}

    def cancel_batch(self, key: ApiKey, call: Call) -> Any:
        self._check_running(call.endpoint)
        asked = [{"txid": str(item)} for item in call.json.get("orders", ())]
        asked += [{"cl_ord_id": str(item)} for item in call.json.get("cl_ord_ids", ())]
        if not 1 <= len(asked) <= CANCEL_BATCH:
            raise ApiError(f"{INVALID}:orders")
        return {"count": len([self._cancel(key, order) for order in [self._one(key, item) for item in asked]])}

    def cancel_all(self, key: ApiKey, call: Call) -> Any:
        self._check_running(call.endpoint)
        return {"count": len(self._engine.cancel_all(key.account))}

    def cancel_all_after(self, key: ApiKey, call: Call) -> Any:
        timeout_s = number(call.arguments, "timeout")
        if timeout_s is None or not 0 <= timeout_s <= DAY_S:
            raise ApiError(f"{INVALID}:timeout")
        at_ns = self._engine.cancel_all_after(key.account, float(timeout_s))
        return {
            "currentTime": _rfc3339(self._engine.now_ns()),
            "triggerTime": "0" if at_ns is None else _rfc3339(at_ns),
        }

    def _cancel(self, key: ApiKey, order: Order) -> Order:
        self._count(key, order.symbol, self._young(order, CANCEL_COSTS))
        return self._engine.cancel(key.account, order.number)

    def _one(self, key: ApiKey, arguments: Mapping[str, str]) -> Order:
        """The one open order that is named by txid or cl_ord_id."""
        wanted = number_of("O", arguments.get("txid", ""))
        known, _ = client_id({"cl_ord_id": arguments["cl_ord_id"]}) if "cl_ord_id" in arguments else (None, None)
        found = [o for o in self._open(key) if o.number == wanted or (known is not None and o.client_id == known)]
        if not found:
            raise ApiError(UNKNOWN_ORDER)
        return found[0]

    def _open(self, key: ApiKey) -> list[Order]:
        return self._engine.open_orders(key.account)

    # --- the venue's state ---

    def _check_running(self, endpoint: str) -> None:
        self._check(endpoint, None, "maintenance", "EService:Unavailable")

    def _check_status(self, endpoint: str, symbol: str, is_post_only: bool) -> None:
        self._check_running(endpoint)
        self._check(endpoint, symbol, "cancel_only", "EService:Market in cancel_only mode")
        if not is_post_only:
            self._check(endpoint, symbol, "post_only", "EService:Market in post_only mode")

    def _check(self, endpoint: str, symbol: str | None, fault: str, words: str) -> None:
        rule = self._faults.active(fault, symbol, "rest", endpoint)
        if rule is not None:
            self._faults.spend(rule)
            raise ApiError(words)

    def _count(self, key: ApiKey, symbol: str, cost: int) -> None:
        if not self._emulator.kraken_orders.admit((key.account, symbol), cost):
            raise ApiError("EOrder:Rate limit exceeded")

    def _young(self, order: Order, costs: tuple[tuple[int, int], ...]) -> int:
        age_s = (self._engine.now_ns() - order.changed_ns) / NS
        return next((cost for limit_s, cost in costs if age_s < limit_s), 0)

    def _now_ns(self, endpoint: str) -> int:
        """As the venue's clock has it, which may be wrong."""
        rule = self._faults.active("clock_skew", None, "rest", endpoint)
        if rule is None:
            return self._engine.now_ns()
        self._faults.spend(rule)
        return self._engine.now_ns() + int(float(DEFAULT_SKEW_S if rule.parameter is None else rule.parameter) * NS)

    def _words(self, order: Order) -> str:
        return words(order, self._emulator.market.price_decimals(order.symbol))


def _rfc3339(at_ns: int) -> str:
    return f"{from_unix(at_ns // NS):%Y-%m-%dT%H:%M:%SZ}"
