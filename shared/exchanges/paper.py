"""The paper venue: another venue's candles; market orders filled here at the open of a candle, in Decimal."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Protocol, runtime_checkable

from shared.exchanges.protocol import (
    BuildsFromTrades,
    Exchange,
    ExchangeError,
    StreamEvent,
    StreamsCandles,
    VenueStatus,
)
from shared.exchanges.resilience import VenueCalls
from shared.money import to_float, to_money
from shared.rows import Candles, InstrumentRules
from shared.settings import FeedSettings
from shared.simulation import kernel


@runtime_checkable
class CountsCalls(Protocol):
    """A venue that asks somebody, and counts what came of it."""

    calls: VenueCalls


@dataclass(frozen=True, slots=True)
class PaperFill:
    """``quantity`` is 0 where the wallet could afford, or holds, nothing."""

    quantity: Decimal
    price: Decimal
    cost: Decimal
    fee: Decimal


def fill_market_order(
    side: str,
    quantity: Decimal,
    cash: Decimal,
    held: Decimal,
    open_price: float,
    volume: float,
    bar_s: int,
    volatility: float,
    half_spread_bps: Decimal,
    impact: Decimal,
    fee_bps: Decimal,
    tick: Decimal,
    lot: Decimal,
) -> PaperFill:
    """What the venue answers to a market order whose fill candle opened at ``open_price`` and traded ``volume`` in
    ``bar_s`` seconds; ``volatility`` is the order's own: annualised, as known when it was sized.

    The kernel's arithmetic, as shared.simulation.kernel.advance_book applies it."""
    signed = to_float(quantity) if side == "buy" else -to_float(quantity)
    slipped = kernel.slippage_bps(
        float(half_spread_bps), float(impact), volatility * kernel.bar_years_sqrt(bar_s), abs(signed), volume
    )
    filled, price, cost, fee = kernel.market_fill(
        signed,
        to_float(cash),
        to_float(held),
        open_price,
        slipped,
        float(fee_bps),
        to_float(tick),
        to_float(lot),
    )
    return PaperFill(to_money(abs(filled)), to_money(price), to_money(cost), to_money(fee))


class PaperExchange:
    """The candles of ``source``, under its name, for they are its own; orders never leave this machine."""

    calls: VenueCalls  # the source's, where it asks anybody

    def __init__(self, source: Exchange) -> None:
        self._source = source
        self.name, self.provenance = source.name, source.provenance
        if isinstance(source, CountsCalls):
            self.calls = source.calls
        self.capabilities = replace(
            source.capabilities, sandbox=True, client_order_ids=True, oco=False, order_types=("market",)
        )

    def resolve(self, symbol: str) -> str:
        return self._source.resolve(symbol)

    def rules(self, symbol: str) -> InstrumentRules:
        return self._source.rules(symbol)

    def candles(self, symbol: str, timeframe_s: int, since: int, until: int) -> Candles:
        return self._source.candles(symbol, timeframe_s, since, until)

    def server_time(self) -> float | None:
        return self._source.server_time()

    def status(self) -> VenueStatus:
        return self._source.status()

    def candles_from_trades(
        self, symbol: str, timeframe_s: int, since: int, until: int
    ) -> Iterator[tuple[Candles, int]]:
        """The source's; ExchangeError where its capabilities say it has none."""
        if not isinstance(self._source, BuildsFromTrades):
            raise ExchangeError(f"{self.name} builds no candles from trades")
        return self._source.candles_from_trades(symbol, timeframe_s, since, until)

    def stream(
        self, symbols: Sequence[str], timeframe_s: int, feed: FeedSettings | None = None
    ) -> AsyncIterator[StreamEvent]:
        """The source's; ExchangeError where its capabilities say it has none."""
        if not isinstance(self._source, StreamsCandles):
            raise ExchangeError(f"{self.name} streams no candles")
        return self._source.stream(symbols, timeframe_s, feed)
