from __future__ import annotations

import json
from dataclasses import replace
from datetime import date, datetime, timedelta
from decimal import Decimal
from threading import Barrier, Thread
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from meta_controller.llm_record import (
    AlreadyAsked,
    BudgetRefused,
    NewCall,
    Spending,
    close_call,
    cost,
    open_call,
    spending,
)
from shared.db import Database, role_url
from shared.errors import SextantError
from shared.settings import LlmModelSettings, LlmSettings, Settings
from tests.helpers import NOON, DatabaseFor

pytestmark = pytest.mark.usefixtures("rolled_back")

HOUR = timedelta(hours=1)
DEAR = LlmModelSettings(input_usd=1.0, output_usd=4.0, knowledge_cutoff=date(2024, 1, 1))
FREE = LlmModelSettings(input_usd=0.0, output_usd=0.0, knowledge_cutoff=date(2024, 1, 1))
LLM = LlmSettings(models={"dear": DEAR, "free": FREE}, usd_an_hour=0.01, usd_a_day=0.03, usd_a_month=0.05)
CALL = NewCall(
    purpose="news", as_of=NOON, model="dear", endpoint="127.0.0.1:9", prompt="news.v1", prompt_sha256="0" * 64,
    inputs={"prompt": "news.v1"}, request={"messages": []}, statistics={}, memory_ids=(), config_before_id=None,
    tokens_in=2000, tokens_out=500,
)  # fmt: skip
WORST = Decimal("0.004")  # of CALL
ROW = "SELECT * FROM llm_calls WHERE id = %(id)s"


@pytest.fixture
def database(database_for: DatabaseFor) -> Database:
    return database_for("meta_controller")


def close(database: Database, call_id: int, **changes: Any) -> Decimal:
    end: dict[str, Any] = {
        "status": "answered", "responses": ["{}"], "answer": {"topic": "macro"}, "error": None, "tokens_in": 1000,
        "tokens_out": 250, "settings": LLM, "model": "dear", "latency_s": 0.5, "now": NOON,
    }  # fmt: skip
    return close_call(database, call_id, **end | changes)


def row(database: Database, call_id: int) -> dict[str, Any]:
    found = database.fetch_one(ROW, {"id": call_id})
    assert found is not None
    return found


def count(database: Database) -> int:
    found = database.fetch_one("SELECT count(*) AS n FROM llm_calls")
    assert found is not None
    return int(found["n"])


@pytest.mark.usefixtures("own_database")
def test_a_reservation_is_committed_before_anything_is_sent(database: Database, database_for: DatabaseFor) -> None:
    call_id = open_call(database, LLM, CALL, NOON)
    seen = row(database_for("policy"), call_id)  # another connection
    assert (seen["status"], seen["reserved_usd"], seen["cost_usd"]) == ("sent", WORST, None)
    assert (seen["knowledge_cutoff"], seen["recorded_at"]) == (date(2024, 1, 1), NOON)
    with database.transaction(), pytest.raises(RuntimeError, match="outside any transaction"):
        open_call(database, LLM, CALL, NOON)


def test_an_end_writes_what_came_and_what_it_cost(database: Database) -> None:
    call_id = open_call(database, LLM, CALL, NOON)
    assert close(database, call_id, now=NOON + HOUR) == Decimal("0.002")
    end = row(database, call_id)
    assert (end["status"], end["tokens_in"], end["tokens_out"], end["cost_usd"], end["ended_at"]) == (
        "answered", 1000, 250, Decimal("0.002"), NOON + HOUR,
    )  # fmt: skip
    assert (end["answer"], json.loads(end["responses"]), end["latency_s"]) == ({"topic": "macro"}, ["{}"], 0.5)


