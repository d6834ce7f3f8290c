"""Anchored walk-forward: each fold learns from everything up to a moment and is asked about what came after.

Between the last label of training and the first window of the test lies a whole window and a day of embargo, so
neither sees a candle of the other. Assets that are held out are never trained on, on no venue.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from encoder.schema import HORIZONS_S
from shared.features import WINDOW
from shared.job import UsageError

LONGEST_HORIZON_S = max(HORIZONS_S)
EMBARGO_S = 86_400
HISTORY_S = (90 + 30) * 86_400  # until volatility has terciles (targets.py), and HAR's longest span (panel.py)
EVERY = 5  # each fifth asset is held out unless told otherwise


@dataclass(frozen=True, slots=True)
class Fold:
    """Unix seconds, all inclusive: candles of [train_from, train_to] are trained on, labels included; windows that
    close in [test_from, test_to] are scored, and their labels end by ``until``."""

    number: int
    train_from: int
    train_to: int
    test_from: int
    test_to: int
    until: int


def walk_forward(from_: int, to: int, folds: int, timeframe_s: int) -> list[Fold]:
    """``folds`` + 1 equal parts: fold k trains on the first k and is tested in the next one.

    UsageError when a part is too short for its own gap and a day of test, or the first to learn everything from.
    """
    gap = WINDOW * timeframe_s + EMBARGO_S
    if folds < 1:
        raise UsageError(f"--folds {folds}: at least 1")
    edges = [from_ + (to - from_) * k // (folds + 1) // timeframe_s * timeframe_s for k in range(1, folds + 1)] + [to]
    shortest = min(after - before for before, after in pairwise([from_, *edges]))
    least = max(gap + LONGEST_HORIZON_S + 86_400, HISTORY_S)
    if shortest < least:
        raise UsageError(
            f"{folds} folds of {shortest / 86_400:.1f} days are too short, {least / 86_400:.1f} are needed: the first "
            f"learns from as many, {HISTORY_S // 86_400} at least to know past volatility, and each loses "
            f"{gap / 86_400:.1f} between training and test and a day to its labels; ask for fewer (--folds) or a "
            "longer span (--from, --to)"
        )
    return [
        Fold(number, from_, edge, edge + gap, after - LONGEST_HORIZON_S, after)
        for number, (edge, after) in enumerate(pairwise(edges), start=1)
    ]


def asset(name: str) -> str:
    """``kraken:BTC/USD`` → ``BTC``: all venues and quotes of an asset move as one."""
    return name.split(":", 1)[-1].split("/", 1)[0]


def choose_held_out(names: Sequence[str], wanted: Sequence[str] | None) -> tuple[str, ...]:
    """The base assets that are never trained on: those wanted, else each fifth in alphabetical order.

    UsageError for an asset that no series has, and when nothing would be left to train on.
    """
    assets = sorted({asset(name) for name in names})
    if wanted is None:
        return tuple(assets[EVERY - 1 :: EVERY])
    unknown = sorted(set(wanted) - set(assets))
    if unknown:
        raise UsageError(f"--hold-out {' '.join(unknown)}: no such asset among {', '.join(assets)}")
    if not set(assets) - set(wanted):
        raise UsageError(f"--hold-out {' '.join(wanted)}: nothing is left to train on")
    return tuple(sorted(set(wanted)))
