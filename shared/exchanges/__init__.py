"""Where candles come from: one file a venue, one line here. A venue's library loads only when it is opened."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from functools import partial
from importlib import import_module

from shared.exchanges.protocol import Exchange, ExchangeError
from shared.settings import VenueSettings


def _kraken(settings: VenueSettings) -> Exchange:
    from shared.exchanges.kraken import KrakenExchange

    return KrakenExchange(settings.rest_url, settings.websocket_url, requests_per_s=settings.requests_per_s)


def _ccxt(venue_id: str, settings: VenueSettings) -> Exchange:
    from shared.exchanges.ccxt_venue import CcxtExchange

    if settings.websocket_url is not None:
        raise ExchangeError(f"{venue_id} is asked over REST only: remove websocket_url from [venues.{venue_id}]")
    return CcxtExchange(venue_id, settings.rest_url, requests_per_s=settings.requests_per_s)


def _simulated(settings: VenueSettings) -> Exchange:
    from shared.exchanges.simulated import SimulatedExchange

    if settings != VenueSettings():
        raise ExchangeError("the simulated market has no address and no limit: remove its section from [venues]")
    return SimulatedExchange()


def _paper(settings: VenueSettings) -> Exchange:
    from shared.exchanges.paper import PaperExchange

    return PaperExchange(_simulated(settings))


EXCHANGES: dict[str, Callable[[VenueSettings], Exchange]] = {
    "binance": partial(_ccxt, "binance"),
    "bitget": partial(_ccxt, "bitget"),
    "coinbase": partial(_ccxt, "coinbase"),
    "kraken": _kraken,
    "kucoin": partial(_ccxt, "kucoin"),
    "paper": _paper,
    "simulated": _simulated,
}

REFUSED = {
    "bittrex": "Bittrex shut down in December 2023",
    "ftx": "FTX collapsed in November 2022",
    "robinhood": "its crypto API needs a signer of its own, which is not supported yet",
}


def open_exchange(name: str, venues: Mapping[str, VenueSettings] | None = None) -> Exchange:
    """The venue of that name, at the address that ``venues`` (settings.venues) gives it; asks the network nothing.

    ``paper:kraken`` is Kraken's candles with paper fills. A name that is not in EXCHANGES but known to ccxt is opened
    through it. ExchangeError says why a name is none, and lists the choices. Hold one object a process: it is the
    venue's rate limit.
    """
    prefix, colon, source = name.partition(":")
    if colon and prefix == "paper":
        from shared.exchanges.paper import PaperExchange

        return PaperExchange(open_exchange(source, venues))
    settings = (venues or {}).get(name, VenueSettings())
    if name in EXCHANGES:
        return EXCHANGES[name](settings)
    if name in REFUSED:
        raise _no_such(name, REFUSED[name])
    others = _ccxt_ids()
    if name in others:
        return _ccxt(name, settings)
    near = difflib.get_close_matches(name.lower(), [*EXCHANGES, *others], n=1)
    raise _no_such(name, f"did you mean {near[0]}?" if near else "nobody here knows it")


def _no_such(name: str, reason: str) -> ExchangeError:
    choices = ", ".join(sorted(EXCHANGES))
    return ExchangeError(f"no exchange {name!r}: {reason}; choose one of {choices}, or any other id that ccxt knows")


def _ccxt_ids() -> tuple[str, ...]:
    """Every venue of ccxt; none where a layer runs without it."""
    try:
        return tuple(import_module("ccxt").exchanges)
    except ImportError:
        return ()


__all__ = ["EXCHANGES", "REFUSED", "Exchange", "ExchangeError", "open_exchange"]