def test_costs_are_rounded_up(database: Database) -> None:
    odd = DEAR.model_copy(update={"input_usd": 0.001})
    assert cost(odd, 1, 0) == Decimal("0.00000001")
    assert cost(odd, 10, 0) == Decimal("0.00000001")
    assert cost(odd, 11, 0) == Decimal("0.00000002")
    assert cost(DEAR, 0, 0) == 0
    with pytest.raises(ValueError, match="counted from 0"):
        cost(DEAR, -1, 5)


@pytest.mark.parametrize(
    ("cap", "ago", "told"),
    [("usd_an_hour", HOUR / 2, "llm.usd_an_hour is spent or reserved in the last hour"),
     ("usd_a_day", 23 * HOUR, "llm.usd_a_day is spent or reserved in the last day"),
     ("usd_a_month", 29 * 24 * HOUR, "llm.usd_a_month is spent or reserved in the last 30 days")],
)  # fmt: skip
def test_each_cap_refuses_and_is_named(database: Database, cap: str, ago: timedelta, told: str) -> None:
    wide = {"usd_an_hour": 1.0, "usd_a_day": 1.0, "usd_a_month": 1.0}
    tight = LLM.model_copy(update=wide | {cap: 0.0079})
    open_call(database, tight, CALL, NOON - ago)
    with pytest.raises(BudgetRefused, match="may cost") as refused:
        open_call(database, tight, CALL, NOON)
    assert "$0.00400000, and $0.00400000 of the $0.0079 of " + told in str(refused.value)
    assert count(database) == 1
    open_call(database, LLM.model_copy(update=wide | {cap: 0.008}), CALL, NOON)  # exactly the cap is within it


def test_what_has_left_the_window_counts_no_more(database: Database) -> None:
    tight = LLM.model_copy(update={"usd_an_hour": 0.004})
    open_call(database, tight, CALL, NOON - HOUR)
    open_call(database, tight, CALL, NOON)
    with pytest.raises(BudgetRefused):
        open_call(database, tight, CALL, NOON + HOUR - timedelta(microseconds=1))


@pytest.mark.usefixtures("own_database")
def test_a_crash_leaves_a_reservation_that_counts(database: Database, settings: Settings) -> None:
    tight = LLM.model_copy(update={"usd_an_hour": 0.007})
    dying = Database(role_url(settings, "meta_controller"))
    open_call(dying, tight, CALL, NOON)
    dying.close()
    with pytest.raises(BudgetRefused):
        open_call(database, tight, CALL, NOON + HOUR / 2)
    assert spending(database, NOON + HOUR / 2) == Spending(WORST, WORST, WORST)


def test_a_clock_set_back_opens_no_purse(database: Database) -> None:
    tight = LLM.model_copy(update={"usd_an_hour": 0.007})
    open_call(database, tight, CALL, NOON)
    with pytest.raises(BudgetRefused):
        open_call(database, tight, CALL, NOON - 365 * 24 * HOUR)


def test_a_model_without_a_price_is_not_asked(database: Database) -> None:
    with pytest.raises(BudgetRefused, match=r'add \[llm.models."new:8b"\] to config/settings.toml'):
        open_call(database, LLM, replace(CALL, model="new:8b"), NOON)
    assert count(database) == 0


def test_what_costs_nothing_is_recorded_and_never_refused(database: Database) -> None:
    purse = LLM.model_copy(update={"usd_an_hour": 0.004})
    close(database, open_call(database, purse, CALL, NOON), tokens_in=9000, tokens_out=9000)  # over the cap by now
    call_id = open_call(database, purse, replace(CALL, model="free"), NOON)
    assert close(database, call_id, model="free") == 0
    assert (row(database, call_id)["cost_usd"], count(database)) == (0, 2)


def test_what_was_billed_beyond_the_reservation_is_seen_by_the_next(database: Database) -> None:
    call_id = open_call(database, LLM, CALL, NOON)
    assert close(database, call_id, tokens_in=4000, tokens_out=1000) == Decimal("0.008")
    with pytest.raises(BudgetRefused, match=r"\$0.00800000 of the \$0.01 of llm.usd_an_hour"):
        open_call(database, LLM, CALL, NOON)


