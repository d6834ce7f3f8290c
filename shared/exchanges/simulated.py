"""A seeded market to learn and test on; invented, and labelled so everywhere (venue ``simulated``, symbols ``SIM-…``).

Every number is a pure function of (seed, symbol, day), so windows asked in any order or size agree bit for bit
under the pinned numpy. Three scales, each drawn from its own counter-based stream:

* the weather: regimes of some ten days (drift, volatility) and a slow log-volatility, common to all symbols;
* the day: a symbol's total log return, part common and part its own, summed from the epoch to price levels;
* the minute: fat-tailed steps under the day's volatility, bridged so that they add up to the day's total.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from functools import lru_cache

import numpy as np

from shared.exchanges.protocol import Capabilities, ExchangeError, NotListed, VenueStatus
from shared.rows import Candles, FloatArray, InstrumentRules, IntArray

EPOCH = 1_577_836_800  # 2020-01-01T00:00Z
END = 4_102_444_800  # 2100-01-01T00:00Z; a later time is a mistake of units
DAY_S, MINUTE_S, MINUTES = 86_400, 60, 1_440

SYMBOL = re.compile(r"SIM-([A-Z0-9]{1,12})/([A-Z0-9]{2,8})")
LOT_SIZE = Decimal("0.00001")
MIN_NOTIONAL = Decimal(10)
TICKET = 1_500.0  # mean quote amount of one trade

CORRELATION = 0.7  # between the returns of any two symbols
SWITCH = 1 / 11  # chance per day that the regime is drawn anew
VOL_MEMORY, VOL_SPREAD = 0.94, 0.28  # AR(1) of the common daily log-volatility, and its stationary deviation
OWN_MEMORY, OWN_SPREAD = 0.90, 0.14  # the same, of one symbol's own
OWN_DRIFT_MEMORY, OWN_DRIFT_SPREAD = 0.93, 0.05  # own drift, in units of daily volatility
HOUR_SPREAD = 0.30  # deviation of the log-volatility between the hours of one day
JUMP_CHANCE, JUMP_SIZE = 0.10, 1.1  # a day; deviation in units of the day's volatility
PULL = 0.002  # towards the long-run log price, per day: keeps levels within a factor of three or so
TAIL = 5  # degrees of freedom of a minute's step
WEATHER_CHAPTER = 512  # days by which the recursions are extended, so that their caches are hit


@dataclass(frozen=True, slots=True)
class Regime:
    chance: float
    drift: float  # a day, in units of the symbol's daily volatility
    log_vol: float


REGIMES = (
    Regime(chance=0.30, drift=0.20, log_vol=-0.10),
    Regime(chance=0.22, drift=-0.26, log_vol=0.22),
    Regime(chance=0.33, drift=0.0, log_vol=-0.45),
    Regime(chance=0.15, drift=0.0, log_vol=0.50),
)


@dataclass(frozen=True, slots=True)
class Profile:
    """Long-run price (quote), daily volatility (log return) and turnover (quote units a minute)."""

    price: float
    daily_vol: float
    turnover: float

    @property
    def decimals(self) -> int:
        """Decimals of the tick: about a hundred-thousandth of the price, 0.01 at most."""
        return min(8, max(2, 5 - math.floor(math.log10(self.price))))

    @property
    def volume_quantum(self) -> float:
        """Base units. A power of two: float sums of its multiples are exact, so any grouping of minutes agrees."""
        return float(2.0 ** (math.floor(math.log2(self.turnover / self.price)) - 14))


PROFILES = {
    "BTC": Profile(price=30_000.0, daily_vol=0.025, turnover=250_000.0),
    "ETH": Profile(price=2_000.0, daily_vol=0.032, turnover=140_000.0),
    "SOL": Profile(price=60.0, daily_vol=0.043, turnover=60_000.0),
}


class SimulatedExchange:
    """The venue ``simulated``. It has no clock: it serves whatever closed by ``until``, the caller's now."""

    name = "simulated"
    provenance = "simulated"
    capabilities = Capabilities(
        timeframes_s=tuple(MINUTE_S * n for n in (1, 5, 15, 30, 60, 240, 1_440)),
        requests_per_s=math.inf,
        exercised="itself",
    )

    def __init__(self, seed: int = 7) -> None:
        self.seed = seed

    def resolve(self, symbol: str) -> str:
        """The symbol itself; ExchangeError unless it reads SIM-<BASE>/<QUOTE>."""
        if not SYMBOL.fullmatch(symbol):
            raise NotListed(f"simulated has no {symbol!r}: its symbols read SIM-<BASE>/<QUOTE>, like SIM-BTC/USDT")
        return symbol

    def rules(self, symbol: str) -> InstrumentRules:
        tick = Decimal(1).scaleb(-_profile(self.resolve(symbol)).decimals)
        return InstrumentRules(tick, LOT_SIZE, MIN_NOTIONAL, min_quantity=LOT_SIZE)

    def server_time(self) -> None:
        """None: it has no clock of its own."""

    def status(self) -> VenueStatus:
        return "online"

    def candles(self, symbol: str, timeframe_s: int, since: int, until: int) -> Candles:
        """Closed candles with since < as_of <= until (Unix seconds), aggregated from minutes; none is missing.

        ExchangeError: an unknown symbol, a timeframe that is not whole minutes dividing a day, or a time
        before the epoch (2020-01-01) or past 2100.
        """
        self.resolve(symbol)
        _check_window(timeframe_s, since, until)
        days = range((since - EPOCH) // DAY_S, -((EPOCH - until) // DAY_S))
        parts = [_aggregate(_minutes(self.seed, symbol, day), timeframe_s // MINUTE_S) for day in days]
        candles = Candles.concatenate(parts)
        return candles[(candles.as_of > since) & (candles.as_of <= until)]


def _check_window(timeframe_s: int, since: int, until: int) -> None:
    if timeframe_s < MINUTE_S or timeframe_s % MINUTE_S or DAY_S % timeframe_s:
        raise ExchangeError(f"simulated has no {timeframe_s} s candles: ask for whole minutes that divide a day")
    if since < EPOCH:
        raise ExchangeError(f"simulated begins at {EPOCH} (2020-01-01 UTC); asked since {since}")
    if until > END:
        raise ExchangeError(f"simulated ends at {END} (2100-01-01 UTC); asked until {until}: are these seconds?")


def _aggregate(minutes: Candles, width: int) -> Candles:
    """One day's candles of ``width`` minutes each."""
    return Candles(
        as_of=minutes.as_of[width - 1 :: width],
        open=minutes.open[::width],
        high=minutes.high.reshape(-1, width).max(axis=1),
        low=minutes.low.reshape(-1, width).min(axis=1),
        close=minutes.close[width - 1 :: width],
        volume=minutes.volume.reshape(-1, width).sum(axis=1),
        trades=minutes.trades.reshape(-1, width).sum(axis=1),
    )


# --- streams: one generator for each (seed, stream, day, part), at random access ---


@lru_cache(maxsize=256)
def _key(seed: int, stream: str) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}/{stream}".encode()).digest()[:16], "big")


def _draws(seed: int, stream: str, day: int, part: int) -> np.random.Generator:
    """Philox is counter-based: the stream is its key, day and part are the high words of its counter."""
    counter = np.array([0, 0, part, day], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(counter=counter, key=_key(seed, stream)))


MARKET = "market"  # the common stream; no symbol can be called that
DAILY, INTRADAY = 0, 1


@lru_cache(maxsize=256)
def _profile(symbol: str) -> Profile:
    """Of a known base, else one made up from the symbol's hash: a smaller and wilder coin."""
    match = SYMBOL.fullmatch(symbol)
    base = match.group(1) if match else symbol
    if base in PROFILES:
        return PROFILES[base]
    u = np.random.Generator(np.random.Philox(key=_key(0, f"profile/{base}"))).random(2)
    return Profile(price=round(10.0 ** (3.0 * u[0] - 1.0), 4), daily_vol=0.04 + 0.02 * float(u[1]), turnover=20_000.0)


# --- the weather and the days: recursions from the epoch, the same however far they are carried ---


@dataclass(frozen=True, slots=True)
class Jump:
    """A sudden step of ``size`` (in units of the day's volatility) in one minute of the day."""

    size: float
    minute: int


@dataclass(frozen=True, slots=True)
class Weather:
    """What a day is like for all symbols; ``drift`` and ``shock`` in units of daily volatility."""

    drift: float
    log_vol: float
    shock: float
    jump: Jump


@dataclass(frozen=True, slots=True)
class Day:
    """A symbol's day: log price at its start and end, volatility (log return a day) at its start and end, jumps."""

    start: float
    end: float
    vol_start: float
    vol_end: float
    jumps: tuple[Jump, ...]

    @property
    def vol(self) -> float:
        """Of the whole day, where it runs linearly from start to end."""
        return math.sqrt((self.vol_start**2 + self.vol_start * self.vol_end + self.vol_end**2) / 3)


def _jump(draws: np.random.Generator) -> Jump:
    chance, place = draws.random(2).tolist()
    size = JUMP_SIZE * draws.standard_normal() if chance < JUMP_CHANCE else 0.0
    return Jump(size=size, minute=int(place * MINUTES))


def _regime(u: float) -> Regime:
    for regime in REGIMES:
        if u < regime.chance:
            return regime
        u -= regime.chance
    return REGIMES[-1]


def _step(state: float, memory: float, spread: float, z: float) -> float:
    """One step of a stationary AR(1) of deviation ``spread``."""
    return memory * state + spread * math.sqrt(1 - memory * memory) * z


@lru_cache(maxsize=4)
def _weather(seed: int, days: int) -> tuple[Weather, ...]:
    return tuple(_weather_from_epoch(seed, days))


def _weather_from_epoch(seed: int, days: int) -> Iterator[Weather]:
    regime, slow = REGIMES[0], 0.0
    for day in range(days):
        draws = _draws(seed, MARKET, day, DAILY)
        turn, which = draws.random(2).tolist()
        shock, z = draws.standard_normal(2).tolist()
        if day == 0 or turn < SWITCH:
            regime = _regime(which)
        slow = _step(slow, VOL_MEMORY, VOL_SPREAD, z)
        yield Weather(drift=regime.drift, log_vol=regime.log_vol + slow, shock=shock, jump=_jump(draws))


@lru_cache(maxsize=16)
def _days(seed: int, symbol: str, days: int) -> tuple[Day, ...]:
    return tuple(_days_from_epoch(seed, symbol, days))


def _days_from_epoch(seed: int, symbol: str, days: int) -> Iterator[Day]:
    profile = _profile(symbol)
    home = math.log(profile.price)
    level, vol, own_vol, own_drift = home, profile.daily_vol, 0.0, 0.0
    common, own = math.sqrt(CORRELATION), math.sqrt(1 - CORRELATION)
    for day, weather in enumerate(_weather(seed, days)):
        draws = _draws(seed, symbol, day, DAILY)
        shock, z_vol, z_drift = draws.standard_normal(3).tolist()
        own_vol = _step(own_vol, OWN_MEMORY, OWN_SPREAD, z_vol)
        own_drift = _step(own_drift, OWN_DRIFT_MEMORY, OWN_DRIFT_SPREAD, z_drift)
        yesterday, vol = vol, profile.daily_vol * math.exp(weather.log_vol + own_vol)
        own_jump = _jump(draws)
        jumps = (Jump(common * weather.jump.size, weather.jump.minute), Jump(own * own_jump.size, own_jump.minute))
        plan = Day(level, level, yesterday, vol, jumps)
        drift = profile.daily_vol * (weather.drift + own_drift) - PULL * (level - home)
        surprise = plan.vol * (common * weather.shock + own * shock + sum(jump.size for jump in jumps))
        level = level + drift + surprise
        yield Day(plan.start, level, yesterday, vol, jumps)


def _day(seed: int, symbol: str, day: int) -> Day:
    chapters = day // WEATHER_CHAPTER + 1
    return _days(seed, symbol, chapters * WEATHER_CHAPTER)[day]


# --- the minutes of one day; always computed as whole days, so that no array length can change a bit ---


def _clock_shape() -> FloatArray:
    """Activity over the UTC day, mean square 1: high around midnight and the American open, low in between."""
    hours = np.arange(MINUTES) / 60.0
    shape = 1.0 + 0.28 * np.cos((hours - 16.0) * math.pi / 12) + 0.16 * np.cos((hours - 1.5) * math.pi / 6)
    return np.asarray(shape / np.sqrt(np.mean(shape**2)))


SHAPE = _clock_shape()
HOUR_KNOTS = np.arange(0, MINUTES + 1, 60) - 0.5


@lru_cache(maxsize=512)
def _common_steps(seed: int, day: int) -> tuple[FloatArray, FloatArray]:
    """The factor's minute steps (variance 1), and the log-volatility of the minutes around the day's own."""
    draws = _draws(seed, MARKET, day, INTRADAY)
    hourly = HOUR_SPREAD * draws.standard_normal(len(HOUR_KNOTS))
    return _fat_steps(draws), np.interp(np.arange(MINUTES), HOUR_KNOTS, hourly)


def _fat_steps(draws: np.random.Generator) -> FloatArray:
    return draws.standard_t(TAIL, MINUTES) * math.sqrt((TAIL - 2) / TAIL)


def _minute_vols(plan: Day, hourly: FloatArray) -> FloatArray:
    """Deviation of each minute's log return; their squares add up to the day's variance."""
    course = np.linspace(plan.vol_start, plan.vol_end, MINUTES) * SHAPE * np.exp(hourly)
    return np.asarray(course * (plan.vol / math.sqrt(float(np.sum(course**2)))))


def _path(plan: Day, steps: FloatArray, vols: FloatArray) -> FloatArray:
    """Log prices at the day's start and at each minute's close: a bridge from plan.start to plan.end."""
    moves = vols * steps
    jumped = plan.vol * sum(jump.size for jump in plan.jumps)
    gap = plan.end - plan.start - jumped - float(np.sum(moves))
    moves += gap * vols**2 / plan.vol**2
    for jump in plan.jumps:
        moves[jump.minute] += plan.vol * jump.size
    path = plan.start + np.concatenate(([0.0], np.cumsum(moves)))
    path[-1] = plan.end  # exactly where tomorrow opens
    return path


@lru_cache(maxsize=64)
def _minutes(seed: int, symbol: str, day: int) -> Candles:
    """The 1440 one-minute candles of a day since the epoch."""
    profile, plan, draws = _profile(symbol), _day(seed, symbol, day), _draws(seed, symbol, day, INTRADAY)
    common, hourly = _common_steps(seed, day)
    vols = _minute_vols(plan, hourly)
    steps = math.sqrt(CORRELATION) * common + math.sqrt(1 - CORRELATION) * _fat_steps(draws)
    path = _path(plan, steps, vols)
    start, end = path[:-1], path[1:]
    # The extremes of a Brownian bridge from start to end: (a + b ± sqrt((b - a)^2 + 2 var E)) / 2, E exponential.
    up, down = np.sqrt((end - start) ** 2 + 2 * vols**2 * draws.standard_exponential((2, MINUTES)))
    prices = _prices(path, profile)
    opens, closes = prices[:-1], prices[1:]
    high, low = _prices((start + end + up) / 2, profile), _prices((start + end - down) / 2, profile)
    volume, trades = _activity(profile, vols, np.abs(end - start) / vols, closes, draws)
    return Candles(
        as_of=EPOCH + day * DAY_S + MINUTE_S * np.arange(1, MINUTES + 1, dtype=np.int64),
        open=opens,
        high=np.maximum(high, np.maximum(opens, closes)),  # the last bit of exp may disagree
        low=np.minimum(low, np.minimum(opens, closes)),
        close=closes,
        volume=volume,
        trades=trades,
    )


def _prices(log_prices: FloatArray, profile: Profile) -> FloatArray:
    """On the tick."""
    return np.asarray(np.round(np.exp(log_prices), profile.decimals), dtype=np.float64)


def _activity(
    profile: Profile, vols: FloatArray, surprise: FloatArray, closes: FloatArray, draws: np.random.Generator
) -> tuple[FloatArray, IntArray]:
    """Volume (base units) and trades: log-normal, more in wild and busy hours and when the price moves."""
    noise, size = draws.standard_normal((2, MINUTES))
    wildness = np.log(vols * math.sqrt(MINUTES) / profile.daily_vol)
    turnover = profile.turnover * np.exp(0.8 * wildness + 0.35 * np.minimum(surprise, 8.0) + 0.5 * noise - 0.4)
    volume = np.ceil(turnover / closes / profile.volume_quantum) * profile.volume_quantum
    trades = 1 + np.floor(turnover / (TICKET * np.exp(0.25 * size)))
    return volume, trades.astype(np.int64)
