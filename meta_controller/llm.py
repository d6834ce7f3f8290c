"""One bounded conversation with a language model: asked once, answered in time or not at all, never raising for what
the endpoint does.

The answer is a text and its parsing is another file's (meta_controller/llm_answer.py); the HTTP is llm_http.py. The
reading of a response is pure (``read_message``), so that a stored one gives the same text again.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from meta_controller.llm_message import Message, ToolCall, plain, read_message
from meta_controller.llm_question import (
    LONGEST_ARGUMENTS,
    LONGEST_RESULT,
    SHAPE,
    Body,
    Conversation,
    Endpoint,
    Question,
    Tool,
    ToolError,
    compact,
    offer,
    request_tokens,
    response_format,
    token_bound,
    without_key,
    worst_case_tokens,
)
from shared.clock import Timer
from shared.settings import Settings, SettingsError

if TYPE_CHECKING:
    from meta_controller.llm_http import Line, Reply

__all__ = [
    "Conversation",
    "Endpoint",
    "Question",
    "Tool",
    "ToolError",
    "ask",
    "embed",
    "embedding_request",
    "endpoint_of",
    "first_request",
    "read_message",
    "token_bound",
    "worst_case_tokens",
]

NO_KEY = "none"  # the client wants one; servers at home do not
MOST_TOKENS = 1_000_000  # of one response: an endpoint that says more is not believed
LEAST_SHARE = 1 / 12  # of token_bound: fewer tokens no text takes
LAST_WORD = "\n(No tool calls are left. Give the answer now.)"
NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
HINTS = {
    401: "; check OPENAI_API_KEY",
    403: "; check OPENAI_API_KEY and what it may do",
    404: "; check OPENAI_BASE_URL and the model's name",
    429: "; too many requests, or no credit is left",
}


def endpoint_of(settings: Settings) -> Endpoint | None:
    """Where the settings say to ask; None without a key and a base URL: then nothing is asked.

    SettingsError for a key that cannot be sent, and for a base URL that holds a secret (it would be logged).
    """
    key = settings.openai_api_key.get_secret_value().strip() if settings.openai_api_key else ""
    base_url = settings.openai_base_url
    if not key and base_url is None:
        return None
    if not (key.isascii() and key.isprintable() and " " not in key):
        raise SettingsError("OPENAI_API_KEY holds a blank or a letter that is not ASCII; copy it again")
    if base_url is not None:
        _refuse_secrets(base_url)
    return Endpoint(base_url, key or NO_KEY, settings.llm.model)


def _refuse_secrets(base_url: str) -> None:
    parts = urlsplit(base_url)
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise SettingsError("OPENAI_BASE_URL holds more than scheme, host, port and path; a key goes to OPENAI_API_KEY")
    try:
        known = parts.hostname and parts.port != 0
    except ValueError:  # a port that is none
        known = None
    if not known:
        raise SettingsError(f"OPENAI_BASE_URL {base_url!r} names no host and port; write http://127.0.0.1:11434/v1")


def ask(endpoint: Endpoint, question: Question, timeout_s: float, timer: Timer = Timer()) -> Conversation:  # noqa: B008
    """The whole conversation, tool calls included, within ``timeout_s`` (and half a second to hang up).

    The same script of responses gives the same Conversation, latency apart. A tool's own exceptions are raised, save
    ToolError and what odd arguments bring about (ValueError, TypeError, ...), which are told to the model.
    """
    from meta_controller.llm_http import Line  # only here: it brings the openai client

    talk = _Talk(endpoint, question)
    began = timer.monotonic()
    with Line(endpoint.url, endpoint.api_key) as line:
        while talk.open:
            left = timeout_s - (timer.monotonic() - began)
            if left <= 0:
                talk.fail(f"{endpoint.host} gives no answer within {timeout_s:g} s")
            else:
                talk.step(line, left)
    return talk.ended(timer.monotonic() - began)


def first_request(endpoint: Endpoint, question: Question) -> Body:
    """What ``ask`` will send first, for a record that is written before it is sent."""
    return _Talk(endpoint, question).first


class _Talk:
    """A conversation as it goes."""

    def __init__(self, endpoint: Endpoint, question: Question) -> None:
        self._endpoint = endpoint
        self._question = question
        self._format = "json_schema" if question.answer_format == "auto" else question.answer_format
        self._limit = "max_completion_tokens" if endpoint.host.endswith("openai.com") else "max_tokens"
        self._has_tools = question.offers_tools
        self._history: list[Body] = []
        self._limit_swapped = False
        self._responses: list[str] = []
        self._called: list[str] = []
        self._tokens_in = self._tokens_out = 0
        self._estimated = False
        self._model: str | None = None
        self._text: str | None = None
        self._error: str | None = None
        self.first = self._request()

    @property
    def open(self) -> bool:
        return self._text is None and self._error is None

    def ended(self, latency_s: float) -> Conversation:
        return Conversation(
            request=self.first,
            responses=tuple(self._responses),
            text=self._text,
            tokens_in=self._tokens_in,
            tokens_out=self._tokens_out,
            latency_s=latency_s,
            error=self._error,
            tool_calls=tuple(self._called),
            tokens_estimated=self._estimated,
            model=self._model,
            answer_format=self._format,
        )

    def fail(self, error: str) -> None:
        self._error = without_key(error, self._endpoint.api_key)

    def step(self, line: Line, seconds: float) -> None:
        """One request, and what its reply leads to."""
        reply = line.chat(self._request(), seconds)
        body = without_key(reply.body, self._endpoint.api_key)
        if reply.status is not None:
            self._responses.append(body)
        if reply.status == 200:
            self._heed(read_message(body))
        elif reply.status is not None and self._adapts(reply.status, body):
            return  # refused before anything was generated: nothing to pay
        else:
            self._count_failure(reply)
            self.fail(f"{self._endpoint.host} {reply.error or _told(reply.status, body)}")

    def _request(self) -> Body:
        """The body of the next request. Neither temperature nor seed: some models refuse them, some loop at 0."""
        question = self._question
        body: Body = {"model": self._endpoint.model, "messages": [*self._opening(), *self._history]}
        body[self._limit] = question.max_output_tokens
        if self._format != "text":
            body["response_format"] = response_format(self._format, question)
        if self._has_tools:
            body["tools"] = [offer(tool) for tool in question.tools]
            body["tool_choice"] = "auto" if self._calls_left() else "none"
        return body

    def _opening(self) -> list[Body]:
        """The question's messages; where no structured output carries the schema, the first one tells it."""
        messages = [dict(message) for message in self._question.messages]
        if self._format == "json_schema":
            return messages
        shape = SHAPE + compact(self._question.schema)
        if messages and messages[0]["role"] == "system":  # a second system message is refused by some templates
            return [{**messages[0], "content": f"{messages[0]['content']}\n\n{shape}"}, *messages[1:]]
        return [{"role": "system", "content": shape}, *messages]

    def _calls_left(self) -> int:
        return self._question.max_tool_calls - len(self._called)

    def _adapts(self, status: int, body: str) -> bool:
        """True where a 400 or 422 complains of something that can be asked for in another way, not tried yet."""
        if status not in (400, 422):
            return False
        for words, change in ADAPTATIONS:
            if any(word in body[:10_000].lower() for word in words) and change(self):
                return True
        return False

    def plainer_format(self) -> bool:
        """One rung down: json_schema, json_object, text."""
        if self._question.answer_format != "auto" or self._format == "text":
            return False
        self._format = "json_object" if self._format == "json_schema" else "text"
        return True

    def other_limit(self) -> bool:
        """OpenAI's newer models know only max_completion_tokens, many other servers only max_tokens."""
        if self._limit_swapped:
            return False
        self._limit_swapped = True
        self._limit = "max_tokens" if self._limit == "max_completion_tokens" else "max_completion_tokens"
        return True

    def no_tools(self) -> bool:
        """Without tools, where the model knows none and none was called yet."""
        if not self._has_tools or self._called:
            return False
        self._has_tools = False
        return True

    def _heed(self, message: Message) -> None:
        self._count(message)
        self._model = message.model
        if message.error is not None:
            self.fail(f"{self._endpoint.host} {message.error}")
        elif message.calls:
            self._run_tools(message.calls)
        else:
            self._text = message.text

    def _run_tools(self, calls: tuple[ToolCall, ...]) -> None:
        """Answers as many of the calls as are left; the others are dropped from the history, as if never made."""
        if not (self._has_tools and self._calls_left()):
            self.fail(f"{self._endpoint.host} asks for {plain(calls[0].name, 64)!r} when no tool is offered")
            return
        calls = calls[: self._calls_left()]
        asked, results = [], []
        for call in calls:
            name = call.name if NAME.fullmatch(call.name) else "unknown"
            fits = len(call.arguments.encode("utf-8", "replace")) <= LONGEST_ARGUMENTS and _is_clean(call.arguments)
            identity = f"call{len(self._called):05}"  # of our own; nine letters and digits, as Mistral's want
            function = {"name": name, "arguments": call.arguments if fits else "{}"}
            asked.append({"id": identity, "type": "function", "function": function})
            self._called.append(name)
            result = self._run_tool(name, call.arguments) if fits else _problem("the arguments are too long or garbled")
            last = "" if self._calls_left() else LAST_WORD
            results.append({"role": "tool", "tool_call_id": identity, "content": _cut(result, last) + last})
        self._history += [{"role": "assistant", "content": None, "tool_calls": asked}, *results]

    def _run_tool(self, name: str, arguments: str) -> str:
        tools = {tool.name: tool for tool in self._question.tools}
        if name not in tools:
            return _problem(f"there is no such tool; there are {', '.join(tools)}")
        try:
            return tools[name].run(_arguments(arguments))
        except (ToolError, ValueError, TypeError, ArithmeticError, LookupError) as error:
            return _problem(f"bad arguments: {plain(str(error), 200)}")

    def _count(self, message: Message) -> None:
        """The usage as told, where it is believable; else an estimate that is rather too high."""
        request = self._request()
        tokens_in, tokens_out = request_tokens(request), token_bound(message.generated)
        if message.usage is None:  # not even a message: it may have generated anything
            tokens_out = self._question.max_output_tokens
        told_in, told_out = message.usage or (None, None)
        asked = sum(token_bound(part.get("content") or "") for part in request["messages"])
        self._tokens_in += self._believed(told_in, asked, tokens_in)
        self._tokens_out += self._believed(told_out, token_bound(message.text or ""), tokens_out)

    def _believed(self, told: int | None, visible: int, estimate: int) -> int:
        if told is not None and visible * LEAST_SHARE <= told <= MOST_TOKENS:
            return told
        self._estimated = True
        return estimate

    def _count_failure(self, reply: Reply) -> None:
        """Refusals (3xx, 4xx) are not billed; whatever else came of a request that was sent may be, to the full."""
        if reply.sent and (reply.status is None or reply.status >= 500 or reply.status < 300):
            self._tokens_in += request_tokens(self._request())
            self._tokens_out += self._question.max_output_tokens
            self._estimated = True


