"""Whatever a response's body is, it is read as one thing; and embeddings are numbers or words."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from meta_controller.llm import embed, read_message
from tests.llm_emulator import fixtures
from tests.llm_emulator.behaviours import send
from tests.llm_emulator.server import LlmEmulator
from tests.meta_controller.llm_questions import endpoint

llm_emulator = fixtures.llm_emulator
LATE = "gives no complete answer in time"
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)
MESSAGES = st.fixed_dictionaries(
    {},
    optional={
        "content": JSON,
        "refusal": JSON,
        "tool_calls": JSON | st.lists(st.fixed_dictionaries({"function": JSON | st.just({"name": "x"})})),
    },
)
RESPONSES = st.fixed_dictionaries(
    {
        "choices": st.lists(st.fixed_dictionaries({"message": MESSAGES | JSON, "finish_reason": JSON})),
        "usage": JSON | st.dictionaries(st.sampled_from(["prompt_tokens", "completion_tokens"]), JSON),
        "model": JSON,
    }
)


@example('{"choices": [{"message": {"content": "x"}}], "usage": {"prompt_tokens": -1, "completion_tokens": true}}')
@settings(max_examples=100, deadline=None)
@given((JSON | RESPONSES).map(json.dumps) | st.text())
def test_whatever_a_body_is_it_says_one_thing(body: str) -> None:
    message = read_message(body)
    assert (message.text is not None) + bool(message.calls) + (message.error is not None) == 1
    assert all(count is None or (count >= 0 and not isinstance(count, bool)) for count in message.usage or ())


def test_an_embedding_is_as_long_as_asked_and_only_the_text_decides_it(llm_emulator: LlmEmulator) -> None:
    vectors = [embed(endpoint(llm_emulator), "small", text, 256, 5.0) for text in ("calm", "calm", "wild")]
    assert vectors[0] == vectors[1] != vectors[2]
    assert isinstance(vectors[0], list)
    assert len(vectors[0]) == 256
    assert llm_emulator.requests[0].body == {
        "model": "small", "input": "calm", "dimensions": 256, "encoding_format": "float"
    }  # fmt: skip


@pytest.mark.parametrize(
    ("behaviour", "told"),
    [
        (send('{"data": [{"embedding": [1, 2, 3]}]}'), "3 numbers, not 4"),
        (send('{"data": [{"embedding": [1, 2, 3, NaN]}]}'), "0 or not finite"),
        (send('{"data": [{"embedding": [0, 0, 0, 0]}]}'), "0 or not finite"),
        (send('{"data": [{"embedding": [1, 2, 3, "4"]}]}'), "numbers, not 4"),
        (send('{"data": [{"embedding": [1, 2, 3, null]}]}'), "gives no embedding"),
        (send('{"data": [{"embedding": [1, 2, 3, 1' + "0" * 400 + "]}]}"), "gives no embedding"),
        (send('{"data": [{"embedding": "AAAA"}]}'), "numbers, not 4"),
        (send('{"data": []}'), "gives no embedding"),
        ("html", "gives no embedding"),
        ("401", "answers 401: Incorrect API key provided: [key]."),
        ("500", "answers 500"),
        ("hang", LATE),
    ],
)
def test_what_is_no_embedding_is_told_in_words(
    behaviour: Any,
    told: str,
    llm_emulator: LlmEmulator,
) -> None:
    llm_emulator.always(behaviour)
    said = embed(endpoint(llm_emulator), "small", "calm", 4, 0.3 if behaviour == "hang" else 5.0)
    assert isinstance(said, str)
    assert told in said
