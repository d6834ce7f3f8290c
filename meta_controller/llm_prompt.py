"""The strategist's prompt: a pure function of its inputs and of rows recorded by a moment, so that it can be built
again bit for bit. System: prompts/<name>.md as it is; user: the statistics as compact JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

from meta_controller.bounds import OPERATOR_LIMITS
from meta_controller.llm_memory import State, recall
from meta_controller.statistics import PromptInputs, in_words, state_of, table, with_memories
from meta_controller.statistics_view import View, read_market
from meta_controller.text_embedding import LOCAL
from shared.db import Database, load_queries
from shared.errors import SextantError
from shared.settings import Settings

PROMPTS = Path(__file__).resolve().parent / "prompts"
Message = dict[str, Any]


class PromptChanged(SextantError):
    """The prompt's file is not the one that the inputs name by its hash."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """``sha256``: of the messages as canonical JSON. ``state`` and ``words``: what the encoder saw of the market, and
    the statistics in words; a memory of this moment is to be stored under both (llm_memory.remember)."""

    inputs: PromptInputs
    messages: tuple[Message, ...]
    statistics: dict[str, Any]
    memory_ids: tuple[int, ...]
    state: State | None
    words: str
    sha256: str


def prompt_inputs(
    database: Database, settings: Settings, as_of: datetime, recorded_by: datetime, embedder: str = LOCAL
) -> PromptInputs:
    """What the settings and the prompt's file say now, and the active encoder where it has seen the moment.
    ``embedder``: the text embedder in use."""
    universe, llm = settings.universe, settings.llm
    series = {"venue": universe.venue, "symbols": list(universe.symbols), "timeframe_s": universe.decision_timeframe_s}
    moment = {"as_of": as_of, "recorded_by": recorded_by}
    encoder = database.fetch_one(load_queries("llm_prompt")["encoder_of_moment"], series | moment)
    return PromptInputs(
        venue=universe.venue, symbols=universe.symbols, timeframe_s=universe.decision_timeframe_s,
        prompt=llm.prompt, prompt_file_sha256=digest(read_prompt_file(llm.prompt)), anonymous=llm.anonymous,
        strategies=llm.strategies, limits={name: getattr(settings.risk, name) for name in OPERATOR_LIMITS},
        onchain_metrics=llm.onchain_metrics, memories=llm.memories, model=llm.model, answer_format=llm.answer_format,
        max_tool_calls=llm.max_tool_calls, embedder=embedder,
        encoder_id=None if encoder is None else int(encoder["id"]),
    )  # fmt: skip


def build(database: Database, inputs: PromptInputs, as_of: datetime, recorded_by: datetime) -> Prompt:
    """The prompt of ``as_of`` from rows recorded by ``recorded_by``.

    PromptChanged where the prompt's file has another hash than ``inputs`` say; ShortHistory
    (meta_controller.market_index) where there are too few candles for an index.
    """
    system = read_prompt_file(inputs.prompt)
    if digest(system) != inputs.prompt_file_sha256:
        raise PromptChanged(
            f"prompts/{inputs.prompt}.md has changed since (sha256 {digest(system)[:12]}, was "
            f"{inputs.prompt_file_sha256[:12]}): a changed prompt needs a new version number"
        )
    view = View(database, as_of, recorded_by)
    market = read_market(view, inputs.venue, inputs.symbols, inputs.timeframe_s)
    statistics, state = table(view, market, inputs), state_of(view, market, inputs)
    words = in_words(statistics)
    memories = recall(database, as_of, recorded_by, state, words, inputs.embedder, inputs.memories)
    shown = with_memories(statistics, memories)
    messages = messages_of(system, shown)
    ids = tuple(memory.id for memory in memories)
    return Prompt(inputs, messages, shown, ids, state, words, messages_sha256(messages))


def words_now(database: Database, inputs: PromptInputs, as_of: datetime, recorded_by: datetime) -> str:
    """The statistics in words before memories are recalled by them: what an endpoint's embedder is to embed first
    (text_embedding.prepare_embedding)."""
    view = View(database, as_of, recorded_by)
    return in_words(table(view, read_market(view, inputs.venue, inputs.symbols, inputs.timeframe_s), inputs))


def messages_of(system: str, statistics: Mapping[str, Any]) -> tuple[Message, ...]:
    user = json.dumps(statistics, ensure_ascii=True, separators=(",", ":"), allow_nan=False)
    return {"role": "system", "content": system}, {"role": "user", "content": user}


def messages_sha256(messages: Sequence[Message]) -> str:
    return digest(json.dumps(list(messages), sort_keys=True, ensure_ascii=True, separators=(",", ":")))


def read_prompt_file(name: str) -> str:
    """prompts/<name>.md; SextantError names those there are."""
    path = PROMPTS / f"{name}.md"
    if not path.is_file():
        there = ", ".join(sorted(p.stem for p in PROMPTS.glob("strategist.*.md")))
        raise SextantError(f"there is no prompt {name} in meta_controller/prompts; there are: {there}")
    return path.read_text(encoding="utf-8")


def digest(text: str) -> str:
    return sha256(text.encode("utf-8")).hexdigest()


__all__ = [
    "Prompt", "PromptChanged", "PromptInputs", "build", "digest", "messages_of", "messages_sha256", "prompt_inputs",
    "read_prompt_file", "words_now",
]  # fmt: skip
