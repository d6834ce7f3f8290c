"""An emulator for each test, on a clock that stands still."""

from __future__ import annotations

from collections.abc import Iterator

import krakenex
import pytest

from tests.exchange_emulator.server import Emulator

SYMBOLS = ("BTC/USD", "ETH/USD", "SOL/USD", "BTC/USDT")


@pytest.fixture
def emulator() -> Iterator[Emulator]:
    with Emulator(SYMBOLS) as running:
        yield running


@pytest.fixture
def kraken(emulator: Emulator) -> Iterator[krakenex.API]:
    """krakenex as it comes; only its address is set."""
    api = krakenex.API()
    api.uri = emulator.rest_url
    yield api
    api.close()
