"""Faults of Kraken's private half: did it take effect, and did the client learn of it?"""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import krakenex
import pytest
import requests

from tests.emulator.private_world import CLIENT_ID, krakenex_of, open_account, order, refused, result, said
from tests.exchange_emulator.faults import LASTING, Rule
from tests.exchange_emulator.records import Request
from tests.exchange_emulator.rest import STRIKES
from tests.exchange_emulator.server import START, Emulator

DEADLINE = "2025-06-15T15:07:40Z"  # 30 seconds after the start
TRANSPORT = sorted(set(STRIKES) - {"late_arrival"})


@pytest.fixture
def api(emulator: Emulator) -> Iterator[krakenex.API]:
    open_account(emulator)
    running = krakenex_of(emulator)
    yield running
    running.close()


def try_to_add(api: krakenex.API, **more: Any) -> Any:
    """The answer, or None where there was none to read."""
    try:
        return api.query_private("AddOrder", order(cl_ord_id=CLIENT_ID, **more), timeout=0.3)
    except (requests.RequestException, ValueError):
        return None


def in_book(emulator: Emulator) -> int:
    return sum(found.client_id == CLIENT_ID for found in emulator.engine.view("main").orders)


@pytest.mark.parametrize("fault", TRANSPORT)
def test_before_it_nothing_took_effect_and_after_it_everything(
    emulator: Emulator, api: krakenex.API, fault: str
) -> None:
    """And the two look the same to the client: that is the trouble."""
    learned = []
    for phase, effect in (("before", 0), ("after_effect", 1)):
        emulator.faults.inject(Rule(fault, endpoint="AddOrder", phase=phase, times=1))
        answer = try_to_add(api)
        learned.append((answer or {}).get("result") or (answer or {}).get("error"))
        assert in_book(emulator) == effect
    assert learned[0] == learned[1]
    assert learned[0] in (None, [], ["EService:Unavailable"])
    assert list(result(api, "OpenOrders", cl_ord_id=CLIENT_ID)["open"])


def test_without_a_phase_only_broken_off_answers_come_after_the_effect(emulator: Emulator, api: krakenex.API) -> None:
    for fault in TRANSPORT:
        emulator.faults.inject(Rule(fault, endpoint="AddOrder", times=1))
        try_to_add(api)
        effect = in_book(emulator)
        assert effect == (fault in ("short_body", "bad_json")), fault
        emulator.engine.cancel_all("main")
        result(api, "Balance")
        emulator.engine.view("main")
        if effect:
            break


def test_a_rule_waits_for_its_nth_call_and_its_order(emulator: Emulator, api: krakenex.API) -> None:
    emulator.faults.inject(Rule("error", endpoint="AddOrder", nth=2, parameter="EGeneral:Internal error"))
    errors = [said(api, "AddOrder", **order())["error"] for _ in range(4)]
    assert errors == [[], ["EGeneral:Internal error"], [], []]
    emulator.faults.inject(Rule("error", client_id=CLIENT_ID))
    assert said(api, "AddOrder", **order())["error"] == []
    assert said(api, "AddOrder", **order(cl_ord_id=CLIENT_ID))["error"] == ["EService:Unavailable"]
    assert said(api, "CancelOrder", cl_ord_id=CLIENT_ID)["error"] == ["EService:Unavailable"]


