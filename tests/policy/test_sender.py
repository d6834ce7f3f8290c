"""The sender: what the paper venue does with an order, when, at which price, and what it refuses."""

from __future__ import annotations

import subprocess
import sys
from datetime import timedelta
from decimal import ROUND_DOWN, Decimal
from typing import Any

import numpy as np
import pytest
from psycopg.errors import CheckViolation

from policy.execution import paper_sender
from shared.clock import from_unix, to_unix
from shared.money import to_float
from shared.settings import PROJECT, Settings
from shared.simulation import kernel
from tests.helpers import NOON, DatabaseFor, random_candles
from tests.policy.paper_world import EVENTS, FIVE, HOUR, MINUTE, A, B, PaperMarket, at, candles, opened

pytestmark = pytest.mark.usefixtures("rolled_back")

OPENS = [100 + 0.25 * n for n in range(36)]  # 12:00, 12:05, … 14:55
BEFORE = candles(NOON - 10 * MINUTE, FIVE, [100.0, 100.0])


@pytest.fixture
def market(database_for: DatabaseFor, settings: Settings) -> PaperMarket:
    return PaperMarket(database_for, settings)


@pytest.fixture
def a(market: PaperMarket) -> int:
    market.store(A, FIVE, BEFORE)
    return market.store(A, FIVE, candles(NOON, FIVE, OPENS))


@pytest.fixture
def wallet(market: PaperMarket, a: int) -> int:
    market.store(B, FIVE, BEFORE)
    return market.wallet("w", NOON)


@pytest.mark.parametrize(
    ("not_before", "accepted", "opens"),
    [
        ("12:02", "12:02:30", "12:05"),
        ("12:05", "12:05", "12:05"),  # at, not after
        ("12:05", "12:05:01", "12:10"),
        ("12:02", "12:17", "12:20"),  # a late sender gets no candle that opened before it asked
        ("12:30", "12:02:30", "12:30"),  # an early one waits for the delay
        ("12:30:01", "12:02:30", "12:35"),
    ],
)
def test_an_order_fills_at_the_open_of_the_first_candle_after_the_delay_and_its_acceptance(
    market: PaperMarket, wallet: int, a: int, not_before: str, accepted: str, opens: str
) -> None:
    order = market.order(wallet, a, "buy", "2", at(not_before))
    assert market.send(at(accepted)).result == {"accepted": 1}
    closes = at(opens) + 5 * MINUTE
    assert market.send(closes - timedelta(seconds=1)).status == "nothing"
    assert market.send(closes).result == {"filled": 1}
    (fill,) = market.fills()
    assert opened(fill) == opens
    reference = OPENS[int((at(opens) - NOON) / (5 * MINUTE))]
    assert to_float(fill["price"]) == kernel.market_price(True, reference, 5.0, 0.01)
    events = [row for row in market.rows(EVENTS) if row["order_id"] == order]
    assert [(e["event"], e["at"]) for e in events] == [("accepted", at(accepted)), ("filled", at(opens))]


def test_an_order_waits_for_the_candle_and_takes_the_next_where_one_is_missing(
    market: PaperMarket, wallet: int, a: int
) -> None:
    market.database_for("owner").execute("DELETE FROM market_data WHERE as_of = %(gone)s", {"gone": at("12:10")})
    market.order(wallet, a, "buy", "2")
    market.send(at("12:02"))
    assert market.send(at("12:14")).status == "nothing"
    market.send(at("12:15"))
    assert opened(market.fills()[0]) == "12:10"


def test_a_fill_waits_for_the_base_timeframe_whatever_other_candles_there_are(
    market: PaperMarket, wallet: int, a: int
) -> None:
    market.store(A, 60, candles(NOON, 60, [90.0] * 10))
    market.database_for("owner").execute("UPDATE instruments SET base_timeframe_s = 300")
    market.order(wallet, a, "buy", "2")
    market.send(at("12:02"))
    market.send(at("12:10"))
    assert to_float(market.fills()[0]["price"]) == kernel.market_price(True, 100.25, 5.0, 0.01)


def refusal(market: PaperMarket, wallet: int, a: int, cause: str) -> Any:
    """An order that must not be sent, for this cause."""
    if cause == "paused":
        market.command(NOON, "pause")
    if cause == "not on the allow-list":
        cli = market.database_for("cli")
        cli.execute("UPDATE limits SET symbols = %(s)s WHERE wallet_id = %(w)s", {"s": [B], "w": wallet})
    changes: dict[str, Any] = {
        "deadline has passed": {"not_before": NOON - HOUR, "deadline": at("12:02")},
        "notional above the limit": {"quantity": "1001"},
        "sells more than is held": {"side": "sell"},
        "not near the newest close": {"price": 80.0},
    }.get(cause, {})
    return market.order(**{"wallet": wallet, "instrument": a, "side": "buy", "quantity": "2"} | changes)


