"""What the database benchmarks share: a server of their own with the shipped settings, and the form of a result."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from shared.embedded_db import remove
from shared.schema import bring_up
from shared.settings import Settings, load_settings


@dataclass(frozen=True, slots=True)
class Row:
    """One measurement beside its reference; ``ratio`` > 1 means better than the reference."""

    name: str
    value: float
    unit: str
    reference: str
    reference_value: float
    ratio: float


@contextmanager
def temporary_settings() -> Iterator[Settings]:
    """Settings of an embedded server with an empty Sextant database; removed at the end."""
    with tempfile.TemporaryDirectory() as home:
        settings = load_settings(home=Path(home))
        try:
            bring_up(settings)
            yield settings
        finally:
            remove(Path(home))


def print_rows(rows: Sequence[Row]) -> None:
    """For people a line each, for programs the last line."""
    for row in rows:
        value, reference = (f"{one:,.0f}" if one >= 1000 else f"{one:.4g}" for one in (row.value, row.reference_value))
        print(f"{row.name}: {value} {row.unit}; {row.reference}: {reference}; ratio {row.ratio:.2f}")
    rounded = [asdict(row) | {key: float(f"{getattr(row, key):.4g}") for key in ("value", "reference_value", "ratio")}
               for row in rows]  # fmt: skip
    print(json.dumps(rounded))
