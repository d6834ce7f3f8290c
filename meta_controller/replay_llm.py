"""Replays stored calls of the language model: the stored answer, read and judged again, is the stored one and gave the
stored steering; the prompt, built again from rows recorded by the call, has the stored hash.

Input: llm_calls and all that prompts are built from. Output: lines for people.
``python -m meta_controller.replay_llm --id N | --all [--answers-only]``; exit 0: identical, 1: not.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from meta_controller.bounds import BOUNDS, CHANGE_TOLERANCE
from meta_controller.controller import Steering
from meta_controller.llm_answer import BadAnswer, answer_json, parse_answer, to_proposal
from meta_controller.llm_message import read_message
from meta_controller.llm_prompt import PromptChanged, PromptInputs, build
from meta_controller.llm_record import LONGEST_ERROR
from meta_controller.market_index import ShortHistory
from meta_controller.statistics_view import View
from meta_controller.strategist import objections
from shared.db import Database, load_queries
from shared.errors import SextantError
from shared.job import Context, JobError, Outcome, UsageError, run_job_command
from shared.settings import RiskSettings

PAGE = 200  # calls read at once
Call = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Check:
    """One comparison of one call: ``finding`` is 'identical', 'nothing to compare', or what differs."""

    call_id: int
    what: str
    same: bool | None
    finding: str

    def __str__(self) -> str:
        return f"call {self.call_id}, {self.what}: {self.finding}"


def check_answer(call: Call) -> Check:
    """Parses the last stored response again: the same object, or the same reason for having rejected it."""
    if call["status"] == "failed":
        return Check(call["id"], "answer", None, f"nothing to compare: it failed ({call['error']})")
    text = final_text(call["responses"])
    if text is None:
        return Check(call["id"], "answer", False, f"is {call['status']}, but its last response holds no answer")
    try:
        answer: Any = answer_json(parse_answer(text, call["inputs"]["strategies"]))
        error = None
    except BadAnswer as reason:
        answer, error = None, str(reason)[:LONGEST_ERROR]
    if answer != call["answer"]:
        return Check(call["id"], "answer", False, f"was {_short(call['answer'])}, is {_short(answer or error)} now")
    if answer is None and error != call["error"]:
        return Check(call["id"], "answer", False, f"was rejected because {call['error']!r}, now because {error!r}")
    return Check(call["id"], "answer", True, "identical" if answer else "identical: rejected for the same reason")


def check_verdict(database: Database, call: Call) -> Check | None:
    """An answer of the right shape, judged again by the limits and the steering of then: rejected for the same reasons,
    or the steering that came of it is the answer's. None where that is so."""
    inputs = PromptInputs.model_validate(call["inputs"])
    text = final_text(call["responses"])
    assert text is not None, "check_answer comes first"
    proposal = to_proposal(parse_answer(text, inputs.strategies))
    risk = RiskSettings().model_copy(update=inputs.limits)
    said = objections(proposal, risk, _steering_before(database, call))
    error = "; ".join(said)[:LONGEST_ERROR] or None
    if error != call["error"]:
        return Check(call["id"], "answer", False, f"was rejected because {call['error']!r}, now because {error!r}")
    if (came := call["config_after_id"]) is None:
        return None
    row = database.fetch_one(load_queries("llm_prompt")["config_of_call"], {"id": came})
    if row is not None and _is_near(Steering(**row), proposal.steering):
        return None
    return Check(call["id"], "answer", False, f"is not the steering that came of it (policy_config {came})")


def _steering_before(database: Database, call: Call) -> tuple[Steering, float] | None:
    """As meta_controller.steering.Past.before, from rows recorded by the call."""
    for row in View(database, call["as_of"], call["recorded_at"]).fetch("steering_before"):
        if row.pop("track") == "llm":
            hours = (call["as_of"] - row.pop("as_of")).total_seconds() / 3600
            return Steering(**row), hours
    return None


def _is_near(one: Steering, other: Steering) -> bool:
    """Equal but for what is cut off a change that exceeds its hour's by rounding."""
    numbers = [(getattr(one, name), getattr(other, name)) for name in BOUNDS]
    names = one.strategy_weights.keys() | other.strategy_weights.keys()
    numbers += [(one.strategy_weights.get(name, 0.0), other.strategy_weights.get(name, 0.0)) for name in names]
    return one.pause == other.pause and all(abs(a - b) <= 2 * CHANGE_TOLERANCE for a, b in numbers)


def final_text(responses: str | None) -> str | None:
    """The text of the last of the stored responses, a JSON list of raw bodies; None where there is none."""
    try:
        bodies = json.loads(responses or "[]")
        return read_message(bodies[-1]).text if bodies else None
    except (ValueError, TypeError, RecursionError):
        return None


