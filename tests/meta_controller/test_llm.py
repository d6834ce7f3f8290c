"""The unmodified openai client against the emulator: every behaviour has one end, in time, without the key."""

from __future__ import annotations

import dataclasses
import json
import logging
import subprocess
import sys
import threading
import time
from typing import Any

import pytest

from meta_controller import llm_http
from meta_controller.llm import Conversation, ask, endpoint_of, first_request, read_message
from meta_controller.llm_answer import BadAnswer, parse_answer
from shared.clock import Timer
from shared.settings import Settings, SettingsError, load_settings
from tests.llm_emulator import fixtures
from tests.llm_emulator.__main__ import parse_arguments, welcome
from tests.llm_emulator.behaviours import BEHAVIOURS, INJECTION, say, send
from tests.llm_emulator.server import KEY, MODEL, LlmEmulator
from tests.meta_controller.llm_questions import STRATEGIES, asked, endpoint, hours_tool, question

llm_emulator = fixtures.llm_emulator
NEVER_ENDS = ("hang", "slow-drip", "header-drip", "drip-500")
SLACK_S = 2.0  # to hang up, on a busy machine
LATE = "gives no complete answer in time"
ASKED_TOO_MUCH = "when no tool is offered"

# What becomes of each behaviour: part of the error, part of the reason why the text is rejected, or a good answer.
ERRORS = {
    "401": "answers 401: Incorrect API key provided: [key].; check OPENAI_API_KEY",
    "404": "answers 404: The model does not exist.; check OPENAI_BASE_URL and the model's name",
    "429": "answers 429: Rate limit reached.; too many requests",
    "500": "answers 500: The server had an error.",
    "no-idea-500": "answers 500: response_format",
    "503": "answers 503: <html>upstream is down</html>",
    "bad-request": "answers 400: The request is bad.",
    "redirect": "answers 307, which is no answer and not followed",
    "empty": "sends an empty answer",
    "html": "sends a body that is not JSON",
    "deep": "sends a body that is not JSON",
    "not-an-object": "sends no message",
    "no-choices": "sends no message",
    "refusal": "refuses: I can't help with trading.",
    "content-filter": "finish_reason content_filter",
    "truncated": "finish_reason length",
    "gzip-bomb": "sends a compressed body",
    "endless-text": "sends more than 1000000 bytes",
    "cut-body": "broke the connection off",
    "cut-stream": "broke the connection off",
    "tool-loop": ASKED_TOO_MUCH,
    **dict.fromkeys(NEVER_ENDS, LATE),
}
REJECTED = ("wrong-enum", "nan", "huge", "duplicate-keys")
WELL = (
    "good",
    "tool-calls",
    "parallel-tool-calls",
    "unknown-tool",
    "tool-bad-arguments",
    "no-structured-outputs",
    "no-json-mode",
    "no-tools",
    "only-max-completion-tokens",
    "injection",
    "think",
    "fenced",
    "unicode",
    "not-utf8",
    "wrong-model",
    "no-usage",
    "negative-usage",
    "tiny-usage",
    "huge-usage",
)


def test_every_behaviour_of_the_emulator_is_expected_once() -> None:
    assert sorted([*ERRORS, *REJECTED, *WELL]) == sorted(BEHAVIOURS)


