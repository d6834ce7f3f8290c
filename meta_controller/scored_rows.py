"""Reading calls of the regime and what then happened: arrays by horizon, only what was known and recorded by then."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, LiteralString

import numpy as np
from numpy.typing import NDArray

from shared.clock import from_unix
from shared.db import Database, load_queries
from shared.market_data import MICROSECONDS, POSTGRES_EPOCH_S, read_records
from shared.rows import FloatArray, IntArray

EVER = datetime(9999, 1, 1, tzinfo=UTC)
BEGINNING = from_unix(0)
CLASSES = ("p_down", "p_flat", "p_up", "p_vol_low", "p_vol_mid", "p_vol_high")
AXES = ("trend", "volatility")
# As the queries send them: big-endian, times in microseconds since 2000.
SENT_CALL = [("as_of", ">i8"), ("horizon_s", ">i4"), ("p", ">f8", (len(CLASSES),))]
SENT_OUTCOME = [("as_of", ">i8"), ("horizon_s", ">i4"), ("trend", ">i4"), ("volatility", ">i4"),
                ("log_return", ">f8"), ("realised", ">f8"), ("known_from", ">i8")]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Window:
    """Which rows to read: of moments from ``first`` to ``last``, known by ``known_by``, recorded by ``recorded_by``."""

    known_by: datetime
    recorded_by: datetime = EVER
    first: datetime = BEGINNING
    last: datetime = EVER

    def params(self) -> dict[str, Any]:
        return {"known_by": self.known_by, "recorded_by": self.recorded_by, "first": self.first, "last": self.last}


@dataclass(frozen=True, slots=True)
class Forecaster:
    """Whose calls are scored together: a regime expert, the pool, or the LLM with one model and one prompt.

    ``contaminated``: the calls about times that the model may have read about, which count nowhere else.
    """

    expert: str
    model: str | None
    prompt: str | None
    contaminated: bool

    @property
    def label(self) -> str:
        name = " ".join(part for part in (self.expert, self.model, self.prompt) if part)
        return f"{name} CONTAMINATED" if self.contaminated else name


POOL = Forecaster("pool", None, None, contaminated=False)


@dataclass(frozen=True, slots=True)
class Calls:
    """One forecaster's calls for one horizon: moments [n] (Unix seconds, ascending) and probabilities [n, 6]."""

    as_of: IntArray
    p: FloatArray


@dataclass(frozen=True, slots=True)
class Happened:
    """What followed within one horizon: moments [m] (Unix seconds, ascending), classes 0, 1, 2 of trend and volatility
    [m, 2], the log return and the realised volatility (√Σ of squared bar returns) [m], and when it was known [m]."""

    as_of: IntArray
    classes: IntArray
    log_return: FloatArray
    realised: FloatArray
    known_from: IntArray


def read_forecasters(database: Database, rows: Window) -> list[tuple[Forecaster, datetime]]:
    """Who called, and the moment of the last call; ordered by name."""
    found = database.fetch(load_queries("scorecard")["forecasters"], rows.params())
    return [
        (Forecaster(row["expert"], row["model"], row["prompt"], row["contaminated"]), row["last_as_of"])
        for row in found
    ]


def read_calls(database: Database, forecaster: Forecaster, rows: Window) -> dict[int, Calls]:
    """By horizon in seconds; no key where nothing was called."""
    who = {"expert": forecaster.expert, "model": forecaster.model, "prompt": forecaster.prompt,
           "contaminated": forecaster.contaminated}  # fmt: skip
    records = _read(database, load_queries("scorecard")["calls"], who | rows.params(), SENT_CALL)
    return {h: Calls(_unix(of["as_of"]), of["p"].astype(np.float64)) for h, of in _by_horizon(records)}


def read_outcomes(database: Database, rows: Window) -> dict[int, Happened]:
    """By horizon in seconds; no key where nothing is known yet."""
    records = _read(database, load_queries("scorecard")["outcomes"], rows.params(), SENT_OUTCOME)
    return {
        h: Happened(_unix(of["as_of"]), np.column_stack([of[axis].astype(np.int64) for axis in AXES]),
                    of["log_return"].astype(np.float64), of["realised"].astype(np.float64), _unix(of["known_from"]))
        for h, of in _by_horizon(records)
    }  # fmt: skip


def _read(database: Database, query: LiteralString, params: dict[str, Any], kind: Any) -> NDArray[Any]:
    return read_records(database, query, params, np.dtype(kind))


def _by_horizon(records: NDArray[Any]) -> list[tuple[int, NDArray[Any]]]:
    return [(int(h), records[records["horizon_s"] == h]) for h in np.unique(records["horizon_s"])]


def _unix(sent: NDArray[Any]) -> IntArray:
    """Whole Unix seconds at or after what was sent: what is known within a second is known when it has passed."""
    return -(-sent.astype(np.int64) // MICROSECONDS) + POSTGRES_EPOCH_S