@pytest.mark.parametrize("odd", [-1, None, 2**31, True, "7", 1.5, float("nan"), 0])
def test_token_counts_that_cannot_be_leave_the_reservation_as_the_cost(database: Database, odd: Any) -> None:
    call_id = open_call(database, LLM, CALL, NOON)
    assert close(database, call_id, tokens_in=odd) == WORST
    assert row(database, call_id)["cost_usd"] == WORST
    assert close(database, open_call(database, LLM, CALL, NOON), tokens_out=odd) == WORST


def test_what_was_never_reached_costs_nothing_and_an_embedding_writes_no_tokens(database: Database) -> None:
    nothing = {"status": "failed", "answer": None, "error": "connection refused", "tokens_in": 0, "tokens_out": 0}
    assert close(database, open_call(database, LLM, CALL, NOON), **nothing) == 0
    embedding = open_call(database, LLM, replace(CALL, purpose="embedding", tokens_out=0), NOON)
    assert close(database, embedding, tokens_in=100, tokens_out=0) == Decimal("0.0001")


def test_a_price_that_left_the_settings_leaves_the_reservation(database: Database) -> None:
    call_id = open_call(database, LLM, CALL, NOON)
    assert close(database, call_id, settings=LLM.model_copy(update={"models": {}})) == WORST


@pytest.mark.parametrize(
    ("end", "stored"),
    [({"status": "answered", "answer": None}, ("rejected", None, "answered, but without an object")),
     ({"status": "failed", "answer": None}, ("failed", None, "no reason was given")),
     ({"status": "failed", "answer": None, "error": "\x00\ud800 bad"}, ("failed", None, "\ufffd? bad")),
     ({"status": "rejected", "answer": {"a": [float("nan"), "\x00"], "b\x00": float("inf")}, "error": "out of bounds"},
      ("rejected", {"a": [None, "\ufffd"], "b\ufffd": None}, "out of bounds")),
     ({"latency_s": float("nan"), "responses": ["\x00\ud800"]}, ("answered", {"topic": "macro"}, None)),
     ({"latency_s": -1.0, "error": "but fine"}, ("answered", {"topic": "macro"}, None)),
     ({"status": "failed", "error": "x" * 9999}, ("failed", {"topic": "macro"}, "x" * 2000))],
)  # fmt: skip
def test_odd_ends_are_recorded_not_raised(database: Database, end: dict[str, Any], stored: tuple[Any, ...]) -> None:
    call_id = open_call(database, LLM, CALL, NOON)
    close(database, call_id, **end)
    seen = row(database, call_id)
    assert (seen["status"], seen["answer"], seen["error"]) == stored
    assert json.loads(seen["responses"]) == end.get("responses", ["{}"])
    assert seen["latency_s"] in (0.5, None)


def test_the_first_end_stays(database: Database) -> None:
    call_id = open_call(database, LLM, CALL, NOON)
    first = close(database, call_id)
    before = row(database, call_id)
    assert close(database, call_id, tokens_in=2000, status="failed", error="again") == first
    assert row(database, call_id) == before
    with pytest.raises(SextantError, match="was never opened"):
        close(database, call_id + 999)


def test_the_strategist_is_asked_once_a_moment(database: Database) -> None:
    strategist = replace(CALL, purpose="strategist", prompt="strategist.v1")
    call_id = open_call(database, LLM, strategist, NOON)
    with pytest.raises(AlreadyAsked) as asked:
        open_call(database, LLM, strategist, NOON)
    assert asked.value.status == "sent"
    close(database, call_id, status="failed", answer=None, error="timeout")
    with pytest.raises(AlreadyAsked, match=r"2024-06-01T12:00:00\+00:00 before \(failed\)") as asked:
        open_call(database, LLM, strategist, NOON)
    assert (asked.value.status, count(database)) == ("failed", 1)
    open_call(database, LLM, replace(strategist, as_of=NOON + HOUR), NOON)
    open_call(database, LLM, replace(strategist, purpose="probe"), NOON)


