"""The ground truth: every trade and candle of the emulated venues, a pure function of (seed, symbol, time).

Each minute of the simulated market becomes 4 to 7 trades that aggregate to it exactly. Prices are whole ticks and
volumes whole 1e-8, so every sum is exact; Decimals are made only at the door.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal
from functools import lru_cache

import numpy as np

from shared.exchanges.protocol import ExchangeError
from shared.exchanges.simulated import DAY_S, END, EPOCH, MINUTE_S, MINUTES, SimulatedExchange
from shared.rows import Candles, InstrumentRules, IntArray
from tests.exchange_emulator.columns import Columns, aggregate, concatenate

VOLUME_DECIMALS = 8
NS = 1_000_000_000
NO_PRICE = np.iinfo(np.int64).max  # in ticks

# Trades of the minutes of an hour, over and over: a fixed number a day makes ids consecutive and time enough to know.
COUNTS = np.tile([4, 7, 5, 6], MINUTES // 4)
TRADES_A_DAY = int(COUNTS.sum())
MINUTE_OF = np.repeat(np.arange(MINUTES), COUNTS)
FIRST = np.cumsum(COUNTS) - COUNTS  # index of each minute's first trade of the day
PLACE = np.arange(TRADES_A_DAY) - FIRST[MINUTE_OF]  # of a trade in its minute


@dataclass(frozen=True, slots=True)
class Trade:
    id: int
    time_ns: int
    price: Decimal
    volume: Decimal
    side: str  # of the taker: buy or sell


@dataclass(frozen=True, slots=True)
class Bar:
    """One candle; without a trade it is flat at the last close, with volume, vwap and count 0."""

    opened: int  # Unix seconds
    open: Decimal
    high: Decimal
    low: Decimal
    close: Decimal
    vwap: Decimal
    volume: Decimal
    count: int
    notional: Decimal  # quote units


@dataclass(frozen=True, slots=True)
class Tape:
    """The trades of one day, in order: prices in ticks, volumes in 1e-8."""

    time_ns: IntArray
    price: IntArray
    volume: IntArray
    is_buy: np.ndarray


class Market:
    """Symbols are BASE/QUOTE, as the simulated market's without their SIM-. It has no clock: times are arguments.

    ValueError: an unknown symbol, a timeframe that is neither part of a day nor whole days, a time outside 2020–2100.
    """

    def __init__(self, symbols: Sequence[str], seed: int = 7) -> None:
        self.symbols, self.seed = tuple(symbols), seed
        self._rules = {symbol: self._rules_of(symbol) for symbol in symbols}

    def rules(self, symbol: str) -> InstrumentRules:
        if symbol not in self._rules:
            raise ValueError(f"no {symbol!r} here; there are {', '.join(self.symbols)}")
        return self._rules[symbol]

    def _rules_of(self, symbol: str) -> InstrumentRules:
        try:
            return SimulatedExchange().rules(f"SIM-{symbol}")
        except ExchangeError as error:
            raise ValueError(f"there can be no {symbol!r}: a symbol reads BASE/QUOTE, like BTC/USD") from error

    def price_decimals(self, symbol: str) -> int:
        return -int(self.rules(symbol).tick_size.as_tuple().exponent)

    # --- trades ---

    def trades(self, symbol: str, since_ns: int, until_ns: int, limit: int | None = None) -> list[Trade]:
        """The (first ``limit``) trades with since < time <= until."""
        found: list[Trade] = []
        if until_ns <= max(since_ns, EPOCH * NS):
            return found
        for day in range(_day(max(since_ns // NS, EPOCH)), _day(until_ns // NS) + 1):
            tape = _tape(self.seed, symbol, day)
            start, stop = np.searchsorted(tape.time_ns, (since_ns, until_ns), side="right").tolist()
            if limit is not None:
                stop = min(stop, start + limit - len(found))
            found += self._cut(symbol, day, start, stop)
            if len(found) == limit:
                break
        return found

    def latest_trades(self, symbol: str, until_ns: int, limit: int) -> list[Trade]:
        """The last ``limit`` trades up to ``until``, oldest first."""
        found: list[Trade] = []
        for day in range(_day(until_ns // NS), -1, -1):
            stop = int(np.searchsorted(_tape(self.seed, symbol, day).time_ns, until_ns, side="right"))
            found = self._cut(symbol, day, max(0, stop - limit + len(found)), stop) + found
            if len(found) == limit:
                break
        return found

    def first_beyond(
        self, symbol: str, since_ns: int, until_ns: int, low: Decimal | None, high: Decimal | None
    ) -> Trade | None:
        """The first trade with since < time <= until at ``low`` or below it, or at ``high`` or above it."""
        if until_ns <= since_ns:
            return None
        tick = self.rules(symbol).tick_size
        lowest = -1 if low is None else int((low / tick).to_integral_value(ROUND_FLOOR))
        highest = NO_PRICE if high is None else int((high / tick).to_integral_value(ROUND_CEILING))
        for day in range(_day(max(since_ns // NS, EPOCH)), _day(until_ns // NS) + 1):
            tape = _tape(self.seed, symbol, day)
            start, stop = np.searchsorted(tape.time_ns, (since_ns, until_ns), side="right").tolist()
            price = tape.price[start:stop]
            beyond = (price <= lowest) | (price >= highest)
            if beyond.any():
                start += int(beyond.argmax())
                return self._cut(symbol, day, start, start + 1)[0]
        return None

    def time_of(self, symbol: str, trade_id: int) -> int:
        """In ns since 1970."""
        day, index = divmod(trade_id - 1, TRADES_A_DAY)
        return int(_tape(self.seed, symbol, day).time_ns[index])

    def _cut(self, symbol: str, day: int, start: int, stop: int) -> list[Trade]:
        tape, tick = _tape(self.seed, symbol, day), self._rules[symbol].tick_size
        columns = (column[start:stop].tolist() for column in (tape.time_ns, tape.price, tape.volume, tape.is_buy))
        return [
            Trade(number, time_ns, price * tick, Decimal(volume).scaleb(-VOLUME_DECIMALS), "buy" if is_buy else "sell")
            for number, (time_ns, price, volume, is_buy) in enumerate(
                zip(*columns, strict=True), start=day * TRADES_A_DAY + start + 1
            )
        ]

    # --- bars ---

    def bars(self, symbol: str, timeframe_s: int, since: int, until: int) -> list[Bar]:
        """Bars with since <= opened < until (Unix seconds), each with all its trades, whatever the time is."""
        _check_timeframe(timeframe_s)
        first = -(-max(since, EPOCH) // timeframe_s) * timeframe_s
        last = (until - 1) // timeframe_s * timeframe_s
        if last < first:
            return []
        return self._to_bars(symbol, self._columns(symbol, timeframe_s, first, last + timeframe_s))

    def bars_at(self, symbol: str, timeframe_s: int, since: int, now: float) -> list[Bar]:
        """Bars opened from ``since`` on as they stand at ``now``: the last one is open and has the trades so far."""
        _check_timeframe(timeframe_s)
        opened = int(now // timeframe_s * timeframe_s)
        closed = self.bars(symbol, timeframe_s, since, opened)
        return [*closed, self._open_bar(symbol, opened, now)] if opened >= since else closed

    def truth(self, symbol: str, timeframe_s: int, since: int, until: int) -> Candles:
        """What a reader of this market must end up with: since < as_of <= until, as the Exchange Protocol has it."""
        bars = self.bars(symbol, timeframe_s, since - timeframe_s + 1, until - timeframe_s + 1)
        rows = [(b.opened + timeframe_s, b.open, b.high, b.low, b.close, b.volume, b.count) for b in bars]
        return (
            Candles.from_columns([[float(x) for x in c] for c in zip(*rows, strict=True)]) if rows else Candles.empty()
        )

    def last_price(self, symbol: str, now: float) -> Decimal:
        """Of the newest trade, or of the first where there was none yet."""
        latest = self.latest_trades(symbol, int(now * NS), 1)
        return latest[0].price if latest else self.bars(symbol, MINUTE_S, EPOCH, EPOCH + 1)[0].open

    def _open_bar(self, symbol: str, opened: int, now: float) -> Bar:
        days = range(_day(max(opened, EPOCH)), _day(int(now)) + 1)
        parts = []
        for day in days:
            tape = _tape(self.seed, symbol, day)
            mine = (tape.time_ns >= opened * NS) & (tape.time_ns <= int(now * NS))
            parts.append((tape.price[mine], tape.volume[mine]))
        price, volume = (np.concatenate(columns) for columns in zip(*parts, strict=True))
        if not len(price):
            flat = self.last_price(symbol, now)
            return Bar(opened, flat, flat, flat, flat, 0 * flat, Decimal(0).scaleb(-VOLUME_DECIMALS), 0, 0 * flat)
        (bar,) = self._to_bars(symbol, aggregate(np.array([opened]), np.array([0]), price, volume))
        return bar

    def _columns(self, symbol: str, timeframe_s: int, since: int, until: int) -> Columns:
        days = range(_day(since), _day(until - 1) + 1)
        columns = concatenate([_day_columns(self.seed, symbol, min(timeframe_s, DAY_S), day) for day in days])
        if timeframe_s > DAY_S:
            columns = columns.regroup(timeframe_s)
        return columns.between(since, until)

    def _to_bars(self, symbol: str, columns: Columns) -> list[Bar]:
        return list(_bars(columns, self.rules(symbol).tick_size))


def _bars(columns: Columns, tick: Decimal) -> Iterator[Bar]:
    for opened, open_, high, low, close, volume, notional, count in columns.rows():
        yield Bar(
            opened=opened,
            open=open_ * tick,
            high=high * tick,
            low=low * tick,
            close=close * tick,
            vwap=(Decimal(notional) / volume * tick).quantize(tick),
            volume=Decimal(volume).scaleb(-VOLUME_DECIMALS),
            count=count,
            notional=Decimal(notional).scaleb(-VOLUME_DECIMALS) * tick,
        )


def _day(at_s: int) -> int:
    """Days since the market's first."""
    if not EPOCH <= at_s < END:
        raise ValueError(f"the market lasts from 2020 to 2100; asked for {at_s}: are these Unix seconds?")
    return (at_s - EPOCH) // DAY_S


