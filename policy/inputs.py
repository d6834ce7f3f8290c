"""What the decision path reads, loaded for a span at once; one moment's View is the same either way."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from policy.observation import HORIZONS_S, Book, View
from policy.risk.context import OperatorLimits
from policy.signals import SIGNAL_WINDOW, Signal, compute_signal
from shared.clock import from_unix, to_unix
from shared.db import Database, load_queries
from shared.embeddings import read_embeddings
from shared.market_data import read_candles
from shared.rows import Candles, FloatArray, Instrument, MarketState, PolicyConfig

Known = TypeVar("Known", MarketState, PolicyConfig)
CONFIG_LOOKBACK = timedelta(days=7)


@dataclass(frozen=True, slots=True)
class Market:
    """The market's side of a View at one moment: everything but the book."""

    signals: tuple[Signal, ...]
    tradable: NDArray[np.bool_]  # [N]: has a candle that closed at this moment
    embeddings: NDArray[np.float32] | None
    ood: FloatArray | None
    states: tuple[MarketState, MarketState] | None
    config: PolicyConfig
    doubts: str

    @property
    def prices(self) -> FloatArray:
        return np.array([signal.price for signal in self.signals])

    def view(self, book: Book) -> View:
        return View(self.signals, self.embeddings, self.ood, self.states, self.config, book)


class Inputs:
    """All rows that decisions in [first, last] may use; ``at(as_of)`` takes those known at that moment."""

    def __init__(
        self,
        database: Database,
        instruments: Sequence[Instrument],
        timeframe_s: int,
        track: str,
        encoder_id: int | None,
        operator: OperatorLimits,
        first: datetime,
        last: datetime,
        stale_after_s: int,
        ignore_known_from: bool = False,
    ) -> None:
        self._instruments = instruments
        self._timeframe_s = timeframe_s
        self._operator = operator
        self._stale_after = timedelta(seconds=stale_after_s)
        self._ignore_known_from = ignore_known_from
        start, end = to_unix(first), to_unix(last)
        self._candles = [
            read_candles(database, i.id, timeframe_s, start - SIGNAL_WINDOW * timeframe_s, end) for i in instruments
        ]
        ids = [i.id for i in instruments]
        self._embeddings = (
            {}
            if encoder_id is None
            else {
                instrument_id: dict(zip(as_of.tolist(), zip(vectors, ood, strict=True), strict=True))
                for instrument_id, (as_of, vectors, ood) in read_embeddings(
                    database, encoder_id, ids, timeframe_s, start - 1, end
                ).items()
            }
        )
        span = {"track": track, "last": last}
        queries = load_queries("policy")
        states = database.fetch_rows(MarketState, queries["market_states"], span | {"first": first - timedelta(days=1)})
        self._states = {h: [s for s in states if s.horizon_s == h] for h in HORIZONS_S}
        self._configs = database.fetch_rows(
            PolicyConfig, queries["policy_configs"], span | {"first": first - CONFIG_LOOKBACK}
        )

    def at(self, as_of: datetime) -> Market:
        """The market at ``as_of``; what is missing or stale is named in ``doubts``."""
        t = to_unix(as_of)
        found = [compute_signal(self._window(c, t), t, self._timeframe_s) for c in self._candles]
        tradable = np.array([signal is not None for signal in found])
        signals = tuple(
            signal or self._last_price(candles, t) for signal, candles in zip(found, self._candles, strict=True)
        )
        embeddings, ood = self._embeddings_at(t)
        states = self._states_at(as_of)
        config = self._config_at(as_of)
        missing = [
            f"no usable candles of {i.symbol}" for i, ok in zip(self._instruments, tradable, strict=True) if not ok
        ]
        missing += ["no embeddings"] if embeddings is None else []
        missing += ["no fresh market state"] if states is None else []
        return Market(signals, tradable, embeddings, ood, states, config, "; ".join(missing))

    def _window(self, candles: Candles, t: int) -> Candles:
        first, last = np.searchsorted(candles.as_of, (t - SIGNAL_WINDOW * self._timeframe_s, t), side="right")
        return candles[slice(first, last)]

    @staticmethod
    def _last_price(candles: Candles, t: int) -> Signal:
        """Without a usable window: the last known close, no trend; NaN where none is known at all."""
        n = int(np.searchsorted(candles.as_of, t, side="right"))
        return Signal(price=float(candles.close[n - 1]) if n else float("nan"), trend=0.0, volatility=0.0)

    def _embeddings_at(self, t: int) -> tuple[NDArray[np.float32] | None, FloatArray | None]:
        found = [self._embeddings.get(i.id, {}).get(t) for i in self._instruments]
        if any(entry is None for entry in found):
            return None, None
        return np.stack([e[0] for e in found if e]), np.array([e[1] for e in found if e])

    def _states_at(self, as_of: datetime) -> tuple[MarketState, MarketState] | None:
        newest = [_newest(self._states[h], as_of, self._ignore_known_from) for h in HORIZONS_S]
        short, long = newest
        if short is None or long is None or as_of - min(short.as_of, long.as_of) > self._stale_after:
            return None
        return short, long

    def _config_at(self, as_of: datetime) -> PolicyConfig:
        newest = _newest(self._configs, as_of, self._ignore_known_from)
        return newest if newest and newest.valid_until > as_of else static_default(as_of, self._operator)


def _newest(rows: Sequence[Known], as_of: datetime, ignore_known_from: bool) -> Known | None:
    """The newest of ``rows`` (sorted by as_of) that speaks about ``as_of`` or before and was known by then."""
    for row in reversed(rows[: bisect_right(rows, as_of, key=lambda r: r.as_of)]):
        if ignore_known_from or row.known_from <= as_of:
            return row
    return None


def static_default(as_of: datetime, operator: OperatorLimits) -> PolicyConfig:
    """The operator's own default at half exposure: what steers when the meta-controller has said nothing valid."""
    return PolicyConfig(
        track="static",
        as_of=as_of,
        source="operator-default",
        risk_aversion=1.0,
        turnover_penalty=1.0,
        drawdown_penalty=1.0,
        target_volatility=0.25,
        max_exposure=operator.max_exposure / 2,
        max_position=min(operator.max_position, 0.5),
        daily_loss_limit=operator.daily_loss_limit,
        max_drawdown=operator.max_drawdown,
        pause=False,
        strategy_weights={"drl": 1.0},
        reasons="no valid policy_config: the operator's default at half exposure",
        valid_until=as_of + timedelta(hours=1),
        known_from=as_of,
    )


def timestamps(first: datetime, last: datetime, step_s: int) -> list[datetime]:
    """The decision times in [first, last], on the Unix grid of ``step_s``."""
    start = -(-to_unix(first) // step_s) * step_s
    return [from_unix(t) for t in range(start, to_unix(last) + 1, step_s)]
