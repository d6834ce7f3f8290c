"""The whole way from the job to an endpoint and back: the unmodified client against the emulator."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import date, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest
from pydantic import SecretStr

from meta_controller.bounds import BOUNDS, MAX_CHANGE
from meta_controller.llm import Endpoint
from meta_controller.llm_answer import answer_json, parse_answer
from meta_controller.llm_prompt import PromptInputs, build
from meta_controller.regimes.expert import FLOOR
from meta_controller.replay_llm import checks
from meta_controller.run_metacontroller import main, run_once
from shared.clock import ReplayClock
from shared.job import Outcome
from shared.settings import LlmModelSettings, Settings
from tests.helpers import NOON, DatabaseFor
from tests.llm_emulator.behaviours import altered
from tests.llm_emulator.fixtures import llm_emulator  # noqa: F401
from tests.llm_emulator.server import MODEL, LlmEmulator
from tests.meta_controller.test_run_metacontroller import store_market

pytestmark = pytest.mark.usefixtures("rolled_back")

HOUR = timedelta(hours=1)
KEY = "sk-a-secret-that-must-not-leak"
CALLS = "SELECT * FROM llm_calls ORDER BY id"
LIVE = "SELECT * FROM policy_config WHERE track = 'live' ORDER BY as_of"
LLM = "SELECT * FROM policy_config WHERE track = 'llm' ORDER BY as_of"
RULES = "SELECT * FROM policy_config WHERE track = 'rules' ORDER BY as_of"
INSERT_TRUST = """
INSERT INTO llm_trust (as_of, model, prompt, calls, days, e_better, e_worse, p_book, temperature, weight, verdict,
                       known_from, recorded_at)
VALUES (%(at)s, %(model)s, 'strategist.v1', 200, 130, 30, 0.1, 0.97, 2.0, %(weight)s, 'a test', %(at)s, %(at)s)
"""

World = Callable[..., Outcome]


def asking(settings: Settings, **changes: Any) -> Settings:
    """Settings under which the emulator's model may be asked: a dollar a million tokens, and it has read little."""
    model = LlmModelSettings(input_usd=1.0, output_usd=1.0, knowledge_cutoff=date(2023, 1, 1))
    llm = {"model": MODEL, "models": {MODEL: model}, "timeout_s": 4.0, "usd_an_hour": 1.0, "usd_a_day": 10.0,
           "usd_a_month": 100.0} | changes  # fmt: skip
    return settings.model_copy(update={"llm": settings.llm.model_copy(update=llm)})


@pytest.fixture
def run(database_for: DatabaseFor, settings: Settings, llm_emulator: LlmEmulator) -> World:  # noqa: F811
    """Runs the job at a time with the emulator as its endpoint."""
    store_market(database_for, bars=400)

    def run_at(at: datetime = NOON, base_url: str = llm_emulator.base_url, **changes: Any) -> Outcome:
        endpoint = Endpoint(base_url, KEY, MODEL)
        return run_once(ReplayClock(at), database_for("meta_controller"), asking(settings, **changes), None, endpoint)

    return run_at


def test_one_call_its_row_and_its_cost(run: World, database_for: DatabaseFor, llm_emulator: LlmEmulator) -> None:  # noqa: F811
    assert run().status == "done"
    assert run(NOON + HOUR / 2).status == "nothing"  # asked once an hour, however often the job runs
    assert len(llm_emulator.chats) == 1
    database = database_for("meta_controller")
    (call,) = database.fetch(CALLS)
    assert (call["status"], call["purpose"], call["as_of"], call["model"]) == ("answered", "strategist", NOON, MODEL)
    assert 0 < call["cost_usd"] <= call["reserved_usd"]
    assert float(call["cost_usd"]) == pytest.approx((call["tokens_in"] + call["tokens_out"]) / 1e6, rel=1e-3)
    (llm,), (rules,), (live,) = database.fetch(LLM), database.fetch(RULES), database.fetch(LIVE)
    assert (llm["source"], call["config_after_id"]) == ("llm", llm["id"])
    for name in BOUNDS:
        assert llm[name] == call["answer"]["steering"][name]
        assert live[name] == rules[name]  # shadow: nothing is followed
    assert "the LLM's weight is 0" in live["reasons"]
    raw = database.fetch("SELECT * FROM regime_calls WHERE expert = 'llm' ORDER BY horizon_s")
    for row, horizon in zip(raw, ("4h", "24h"), strict=True):
        assert (row["llm_call_id"], row["contaminated"]) == (call["id"], False)
        assert row["p_up"] == call["answer"]["calls"][horizon]["p_up"]
    (memory,) = database.fetch("SELECT * FROM memory_logs")
    assert memory["llm_call_id"] == call["id"]
    for row in (call, llm, live, memory):
        assert KEY not in str(row)


