"""What must be true after every round, by the venue's own ground truth: each function tells what is not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

from policy.execution.order_states import FINAL
from shared.clock import to_unix

Row = Mapping[str, Any]
Truth = Mapping[str, Any]
PENDING = ("sending", "unknown", "canceling", "amending")
MICROSECOND_NS = 1_000
SAME_END = {"filled": "filled", "canceled": "canceled", "expired": "expired"}


def broken_laws(truth: Truth, ledger: Mapping[str, Sequence[Row]]) -> list[str]:
    """At any moment, settled or not. ``ledger``: rows of the queries of the same names."""
    return [*_sent_once(truth, ledger["orders"]), *_nothing_invented(truth, ledger)]


def broken_laws_when_settled(truth: Truth, ledger: Mapping[str, Sequence[Row]]) -> list[str]:
    """Once everything had the time to become known."""
    return [
        *broken_laws(truth, ledger),
        *_every_fill(truth, ledger),
        *_same_ends(truth, ledger["orders"]),
        *_same_money(truth, ledger),
        *unprotected(truth, ledger["positions"]),
        *_reconciled(ledger["reconciliation"]),
    ]


def undecided(orders: Sequence[Row]) -> list[str]:
    """Orders whose fate is not known, and market orders that still may trade."""
    return [
        f"{order['side']} {order['symbol']} {order['id']} is {order['events'][-1]}"
        for order in orders
        if order["events"]
        and (order["events"][-1] in PENDING or (order["purpose"] != "protect" and order["events"][-1] == "accepted"))
    ]


def sent_since(truth: Truth, since_ns: int, side: str | None = None) -> list[str]:
    """Orders that came to the venue after a moment."""
    return [
        f"{order['side']} {order['symbol']} {order['client_id']}"
        for order in truth["orders"]
        if order["opened_ns"] > since_ns and side in (None, order["side"])
    ]


def _sent_once(truth: Truth, orders: Sequence[Row]) -> list[str]:
    """At most one accepted order an intent, and none that approve() did not let through."""
    approved = {str(order["id"]): order["approvals"] for order in orders}
    wrong = [f"intent {client_id} is {number} orders at the venue" for client_id, number in
             Counter(order["client_id"] for order in truth["orders"]).items() if number > 1]  # fmt: skip
    wrong += [f"order {order['number']} ({order['client_id']}) has no approval" for order in truth["orders"]
              if approved.get(order["client_id"], 0) != 1]  # fmt: skip
    for order in orders:
        events = order["events"]
        if events.count("sending") > 1 or sum(event in FINAL for event in events) > 1:
            wrong.append(f"order {order['id']} went through {', '.join(events)}")
    return wrong


def _trades(truth: Truth) -> Counter[tuple[Any, ...]]:
    client_ids = {order["number"]: order["client_id"] for order in truth["orders"]}
    return Counter(
        (client_ids[fill["order"]], fill["symbol"], fill["side"], *(Decimal(fill[n]) for n in
         ("quantity", "price", "cost", "fee")), fill["fee_asset"], fill["at_ns"] // MICROSECOND_NS)
        for fill in truth["fills"]
    )  # fmt: skip


def _recorded(fills: Sequence[Row]) -> Counter[tuple[Any, ...]]:
    return Counter(
        (fill["client_id"], fill["symbol"], fill["side"], fill["quantity"], fill["price"], fill["cost"], fill["fee"],
         fill["fee_asset"], to_unix(fill["filled_at"]) * 1_000_000 + fill["filled_at"].microsecond)
        for fill in fills
    )  # fmt: skip


def _nothing_invented(truth: Truth, ledger: Mapping[str, Sequence[Row]]) -> list[str]:
    surplus = _recorded(ledger["fills"]) - _trades(truth)
    return [f"a fill that never was, or twice: {trade}" for trade in surplus]


def _every_fill(truth: Truth, ledger: Mapping[str, Sequence[Row]]) -> list[str]:
    missing = _trades(truth) - _recorded(ledger["fills"])
    strange = [f"trade {f['venue_trade_id']} was taken for a stranger's" for f in ledger["external_fills"]]
    return [*(f"a fill is missing: {trade}" for trade in missing), *strange]


def _same_ends(truth: Truth, orders: Sequence[Row]) -> list[str]:
    """What the ledger says of each order is what the venue has; what it calls rejected the venue never had."""
    theirs = {order["client_id"]: order for order in truth["orders"]}
    wrong = []
    for order in orders:
        real, last = theirs.get(str(order["id"])), order["events"][-1] if order["events"] else "intended"
        if real is None:
            ok = last in ("intended", "rejected") or (last in FINAL and "sending" not in order["events"])
        else:
            ok = last == ("accepted" if real["state"] == "open" else SAME_END[real["state"]])
            ok = ok and order["filled"] == Decimal(real["filled"])
        if not ok:
            told = "not at the venue" if real is None else f"{real['state']}, {real['filled']} filled"
            wrong.append(f"order {order['id']} is {last}, {order['filled']} filled here, and {told}")
    return [*wrong, *undecided(orders)]


def _same_money(truth: Truth, ledger: Mapping[str, Sequence[Row]]) -> list[str]:
    """Every balance is the venue's to the last decimal, and each position the sum of its real trades."""
    ours = {row["asset"]: row["amount"] for row in ledger["money"]}
    theirs = {asset: Decimal(balance["total"]) for asset, balance in truth["balances"].items()}
    wrong = [
        f"{asset}: {ours.get(asset, 0)} here, {theirs.get(asset, 0)} at the venue"
        for asset in sorted(ours.keys() | theirs.keys())
        if ours.get(asset, Decimal(0)) != theirs.get(asset, Decimal(0))
    ]
    traded: Counter[str] = Counter()
    for fill in truth["fills"]:
        in_base = Decimal(fill["fee"]) if fill["fee_asset"] == fill["symbol"].partition("/")[0] else Decimal(0)
        quantity = Decimal(fill["quantity"]) * (1 if fill["side"] == "buy" else -1) - in_base
        traded[fill["symbol"]] += quantity  # type: ignore[assignment]
    held = {row["symbol"]: row["quantity"] for row in ledger["positions"]}
    wrong += [
        f"position in {symbol}: {held.get(symbol, 0)} here, {traded[symbol]} traded"
        for symbol in sorted(held.keys() | traded.keys())
        if held.get(symbol, Decimal(0)) != traded[symbol]
    ]
    return wrong


