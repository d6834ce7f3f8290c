from __future__ import annotations

import json
import time
from datetime import datetime
from typing import Any

import pytest

from meta_controller import replay_llm
from meta_controller.llm_answer import BadAnswer, answer_json, parse_answer
from meta_controller.replay_llm import check_answer, final_text, main
from shared.settings import Settings
from tests.helpers import DatabaseFor
from tests.meta_controller.prompt_world import AS_OF, CALL, HOUR, RECORDED_BY, STEERING, World

STRATEGIES = ("drl", "trend_vol_target", "vol_target", "cash")
NUMBERS = ("risk_aversion", "turnover_penalty", "drawdown_penalty", "target_volatility", "max_exposure", "max_position",
           "daily_loss_limit", "max_drawdown", "pause")  # fmt: skip


COPY_CALL = """
INSERT INTO llm_calls (purpose, as_of, model, endpoint, prompt, prompt_sha256, inputs, request, statistics, status,
                       responses, answer, reserved_usd, cost_usd, recorded_at, ended_at)
SELECT purpose, as_of + n * interval '1 hour', model, endpoint, prompt, prompt_sha256, inputs, request, statistics,
       status, responses, answer, reserved_usd, cost_usd, recorded_at, ended_at
FROM llm_calls, generate_series(1, 999) n
"""


def said(**changes: Any) -> str:
    call = CALL | {"conviction": 0.1}
    answer = {
        "calls": {"4h": call, "24h": call},
        "steering": {name: getattr(STEERING, name) for name in NUMBERS},
        "strategy_weights": {"drl": 0.505, "cash": 0.505},  # a sum that has to be normalised
        "reasons": "as it was",
        "would_change_my_mind": "a storm",
    }
    return json.dumps(answer | changes)


def body(text: str) -> str:
    return json.dumps({"choices": [{"message": {"role": "assistant", "content": text}, "finish_reason": "stop"}]})


TOOL_CALL = {"function": {"name": "news", "arguments": "{}"}}
ASKED_A_TOOL = json.dumps({"choices": [{"message": {"content": None, "tool_calls": [TOOL_CALL]}}]})


@pytest.fixture
def world(database_for: DatabaseFor, settings: Settings) -> World:
    return World(database_for, settings)


def store(world: World, text: str, as_of: datetime = AS_OF, at: datetime = RECORDED_BY, **changes: Any) -> int:
    """A call as the strategist records it: its prompt built from the rows there are, its answer parsed."""
    inputs = world.inputs()
    prompt = world.prompt(inputs)
    try:
        row: dict[str, Any] = {"answer": answer_json(parse_answer(text, STRATEGIES))}
    except BadAnswer as error:
        row = {"answer": None, "status": "rejected", "error": str(error)}
    row |= {"sha256": prompt.sha256, "inputs": inputs.model_dump(mode="json"), "statistics": prompt.statistics}
    row |= {"responses": [ASKED_A_TOOL, body(text)]}
    return world.llm_call(as_of, at, "strategist", **(row | changes))


def replay(world: World, *arguments: str, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setenv("SEXTANT_HOME", str(world.settings.home))
    monkeypatch.setenv("DB_NAME", world.settings.db_name)
    return main(list(arguments))


def test_a_stored_call_replays_identically_though_later_rows_are_there(
    world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    world.fill()
    call = store(world, f"<think>{{}}</think>Here: ```json\n{said()}\n```")
    world.revision(AS_OF - 5 * HOUR, RECORDED_BY + HOUR)
    world.news(AS_OF - HOUR, RECORDED_BY + HOUR)
    world.config(AS_OF, RECORDED_BY, max_exposure=0.7)
    assert replay(world, "--id", str(call), monkeypatch=monkeypatch) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"call {call}, answer: identical",
        f"call {call}, prompt: identical",
    ]


def test_a_rejected_call_replays_to_the_same_reason(world: World) -> None:
    world.store_market(bars=240)
    store(world, said(reasons=""))
    call = replay_llm.read_call(world.database_for("meta_controller"), 1)
    assert call["status"] == "rejected"
    assert check_answer(call).same is True
    assert check_answer(call | {"error": "another reason"}).same is False


def test_whatever_was_tampered_with_is_found(
    world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    world.store_market(bars=240)
    good = answer_json(parse_answer(said(), STRATEGIES))
    store(world, said(), AS_OF - 3 * HOUR, answer=good | {"reasons": "as it was not"})
    store(world, said(), AS_OF - 2 * HOUR, responses=[body(said(reasons="another"))])
    store(world, said(), AS_OF, sha256="0" * 64)
    store(world, said(), AS_OF - 4 * HOUR, responses=[])
    assert replay(world, "--all", monkeypatch=monkeypatch) == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if line.startswith("call 1, answer: was")]
    assert [line for line in lines if line.startswith("call 2, answer: was")]
    assert [line for line in lines if line == "call 3, prompt: differs in the messages around the statistics"]
    assert [line for line in lines if line.startswith("call 4, answer: is answered, but its last response holds no")]
    assert lines[-1].startswith("4 calls replayed. answers: 1 identical, 3 differ")


def test_what_the_prompt_differs_in_is_named(world: World) -> None:
    world.store_market(bars=240)
    store(world, said())
    world.news(AS_OF - HOUR, AS_OF)  # as if somebody had backdated it
    database = world.database_for("meta_controller")
    check = replay_llm.check_prompt(database, replay_llm.read_call(database, 1))
    assert (check.same, check.finding) == (False, "differs in news")


def test_a_prompt_file_that_changed_since_is_named(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.store_market(bars=240)
    store(world, said())
    database = world.database_for("meta_controller")
    call = replay_llm.read_call(database, 1)
    changed = call | {"inputs": call["inputs"] | {"prompt_file_sha256": "0" * 64}}
    assert "strategist.v1.md has changed since" in replay_llm.check_prompt(database, changed).finding
    assert replay_llm.check_prompt(database, call | {"inputs": {}}).same is False


def test_a_failed_call_has_nothing_to_compare(world: World) -> None:
    world.store_market(bars=240)
    store(world, said(), status="failed", error="timed out", answer=None, responses=[])
    check = check_answer(replay_llm.read_call(world.database_for("meta_controller"), 1))
    assert (check.same, "timed out" in check.finding) == (None, True)


@pytest.mark.parametrize("arguments", [("--id", "99"), ("--id", "1")])
def test_what_cannot_be_replayed_is_a_usage_error(
    world: World, arguments: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    world.llm_call(AS_OF, AS_OF, "news")
    assert replay(world, *arguments, monkeypatch=monkeypatch) == 2


@pytest.mark.parametrize(
    "responses", [None, "[]", "not JSON", "{}", "3", '["<html>"]', '[{"choices": []}]', "[" * 99_999]
)
def test_what_is_no_response_holds_no_text(responses: str | None) -> None:
    assert final_text(responses) is None


def test_a_thousand_calls_are_parsed_within_ten_seconds(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    world.store_market(bars=240)
    store(world, said())
    world.execute(COPY_CALL)
    began = time.perf_counter()
    total = replay_llm.replay_all(world.database_for("meta_controller"), answers_only=True)
    assert time.perf_counter() - began < 10
    assert total == {"calls": 1000, "answer identical": 1000}
    assert "1000 calls replayed. answers: 1000 identical" in capsys.readouterr().out