def test_the_call_can_be_replayed_and_its_prompt_built_again(run: World, database_for: DatabaseFor) -> None:
    for hour in range(3):
        run(NOON + hour * HOUR - 2 * HOUR)
    database = database_for("meta_controller")
    for call in database.fetch(CALLS):
        inputs = PromptInputs.model_validate(call["inputs"])
        assert build(database, inputs, call["as_of"], call["recorded_at"]).sha256 == call["prompt_sha256"]
        content = json.loads(json.loads(call["responses"])[-1])["choices"][0]["message"]["content"]
        assert answer_json(parse_answer(content, inputs.strategies)) == call["answer"]


REFUSED = ["401", "429", "500", "503", "cut-body", "html", "empty", "refusal", "truncated", "nan", "huge", "wrong-enum",
           "not-an-object", "duplicate-keys", "content-filter"]  # fmt: skip


@pytest.mark.parametrize("behaviour", REFUSED)
def test_whatever_the_endpoint_does_the_rules_row_is_written_with_the_reason(
    behaviour: str,
    run: World,
    database_for: DatabaseFor,
    llm_emulator: LlmEmulator,  # noqa: F811
) -> None:
    llm_emulator.always(behaviour)
    assert run().status == "done"
    database = database_for("meta_controller")
    (call,) = database.fetch(CALLS)
    assert call["status"] in ("rejected", "failed")
    (llm,), (rules,), (live,) = database.fetch(LLM), database.fetch(RULES), database.fetch(LIVE)
    for row in (llm, live):
        assert row["source"] == "rules"
        assert f"no word of the LLM (call {call['id']}: " in row["reasons"]
        assert call["error"][:40] in row["reasons"]
        assert {name: row[name] for name in BOUNDS} == {name: rules[name] for name in BOUNDS}
    assert database.fetch("SELECT FROM regime_calls WHERE expert = 'llm'") == []
    assert database.fetch("SELECT FROM memory_logs") == []


@pytest.mark.parametrize("behaviour", ["hang", "slow-drip", "endless-text"])
def test_a_late_answer_is_no_answer(
    behaviour: str,
    run: World,
    database_for: DatabaseFor,
    llm_emulator: LlmEmulator,  # noqa: F811
) -> None:
    llm_emulator.always(behaviour)
    run(timeout_s=0.5)
    (call,) = database_for("meta_controller").fetch(CALLS)
    assert call["status"] == "failed"
    assert call["latency_s"] < 3.0
    assert database_for("meta_controller").fetch(LIVE)[0]["source"] == "rules"


def steering(**changes: float) -> Any:
    """A behaviour: the good answer with another steering."""

    def change(text: str) -> str:
        said = json.loads(text)
        said["steering"] |= changes
        return json.dumps(said)

    return altered(change)


@pytest.mark.parametrize(
    ("changes", "told"),
    [({"max_exposure": 1.01}, "max_exposure"), ({"risk_aversion": 0.4}, "risk_aversion"),
     ({"max_position": 0.45}, "max_position")],
)  # fmt: skip
def test_one_field_out_of_bounds_rejects_the_whole_answer(
    changes: dict[str, float], told: str, run: World, database_for: DatabaseFor, settings: Settings,
    llm_emulator: LlmEmulator,  # noqa: F811
) -> None:  # fmt: skip
    """max_position 0.45 is within the database's bounds, and above the operator's own limit of 0.4."""
    llm_emulator.always(steering(**changes))
    risk = settings.risk.model_copy(update={"max_position": 0.4})
    tight = asking(settings.model_copy(update={"risk": risk}))
    run_once(ReplayClock(NOON), database_for("meta_controller"), tight, None,
             Endpoint(llm_emulator.base_url, KEY, MODEL))  # fmt: skip
    (call,) = database_for("meta_controller").fetch(CALLS)
    assert call["status"] == "rejected"
    assert told in call["error"]
    assert database_for("meta_controller").fetch(LLM)[0]["source"] == "rules"
    assert checks(database_for("meta_controller"), call)[0].same


