"""The record of every LLM call and the ledger of what it costs: reserve first, ask then, write what came of it.

A call whose asker died stays 'sent' and its reservation counts as spent, so no crash can hide a cost. Prices are US
dollars a million tokens (settings: llm.models); amounts are Decimal, rounded up to 1e-8.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import ROUND_UP, Decimal
from typing import Any, Literal

from psycopg.pq import TransactionStatus
from psycopg.types.json import Jsonb

from shared.db import Database, load_queries
from shared.errors import SextantError
from shared.money import QUANTUM
from shared.settings import LlmModelSettings, LlmSettings

Purpose = Literal["strategist", "news", "embedding", "probe"]
End = Literal["answered", "rejected", "failed"]

MILLION = Decimal(1_000_000)
MOST_TOKENS = 2**31 - 1  # of a column; a count beyond it is no count
LONGEST_ERROR = 2000  # characters


class BudgetRefused(SextantError):
    """The call could exceed a cap, or its price is unknown; nothing was written, nothing may be sent."""


class AlreadyAsked(SextantError):
    """The moment has its strategist call; ``status`` is how that one stands."""

    def __init__(self, as_of: datetime, status: str) -> None:
        super().__init__(f"the strategist was asked about {as_of.isoformat()} before ({status}): once is enough")
        self.status = status


@dataclass(frozen=True, slots=True)
class NewCall:
    """A call about to be made; ``tokens_in`` and ``tokens_out`` are the most that the whole conversation may take."""

    purpose: Purpose
    as_of: datetime
    model: str
    endpoint: str  # host and port, never a key
    prompt: str
    prompt_sha256: str
    inputs: dict[str, Any]
    request: dict[str, Any]
    statistics: dict[str, Any]
    memory_ids: Sequence[int]
    config_before_id: int | None
    tokens_in: int
    tokens_out: int


@dataclass(frozen=True, slots=True)
class Spending:
    """US dollars of the trailing hour, day and 30 days: costs, and reservations of calls without an end."""

    hour: Decimal
    day: Decimal
    month: Decimal


def open_call(database: Database, settings: LlmSettings, call: NewCall, now: datetime) -> int:
    """Reserves the most that ``call`` may cost and records it; committed on return. Returns its id.

    BudgetRefused for a cap that it could exceed or a model without a price; AlreadyAsked where the strategist was
    asked about this moment; RuntimeError inside a transaction, whose end could take the reservation back.
    """
    _require_no_transaction(database)
    price = settings.models.get(call.model)
    if price is None:
        raise BudgetRefused(
            f"the model {call.model!r} has no price, so its cost has no bound; add "
            f"[llm.models.{json.dumps(call.model)}] to config/settings.toml"
        )
    queries, reserved = load_queries("llm_record"), cost(price, call.tokens_in, call.tokens_out)
    with database.transaction():
        database.fetch(queries["lock_ledger"])
        if call.purpose == "strategist":
            _refuse_second(database, call.as_of)
        _refuse_excess(spending(database, now), reserved, settings)
        opened = database.fetch_one(queries["insert_call"], _params(call, price, reserved, now))
        if opened is None:  # somebody who did not take the lock
            _refuse_second(database, call.as_of)
            raise AssertionError("a call that was refused for another has that other")
    return int(opened["id"])


def cost(price: LlmModelSettings, tokens_in: int, tokens_out: int) -> Decimal:
    """US dollars, rounded up to 1e-8; ValueError for a negative count of tokens."""
    if tokens_in < 0 or tokens_out < 0:
        raise ValueError(f"tokens are counted from 0, not {tokens_in} in and {tokens_out} out")
    exact = tokens_in * Decimal(str(price.input_usd)) + tokens_out * Decimal(str(price.output_usd))
    return (exact / MILLION).quantize(QUANTUM, ROUND_UP)


def spending(database: Database, now: datetime) -> Spending:
    rows = database.fetch_rows(Spending, load_queries("llm_record")["spending"], {"now": now})
    return rows[0]


def close_call(
    database: Database,
    call_id: int,
    *,
    status: End,
    responses: Sequence[str],
    answer: dict[str, Any] | None,
    error: str | None,
    tokens_in: int | None,
    tokens_out: int | None,
    settings: LlmSettings,
    model: str,
    latency_s: float | None,
    now: datetime,
    config_after_id: int | None = None,
) -> Decimal:
    """Writes what came of a call; returns its cost, which may exceed the reservation if the endpoint billed more.

    Odd values are not the recorder's to fail on: token counts that cannot be leave the reservation as the cost, an
    answer that is none makes the call rejected, characters that PostgreSQL cannot hold are replaced. A call that has
    ended keeps its end. SextantError only for a call that was never opened.
    """
    queries = load_queries("llm_record")
    known = database.fetch_one(queries["call_costs"], {"id": call_id})
    if known is None:
        raise SextantError(f"LLM call {call_id} was never opened: open_call reserves its cost before it is made")
    status, answer, error = _consistent(status, answer, error)
    least = 0 if status == "failed" else 1  # who answered has read and written something; an embedding is read only
    tokens = _plausible(tokens_in, least), _plausible(tokens_out, 0 if known["purpose"] == "embedding" else least)
    price = settings.models.get(model)
    billed = known["reserved_usd"] if price is None or None in tokens else cost(price, tokens[0] or 0, tokens[1] or 0)
    params = {
        "id": call_id, "status": status, "responses": json.dumps(list(responses)), "error": error,
        "answer": None if answer is None else Jsonb(_storable(answer)), "tokens_in": tokens[0], "tokens_out": tokens[1],
        "cost_usd": billed, "latency_s": _seconds(latency_s), "ended_at": now, "config_after_id": config_after_id,
    }  # fmt: skip
    closed = database.fetch_one(queries["close_call"], params)
    final: Decimal = closed["cost_usd"] if closed is not None else known["cost_usd"]
    return final


def _require_no_transaction(database: Database) -> None:
    if database.connection.info.transaction_status != TransactionStatus.IDLE:
        raise RuntimeError("an LLM call is opened outside any transaction: its reservation must outlive what follows")


def _refuse_second(database: Database, as_of: datetime) -> None:
    asked = database.fetch_one(load_queries("llm_record")["strategist_call_at"], {"as_of": as_of})
    if asked is not None:
        raise AlreadyAsked(as_of, asked["status"])


def _refuse_excess(spent: Spending, reserved: Decimal, settings: LlmSettings) -> None:
    """BudgetRefused names the first cap in the way. What costs nothing is never in the way."""
    caps = {"hour": settings.usd_an_hour, "day": settings.usd_a_day, "month": settings.usd_a_month}
    for span, limit in caps.items():
        already: Decimal = getattr(spent, span)
        if reserved and already + reserved > Decimal(str(limit)):
            name = f"llm.usd_a{'n' if span == 'hour' else ''}_{span}"
            told = "30 days" if span == "month" else span
            raise BudgetRefused(
                f"the call may cost ${reserved:f}, and ${already:f} of the ${limit:g} of {name} is spent or reserved "
                f"in the last {told}; wait, or raise the cap"
            )


def _params(call: NewCall, price: LlmModelSettings, reserved: Decimal, now: datetime) -> dict[str, Any]:
    plain = {name: getattr(call, name) for name in ("purpose", "as_of", "model", "endpoint", "prompt", "prompt_sha256")}
    stored = {name: Jsonb(_storable(getattr(call, name))) for name in ("inputs", "request", "statistics")}
    return plain | stored | {
        "memory_ids": list(call.memory_ids), "config_before_id": call.config_before_id,
        "knowledge_cutoff": price.knowledge_cutoff, "reserved_usd": reserved, "recorded_at": now,
    }  # fmt: skip


def _consistent(
    status: End, answer: dict[str, Any] | None, error: str | None
) -> tuple[End, dict[str, Any] | None, str | None]:
    """What the row's constraints ask for: an answer has its object, whatever else has its reason."""
    if status == "answered":
        return (status, answer, None) if answer is not None else ("rejected", None, "answered, but without an object")
    return status, answer, _text(error or "no reason was given")[:LONGEST_ERROR]


def _plausible(tokens: Any, least: int) -> int | None:
    """The count, or None for what cannot be one."""
    counted = isinstance(tokens, int) and not isinstance(tokens, bool) and least <= tokens <= MOST_TOKENS
    return tokens if counted else None


def _seconds(latency_s: Any) -> float | None:
    number = isinstance(latency_s, int | float) and math.isfinite(latency_s) and latency_s >= 0
    return float(latency_s) if number else None


def _storable(value: Any) -> Any:
    """The same value as jsonb can hold it: without NUL, lone surrogates, NaN and infinities."""
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, Mapping):
        return {_text(str(key)): _storable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_storable(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _text(value: str) -> str:
    return value.replace("\x00", "\ufffd").encode("utf-8", "replace").decode("utf-8")
