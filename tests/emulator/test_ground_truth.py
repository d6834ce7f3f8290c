"""The oracle's file: whole moments, in the file before anybody hears of them."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from tests.emulator.engine_world import BTC, MARKET, World
from tests.exchange_emulator.engine import Engine
from tests.exchange_emulator.market import Market
from tests.exchange_emulator.server import START


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "truth" / "journal.jsonl"


def moments(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def test_each_order_fill_and_movement_is_a_line_before_a_listener_hears_of_it(path: Path) -> None:
    world = World(path).funded()
    seen: list[list[dict[str, Any]]] = []
    world.engine.subscribe(lambda _event: seen.append(moments(path)))
    order = world.place("buy", "market", "0.5", client_id="abc")
    (line,) = {json.dumps(written[-1]) for written in seen}
    last = json.loads(line)
    assert [raw["client_id"] for raw in last["orders"]] == ["abc"]
    assert [Decimal(raw["quantity"]) for raw in last["fills"]] == [Decimal("0.5")]
    assert [Decimal(raw["amount"]) for raw in last["entries"]] == [Decimal("0.5"), -order.cost]


def test_what_is_refused_leaves_no_line(path: Path) -> None:
    world = World(path).funded()
    before = path.read_bytes()
    with pytest.raises(Exception, match="funds"):
        world.place("buy", "market", "50")
    world.clock.advance(60)
    world.engine.view("main")
    assert path.read_bytes() == before


def test_half_a_line_at_the_end_is_cut_off(path: Path) -> None:
    world = World(path).funded()
    world.place("buy", "limit", "0.1", limit_price="20000")
    whole = path.read_bytes()
    path.write_bytes(whole + whole.splitlines()[-1][:40])
    again = World(path)
    assert again.engine.view("main") == world.engine.view("main")
    again.place("buy", "limit", "0.1", limit_price="20000")
    assert path.read_bytes().startswith(whole)
    assert len(moments(path)) == len(whole.splitlines()) + 1


def test_keys_nonces_accounts_and_the_switch_survive(path: Path) -> None:
    world = World(path).funded()
    accounts = world.engine.accounts
    accounts.add_key("main", "key", "c2VjcmV0", frozenset({"read"}), nonce_window=3, ips=("127.0.0.1",))
    assert accounts.take_nonce("key", 100)
    accounts.change("main", orders_limit=7)
    world.place("buy", "limit", "0.1", limit_price="20000")
    world.engine.cancel_all_after("main", 60)
    again = World(path)
    assert again.engine.accounts.key("key") == accounts.key("key")
    assert again.engine.accounts.get("main") == accounts.get("main")
    assert not again.engine.accounts.take_nonce("key", 97)
    again.clock.advance(60)
    assert again.engine.open_orders("main") == []


def test_a_late_fill_still_comes_after_a_restart(path: Path) -> None:
    world = World(path).funded()
    world.engine.cancel_trouble = lambda _order: ("fill_after_cancel", 5.0)
    order = world.place("sell", "limit", "1", limit_price="40000")
    world.engine.cancel("main", order.number)
    assert World(path).order(order.number).filled == Decimal("0.5")


def test_a_restart_is_at_no_earlier_time_and_in_the_same_market(path: Path) -> None:
    world = World(path).funded()
    world.clock.advance(60)
    world.place("buy", "market", "0.1")
    with pytest.raises(ValueError, match="start no earlier"):
        World(path, START + 59)
    with pytest.raises(ValueError, match="is the journal of"):
        Engine(Market((BTC,), MARKET.seed), world.clock.now, lambda _venue, symbol: MARKET.rules(symbol), path)
