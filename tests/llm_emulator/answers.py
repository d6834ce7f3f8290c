"""Good answers, made from nothing but the request: the same request is always answered the same."""

from __future__ import annotations

import hashlib
import json
import random
import re
from typing import Any

NUMBERS = {  # fields of policy_config, where the prompt tells none
    "risk_aversion": 3.0,
    "turnover_penalty": 1.0,
    "drawdown_penalty": 1.0,
    "target_volatility": 0.35,
    "max_exposure": 0.8,
    "max_position": 0.4,
    "daily_loss_limit": 0.05,
    "max_drawdown": 0.15,
}
STRATEGIES = ("drl", "trend_vol_target", "vol_target", "cash")
WEIGHTS_TOLD = re.compile(r'"strategy_weights"\s*:\s*\{("\w+"\s*:\s*\[[^}]*)\}')  # of the table, not of a schema
TOPICS = ("regulation", "security", "macro", "adoption", "technology", "market", "other")


def good_answer(body: dict[str, Any]) -> str:
    """A valid answer to what the request asks for: a news reading, the strategist's answer, or what its schema wants.

    The probabilities lean as the texts of the messages happen to hash; the steering repeats the numbers in the prompt.
    """
    prompt = "\n".join(str(message.get("content") or "") for message in body["messages"])
    dice = random.Random(hashlib.sha256(prompt.encode("utf-8", "replace")).digest())
    schema = _schema(body)
    wanted = set(schema.get("properties", ()))
    if wanted and not wanted & {"calls", "topic"}:
        return json.dumps(fill(schema, dice))
    if "topic" in wanted or (not wanted and "p_vol_low" not in prompt and '"topic"' in prompt):
        return json.dumps(_news(dice))
    return json.dumps(_strategist(prompt, schema, dice))


def _schema(body: dict[str, Any]) -> dict[str, Any]:
    form = body.get("response_format") or {}
    schema: dict[str, Any] = form.get("json_schema", {}).get("schema", {})
    return schema


def _news(dice: random.Random) -> dict[str, Any]:
    sentiment, relevance = dice.uniform(-1, 1), dice.random()
    return {"topic": dice.choice(TOPICS), "sentiment": round(sentiment, 2), "relevance": round(relevance, 2)}


def _strategist(prompt: str, schema: dict[str, Any], dice: random.Random) -> dict[str, Any]:
    weights = schema.get("properties", {}).get("strategy_weights", {}).get("properties", {})
    names = list(weights) or [name for name in STRATEGIES if name in prompt] or ["cash"]
    steering: dict[str, Any] = {name: _told(prompt, name, usual) for name, usual in NUMBERS.items()}
    return {
        "calls": {"4h": _call(dice), "24h": _call(dice)},
        "steering": {**steering, "pause": False},
        "strategy_weights": _weights(prompt, names, dice),
        "reasons": "The statistics lean this way.",
        "would_change_my_mind": "Statistics that lean the other way.",
    }


def _told(prompt: str, name: str, usual: float) -> float:
    """The number beside the field's name in the prompt, so that the steering changes by nothing."""
    found = re.search(rf"\b{name}\b[\"'`]?\s*[:=|]\s*\[?\s*(\d+(?:\.\d+)?)", prompt)
    return float(found[1]) if found else usual


def _weights(prompt: str, names: list[str], dice: random.Random) -> dict[str, float]:
    """As the prompt tells them, so that they change by nothing; where it tells none, as the dice fall."""
    table = WEIGHTS_TOLD.search(prompt)
    told = [_told(table[1] if table else "", name, 0.0) for name in names]
    weights = [value / sum(told) for value in told] if sum(told) else _shares(dice, len(names))
    return dict(zip(names, weights, strict=True))


def _call(dice: random.Random) -> dict[str, float]:
    trend, volatility = _shares(dice, 3), _shares(dice, 3)
    names = ("p_down", "p_flat", "p_up", "p_vol_low", "p_vol_mid", "p_vol_high")
    return {**dict(zip(names, trend + volatility, strict=True)), "conviction": round(trend[2] - trend[0], 2)}


def _shares(dice: random.Random, n: int) -> list[float]:
    """n hundredths' multiples ≥ 0 that sum to exactly 1."""
    marks = sorted(dice.randint(0, 100) for _ in range(n - 1))
    return [(b - a) / 100 for a, b in zip([0, *marks], [*marks, 100], strict=True)]


def fill(schema: dict[str, Any], dice: random.Random) -> Any:
    """Something that a plain JSON schema allows."""
    if "enum" in schema:
        return dice.choice(schema["enum"])
    match schema.get("type"):
        case "object":
            return {name: fill(part, dice) for name, part in schema.get("properties", {}).items()}
        case "array":
            return [fill(schema["items"], dice)] * max(1, schema.get("minItems", 1))
        case "number" | "integer":
            return schema.get("minimum", 1)
        case "boolean":
            return False
        case _:
            return "x"


def embedding(text: str, dimensions: int) -> list[float]:
    """Numbers in -1..1 that only the text decides."""
    dice = random.Random(hashlib.sha256(text.encode("utf-8", "replace")).digest())
    return [round(dice.uniform(-1, 1), 6) for _ in range(dimensions)]
