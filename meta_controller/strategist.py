"""Asks the language model about one moment: reads the news, builds the prompt, reserves the cost, asks, and checks.

Whatever goes wrong on the way is a reason in words; nothing raises but what the database refuses. What comes out is a
proposal within every bound, or the reason why there is none.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np

from meta_controller.bounds import check, check_change, check_operator
from meta_controller.call_rows import SENT_CALL, laid_out
from meta_controller.controller import HORIZONS_S, HorizonCall, Proposal, Steering, call_of
from meta_controller.llm import Conversation, Endpoint, Question, ask, first_request, worst_case_tokens
from meta_controller.llm_answer import Answer, BadAnswer, answer_json, answer_schema, parse_answer, to_proposal
from meta_controller.llm_memory import decision_of, remember
from meta_controller.llm_prompt import Prompt, build, prompt_inputs, words_now
from meta_controller.llm_record import AlreadyAsked, BudgetRefused, NewCall, close_call, open_call
from meta_controller.llm_tools import read_only_tools
from meta_controller.market_index import ShortHistory
from meta_controller.news import reduce_news
from meta_controller.regime_run import RegimeRun
from meta_controller.regimes.expert import FLOOR
from meta_controller.scoring import recalibrate
from meta_controller.steering import Past
from meta_controller.text_embedding import LOCAL, prepare_embedding
from meta_controller.trust_rows import newest_trust
from shared.clock import Clock, Timer, to_unix
from shared.db import Database, DatabaseError, load_queries
from shared.errors import SextantError
from shared.market_data import read_records
from shared.rows import FloatArray
from shared.settings import LlmSettings, RiskSettings, Settings

log = logging.getLogger("sextant.strategist")
NEWS_SHARE = 1 / 3  # of the time there is
EMBEDDING_SHARE = 1 / 3  # of what is left then
AFTER_CUTOFF = timedelta(days=30)  # until then a model may have read about a time


class DatabaseRefused(SextantError):
    """A statement on the way failed. In our words: the server's quote what it was given, an answer or news perhaps."""


@dataclass(frozen=True, slots=True)
class Consultation:
    """What came of asking. With a ``proposal``: ``recalibrated``, its calls as scored ones have taught; ``pooled``,
    the experts' pool with it as one more expert (empty while it may not count), and the ``weight`` of its steering."""

    reason: str  # why there is no proposal, or why its weight is what it is
    proposal: Proposal | None = None
    call_id: int | None = None
    contaminated: bool = False
    recalibrated: tuple[HorizonCall, ...] = ()
    pooled: tuple[HorizonCall, ...] = ()
    weight: float = 0.0
    prompt: Prompt | None = field(default=None, repr=False)

    def keep(self, database: Database, as_of: datetime, now: datetime) -> None:
        """Writes the calls that will be scored, the memory, and which steering came of the call."""
        if self.proposal is None or self.call_id is None or self.prompt is None:
            return
        queries = load_queries("strategist")
        rows = [_raw_row(call, as_of, self.call_id, self.contaminated, now) for call in self.proposal.calls]
        database.execute_many(queries["insert_llm_calls"], rows)
        database.execute(queries["name_config"], {"id": self.call_id, "as_of": as_of})
        if not self.contaminated:
            decision = decision_of(self.proposal)
            remember(database, self.call_id, as_of, self.prompt.state, self.prompt.words, self.prompt.inputs.embedder,
                     decision, as_of, now)  # fmt: skip


def consult(
    clock: Clock,
    database: Database,
    settings: Settings,
    endpoint: Endpoint,
    as_of: datetime,
    past: Past,
    run: RegimeRun,
) -> Consultation:
    """Asks about ``as_of`` once, within settings.llm.timeout_s, within the caps on cost.

    DatabaseRefused for a statement that fails: what the rules say can be written all the same, if there is a database.
    """
    try:
        return _consult(clock, database, settings, endpoint, as_of, past, run)
    except DatabaseError as error:
        about = ", ".join(filter(None, (type(error).__name__, error.sqlstate, error.diag.constraint_name)))
        raise DatabaseRefused(f"a statement failed: {about}") from None


