"""Does the model read its table? The same question in a mirror and under another identity.

In a mirror (every direction turned) a model that reads turns its trend call; under another identity (other names,
order, hour) it says the same. One that answers from memory does neither (prediction consistency of Li et al., "Profit
Mirage", arXiv 2510.07920). Each moment costs three calls, paid and recorded like all others.

Input: all that prompts are built from. Output: llm_calls (purpose probe), a report for people.
``python -m meta_controller.probe_llm [--hours 8] [--every 1]``; exit 1: a target is missed.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal

from meta_controller.llm import Conversation, Endpoint, Question, ask, endpoint_of, first_request, worst_case_tokens
from meta_controller.llm_answer import Answer, BadAnswer, answer_json, answer_schema, parse_answer, to_proposal
from meta_controller.llm_prompt import Prompt, build, messages_of, messages_sha256, prompt_inputs
from meta_controller.llm_record import BudgetRefused, NewCall, close_call, open_call
from meta_controller.market_index import ShortHistory
from meta_controller.statistics_mirror import mirrored, renamed
from shared.clock import Clock, floor_time, open_clock
from shared.db import Database
from shared.job import Context, JobError, Outcome, UsageError, job_parser, run_job_command
from shared.settings import Settings

Variant = Literal["plain", "mirrored", "renamed"]
Ask = Callable[[Endpoint, Question, float], Conversation]
Classes = tuple[tuple[str, str], ...]  # (trend, volatility) for 4h and 24h

VARIANTS: Mapping[Variant, Callable[[Mapping[str, Any]], dict[str, Any]]] = {
    "plain": dict,
    "mirrored": mirrored,
    "renamed": renamed,
}
MOST_UNTURNED = 0.2  # of the calls that are not flat, in the mirror
LEAST_AGREEMENT = 0.95  # of the classes, under another identity
LEAST_COUNTED = 10  # fewer say nothing


@dataclass(frozen=True, slots=True)
class Findings:
    """What came of it. Shares are None where there was nothing to count.

    ``unturned``: of the trend calls that were not flat, the share that was the same in the mirror; ``agreement``: of
    all classes, the share that was the same under another identity."""

    moments: int
    refused: int
    turnable: int
    unturned: float | None
    compared: int
    agreement: float | None
    stopped: str | None

    @property
    def missed(self) -> list[str]:
        """Each target that was missed, or that too few calls can speak about."""
        found = []
        if self.unturned is None or self.turnable < LEAST_COUNTED:
            found.append(f"only {self.turnable} trend calls were not flat: the mirror says nothing yet")
        elif self.unturned > MOST_UNTURNED:
            found.append(
                f"{self.unturned:.0%} of the trend calls are the same in the mirror, more than {MOST_UNTURNED:.0%}"
            )
        if self.agreement is None or self.compared < LEAST_COUNTED:
            found.append(f"only {self.compared} classes could be compared under another identity")
        elif self.agreement < LEAST_AGREEMENT:
            found.append(f"{self.agreement:.0%} of the classes agree under another identity, not {LEAST_AGREEMENT:.0%}")
        return found


def findings(answers: Sequence[Mapping[Variant, Answer | None]], stopped: str | None = None) -> Findings:
    """Of one triple of answers a moment; None: refused or failed."""
    turned = [pair for one in answers for pair in _pairs(one, "mirrored")]
    same = [pair for one in answers for pair in _pairs(one, "renamed")]
    directed = [(before[0], after[0]) for before, after in turned if before[0] != "flat"]
    classes = [(a, b) for before, after in same for a, b in zip(before, after, strict=True)]
    return Findings(
        moments=len(answers), refused=sum(answer is None for one in answers for answer in one.values()),
        turnable=len(directed), unturned=_share_equal(directed), compared=len(classes),
        agreement=_share_equal(classes), stopped=stopped,
    )  # fmt: skip


def _pairs(one: Mapping[Variant, Answer | None], other: Variant) -> Iterator[tuple[tuple[str, str], tuple[str, str]]]:
    """By horizon what was said to the plain table and to the other one."""
    before, after = one.get("plain"), one.get(other)
    if before is not None and after is not None:
        yield from zip(classes_of(before), classes_of(after), strict=True)


def classes_of(answer: Answer) -> Classes:
    return tuple((call.trend, call.volatility) for call in to_proposal(answer).calls)


def _share_equal(pairs: Sequence[tuple[str, str]]) -> float | None:
    return sum(a == b for a, b in pairs) / len(pairs) if pairs else None


def probe(
    clock: Clock,
    database: Database,
    settings: Settings,
    endpoint: Endpoint,
    moments: Sequence[datetime],
    asking: Ask = ask,
) -> Findings:
    """Asks about each moment three times, until the budget refuses a call; the moment it stops in is not counted."""
    answers: list[Mapping[Variant, Answer | None]] = []
    for as_of in moments:
        now = clock.now()
        inputs = prompt_inputs(database, settings, as_of, now).model_copy(update={"max_tool_calls": 0})
        try:
            prompt = build(database, inputs, as_of, now)
            answers.append(
                {v: _answer(clock, database, settings, endpoint, prompt, as_of, v, asking) for v in VARIANTS}
            )
        except ShortHistory as reason:
            raise JobError(f"there is nothing to ask about {as_of:%Y-%m-%d %H:%M}: {reason}") from None
        except BudgetRefused as reason:
            return findings(answers, str(reason))
    return findings(answers)


def _answer(
    clock: Clock, database: Database, settings: Settings, endpoint: Endpoint, prompt: Prompt, as_of: datetime,
    variant: Variant, asking: Ask,
) -> Answer | None:  # fmt: skip
    """One variant asked, recorded and paid; None where there is no answer that counts."""
    llm, statistics = settings.llm, VARIANTS[variant](prompt.statistics)
    messages = messages_of(prompt.messages[0]["content"], statistics)
    question = Question(messages, "steering", answer_schema(llm.strategies), (), 0, llm.max_output_tokens,
                        llm.answer_format)  # fmt: skip
    tokens_in, tokens_out = worst_case_tokens(question)
    call = NewCall(
        purpose="probe", as_of=as_of, model=endpoint.model, endpoint=endpoint.host, prompt=prompt.inputs.prompt,
        prompt_sha256=messages_sha256(messages), inputs=prompt.inputs.model_dump(mode="json") | {"variant": variant},
        request=first_request(endpoint, question), statistics=statistics,
        memory_ids=prompt.memory_ids, config_before_id=None, tokens_in=tokens_in, tokens_out=tokens_out,
    )  # fmt: skip
    call_id = open_call(database, llm, call, clock.now())
    said = asking(endpoint, question, llm.timeout_s)
    answer, error = _read(said, llm.strategies)
    close_call(
        database, call_id, status="failed" if said.text is None else "rejected" if answer is None else "answered",
        responses=said.responses, answer=None if answer is None else answer_json(answer), error=error,
        tokens_in=said.tokens_in, tokens_out=said.tokens_out, settings=llm, model=endpoint.model,
        latency_s=said.latency_s, now=clock.now(),
    )  # fmt: skip
    return answer


def _read(said: Conversation, strategies: Sequence[str]) -> tuple[Answer | None, str | None]:
    if said.text is None:
        return None, said.error or "no answer"
    try:
        return parse_answer(said.text, strategies), None
    except BadAnswer as error:
        return None, str(error)


def report(found: Findings) -> str:
    unturned, agreement = _percent(found.unturned), _percent(found.agreement)
    lines = [
        f"{found.moments} moments asked three times, {found.refused} answers refused or failed",
        f"mirror:   {unturned} of {found.turnable} directed trend calls unchanged (at most {MOST_UNTURNED:.0%})",
        f"identity: {agreement} of {found.compared} classes unchanged (at least {LEAST_AGREEMENT:.0%})",
    ]
    return "\n".join(lines + ([f"stopped: {found.stopped}"] if found.stopped else []))


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.1%}"


def _work(context: Context) -> Outcome:
    endpoint = endpoint_of(context.settings)
    if endpoint is None:
        raise UsageError("there is no model to ask: set OPENAI_API_KEY or OPENAI_BASE_URL in config/.env")
    asked = context.arguments
    if asked.hours < 1 or asked.every < 1:
        raise UsageError("--hours and --every are at least 1")
    if context.settings.clock_url and not endpoint.is_local:
        raise UsageError(
            f"{endpoint.host} is not on this machine and would be paid by an emulator's clock, which may run fast: "
            "unset CLOCK_URL"
        )
    last = floor_time(context.clock.now(), context.settings.universe.decision_timeframe_s)
    moments = [last - timedelta(hours=n) for n in range(0, asked.hours, asked.every)]
    # What is asked about the past is paid today.
    clock = open_clock(context.settings.clock_url) if asked.at else context.clock
    found = probe(clock, context.database, context.settings, endpoint, moments)
    print(report(found))
    if found.missed:
        raise JobError("; ".join(found.missed))
    return Outcome("done", {"moments": found.moments})


def main(argv: list[str] | None = None) -> int:
    parser = job_parser(
        "Asks the model the same in a mirror and under another identity. It costs three calls a moment."
    )
    parser.add_argument("--hours", type=int, default=8, help="how far to look back (8)")
    parser.add_argument("--every", type=int, default=1, help="hours between two moments (1)")
    return run_job_command("meta_controller", parser, _work, argv)


if __name__ == "__main__":
    sys.exit(main())
