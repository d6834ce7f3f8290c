"""Market-shaped faults: what is served differs from the truth, which stays as it is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from typing import TypeVar

from tests.exchange_emulator.faults import Rule, Surface, Switchboard
from tests.exchange_emulator.market import Bar

Row = TypeVar("Row")
SPIKE = 10
UNCOUNTED = Decimal("0.99")  # share of the volume that a candle shows before its late trades are counted
VOLUME_STEP = Decimal("1e-8")


def revised(bar: Bar) -> Bar:
    """Wrong but plausible: a candle at whose end some trades are still missing."""
    close = bar.low if bar.close != bar.low else bar.high
    return replace(bar, close=close, volume=(bar.volume * UNCOUNTED).quantize(VOLUME_STEP))


def spiked(bar: Bar) -> Bar:
    return replace(bar, high=bar.high * SPIKE, close=bar.close * SPIKE)


def missing(_bar: Bar) -> None:
    """As if there had been no such candle."""


DISTORTIONS: dict[str, Callable[[Bar], Bar | None]] = {"gap": missing, "revision": revised, "spike": spiked}


def distort_bars(
    faults: Switchboard, bars: list[Bar], timeframe_s: int, now: float, surface: Surface, endpoint: str, symbol: str
) -> list[Bar]:
    """The closed ``bars`` as they are served while gap, revision or spike lasts; what is really changed is counted."""
    for fault, distortion in DISTORTIONS.items():
        rule = faults.active(fault, symbol, surface, endpoint)
        if rule is None:
            continue
        opened = _target(rule, timeframe_s, now)
        hit = next((i for i, bar in enumerate(bars) if bar.opened == opened), None)
        if hit is not None:
            wrong = distortion(bars[hit])
            bars = [*bars[:hit], *([] if wrong is None else [wrong]), *bars[hit + 1 :]]
            faults.spend(rule)
    return bars


def _target(rule: Rule, timeframe_s: int, now: float) -> int:
    """Open time of the candle that the rule spoils: the one it names, else the newest closed one."""
    at = now - timeframe_s if rule.parameter is None else float(rule.parameter)
    return int(at // timeframe_s * timeframe_s)


def disorder_rows(faults: Switchboard, rows: list[Row], endpoint: str, symbol: str) -> list[Row]:
    """Every row twice, or the last first, where such a rule strikes this REST answer."""
    if faults.take({"duplicate"}, "rest", endpoint, symbol):
        rows = [row for row in rows for _ in range(2)]
    if faults.take({"reorder"}, "rest", endpoint, symbol):
        rows = rows[::-1]
    return rows
