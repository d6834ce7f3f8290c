"""KILL files stop paper wallets and the trader as they stop live ones: the stricter of file and command holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from policy.execution import sender
from shared.clock import ReplayClock
from shared.settings import Settings
from tests.helpers import NOON, DatabaseFor
from tests.policy.paper_world import FIVE, HOUR, MINUTE, A, PaperMarket, at, candles, store_flat
from tests.shared.spine_rows import insert

pytestmark = pytest.mark.usefixtures("rolled_back")
DUE = NOON + 2 * MINUTE


@pytest.fixture
def market(database_for: DatabaseFor, settings: Settings, tmp_path: Path) -> PaperMarket:
    return PaperMarket(database_for, settings.model_copy(update={"home": tmp_path}))


def send(market: PaperMarket, when: Any) -> None:
    sender.run_once(ReplayClock(when), market.database_for("sender"), home=market.settings.home_path)


def kill(market: PaperMarket, mandate: str, wallet: str | None = "w") -> None:
    (market.settings.home_path / ("KILL" if wallet is None else f"KILL.{wallet}")).write_text(mandate)


def holding(market: PaperMarket, **bracket: Any) -> tuple[int, int]:
    """Wallet w holds 10 since noon; (wallet, instrument)."""
    instrument = store_flat(market, A)
    wallet = market.wallet("w", NOON - HOUR, symbols=(A,))
    market.order(wallet, instrument, "buy", "10", **bracket)
    send(market, DUE)
    send(market, at("12:10"))
    assert market.held(wallet) == {instrument: 10}
    return wallet, instrument


@pytest.mark.parametrize("wallet", ["w", None])
@pytest.mark.parametrize("mandate", ["pause", "kill", "flatten", "halt"])
def test_no_entry_passes_a_file_and_no_exit_a_halt(market: PaperMarket, mandate: str, wallet: str | None) -> None:
    id_, instrument = holding(market)
    kill(market, mandate, wallet)
    bought = market.order(id_, instrument, "buy", "1", at("12:12"))
    sold = market.order(id_, instrument, "sell", "4", at("12:12"))
    send(market, at("12:12"))
    assert market.events(bought) == ["rejected"]
    assert market.detail(bought) == f"the wallet is stopped by a KILL file: {mandate}"
    assert market.events(sold) == ["rejected" if mandate == "halt" else "accepted"]
    send(market, at("12:30"))
    assert market.held(id_) == {instrument: {"halt": 10}.get(mandate, 6)}


def test_the_file_of_one_wallet_is_not_anothers(market: PaperMarket) -> None:
    instrument = store_flat(market, A)
    others = [market.wallet(name, NOON - HOUR, symbols=(A,)) for name in ("w", "v")]
    kill(market, "kill", "w")
    orders = [market.order(wallet, instrument, "buy", "1") for wallet in others]
    send(market, DUE)
    assert [market.events(order) for order in orders] == [["rejected"], ["accepted"]]


@pytest.mark.parametrize(("mandate", "events"), [("pause", ["accepted", "filled"]), ("kill", ["accepted", "canceled"]),
                                                 ("flatten", ["accepted", "canceled"])])  # fmt: skip
def test_a_kill_file_cancels_what_was_not_filled(market: PaperMarket, mandate: str, events: list[str]) -> None:
    instrument = store_flat(market, A)
    wallet = market.wallet("w", NOON - HOUR, symbols=(A,))
    order = market.order(wallet, instrument, "buy", "1")
    send(market, DUE)
    kill(market, mandate)
    send(market, at("12:10"))
    assert market.events(order) == events
    if events[-1] == "canceled":
        assert market.detail(order) == f"the operator stops the wallet: {mandate}, by a KILL file"


def test_flatten_by_file_sells_all_and_a_halt_by_command_is_stricter(market: PaperMarket) -> None:
    wallet, instrument = holding(market)
    kill(market, "flatten")
    market.command(at("12:11"), "halt")
    send(market, at("12:12"))
    assert not market.rows("SELECT FROM orders WHERE purpose = 'flatten'")
    market.command(at("12:13"), "resume")  # by whoever does not look at the file
    send(market, at("12:14"))
    send(market, at("12:20"))
    assert market.held(wallet) == {instrument: 0}


@pytest.mark.parametrize(("mandate", "held"), [("kill", 0), ("halt", 10)])
def test_a_bracket_is_left_under_a_kill_and_waits_under_a_halt(market: PaperMarket, mandate: str, held: int) -> None:
    wallet, instrument = holding(market, bracket_stop=90)
    market.database_for("owner").execute("DELETE FROM market_data WHERE timeframe_s = 300 AND as_of > %(t)s",
                                         {"t": at("12:10")})  # fmt: skip
    market.store(A, FIVE, candles(at("12:10"), FIVE, [80.0, 80.0]))
    kill(market, mandate)
    send(market, at("12:20"))
    assert market.held(wallet) == {instrument: held}


@pytest.mark.parametrize("by", ["file", "file for all", "command", "nothing"])
def test_the_trader_says_that_a_file_paused_it(market: PaperMarket, by: str) -> None:
    first = NOON - 300 * HOUR
    market.store(A, 3600, candles(first, 3600, [100.0 * 1.003**k + k % 3 for k in range(300)]))  # it rises: wanted
    market.wallet("w", NOON - HOUR, symbols=(A,))
    if by == "command":
        market.command(NOON - MINUTE, "kill")
    elif by != "nothing":
        kill(market, "halt", None if by == "file for all" else "w")
    market.trade(DUE, market.settings)
    (decision,) = market.rows("SELECT wanted_weight, allowed_weight, clamps FROM decisions")
    assert decision["wanted_weight"] > 0
    said = [clamp["because"] for clamp in decision["clamps"] if clamp["rule"] == "pause"]
    assert said == ([] if by == "nothing" else ["the wallet is paused by its operator"])
    assert (decision["allowed_weight"] > 0) == (by == "nothing")


def test_an_order_by_hand_on_paper_obeys_the_file(market: PaperMarket) -> None:
    instrument = store_flat(market, A)
    wallet = market.wallet("w", NOON - HOUR, symbols=(A,))
    kill(market, "pause")
    place = {"wallet_id": wallet, "command": "place", "reason": "a test", "issuer": "test", "idempotency_key": "k",
             "issued_at": NOON, "expires_at": NOON + MINUTE, "instrument_id": instrument, "side": "buy",
             "quantity": 1}  # fmt: skip
    insert(market.database_for("cli").connection, "commands", place)
    send(market, NOON + 0.5 * MINUTE)
    (order,) = market.rows("SELECT id FROM orders")
    assert market.detail(order["id"]) == "the wallet is stopped by a KILL file: pause"
