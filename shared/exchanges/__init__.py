"""Where candles come from: one file a venue, one line here. A venue's library loads only when it is opened."""

from __future__ import annotations

from collections.abc import Callable

from shared.exchanges.protocol import Exchange, ExchangeError


def _kraken() -> Exchange:
    from shared.exchanges.kraken import KrakenExchange

    return KrakenExchange()


def _simulated() -> Exchange:
    from shared.exchanges.simulated import SimulatedExchange

    return SimulatedExchange()


EXCHANGES: dict[str, Callable[[], Exchange]] = {
    "kraken": _kraken,
    "simulated": _simulated,
}

DEFUNCT = {
    "bittrex": "Bittrex shut down in December 2023",
    "ftx": "FTX collapsed in November 2022",
}


def open_exchange(name: str) -> Exchange:
    """The venue of that name; ExchangeError for one that is unknown or no longer exists. Asks the network nothing."""
    if name in EXCHANGES:
        return EXCHANGES[name]()
    reason = DEFUNCT.get(name.lower(), "it is not in shared/exchanges")
    raise ExchangeError(f"no exchange {name!r}: {reason}; choose one of {', '.join(sorted(EXCHANGES))}")


__all__ = ["DEFUNCT", "EXCHANGES", "Exchange", "ExchangeError", "open_exchange"]