@pytest.mark.parametrize(
    "cause",
    [
        "paused", "not on the allow-list", "deadline has passed", "notional above the limit",
        "sells more than is held", "not near the newest close",
    ],
)  # fmt: skip
def test_what_approve_refuses_is_rejected_with_its_reason_and_never_filled(
    market: PaperMarket, wallet: int, a: int, cause: str
) -> None:
    order = refusal(market, wallet, a, cause)
    said = market.database_for("sender").fetch_one(
        "SELECT approve(%(id)s, %(at)s) AS reason", {"id": order, "at": at("12:02")}
    )
    assert said is not None
    assert cause in said["reason"]
    assert market.send(at("12:02")).result == {"rejected": 1}
    assert (market.events(order), market.detail(order)) == (["rejected"], said["reason"])
    for later in (at("12:10"), at("14:30")):
        assert market.send(later).status == "nothing"
    assert market.fills() == []


def test_a_wallet_that_was_never_resumed_buys_nothing(market: PaperMarket, wallet: int, a: int) -> None:
    fresh = market.wallet("fresh", NOON, resume=False)
    order = market.order(fresh, a, "buy", "2")
    market.send(at("12:02"))
    assert (market.events(order), market.detail(order)) == (["rejected"], "the wallet is paused: no entries")


def test_a_paused_wallet_may_still_sell(market: PaperMarket, wallet: int, a: int) -> None:
    market.order(wallet, a, "buy", "2")
    market.send(at("12:02"))
    market.send(at("12:10"))
    market.command(at("12:11"), "pause")
    exit_ = market.order(wallet, a, "sell", "2", at("12:12"))
    market.send(at("12:12"))
    market.send(at("12:20"))
    assert market.events(exit_) == ["accepted", "filled"]
    assert market.held(wallet) == {a: 0}


@pytest.mark.parametrize(("deadline", "end"), [("12:10", "12:15"), ("12:11", "12:16")])
def test_an_order_expires_only_after_the_last_candle_that_could_fill_it(
    market: PaperMarket, wallet: int, a: int, deadline: str, end: str
) -> None:
    gone = {"first": at("12:06"), "last": at("12:15")}
    market.database_for("owner").execute(
        "DELETE FROM market_data WHERE as_of BETWEEN %(first)s AND %(last)s AND as_of <> '2024-06-01 12:05Z'", gone
    )
    order = market.order(wallet, a, "buy", "2", at("12:04"), deadline=at(deadline))
    market.send(at("12:04"))
    assert market.send(at(end) - timedelta(seconds=1)).status == "nothing"
    assert market.send(at(end)).result == {"expired": 1}
    assert (market.events(order), market.fills()) == (["accepted", "expired"], [])
    assert market.send(at("14:30")).status == "nothing"


@pytest.mark.parametrize(("deadline", "outcome"), [("12:10", "expired"), ("12:10:01", "filled")])
def test_the_last_candle_is_one_that_opens_before_the_deadline(
    market: PaperMarket, wallet: int, a: int, deadline: str, outcome: str
) -> None:
    market.order(wallet, a, "buy", "2", at("12:06"), deadline=at(deadline))
    market.send(at("12:06"))
    market.send(at("14:00"))  # however late it looks: the same candle
    assert market.events() == ["accepted", outcome]
    assert [opened(fill) for fill in market.fills()] == ["12:10"] * (outcome == "filled")


def test_a_buy_is_cut_to_what_cash_affords_and_the_rest_is_canceled_and_said(
    market: PaperMarket, wallet: int, a: int
) -> None:
    order = market.order(wallet, a, "buy", "200")
    market.send(at("12:02"))
    market.send(at("12:10"))
    (fill,) = market.fills()
    price = Decimal("100.31")  # 100.25 and 5 bps, up to the tick
    affordable = (10_000 / (price * Decimal("1.004"))).quantize(Decimal("0.00001"), ROUND_DOWN)  # whole lots
    assert (fill["price"], fill["quantity"]) == (price, affordable)
    assert (fill["cost"], fill["fee"]) == (affordable * price, round(affordable * price * Decimal("0.004"), 8))
    assert 0 <= market.cash(wallet) < Decimal("0.0011")
    assert market.detail(order) == f"{200 - fill['quantity']} canceled: not affordable at {fill['price']}"


def test_a_wallet_without_cash_buys_nothing_and_its_order_is_canceled(market: PaperMarket, wallet: int, a: int) -> None:
    market.order(wallet, a, "buy", "200")
    market.send(at("12:02"))
    market.send(at("12:10"))
    second = market.order(wallet, a, "buy", "1", at("12:12"))
    market.send(at("12:12"))
    assert market.send(at("12:20")).result == {"canceled": 1}
    assert market.detail(second) == "nothing affordable or held at the fill price"
    assert len(market.fills()) == 1


