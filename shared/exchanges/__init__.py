"""Where candles come from: one file a venue, one line here. A venue's library loads only when it is opened."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from functools import partial
from importlib import import_module
from pathlib import Path

from shared.exchanges.protocol import Exchange, ExchangeError
from shared.settings import VenueSettings


def _kraken(settings: VenueSettings, home: Path | None) -> Exchange:
    from shared.exchanges.kraken import KrakenExchange, require_one_market

    require_one_market(settings.rest_url, settings.websocket_url)
    return KrakenExchange(settings.rest_url, settings.websocket_url, requests_per_s=settings.requests_per_s, home=home)


def _ccxt(venue_id: str, settings: VenueSettings, home: Path | None) -> Exchange:
    from shared.exchanges.ccxt_venue import CcxtExchange

    if settings.websocket_url is not None:
        raise ExchangeError(f"{venue_id} is asked over REST only: remove websocket_url from [venues.{venue_id}]")
    return CcxtExchange(venue_id, settings.rest_url, requests_per_s=settings.requests_per_s, home=home)


def _simulated(settings: VenueSettings, _home: Path | None) -> Exchange:
    from shared.exchanges.simulated import SimulatedExchange

    if settings != VenueSettings():
        raise ExchangeError("the simulated market has no address and no limit: remove its section from [venues]")
    return SimulatedExchange()


def _paper(settings: VenueSettings, home: Path | None) -> Exchange:
    from shared.exchanges.paper import PaperExchange

    return PaperExchange(_simulated(settings, home))


EXCHANGES: dict[str, Callable[[VenueSettings, Path | None], Exchange]] = {
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


def open_exchange(name: str, venues: Mapping[str, VenueSettings] | None = None, home: Path | None = None) -> Exchange:
    """The venue of that name, at the address that ``venues`` (settings.venues) gives it; asks the network nothing.

    ``paper:kraken`` is Kraken's candles with paper fills. A name that is not in EXCHANGES but known to ccxt is opened
    through it. ExchangeError says why a name is none, and lists the choices; a section of ``venues`` that is no
    venue's is an error too. All processes that give the same ``home`` (settings.home_path) keep the venue's rate limit
    together; without one it is the object's own, so hold one object a process.
    """
    venues = venues or {}
    for section in sorted(venues.keys() - EXCHANGES.keys()):
        if section not in _ccxt_ids():
            raise ExchangeError(f"[venues.{section}] is the section of no exchange: {_why_none(section)}")
    prefix, colon, source = name.partition(":")
    if colon and prefix == "paper":
        from shared.exchanges.paper import PaperExchange

        return PaperExchange(open_exchange(source, venues, home))
    settings = venues.get(name, VenueSettings())
    if name in EXCHANGES:
        return EXCHANGES[name](settings, home)
    if name not in REFUSED and name in _ccxt_ids():
        return _ccxt(name, settings, home)
    choices = ", ".join(sorted(EXCHANGES))
    message = f"no exchange {name!r}: {_why_none(name)}; choose one of {choices}, or any other id that ccxt knows"
    raise ExchangeError(message)


def _why_none(name: str) -> str:
    if name in REFUSED:
        return REFUSED[name]
    near = difflib.get_close_matches(name.lower(), [*EXCHANGES, *_ccxt_ids()], n=1)
    return f"did you mean {near[0]}?" if near else "nobody here knows it"


def _ccxt_ids() -> tuple[str, ...]:
    """Every venue of ccxt; none where a layer runs without it."""
    try:
        return tuple(import_module("ccxt").exchanges)
    except ImportError:
        return ()


__all__ = ["EXCHANGES", "REFUSED", "Exchange", "ExchangeError", "open_exchange"]
