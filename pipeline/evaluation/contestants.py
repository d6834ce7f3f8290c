"""Who was tested in a fold and what it earned: the rows of evaluation_folds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

import numpy as np
from psycopg.types.json import Json

from shared.db import Database, load_queries
from shared.rows import FloatArray

Kind = Literal["seed", "ensemble", "baseline"]
ENSEMBLE = "ensemble"
BASELINE = "trend_vol_target"  # named in advance: what every policy is held against
BASELINES = (BASELINE, "vol_target", "rebalanced_hold", "buy_and_hold", "cash")


@dataclass(frozen=True, slots=True)
class Contestant:
    """``returns`` [days] net of headline costs, a UTC day each from ``test_from``; ``metrics``: every other number;
    ``model``: a seed's weights (npz), the ensemble's ONNX."""

    fold: int
    name: str
    kind: Kind
    symbols: tuple[str, ...]
    test_from: datetime
    test_to: datetime
    returns: FloatArray
    metrics: Mapping[str, Any]
    model: bytes | None
    seconds: float


def seed_name(seed: int) -> str:
    return f"seed {seed}"


def write_contestant(database: Database, key: str, one: Contestant, at: datetime) -> None:
    """Writes the row; one that is there stays as it is."""
    row = {
        "key": key,
        "fold": one.fold,
        "contestant": one.name,
        "kind": one.kind,
        "symbols": list(one.symbols),
        "test_from": one.test_from,
        "test_to": one.test_to,
        "returns": one.returns.tolist(),
        "metrics": Json(dict(one.metrics)),
        "model": one.model,
        "seconds": one.seconds,
        "recorded_at": at,
    }
    database.execute(load_queries("policy_evaluation")["insert_fold_row"], row)


def read_contestants(database: Database, key: str) -> list[Contestant]:
    """All that is there of an evaluation, by fold and name."""
    rows = database.fetch(load_queries("policy_evaluation")["fold_rows"], {"key": key})
    return [
        Contestant(
            fold=row["fold"],
            name=row["contestant"],
            kind=row["kind"],
            symbols=tuple(row["symbols"]),
            test_from=row["test_from"],
            test_to=row["test_to"],
            returns=np.array(row["returns"], dtype=np.float64),
            metrics=row["metrics"],
            model=None if row["model"] is None else bytes(row["model"]),
            seconds=row["seconds"],
        )
        for row in rows
    ]
