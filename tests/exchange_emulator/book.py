"""An order book around the last price; only its shape is meant to be real."""

from __future__ import annotations

import random
from dataclasses import dataclass
from decimal import Decimal

from tests.exchange_emulator.market import NS, VOLUME_DECIMALS, Market, Trade

MAX_STEP_TICKS = 5  # between neighbouring levels
VOLUME_STEP = Decimal(1).scaleb(-VOLUME_DECIMALS)


@dataclass(frozen=True, slots=True)
class Level:
    price: Decimal
    volume: Decimal
    time: int  # Unix seconds


def book_at(market: Market, symbol: str, now: float, depth: int) -> tuple[list[Level], list[Level]]:
    """(bids, asks), the best first; a pure function of the newest trade."""
    (trade,) = market.latest_trades(symbol, int(now * NS), 1)
    return side_after(market, symbol, trade, "buy", depth), side_after(market, symbol, trade, "sell", depth)


def side_after(market: Market, symbol: str, trade: Trade, side: str, depth: int) -> list[Level]:
    """The bids (``buy``) or asks (``sell``) just after ``trade``, the best first."""
    tick = market.rules(symbol).tick_size
    step = -tick if side == "buy" else tick
    levels = _side(trade, step, depth, random.Random(f"{market.seed}/{symbol}/{trade.id}/{step}"))
    return [level for level in levels if level.price > 0]


def _side(trade: Trade, step: Decimal, depth: int, draws: random.Random) -> list[Level]:
    """Levels that step away from the last price, with a tenth to twice the volume of the newest trade."""
    price, levels = trade.price, []
    for _ in range(depth):
        price += step * draws.randint(1, MAX_STEP_TICKS)
        volume = max((trade.volume * draws.randint(10, 200) / 100).quantize(VOLUME_STEP), VOLUME_STEP)
        levels.append(Level(price, volume, trade.time_ns // NS))
    return levels