def _check_timeframe(timeframe_s: int) -> None:
    if timeframe_s < MINUTE_S or timeframe_s % MINUTE_S or (DAY_S % timeframe_s and timeframe_s % DAY_S):
        raise ValueError(f"no {timeframe_s} s candles: ask for whole minutes that divide a day, or whole days")


# --- one day of one symbol; kept for all markets of a process, which may be many in its tests ---


@lru_cache(maxsize=64)
def _tape(seed: int, symbol: str, day: int) -> Tape:
    simulated, since = SimulatedExchange(seed), EPOCH + day * DAY_S
    minutes = simulated.candles(f"SIM-{symbol}", MINUTE_S, since, since + DAY_S)
    decimals = -int(simulated.rules(f"SIM-{symbol}").tick_size.as_tuple().exponent)
    draws = np.random.Generator(np.random.Philox(key=_key(seed, symbol), counter=np.array([0, 0, 0, day])))
    offset_us = (PLACE + draws.uniform(0.05, 0.95, TRADES_A_DAY)) / COUNTS[MINUTE_OF] * MINUTE_S * 1e6
    return Tape(
        time_ns=(since + MINUTE_OF * MINUTE_S) * NS + offset_us.astype(np.int64) * 1_000,
        price=_prices(minutes, 10**decimals, draws),
        volume=_volumes(minutes, draws),
        is_buy=draws.random(TRADES_A_DAY) < 0.5,
    )


