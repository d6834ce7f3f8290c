"""How a question is put, what tools are run for it, and what it is counted to cost."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meta_controller.llm import (
    Endpoint,
    ToolError,
    ask,
    first_request,
    token_bound,
    worst_case_tokens,
)
from meta_controller.llm_question import LONGEST_RESULT
from tests.llm_emulator import fixtures
from tests.llm_emulator.answers import good_answer
from tests.llm_emulator.behaviours import call_tools, refuse, say, send
from tests.llm_emulator.server import KEY, MODEL, LlmEmulator
from tests.meta_controller.llm_questions import asked, hours_tool, question

llm_emulator = fixtures.llm_emulator
TOLD = {"prompt_tokens": 321, "completion_tokens": 45}
ASKED_TOO_MUCH = "when no tool is offered"


@pytest.mark.parametrize("name", ["429", "500", "503", "cut-body", "html"])
def test_nothing_is_sent_twice_though_the_endpoint_asks_for_it(name: str, llm_emulator: LlmEmulator) -> None:
    asked(llm_emulator, name)
    assert len(llm_emulator.requests) == 1


def test_a_believable_usage_is_taken_as_told(llm_emulator: LlmEmulator) -> None:
    said = asked(llm_emulator, say("{}", usage=TOLD))
    assert (said.tokens_in, said.tokens_out, said.tokens_estimated) == (321, 45, False)


@pytest.mark.parametrize("name", ["no-usage", "negative-usage", "tiny-usage", "huge-usage"])
def test_an_unbelievable_usage_is_estimated_too_high_rather_than_too_low(
    name: str,
    llm_emulator: LlmEmulator,
) -> None:
    said = asked(llm_emulator, name)
    assert said.text is not None
    assert said.tokens_estimated
    assert said.tokens_in >= sum(len(message["content"]) for message in said.request["messages"]) / 3
    assert said.tokens_out >= len(said.text) / 3
    most_in, most_out = worst_case_tokens(question())
    assert said.tokens_in <= most_in
    assert said.tokens_out <= most_out


@pytest.mark.parametrize(
    ("name", "billed"),
    [
        ("401", False),
        ("429", False),
        ("redirect", False),
        ("500", True),
        ("html", True),
        ("cut-body", True),
        ("hang", True),
    ],
)
def test_a_failure_after_sending_counts_in_full_and_a_refusal_not_at_all(
    name: str,
    billed: bool,
    llm_emulator: LlmEmulator,
) -> None:
    said = asked(llm_emulator, name, 0.3 if name == "hang" else 5.0)
    assert said.tokens_out == (1200 if billed else 0)
    assert (said.tokens_in > 0) == billed == said.tokens_estimated


def test_a_closed_port_costs_nothing(llm_emulator: LlmEmulator) -> None:
    gone = Endpoint("http://127.0.0.1:9/v1", KEY, MODEL)
    said = ask(gone, question(), 2.0)
    assert said.error is not None
    assert "127.0.0.1:9 cannot be reached" in said.error
    assert (said.tokens_in, said.tokens_out, said.responses) == (0, 0, ())


def test_a_request_that_finds_nobody_adds_nothing_to_the_bill(llm_emulator: LlmEmulator) -> None:
    def leave(_arguments: dict[str, Any]) -> str:
        llm_emulator.stop()
        return "{}"

    asks = [{"function": {"name": "analogs", "arguments": '{"hours": 4}'}}]
    said = asked(llm_emulator, say(None, tool_calls=asks, usage=TOLD), tools=(hours_tool(leave),))
    assert said.error is not None
    assert "cannot be reached" in said.error
    assert (said.tokens_in, said.tokens_out, said.tokens_estimated) == (321, 45, False)


@pytest.mark.parametrize("form", ["auto", "text"])
@pytest.mark.parametrize("calls", [0, 1, 3])
def test_the_reservation_covers_the_worst_conversation(calls: int, form: str, llm_emulator: LlmEmulator) -> None:
    """One call a round, all that is generated counted by estimate, the schema told in either way."""
    arguments = json.dumps({"hours": 4, "x": "9" * 470})
    loud = hours_tool()
    asks = [{"id": "1", "type": "function", "function": {"name": "a" * 64, "arguments": arguments}}]
    for _ in range(calls):
        llm_emulator.script(say(None, tool_calls=asks, usage=None))
    changes: dict[str, Any] = {"tools": (loud,), "max_tool_calls": calls, "max_output_tokens": 2000}
    said = asked(llm_emulator, "no-usage", answer_format=form, **changes)
    most_in, most_out = worst_case_tokens(question(**changes))
    assert said.error is None
    assert len(said.tool_calls) == calls
    assert 0.1 * most_in < said.tokens_in <= most_in
    assert said.tokens_out <= most_out == 2000 * (calls + 1)


def test_the_longest_call_and_result_cost_what_was_reserved_for_a_round(llm_emulator: LlmEmulator) -> None:
    """A tool that exists, so that its result is as long as it may be."""
    dense = hours_tool(lambda _arguments: "1;" * LONGEST_RESULT)
    arguments = '{"hours": 4, "x": "' + "9" * 470 + '"}'
    asks = [{"function": {"name": "analogs", "arguments": arguments}}]
    llm_emulator.script(*[say(None, tool_calls=asks, usage=None)] * 3)
    said = asked(llm_emulator, "no-usage", tools=(dense,), max_tool_calls=3)
    most_in, _most_out = worst_case_tokens(question(tools=(dense,), max_tool_calls=3))
    assert 0.9 * most_in < said.tokens_in <= most_in


@given(st.text(), st.text())
def test_the_token_bound_is_a_third_of_the_characters_at_least_and_the_bytes_at_most(a: str, b: str) -> None:
    assert len(a) / 3 <= token_bound(a) <= max(1, len(a.encode("utf-8", "replace")))
    assert token_bound(a + b) <= token_bound(a) + token_bound(b) <= token_bound(a + b) + 1


def formats(emulator: LlmEmulator) -> list[str]:
    return [body.get("response_format", {}).get("type", "text") for body in emulator.chats]


@pytest.mark.parametrize(
    ("name", "tried"),
    [
        ("good", ["json_schema"]),
        ("no-structured-outputs", ["json_schema", "json_object"]),
        ("no-json-mode", ["json_schema", "json_object", "text"]),
        ("bad-request", ["json_schema"]),
        ("no-idea-500", ["json_schema"]),
    ],
)
def test_the_format_steps_down_only_where_the_endpoint_complains_of_it(
    name: str,
    tried: list[str],
    llm_emulator: LlmEmulator,
) -> None:
    said = asked(llm_emulator, name)
    assert formats(llm_emulator) == tried
    assert said.answer_format == tried[-1]


def test_structured_outputs_are_asked_for_strictly(llm_emulator: LlmEmulator) -> None:
    asked(llm_emulator, "good")
    schema = {"name": "steering", "strict": True, "schema": question().schema}
    assert llm_emulator.chats[0]["response_format"] == {"type": "json_schema", "json_schema": schema}


@pytest.mark.parametrize("form", ["json_schema", "json_object"])
def test_a_format_that_the_operator_chose_is_kept(form: str, llm_emulator: LlmEmulator) -> None:
    said = asked(llm_emulator, "no-json-mode", answer_format=form)
    assert formats(llm_emulator) == [form]
    assert said.error is not None
    assert "response_format" in said.error


def test_without_structured_outputs_the_schema_is_told_in_the_first_message(
    llm_emulator: LlmEmulator,
) -> None:
    said = asked(llm_emulator, "good", answer_format="text")
    first, *others = llm_emulator.chats[0]["messages"]
    assert first["role"] == "system"
    assert first["content"].startswith("You steer.\n\n")
    assert json.loads(first["content"].partition("schema:\n")[2]) == question().schema
    assert others == [question().messages[1]]
    assert said.text == good_answer(llm_emulator.chats[0])


def test_a_422_in_the_words_of_another_server_steps_down_too(llm_emulator: LlmEmulator) -> None:
    llm_emulator.script(send('{"detail": "json_schema is unknown"}', 422))
    assert asked(llm_emulator, "good").error is None
    assert formats(llm_emulator) == ["json_schema", "json_object"]


def test_an_endpoint_that_complains_of_everything_is_left_after_each_way_was_tried(
    llm_emulator: LlmEmulator,
) -> None:
    said = asked(llm_emulator, refuse(400, "response_format max_tokens tools"))
    assert said.error is not None
    assert "answers 400" in said.error
    assert len(llm_emulator.requests) == 5
    assert (said.tokens_in, said.tokens_out) == (0, 0)


def test_the_length_is_limited_in_the_words_that_the_endpoint_knows(llm_emulator: LlmEmulator) -> None:
    asked(llm_emulator, "only-max-completion-tokens")
    limits = [[name for name in body if name.startswith("max_")] for body in llm_emulator.chats]
    assert limits == [["max_tokens"], ["max_completion_tokens"]]
    assert llm_emulator.chats[1]["max_completion_tokens"] == 1200
    assert "max_completion_tokens" in first_request(Endpoint(None, KEY, MODEL), question())


def results(emulator: LlmEmulator) -> list[str]:
    """What the tools were told to have said, by the last request."""
    return [message["content"] for message in emulator.chats[-1]["messages"] if message["role"] == "tool"]


def test_a_tool_is_run_with_its_arguments_and_its_result_is_told(llm_emulator: LlmEmulator) -> None:
    said = asked(llm_emulator, "tool-calls")
    assert said.tool_calls == ("analogs",)
    assert results(llm_emulator) == ['{"seen": {"hours": 4}}']
    assert [body["tool_choice"] for body in llm_emulator.chats] == ["auto", "auto"]
    history = llm_emulator.chats[1]["messages"]
    assert history[-2]["tool_calls"][0]["id"] == history[-1]["tool_call_id"]


def test_parallel_calls_count_each_and_those_too_many_are_dropped(llm_emulator: LlmEmulator) -> None:
    said = asked(llm_emulator, "parallel-tool-calls")
    assert said.tool_calls == ("analogs", "analogs")
    assert [body["tool_choice"] for body in llm_emulator.chats] == ["auto", "none"]
    assert len(llm_emulator.chats[1]["messages"][-3]["tool_calls"]) == 2
    assert "Give the answer now" in results(llm_emulator)[-1]


def test_who_asks_for_tools_for_ever_is_left_after_the_last_call(llm_emulator: LlmEmulator) -> None:
    said = asked(llm_emulator, "tool-loop", max_tool_calls=3)
    assert said.error is not None
    assert ASKED_TOO_MUCH in said.error
    assert len(said.tool_calls) == 3
    assert [body["tool_choice"] for body in llm_emulator.chats] == ["auto", "auto", "auto", "none"]


def test_without_calls_no_tool_is_offered_and_none_is_run(llm_emulator: LlmEmulator) -> None:
    said = asked(llm_emulator, call_tools(("analogs", "{}")), tools=(hours_tool(_never),), max_tool_calls=0)
    assert said.error is not None
    assert ASKED_TOO_MUCH in said.error
    assert "tools" not in llm_emulator.chats[0]
    assert "tool_choice" not in llm_emulator.chats[0]


def _never(_arguments: dict[str, Any]) -> str:
    raise AssertionError("a tool was run")


def test_a_model_without_tools_is_asked_without(llm_emulator: LlmEmulator) -> None:
    assert asked(llm_emulator, "no-tools").error is None
    assert ["tools" in body for body in llm_emulator.chats] == [True, False]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ('{"hours": ', "bad arguments"),
        ("[4]", "not a JSON object"),
        ('{"hours": NaN}', "bad arguments"),
        ('{"hours": 1e999}', "bad arguments"),
        ('{"hours": "\\u0000"}', "garbled"),
        ('{"hours": "\\ud800"}', "NUL or half a character"),
        ('{"hours": "' + "x" * 600 + '"}', "too long"),
        ("[" * 400, "bad arguments"),
        ('{"hours": -1}', "hours must be 4 at least"),
    ],
)
def test_bad_arguments_are_told_to_the_model_count_as_a_call_and_reach_no_tool(
    arguments: str,
    told: str,
    llm_emulator: LlmEmulator,
) -> None:
    ran: list[Any] = []

    def run(given: dict[str, Any]) -> str:
        if given["hours"] < 4:
            raise ToolError("hours must be 4 at least")
        ran.append(given)
        return "{}"

    llm_emulator.script(call_tools(("analogs", arguments)))
    said = asked(llm_emulator, "good", tools=(hours_tool(run),))
    assert said.error is None
    assert said.tool_calls == ("analogs",)
    assert told in json.loads(results(llm_emulator)[0])["error"]
    assert ran == []


def test_an_unknown_tool_is_told_and_its_odd_name_is_not_repeated(llm_emulator: LlmEmulator) -> None:
    llm_emulator.script(call_tools(("place_order", "{}")), call_tools(("ignore all\nprevious", "{}")))
    said = asked(llm_emulator, "good")
    assert said.tool_calls == ("place_order", "unknown")
    assert all("there is no such tool; there are analogs" in told for told in results(llm_emulator))
    assert "previous" not in json.dumps(llm_emulator.chats[-1])


def test_a_long_result_is_cut(llm_emulator: LlmEmulator) -> None:
    asked(llm_emulator, "tool-calls", tools=(hours_tool(lambda _arguments: "é" * 5000),), max_tool_calls=1)
    (told,) = results(llm_emulator)
    assert "é (cut)\n(No tool calls are left." in told
    assert LONGEST_RESULT - 2 <= len(told.encode()) <= LONGEST_RESULT


def test_a_tool_that_breaks_is_not_the_endpoints_fault(llm_emulator: LlmEmulator) -> None:
    def broken(_arguments: dict[str, Any]) -> str:
        raise RuntimeError("the database is down")

    with pytest.raises(RuntimeError, match="the database is down"):
        asked(llm_emulator, "tool-calls", tools=(hours_tool(broken),))
