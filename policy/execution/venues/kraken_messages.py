"""What is said to Kraken about orders, and what it says of orders, trades, ledger entries, balances and keys.

Field names and shapes: docs.kraken.com/api-reference (trading, account-data). Parsers raise TypeError, ValueError,
LookupError or ArithmeticError for what they do not understand; nothing is guessed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, cast

from policy.execution.venues.protocol import (
    Balance,
    FlowKind,
    KeyRights,
    LedgerEntry,
    NewOrder,
    OrderType,
    Side,
    VenueFill,
    VenueOrder,
    VenueState,
)
from shared.clock import from_unix
from shared.exchanges.kraken_pairs import KRAKEN_NAMES, Pair, common_asset

Row = Mapping[str, Any]

ORDER_TYPES: dict[OrderType, str] = {
    "market": "market", "limit": "limit", "stop": "stop-loss", "take_profit": "take-profit",
    "trailing_stop": "trailing-stop",
}  # fmt: skip
NEEDS: dict[OrderType, str] = {
    "limit": "limit_price", "stop": "stop_price", "take_profit": "stop_price", "trailing_stop": "trail",
}  # fmt: skip
PRICES = ("limit_price", "stop_price", "trail")
STATES: dict[str, VenueState] = {
    "pending": "open", "open": "open", "closed": "filled", "canceled": "canceled", "expired": "expired",
}  # fmt: skip
FLOWS: dict[str, FlowKind] = {
    "trade": "trade", "deposit": "deposit", "withdrawal": "withdrawal", "transfer": "transfer",
    "staking": "staking", "earn": "staking",
}  # fmt: skip
MAY_TRADE, WITHDRAW = "modify-trades", "withdraw"


class Unplaceable(ValueError):
    """An order that cannot be said to Kraken as it is meant."""


@dataclass(slots=True)
class Names:
    """Kraken's names for things, as far as they were ever seen; what is delisted keeps its name."""

    assets: dict[str, str] = field(default_factory=dict)  # XXBT -> BTC
    symbols: dict[str, str] = field(default_factory=dict)  # XXBTZUSD and XBTUSD -> BTC/USD
    pair_ids: dict[str, str] = field(default_factory=dict)  # BTC/USD -> XXBTZUSD

    def learn(self, assets: Mapping[str, str], pairs: Mapping[str, Pair], symbols: Sequence[str]) -> None:
        """``symbols``: our own, whose orders and trades must be known by name when the pair is listed no more."""
        self.assets |= assets
        self.pair_ids |= {symbol: pair.id for symbol, pair in pairs.items()}
        self.symbols |= {name: symbol for symbol, pair in pairs.items() for name in pair.names}
        ids = {name: asset_id for asset_id, name in assets.items()}
        for symbol in symbols:
            base, quote = symbol.split("/")
            for spelled in (ids, KRAKEN_NAMES):
                self.symbols.setdefault(spelled.get(base, base) + spelled.get(quote, quote), symbol)

    def asset(self, asset_id: str) -> str:
        return self.assets.get(asset_id) or common_asset(asset_id)


def is_tradable(asset: str) -> bool:
    """Not staked (.S), not in a product that earns (.B, .F, .M), not on hold (.HOLD)."""
    return "." not in asset


# --- what is said ---


def add_order(order: NewOrder, pair_id: str) -> dict[str, str]:
    """The arguments of AddOrder. The fee is always taken in quote (fciq): the default of sells is base.

    Unplaceable where a price is missing, or one would be left out silently.
    """
    _check(order)
    flags = ["post", "fciq"] if order.post_only else ["fciq"]
    said = {
        "pair": pair_id,
        "type": order.side,
        "ordertype": ORDER_TYPES[order.type],
        "volume": f"{order.quantity:f}",
        "cl_ord_id": str(order.client_id),
        "oflags": ",".join(flags),
    }
    if order.type == "limit":
        said |= {"price": f"{order.limit_price:f}", "timeinforce": order.time_in_force.upper()}
    elif order.type == "trailing_stop":
        said |= {"price": f"+{(cast(Decimal, order.trail) * 100).normalize():f}%", "trigger": "last"}
    elif order.type != "market":
        said |= {"price": f"{order.stop_price:f}", "trigger": "last"}
    if order.deadline is not None:
        said["deadline"] = deadline_of(order.deadline)
    return said


def deadline_of(moment: float) -> str:
    return f"{from_unix(moment):%Y-%m-%dT%H:%M:%S.%fZ}"


def _check(order: NewOrder) -> None:
    given = {name: getattr(order, name) for name in PRICES if getattr(order, name) is not None}
    needed = {NEEDS[order.type]} if order.type in NEEDS else set()
    if given.keys() != needed:
        wants = " and ".join(sorted(needed)) or "no price"
        raise Unplaceable(f"a {order.type} order takes {wants}, not {', '.join(given) or 'none'}")
    for name, amount in {"quantity": order.quantity, **given}.items():
        if not (amount.is_finite() and amount > 0):
            raise Unplaceable(f"a {name} of {amount}")
    if order.type != "limit" and (order.post_only or order.time_in_force != "gtc"):
        raise Unplaceable(f"a {order.type} order can be neither post-only nor {order.time_in_force}")
    if order.post_only and order.time_in_force != "gtc":
        raise Unplaceable(f"a post-only order cannot be {order.time_in_force}")


# --- what is told ---