def _consult(
    clock: Clock,
    database: Database,
    settings: Settings,
    endpoint: Endpoint,
    as_of: datetime,
    past: Past,
    run: RegimeRun,
) -> Consultation:
    timer = Timer()
    deadline = timer.monotonic() + settings.llm.timeout_s
    reduce_news(database, settings, endpoint, clock, as_of, deadline_s=settings.llm.timeout_s * NEWS_SHARE)
    try:
        prompt, recorded_by = _prompt(clock, database, settings, endpoint, as_of, deadline - timer.monotonic())
    except (ShortHistory, SextantError) as reason:
        return Consultation(f"it cannot be shown anything: {reason}")
    question = _question(database, settings.llm, prompt, as_of, recorded_by)
    try:
        call_id = open_call(database, settings.llm, _new_call(endpoint, prompt, question, as_of, past), recorded_by)
    except (BudgetRefused, AlreadyAsked) as reason:
        return Consultation(str(reason))
    conversation = ask(endpoint, question, max(deadline - timer.monotonic(), 0.1), timer)
    answer, proposal, problem = judge(conversation, settings, past, as_of)
    close_call(
        database, call_id, status=_status(conversation, problem), responses=conversation.responses,
        answer=None if answer is None else answer_json(answer), error=problem, tokens_in=conversation.tokens_in,
        tokens_out=conversation.tokens_out, settings=settings.llm, model=endpoint.model,
        latency_s=conversation.latency_s, now=clock.now(),
    )  # fmt: skip
    if proposal is None:
        log.warning("the LLM's answer does not count", extra={"llm_call": call_id, "reason": problem})
        return Consultation(f"call {call_id}: {problem}", call_id=call_id)
    return _weighed(database, settings, proposal, call_id, prompt, as_of, recorded_by, run)


def _prompt(
    clock: Clock, database: Database, settings: Settings, endpoint: Endpoint, as_of: datetime, seconds: float
) -> tuple[Prompt, datetime]:
    """The prompt, and the moment whose rows it is made of."""
    embedder = LOCAL
    if settings.llm.embedding_model:
        now = clock.now()
        words = words_now(database, prompt_inputs(database, settings, as_of, now), as_of, now)
        limit = max(seconds * EMBEDDING_SHARE, 0.1)
        embedder = prepare_embedding(database, settings, endpoint, words, as_of, clock, limit)
    recorded_by = clock.now()
    inputs = prompt_inputs(database, settings, as_of, recorded_by, embedder)
    return build(database, inputs, as_of, recorded_by), recorded_by


def judge(
    conversation: Conversation, settings: Settings, past: Past, as_of: datetime
) -> tuple[Answer | None, Proposal | None, str | None]:
    """The answer as far as it could be read, the proposal where it is within all bounds, else the reason."""
    if conversation.text is None:
        return None, None, conversation.error or "no answer"
    try:
        answer = parse_answer(conversation.text, settings.llm.strategies)
    except BadAnswer as error:
        return None, None, str(error)
    proposal = to_proposal(answer)
    problems = objections(proposal, settings.risk, past.before("llm", as_of))
    return (answer, None, "; ".join(problems)) if problems else (answer, proposal, None)


def objections(proposal: Proposal, risk: RiskSettings, before: tuple[Steering, float] | None) -> list[str]:
    """Why an answer of the right shape does not count, as sentences. ``before``: the track's newest steering of at
    least an hour before, and how many hours before."""
    jerks = [] if before is None else check_change(before[0], proposal.steering, before[1])
    return [*check(proposal), *check_operator(proposal.steering, risk), *jerks]


def _status(conversation: Conversation, problem: str | None) -> Any:
    if problem is None:
        return "answered"
    return "failed" if conversation.text is None else "rejected"


def _question(database: Database, llm: LlmSettings, prompt: Prompt, as_of: datetime, recorded_by: datetime) -> Question:
    tools = read_only_tools(database, prompt.inputs, as_of, recorded_by) if llm.max_tool_calls else ()
    return Question(prompt.messages, "steering", answer_schema(llm.strategies), tools, llm.max_tool_calls,
                    llm.max_output_tokens, llm.answer_format)  # fmt: skip


def _new_call(endpoint: Endpoint, prompt: Prompt, question: Question, as_of: datetime, past: Past) -> NewCall:
    tokens_in, tokens_out = worst_case_tokens(question)
    return NewCall(
        purpose="strategist",
        as_of=as_of,
        model=endpoint.model,
        endpoint=endpoint.host,
        prompt=prompt.inputs.prompt,
        prompt_sha256=prompt.sha256,
        inputs=prompt.inputs.model_dump(mode="json"),
        request=first_request(endpoint, question),
        statistics=prompt.statistics,
        memory_ids=prompt.memory_ids,
        config_before_id=past.newest_id("live", as_of),
        tokens_in=tokens_in,
        tokens_out=tokens_out,
    )


