from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from meta_controller.assess_llm import book_ahead, main, run_once
from meta_controller.bounds import SAFE_DEFAULT
from meta_controller.controller import HorizonCall, Proposal
from meta_controller.llm_memory import decision_of, remember
from meta_controller.trust import ENOUGH
from meta_controller.trust_rows import newest_trust
from shared.clock import ReplayClock, SystemClock
from shared.db import Database
from shared.job import Outcome
from shared.settings import PROJECT, Settings
from tests.helpers import DatabaseFor
from tests.meta_controller.llm_past import DAY, FIRST, HOUR, INSERT_FLOW, INSERT_TRUST, LONG, SHORT, Past

pytestmark = pytest.mark.usefixtures("rolled_back")

TRUST = "SELECT * FROM llm_trust ORDER BY as_of, recorded_at"
ALERTS = "SELECT severity, key, message FROM alerts WHERE key LIKE 'llm-%' ORDER BY id"


@pytest.fixture
def past(database_for: DatabaseFor) -> Past:
    return Past(database_for)


@pytest.fixture
def database(database_for: DatabaseFor) -> Database:
    return database_for("meta_controller")


@pytest.fixture
def trusted(settings: Settings) -> Settings:
    return with_llm(settings, mode="trusted", model="good")


def with_llm(settings: Settings, **changes: Any) -> Settings:
    return settings.model_copy(update={"llm": settings.llm.model_copy(update=changes)})


def assess(database: Database, settings: Settings, day: float) -> Outcome:
    """Twenty past midnight of the day that is ``day`` days after FIRST."""
    return run_once(ReplayClock(FIRST + day * DAY + HOUR / 3), database, settings)


def test_an_llm_that_was_never_asked_is_not_assessed(database: Database, trusted: Settings) -> None:
    outcome = assess(database, trusted, 200)
    assert (outcome.status, outcome.result) == (
        "nothing",
        {"memories_settled": 0,
         "reason": "good with strategist.v1 has made no call that counts: there is nothing to assess"},
    )  # fmt: skip
    assert database.fetch(TRUST) == []


def test_who_has_earned_it_rises_a_step_a_day(past: Past, database: Database, trusted: Settings) -> None:
    past.scored(127)
    past.books(127, edge=0.002)
    for day, expected in ((120, 0.0), (121, 0.1), (127, 0.2)):
        outcome = assess(database, trusted, day)
        assert (outcome.status, outcome.result["weight"]) == ("done", expected)
    last = database.fetch(TRUST)[-1]
    assert (last["as_of"], last["known_from"]) == (FIRST + 127 * DAY, FIRST + 127 * DAY)
    assert (last["calls"], last["days"]) == (127 * 7, pytest.approx(127 - 1 / 6))
    assert last["e_better"] >= ENOUGH > last["e_worse"]
    assert last["p_book"] >= 0.95
    alerts = database.fetch(ALERTS)
    assert [(a["severity"], a["key"]) for a in alerts] == [("info", "llm-promoted:good with strategist.v1")] * 2
    assert "raised from 0 to 0.1" in alerts[0]["message"]


def test_twice_changes_nothing(past: Past, database: Database, trusted: Settings) -> None:
    past.scored(3)
    first = assess(database, trusted, 2)
    before = database.fetch(TRUST)
    again = assess(database, trusted, 2.9)
    assert (first.status, again.status) == ("done", "nothing")
    assert "good with strategist.v1 was assessed for 2024-06-03: stays at 0" in again.result["reason"]
    assert database.fetch(TRUST) == before
    assert len(before) == 1


@pytest.mark.parametrize("missing", ["better calls", "days", "book ahead", "books"])
def test_each_condition_alone_keeps_the_weight_at_zero(
    missing: str, past: Past, database: Database, trusted: Settings
) -> None:
    days = 110 if missing == "days" else 121
    past.scored(days, nearness=0.5 if missing == "better calls" else 1.0)
    if missing != "books":
        past.books(days, edge=0.00005 if missing == "book ahead" else 0.002)
    outcome = assess(database, trusted, days)
    assert outcome.result["weight"] == 0.0
    told = {"better calls": "not shown to be better", "days": "fewer than 120 days",
            "book ahead": "its paper book is not shown to be ahead", "books": "no books to compare"}  # fmt: skip
    assert told[missing] in outcome.result["verdict"]
    held = {"better calls": outcome.result["e_better"] >= ENOUGH, "days": outcome.result["days"] >= 120,
            "book ahead": (outcome.result["p_book"] or 0.0) >= 0.95}  # fmt: skip
    assert [name for name, fine in held.items() if not fine] == ["book ahead" if missing == "books" else missing]
    assert database.fetch(ALERTS) == []