def check_prompt(database: Database, call: Call) -> Check:
    """Builds the prompt again from its inputs and the rows recorded by the call: the same hash."""
    try:
        inputs = PromptInputs.model_validate(call["inputs"])
        prompt = build(database, inputs, call["as_of"], call["recorded_at"])
    except ValidationError as error:
        return Check(call["id"], "prompt", False, f"its inputs cannot be read by this version: {error}")
    except PromptChanged as error:
        return Check(call["id"], "prompt", False, str(error))
    except (ShortHistory, SextantError) as error:
        return Check(call["id"], "prompt", False, f"cannot be built again: {error}")
    if prompt.sha256 == call["prompt_sha256"]:
        return Check(call["id"], "prompt", True, "identical")
    return Check(call["id"], "prompt", False, f"differs in {_differences(call['statistics'], prompt.statistics)}")


def _differences(stored: dict[str, Any], built: dict[str, Any]) -> str:
    parts = [key for key in sorted(stored.keys() | built.keys()) if stored.get(key) != built.get(key)]
    return ", ".join(parts) or "the messages around the statistics"


def checks(database: Database, call: Call, answers_only: bool = False) -> list[Check]:
    answer = check_answer(call)
    if answer.same and call["answer"] is not None:
        answer = _verdict(database, call) or answer
    return [answer] + ([] if answers_only else [check_prompt(database, call)])


def _verdict(database: Database, call: Call) -> Check | None:
    try:
        return check_verdict(database, call)
    except ValidationError as error:
        return Check(call["id"], "answer", False, f"its inputs cannot be read by this version: {error}")


def read_call(database: Database, call_id: int) -> Call:
    """UsageError for what is no ended call of the strategist."""
    call = database.fetch_one(load_queries("llm_prompt")["call_to_replay"], {"id": call_id})
    if call is None:
        raise UsageError(f"there is no LLM call {call_id}")
    if call["purpose"] != "strategist":
        raise UsageError(f"LLM call {call_id} is for {call['purpose']}: only the strategist's are replayed")
    if call["status"] == "sent":
        raise UsageError(f"LLM call {call_id} never ended: there is nothing to replay")
    return call


def read_calls(database: Database) -> Iterator[Call]:
    """Every ended call of the strategist, oldest first."""
    after = 0
    while page := database.fetch(load_queries("llm_prompt")["calls_to_replay"], {"after": after, "most": PAGE}):
        yield from page
        after = page[-1]["id"]


def replay_one(database: Database, call_id: int, answers_only: bool) -> Counter[str]:
    found = checks(database, read_call(database, call_id), answers_only)
    for check in found:
        print(check)
    return _count(found)


def replay_all(database: Database, answers_only: bool) -> Counter[str]:
    """Prints what differs, and a summary."""
    total: Counter[str] = Counter()
    for call in read_calls(database):
        found = checks(database, call, answers_only)
        total += _count(found) + Counter(calls=1)
        for check in found:
            if check.same is False:
                print(check)
    kinds = ("answer",) if answers_only else ("answer", "prompt")
    told = "; ".join(
        f"{kind}s: {total[f'{kind} identical']} identical, {total[f'{kind} differs']} differ, "
        f"{total[f'{kind} nothing']} with nothing to compare"
        for kind in kinds
    )
    print(f"{total['calls']} calls replayed. {told}.")
    return total


def _count(found: list[Check]) -> Counter[str]:
    words = {True: "identical", False: "differs", None: "nothing"}
    return Counter(f"{check.what} {words[check.same]}" for check in found)


def _short(value: Any) -> str:
    text = json.dumps(value, sort_keys=True)
    return text if len(text) <= 200 else f"{text[:200]}…"


def _work(context: Context) -> Outcome:
    asked = context.arguments
    if asked.all:
        total = replay_all(context.database, asked.answers_only)
    else:
        total = replay_one(context.database, asked.id, asked.answers_only)
    if differs := total["answer differs"] + total["prompt differs"]:
        raise JobError(f"{differs} checks differ: what is stored was not made by this code from these rows")
    return Outcome("done", dict(total))


def main(argv: list[str] | None = None) -> int:
    spec = sys.modules["__main__"].__spec__
    parser = argparse.ArgumentParser(prog=spec.name if spec else None, description="Replays the LLM's stored calls.")
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--id", type=int, help="one call (llm_calls.id)")
    which.add_argument("--all", action="store_true", help="every call of the strategist that ended")
    parser.add_argument("--answers-only", action="store_true", help="do not build the prompts again")
    return run_job_command("meta_controller", parser, _work, argv)


if __name__ == "__main__":
    sys.exit(main())
