"""Money is handed over by the operator's word only, never more than lies there, and the account's sum stays."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import pytest

from pipeline.funding import adopt, adopt_managed_capital, pay, release
from pipeline.operator import create_wallet, main
from pipeline.wallets import change_limits
from shared.db import Database, role_url
from shared.job import JobError, UsageError
from shared.settings import Settings
from tests.helpers import NOON, DatabaseFor
from tests.pipeline.live_wallet import Command, LiveWallet, Undone, borrow, entry, file_text, later, undone
from tests.shared.spine_rows import insert, own_database
from tests.shared.spine_rows import rows as spine_rows

CLOSE = """
SELECT close FROM market_data m JOIN instruments i ON i.id = m.instrument_id
WHERE symbol = 'AAA/USDT' AND as_of = %(at)s
"""


@pytest.fixture(scope="module")
def world(home: Path) -> Iterator[Undone]:
    with undone(home, "funding") as made:
        yield made


@pytest.fixture
def settings(world: Undone) -> Settings:
    return world[0]


@pytest.fixture
def database(world: Undone) -> Iterator[Database]:
    with world[1]() as database:
        yield database


def found_wallet(database_for: DatabaseFor, settings: Settings) -> LiveWallet:
    live = LiveWallet(database_for, settings)
    live.find("USDT", "3000.12345678")
    live.find("AAA", "2")
    live.find("XYZ", "7")
    return live


@pytest.fixture
def live(database: Database, settings: Settings) -> LiveWallet:
    return found_wallet(lambda _layer: database, settings)


@pytest.fixture
def command(settings: Settings, database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    return borrow(monkeypatch, settings, database, tmp_path, main)


def test_what_is_found_is_not_the_wallets_until_it_is_adopted(live: LiveWallet) -> None:
    assert live.one("SELECT equity FROM equity") == {"equity": 0}
    assert adopt(live.cli, NOON, "main", "USDT", Decimal("1000.5")) == Decimal("1000.5")
    assert live.one("SELECT cash, equity FROM equity") == {"cash": Decimal("1000.5"), "equity": Decimal("1000.5")}
    assert live.unmanaged() == {"USDT": Decimal("1999.62345678"), "AAA": 2, "XYZ": 7}


def test_an_adopted_coin_is_a_position_and_worth_its_newest_close(live: LiveWallet) -> None:
    worth = Decimal(repr(live.close("AAA/USDT"))) * Decimal("0.5")
    assert adopt(live.cli, NOON, "main", "AAA", Decimal("0.5")) == worth
    assert live.one("SELECT quantity FROM positions WHERE quantity <> 0") == {"quantity": Decimal("0.5")}
    assert live.one("SELECT cash, equity FROM equity") == {"cash": 0, "equity": worth}
    flows = live.rows("SELECT amount, value, managed, kind FROM cash_flows WHERE kind = 'adoption' ORDER BY id")
    assert [tuple(flow.values()) for flow in flows] == [
        (Decimal("-0.5"), -worth, False, "adoption"),
        (Decimal("0.5"), worth, True, "adoption"),
    ]


def test_a_coin_is_valued_at_what_was_known_then(live: LiveWallet) -> None:
    earlier = live.one(CLOSE, at=later(-5))
    assert adopt(live.cli, later(-1), "main", "AAA", Decimal(1)) == Decimal(repr(earlier["close"]))
    with pytest.raises(JobError, match="no candle of AAA/USDT on test"):
        adopt(live.cli, later(-60), "main", "AAA", Decimal(1))


def test_all_that_lies_there_can_be_adopted_and_not_one_unit_more(live: LiveWallet) -> None:
    all_of_it = Decimal("3000.12345678")
    with pytest.raises(UsageError, match=r"3000.12345679 USDT are more than the 3000.12345678 that lie"):
        adopt(live.cli, NOON, "main", "USDT", all_of_it + Decimal("1e-8"))
    assert live.unmanaged()["USDT"] == all_of_it, "the refusal left nothing behind"
    assert adopt(live.cli, NOON, "main", "USDT", all_of_it) == all_of_it
    assert live.unmanaged()["USDT"] == 0
    with pytest.raises(UsageError, match="more than the 0 that lie"):
        adopt(live.cli, NOON, "main", "USDT", Decimal("1e-8"))


def test_what_could_never_be_sold_is_not_adopted(live: LiveWallet) -> None:
    with pytest.raises(UsageError, match="could never sell XYZ; `make limits WALLET=main SYMBOLS=…`"):
        adopt(live.cli, NOON, "main", "XYZ", Decimal(1))
    change_limits(live.cli, NOON, "main", {"symbols": ["BBB/USDT"]})
    with pytest.raises(UsageError, match="may trade BBB/USDT: it could never sell AAA"):
        adopt(live.cli, NOON, "main", "AAA", Decimal(1))
    with pytest.raises(UsageError, match="there is no wallet 'other'"):
        adopt(live.cli, NOON, "other", "USDT", Decimal(1))


def test_the_same_adoption_under_one_key_is_one(live: LiveWallet) -> None:
    all_of_it = Decimal("3000.12345678")
    assert adopt(live.cli, NOON, "main", "USDT", all_of_it, "key-1") == all_of_it
    assert adopt(live.cli, later(1), "main", "USDT", all_of_it, "key-1") is None
    assert live.one("SELECT cash FROM equity")["cash"] == all_of_it


def test_two_adoptions_at_once_take_no_more_than_there_is(home: Path) -> None:
    """The second waits for the first, and then sees what is left."""
    with own_database(home, "adoptions") as (settings, database_for):
        live, second, refused = found_wallet(database_for, settings), Database(role_url(settings, "cli")), []
        waits = {"pid": second.connection.info.backend_pid}

        def adopt_as_well() -> None:
            try:
                adopt(second, NOON, "main", "USDT", Decimal(3000))
            except UsageError as error:
                refused.append(str(error))

        thread = threading.Thread(target=adopt_as_well)
        with live.cli.transaction():
            adopt(live.cli, NOON, "main", "USDT", Decimal(2000))
            thread.start()
            until = time.monotonic() + 20
            while not live.rows("SELECT FROM pg_locks WHERE pid = %(pid)s AND NOT granted", **waits):
                assert time.monotonic() < until, "the second adoption did not wait for the first"
                assert thread.is_alive()
        thread.join(20)
        second.close()
    assert len(refused) == 1
    assert "3000 USDT are more than the 1000.12345678" in refused[0]


@pytest.mark.parametrize(("capital", "cash"), [("1000.5", "1000.5"), ("all", "3000.12345678")])
def test_managed_capital_is_adopted_once(live: LiveWallet, capital: str, cash: str) -> None:
    named = entry(managed_capital=capital)
    assert adopt_managed_capital(live.cli, NOON, named) == Decimal(cash)
    assert live.one("SELECT cash FROM equity")["cash"] == Decimal(cash)
    assert live.unmanaged()["AAA"] == 2, "coins are adopted by hand"
    assert adopt_managed_capital(live.cli, later(1), named) is None
    live.find("USDC", "5")
    assert live.one("SELECT cash FROM equity")["cash"] == Decimal(cash)


def test_managed_capital_is_nothing_where_the_file_says_none_or_money_is_managed_already(live: LiveWallet) -> None:
    assert adopt_managed_capital(live.cli, NOON, entry()) is None
    adopt(live.cli, NOON, "main", "USDT", Decimal(10))
    assert adopt_managed_capital(live.cli, NOON, entry(managed_capital="all")) is None
    assert live.one("SELECT cash FROM equity")["cash"] == 10


def test_managed_capital_that_is_not_there_is_refused(database: Database, settings: Settings) -> None:
    live = LiveWallet(lambda _layer: database, settings)
    with pytest.raises(UsageError, match="there is no USDT on its account that could be managed yet"):
        adopt_managed_capital(live.cli, NOON, entry(managed_capital="all"))
    live.find("USDT", "100")
    with pytest.raises(UsageError, match="5000 USDT are more than the 100"):
        adopt_managed_capital(live.cli, NOON, entry(managed_capital=5000))
    assert live.one("SELECT cash FROM equity")["cash"] == 0


def test_paper_money_is_paid_in_and_out_and_never_below_zero(database: Database, settings: Settings) -> None:
    create_wallet(database, settings, NOON, "w", "test", ["AAA/USDT"], 100.0)
    assert pay(database, NOON, "w", Decimal("50.00000001")) == Decimal("150.00000001")
    assert pay(database, NOON, "w", Decimal(-150)) == Decimal("0.00000001")
    with pytest.raises(UsageError, match=r"w has 0.00000001 USDT in cash; 0.00000002 cannot be taken out"):
        pay(database, NOON, "w", Decimal("-0.00000002"))
    assert pay(database, NOON, "w", Decimal("-0.00000001"), "key-1") == 0
    assert pay(database, later(1), "w", Decimal("-0.00000001"), "key-1") is None
    flows = database.fetch("SELECT kind, amount, managed FROM cash_flows ORDER BY id")
    assert [(flow["kind"], flow["amount"]) for flow in flows] == [
        ("opening", 100), ("deposit", Decimal("50.00000001")), ("withdrawal", -150), ("withdrawal", Decimal("-1e-8")),
    ]  # fmt: skip
    assert all(flow["managed"] for flow in flows)


def test_paper_has_no_account_and_a_live_account_is_paid_at_its_venue(live: LiveWallet) -> None:
    create_wallet(live.cli, live.settings, NOON, "w", "test", ["AAA/USDT"], 100.0)
    with pytest.raises(UsageError, match="paper wallet and has no account"):
        adopt(live.cli, NOON, "w", "USDT", Decimal(1))
    with pytest.raises(UsageError, match="main is a live wallet: pay at the venue"):
        pay(live.cli, NOON, "main", Decimal(1))
    with pytest.raises(UsageError, match="there is no wallet 'x'"):
        pay(live.cli, NOON, "x", Decimal(1))


def test_what_is_released_lies_there_unmanaged_again_and_was_worth_its_close(live: LiveWallet) -> None:
    adopt(live.cli, NOON, "main", "USDT", Decimal(1000))
    adopt(live.cli, NOON, "main", "AAA", Decimal("1.5"))
    worth = (Decimal(repr(live.close("AAA/USDT"))) * Decimal("0.4")).quantize(Decimal("1e-8"))
    assert release(live.cli, NOON, "main", "AAA", Decimal("0.4"), "a gift") == worth
    assert release(live.cli, NOON, "main", "USDT", Decimal("0.00000001"), "rent") == Decimal("0.00000001")
    assert live.unmanaged() == {"USDT": Decimal("2000.12345679"), "AAA": Decimal("0.9"), "XYZ": 7}
    assert live.one("SELECT quantity FROM positions WHERE quantity <> 0") == {"quantity": Decimal("1.1")}
    assert live.one("SELECT cash FROM equity") == {"cash": Decimal("999.99999999")}
    flows = live.rows(
        "SELECT amount, value, managed FROM cash_flows WHERE kind = 'release' AND asset = 'AAA' ORDER BY id"
    )
    assert [tuple(flow.values()) for flow in flows] == [
        (Decimal("0.4"), worth, False), (Decimal("-0.4"), -worth, True),
    ]  # fmt: skip
    references = [row["reference"] for row in live.rows("SELECT reference FROM cash_flows WHERE kind = 'release'")]
    assert any("(a gift)" in reference for reference in references)


def test_all_that_is_managed_can_be_released_and_not_one_unit_more(live: LiveWallet) -> None:
    adopt(live.cli, NOON, "main", "USDT", Decimal(1000))
    for asset, quantity, told in (
        ("USDT", "1000.00000001", "1000.00000001 USDT are more than the 1000 that it can release"),
        ("AAA", "0.1", "0.1 AAA are more than the 0 that it can release"),
        ("XYZ", "1", "1 XYZ are more than the 0"),
    ):
        with pytest.raises(UsageError, match=told):
            release(live.cli, NOON, "main", asset, Decimal(quantity), "rent")
    assert live.unmanaged()["USDT"] == Decimal("2000.12345678"), "the refusal left nothing behind"
    assert release(live.cli, NOON, "main", "USDT", Decimal(1000), "rent", "k") == 1000
    assert release(live.cli, NOON, "main", "USDT", Decimal(1000), "rent again", "k") is None
    assert live.one("SELECT equity FROM equity") == {"equity": 0}
    assert adopt(live.cli, NOON, "main", "USDT", Decimal("3000.12345678")) == Decimal("3000.12345678")


@pytest.mark.parametrize(("order", "asset", "free"), [
    ({"side": "sell", "quantity": "0.7"}, "AAA", "0.8"),
    ({"side": "buy", "quantity": "1", "reference_price": 100.0, "limit_price": "110"}, "USDT", "889.56"),
    ({"side": "sell", "quantity": "1.5", "purpose": "protect", "author": "sender", "because": "x", "type": "stop",
      "stop_price": 1, "limit_price": None, "time_in_force": "gtc", "decision_id": None}, "AAA", "1.5"),
])  # fmt: skip
def test_what_orders_under_way_may_take_is_not_released(
    live: LiveWallet, order: dict[str, object], asset: str, free: str
) -> None:
    """What is sold, what a purchase may cost with its fee; a stop shrinks with what it protects."""
    adopt(live.cli, NOON, "main", "USDT", Decimal(1000))
    adopt(live.cli, NOON, "main", "AAA", Decimal("1.5"))
    live.cli.execute("UPDATE wallets SET taker_fee_bps = 40")
    under_way(live, **order)
    above = Decimal(free) + Decimal("1e-8")
    with pytest.raises(UsageError, match=rf"more than the {free} that it can release"):
        release(live.cli, NOON, "main", asset, above, "rent")
    release(live.cli, NOON, "main", asset, Decimal(free), "rent")


def under_way(live: LiveWallet, **changes: object) -> None:
    """An order of the wallet that its venue has."""
    instrument = live.one("SELECT id FROM instruments WHERE symbol = 'AAA/USDT'")["id"]
    decision = {"wallet_id": live.id, "instrument_id": instrument}
    insert(live.cli.connection, "decisions", spine_rows(1)["decisions"] | decision)
    order = spine_rows(1)["orders"] | decision | {
        "decision_id": live.one("SELECT max(id) AS id FROM decisions")["id"], "mode": "live", "type": "limit",
        "time_in_force": "ioc", "limit_price": 100,
    } | changes  # fmt: skip
    insert(live.cli.connection, "orders", order)
    insert(live.cli.connection, "approvals", spine_rows(1)["approvals"] | {"order_id": order["id"], "epoch": 1})
    for event in ("sending", "accepted"):
        insert(live.cli.connection, "order_events", spine_rows(1)["order_events"] | {
            "order_id": order["id"], "event": event})  # fmt: skip


def test_a_release_is_of_a_live_wallet_and_says_why(live: LiveWallet) -> None:
    create_wallet(live.cli, live.settings, NOON, "w", "test", ["AAA/USDT"], 100.0)
    with pytest.raises(UsageError, match="w is a paper wallet and has no account; `make wallet-withdraw`"):
        release(live.cli, NOON, "w", "USDT", Decimal(1), "rent")
    with pytest.raises(UsageError, match=r"say why \(REASON=…\)"):
        release(live.cli, NOON, "main", "USDT", Decimal(1), " ")
    with pytest.raises(UsageError, match="there is no wallet 'x'"):
        release(live.cli, NOON, "x", "USDT", Decimal(1), "rent")


def test_the_command_line_releases(live: LiveWallet, command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    adopt(live.cli, NOON, "main", "USDT", Decimal(1000))
    words = ("wallet-release", "main", "--asset", "USDT", "--quantity", "100", "--key", "k", "--reason", "rent")
    assert [command(*words), command(*words)] == [0, 0]
    assert live.one("SELECT cash FROM equity")["cash"] == 900
    capsys.readouterr()
    assert command("wallet-release", "main", "--asset", "USDT") == 2
    assert "release what? ASSET=… and QTY=…" in capsys.readouterr().err


def test_the_command_line_adopts_and_pays(
    live: LiveWallet, command: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("wallet-adopt", "main", "--asset", "USDT", "--quantity", "100") == 0
    assert live.one("SELECT cash FROM equity")["cash"] == 100
    again = ("wallet-adopt", "main", "--asset", "AAA", "--quantity", "1", "--key", "k")
    assert [command(*again), command(*again)] == [0, 0]
    assert live.unmanaged()["AAA"] == 1
    assert command("wallet", "w", "--capital", "50") == 0
    assert command("wallet-deposit", "w", "--quantity", "10.5") == 0
    assert command("wallet-withdraw", "w", "--quantity", "0.5") == 0
    assert live.one("SELECT cash FROM equity e JOIN wallets w ON w.id = wallet_id WHERE name = 'w'")["cash"] == 60
    capsys.readouterr()
    for words, cause in (
        (("wallet-adopt", "main", "--asset", "USDT"), "adopt what? ASSET=… and QTY=…"),
        (("wallet-adopt", "main", "--asset", "USDT", "--quantity", "-5"), "QTY=-5: must be above 0"),
        (("wallet-deposit", "w"), "how much? QTY=…"),
        (("wallet-deposit", "--quantity", "5"), "wallet-deposit which wallet?"),
        (("wallet-adopt", "main"), "there is no config/wallets.json"),
    ):
        assert command(*words) == 2 if "json" not in cause else command(*words) == 1
        assert cause in capsys.readouterr().err
    (tmp_path / "wallets.json").write_text(file_text(managed_capital=1000))
    assert command("wallet-adopt", "main") == 2
    assert "the wallet manages money already" in capsys.readouterr().err


def test_the_command_line_adopts_managed_capital(live: LiveWallet, command: Command, tmp_path: Path) -> None:
    (tmp_path / "wallets.json").write_text(file_text(managed_capital=1000))
    assert command("wallet-adopt", "main") == 0
    assert live.one("SELECT cash FROM equity")["cash"] == 1000
