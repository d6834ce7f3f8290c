"""Where orders go: one file a venue, one line here. Only the sender opens these; only it holds keys."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from policy.execution.venues.protocol import Credentials, TakeNonce, TradingVenue
from shared.clock import open_clock
from shared.exchanges.protocol import ExchangeError
from shared.settings import Settings, VenueSettings

Maker = Callable[[Settings, VenueSettings, Credentials, TakeNonce, Sequence[str]], TradingVenue]


def _kraken(
    settings: Settings, at: VenueSettings, credentials: Credentials, take_nonce: TakeNonce, symbols: Sequence[str]
) -> TradingVenue:
    from policy.execution.venues.kraken_trading import EXECUTIONS_URL, KrakenTrading

    rate, home, told = at.requests_per_s, settings.home_path, at.websocket_url or EXECUTIONS_URL
    return KrakenTrading(credentials, take_nonce, symbols, at.rest_url, told, requests_per_s=rate, home=home)


def _binance(
    settings: Settings, at: VenueSettings, credentials: Credentials, take_nonce: TakeNonce, symbols: Sequence[str]
) -> TradingVenue:
    from policy.execution.venues.ccxt_trading import CcxtTrading

    return CcxtTrading(credentials, take_nonce, symbols, open_clock(settings.clock_url), at.rest_url)


VENUES: dict[str, Maker] = {
    "binance": _binance,
    "kraken": _kraken,
}


def open_trading(
    venue: str, settings: Settings, credentials: Credentials, take_nonce: TakeNonce, symbols: Sequence[str]
) -> TradingVenue:
    """One account of a venue, at the address that settings.venues gives it; asks the network nothing.

    ``symbols`` are the wallet's, as instruments have them. ExchangeError: no such venue, or no such key.
    """
    if venue not in VENUES:
        raise ExchangeError(f"nobody can trade on {venue!r} yet; choose one of {', '.join(sorted(VENUES))}")
    at = settings.venues.get(venue, VenueSettings())
    return VENUES[venue](settings, at, credentials, take_nonce, symbols)
