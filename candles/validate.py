"""The rules a candle must keep, on whole arrays: no file and no venue is believed until its rows pass here.

Each rule has one stable word; the first rule that a row breaks names it. Pure: "now" is passed in.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shared.rows import CANDLE_FIELDS, UNKNOWN_TRADES, Candles, IntArray

BoolArray = NDArray[np.bool_]
CodeArray = NDArray[np.int8]
Rule = Callable[[Candles, int, int], BoolArray]

# 1e11 seconds is the year 5138, 1e11 milliseconds is 1973: no candle lies between.
FIRST_MILLISECOND = 10**11
# Fewer rows may be spaced alike by chance (venues omit candles without trades); this many may not.
ENOUGH_TO_TELL = 100
MOST_TRADES = 2**31 - 1  # what the table holds, and more than any candle had
RAW_CHARACTERS = 200  # of a refused row, as the quarantine holds it


@dataclass(frozen=True, slots=True)
class Refused:
    """``reason`` is one stable word; ``raw`` what came in, cut at 200 characters; ``line`` of a file, from 1."""

    reason: str
    raw: str
    line: int | None = None


def excerpt(text: str) -> str:
    """What of a text can be stored and shown anywhere: its beginning, unprintable characters replaced."""
    return "".join(c if c.isprintable() else "\ufffd" for c in text[:RAW_CHARACTERS])


def _bad_price(candles: Candles, timeframe_s: int, now: int) -> BoolArray:
    prices = (candles.open, candles.high, candles.low, candles.close)
    bad: BoolArray = ~np.logical_and.reduce([(p > 0) & np.isfinite(p) for p in prices])
    return bad


def _outside(candles: Candles, timeframe_s: int, now: int) -> BoolArray:
    outside = [(p > candles.high) | (p < candles.low) for p in (candles.open, candles.close)]
    return outside[0] | outside[1]


# Read with (candles, timeframe_s, now), in this order: a rule may rely on those before it.
RULES: dict[str, Rule] = {
    "milliseconds": lambda c, step, now: c.as_of >= FIRST_MILLISECOND,  # or finer
    "time": lambda c, step, now: c.as_of <= step,  # opened at or before 1970: a lost time, not a candle
    "off-grid": lambda c, step, now: c.as_of % step != 0,
    "future": lambda c, step, now: c.as_of > now,  # still open at now: its values will change
    "price": _bad_price,
    "volume": lambda c, step, now: ~((c.volume >= 0) & np.isfinite(c.volume)),
    "trades": lambda c, step, now: (c.trades < UNKNOWN_TRADES) | (c.trades > MOST_TRADES),
    "high-low": lambda c, step, now: c.high < c.low,
    "open-close": _outside,
}
# What only a file can break: its text gives no candle to judge.
TEXT_REASONS = ("too-few-columns", "too-many-columns", "text", "header", "truncated", "gzip-truncated")
REASONS = (*RULES, "duplicate", "conflict", *TEXT_REASONS)
KEPT = 0


def code_of(reason: str) -> int:
    return REASONS.index(reason) + 1


def reason_codes(candles: Candles, timeframe_s: int, now: int) -> CodeArray:
    """Per row KEPT, or 1 + the place in REASONS of what it breaks; ``timeframe_s`` and ``now`` in (Unix) seconds."""
    codes = np.full(len(candles), KEPT, dtype=np.int8)
    for reason, broken in RULES.items():
        codes[(codes == KEPT) & broken(candles, timeframe_s, now)] = code_of(reason)
    # Only among sound rows: a damaged row must not push out the good one of the same time.
    sound = codes == KEPT
    codes[sound] = _repeats(candles[sound])
    return codes


def _repeats(candles: Candles) -> CodeArray:
    """Code the rows that share their time with another row.

    An identical row again is a 'duplicate'; the first stays. The same time with other values is a 'conflict'
    and none stays: what is right cannot be seen, a candle not stored is a gap that can be fetched again, a wrong
    one is believed and may even revise a right one. (The commonest cause is an export that ended in an open
    candle, joined to the next one: there the first is the wrong one.) Nor does the order of the rows matter so.
    """
    codes = np.full(len(candles), KEPT, dtype=np.int8)
    if np.all(np.diff(candles.as_of) > 0):
        return codes
    # Stable, by every field, time first: identical rows are neighbours in the order in which they came.
    order = np.lexsort([getattr(candles, name) for name in reversed(CANDLE_FIELDS)])
    by_value = candles[order]
    same = [getattr(by_value, name)[1:] == getattr(by_value, name)[:-1] for name in CANDLE_FIELDS]
    again = np.append(False, np.logical_and.reduce(same))
    codes[order[again]] = code_of("duplicate")
    distinct = order[~again]
    clash = np.diff(candles.as_of[distinct]) == 0
    codes[distinct[1:][clash]] = codes[distinct[:-1][clash]] = code_of("conflict")
    return codes


def count_reasons(codes: CodeArray) -> dict[str, int]:
    found = np.bincount(codes, minlength=len(REASONS) + 1)[1:]
    return {reason: int(n) for reason, n in zip(REASONS, found, strict=True) if n}


def out_of_order(candles: Candles) -> int:
    """How many rows come after a row of a later time."""
    return int(np.count_nonzero(candles.as_of < np.maximum.accumulate(candles.as_of)))


def spacing_s(candles: Candles, timeframe_s: int) -> int:
    """The seconds between candles as the rows show them, or ``timeframe_s`` where they do not contradict it.

    Read with a wrong timeframe, a file gives candles that are known too early or cover too little, and each of
    them looks sound. Given rows enough, one spacing only is possible.
    """
    times: IntArray = np.unique(candles.as_of[candles.as_of < FIRST_MILLISECOND])
    on_grid = times[times % timeframe_s == 0]
    if len(times) > ENOUGH_TO_TELL:
        steps, counts = np.unique(np.diff(times), return_counts=True)
        usual = int(steps[counts.argmax()])
        if usual < timeframe_s:
            return usual
    if len(on_grid) > ENOUGH_TO_TELL:
        return int(np.gcd.reduce(np.diff(on_grid)))
    return timeframe_s
