"""What is asked of a language model and what comes back, as values; and how many tokens that is at most."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from shared.errors import SextantError

OPENAI_URL = "https://api.openai.com/v1"
SECRET_LENGTH = 8  # shorter than this is no secret, and would be found in any text
LONGEST_RESULT = 4000  # bytes of one tool result
LONGEST_ARGUMENTS = 500  # bytes of one tool call's arguments
LONGEST_NAME = 64
PER_MESSAGE, PER_CALL, PER_REQUEST = 8, 16, 64  # tokens of the chat format around the texts
LETTERS = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ "
SHAPE = "Answer with exactly one JSON object and nothing else. It must match this JSON schema:\n"

Body = dict[str, Any]


class ToolError(SextantError):
    """A tool cannot use these arguments; the message is told to the model."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a model is asked. The key is in no repr, record or message."""

    base_url: str | None  # None: OpenAI's own
    api_key: str = dataclasses.field(repr=False)
    model: str

    @property
    def url(self) -> str:
        return self.base_url or OPENAI_URL

    @property
    def host(self) -> str:
        """Host and port, for records."""
        return urlsplit(self.url).netloc.rpartition("@")[2]

    @property
    def is_local(self) -> bool:
        """Whether it is on this machine."""
        return urlsplit(self.url).hostname in ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True, slots=True)
class Tool:
    """What the model may have run: ``run`` takes the arguments and gives JSON text (what exceeds LONGEST_RESULT bytes
    is cut); it raises ToolError for bad arguments and touches nothing but rows to read."""

    name: str
    description: str
    parameters: dict[str, Any]  # a JSON schema
    run: Callable[[dict[str, Any]], str]


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked, and the shape of the answer. ``answer_format``: json_schema, json_object, text, or auto."""

    messages: tuple[dict[str, Any], ...]
    schema_name: str
    schema: dict[str, Any]  # JSON schema, as strict structured outputs want it
    tools: tuple[Tool, ...] = ()
    max_tool_calls: int = 0
    max_output_tokens: int = 1200  # of one response
    answer_format: str = "auto"

    @property
    def offers_tools(self) -> bool:
        return bool(self.tools) and self.max_tool_calls > 0


@dataclass(frozen=True, slots=True)
class Conversation:
    """What was said. Either ``text`` or ``error`` is None, and only that; no field holds the key."""

    request: dict[str, Any]  # as first sent
    responses: tuple[str, ...]  # raw bodies, those of errors too
    text: str | None  # the final answer, as it came: NUL and lone surrogates are possible
    tokens_in: int  # of all requests together
    tokens_out: int
    latency_s: float
    error: str | None
    tool_calls: tuple[str, ...]  # names, as they were called; 'unknown' for what is not a name
    tokens_estimated: bool = False  # at least one response told no believable usage
    model: str | None = None  # who the endpoint says answered last
    answer_format: str = ""  # of the last request


def response_format(name: str, question: Question) -> Body:
    if name == "json_object":
        return {"type": "json_object"}
    schema = {"name": question.schema_name, "strict": True, "schema": question.schema}
    return {"type": "json_schema", "json_schema": schema}


def offer(tool: Tool) -> Body:
    function = {"name": tool.name, "description": tool.description, "parameters": tool.parameters}
    return {"type": "function", "function": function}


def compact(value: Any, allow_nan: bool = True) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=allow_nan)


def without_key(text: str, api_key: str) -> str:
    """The text with the key struck out, if an endpoint quotes it: plainly, or in JSON's escapes, however often they
    were escaped again (a text in a body may be JSON itself)."""
    if len(api_key) < SECRET_LENGTH:
        return text
    letters = (rf"(?:\\{{0,8}}{re.escape(c)}|\\{{1,8}}u{ord(c):04x})" for c in api_key)
    return re.sub("".join(letters), "[key]", text, flags=re.IGNORECASE)


def token_bound(text: str) -> int:
    """At most so many tokens is a text of prose, numbers or JSON: a third of its ASCII letters and blanks, and one for
    every other byte (digits and signs may each be a token, as no token is less than a byte)."""
    data = text.encode("utf-8", "replace")
    dense = len(data.translate(None, LETTERS))
    return dense + math.ceil((len(data) - dense) / 3)


def request_tokens(body: Body) -> int:
    """At most so many tokens does a chat request count as input: messages, tools and schema."""
    beside = compact([body.get("tools", []), body.get("response_format", "")])
    return PER_REQUEST + token_bound(beside) + sum(_message_tokens(message) for message in body["messages"])


def _message_tokens(message: Body) -> int:
    calls = message.get("tool_calls") or ()
    functions = [call["function"] for call in calls]
    inside = sum(PER_CALL + token_bound(f["name"]) + token_bound(f["arguments"]) for f in functions)
    return PER_MESSAGE + token_bound(message.get("content") or "") + inside


def worst_case_tokens(question: Question) -> tuple[int, int]:
    """The most (tokens in, tokens out) that a whole conversation can take, for a budget to reserve before it is asked.

    In: each round sends all before it again, so with m tool calls, the worst being one a round,
    (m + 1) opening + m (m + 1) / 2 round. Out: (m + 1) max_output_tokens.
    """
    rounds = question.max_tool_calls if question.offers_tools else 0
    shape = token_bound(SHAPE + compact(response_format("json_schema", question)))
    offers = token_bound(compact([offer(tool) for tool in question.tools])) if question.offers_tools else 0
    messages = sum(_message_tokens(message) for message in question.messages)
    opening = 2 * PER_REQUEST + PER_MESSAGE + shape + offers + messages
    one_round = 2 * PER_MESSAGE + PER_CALL + LONGEST_NAME + LONGEST_ARGUMENTS + LONGEST_RESULT
    tokens_in = (rounds + 1) * opening + rounds * (rounds + 1) // 2 * one_round
    return tokens_in, (rounds + 1) * question.max_output_tokens
