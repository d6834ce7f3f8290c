"""The crash harness: each named point once with real processes, and that its laws see what they are there for."""

from __future__ import annotations

import copy
import re
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from pipeline.crash.laws import broken_laws, broken_laws_when_settled, sent_since, undecided
from pipeline.crash.plan import CELLS, CELLS_A_WORLD, each_point, rounds
from policy.execution.crashpoints import POINTS
from shared.settings import PROJECT

DEADLINE_S = 300
AT_NS = 1_750_000_100_123_456_000
AT = datetime.fromtimestamp(AT_NS // 10**9, UTC).replace(microsecond=123_456)


def test_the_sender_survives_its_death_at_each_named_point() -> None:
    """Real SIGKILLs of real senders; what must be true afterwards is the harness's to judge (exit code 1)."""
    environment = {"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8", "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "pipeline.crash", "--points", "--seed", "1"], cwd=PROJECT, env=environment,
        capture_output=True, text=True, timeout=DEADLINE_S, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    lines = re.findall(r"^ +([\d,]+)  (\w+\.\w+)$", done.stdout, re.MULTILINE)
    kills = {point: int(number) for number, point in lines}
    assert kills.keys() == set(POINTS)
    assert min(kills.values()) >= 1, done.stdout
    assert " 0 violations" in done.stdout


# --- what is played ---


def test_worlds_one_after_the_other_strike_every_cell() -> None:
    worlds = -(-len(CELLS) // CELLS_A_WORLD) + 1
    struck = {(strike.point, each.outcome) for seed in range(5, 5 + worlds) for each in rounds(seed)
              for strike in each.strikes if strike.kind == "killed" and strike.point}  # fmt: skip
    assert {(cell.point, f"{cell.endpoint} {cell.outcome}") for cell in CELLS} <= struck
    assert {cell.point for cell in CELLS} == set(POINTS)


@pytest.mark.parametrize("seed", [0, 1, 99])
def test_a_world_is_a_function_of_its_seed_and_one_of_points_has_them_all(seed: int) -> None:
    assert rounds(seed) == rounds(seed)
    assert rounds(seed) != rounds(seed + 1)
    assert {strike.point for each in each_point(seed) for strike in each.strikes} == set(POINTS)
    kinds = {strike.kind for s in range(seed, seed + 20) for each in rounds(s) for strike in each.strikes}
    assert kinds == {"killed", "paused", "database stopped", "database killed", "venue killed"}


# --- what is demanded ---


def order(number: int, client_id: str, **changes: Any) -> dict[str, Any]:
    told = {"number": number, "client_id": client_id, "symbol": "BTC/USD", "side": "buy", "type": "market",
            "state": "filled", "quantity": "0.5", "filled": "0.5", "opened_ns": AT_NS}  # fmt: skip
    return told | changes


def story() -> tuple[dict[str, Any], dict[str, list[dict[str, Any]]]]:
    """Half a bitcoin was bought and has its stop: ground truth and ledger, and they agree."""
    truth = {
        "orders": [order(1, "a"), order(2, "b", side="sell", type="stop", state="open", filled="0")],
        "fills": [{"number": 1, "order": 1, "symbol": "BTC/USD", "side": "buy", "quantity": "0.5", "price": "30000.0",
                   "cost": "15000.0000", "fee": "60.0000", "fee_asset": "USD", "at_ns": AT_NS}],
        "balances": {"USD": {"total": "84940.0000"}, "BTC": {"total": "0.5"}},
    }  # fmt: skip
    here = {"symbol": "BTC/USD", "quantity": Decimal("0.5"), "approvals": 1}
    ledger = {
        "orders": [
            here | {"id": "a", "side": "buy", "purpose": "trade", "filled": Decimal("0.5"),
                    "events": ["sending", "unknown", "accepted", "filled"]},
            here | {"id": "b", "side": "sell", "purpose": "protect", "filled": Decimal(0),
                    "events": ["sending", "accepted", "amending", "accepted"]},
        ],
        "fills": [{"client_id": "a", "symbol": "BTC/USD", "side": "buy", "quantity": Decimal("0.50000000"),
                   "price": Decimal(30_000), "cost": Decimal(15_000), "fee": Decimal(60), "fee_asset": "USD",
                   "filled_at": AT}],
        "external_fills": [],
        "money": [{"asset": "USD", "amount": Decimal(84_940)}, {"asset": "BTC", "amount": Decimal("0.5")}],
        "positions": [{"symbol": "BTC/USD", "quantity": Decimal("0.5"), "lot_size": Decimal("1e-8"),
                       "min_quantity": Decimal("0.0001"), "min_notional": Decimal("0.5")}],
        "reconciliation": [{"unmatched": 0, "findings": [], "lasting": 0}],
    }  # fmt: skip
    return truth, ledger


def test_a_true_story_breaks_no_law() -> None:
    assert broken_laws_when_settled(*story()) == []


# t: there, at the venue; h: here, in the ledger
LIES: dict[str, tuple[str, Callable[[Any, Any], object]]] = {
    "sent twice": ("is 2 orders at the venue", lambda t, _: t["orders"].append(order(3, "a"))),
    "not approved": ("no approval", lambda _, h: h["orders"][0].update(approvals=0)),
    "a stranger's order": ("no approval", lambda t, _: t["orders"].append(order(3, "z", state="canceled"))),
    "sent twice by events": ("went through", lambda _, h: h["orders"][0]["events"].insert(0, "sending")),
    "ended twice": ("went through", lambda _, h: h["orders"][0]["events"].append("canceled")),
    "a fill twice": ("never was, or twice", lambda _, h: h["fills"].append(h["fills"][0])),
    "a wrong fee": ("a fill is missing", lambda _, h: h["fills"][0].update(fee=Decimal("60.00000001"))),
    "another's fill": ("a fill is missing", lambda _, h: h["fills"][0].update(client_id="b")),
    "no fill": ("a fill is missing", lambda _, h: h["fills"].clear()),
    "another time": ("a fill is missing", lambda t, _: t["fills"][0].update(at_ns=AT_NS + 1_000)),
    "external": ("a stranger's", lambda _, h: h["external_fills"].append({"venue_trade_id": "1"})),
    "cash off by the last decimal": ("USD:", lambda _, h: h["money"][0].update(amount=Decimal("84940.00000001"))),
    "an asset nobody knows of": ("ETH:", lambda t, _: t["balances"].update(ETH={"total": "0.1"})),
    "position without trades": ("position in BTC/USD", lambda _, h: h["positions"][0].update(quantity=Decimal("0.6"))),
    "no stop": ("protected: nothing", lambda t, _: t["orders"][1].update(state="canceled")),
    "a stop too small": ("protected: 0.4", lambda t, _: t["orders"][1].update(quantity="0.4")),
    "two stops": ("protected: 0.5, 0.5", lambda t, _: t["orders"].append(order(3, "c", type="stop", state="open",
                                                                                filled="0"))),
    "a stop over nothing": ("a stop over", lambda t, _: t["orders"][1].update(symbol="ETH/USD")),
    "unknown": ("is unknown", lambda _, h: h["orders"][0].update(events=["sending", "unknown"])),
    "rejected, but there": ("is rejected", lambda _, h: h["orders"][0].update(events=["sending", "rejected"])),
    "open for us only": ("is accepted", lambda t, _: t["orders"][1].update(state="expired")),
    "never at the venue": ("not at the venue", lambda t, _: t["orders"].pop()),
    "unmatched": ("last reconciliation", lambda _, h: h["reconciliation"][0].update(unmatched=1)),
    "lasting": ("need an operator", lambda _, h: h["reconciliation"][0].update(lasting=1)),
    "never compared": ("never compared", lambda _, h: h["reconciliation"].clear()),
}  # fmt: skip


@pytest.mark.parametrize("lie", LIES)
def test_each_law_sees_what_breaks_it(lie: str) -> None:
    wanted, spoil = LIES[lie]
    truth, ledger = copy.deepcopy(story())
    spoil(truth, ledger)
    assert wanted in " | ".join(broken_laws_when_settled(truth, ledger))


def test_before_things_are_settled_a_fill_may_be_missing_but_none_may_be_invented() -> None:
    truth, ledger = story()
    ledger["fills"].clear()
    assert broken_laws(truth, ledger) == []
    truth["fills"].clear()
    assert "never was" in " | ".join(broken_laws(truth, story()[1]))


def test_dust_needs_no_stop() -> None:
    truth, ledger = story()
    for fills in (truth["fills"], ledger["fills"]):
        fills[0]["quantity"] = Decimal("0.00001")
    truth["orders"] = [order(1, "a", quantity="0.00001", filled="0.00001")]
    ledger["orders"] = [ledger["orders"][0] | {"filled": Decimal("0.00001")}]
    truth["balances"]["BTC"]["total"] = "0.00001"
    ledger["money"][1]["amount"] = ledger["positions"][0]["quantity"] = Decimal("0.00001")
    assert broken_laws_when_settled(truth, ledger) == []


def test_what_was_sent_after_a_halt_is_seen_whatever_became_of_it() -> None:
    truth, _ = story()
    truth["orders"].append(order(3, "late", opened_ns=AT_NS + 1, state="canceled"))
    assert sent_since(truth, AT_NS) == ["buy BTC/USD late"]
    assert sent_since(truth, AT_NS, "sell") == []


@pytest.mark.parametrize("state", ["sending", "unknown", "canceling", "amending", "accepted"])
def test_what_is_not_known_is_told(state: str) -> None:
    _, ledger = story()
    ledger["orders"][0]["events"] = ["sending", state]
    assert undecided(ledger["orders"]) == [f"buy BTC/USD a is {state}"]
