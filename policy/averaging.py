"""Buying more of what fell (DCA): at given levels below the first entry, each buy a multiple of the one before.

A position's averaging is a function of its first entry and of the closes since, so that a restart forgets nothing. The
closes of the decision clock are walked in time: the first one at or below the next level reaches it, one level a close,
no more than so many levels in any 24 hours, each once. The decision about that close wants the level's own quantity
more; it is a floor under what is wanted, not an order: every risk rule comes after and may cut it (contradiction C18:
at a multiplier of 2 the fifth level alone is 32 times the first entry, so the deep ones usually are refused). What was
cut or missed then is not made up for later: else a pause would end in several levels at once. From the first level on
what is held, up to what all levels together are, is kept until the strategies want none of it, or a bracket leaves it.

Levels and numbers are the pattern memory's (strategies.md): 2.5, 5, 10, 20 and 30 % below, times 2.0, 2 in 24 hours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from policy.decision_kernel import Bools
from shared.exit_settings import ExitSettings
from shared.rows import FloatArray, IntArray

DAY_S = 86_400


@dataclass(frozen=True, slots=True)
class Averaging:
    """The operator's rules at one decision, about the close at ``as_of`` (Unix seconds): ``levels``, fractions below
    the first entry, rising; what each buy is to the one before; how many levels in any 24 hours."""

    levels: tuple[float, ...]
    multiplier: float
    a_day: int
    as_of: int


@dataclass(frozen=True, slots=True)
class Entries:
    """How positions [N] were entered since each was last flat: ``price`` and ``quantity`` of the first order to buy,
    when it was first filled (Unix seconds), and the ``average`` price of all that was bought since. Zeros where none is
    held, or nobody bought it."""

    price: FloatArray
    quantity: FloatArray
    at: IntArray
    average: FloatArray

    @staticmethod
    def none(n: int) -> Entries:
        return Entries(np.zeros(n), np.zeros(n), np.zeros(n, dtype=np.int64), np.zeros(n))


def averaging_of(exits: ExitSettings, as_of: int) -> Averaging | None:
    """None where it is off."""
    if not exits.averaging:
        return None
    return Averaging(exits.averaging_levels, exits.averaging_multiplier, exits.averaging_a_day, as_of)


def levels_reached(closes: FloatArray, entry: float, levels: Sequence[float], a_day: int, stride: int) -> list[int]:
    """The rows of the closes since the entry [K], oldest first and ``stride`` a day, that reached the first of
    ``levels`` below ``entry``, the second, …; a close that is not known (NaN) reaches none."""
    reached: list[int] = []
    for level in levels:
        begin = reached[-1] + 1 if reached else 0
        if len(reached) >= a_day:
            begin = max(begin, reached[-a_day] + stride)
        found = np.flatnonzero(closes[begin:] <= entry * (1.0 - level))
        if not len(found):
            break
        reached.append(begin + int(found[0]))
    return reached


def floor_quantity(reached: int, now: bool, held: float, quantity: float, multiplier: float) -> float:
    """The least to hold of a position, ``reached`` levels down, the last of them by the close that is decided about
    where ``now``; ``held`` is held, and the first buy was ``quantity``."""
    if not reached:
        return 0.0
    total = step = quantity
    for _ in range(reached):
        step *= multiplier
        total += step
    return min(total, held + step if now else held)


def floor_weights(
    entries: Entries, averaging: Averaging, closes: FloatArray, stride: int, prices: FloatArray, held: FloatArray,
    equity: float,
) -> FloatArray:  # fmt: skip
    """[N], in [0, 1]: below what weight no position should fall, 0 where averaging has nothing to say. ``closes``
    [B, N], ``stride`` a day, the last one that of ``averaging.as_of``."""
    floor = np.zeros(len(prices))
    step = DAY_S // stride
    for n in np.flatnonzero((entries.price > 0.0) & (held > 0.0) & np.isfinite(prices)):
        since = min(averaging.as_of // step - int(entries.at[n]) // step, len(closes))
        if since <= 0 or not equity > 0.0:
            continue
        entry, price = float(entries.price[n]), float(prices[n])
        reached = levels_reached(closes[len(closes) - since :, n], entry, averaging.levels, averaging.a_day, stride)
        now = bool(reached) and reached[-1] == since - 1
        least = floor_quantity(len(reached), now, float(held[n]), float(entries.quantity[n]), averaging.multiplier)
        floor[n] = min(least * price / equity, 1.0)
    return floor


def averaged_price(
    entries: Entries, bought: Bools, quantity: FloatArray, prices: FloatArray, held: FloatArray
) -> FloatArray:
    """[N]: what positions cost on average once ``quantity`` is ``bought``; elsewhere the price itself."""
    together = np.where(bought, held + quantity, 1.0)
    return np.where(bought, (entries.average * held + quantity * prices) / together, prices)