def test_a_jerk_is_rejected_and_a_step_is_not(
    run: World,
    database_for: DatabaseFor,
    llm_emulator: LlmEmulator,  # noqa: F811
) -> None:
    database, step = database_for("meta_controller"), MAX_CHANGE["max_exposure"]
    run(NOON - 2 * HOUR, strategies=("drl",))  # of one strategy the weight is 1, whatever the emulator's dice say
    llm_emulator.script(steering(max_exposure=database.fetch(LLM)[-1]["max_exposure"] - step - 0.01))
    run(NOON - HOUR, strategies=("drl",))
    llm_emulator.script(steering(max_exposure=database.fetch(LLM)[-1]["max_exposure"] - step))
    run(NOON, strategies=("drl",))
    first, jerked, stepped = database.fetch(CALLS)
    for call in (first, jerked, stepped):  # whatever later settings and rows say
        assert [check.same for check in checks(database, call)] == [True, True]
    assert not checks(database, jerked | {"error": "another reason"})[0].same
    assert not checks(database, jerked | {"error": None, "status": "answered"})[0].same
    assert not checks(database, stepped | {"config_after_id": first["config_after_id"]})[0].same
    assert stepped["error"] is None, stepped["error"]
    assert [call["status"] for call in (first, jerked, stepped)] == ["answered", "rejected", "answered"]
    assert "max_exposure" in jerked["error"]
    rows = database.fetch(LLM)
    assert [row["source"] for row in rows] == ["llm", "rules", "llm"]


def test_a_dead_endpoint_for_a_week_leaves_an_unbroken_steering(
    run: World, database_for: DatabaseFor, settings: Settings
) -> None:
    start = NOON - 168 * HOUR
    for hour in range(169):
        run(start + hour * HOUR, base_url="http://127.0.0.1:9/v1")  # the discard port: nobody listens
    database = database_for("meta_controller")
    for query in (LIVE, LLM):
        rows = database.fetch(query)
        called = [row["as_of"] for row in rows]
        assert called == [start + hour * HOUR for hour in range(169) if start + hour * HOUR >= called[0]]
        assert len(called) > 160 - 34  # the market's first days are too short a history
        assert {row["source"] for row in rows} == {"rules"}
        for row, after in pairwise(rows):
            assert row["valid_until"] > after["as_of"]
    assert {call["status"] for call in database.fetch(CALLS)} == {"failed"}


def test_over_budget_nothing_is_sent(run: World, database_for: DatabaseFor, llm_emulator: LlmEmulator) -> None:  # noqa: F811
    run(usd_a_day=0.000001)
    assert llm_emulator.requests == []
    assert database_for("meta_controller").fetch(CALLS) == []
    reasons = database_for("meta_controller").fetch(LIVE)[0]["reasons"]
    assert "no word of the LLM" in reasons
    assert "usd_a_day" in reasons


def test_an_asker_who_died_is_not_followed_by_another(
    run: World,
    database_for: DatabaseFor,
    llm_emulator: LlmEmulator,  # noqa: F811
) -> None:
    run()
    owner = database_for("owner")
    owner.execute("DELETE FROM memory_logs")
    owner.execute("DELETE FROM regime_calls WHERE expert = 'llm'")
    owner.execute("DELETE FROM market_state WHERE track IN ('llm', 'live')")
    owner.execute("UPDATE llm_calls SET status = 'sent', config_after_id = NULL, ended_at = NULL, cost_usd = NULL")
    owner.execute("DELETE FROM policy_config WHERE track IN ('llm', 'live')")
    assert run().status == "done"
    assert len(llm_emulator.chats) == 1
    assert "sent" in database_for("meta_controller").fetch(LIVE)[0]["reasons"]


@pytest.mark.parametrize(("mode", "weight"), [("shadow", 0.0), ("trusted", 0.3), ("full", 1.0)])
def test_live_follows_as_far_as_earned(
    mode: str,
    weight: float,
    run: World,
    database_for: DatabaseFor,
    llm_emulator: LlmEmulator,  # noqa: F811
) -> None:
    database = database_for("meta_controller")
    database.execute(INSERT_TRUST, {"at": NOON - 12 * HOUR, "model": MODEL, "weight": 0.3})
    llm_emulator.always(steering(risk_aversion=9.0))
    run(mode=mode)
    (llm,), (rules,), (live,) = database.fetch(LLM), database.fetch(RULES), database.fetch(LIVE)
    assert llm["risk_aversion"] == 9.0
    for name in BOUNDS:
        assert live[name] == pytest.approx((1 - weight) * rules[name] + weight * llm[name])
    states = database.fetch("SELECT * FROM market_state WHERE horizon_s = 86400")
    by_track = {row["track"]: row for row in states}
    assert by_track["live"]["source"] == ("pool" if weight == 0 else "pool+llm")
    answer = database.fetch(CALLS)[0]["answer"]["calls"]["24h"]
    if 0 < answer["p_up"] < 1:  # recalibrated at temperature 2: nearer to a third
        assert min(answer["p_up"], 1 / 3) <= by_track["llm"]["p_up"] <= max(answer["p_up"], 1 / 3) + 0.2


