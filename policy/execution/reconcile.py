"""Compares our ledger with the account: every balance, every order, every fill. `make reconcile` prints it.

Input: everything the sender wrote, the venue. Output: reconciliations. Nothing is corrected: what does not match keeps
entries away until a later comparison is clean.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from decimal import Decimal

from psycopg.types.json import Json

from policy.execution.account import OVERLAP_S, connected_at, own_id, read_account, read_flows
from policy.execution.desk import LASTING, Desk
from policy.execution.venues.protocol import Balance

TOLERANCE = Decimal("0.0000001")  # what venues that count finer than 1e-8 may be apart by
LOOKS_BACK = timedelta(hours=24)


def is_due(desk: Desk) -> bool:
    newest = desk.ask_one("newest_reconciliation")
    every = timedelta(seconds=desk.settings.execution.reconcile_every_s)
    late = newest is None or desk.now() - newest["recorded_at"] >= every
    return late or bool(newest and newest["unmatched"]) or bool(desk.findings)


def reconcile(desk: Desk) -> int:
    """Writes one row; the number of things that do not match. CouldNotAsk: nothing is compared."""
    read_flows(desk)
    balances = desk.venue.balances()
    differing = _compare_balances(desk, balances)
    if differing:  # a trade between two answers is no mismatch, nor is one that was listed late: a second, longer look
        read_account(desk, first_compared(desk), doubted=True)
        read_flows(desk, doubted=True)
        balances = desk.venue.balances()
        differing = _compare_balances(desk, balances)
    for asset, (ours, theirs) in differing.items():
        desk.find("balance", asset, ours, theirs)
    for row in desk.ask("unmanaged"):
        if row["amount"] < -TOLERANCE:  # somebody else sold or spent what is the wallet's
            desk.find("balance", f"unmanaged {row['asset']}", row["amount"], "0 or more")
    matched = len(_ours(desk).keys() | balances.keys()) - len(differing) + _compare_orders(desk)
    findings = [*desk.findings, *desk.key_findings]
    unmatched, lasting = len(findings), any(f["kind"] in LASTING for f in findings)
    row = {"matched": matched, "unmatched": unmatched, "findings": Json(findings), "at": desk.now(), "lasting": lasting}
    desk.write("insert_reconciliation", **row)
    desk.count("reconciliations")
    if unmatched:
        told = "; ".join(f"{f['what']}: {f['ours']} here, {f['theirs']} there" for f in findings)
        desk.alert("critical", "reconciliation", f"{unmatched} do not match ({told}). No entries until they do")
    desk.findings = []
    return unmatched


def _ours(desk: Desk) -> dict[str, Decimal]:
    """What our ledger says that the account has, by asset: what is managed and what is not."""
    unmanaged, (cash,), holdings = desk.ask_together("unmanaged", "cash", "holdings", now=desk.now())
    total: dict[str, Decimal] = {row["asset"]: row["amount"] for row in unmanaged}
    quote = desk.wallet["quote"]
    total[quote] = total.get(quote, Decimal(0)) + cash["amount"]
    for holding in holdings:
        base = holding["symbol"].partition("/")[0]
        total[base] = total.get(base, Decimal(0)) + holding["quantity"]
    return total


def _compare_balances(desk: Desk, balances: Mapping[str, Balance]) -> dict[str, tuple[Decimal, Decimal]]:
    ours, nothing = _ours(desk), Decimal(0)
    theirs = {asset: balance.total for asset, balance in balances.items()}
    return {
        asset: (ours.get(asset, nothing), theirs.get(asset, nothing))
        for asset in sorted(ours.keys() | theirs.keys())
        if abs(ours.get(asset, nothing) - theirs.get(asset, nothing)) > TOLERANCE
    }


def first_compared(desk: Desk) -> float:
    """From when on ended orders are compared, Unix seconds."""
    return max(connected_at(desk), (desk.now() - LOOKS_BACK).timestamp()) - OVERLAP_S


def _compare_orders(desk: Desk) -> int:
    """Each order that ended within LOOKS_BACK, or still works, against what the venue lists of it; how many agree."""
    first, (listed_from, told_orders) = first_compared(desk), desk.listed or (float("inf"), ())
    if listed_from > first:
        told_orders = (*desk.venue.open_orders(), *desk.venue.closed_orders(first))
    listed = {own_id(o.client_id): o for o in told_orders}
    agreed = 0
    for order in desk.ask("ended_orders", since=desk.now() - LOOKS_BACK):
        told = listed.get(order["order_id"])
        if order["event"] == "rejected":
            if told is not None:
                desk.find(
                    "order", f"order {order['order_id']}", "never accepted", f"{told.state}, {told.filled} filled"
                )
            continue
        if told is None:
            desk.find("order", f"order {order['order_id']}", order["event"], "not listed")
        elif told.filled != order["filled"] or told.state == "open":
            desk.find("order", f"order {order['order_id']}", f"{order['event']}, {order['filled']} filled",
                      f"{told.state}, {told.filled} filled")  # fmt: skip
        else:
            agreed += 1
        if order["filled"] > order["ordered"]:
            desk.find(
                "overfill", f"order {order['order_id']}", f"{order['ordered']} ordered", f"{order['filled']} filled"
            )
    for order in desk.ask("open_orders"):
        told = listed.get(order["order_id"])
        agreed += told is not None and told.state == "open" and told.filled == order["filled"]
    return agreed