ADAPTATIONS: tuple[tuple[tuple[str, ...], Callable[[_Talk], bool]], ...] = (
    (("response_format", "response format", "json_schema", "json_object", "structured output"), _Talk.plainer_format),
    (("max_tokens", "max_completion_tokens"), _Talk.other_limit),
    (("tool_choice", "tools", "function call"), _Talk.no_tools),
)


def _arguments(text: str) -> dict[str, Any]:
    try:
        arguments = json.loads(text or "{}")
    except RecursionError:
        raise ToolError("nested too deeply") from None
    if not isinstance(arguments, dict):
        raise ToolError("not a JSON object")
    if not _is_clean(compact(arguments)):  # what \\u0000 and \\ud800 become; no database takes them
        raise ToolError("a text holds NUL or half a character")
    compact(arguments, allow_nan=False)  # ValueError
    return arguments


def _is_clean(text: str) -> bool:
    return "\0" not in text and "\\u0000" not in text and text == text.encode("utf-8", "replace").decode()


def _problem(text: str) -> str:
    return compact({"error": text})


def _cut(result: str, ending: str) -> str:
    """At most LONGEST_RESULT bytes, the ending that is to follow included."""
    most = LONGEST_RESULT - len(ending)
    data = result.encode("utf-8", "replace")
    return (data if len(data) <= most else data[: most - 6] + b" (cut)").decode("utf-8", "ignore")


