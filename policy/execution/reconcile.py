"""Compares our ledger with the account: every balance, every order, every fill. `make reconcile` prints it.

Input: everything the sender wrote, the venue. Output: reconciliations. Nothing is corrected: what does not match keeps
entries away until a later comparison is clean.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
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
    balances, ledger = desk.venue.balances(), _ledger(desk)
    differing = ledger.differing(balances)
    if differing:  # a trade between two answers is no mismatch, nor is one that was listed late: a second, longer look
        read_account(desk, first_compared(desk), doubted=True)
        read_flows(desk, doubted=True)
        balances, ledger = desk.venue.balances(), _ledger(desk)
        differing = ledger.differing(balances)
    for asset, (ours, theirs) in differing.items():
        desk.find("balance", asset, ours, theirs)
    for asset, amount in ledger.unmanaged.items():
        if amount < -TOLERANCE:  # somebody else sold or spent what is the wallet's
            desk.find("balance", f"unmanaged {asset}", amount, "0 or more")
    matched = len(ledger.total.keys() | balances.keys()) - len(differing) + _compare_orders(desk)
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


@dataclass(frozen=True, slots=True)
class Ledger:
    """What our rows say that the account has, by asset: ``total``, of which ``unmanaged`` is not the wallet's."""

    total: Mapping[str, Decimal]
    unmanaged: Mapping[str, Decimal]

    def differing(self, balances: Mapping[str, Balance]) -> dict[str, tuple[Decimal, Decimal]]:
        """(ours, the venue's) of each asset that they do not agree on."""
        nothing, theirs = Decimal(0), {asset: balance.total for asset, balance in balances.items()}
        return {
            asset: (self.total.get(asset, nothing), theirs.get(asset, nothing))
            for asset in sorted(self.total.keys() | theirs.keys())
            if abs(self.total.get(asset, nothing) - theirs.get(asset, nothing)) > TOLERANCE
        }


def _ledger(desk: Desk) -> Ledger:
    rows, (cash,), holdings = desk.ask_together("unmanaged", "cash", "holdings", now=desk.now())
    unmanaged: dict[str, Decimal] = {row["asset"]: row["amount"] for row in rows}
    total, quote = dict(unmanaged), desk.wallet["quote"]
    total[quote] = total.get(quote, Decimal(0)) + cash["amount"]
    for holding in holdings:
        base = holding["symbol"].partition("/")[0]
        total[base] = total.get(base, Decimal(0)) + holding["quantity"]
    return Ledger(total, unmanaged)


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
