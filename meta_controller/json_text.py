"""The JSON object in a language model's answer, whatever stands around it.

An endpoint without structured outputs gives thoughts, fences and prose with it. What is last counts, so that no
example, draft or decoy before it is ever taken for the answer; where the last object is cut off or no JSON, there is
no answer. Any text gives an object or BadAnswer, in time linear in its length.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from typing import Any, NoReturn

LONGEST_ANSWER = 200_000  # characters
DEEPEST = 20  # nested objects and lists
BYTE_ORDER_MARK = "\ufeff"
# A whole string (or an unclosed one up to the end), or a bracket; possessive, so that nothing is ever tried twice.
TOKEN = re.compile(r'"(?:[^"\\]++|\\.)*+"?+|[{}\[\]]', re.DOTALL)
THINK = re.compile(r"<think(?:ing)?>", re.IGNORECASE)
END_THINK = re.compile(r"</think(?:ing)?>", re.IGNORECASE)


class BadAnswer(ValueError):
    """Why there is no answer, in one sentence. It never repeats the model's own words: they may be an attacker's."""


class _NotJson(ValueError):
    """Look for the object elsewhere in the text."""


def object_in(text: str) -> dict[str, Any]:
    """The JSON object (RFC 8259) that ``text`` gives as its answer; every number is a finite float.

    In this order: the whole text; the text without <think> blocks; its last fenced block, if no brace comes after it;
    its last {…} outside any other. BadAnswer for a text that has none or whose last is cut off, that is longer than
    LONGEST_ANSWER or deeper than DEEPEST, and for an object that names a field twice or holds a number that no double
    can hold (NaN, Infinity, 1e999).
    """
    if len(text) > LONGEST_ANSWER:
        raise BadAnswer(f"the answer is longer than {LONGEST_ANSWER} characters")
    for candidate in _candidates(text):
        try:
            found = _decode(candidate)
        except _NotJson:
            continue
        if not isinstance(found, dict):
            raise BadAnswer("the answer is JSON, but not an object")
        return found
    raise BadAnswer("the last object of the answer is not JSON")


def _candidates(text: str) -> Iterator[str]:
    text = text.strip().removeprefix(BYTE_ORDER_MARK).strip()
    if text[:1] in ("{", "["):
        yield text
    text = _without_thoughts(text).strip()
    if text[:1] == "[":
        yield text
    yield from _last_fenced(text)
    yield _last_object(text)


def _without_thoughts(text: str) -> str:
    """``text`` without its <think> blocks, without what an unopened </think> ends (some servers swallow the opening),
    and without a thought that never ends. Only after a brace an unclosed <think> is text like any other."""
    kept: list[str] = []
    at = 0
    while opened := THINK.search(text, at):
        kept.append(text[at : opened.start()])
        closed = END_THINK.search(text, opened.end())
        if closed is None:
            at = opened.start() if any("{" in part for part in kept) else len(text)
            break
        at = closed.end()
    return END_THINK.split("".join(kept) + text[at:])[-1]


def _last_fenced(text: str) -> Iterator[str]:
    parts = text.split("```")  # every other one stands between two fences
    closed = parts[1 : len(parts) - 1 : 2]
    after = parts[2 * len(closed) :]
    if closed and "{" in closed[-1] and not any("{" in part for part in after):
        yield closed[-1][closed[-1].find("{") :].strip()


def _last_object(text: str) -> str:
    last, at = "", text.find("{")
    while at >= 0:
        end = _end(text, at)
        if end is None:
            raise BadAnswer("the answer's last JSON object is not closed: it was cut off")
        last, at = text[at:end], text.find("{", end)
    if not last:
        raise BadAnswer("the answer holds no JSON object")
    return last


def _end(text: str, start: int) -> int | None:
    """Where the bracket at ``start`` is closed again, if it is; brackets in strings count for nothing."""
    depth = 0
    for found in TOKEN.finditer(text, start):
        depth += _step(found[0])
        if depth > DEEPEST:
            raise BadAnswer(f"the answer is nested deeper than {DEEPEST}")
        if depth == 0:
            return found.end()
    return None


def _step(part: str) -> int:
    return 1 if part in "{[" else -1 if part in "]}" else 0


def _decode(text: str) -> Any:
    """``text`` as one JSON value; _NotJson if it is none. The depth is looked at first: json recurses."""
    if _end(text, 0) != len(text):
        raise _NotJson
    try:
        return json.loads(
            text, object_pairs_hook=_object, parse_float=_number, parse_int=_number, parse_constant=_refuse_constant
        )
    except json.JSONDecodeError as error:
        raise _NotJson from error


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        raise BadAnswer("an object in the answer names the same field twice")
    return made


def _number(digits: str) -> float:
    number = float(digits) + 0.0  # there is one zero
    if not math.isfinite(number):
        raise BadAnswer("a number in the answer is too large for a double")
    return number


def _refuse_constant(name: str) -> NoReturn:
    raise BadAnswer(f"the answer holds {name}, which is not a number")
