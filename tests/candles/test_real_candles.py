"""Real candles: the hours made of Binance's 5m candles are Binance's own hours, but for those listed here.

All exceptions lie in Binance's incidents (outages of 2020-12-21 and 2021-12-24, overload of 2021-01-11, 2021-04-22,
2021-04-23 and 2021-12-27): there its 5m candles, as collected then, lack trades that its later 1h candles count. The
derived volume is the smaller one every time; a price differs where the missing trades were the extreme or the last.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from candles.candle_files import read_candle_file
from candles.derive import derive_candles
from candles.quality_checks import compare_timeframes
from shared.clock import from_unix
from shared.rows import Candles

REAL = Path(__file__).parents[2].parent / "shared" / "data"
LONG_AGO = 1_800_000_000  # after all of them

# asset -> hours compared, hours (by close) whose prices differ, hours of which only the volume differs
EXCEPTIONS: dict[str, tuple[int, list[str], list[str]]] = {
    "BTC": (
        35_374,
        ["2020-12-21T14", "2021-01-11T09", "2021-04-23T02", "2021-12-24T05"],
        ["2021-04-22T03", "2021-04-23T03", "2021-12-27T12"],
    ),
    "ETH": (33_645, ["2020-12-21T14", "2021-01-11T09", "2021-04-23T02"], ["2021-04-22T03", "2021-04-23T03"]),
    "SOL": (30_059, ["2021-04-23T02"], ["2020-12-21T14", "2021-01-11T09", "2021-04-22T03", "2021-04-23T03"]),
    "XRP": (31_572, ["2020-12-21T14"], []),
}


def real(asset: str, timeframe: str, timeframe_s: int) -> Candles:
    path = REAL / f"binance_{asset}-USDT_{timeframe}.parquet"
    if not path.exists():
        pytest.skip(f"{path} is not here (development data, not part of the project)")
    return read_candle_file(path, timeframe_s, LONG_AGO).candles


@pytest.mark.parametrize("asset", EXCEPTIONS)
def test_hours_made_of_5m_candles_are_the_venues_own_but_for_the_known_exceptions(asset: str) -> None:
    hours_compared, prices_differ, volume_differs = EXCEPTIONS[asset]
    made, given = derive_candles(real(asset, "5m", 300), 300, 3600), real(asset, "1h", 3600)
    at, mine, theirs = np.intersect1d(made.as_of, given.as_of, return_indices=True)
    assert len(at) == len(made) == hours_compared, "every complete hour of 5m candles is an hour that Binance has"
    made, given = made[mine], given[theirs]
    other_price = np.logical_or.reduce(
        [getattr(made, name) != getattr(given, name) for name in ("open", "high", "low", "close")]
    )
    other_volume = ~np.isclose(made.volume, given.volume, rtol=1e-9, atol=0)
    assert [f"{from_unix(t):%Y-%m-%dT%H}" for t in at[other_price]] == prices_differ
    assert [f"{from_unix(t):%Y-%m-%dT%H}" for t in at[other_volume & ~other_price]] == volume_differs
    assert (made.volume < given.volume)[other_volume].all()
    found = compare_timeframes(made, given, 300, 3600)
    assert (found.prices_differ, found.volumes_differ) == (len(prices_differ), len([*prices_differ, *volume_differs]))