@pytest.mark.parametrize("nonsense", [{"phase": "during"}, {"nth": 0}])
def test_a_phase_or_a_count_that_makes_no_sense_is_refused(nonsense: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        Rule("close", **nonsense)
    with pytest.raises(ValueError):
        Rule("late_arrival", phase="after_effect")
    for lasting in LASTING:
        with pytest.raises(ValueError):
            Rule(lasting, nth=1)
        with pytest.raises(ValueError):
            Rule(lasting, phase="before")


@pytest.mark.parametrize(
    ("deadline", "phase", "window", "arrives"),
    [
        ({}, None, 0, True),
        ({"deadline": DEADLINE}, None, 0, False),
        ({}, "before", 0, False),
        ({}, "before", 1_000_000, True),
    ],
)
def test_a_late_request_appears_out_of_nowhere_unless_it_had_a_deadline(
    emulator: Emulator, api: krakenex.API, deadline: dict[str, str], phase: Any, window: int, arrives: bool
) -> None:
    """Facts 2 and 7: a deadline makes not found mean never; no window of nonces stops what is late at the gate."""
    emulator.engine.accounts.change_key("krakenex", nonce_window=window)
    emulator.faults.inject(Rule("late_arrival", endpoint="AddOrder", times=1, parameter=40, phase=phase))
    assert try_to_add(api, **deadline) is None
    emulator.clock.advance(39)
    assert result(api, "OpenOrders") == {"open": {}}
    emulator.clock.advance(2)
    found = list(emulator.engine.view("main").orders)
    assert bool(found) == arrives
    assert [told.opened_ns for told in found] == [int(START + 40) * 10**9] * arrives


def test_old_answers_are_told_as_news(emulator: Emulator, api: krakenex.API) -> None:
    emulator.clock.advance(60)
    (txid,) = result(api, "AddOrder", **order(ordertype="market"))["txid"]
    emulator.clock.advance(5)
    emulator.faults.inject(Rule("stale_read", parameter=10))
    assert result(api, "Balance")["XXBT"] == "2.0000000000"
    assert result(api, "TradesHistory")["count"] == 0
    assert refused(api, "QueryOrders", txid=txid) == "EOrder:Unknown order"
    emulator.clock.advance(5)
    assert result(api, "TradesHistory")["count"] == 1
    emulator.faults.clear()
    (txid,) = result(api, "AddOrder", **order())["txid"]
    emulator.clock.advance(5)
    result(api, "CancelOrder", txid=txid)
    emulator.faults.inject(Rule("stale_read", endpoint="OpenOrders", parameter=3))
    assert list(result(api, "OpenOrders")["open"]) == [txid]  # though it is cancelled
    assert result(api, "QueryOrders", txid=txid)[txid]["status"] == "canceled"


def test_a_new_order_is_not_listed_for_a_while(emulator: Emulator, api: krakenex.API) -> None:
    emulator.faults.inject(Rule("hide_order", parameter=20, client_id=CLIENT_ID))
    (hidden,) = result(api, "AddOrder", **order(cl_ord_id=CLIENT_ID))["txid"]
    (shown,) = result(api, "AddOrder", **order())["txid"]
    assert list(result(api, "OpenOrders")["open"]) == [shown]
    emulator.clock.advance(19)
    assert result(api, "ClosedOrders", cl_ord_id=CLIENT_ID)["closed"] == {}
    assert refused(api, "QueryOrders", txid=hidden) == "EOrder:Unknown order"
    emulator.clock.advance(1)
    assert list(result(api, "OpenOrders")["open"]) == [shown, hidden]


def test_a_cancelled_order_is_filled_just_before_or_afterwards(emulator: Emulator, api: krakenex.API) -> None:
    emulator.faults.inject(Rule("fill_before_cancel", times=1))
    emulator.faults.inject(Rule("fill_after_cancel", times=1, parameter=3))
    told = []
    for _ in range(2):
        (txid,) = result(api, "AddOrder", **order())["txid"]
        assert result(api, "CancelOrder", txid=txid) == {"count": 1}
        told.append(result(api, "QueryOrders", txid=txid)[txid])
    assert [(one["status"], one["vol_exec"]) for one in told] == [
        ("canceled", "0.05000000"), ("canceled", "0.00000000"),
    ]  # fmt: skip
    emulator.clock.advance(3)
    late = result(api, "QueryOrders", txid=txid)[txid]
    assert (late["status"], late["vol_exec"]) == ("canceled", "0.05000000")
    assert result(api, "TradesHistory")["count"] == 2


@pytest.mark.parametrize(
    ("status", "adds", "posts", "cancels"),
    [
        ("cancel_only", "EService:Market in cancel_only mode", "EService:Market in cancel_only mode", None),
        ("post_only", "EService:Market in post_only mode", None, None),
        ("maintenance", "EService:Unavailable", "EService:Unavailable", "EService:Unavailable"),
    ],
)
def test_the_venues_status_decides_what_is_taken(
    emulator: Emulator, api: krakenex.API, status: str, adds: str | None, posts: str | None, cancels: str | None
) -> None:
    (txid,) = result(api, "AddOrder", **order())["txid"]
    emulator.faults.inject(Rule(status))
    assert api.query_public("SystemStatus", timeout=5)["result"]["status"] == status
    for arguments, expected in ((order(), adds), (order(oflags="post"), posts)):
        assert said(api, "AddOrder", **arguments)["error"] == ([] if expected is None else [expected])
    assert said(api, "AmendOrder", txid=txid, order_qty="0.2")["error"] == [adds]
    assert said(api, "CancelOrder", txid=txid)["error"] == ([] if cancels is None else [cancels])


def test_minimums_and_ticks_change_in_what_is_told_and_what_is_taken(emulator: Emulator, api: krakenex.API) -> None:
    emulator.faults.inject(Rule("minimum", symbol="BTC/USD", parameter=0.2))
    emulator.faults.inject(Rule("tick_size", symbol="BTC/USD"))
    pairs = api.query_public("AssetPairs", timeout=5)["result"]
    assert (pairs["XXBTZUSD"]["ordermin"], Decimal(pairs["XXBTZUSD"]["tick_size"])) == ("0.2", Decimal("0.1"))
    assert (pairs["XXBTZUSD"]["pair_decimals"], pairs["XETHZUSD"]["pair_decimals"]) == (1, 2)
    assert refused(api, "AddOrder", **order()) == "EOrder:Order minimum not met"
    assert refused(api, "AddOrder", **order(volume="0.2", price="20000.01")) == "EOrder:Tick size check failed"
    result(api, "AddOrder", **order(volume="0.2", price="20000.1"))


def test_a_delisted_pair_is_unknown_and_its_orders_can_be_cancelled(emulator: Emulator, api: krakenex.API) -> None:
    (txid,) = result(api, "AddOrder", **order())["txid"]
    emulator.faults.inject(Rule("delisting", symbol="BTC/USD"))
    assert refused(api, "AddOrder", **order()) == "EQuery:Unknown asset pair"
    assert result(api, "CancelOrder", txid=txid) == {"count": 1}


def test_a_venue_whose_clock_is_ahead_finds_the_deadline_over(emulator: Emulator, api: krakenex.API) -> None:
    result(api, "AddOrder", **order(deadline=DEADLINE))
    emulator.faults.inject(Rule("clock_skew", parameter=31))
    assert refused(api, "AddOrder", **order(deadline=DEADLINE)) == "EService:Deadline elapsed"


def test_a_row_comes_twice_when_the_pages_move(emulator: Emulator, api: krakenex.API) -> None:
    for _ in range(52):
        emulator.clock.advance(1)
        emulator.engine.place("main", Request("BTC/USD", "buy", "market", Decimal("0.001")))
    first = list(result(api, "TradesHistory")["trades"])
    emulator.faults.inject(Rule("duplicate", endpoint="TradesHistory", times=1))
    emulator.faults.inject(Rule("reorder", endpoint="TradesHistory", times=1))
    second = list(result(api, "TradesHistory", ofs=50)["trades"])
    assert second[-1] == first[-1]
    assert len(set(first) | set(second)) == 52