def amount_of(value: Any) -> Decimal:
    """A finite number, as text or as a JSON number (which is parsed as Decimal, never as float)."""
    if isinstance(value, bool) or not isinstance(value, str | int | Decimal):
        raise TypeError(f"{value!r} is no amount")
    amount = Decimal(value)
    if not amount.is_finite():
        raise ValueError(f"{value!r} is no amount")
    return amount


def moment_of(value: Any) -> float:
    """Unix seconds."""
    return float(amount_of(value))


def side_of(value: Any) -> Side:
    if value not in ("buy", "sell"):
        raise ValueError(f"{value!r} is no side")
    return cast(Side, value)


def parse_order(txid: str, row: Row, names: Names) -> VenueOrder:
    """Of OpenOrders, ClosedOrders or QueryOrders. ``closed`` with less filled than ordered ended early."""
    told, pair = row["descr"], str(row["descr"]["pair"])
    state, quantity, filled = STATES[row["status"]], amount_of(row["vol"]), amount_of(row["vol_exec"])
    closed_at = None if state == "open" else moment_of(row["closetm"])
    return VenueOrder(
        venue_order_id=txid,
        client_id=row.get("cl_ord_id") or None,
        symbol=names.symbols.get(pair, pair),
        side=side_of(told["type"]),
        state="canceled" if state == "filled" and filled < quantity else state,
        quantity=quantity,
        filled=filled,
        stop_price=_stop_price(row),
        opened_at=moment_of(row["opentm"]),
        closed_at=closed_at,
        detail=" ".join(str(word) for word in (told["ordertype"], row["status"], row.get("reason")) if word),
    )


def _stop_price(row: Row) -> Decimal | None:
    """The trigger: as it was ordered, or where a trailing one stands now."""
    kind = str(row["descr"]["ordertype"])
    if kind.startswith("trailing-stop"):
        price = amount_of(row.get("stopprice") or 0)
    elif kind.startswith(("stop-loss", "take-profit")):
        price = amount_of(row["descr"]["price"])
    else:
        return None
    return price if price > 0 else None


def parse_entry(entry_id: str, row: Row, names: Names) -> LedgerEntry:
    kind, subtype = str(row["type"]), str(row.get("subtype") or "")
    return LedgerEntry(
        id=entry_id,
        kind="staking" if "staking" in subtype else FLOWS.get(kind, "other"),
        asset=names.asset(row["asset"]),
        amount=amount_of(row["amount"]),
        fee=amount_of(row["fee"]),
        at=moment_of(row["time"]),
        reference=str(row["refid"]),
        detail=f"{kind} {subtype}".strip(),
    )


def parse_fill(trade_id: str, row: Row, legs: Sequence[LedgerEntry], names: Names) -> VenueFill | None:
    """A trade of TradesHistory with what really moved for it: its ledger entries, an asset each.

    None while one of the two is not there yet. TradesHistory itself truncates the cost to the pair's decimals.
    """
    side, moved, fees = side_of(row["type"]), dict[str, Decimal](), dict[str, Decimal]()
    for leg in legs:
        asset = leg.asset.partition(".")[0]
        moved[asset] = moved.get(asset, Decimal(0)) + leg.amount
        fees[asset] = fees.get(asset, Decimal(0)) + leg.fee
    symbol = names.symbols.get(row["pair"]) or _symbol_by_legs(moved, side)
    base, _, quote = symbol.partition("/")
    if base not in moved or quote not in moved:
        return None
    paid = {asset: fee for asset, fee in fees.items() if fee} or {quote: Decimal(0)}
    if len(paid) > 1:
        raise ValueError(f"fees in {' and '.join(paid)} for one trade")
    ((fee_asset, fee),) = paid.items()
    return VenueFill(
        venue_trade_id=trade_id,
        venue_order_id=str(row["ordertxid"]),
        symbol=symbol,
        side=side,
        quantity=abs(moved[base]),
        price=amount_of(row["price"]),
        cost=abs(moved[quote]),
        fee=fee,
        fee_asset=fee_asset,
        filled_at=moment_of(row["time"]),
    )


def _symbol_by_legs(moved: Mapping[str, Decimal], side: Side) -> str:
    """BASE/QUOTE of a pair that is listed no more: a buy brought the base in and took the quote out."""
    sign = 1 if side == "buy" else -1
    base = next((asset for asset, amount in moved.items() if amount * sign > 0), "")
    quote = next((asset for asset, amount in moved.items() if amount * sign < 0), "")
    return f"{base}/{quote}"


def parse_balances(result: Row, names: Names) -> dict[str, Balance]:
    """Of BalanceEx; without what cannot be traded (reliability fault 20)."""
    balances: dict[str, Balance] = {}
    for asset_id, row in result.items():
        asset = names.asset(asset_id)
        if is_tradable(asset):
            balances[asset] = Balance(amount_of(row["balance"]), amount_of(row["hold_trade"]))
    return balances


def parse_rights(result: Row) -> KeyRights:
    """Of GetApiKeyInfo. Any permission that speaks of withdrawing counts as the right to."""
    permissions = result["permissions"]
    if not isinstance(permissions, list) or not all(isinstance(permission, str) for permission in permissions):
        raise TypeError(f"permissions {permissions!r}")
    window, addresses = result.get("nonceWindow"), result.get("ipAllowlist")
    return KeyRights(
        trade=MAY_TRADE in permissions,
        withdraw=any(WITHDRAW in permission.lower() for permission in permissions),
        ip_restricted=None if addresses is None else bool(addresses),
        nonce_window=None if window is None else int(window),
    )
