"""Candles already at hand, served as a venue would serve them: nothing before it closed.

This is how a replay feeds real candles through the same job that a live venue feeds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from shared.exchanges.protocol import Capabilities, ExchangeError, VenueStatus
from shared.rows import Candles, InstrumentRules


class RecordedExchange:
    def __init__(
        self,
        name: str,
        provenance: str,
        timeframe_s: int,
        series: Mapping[str, Candles],
        rules: Mapping[str, InstrumentRules],
    ) -> None:
        self.name = name
        self.provenance = provenance
        self.capabilities = Capabilities((timeframe_s,), requests_per_s=math.inf, exercised="itself")
        self._timeframe_s = timeframe_s
        self._series = series
        self._rules = rules

    def resolve(self, symbol: str) -> str:
        if symbol not in self._series:
            raise ExchangeError(f"{symbol} was not recorded; there are {', '.join(self._series)}")
        return symbol

    def rules(self, symbol: str) -> InstrumentRules:
        return self._rules[self.resolve(symbol)]

    def server_time(self) -> None:
        """None: a recording has no clock."""

    def status(self) -> VenueStatus:
        return "online"

    def candles(self, symbol: str, timeframe_s: int, since: int, until: int) -> Candles:
        if timeframe_s != self._timeframe_s:
            raise ExchangeError(f"{symbol} was recorded at {self._timeframe_s} s, not at {timeframe_s} s")
        series = self._series[self.resolve(symbol)]
        return series[slice(*np.searchsorted(series.as_of, (since, until), side="right"))]
