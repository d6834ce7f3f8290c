"""News items read one by one by the LLM, without tools: of each only a topic, a sentiment and a relevance are left.

An item's text goes into its own call and nowhere else. It cannot reach another item, a tool or a later prompt: what is
stored is one of seven words and two numbers of two decimals.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from meta_controller import llm
from meta_controller.llm_answer import BadAnswer, NewsAnswer, answer_json, news_schema, parse_news
from meta_controller.llm_prompt import digest, messages_sha256, read_prompt_file
from meta_controller.llm_record import BudgetRefused, End, NewCall, close_call, open_call
from shared.clock import Clock, Timer
from shared.db import Database, load_queries
from shared.settings import Settings

PROMPT = "news.v1"
WINDOW = timedelta(hours=24)  # older items are not read any more
MOST_TRIES = 2
LONGEST_SHOWN = 1000  # characters of an item's body: its first paragraphs say it
LONGEST_ANSWER = 400  # tokens
PATIENCE_S = 10.0  # with one item
LEAST_S = 0.5  # less time than this is not worth a call

Ask = Callable[[llm.Endpoint, llm.Question, float], llm.Conversation]  # llm.ask


@dataclass(frozen=True, slots=True)
class Item:
    """A news item to read. ``digest`` is of its own text, so no text can hold it."""

    id: int
    digest: str
    title: str
    body: str


@dataclass(frozen=True, slots=True)
class Reduced:
    """How many items were read and how many could not be, and why no more were asked about (None: there were none)."""

    reduced: int
    failed: int
    stopped: str | None = None


def reduce_news(
    database: Database,
    settings: Settings,
    endpoint: llm.Endpoint,
    clock: Clock,
    as_of: datetime,
    deadline_s: float = 20.0,
    ask: Ask = llm.ask,
    timer: Timer = Timer(),  # noqa: B008
) -> Reduced:
    """Reads the newest items of the 24 hours before ``as_of`` that nobody has read, settings.llm.news_an_hour an hour
    at most, within ``deadline_s`` altogether (and the half second that a call takes to hang up).

    Each in a call of its own: reserved, recorded and paid like every other. An item that could not be read is tried
    once more, in another run. Nothing that an endpoint or an item does raises.
    """
    end = timer.monotonic() + deadline_s
    items = _unread(database, settings, clock.now(), as_of)
    if not items:
        return Reduced(0, 0)
    desk = _Desk(database, settings, endpoint, clock, as_of, read_prompt_file(PROMPT), ask)
    reduced = failed = 0
    for item in items:
        left = min(end - timer.monotonic(), PATIENCE_S, settings.llm.timeout_s)
        if left < LEAST_S:
            return Reduced(reduced, failed, "no time is left")
        try:
            read = desk.read(item, left)
        except BudgetRefused as reason:
            return Reduced(reduced, failed, str(reason))
        reduced, failed = reduced + read, failed + (not read)
    return Reduced(reduced, failed)


def _unread(database: Database, settings: Settings, now: datetime, as_of: datetime) -> list[Item]:
    window = {"after": as_of - WINDOW, "as_of": as_of, "now": now}
    most = {"most": settings.llm.news_an_hour, "most_tries": MOST_TRIES}
    return database.fetch_rows(Item, load_queries("news")["items_to_reduce"], window | most)


@dataclass(frozen=True, slots=True)
class _Desk:
    """Where items are read: everything but the item."""

    database: Database
    settings: Settings
    endpoint: llm.Endpoint
    clock: Clock
    as_of: datetime
    system: str
    ask: Ask

    def read(self, item: Item, timeout_s: float) -> bool:
        """One call, and the row that comes of it; False where nothing came of it."""
        question = question_about(item, self.system, self.settings.llm.answer_format)
        call_id = open_call(self.database, self.settings.llm, self._new_call(item, question), self.clock.now())
        conversation = self.ask(self.endpoint, question, timeout_s)
        answer, status, error = _judge(conversation)
        with self.database.transaction():
            close_call(
                self.database, call_id, status=status, responses=conversation.responses,
                answer=None if answer is None else answer_json(answer), error=error, tokens_in=conversation.tokens_in,
                tokens_out=conversation.tokens_out, settings=self.settings.llm, model=self.endpoint.model,
                latency_s=conversation.latency_s, now=self.clock.now(),
            )  # fmt: skip
            if answer is not None:
                self._store(item, call_id, answer)
        return answer is not None

    def _store(self, item: Item, call_id: int, answer: NewsAnswer) -> None:
        row = {
            "item_id": item.id, "llm_call_id": call_id, "topic": answer.topic,
            "sentiment": round(answer.sentiment, 2), "relevance": round(answer.relevance, 2),
            "known_from": self.as_of, "recorded_at": self.clock.now(),
        }  # fmt: skip
        self.database.execute(load_queries("news")["insert_news_sentiment"], row)

    def _new_call(self, item: Item, question: llm.Question) -> NewCall:
        tokens_in, tokens_out = llm.worst_case_tokens(question)
        return NewCall(
            purpose="news", as_of=self.as_of, model=self.endpoint.model, endpoint=self.endpoint.host, prompt=PROMPT,
            prompt_sha256=messages_sha256(question.messages),
            inputs={"prompt_file_sha256": digest(self.system), "answer_format": question.answer_format},
            request=llm.first_request(self.endpoint, question), statistics={"item_id": item.id}, memory_ids=(),
            config_before_id=None, tokens_in=tokens_in, tokens_out=tokens_out,
        )  # fmt: skip


def _judge(conversation: llm.Conversation) -> tuple[NewsAnswer | None, End, str | None]:
    if conversation.text is None:
        return None, "failed", conversation.error or "no answer"
    try:
        return parse_news(conversation.text), "answered", None
    except BadAnswer as error:
        return None, "rejected", str(error)


def question_about(item: Item, system: str, answer_format: str = "auto") -> llm.Question:
    """The item as JSON data between two marker lines, which it can neither guess (they are its own digest) nor write:
    JSON keeps a text on one line, and angle brackets and all that is not ASCII are escaped."""
    text = json.dumps({"title": item.title, "body": item.body[:LONGEST_SHOWN]}, ensure_ascii=True)
    for sign in "<>&":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    marker = f"<<item {item.digest[:32]}>>"
    messages = (
        {"role": "system", "content": system},
        {"role": "user", "content": f"{marker}\n{text}\n{marker}"},
    )
    return llm.Question(messages, "news", news_schema(), max_output_tokens=LONGEST_ANSWER, answer_format=answer_format)
