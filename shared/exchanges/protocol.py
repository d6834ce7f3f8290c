"""What a source of candles must offer; one file a venue satisfies it, chosen by the registry dict."""

from __future__ import annotations

from typing import Protocol

from shared.errors import SextantError
from shared.rows import Candles, InstrumentRules


class ExchangeError(SextantError):
    """The venue could not be asked, or answered with something that is not an answer."""


class Exchange(Protocol):
    """A venue that serves closed candles. Symbols are BASE/QUOTE; the file maps them at the door."""

    name: str
    depth: int | None  # how many of its latest candles the venue serves; None: all there ever were
    provenance: str  # 'real' or 'simulated'; models inherit it, and only real ones may ever trade live

    def resolve(self, symbol: str) -> str:
        """The symbol under which this venue lists it (BTC/USDT may be BTC/USD here); ExchangeError if none."""
        ...

    def rules(self, symbol: str) -> InstrumentRules: ...

    def candles(self, symbol: str, timeframe_s: int, since: int, until: int) -> Candles:
        """The closed candles with since < as_of <= until (Unix seconds), as far as the venue serves them."""
        ...