def _told(status: int | None, body: str) -> str:
    """What an error status says, with what to do about it."""
    if status is not None and status < 400:
        return f"answers {status}, which is no answer and not followed: set OPENAI_BASE_URL to where the API itself is"
    said: Any = body
    try:
        said = json.loads(body)
        while isinstance(said, dict):  # {"error": {"message": "…"}} and its relatives
            said = said.get("error", said.get("message", said.get("detail", "")))
    except (ValueError, RecursionError):
        pass
    words = plain(said, 200) if isinstance(said, str) else ""
    return f"answers {status}{': ' + words if words else ''}{HINTS.get(status or 0, '')}"


def embed(endpoint: Endpoint, model: str, text: str, dimensions: int, timeout_s: float) -> list[float] | str:
    """The text's embedding (``dimensions`` finite numbers, not all 0), or in words why there is none.

    It may have cost up to token_bound(text) tokens either way.
    """
    from meta_controller.llm_http import Line

    with Line(endpoint.url, endpoint.api_key) as line:
        reply = line.embeddings(embedding_request(model, text, dimensions), timeout_s)
    found = _vector(reply.body, dimensions) if reply.status == 200 else reply.error or _told(reply.status, reply.body)
    return without_key(f"{endpoint.host} {found}", endpoint.api_key) if isinstance(found, str) else found


def embedding_request(model: str, text: str, dimensions: int) -> Body:
    """What ``embed`` sends."""
    return {"model": model, "input": text, "dimensions": dimensions, "encoding_format": "float"}


def _vector(body: str, dimensions: int) -> list[float] | str:
    try:
        vector = json.loads(body)["data"][0]["embedding"]
        numbers = [float(x) for x in vector if not isinstance(x, bool | str)]
    except (ValueError, TypeError, LookupError, OverflowError, RecursionError):
        return "gives no embedding"
    if len(numbers) != dimensions or len(vector) != dimensions:
        return f"gives an embedding of {len(vector)} numbers, not {dimensions}; choose another llm.embedding_model"
    if not all(map(math.isfinite, numbers)) or not any(numbers):
        return "gives an embedding that is 0 or not finite"
    return numbers
