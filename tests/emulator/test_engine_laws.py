"""Laws of the engine, whatever is done to it and however time passes."""

from __future__ import annotations

from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from decimal import ROUND_CEILING, Decimal
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.emulator.engine_world import BTC, ETH, MARKET, World, tape
from tests.exchange_emulator.records import Order, Refused, Request, View
from tests.exchange_emulator.server import START

TICK, TAKER = Decimal("0.01"), Decimal("0.004")
LAST = {symbol: MARKET.last_price(symbol, START) for symbol in (BTC, ETH)}


@st.composite
def requests(draw: st.DrawFn) -> Request:
    """Near enough to the market for half of them to trade within the hours to come."""
    symbol, kind = draw(st.sampled_from((BTC, ETH))), draw(st.sampled_from(KINDS))
    quantity = draw(st.integers(1, 400)) * (Decimal("0.01") if symbol == BTC else Decimal("0.1"))
    near = [(LAST[symbol] * (1 + Decimal(draw(st.integers(-200, 200))) / 10_000)) // TICK * TICK for _ in range(2)]
    triggered = kind in ("stop", "take_profit")
    return Request(
        symbol, draw(st.sampled_from(("buy", "sell"))), kind, quantity,
        limit_price=near[0] if kind == "limit" or (triggered and draw(st.booleans())) else None,
        stop_price=near[1] if triggered else None,
        trail=Decimal(draw(st.integers(1, 200))) / 10_000 if kind == "trailing_stop" else None,
        time_in_force=draw(st.sampled_from(("gtc", "gtc", "ioc", "fok"))) if kind == "limit" else "gtc",
        fee_in_base=draw(st.booleans()),
        client_id=draw(st.sampled_from((None, "a", "b"))),
    )  # fmt: skip


KINDS = ("market", "limit", "limit", "stop", "take_profit", "trailing_stop")
steps = st.one_of(
    st.tuples(st.just("place"), requests()),
    st.tuples(st.just("oco"), requests(), requests()),
    st.tuples(st.just("cancel"), st.integers(0, 20)),
    st.tuples(st.just("late"), st.integers(0, 20)),
    st.tuples(st.just("amend"), st.integers(0, 20), st.integers(1, 300)),
    st.tuples(st.just("wait"), st.integers(1, 7_200)),
    st.tuples(st.just("switch"), st.integers(0, 3_600)),
)


def run(world: World, step: tuple[Any, ...]) -> None:
    """One step; what is refused changes nothing."""
    before = world.engine.view("main")
    number = step[1] % (len(before.orders) + 1) if step[0] in ("cancel", "late", "amend") else 0
    world.engine.cancel_trouble = lambda _order: ("fill_after_cancel", 60.0) if step[0] == "late" else None
    try:
        match step[0]:
            case "place":
                world.engine.place("main", step[1])
            case "oco":
                world.engine.place_oco("main", (step[1], step[2]))
            case "cancel" | "late":
                world.engine.cancel("main", number)
            case "amend":
                world.engine.amend("main", number, quantity=Decimal(step[2]) / 100)
            case "wait":
                world.clock.advance(step[1])
            case "switch":
                world.engine.cancel_all_after("main", step[1])
    except Refused:
        assert world.engine.view("main") == before


def check(view: View) -> None:
    sums: dict[str, Decimal] = defaultdict(Decimal)
    for entry in view.entries:
        sums[entry.asset] += entry.amount - entry.fee
        assert entry.balance == sums[entry.asset]
    assert {asset: balance.total for asset, balance in view.balances.items()} == sums
    held = reserved(view.orders)
    for asset, balance in view.balances.items():
        assert 0 <= balance.held <= balance.total
        assert balance.held == held.get(asset, 0)
    for order in view.orders:
        fills = [fill for fill in view.fills if fill.order == order.number]
        assert sum(fill.quantity for fill in fills) == order.filled <= order.quantity
        assert sum(fill.cost for fill in fills) == order.cost
        assert (order.state == "filled") <= (order.filled == order.quantity)
        assert order.late + order.filled <= order.quantity
    assert [entry.number for entry in view.entries if entry.fill] == [n for fill in view.fills for n in fill.entries]
    twins = [o.client_id for o in view.orders if o.is_open and o.client_id]
    assert len(twins) == len(set(twins))


def reserved(orders: tuple[Order, ...]) -> dict[str, Decimal]:
    """Reckoned anew: one OCO list once, purchases at their price and the taker's fee, rounded up."""
    lists: dict[Any, dict[str, Decimal]] = defaultdict(dict)
    for order in orders:
        left = order.remaining if order.is_open else order.late
        if not left:
            continue
        base, quote = order.symbol.split("/")
        fee = 1 + TAKER
        if order.side == "sell":
            asset, amount, unit = base, left * (fee if order.fee_in_base else 1), Decimal("1e-8")
        else:
            price = order.limit_price or order.stop_price
            asset, amount, unit = quote, left * price * (1 if order.fee_in_base else fee), Decimal("1e-4")
        mine = lists[order.group or f"order {order.number}"]
        mine[asset] = max(mine.get(asset, Decimal(0)), amount.quantize(unit, ROUND_CEILING))
    total: dict[str, Decimal] = defaultdict(Decimal)
    for mine in lists.values():
        for asset, amount in mine.items():
            total[asset] += amount
    return total


@settings(max_examples=60, deadline=None)
@given(plan=st.lists(steps, min_size=5, max_size=25))
def test_nothing_is_lost_overdrawn_or_overfilled(plan: list[tuple[Any, ...]]) -> None:
    world = World().funded()
    for step in plan:
        run(world, step)
        check(world.engine.view("main"))
    world.clock.advance(86_400)
    check(world.engine.view("main"))


@settings(max_examples=20, deadline=None)
@given(
    orders=st.lists(requests(), min_size=1, max_size=6),
    cuts=st.lists(st.integers(1, 20_000), max_size=30, unique=True),
    switch=st.integers(0, 20_000),
)
def test_one_step_or_many_make_identical_fills(orders: list[Request], cuts: list[int], switch: int) -> None:
    """Nobody's asking moves the market."""
    views = []
    for stops in ([], sorted(cuts)):
        world = World().funded()
        for order in orders:
            run(world, ("place", order))
        run(world, ("switch", switch))
        for stop in stops:
            world.clock.advance(START + stop - world.clock.now())
            world.engine.advance()
        world.clock.advance(START + 20_000 - world.clock.now())
        views.append((world.engine.view("main"), world.engine.events("main")))
    assert views[0] == views[1]


def test_in_one_jump_what_is_traded_earlier_comes_before_the_switch() -> None:
    world, lowest = World().funded(), min(tape(60), key=lambda trade: trade.price)
    order = world.place("buy", "limit", "0.1", limit_price=str(lowest.price + TICK))
    world.engine.cancel_all_after("main", 61)
    world.clock.advance(600)
    assert world.order(order.number).closed_ns == lowest.time_ns


def test_many_threads_make_one_history() -> None:
    world = World().funded()

    def trade(turn: int) -> int:
        world.clock.advance(0.5)
        return world.place("buy" if turn % 2 else "sell", "market", "0.01").number

    with ThreadPoolExecutor(4) as pool:
        numbers = sorted(pool.map(trade, range(80)))
    view = world.engine.view("main")
    check(view)
    assert numbers == list(range(1, 81))
    times = [event.at_ns for event in world.engine.events("main")]
    assert times == sorted(times)
    assert [fill.number for fill in view.fills] == list(range(1, len(view.fills) + 1))


@settings(max_examples=15, deadline=None)
@given(plan=st.lists(steps, min_size=5, max_size=15), kill_at=st.integers(0, 15))
def test_a_killed_and_restarted_engine_continues(
    tmp_path_factory: Any, plan: list[tuple[Any, ...]], kill_at: int
) -> None:
    """As if nothing had happened: the file alone tells where it was."""
    folder: Path = tmp_path_factory.mktemp("journal")
    whole, first = World().funded(), World(folder / "truth.jsonl").funded()
    plan = [step for step in plan if step[0] != "late"]  # a late fill comes at once after a restart
    for step in plan[:kill_at]:
        run(whole, step)
        run(first, step)
    second = World(folder / "truth.jsonl", first.clock.now())
    for world in (whole, second):
        for step in plan[kill_at:]:
            run(world, step)
        world.clock.advance(86_400)
    assert second.engine.view("main") == whole.engine.view("main")
    last = [world.engine.events("main")[-1:] for world in (whole, second)]
    assert not last[1] or last[0] == last[1]
