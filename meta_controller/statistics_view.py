"""Reading as of a moment, from rows recorded by another: the only way that anything gets into a prompt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import numpy as np
from numpy.typing import NDArray

from meta_controller.market_index import Grid, MarketHistory, block_start, index_history
from meta_controller.statistics_series import READ_S, Asset, asset_of, scale
from shared.clock import from_unix, to_unix
from shared.db import Database, load_queries
from shared.market_data import SENT_CANDLE, read_records, sent_candles
from shared.rows import Candles, Instrument


@dataclass(frozen=True, slots=True)
class View:
    """``fetch`` and ``records`` run a query of sql/queries/llm_prompt.sql with both moments among its parameters."""

    database: Database
    as_of: datetime
    recorded_by: datetime

    def fetch(self, name: str, **params: Any) -> list[dict[str, Any]]:
        return self.database.fetch(load_queries("llm_prompt")[name], self._all(params))

    def records(self, name: str, kind: np.dtype[Any], **params: Any) -> NDArray[Any]:
        return read_records(self.database, load_queries("llm_prompt")[name], self._all(params), kind)

    def _all(self, params: dict[str, Any]) -> dict[str, Any]:
        return params | {"as_of": self.as_of, "recorded_by": self.recorded_by}

    def candles(self, instrument_id: int, timeframe_s: int, after: int) -> Candles:
        """The candles with after < as_of <= the moment (Unix seconds) as they stood at recorded_by."""
        sent = self.records("candles_as_recorded", np.dtype(SENT_CANDLE), instrument_id=instrument_id,
                            timeframe_s=timeframe_s, after=from_unix(after))  # fmt: skip
        return sent_candles(sent)


@dataclass(frozen=True, slots=True)
class Market:
    """The universe at the moment: its index, and its assets from the most volatile of the last 30 days to the least
    (of equals by symbol), which is the order of their numbers in the prompt. ``missing``: symbols without candles."""

    history: MarketHistory
    assets: list[Asset]
    missing: int

    @property
    def timeframe_s(self) -> int:
        return self.history.timeframe_s


def read_market(view: View, venue: str, symbols: Sequence[str], timeframe_s: int) -> Market:
    """ShortHistory (meta_controller.market_index) where there are too few candles for an index."""
    last = to_unix(view.as_of) // timeframe_s * timeframe_s
    bars = READ_S // timeframe_s
    first = last - (bars - 1) * timeframe_s
    ids = _instrument_ids(view.database, venue, symbols)
    series = {symbol: view.candles(ids[symbol], timeframe_s, first - 1) for symbol in symbols if symbol in ids}
    found = {symbol: candles for symbol, candles in series.items() if len(candles)}
    grid = Grid.of(list(found.values()), first, timeframe_s, bars)
    history = index_history(grid, block_start(last), last)
    assets = [asset_of(symbol, ids[symbol], candles, first, timeframe_s, bars) for symbol, candles in found.items()]
    assets.sort(key=lambda asset: (-np.nan_to_num(scale(asset.returns, timeframe_s)), asset.symbol))
    return Market(history, assets, len(symbols) - len(found))


def _instrument_ids(database: Database, venue: str, symbols: Sequence[str]) -> dict[str, int]:
    """A symbol that nothing was ever stored for is absent; one that came later has no candle recorded by then."""
    params = {"venue": venue, "symbols": list(symbols)}
    rows = database.fetch_rows(Instrument, load_queries("shared")["find_instruments"], params)
    return {row.symbol: row.id for row in rows}


def days_before(view: View, days: float) -> datetime:
    return view.as_of - timedelta(days=days)
