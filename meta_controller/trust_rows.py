"""What the LLM has earned, as the hourly job reads it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from shared.db import Database, load_queries

VALID = timedelta(days=3)  # a daily look that was missed twice is no look


@dataclass(frozen=True, slots=True)
class Trust:
    """The newest assessment: ``weight`` in [0, 0.5], 0 where nobody has looked for longer than VALID; ``temperature``
    recalibrates the LLM's probabilities (scoring.recalibrate)."""

    as_of: datetime
    weight: float
    temperature: float


def newest_trust(database: Database, as_of: datetime, recorded_by: datetime, model: str, prompt: str) -> Trust | None:
    """The newest assessment of ``model`` with ``prompt`` at ``as_of``, as recorded by ``recorded_by``; None: never."""
    params = {"as_of": as_of, "recorded_by": recorded_by, "model": model, "prompt": prompt}
    row = database.fetch_one(load_queries("trust")["newest_trust"], params)
    if row is None:
        return None
    weight = row["weight"] if as_of - row["as_of"] <= VALID else 0.0
    return Trust(row["as_of"], weight, row["temperature"])