def together(settings: Settings, calls: list[NewCall], llm: LlmSettings) -> list[Any]:
    """Opens all calls at once, each from a connection of its own; what each got."""
    start, got = Barrier(len(calls)), list[Any]([None] * len(calls))

    def one(n: int) -> None:
        mine = Database(role_url(settings, "meta_controller"))
        assert mine.connection is not None
        start.wait(timeout=20)
        try:
            got[n] = open_call(mine, llm, calls[n], NOON)
        except (BudgetRefused, AlreadyAsked) as refused:
            got[n] = type(refused)
        finally:
            mine.close()

    threads = [Thread(target=one, args=(n,)) for n in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
    return got


@pytest.mark.usefixtures("own_database")
def test_two_processes_at_once_cannot_overspend(database: Database, settings: Settings) -> None:
    for n in range(10):
        calls = [CALL] * 4
        room_for_two = LLM.model_copy(update={"usd_an_hour": 0.008 * (n + 1), "usd_a_day": 1.0, "usd_a_month": 1.0})
        got = together(settings, calls, room_for_two)
        assert sum(isinstance(one, int) for one in got) == 2
        assert got.count(BudgetRefused) == 2
        assert spending(database, NOON).hour == Decimal("0.008") * (n + 1)


@pytest.mark.usefixtures("own_database")
def test_two_processes_at_once_ask_the_strategist_once(database: Database, settings: Settings) -> None:
    got = together(settings, [replace(CALL, purpose="strategist")] * 3, LLM)
    assert sum(isinstance(one, int) for one in got) == 1
    assert got.count(AlreadyAsked) == 2
    assert count(database) == 1


@pytest.fixture(scope="module")
def ledger() -> list[int]:
    return [0]


STEPS = st.lists(
    st.tuples(
        st.integers(0, 7200),  # seconds since the step before
        st.integers(0, 6000),  # tokens in, at most
        st.integers(0, 1500),
        st.sampled_from(["crash", "close", "bad count", "fail"]),
        st.floats(0.0, 1.0),  # share of them that was used
    ),
    max_size=12,
)


@settings(
    max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True
)
@given(steps=STEPS)
def test_no_trailing_window_ever_holds_more_than_its_cap(
    database: Database, ledger: list[int], steps: list[tuple[int, int, int, str, float]]
) -> None:
    ledger[0] += 1
    at = NOON + timedelta(days=100 * ledger[0])  # each example has its months to itself
    opened: list[tuple[datetime, int]] = []
    for wait, tokens_in, tokens_out, end, used in steps:
        at += timedelta(seconds=wait)
        call = replace(CALL, tokens_in=tokens_in, tokens_out=tokens_out)
        try:
            opened.append((at, open_call(database, LLM, call, at)))
        except BudgetRefused:
            continue
        counts = {"tokens_in": int(tokens_in * used), "tokens_out": int(tokens_out * used)}
        if end == "close":
            close(database, opened[-1][1], now=at, **counts)
        elif end == "bad count":
            close(database, opened[-1][1], now=at, tokens_in=None)
        elif end == "fail":
            close(database, opened[-1][1], now=at, status="failed", error="500", **counts)
    spent = [(when, Decimal(c["cost_usd"] if c["cost_usd"] is not None else c["reserved_usd"]))
             for when, c in ((when, row(database, id_)) for when, id_ in opened)]  # fmt: skip
    caps = ((HOUR, LLM.usd_an_hour), (24 * HOUR, LLM.usd_a_day), (30 * 24 * HOUR, LLM.usd_a_month))
    for until, _ in spent:
        for span, cap in caps:
            assert sum(c for when, c in spent if until - span < when <= until) <= Decimal(str(cap))
