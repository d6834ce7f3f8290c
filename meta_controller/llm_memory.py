"""What the LLM decided, what then happened, and which of it is worth recalling now.

A memory is numbers and fixed words only (``Decision``, ``Outcome``): no sentence of the LLM, which may have read
hostile news, comes back into a prompt. Checked when written and again when recalled.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from psycopg.types.json import Jsonb
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from meta_controller.bounds import BOUNDS
from meta_controller.controller import (
    LONG_HORIZON_S,
    SHORT_HORIZON_S,
    TRENDS,
    VOLATILITIES,
    Proposal,
    Trend,
    Volatility,
)
from meta_controller.text_embedding import LOCAL, embed_locally, stored_embedding
from shared.db import Database, load_queries
from shared.embeddings import EMBEDDING_SIZE, vector_text
from shared.errors import SextantError

HALF_LIFE_DAYS = 90.0
TRADE_OFF = 0.7  # of likeness against novelty
SHORTLIST = 64  # what the diverse choice is made among, at least

HorizonName = Literal["4h", "24h"]
HORIZON_NAMES: dict[int, HorizonName] = {SHORT_HORIZON_S: "4h", LONG_HORIZON_S: "24h"}
STEERING_FIELDS = ("pause", *BOUNDS)

Vector = NDArray[np.float32]
ROUNDED = AfterValidator(lambda number: round(number, 4))  # enough for a forecast, too little to hide a text in
Probability = Annotated[float, Field(ge=0, le=1), ROUNDED]
Conviction = Annotated[float, Field(ge=-1, le=1), ROUNDED]
Brier = Annotated[float, Field(ge=0, le=2), ROUNDED]

log = logging.getLogger("sextant.llm_memory")


class Fixed(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)


class Called(Fixed):
    trend: Trend
    volatility: Volatility
    p_down: Probability
    p_flat: Probability
    p_up: Probability
    p_vol_low: Probability
    p_vol_mid: Probability
    p_vol_high: Probability
    conviction: Conviction


class Decision(Fixed):
    """What the LLM said, without its words and without the names of strategies."""

    calls: dict[HorizonName, Called]
    steering: dict[str, float | bool]

    @model_validator(mode="after")
    def _whole_and_within_bounds(self) -> Decision:
        if set(self.calls) != set(HORIZON_NAMES.values()) or set(self.steering) != set(STEERING_FIELDS):
            raise ValueError("a decision is one call a horizon and all fields of the steering, no others")
        if not isinstance(self.steering["pause"], bool):
            raise ValueError("pause is neither true nor false")
        for name, (low, high) in BOUNDS.items():
            if isinstance(self.steering[name], bool) or not low <= self.steering[name] <= high:
                raise ValueError(f"{name} is not a number from {low:g} to {high:g}")
        return self

    def compact(self) -> dict[str, Any]:
        steering = {name: value if value is True or value is False else round(value, 4)
                    for name, value in self.steering.items()}  # fmt: skip
        return self.model_dump() | {"steering": steering}


class Happened(Fixed):
    """What followed over one horizon, and the mean of the trend's and the volatility's Brier scores of both."""

    trend: Trend
    volatility: Volatility
    brier: Brier
    pool_brier: Brier | None


class Outcome(Fixed):
    happened: dict[HorizonName, Happened]

    @model_validator(mode="after")
    def _whole(self) -> Outcome:
        if set(self.happened) != set(HORIZON_NAMES.values()):
            raise ValueError("an outcome is of every horizon")
        return self


class BadMemory(SextantError, ValueError):
    """What is to be remembered is not numbers and fixed words."""


class State(NamedTuple):
    """What one encoder saw of the market: a unit vector [64]."""

    encoder_id: int
    vector: Vector


@dataclass(frozen=True, slots=True)
class Memory:
    """One recalled memory; ``shown`` is all that a prompt may say of it."""

    id: int
    shown: dict[str, Any]


def state_embedding(
    database: Database,
    instrument_ids: Sequence[int],
    timeframe_s: int,
    as_of: datetime,
    recorded_by: datetime,
    encoder_id: int | None = None,
) -> State | None:
    """The mean over instruments of what the encoder saw at ``as_of``, as it was recorded by then; None: nothing.

    ``encoder_id`` None: the active encoder. Which one that was is not in the rows of a past hour: who wants to build a
    prompt again stores the id and gives it.
    """
    queries = load_queries("memory")
    moment = {"as_of": as_of, "recorded_by": recorded_by}
    if encoder_id is None:
        active = database.fetch_one(queries["active_encoder"], moment)
        if active is None:
            return None
        encoder_id = int(active["id"])
    asked = moment | {"encoder_id": encoder_id, "instrument_ids": list(instrument_ids), "timeframe_s": timeframe_s}
    rows = database.fetch(queries["state_embeddings"], asked)
    if not rows:
        return None
    mean = np.asarray([row["embedding"] for row in rows], dtype=np.float64).mean(axis=0)
    length = float(np.sqrt(mean @ mean))
    return State(encoder_id, (mean / length).astype(np.float32)) if length > 1e-9 else None


def decision_of(proposal: Proposal) -> dict[str, Any]:
    """What of a proposal is remembered, in the shape of Decision: no words, no names of strategies."""
    probabilities = [name for name in Called.model_fields if name.startswith("p_")]
    calls = {
        HORIZON_NAMES[call.horizon_s]: {"trend": call.trend, "volatility": call.volatility}
        | {name: getattr(call, name) for name in [*probabilities, "conviction"]}
        for call in proposal.calls
    }
    return {"calls": calls, "steering": {name: getattr(proposal.steering, name) for name in STEERING_FIELDS}}


def remember(
    database: Database,
    call_id: int,
    as_of: datetime,
    state: State | None,
    text: str,
    embedder: str,
    decision: dict[str, Any],
    known_from: datetime,
    recorded_at: datetime,
) -> bool:
    """Writes one memory; False where the call is remembered already. BadMemory for a decision that is not a Decision.

    ``text``, the statistics in words, is not stored, only its vector: that of ``embedder`` where it is recorded
    (text_embedding.prepare_embedding), else the local one under its own name.
    """
    try:
        checked = Decision.model_validate(decision)
    except ValidationError as error:
        where = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['type']}" for e in error.errors())
        raise BadMemory(
            f"call {call_id} cannot be remembered, its decision is not numbers and words: {where}"
        ) from None
    vector = stored_embedding(database, embedder, text, recorded_at)
    row = {
        "llm_call_id": call_id, "as_of": as_of, "known_from": known_from, "recorded_at": recorded_at,
        "encoder_id": None if state is None else state.encoder_id,
        "state_embedding": None if state is None else vector_text(_unit(state.vector)),
        "text_embedder": LOCAL if vector is None else embedder,
        "text_embedding": vector_text(embed_locally(text) if vector is None else vector),
        "decision": Jsonb(checked.compact()),
    }  # fmt: skip
    return database.execute(load_queries("memory")["insert_memory"], row) == 1


def _unit(vector: Vector) -> Vector:
    if vector.shape != (EMBEDDING_SIZE,) or not abs(float(vector @ vector) - 1.0) < 1e-3:
        raise BadMemory(f"a state embedding is a unit vector of {EMBEDDING_SIZE}, not one of {vector.shape}")
    return vector


def settle_memories(database: Database, now: datetime) -> int:
    """Writes beside each memory whose longest horizon has passed what happened, as far as recorded by ``now``; returns
    how many. A settled memory stays as it is."""
    queries = load_queries("memory")
    asked = {"now": now, "last": now - timedelta(seconds=LONG_HORIZON_S)}
    by_memory: dict[int, list[dict[str, Any]]] = {}
    for row in database.fetch(queries["memories_to_settle"], asked):
        by_memory.setdefault(row["id"], []).append(row)
    settled = [
        {"id": id_, "outcome": Jsonb(_outcome(rows)), "known_from": max(r["known_from"] for r in rows),
         "recorded_at": now}
        for id_, rows in by_memory.items()
        if len(rows) == len(HORIZON_NAMES)
    ]  # fmt: skip
    return database.execute_many(queries["settle_memory"], settled)


def _outcome(rows: list[dict[str, Any]]) -> dict[str, Any]:
    happened = {
        HORIZON_NAMES[row["horizon_s"]]: {
            "trend": row["trend"], "volatility": row["volatility"], "brier": _brier(row, "llm"),
            "pool_brier": None if row["pool_trend"] is None else _brier(row, "pool"),
        }
        for row in rows
    }  # fmt: skip
    return Outcome.model_validate({"happened": happened}).model_dump()


def _brier(row: dict[str, Any], who: str) -> float:
    """The mean of the trend's and the volatility's Brier scores (Brier 1950, summed over classes): 0 to 2."""
    trend = _squared(row[f"{who}_trend"], TRENDS.index(row["trend"]))
    return (trend + _squared(row[f"{who}_volatility"], VOLATILITIES.index(row["volatility"]))) / 2


def _squared(probabilities: Sequence[float], happened: int) -> float:
    return sum((p - (n == happened)) ** 2 for n, p in enumerate(probabilities))


def recall(
    database: Database,
    as_of: datetime,
    recorded_by: datetime,
    state: State | None,
    text: str,
    embedder: str,
    k: int,
) -> list[Memory]:
    """Up to k memories most like this moment and least like each other, best first; only such as anybody could have
    known the outcome of at ``as_of`` and as were recorded by ``recorded_by``.

    Likeness: the mean of the cosines of state embeddings (same encoder) and text embeddings (same embedder), of those
    of the two that there are; what cannot be compared at all is not recalled. It halves every HALF_LIFE_DAYS. The
    choice is by maximal marginal relevance (Carbonell and Goldstein, SIGIR 1998), of equals the older memory.
    """
    if k <= 0:
        return []
    vector = stored_embedding(database, embedder, text, recorded_by)
    if vector is None and state is None:
        return []
    asked = {
        "as_of": as_of, "recorded_by": recorded_by, "half_life_days": HALF_LIFE_DAYS,
        "encoder_id": None if state is None else state.encoder_id,
        "state": None if state is None else vector_text(state.vector),
        "embedder": None if vector is None else embedder,
        "text": None if vector is None else vector_text(vector),
        "shortlist": max(SHORTLIST, 8 * k),
    }  # fmt: skip
    rows = [row for row in database.fetch(load_queries("memory")["recall"], asked) if _is_clean(row)]
    chosen = choose_diverse(np.array([row["score"] for row in rows]), _likeness(rows), k)
    return [Memory(rows[n]["id"], _shown(rows[n], as_of)) for n in chosen]


def choose_diverse(score: NDArray[np.float64], likeness: NDArray[np.float64], k: int) -> list[int]:
    """Greedy maximal marginal relevance: up to k indices that maximise TRADE_OFF · score [n] − (1 − TRADE_OFF) · the
    greatest likeness [n, n] to those already chosen; of equals the first."""
    chosen: list[int] = []
    nearest = np.zeros(len(score))
    left = np.ones(len(score), dtype=bool)
    while len(chosen) < k and left.any():
        worth = np.where(left, np.round(TRADE_OFF * score - (1 - TRADE_OFF) * nearest, 6), -np.inf)
        best = int(worth.argmax())
        nearest = likeness[best].copy() if not chosen else np.maximum(nearest, likeness[best])
        chosen.append(best)
        left[best] = False
    return chosen


def _likeness(rows: list[dict[str, Any]]) -> NDArray[np.float64]:
    """How alike each two memories are, [n, n]: the mean cosine of what can be compared, 0 where nothing can."""
    of_state = _cosines([row["state"] for row in rows], [row["encoder_id"] for row in rows])
    of_text = _cosines([row["text"] for row in rows], [row["text_embedder"] for row in rows])
    both = np.stack([of_state, of_text]) if rows else np.zeros((2, 0, 0))
    there = ~np.isnan(both)
    return np.asarray(np.where(there, both, 0.0).sum(axis=0) / np.maximum(there.sum(axis=0), 1))


def _cosines(vectors: list[list[float] | None], makers: list[Any]) -> NDArray[np.float64]:
    """Cosines [n, n] of unit vectors; NaN between two of different makers, or where there is none."""
    size = next((len(vector) for vector in vectors if vector is not None), 0)
    stacked = np.array([[0.0] * size if vector is None else vector for vector in vectors]).reshape(len(vectors), size)
    comparable = np.array([[a is not None and a == b for b in makers] for a in makers], dtype=bool)
    return np.where(comparable.reshape(len(makers), len(makers)), stacked @ stacked.T, np.nan)


def _is_clean(row: dict[str, Any]) -> bool:
    """Only what has the fixed shape is shown, whoever wrote the row."""
    try:
        Decision.model_validate(row["decision"])
        Outcome.model_validate(row["outcome"])
    except ValidationError:
        log.warning("a memory that is not numbers and fixed words is never recalled", extra={"memory": row["id"]})
        return False
    return True


def _shown(row: dict[str, Any], as_of: datetime) -> dict[str, Any]:
    decision, outcome = Decision.model_validate(row["decision"]), Outcome.model_validate(row["outcome"])
    days = (as_of - row["as_of"]).total_seconds() / 86_400
    shown: dict[str, Any] = {"days_ago": round(days, 1), "similarity": round(row["similarity"], 2)}
    for name in HORIZON_NAMES.values():
        called, happened = decision.calls[name], outcome.happened[name]
        shown[name] = {
            "called": f"{called.trend}, {called.volatility}",
            "happened": f"{happened.trend}, {happened.volatility}",
            "brier": round(happened.brier, 3),
            "pool_brier": None if happened.pool_brier is None else round(happened.pool_brier, 3),
        }
    return shown | {"conviction": decision.calls["24h"].conviction, "max_exposure": decision.steering["max_exposure"]}