def unprotected(truth: Truth, positions: Sequence[Row]) -> list[str]:
    """Each position above dust has one stop of just its size, and nothing else has any."""
    stops: dict[str, list[Decimal]] = {}
    for order in truth["orders"]:
        if order["state"] == "open" and order["type"] in ("stop", "trailing_stop"):
            stops.setdefault(order["symbol"], []).append(Decimal(order["quantity"]) - Decimal(order["filled"]))
    wrong = []
    for row in positions:
        mine = stops.pop(row["symbol"], [])
        whole = row["quantity"] // row["lot_size"] * row["lot_size"]
        if mine != [whole] and not (mine == [] and is_dust(row, whole, truth)):
            told = ", ".join(map(str, mine)) or "nothing"
            wrong.append(f"{row['symbol']}: {row['quantity']} held, protected: {told}")
    return wrong + [f"{symbol}: nothing held, a stop over {rest}" for symbol, rest in stops.items()]


def is_dust(row: Row, whole: Decimal, truth: Truth) -> bool:
    """Too little for an order at the price of the newest trade there."""
    prices = [Decimal(fill["price"]) for fill in truth["fills"] if fill["symbol"] == row["symbol"]]
    return bool(whole < row["min_quantity"] or whole * prices[-1] < 2 * row["min_notional"])


def unmatched(rows: Sequence[Row]) -> list[str]:
    """What the newest comparison of ledger and account found."""
    if not rows:
        return ["ledger and account were never compared"]
    return [f"the last reconciliation found {rows[0]['findings']}"] if rows[0]["unmatched"] else []


def _reconciled(rows: Sequence[Row]) -> list[str]:
    """What heals by itself has healed, and nothing ever needed an operator."""
    lasting = rows[0]["lasting"] if rows else 0
    return unmatched(rows) + ([f"{lasting} reconciliations need an operator"] if lasting else [])
