"""What positions cost: tranches, average, and gains that are exact to the last of 8 decimals."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policy.execution.cost_basis import CostUnknown, Move, Position, average_cost, position_of, read_positions
from shared.settings import Settings
from tests.helpers import NOON, DatabaseFor
from tests.policy.paper_world import HOUR, MINUTE, A, PaperMarket, at, candles
from tests.shared.spine_rows import insert

pytestmark = pytest.mark.usefixtures("rolled_back")

D = Decimal
ENDS = D("0.00000001")


def move(minute: int, quantity: str, cash: str) -> Move:
    return Move(NOON + minute * MINUTE, f"t{minute}", D(quantity), D(cash))


def test_two_buys_are_one_position_of_two_tranches_with_their_average_cost() -> None:
    position = position_of([move(0, "1", "-100.4"), move(1, "3", "-360")])
    assert position.quantity == 4
    assert [(t.reference, t.quantity, t.cost) for t in position.tranches] == [
        ("t0", D(1), D("100.4")), ("t1", D(3), D(360)),
    ]  # fmt: skip
    assert average_cost(position) == D("115.1")
    assert position.realised == position.realised_average == 0
    assert position.unrealised(D(120)) == position.unrealised_average(D(120)) == D("19.6")


def test_a_sale_takes_the_oldest_tranche_first_and_the_average_from_the_pool() -> None:
    position = position_of([move(0, "1", "-100"), move(1, "3", "-360"), move(2, "-2", "250")])
    assert [(t.reference, t.quantity, t.cost) for t in position.tranches] == [("t1", D(2), D(240))]
    assert position.realised == 250 - 100 - 120
    assert position.realised_average == 250 - 230
    assert average_cost(position) == 115
    assert (position.unrealised(D(130)), position.unrealised_average(D(130))) == (D(20), D(30))


def test_rounding_loses_nothing_and_what_is_sold_out_agrees_by_either_book() -> None:
    thirds = [move(0, "3", "-100"), *(move(k, "-1", "40") for k in (1, 2, 3))]
    (after_one,) = position_of(thirds[:2]).tranches
    assert after_one.cost == D("66.66666667")
    position = position_of(thirds)
    assert position == Position(realised=D(20), realised_average=D(20))
    assert average_cost(position) is None


def test_more_sold_than_was_ever_there_is_an_error_that_names_it() -> None:
    with pytest.raises(CostUnknown, match=r"t1 .* takes 2 out of a position of 1: .*make reconcile"):
        position_of([move(0, "1", "-100"), move(1, "-2", "100")])


amounts = st.integers(1, 10**15).map(lambda n: n * ENDS)
trades = st.lists(st.tuples(st.booleans(), amounts, amounts, st.integers(1, 100)), min_size=1, max_size=12)


@settings(max_examples=150, deadline=None)
@given(trades, amounts)
def test_tranches_sum_to_the_position_and_gains_to_all_that_was_paid(
    drawn: list[tuple[bool, Decimal, Decimal, int]], price: Decimal
) -> None:
    moves, held = [], D(0)
    for n, (buys, quantity, cash, percent) in enumerate(drawn):
        taken = (held * percent / 100).quantize(ENDS)
        signed = quantity if buys or not taken else -taken
        held += signed
        moves.append(Move(NOON + n * MINUTE, str(n), signed, -cash if signed > 0 else cash))
    position = position_of(moves)
    assert position.quantity == sum(m.quantity for m in moves) == held
    paid = sum(m.cash for m in moves)
    assert position.realised + position.unrealised(price) == paid + held * price
    assert position.realised_average + position.unrealised_average(price) == paid + held * price
    assert all(t.quantity > 0 and t.cost >= 0 for t in position.tranches)
    if held:
        cost = average_cost(position)
        assert cost is not None
        assert abs(cost * held - position.pool) <= held * ENDS
    else:
        assert position.cost == position.pool == 0


FILL = {"fee_asset": "USDT", "recorded_at": NOON + HOUR}


@pytest.fixture
def market(database_for: DatabaseFor, settings: Settings) -> PaperMarket:
    return PaperMarket(database_for, settings)


def filled(market: PaperMarket, wallet: int, instrument: int, side: str, quantity: str, cost: str, fee: str,
           minute: int, **changes: Any) -> None:  # fmt: skip
    """A fill as the sender writes it, of an order of its own."""
    order = market.order(wallet, instrument, side, quantity, not_before=NOON + minute * MINUTE)
    row = FILL | {
        "wallet_id": wallet, "venue_trade_id": f"t{minute}", "order_id": order, "side": side, "quantity": D(quantity),
        "price": D(cost) / D(quantity), "cost": D(cost), "fee": D(fee), "filled_at": NOON + minute * MINUTE,
    }  # fmt: skip
    assert insert(market.database_for("sender").connection, "fills", row | changes) == 1


def flow(
    market: PaperMarket, wallet: int, asset: str, amount: str, value: str | None, minute: int, **changes: Any
) -> None:
    row = {
        "wallet_id": wallet, "asset": asset, "amount": D(amount), "kind": "adoption", "managed": True,
        "value": value and D(value), "reference": f"f{minute}", "at": NOON + minute * MINUTE, "recorded_at": NOON,
    }  # fmt: skip
    assert insert(market.database_for("cli").connection, "cash_flows", row | changes) == 1


def test_fills_and_what_was_adopted_become_the_position_that_the_views_tell(market: PaperMarket) -> None:
    instrument = market.store(A, 300, candles(NOON, 300, [100.0]))
    wallet = market.wallet("w", at("11:00"))
    flow(market, wallet, "AAA", "2", "150", 1)
    flow(market, wallet, "AAA", "9", "900", 2, managed=False)  # lies on the account, and is not ours
    filled(market, wallet, instrument, "buy", "4", "400", "1.6", 10)
    filled(market, wallet, instrument, "buy", "1", "110", "0.01", 11, fee_asset="AAA")
    filled(market, wallet, instrument, "sell", "3", "360", "1.44", 12)
    filled(market, wallet, instrument, "buy", "1", "120", "0.5", 13, fee_asset="KFEE")

    for reader in ("policy", "sender", "cli"):
        (position,) = read_positions(market.database_for(reader), wallet).values()
        assert position.quantity == D("4.99") == market.held(wallet)[instrument]
    assert [(t.reference, t.quantity, t.cost) for t in position.tranches] == [
        ("t10", D(3), D("301.2")), ("t11", D("0.99"), D(110)), ("t13", D(1), D(120)),
    ]  # fmt: skip
    assert position.realised == D(360) - D("1.44") - 150 - D("100.4")
    assert position.realised + position.unrealised(D(0)) == market.cash(wallet) - 10_000 - 150
    (before,) = read_positions(market.database_for("policy"), wallet, NOON + 11 * MINUTE).values()
    assert before.quantity == D("6.99"), "what came later was not known then"


def test_a_flow_without_a_value_is_named_and_a_withdrawal_leaves_at_its_value(market: PaperMarket) -> None:
    market.store(A, 300, candles(NOON, 300, [100.0]))
    wallet = market.wallet("w", at("11:00"))
    flow(market, wallet, "AAA", "2", "150", 1)
    flow(market, wallet, "AAA", "-1", "-100", 2, kind="withdrawal")  # as the sender values it: cash_flows are signed
    (position,) = read_positions(market.database_for("policy"), wallet).values()
    assert (position.quantity, position.pool, position.realised) == (D(1), D(75), D(25))
    flow(market, wallet, "AAA", "1", None, 3, kind="staking")
    with pytest.raises(CostUnknown, match=r"cash flow f3 of 1\.0* AAA/USDT .* has no value"):
        read_positions(market.database_for("policy"), wallet)