def test_who_falls_silent_is_demoted(past: Past, database: Database, trusted: Settings) -> None:
    past.scored(122)
    past.books(130, edge=0.002)
    assert [assess(database, trusted, day).result["weight"] for day in (121, 129)] == [0.1, 0.2]
    outcome = assess(database, trusted, 130)
    assert outcome.result["weight"] == 0.0
    assert outcome.result["verdict"].startswith("demoted from 0.2 to 0: no call of its own was scored in 7 days")
    alert = database.fetch(ALERTS)[-1]
    assert (alert["severity"], alert["key"]) == ("warning", "llm-demoted:good with strategist.v1")
    assert "demoted from 0.2 to 0" in alert["message"]


def test_who_becomes_worse_is_demoted(past: Past, database: Database, trusted: Settings) -> None:
    past.scored(122)
    past.scored(60, nearness=0.0, first=FIRST + 122 * DAY, seed=9)
    past.books(182, edge=0.002)
    assert assess(database, trusted, 121).result["weight"] == 0.1
    outcome = assess(database, trusted, 182)
    assert outcome.result["verdict"].startswith("demoted from 0.1 to 0: its calls are worse than the pool's")
    assert outcome.result["e_worse"] >= ENOUGH


def test_whose_book_falls_behind_is_demoted(past: Past, database: Database, trusted: Settings) -> None:
    past.scored(10, first=FIRST + 130 * DAY)
    llm, rules = past.wallet("llm"), past.wallet("rules")
    past.owner.execute(INSERT_TRUST, {"as_of": FIRST + 139 * DAY, "at": FIRST + 140 * DAY, "weight": 0.1})
    past.call(FIRST)
    past.equity(rules, np.random.default_rng(1).normal(0.0, 0.01, 140))
    past.equity(llm, np.random.default_rng(1).normal(0.0, 0.01, 140) - 0.002)
    outcome = assess(database, trusted, 140)
    assert outcome.result["verdict"].startswith("demoted from 0.1 to 0: its paper book is behind")


def test_another_model_or_prompt_starts_over_at_zero(past: Past, database: Database, trusted: Settings) -> None:
    past.scored(121)
    past.books(124, edge=0.002)
    assert assess(database, trusted, 121).result["weight"] == 0.1
    other = with_llm(trusted, prompt="strategist.v2")
    assert assess(database, other, 121).status == "nothing"
    past.scored(2, first=FIRST + 121 * DAY, prompt="strategist.v2")
    found = assess(database, other, 123).result
    assert (found["weight"], found["calls"], found["p_book"]) == (0.0, 14, None)
    assert found["verdict"].startswith("stays at 0: ")
    back = assess(database, trusted, 124).result  # its calls are still good, but its book is of a day
    assert (back["weight"], back["p_book"]) == (0.0, None)
    assert back["verdict"].startswith("stays at 0: its paper book is not shown to be ahead (")


def test_only_clean_calls_of_the_past_count_once_a_horizon(past: Past, database: Database, trusted: Settings) -> None:
    past.scored(2)
    base = assess(database, trusted, 2).result["calls"]
    assert base == 14
    p, at = np.full(6, 1 / 3), FIRST + 2 * DAY

    def one(hours: float, horizon_s: int, expert_pool: bool = True, **more: Any) -> None:
        as_of = at + hours * HOUR
        past.regime("llm", as_of, horizon_s, p, past.call(as_of, **{"purpose": "probe"} | more.pop("call", {})), **more)
        if expert_pool:
            past.regime("pool", as_of, horizon_s, p)
        past.outcome(as_of, horizon_s, 0, 0)

    one(0, SHORT)  # counts
    one(1, SHORT)  # overlaps
    one(4, SHORT, contaminated=True)
    one(8, SHORT, recorded_at=at + 12 * HOUR)  # when its outcome was known
    one(12, SHORT, expert_pool=False)
    one(16, SHORT, call={"model": "other"})
    one(0, LONG)  # counts
    one(4, LONG)  # overlaps
    one(24, LONG)  # not settled
    last = at + 20 * HOUR
    past.regime("llm", last, SHORT, p, past.call(last))
    past.regime("pool", last, SHORT, p)
    past.outcome(last, SHORT, 0, 0, late=HOUR)  # known after the midnight
    assert assess(database, trusted, 3).result["calls"] == base + 2


