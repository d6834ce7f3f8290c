"""What the feed saw of a venue forbids entries while it holds, and never an exit."""

from __future__ import annotations

import pytest

from policy.observation import HORIZONS_S
from shared.settings import Settings
from tests.helpers import NOON, DatabaseFor
from tests.policy.paper_world import (
    DECISIONS,
    DELAY,
    MINUTE,
    ORDERS,
    A,
    B,
    PaperMarket,
    ScriptedPolicy,
    at,
    insert_embeddings,
    insert_state,
    install_scripted_policy,
    store_flat,
)

pytestmark = pytest.mark.usefixtures("rolled_back")

UNSEEN = "nobody has looked at test and its clock since"
DECIDED_AT = at("13:00") + DELAY
INSERT_CHECK = """
INSERT INTO venue_checks (venue, status, clock_skew_s, round_trip_s, recorded_at)
VALUES (%(venue)s, %(status)s, %(skew)s, %(round_trip)s, %(recorded_at)s)
"""


@pytest.fixture
def market(database_for: DatabaseFor, settings: Settings) -> PaperMarket:
    return PaperMarket(database_for, settings)


@pytest.fixture
def policy(market: PaperMarket, monkeypatch: pytest.MonkeyPatch) -> ScriptedPolicy:
    return install_scripted_policy(market, monkeypatch)


def decide(
    market: PaperMarket,
    policy: ScriptedPolicy,
    checks: list[tuple[str, str, float | None, int]],
    round_trip: float | None = None,
) -> str:
    """Trades one hour in which the policy wants to sell all of B and buy A; returns why A was not bought.

    A check is (venue, status, skew in seconds, minutes before the decision).
    """
    instruments = [store_flat(market, A), store_flat(market, B)]
    wallet = market.wallet("w", NOON)
    market.order(wallet, instruments[1], "buy", "20", at("12:02"))
    for moment in ("12:02", "12:10"):
        market.send(at(moment))
    market.settle()
    policy.script[at("13:00")] = (1.0, -1.0)
    insert_embeddings(market, policy.encoder_id, instruments, at("13:00"))
    for horizon_s in HORIZONS_S:
        insert_state(market, at("13:00"), horizon_s)
    for venue, status, skew, minutes in checks:
        row = {"venue": venue, "status": status, "skew": skew, "round_trip": round_trip,
               "recorded_at": DECIDED_AT - minutes * MINUTE}  # fmt: skip
        market.database_for("candles").execute(INSERT_CHECK, row)
    market.trade(DECIDED_AT)
    orders = [(o["symbol"], o["side"]) for o in market.rows(ORDERS)]
    assert (B, "sell") in orders, "an exit is never blocked"
    (row,) = [row for row in market.rows(DECISIONS) if row["as_of"] == at("13:00") and row["symbol"] == A]
    because = [clamp["because"] for clamp in row["clamps"] if clamp["rule"] == "fresh_data"]
    assert bool(because) == ((A, "buy") not in orders)
    return because[0] if because else ""


@pytest.mark.parametrize(
    ("checks", "why"),
    [
        ([], ""),
        ([("test", "online", 5.0, 1)], ""),
        ([("test", "online", 5.1, 1)], "this machine's clock is 5.1 s ahead of test's"),
        ([("test", "online", -7.25, 1)], "this machine's clock is 7.2 s behind test's"),
        ([("test", "maintenance", 0.0, 1)], "test is maintenance"),
        ([("test", "cancel_only", None, 1)], "test is cancel only"),
        ([("test", "unreachable", None, 1)], "test is unreachable"),
        ([("test", "online", 60.0, 6), ("test", "online", 0.1, 1)], ""),
        ([("test", "online", 0.1, 6), ("test", "online", 60.0, 1)], "this machine's clock is 60.0 s ahead of test's"),
        (
            [("test", "online", 0.0, 15)],
            f"{UNSEEN} 2024-06-01 12:47: is the feed running?",
        ),
        ([("test", "online", 60.0, 14)], "this machine's clock is 60.0 s ahead of test's"),
        ([("other", "online", 60.0, 1)], ""),
        ([("test", "online", 60.0, -1)], ""),
    ],
)
def test_the_newest_recent_check_of_the_wallets_own_venue_decides(
    market: PaperMarket, policy: ScriptedPolicy, checks: list[tuple[str, str, float | None, int]], why: str
) -> None:
    assert decide(market, policy, checks) == why


@pytest.mark.parametrize(("round_trip", "doubted"), [(None, True), (0.1, True), (6.0, False)])
def test_what_a_slow_answer_leaves_open_is_not_called_skew(
    market: PaperMarket, policy: ScriptedPolicy, round_trip: float | None, doubted: bool
) -> None:
    assert bool(decide(market, policy, [("test", "online", 7.5, 1)], round_trip)) == doubted