def _weighed(
    database: Database, settings: Settings, proposal: Proposal, call_id: int, prompt: Prompt, as_of: datetime,
    recorded_by: datetime, run: RegimeRun,
) -> Consultation:  # fmt: skip
    """The proposal with the weight that it has earned, or that the operator gives it."""
    llm = settings.llm
    trust = newest_trust(database, as_of, recorded_by, llm.model, llm.prompt)
    temperature = trust.temperature if trust else 1.0
    recalibrated = tuple(_at_temperature(call, temperature) for call in proposal.calls)
    contaminated = may_have_read(llm, as_of)
    earned = trust.weight if trust and llm.mode == "trusted" and not contaminated else 0.0
    weight, reason = (1.0, "mode full: the operator's choice") if llm.mode == "full" else (earned, f"mode {llm.mode}")
    pooled: tuple[HorizonCall, ...] = ()
    if weight > 0 and not contaminated:
        pooled = _pool_with(database, llm, run, recalibrated, temperature, as_of)
    return Consultation(reason, proposal, call_id, contaminated, recalibrated, pooled, weight, prompt)


def may_have_read(llm: LlmSettings, as_of: datetime) -> bool:
    """Whether the model may know what happened at ``as_of`` from what it was trained on."""
    known = llm.models.get(llm.model)
    if known is None:
        return True
    cutoff = datetime(known.knowledge_cutoff.year, known.knowledge_cutoff.month, known.knowledge_cutoff.day, tzinfo=UTC)
    return as_of < cutoff + AFTER_CUTOFF


def _at_temperature(call: HorizonCall, temperature: float) -> HorizonCall:
    return call_of(call.horizon_s, _recalibrated(np.array(_six(call)), temperature).tolist(), call.reasons)


def _recalibrated(six: FloatArray, temperature: float) -> FloatArray:
    """[..., CLASSES]: both triples at a temperature."""
    return np.concatenate([recalibrate(six[..., :3], temperature), recalibrate(six[..., 3:], temperature)], axis=-1)


def _floored(six: FloatArray) -> FloatArray:
    """As every expert's calls are before they are pooled: a 0 would silence all others."""
    return np.asarray(FLOOR + (1.0 - 3.0 * FLOOR) * six)


def _six(call: HorizonCall) -> Sequence[float]:
    return call.p_down, call.p_flat, call.p_up, call.p_vol_low, call.p_vol_mid, call.p_vol_high


def _pool_with(
    database: Database,
    llm: LlmSettings,
    run: RegimeRun,
    calls: Sequence[HorizonCall],
    temperature: float,
    as_of: datetime,
) -> tuple[HorizonCall, ...]:
    """The pool of the experts and the LLM, which is weighed by its own past calls of this model and prompt."""
    t = to_unix(as_of)
    params = {"model": llm.model, "prompt": llm.prompt, "first": as_of - timedelta(days=150), "last": as_of}
    sent = read_records(database, load_queries("meta_controller")["read_llm_calls"], params, SENT_CALL)
    moments, before = laid_out(sent)
    said = dict(zip(moments, _floored(_recalibrated(before, temperature)), strict=True))
    said[t] = _floored(np.array([_six(call) for call in sorted(calls, key=lambda call: call.horizon_s)]))
    pooled = run.track.joined_by("llm", said).pooled(t)
    told = "pool of the experts and the LLM"
    return tuple(
        call_of(h, six.tolist(), told, run.usual_odds(t, h)) for h, six in zip(HORIZONS_S, pooled, strict=True)
    )


def _raw_row(call: HorizonCall, as_of: datetime, call_id: int, contaminated: bool, now: datetime) -> dict[str, Any]:
    names = ("p_down", "p_flat", "p_up", "p_vol_low", "p_vol_mid", "p_vol_high")
    return {name: getattr(call, name) for name in names} | {
        "as_of": as_of, "horizon_s": call.horizon_s, "llm_call_id": call_id, "contaminated": contaminated,
        "known_from": as_of, "recorded_at": now,
    }  # fmt: skip