def test_a_past_day_is_assessed_by_what_was_known_then(past: Past, database: Database, trusted: Settings) -> None:
    past.scored(65, nearness=0.9)
    llm, _ = past.books(65, edge=0.001)
    assess(database, trusted, 62)
    (before,) = database.fetch(TRUST)
    past.owner.execute("DELETE FROM llm_trust")
    past.owner.execute("UPDATE regime_outcomes SET trend = 'up' WHERE known_from > %(at)s", {"at": FIRST + 62 * DAY})
    past.owner.execute(
        "UPDATE decisions SET equity = 1 WHERE wallet_id = %(llm)s AND as_of > %(at)s",
        {"llm": llm, "at": FIRST + 62 * DAY},
    )
    assess(database, trusted, 62)
    assert database.fetch(TRUST) == [before]
    assert before["p_book"] is not None


def test_in_shadow_it_is_scored_and_not_followed(past: Past, database: Database, trusted: Settings) -> None:
    past.scored(121)
    past.books(121, edge=0.002)
    found = assess(database, with_llm(trusted, mode="shadow"), 121).result
    assert (found["weight"], found["e_better"] >= ENOUGH, found["p_book"] >= 0.95) == (0.0, True, True)
    assert found["verdict"].startswith("mode shadow: the LLM is not followed")
    assert database.fetch(ALERTS) == []
    assert assess(database, with_llm(trusted, mode="full"), 122).status == "done"
    assert database.fetch(TRUST)[-1]["weight"] == 0.1  # what it would have earned


def ahead(database: Database, day: int) -> float | None:
    return book_ahead(database, {"as_of": FIRST + day * DAY, "model": "good", "prompt": "strategist.v1"})


def test_books_are_compared_over_sixty_common_days(past: Past, database: Database) -> None:
    assert ahead(database, 100) is None
    past.call(FIRST)
    past.books(100, edge=0.002)
    assert ahead(database, 59) is None
    sixty, hundred = ahead(database, 60), ahead(database, 100)
    assert sixty is not None
    assert hundred is not None
    assert hundred > 0.95
    past.owner.execute("DELETE FROM decisions WHERE as_of = %(at)s", {"at": FIRST + 30 * DAY})
    assert ahead(database, 61) is None  # a day without an end has no return, nor has the day after
    assert ahead(database, 62) is not None


@pytest.mark.parametrize("other", [{"fee": 10.0}, {"symbols": ("BBB/USDT",)}, {"mode": "live"}])
def test_only_paper_books_on_the_same_terms_are_compared(other: dict[str, Any], past: Past, database: Database) -> None:
    past.call(FIRST)
    past.equity(past.wallet("llm"), np.full(70, 0.001))
    past.equity(past.wallet("rules", **other), np.full(70, 0.0))
    assert ahead(database, 70) is None


def test_days_on_which_money_came_or_went_are_left_out(past: Past, database: Database) -> None:
    past.call(FIRST)
    llm, rules = past.books(62, edge=-0.002)
    past.owner.execute(
        "UPDATE decisions SET equity = equity * 3 WHERE wallet_id = %(llm)s AND as_of >= %(at)s",
        {"llm": llm, "at": FIRST + 30 * DAY},
    )
    fooled = ahead(database, 62)
    past.owner.execute(INSERT_FLOW, {"wallet_id": llm, "at": FIRST + 29.5 * DAY})
    honest = ahead(database, 62)
    assert fooled is not None
    assert honest is not None
    assert honest < 0.05 < fooled
    for day in (10, 20):
        past.owner.execute(INSERT_FLOW, {"wallet_id": rules, "at": FIRST + day * DAY})
    assert ahead(database, 62) is None  # 59 days are left


def test_a_book_steered_by_another_model_says_nothing_of_this_one(past: Past, database: Database) -> None:
    past.call(FIRST)
    past.call(FIRST + 39 * DAY, model="other")
    past.books(100, edge=0.002)
    assert ahead(database, 98) is None
    assert ahead(database, 99) is not None