def test_a_sell_is_cut_to_what_is_held_and_says_so(market: PaperMarket, wallet: int, a: int) -> None:
    market.order(wallet, a, "buy", "3")
    market.send(at("12:02"))
    market.send(at("12:10"))
    exits = [market.order(wallet, a, "sell", quantity, at("12:12")) for quantity in ("2", "3")]
    market.send(at("12:12"))  # each alone is covered, both together are not
    market.send(at("12:20"))
    assert market.held(wallet) == {a: 0}
    details = {market.detail(order) for order in exits}
    assert {"2.00000000 canceled: not held", "1.00000000 canceled: not held"} & details
    assert not any("afford" in detail for detail in details)


def test_in_one_candle_sells_come_before_buys_and_buys_in_the_portfolios_order(
    market: PaperMarket, wallet: int, a: int
) -> None:
    b = market.store(B, FIVE, candles(NOON, FIVE, [100.0] * 36))
    market.order(wallet, a, "buy", "200")
    market.send(at("12:02"))
    market.send(at("12:10"))
    later = market.wallet("z", NOON, symbols=(B, A))
    for buyer in (wallet, later):
        market.order(buyer, b, "buy", "90", at("12:12"))
    market.order(later, a, "buy", "90", at("12:12"))
    market.order(wallet, a, "sell", "95", at("12:12"))
    market.send(at("12:12"))
    assert market.send(at("12:20")).result == {"filled": 4}
    bought = {(f["symbol"], f["side"]): f["quantity"] for f in market.fills() if opened(f) == "12:15"}
    assert bought["AAA/USDT", "sell"] == 95
    (own,) = market.rows("SELECT quantity FROM fills WHERE wallet_id = %(w)s AND quantity = 90", w=wallet)
    assert own, "the sale of AAA paid for BBB"
    first, second = (market.held(later)[i] for i in (b, a))
    assert (first, second < 10) == (90, True), "this wallet lists BBB first"


def test_looked_at_late_the_candles_are_still_met_in_their_order(market: PaperMarket, wallet: int, a: int) -> None:
    b = market.store(B, FIVE, candles(NOON, FIVE, [100.0] * 36))
    market.order(wallet, a, "buy", "200")
    market.send(at("12:02"))
    market.send(at("12:10"))
    too_early = market.order(wallet, b, "buy", "90", at("12:12"), deadline=at("12:17"))
    market.order(wallet, a, "sell", "95", at("12:17"))
    market.send(at("12:12"))
    assert market.send(at("12:40")).result == {"canceled": 1, "filled": 1}
    assert market.detail(too_early) == "nothing affordable or held at the fill price", "the sale came a candle later"


def test_the_sender_run_twice_changes_nothing(market: PaperMarket, wallet: int, a: int) -> None:
    market.order(wallet, a, "buy", "2")
    market.order(wallet, a, "buy", "5000")
    market.send(at("12:02"))
    assert market.send(at("12:02")).status == "nothing"
    market.send(at("12:10"))
    before = market.rows(EVENTS), market.fills(), market.cash(wallet)
    for later in (at("12:10"), at("14:30")):
        assert market.send(later).status == "nothing"
        market.settle()
    assert (market.rows(EVENTS), market.fills(), market.cash(wallet)) == before