@lru_cache(maxsize=4096)
def _day_columns(seed: int, symbol: str, timeframe_s: int, day: int) -> Columns:
    tape, since = _tape(seed, symbol, day), EPOCH + day * DAY_S
    opened = np.arange(since, since + DAY_S, timeframe_s)
    return aggregate(opened, np.searchsorted(tape.time_ns, opened * NS), tape.price, tape.volume)


def _key(seed: int, symbol: str) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}/{symbol}/trades".encode()).digest()[:16], "big")


def _prices(minutes: Candles, ticks: int, draws: np.random.Generator) -> IntArray:
    """In ticks: a minute's first trade is its open and its last its close; its second and third touch both extremes."""
    opens, highs, lows, closes = (
        np.rint(column * ticks).astype(np.int64) for column in (minutes.open, minutes.high, minutes.low, minutes.close)
    )
    low, high = lows[MINUTE_OF], highs[MINUTE_OF]
    prices = np.asarray(low + np.rint(draws.random(TRADES_A_DAY) * (high - low)), dtype=np.int64)
    low_first = draws.random(MINUTES) < 0.5
    prices[FIRST + 1] = np.where(low_first, lows, highs)
    prices[FIRST + 2] = np.where(low_first, highs, lows)
    prices[FIRST] = opens
    prices[FIRST + COUNTS - 1] = closes
    return prices


def _volumes(minutes: Candles, draws: np.random.Generator) -> IntArray:
    """In 1e-8: a minute's volume shared out at random, the last trade taking the remainder."""
    total = np.rint(minutes.volume * 10**VOLUME_DECIMALS).astype(np.int64)
    weights = draws.uniform(0.2, 1.0, TRADES_A_DAY)
    share = weights / np.add.reduceat(weights, FIRST)[MINUTE_OF]
    volumes = np.maximum(1, np.floor(share * total[MINUTE_OF])).astype(np.int64)
    volumes[FIRST + COUNTS - 1] += total - np.add.reduceat(volumes, FIRST)
    return volumes
