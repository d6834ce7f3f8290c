"""A text as 256 numbers, to compare the statistics of two moments: by a local hash, or by the endpoint's model.

What the endpoint said is kept in ``llm_calls`` (purpose embedding), so that a prompt that recalled by it can be built
again without asking. Vectors of two embedders are never comparable; each goes by its embedder's name.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from hashlib import blake2b, sha256
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from meta_controller import llm
from meta_controller.llm_record import BudgetRefused, NewCall, close_call, open_call
from shared.clock import Clock
from shared.db import Database, load_queries
from shared.settings import Settings

LOCAL = "local"
TEXT_SIZE = 256
LONGEST_TEXT = 20_000  # characters sent
EMBEDDING_TIMEOUT_S = 10.0
WORD = re.compile(r"[+-]?\w+(?:\.\w+)*")  # 'up', '-0.8', 'max_exposure'

Vector = NDArray[np.float32]
Embed = Callable[[llm.Endpoint, str, str, int, float], list[float] | str]  # llm.embed: numbers, or why there are none


def embed_locally(text: str) -> Vector:
    """The text's words and pairs of neighbouring words, hashed with signs to [256] of length one; the same bits on
    every machine (feature hashing: Weinberger et al., ICML 2009). A term counts 1 + ln(times it occurs)."""
    words = WORD.findall(text.casefold())
    terms = Counter([*words, *(f"{a} {b}" for a, b in pairwise(words))])
    hashed = _hashed({term: 1.0 + math.log(count) for term, count in terms.items()})
    length = float(np.sqrt(hashed @ hashed))
    return (hashed / length).astype(np.float32) if length > 0 else _hashed({"": 1.0}).astype(np.float32)


def _hashed(weights: Mapping[str, float]) -> NDArray[np.float64]:
    vector = np.zeros(TEXT_SIZE)
    for term, weight in weights.items():
        slot, sign = _slot(term)
        vector[slot] += sign * weight
    return vector


def _slot(term: str) -> tuple[int, float]:
    """Where a term goes and with which sign; surrogates, which UTF-8 cannot write, are kept apart all the same."""
    number = int.from_bytes(blake2b(term.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big")
    return (number >> 1) % TEXT_SIZE, 1.0 if number & 1 else -1.0


def _direction(numbers: Sequence[float]) -> Vector:
    """Scaled to length one; ValueError for what points nowhere."""
    vector = np.asarray(numbers, dtype=np.float64)
    length = float(np.sqrt(vector @ vector)) if vector.shape == (TEXT_SIZE,) else math.nan
    if not 1e-9 < length < math.inf:
        raise ValueError(f"an embedding of shape {vector.shape} and length {length:g}, which is no direction")
    return (vector / length).astype(np.float32)


def prepare_embedding(
    database: Database,
    settings: Settings,
    endpoint: llm.Endpoint | None,
    text: str,
    as_of: datetime,
    clock: Clock,
    timeout_s: float = EMBEDDING_TIMEOUT_S,
    embed: Embed | None = None,
) -> str:
    """Makes sure that ``text`` has a vector and returns its embedder's name: the endpoint's model where the settings
    name one and it answers within its budget, else ``local``. Asked once for a text; every call is in llm_calls."""
    model = settings.llm.embedding_model
    if endpoint is None or not model:
        return LOCAL
    if stored_embedding(database, model, text, clock.now()) is not None:
        return model
    try:
        call_id = open_call(database, settings.llm, _call(endpoint, model, text, as_of), clock.now())
    except BudgetRefused:
        return LOCAL
    began = clock.now()
    found, error = _embed(embed or llm.embed, endpoint, model, text, timeout_s)
    close_call(
        database, call_id, status="failed" if found is None else "answered", responses=(),
        answer=None if found is None else {"embedding": [float(n) for n in found]}, error=error,
        tokens_in=None, tokens_out=None, settings=settings.llm, model=model,
        latency_s=(clock.now() - began).total_seconds(), now=clock.now(),
    )  # fmt: skip
    return LOCAL if found is None else model


def _embed(
    embed: Embed, endpoint: llm.Endpoint, model: str, text: str, timeout_s: float
) -> tuple[Vector | None, str | None]:
    answer = embed(endpoint, model, text[:LONGEST_TEXT], TEXT_SIZE, timeout_s)
    if isinstance(answer, str):
        return None, answer
    try:
        return _direction(answer), None
    except ValueError as error:
        return None, f"{model} gave {error}"


def _call(endpoint: llm.Endpoint, model: str, text: str, as_of: datetime) -> NewCall:
    return NewCall(
        purpose="embedding", as_of=as_of, model=model, endpoint=endpoint.host, prompt="embedding.v1",
        prompt_sha256=_digest(text), inputs={"dimensions": TEXT_SIZE},
        request=llm.embedding_request(model, text[:LONGEST_TEXT], TEXT_SIZE), statistics={},
        memory_ids=(), config_before_id=None, tokens_in=llm.token_bound(text[:LONGEST_TEXT]), tokens_out=0,
    )  # fmt: skip


def _digest(text: str) -> str:
    return sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def stored_embedding(database: Database, embedder: str, text: str, recorded_by: datetime) -> Vector | None:
    """The vector [256] of ``text`` by ``embedder`` as it was recorded by then; None: it was not asked, or failed."""
    if embedder == LOCAL:
        return embed_locally(text)
    asked: dict[str, Any] = {"model": embedder, "text_sha256": _digest(text), "recorded_by": recorded_by}
    row = database.fetch_one(load_queries("memory")["stored_embedding"], asked)
    return None if row is None else np.asarray(row["embedding"], dtype=np.float32)
