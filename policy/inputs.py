"""What the decision path reads, loaded for a span at once; one moment's Market is the same either way."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from policy.candle_cache import newest_windows
from policy.decision_kernel import MARKET_SIZE
from policy.observation import EMBEDDING_SIZE, HORIZONS_S, Market, market_block
from policy.risk.context import OperatorLimits
from policy.risk.history import CloseHistory, PortfolioHistory
from policy.signals import DAY_S, ClosesOnGrid, Signal, signal_window
from shared.clock import from_unix, to_unix
from shared.db import Database, load_queries
from shared.embeddings import read_embeddings
from shared.market_data import read_candles
from shared.rows import FloatArray, Instrument, MarketState, PolicyConfig
from shared.static_steering import static_steering

Known = TypeVar("Known", MarketState, PolicyConfig)
CONFIG_LOOKBACK = timedelta(days=7)
REDUCE_ONLY_AFTER = timedelta(hours=24)  # without a word of the meta-controller: what it last knew is no longer so
DEFAULT_SOURCE = "operator-default"  # of the steering that stands in for a missing one
NO_CANDLES, NO_EMBEDDING, NO_STATE = "no usable candles", "no embedding", "no fresh market state"


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
        since = start - signal_window(timeframe_s) * timeframe_s
        first_close, last_close = -(-start // timeframe_s) * timeframe_s, end // timeframe_s * timeframe_s
        ids = [i.id for i in instruments]
        series = (
            newest_windows(database, ids, timeframe_s, since, end)
            if first == last
            else [read_candles(database, id_, timeframe_s, since, end) for id_ in ids]
        )
        self._closes = [ClosesOnGrid(candles, timeframe_s, first_close, last_close) for candles in series]
        served = self._closes[0].row(first_close)
        self._history = CloseHistory(
            np.stack([closes.closes for closes in self._closes], axis=1), DAY_S // timeframe_s, served
        )
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
        names = ("market_states", "policy_configs")
        if first == last and not ignore_known_from:
            names = ("newest_states", "newest_config")  # of a week's rows one is looked at
        queries, span = load_queries("policy"), {"track": track, "last": last}
        states = database.fetch_rows(MarketState, queries[names[0]], span | {"first": first - timedelta(days=1)})
        self._states = {h: [s for s in states if s.horizon_s == h] for h in HORIZONS_S}
        self._configs = database.fetch_rows(PolicyConfig, queries[names[1]], span | {"first": first - CONFIG_LOOKBACK})

    def at(self, as_of: datetime) -> Market:
        """The market at ``as_of``, a close of the decision clock; what is missing of an instrument is in its doubts."""
        t = to_unix(as_of)
        found = [closes.signal(t) for closes in self._closes]
        signals = [
            signal or Signal(closes.last_close(t), 0.0, 0.0) for signal, closes in zip(found, self._closes, strict=True)
        ]
        trend, volatility = np.array([s.trend for s in signals]), np.array([s.volatility for s in signals])
        tradable = np.array([signal is not None for signal in found])
        embeddings, ood = self._embeddings_at(t)
        states = self._states_at(as_of)
        embedded = np.isfinite(ood)
        complete = tradable & embedded & (states is not None)
        block = np.zeros((len(signals), MARKET_SIZE), np.float32)
        if states is not None and complete.any():
            block[complete] = market_block(
                embeddings[complete], ood[complete], trend[complete], volatility[complete], states
            )
        return Market(
            prices=np.array([s.price for s in signals]),
            trend=trend,
            volatility=volatility,
            ood=ood,
            block=block,
            complete=complete,
            tradable=tradable,
            doubts=_doubts(tradable, embedded, states is not None),
            states=states,
            config=self._config_at(as_of),
            history=PortfolioHistory(self._history, self._closes[0].row(t)),
        )

    def present(self) -> NDArray[np.bool_]:
        """Of each close [B, N] in ``at(...).history``, whether a candle says it; else it is the one before."""
        return np.stack([closes.present for closes in self._closes], axis=1)

    def _embeddings_at(self, t: int) -> tuple[NDArray[np.float32], FloatArray]:
        """[N, 64] and ood [N]; zeros and NaN where there is no embedding."""
        n = len(self._instruments)
        vectors, ood = np.zeros((n, EMBEDDING_SIZE), np.float32), np.full(n, np.nan)
        for k, instrument in enumerate(self._instruments):
            entry = self._embeddings.get(instrument.id, {}).get(t)
            if entry is not None:
                vectors[k], ood[k] = entry
        return vectors, ood

    def _states_at(self, as_of: datetime) -> tuple[MarketState, MarketState] | None:
        newest = [_newest(self._states[h], as_of, self._ignore_known_from) for h in HORIZONS_S]
        short, long = newest
        if short is None or long is None or as_of - min(short.as_of, long.as_of) > self._stale_after:
            return None
        return short, long

    def _config_at(self, as_of: datetime) -> PolicyConfig:
        newest = _newest(self._configs, as_of, self._ignore_known_from)
        if newest and newest.valid_until > as_of:
            return newest
        return static_default(as_of, self._operator, CONFIG_LOOKBACK if newest is None else as_of - newest.as_of)


def _doubts(tradable: NDArray[np.bool_], embedded: NDArray[np.bool_], known_state: bool) -> tuple[str, ...]:
    return tuple(
        "; ".join(
            what
            for what, missing in ((NO_CANDLES, not t), (NO_EMBEDDING, not e), (NO_STATE, not known_state))
            if missing
        )
        for t, e in zip(tradable.tolist(), embedded.tolist(), strict=True)
    )


def _newest(rows: Sequence[Known], as_of: datetime, ignore_known_from: bool) -> Known | None:
    """The newest of ``rows`` (sorted by as_of) that speaks about ``as_of`` or before and was known by then."""
    for k in range(bisect_right(rows, as_of, key=lambda row: row.as_of) - 1, -1, -1):
        if ignore_known_from or rows[k].known_from <= as_of:
            return rows[k]
    return None


def static_config(as_of: datetime, operator: OperatorLimits, share: float = 1.0) -> PolicyConfig:
    """The operator's own steering, at ``share`` of the exposure that the operator allows."""
    return static_steering(
        as_of,
        operator.max_position,
        operator.max_exposure,
        operator.daily_loss_limit,
        operator.max_drawdown,
        share,
    )


def static_default(as_of: datetime, operator: OperatorLimits, silent_for: timedelta) -> PolicyConfig:
    """What steers when the meta-controller has said nothing valid: the static steering at half exposure, and after
    REDUCE_ONLY_AFTER of silence (a CONFIG_LOOKBACK stands for longer, or ever) no entries either."""
    over = silent_for > REDUCE_ONLY_AFTER
    reasons = (
        f"no valid policy_config for {silent_for / timedelta(hours=1):.0f} hours: the operator's static steering at "
        "half exposure" + (", and no entries" if over else "")
    )
    return replace(static_config(as_of, operator, share=0.5), source=DEFAULT_SOURCE, pause=over, reasons=reasons)


def timestamps(first: datetime, last: datetime, step_s: int) -> list[datetime]:
    """The decision times in [first, last], on the Unix grid of ``step_s``."""
    start = -(-to_unix(first) // step_s) * step_s
    return [from_unix(t) for t in range(start, to_unix(last) + 1, step_s)]