def test_an_llm_that_is_sure_does_not_silence_the_experts(
    run: World,
    database_for: DatabaseFor,
    llm_emulator: LlmEmulator,  # noqa: F811
) -> None:
    """A forecast of exactly 0 would be a veto in a pool of logarithms; the experts' own are never below FLOOR."""
    sure = {"p_down": 0.0, "p_flat": 0.0, "p_up": 1.0, "p_vol_low": 0.0, "p_vol_mid": 0.0, "p_vol_high": 1.0}

    def change(text: str) -> str:
        said = json.loads(text)
        for call in said["calls"].values():
            call |= sure
        return json.dumps(said)

    llm_emulator.always(altered(change))
    run(mode="full")
    database = database_for("meta_controller")
    for row in database.fetch("SELECT * FROM market_state WHERE track = 'live'"):
        assert row["source"] == "pool+llm"
        assert min(row[name] for name in sure) >= FLOOR
    raw = database.fetch("SELECT * FROM regime_calls WHERE expert = 'llm'")
    assert {row["p_up"] for row in raw} == {1.0}  # what is scored is what was said


def test_what_a_model_may_have_read_about_is_marked_and_never_pooled_or_followed(
    run: World, database_for: DatabaseFor
) -> None:
    database = database_for("meta_controller")
    database.execute(INSERT_TRUST, {"at": NOON - 12 * HOUR, "model": MODEL, "weight": 0.3})
    read = LlmModelSettings(input_usd=1.0, output_usd=1.0, knowledge_cutoff=date(2024, 5, 10))
    run(mode="trusted", models={MODEL: read})  # NOON is 22 days after
    assert {row["contaminated"] for row in database.fetch("SELECT * FROM regime_calls WHERE expert = 'llm'")} == {True}
    assert database.fetch(LIVE)[0]["source"] == "rules"
    assert database.fetch("SELECT FROM memory_logs") == []


@pytest.mark.usefixtures("own_database")
def test_the_command_asks_only_where_an_endpoint_is_configured_and_never_about_the_past(
    run: World, database_for: DatabaseFor, settings: Settings, monkeypatch: pytest.MonkeyPatch,
    llm_emulator: LlmEmulator,  # noqa: F811
) -> None:  # fmt: skip
    configured = asking(settings).model_copy(
        update={"openai_base_url": llm_emulator.base_url, "openai_api_key": SecretStr(KEY)}
    )
    monkeypatch.setattr("shared.job.load_settings", lambda: configured)
    monkeypatch.setattr("shared.job.open_clock", lambda url: ReplayClock(NOON))
    assert main(["--at", (NOON - HOUR).isoformat()]) == 0
    assert main(["--from", (NOON - 3 * HOUR).isoformat(), "--to", (NOON - HOUR).isoformat()]) == 0
    assert llm_emulator.requests == []
    assert main([]) == 0
    assert len(llm_emulator.chats) == 1
    assert llm_emulator.requests[0].headers["Authorization"] == f"Bearer {KEY}"
    off = configured.model_copy(update={"llm": configured.llm.model_copy(update={"mode": "off"})})
    monkeypatch.setattr("shared.job.load_settings", lambda: off)
    monkeypatch.setattr("shared.job.open_clock", lambda url: ReplayClock(NOON + HOUR))
    assert main([]) == 0
    assert len(llm_emulator.chats) == 1


def test_two_models_share_nothing(run: World, database_for: DatabaseFor, llm_emulator: LlmEmulator) -> None:  # noqa: F811
    """Trust that another model has earned is not this one's."""
    database = database_for("meta_controller")
    database.execute(INSERT_TRUST, {"at": NOON - 12 * HOUR, "model": "another", "weight": 0.5})
    llm_emulator.always(steering(risk_aversion=9.0))
    run(mode="trusted")
    assert database.fetch(LIVE)[0]["source"] == "rules"
