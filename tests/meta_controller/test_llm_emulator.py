"""The emulator's good answer is good hour after hour: what rehearses with it is not refused."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest

from meta_controller.bounds import SAFE_DEFAULT, check, check_change
from meta_controller.controller import Steering
from meta_controller.llm_answer import answer_schema, parse_answer, to_proposal
from tests.llm_emulator.__main__ import parse_arguments, welcome
from tests.llm_emulator.answers import good_answer
from tests.llm_emulator.behaviours import BEHAVIOURS
from tests.llm_emulator.server import LlmEmulator

NAMES = ("drl", "trend_vol_target", "vol_target", "cash")


def asked(hour: int, weights: dict[str, Any]) -> dict[str, Any]:
    """A request as the strategist makes it: the rules, then the table."""
    table = {"hour": hour, "steering": {"strategy_weights": weights}, "analogs": {"cash": [0.7]}}
    schema = {"json_schema": {"schema": answer_schema(NAMES)}}
    messages = [
        {"role": "system", "content": f"Answer as told: {json.dumps(answer_schema(NAMES))}"},
        {"role": "user", "content": json.dumps(table)},
    ]
    return {"messages": messages, "response_format": schema}


def proposed(body: dict[str, Any]) -> Steering:
    proposal = to_proposal(parse_answer(good_answer(body), NAMES))
    assert check(proposal) == []
    return proposal.steering


@pytest.mark.parametrize("weights", [(0.91, 0.076, 0.014, 0.0), (0.333, 0.333, 0.333, 0.0), (0.0, 0.0, 0.0, 1.0)])
def test_strategy_weights_that_are_told_are_kept(weights: tuple[float, ...]) -> None:
    before = replace(SAFE_DEFAULT, strategy_weights=dict(zip(NAMES, weights, strict=True)))
    for hour in range(20):
        told = {name: [value, 1, 0, 1] for name, value in before.strategy_weights.items()}
        after = proposed(asked(hour, told))
        assert check_change(before, replace(SAFE_DEFAULT, strategy_weights=after.strategy_weights), 1.0) == []


def test_where_no_strategy_weight_is_told_yet_they_are_some_that_sum_to_1() -> None:
    for hour in range(20):
        weights = proposed(asked(hour, {name: [None, 1, 0, 1] for name in NAMES})).strategy_weights
        assert sum(weights.values()) == pytest.approx(1.0)
        assert max(weights.values()) < 1, "another section's number is no weight"


def test_what_is_printed_at_the_start_fits_a_terminal_and_names_every_behaviour() -> None:
    text = welcome(LlmEmulator(0), parse_arguments([]))
    assert max(len(line) for line in text.splitlines()) <= 100
    assert all(f" {name}" in text for name in BEHAVIOURS)


@pytest.mark.parametrize(
    ("arguments", "told"), [(("--port", "99999"), "port"), (("--then", "well"), "'well'; there are")]
)
def test_what_it_cannot_start_with_is_said_in_a_line(arguments: tuple[str, str], told: str) -> None:
    command = [sys.executable, "-m", "tests.llm_emulator", *arguments]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    assert ended.returncode == 2
    assert ended.stderr.startswith("the emulator cannot start: ")
    assert told in ended.stderr
