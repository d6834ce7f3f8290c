"""What an evaluation is told: which series, and what is done with them in each fold."""

from __future__ import annotations

from dataclasses import dataclass

from shared.rows import Candles


@dataclass(frozen=True, slots=True)
class Recipe:
    """``steps``, or None: as many as fit into ``minutes``, measured once and kept; of either no more than
    ``most_passes`` over a fold's windows. ``held_out``: base assets that are never trained on."""

    timeframe_s: int
    steps: int | None
    minutes: float | None
    batch_size: int
    seed: int
    held_out: tuple[str, ...]
    most_passes: float | None = None


@dataclass(frozen=True, slots=True)
class Source:
    """Series by ``venue:SYMBOL``."""

    names: tuple[str, ...]
    series: tuple[Candles, ...]
