"""A question like the strategist's, and the emulator asked it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from typing import Any

from meta_controller.llm import Conversation, Endpoint, Question, Tool, ask
from meta_controller.llm_answer import answer_schema
from tests.llm_emulator.server import KEY, MODEL, LlmEmulator

STRATEGIES = ("drl", "cash")
TABLE = "risk_aversion: 2.5\nmax_exposure: 0.7\ntrend t-stat: 1.4\n"
HOURS = {
    "type": "object",
    "properties": {"hours": {"type": "integer", "minimum": 4}},
    "required": ["hours"],
    "additionalProperties": False,
}


def hours_tool(run: Callable[[dict[str, Any]], str] = lambda arguments: json.dumps({"seen": arguments})) -> Tool:
    return Tool("analogs", "What followed similar times.", HOURS, run)


def question(**changes: Any) -> Question:
    messages = ({"role": "system", "content": "You steer."}, {"role": "user", "content": TABLE})
    plain = Question(messages, "steering", answer_schema(STRATEGIES), (hours_tool(),), max_tool_calls=2)
    return dataclasses.replace(plain, **changes)


def endpoint(emulator: LlmEmulator) -> Endpoint:
    return Endpoint(emulator.base_url, KEY, MODEL)


def asked(emulator: LlmEmulator, behaviour: Any, timeout_s: float = 5.0, **changes: Any) -> Conversation:
    emulator.always(behaviour)
    return ask(endpoint(emulator), question(**changes), timeout_s)
