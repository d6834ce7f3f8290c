"""What a response of /chat/completions says. Pure and total: any text in, a Message out; stored ones are read again."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

CUT_SHORT = {
    "length": "was cut off at its longest answer (finish_reason length); raise llm.max_output_tokens",
    "content_filter": "withholds the answer (finish_reason content_filter)",
}


@dataclass(frozen=True, slots=True)
class ToolCall:
    name: str
    arguments: str  # JSON, as the model wrote it


@dataclass(frozen=True, slots=True)
class Message:
    """A text, or calls of tools, or an error; the others are empty.

    ``generated``: all that the model wrote, for estimating tokens. ``usage``: (tokens in, tokens out) as told, each
    None where it is no whole number ≥ 0; None where there was no message at all.
    """

    text: str | None = None
    calls: tuple[ToolCall, ...] = ()
    error: str | None = None
    generated: str = ""
    usage: tuple[int | None, int | None] | None = None
    model: str | None = None


def read_message(body: str) -> Message:
    """The message in a response's body. A cut or withheld text is an error, never a text: its last JSON object could
    be one that the model only thought about."""
    try:
        response = json.loads(body)
        generated = json.dumps(response, ensure_ascii=False)
    except (ValueError, RecursionError):
        return Message(error="sends a body that is not JSON")
    match response:
        case {"choices": [{"message": dict() as message, **choice}, *_]}:
            generated = json.dumps(message, ensure_ascii=False)
        case _:
            return Message(error="sends no message")
    text, calls, error = _content(message, choice.get("finish_reason"))
    model = response.get("model")
    return Message(
        text=text,
        calls=calls,
        error=error,
        generated=generated,
        usage=_usage(response.get("usage")),
        model=plain(model, 100) if isinstance(model, str) else None,
    )


def _content(message: dict[str, Any], finish: Any) -> tuple[str | None, tuple[ToolCall, ...], str | None]:
    refusal, content = message.get("refusal"), message.get("content")
    if isinstance(refusal, str) and refusal:
        return None, (), f"refuses: {plain(refusal, 200)}"
    if isinstance(finish, str) and finish in CUT_SHORT:
        return None, (), CUT_SHORT[finish]
    if calls := _calls(message.get("tool_calls")):
        return None, calls, None
    if not isinstance(content, str) or not content.strip():
        return None, (), "sends an empty answer"
    return content, (), None


def _calls(given: Any) -> tuple[ToolCall, ...]:
    if not isinstance(given, list):
        return ()
    functions = [call.get("function") if isinstance(call, dict) else None for call in given]
    return tuple(ToolCall(_string(f, "name"), _string(f, "arguments")) for f in functions)


def _string(function: Any, key: str) -> str:
    value = function.get(key) if isinstance(function, dict) else None
    return value if isinstance(value, str) else ""


def _usage(given: Any) -> tuple[int | None, int | None]:
    usage = given if isinstance(given, dict) else {}
    return _count(usage.get("prompt_tokens")), _count(usage.get("completion_tokens"))


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def plain(text: str, longest: int) -> str:
    """Third parties' words for a record: printable, on one line, at most ``longest`` characters."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text[: 4 * longest]).split())
    return line if len(line) <= longest else line[: longest - 1] + "…"