@pytest.mark.parametrize("name", list(BEHAVIOURS))
def test_each_behaviour_ends_as_expected_in_time_twice_the_same_and_without_the_key(
    name: str,
    llm_emulator: LlmEmulator,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    timeout_s = 0.3 if name in NEVER_ENDS else 5.0
    began = time.monotonic()
    first, second = (asked(llm_emulator, name, timeout_s) for _ in range(2))
    assert time.monotonic() - began < 2 * (timeout_s + SLACK_S)
    assert dataclasses.replace(first, latency_s=0) == dataclasses.replace(second, latency_s=0)
    assert 0 < first.latency_s < timeout_s + SLACK_S
    assert KEY not in repr(first)
    assert KEY not in caplog.text
    assert json.loads(json.dumps(first.request)) == llm_emulator.chats[0]
    _ends_as_expected(name, first)


def _ends_as_expected(name: str, said: Conversation) -> None:
    if name in ERRORS:
        assert said.text is None
        assert said.error is not None
        assert ERRORS[name] in said.error
        return
    assert said.error is None
    assert said.text is not None
    assert read_message(said.responses[-1]).text == said.text  # a stored response is read the same
    if name in REJECTED:
        with pytest.raises(BadAnswer):
            parse_answer(said.text, STRATEGIES)
        return
    answer = parse_answer(said.text, STRATEGIES)
    assert answer.steering.risk_aversion == 2.5  # the emulator's good answer repeats the prompt; the decoy does not
    assert answer.steering.pause is False


def test_an_injection_reaches_nobody_but_the_parser(llm_emulator: LlmEmulator) -> None:
    said = asked(llm_emulator, "injection")
    assert said.text is not None
    assert said.text.startswith(INJECTION)
    assert INJECTION not in json.dumps(llm_emulator.chats)


def test_another_model_than_asked_is_told(llm_emulator: LlmEmulator) -> None:
    assert asked(llm_emulator, "wrong-model").model == "another-model"
    assert asked(llm_emulator, "good").model == MODEL


@pytest.mark.parametrize("name", [*NEVER_ENDS, "endless-text"])
def test_what_never_ends_is_cut_and_leaves_no_thread_behind(name: str, llm_emulator: LlmEmulator) -> None:
    began = time.monotonic()
    said = asked(llm_emulator, name, 0.3)
    assert time.monotonic() - began < 0.3 + SLACK_S
    assert said.error is not None
    assert [thread for thread in threading.enumerate() if thread.name == "llm-request"] == []


def test_the_deadline_is_of_the_whole_conversation_tools_included(llm_emulator: LlmEmulator) -> None:
    now = [0.0]

    def slow(_arguments: dict[str, Any]) -> str:
        now[0] += 40.0
        return "{}"

    llm_emulator.always("tool-calls")
    tools = (hours_tool(slow),)
    said = ask(endpoint(llm_emulator), question(tools=tools), 30.0, Timer(monotonic=lambda: now[0]))
    assert said.error is not None
    assert "gives no answer within 30 s" in said.error
    assert said.latency_s == 40.0
    assert len(llm_emulator.chats) == 1


def test_nothing_is_sent_after_the_deadline(llm_emulator: LlmEmulator) -> None:
    """As when a name resolves late: the wire is cut before it connects."""
    with llm_http.Line(llm_emulator.base_url, KEY) as line:
        line._wire.cut()
        reply = line.chat(first_request(endpoint(llm_emulator), question()), 1.0)
    assert (reply.status, reply.sent) == (None, False)
    assert llm_emulator.requests == []


def test_a_body_of_almost_a_megabyte_is_read(llm_emulator: LlmEmulator) -> None:
    text = "x" * 990_000
    assert asked(llm_emulator, say(text)).text == text


def test_a_redirect_carries_the_key_nowhere(llm_emulator: LlmEmulator) -> None:
    with LlmEmulator() as thief:
        for status in (301, 302, 307, 308):
            asked(llm_emulator, send("", status, Location=f"{thief.base_url}/chat/completions"))
        assert thief.requests == []
    assert llm_emulator.requests[0].headers["Authorization"] == f"Bearer {KEY}"


def test_proxies_of_the_environment_are_not_used(
    llm_emulator: LlmEmulator,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with LlmEmulator() as proxy:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
        assert asked(llm_emulator, "good").error is None
        assert proxy.requests == []


def test_an_error_that_quotes_the_key_is_kept_without_it(llm_emulator: LlmEmulator) -> None:
    said = asked(llm_emulator, "401")
    assert said.responses[0].count("[key]") == 1
    assert KEY not in repr((said, endpoint(llm_emulator)))


def test_an_error_that_quotes_the_key_in_escapes_is_told_without_it(llm_emulator: LlmEmulator) -> None:
    disguised = "".join(f"\\u{ord(letter):04x}" for letter in KEY)
    said = asked(llm_emulator, send(f'{{"error": "bad key {disguised}"}}', 401))
    assert said.error is not None
    assert "answers 401: bad key [key];" in said.error


def test_without_a_key_and_an_address_there_is_no_endpoint() -> None:
    assert endpoint_of(_settings()) is None
    assert endpoint_of(_settings(openai_api_key="")) is None


def test_a_key_alone_means_openai_and_an_address_alone_a_server_that_wants_none() -> None:
    at_openai = endpoint_of(_settings(openai_api_key=KEY))
    at_home = endpoint_of(_settings(openai_base_url="http://127.0.0.1:11434/v1"))
    assert at_openai is not None
    assert (at_openai.base_url, at_openai.host) == (None, "api.openai.com")
    assert at_home is not None
    assert (at_home.api_key, at_home.host) == ("none", "127.0.0.1:11434")
    assert at_openai.model == _settings().llm.model


@pytest.mark.parametrize(
    "given",
    [
        {"openai_base_url": "https://user:hush-hush@host/v1"},
        {"openai_base_url": "https://host/v1?key=hush-hush"},
        {"openai_base_url": "https://host:port/v1"},
        {"openai_base_url": "https:///v1"},
        {"openai_api_key": "hush-hush\nhush-hush"},
        {"openai_api_key": "hush-hush–"},
    ],
)
def test_an_address_or_key_that_would_leak_or_fail_is_refused_without_saying_it(given: dict[str, str]) -> None:
    with pytest.raises(SettingsError, match="OPENAI_") as refused:
        endpoint_of(_settings(**given))
    assert "hush" not in str(refused.value)


def _settings(**changes: Any) -> Settings:
    return load_settings(**{"openai_api_key": None, "openai_base_url": None} | changes)


def test_whoever_asks_nothing_does_not_pay_for_the_client() -> None:
    code = "import sys, meta_controller.llm; print([m for m in ('openai', 'httpx2') if m in sys.modules])"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"


def test_the_emulator_says_what_to_export_and_refuses_what_it_does_not_know(
    llm_emulator: LlmEmulator,
) -> None:
    told = welcome(llm_emulator, parse_arguments(["--script", "think", "503"]))
    assert f"\n  export OPENAI_BASE_URL={llm_emulator.base_url}\n  export OPENAI_API_KEY={KEY}\n" in told
    with pytest.raises(ValueError, match="no behaviour 'sulk'"):
        llm_emulator.script("sulk")