def test_a_book_says_nothing_of_the_time_that_the_model_may_have_read_about(past: Past, database: Database) -> None:
    past.call(FIRST)
    read = past.call(FIRST + 39 * DAY)
    past.owner.execute(
        "UPDATE llm_calls SET knowledge_cutoff = %(day)s WHERE id = %(id)s",
        {"day": (FIRST + 10 * DAY).date(), "id": read},
    )
    past.call(FIRST + 40 * DAY)
    past.books(100, edge=0.002)
    assert ahead(database, 98) is None
    assert ahead(database, 99) is not None


def proposal() -> Proposal:
    calls = tuple(HorizonCall(h, 0.5, 0.3, 0.2, 0.2, 0.3, 0.5, 0.1, "why") for h in (SHORT, LONG))
    return Proposal(calls, SAFE_DEFAULT, "why")


def test_memories_are_settled_even_on_a_day_without_an_assessment(
    past: Past, database: Database, trusted: Settings
) -> None:
    past.scored(1)
    (call,) = database.fetch("SELECT id FROM llm_calls WHERE as_of = %(at)s", {"at": FIRST})
    remember(database, call["id"], FIRST, None, "calm", "local", decision_of(proposal()), FIRST, FIRST)
    assert assess(database, trusted, 0.5).result["memories_settled"] == 0
    other = with_llm(trusted, model="never asked")
    outcome = assess(database, other, 1)
    assert (outcome.status, outcome.result["memories_settled"]) == ("done", 1)
    (memory,) = database.fetch("SELECT outcome, outcome_recorded_at FROM memory_logs")
    assert memory["outcome"] is not None
    assert memory["outcome_recorded_at"] == FIRST + DAY + HOUR / 3
    assert assess(database, other, 1).status == "nothing"


def test_trust_is_read_as_it_was_known_and_recorded(past: Past, database: Database) -> None:
    for day, weight in ((121, 0.1), (122, 0.2)):
        row = {"as_of": FIRST + day * DAY, "at": FIRST + day * DAY + HOUR / 3, "weight": weight}
        past.owner.execute(INSERT_TRUST, row)

    def read(day: float, recorded: float, model: str = "good") -> tuple[float, float] | None:
        trust = newest_trust(database, FIRST + day * DAY, FIRST + recorded * DAY, model, "strategist.v1")
        return None if trust is None else ((trust.as_of - FIRST) / DAY, trust.weight)

    assert read(122.5, 123) == (122, 0.2)
    assert read(122.5, 122) == (121, 0.1)  # the newer one was recorded at twenty past
    assert read(121.9, 123) == (121, 0.1)
    assert read(120.9, 123) is None
    assert read(122.5, 123, "other") is None
    assert read(125, 126) == (122, 0.2)
    assert read(125.1, 126) == (122, 0.0)  # nobody has looked for more than three days
    trust = newest_trust(database, FIRST + 130 * DAY, FIRST + 130 * DAY, "good", "strategist.v1")
    assert trust is not None
    assert trust.temperature == 1.5


@pytest.mark.usefixtures("own_database")
def test_the_command_assesses_a_past_day(
    past: Past, database: Database, trusted: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    past.scored(2)
    monkeypatch.setattr("shared.job.load_settings", lambda: trusted)
    assert main(["--at", (FIRST + DAY).isoformat()]) == 0
    (row,) = database.fetch(TRUST)
    assert row["as_of"] == FIRST + DAY
    # A prompt of the days since is built again from what was recorded by then: this was not.
    assert row["recorded_at"] > SystemClock().now() - HOUR
    assert newest_trust(database, FIRST + 2 * DAY, FIRST + 2 * DAY, "good", "strategist.v1") is None


def loaded(module: str) -> Iterator[str]:
    code = f"import sys, {module} as _; print(*sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, check=True)
    yield from found.stdout.split()


def test_the_job_imports_nothing_heavy_and_the_hourly_job_not_even_performance() -> None:
    heavy = {"torch", "scipy", "pandas", "numba", "matplotlib", "rich", "openai"}
    assert heavy.isdisjoint(loaded("meta_controller.assess_llm"))
    assert (heavy | {"shared.performance", "meta_controller.scoring"}).isdisjoint(loaded("meta_controller.trust_rows"))