def test_killed_in_the_middle_of_a_fill_it_fills_once_at_the_next_run(
    market: PaperMarket, wallet: int, a: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    order = market.order(wallet, a, "buy", "2")
    market.send(at("12:02"))

    def dies(*arguments: Any, **named: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(paper_sender, "_record", dies)
        with pytest.raises(KeyboardInterrupt):
            market.send(at("12:10"))
    assert (market.fills(), market.events(order)) == ([], ["accepted"])
    assert market.send(at("12:40")).result == {"filled": 1}
    assert [opened(fill) for fill in market.fills()] == ["12:05"]
    assert market.events(order) == ["accepted", "filled"]
    assert market.rows("SELECT status FROM job_runs WHERE job = 'sender' ORDER BY id DESC LIMIT 2")[1] == {
        "status": "failed"
    }


def test_one_refused_order_does_not_hold_up_the_next(market: PaperMarket, wallet: int, a: int) -> None:
    market.order(wallet, a, "buy", "5000")
    good = market.order(wallet, a, "buy", "2")
    assert market.send(at("12:02")).result == {"accepted": 1, "rejected": 1}
    assert market.events(good) == ["accepted"]


def test_an_order_pays_for_its_share_of_the_candle_that_fills_it_by_the_volatility_it_was_sized_at(
    market: PaperMarket, wallet: int, a: int
) -> None:
    """Volume is 1 a candle: a quarter of it moves the price by half a candle's volatility."""
    candle = "UPDATE market_data SET volume = %(volume)s WHERE as_of = %(as_of)s"
    market.database_for("owner").execute(candle, {"volume": 8.0, "as_of": at("12:10")})
    market.order(wallet, a, "buy", "2", volatility=0.9)
    market.send(at("12:02"))
    market.send(at("12:10"))
    impact_bps = 1e4 * 0.9 * (300 / (365 * 86_400)) ** 0.5 / 2
    (fill,) = market.fills()
    assert to_float(fill["price"]) == kernel.market_price(True, OPENS[1], 5.0 + impact_bps, 0.01)
    assert fill["price"] > Decimal("100.40"), "half the spread alone makes it 100.31"


def test_a_wallets_impact_is_the_settings_when_it_was_made(market: PaperMarket, wallet: int) -> None:
    (row,) = market.rows("SELECT slippage_bps, impact FROM wallets WHERE id = %(w)s", w=wallet)
    assert (float(row["slippage_bps"]), float(row["impact"])) == (
        market.settings.execution.slippage_bps, market.settings.execution.impact,
    )  # fmt: skip


@pytest.mark.parametrize("volatility", ["NaN", "Infinity", "-0.1"])
def test_an_order_needs_a_volatility_that_is_a_number(
    market: PaperMarket, wallet: int, a: int, volatility: str
) -> None:
    with pytest.raises(CheckViolation, match="volatility"):
        market.order(wallet, a, "buy", "2", volatility=float(volatility))


@pytest.mark.parametrize("seed", range(3))
def test_fills_and_cash_are_the_kernels_to_the_last_digit(market: PaperMarket, wallet: int, a: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    made = random_candles(40, FIVE, seed, end=to_unix(NOON) + 40 * FIVE, volatility=0.02)
    market.database_for("owner").execute("DELETE FROM market_data")
    market.store(A, FIVE, BEFORE)
    market.store(A, FIVE, made)
    cash, held = 10_000.0, 0.0
    for n in range(1, 39):
        decided = from_unix(int(made.as_of[n]) - FIVE - 60)
        buying = held == 0.0 or bool(rng.integers(0, 2))
        quantity = round(float(rng.uniform(0.001, 80.0 if buying else held)), 5)
        volatility = float(rng.choice([0.0, 0.6, 2.0]))
        market.order(
            wallet, a, "buy" if buying else "sell", f"{quantity:.5f}", decided, price=float(made.close[n - 1]),
            volatility=volatility,
        )  # fmt: skip
        market.send(decided)
        market.send(from_unix(int(made.as_of[n])))
        wanted = quantity if buying else -quantity
        bar_volatility = volatility * kernel.bar_years_sqrt(FIVE)
        slipped = kernel.slippage_bps(5.0, 1.0, bar_volatility, quantity, float(made.volume[n]))
        signed, price, cost, fee = kernel.market_fill(
            wanted, cash, held, float(made.open[n]), slipped, 40.0, 0.01, 0.00001
        )
        if signed:
            fill = market.fills()[-1]
            assert [to_float(fill[k]) for k in ("quantity", "price", "cost", "fee")] == [abs(signed), price, cost, fee]
            cash, held = kernel.cash_after(cash, signed, cost, fee), kernel.round_money(held + signed)
        assert to_float(market.cash(wallet)) == cash
        assert to_float(market.held(wallet).get(a, Decimal(0))) == held
    assert {fill["side"] for fill in market.fills()} == {"buy", "sell"}


def test_a_live_wallets_orders_are_not_simulated_on_paper(market: PaperMarket, wallet: int, a: int) -> None:
    live = market.wallet("z-live", NOON)
    owner = market.database_for("owner")
    owner.execute("ALTER TABLE wallets DISABLE TRIGGER USER")
    owner.execute("UPDATE wallets SET mode = 'live' WHERE name = 'z-live'")
    new = market.order(live, a, "buy", "2", mode="live")
    disguised = market.order(live, a, "buy", "2")
    assert market.send(at("12:02")).result == {"rejected": 1}
    assert market.detail(disguised) == "order says paper, wallet is live"
    for later in (at("12:10"), at("14:30")):
        assert market.send(later).status == "nothing"
    assert (market.fills(), market.events(new)) == ([], [])


def test_the_sender_imports_no_model_runtime() -> None:
    code = "import sys, policy.execution.sender as _; print(*sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, check=True)
    assert {"onnxruntime", "onnx", "torch", "numba", "sqlalchemy"}.isdisjoint(found.stdout.split())
