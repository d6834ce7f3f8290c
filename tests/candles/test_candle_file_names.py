"""The name of a candle file, or the arguments, say whose candles it holds."""

from __future__ import annotations

from pathlib import Path

import pytest

from candles.candle_files import FileRefused, Series, parse_timeframe, series_from_name


@pytest.mark.parametrize(
    ("name", "series"),
    [
        ("binance_BTC-USDT_5m.parquet", Series("binance", "BTC/USDT", 300)),
        ("binanceusdm_ETH-USDT_1h.csv.gz", Series("binanceusdm", "ETH/USDT", 3600)),
        ("simulated_SIM-A-USD_1d.csv", Series("simulated", "SIM-A/USD", 86400)),
        ("XBTUSD_60.csv", Series("kraken", "BTC/USD", 3600)),
        ("XBTUSD_60.csv.gz", Series("kraken", "BTC/USD", 3600)),
        ("XDGEUR_1440.csv", Series("kraken", "DOGE/EUR", 86400)),
        ("ETHXBT_1.csv", Series("kraken", "ETH/BTC", 60)),
        ("DOTUSD_30.csv", Series("kraken", "DOT/USD", 1800)),
        ("XBTUSDT_5.csv", Series("kraken", "BTC/USDT", 300)),
        ("USDTUSD_15.csv", Series("kraken", "USDT/USD", 900)),
        ("USDCUSDT_240.csv", Series("kraken", "USDC/USDT", 14400)),
        *[
            (f"SOL{q}_720.csv", Series("kraken", f"SOL/{q}", 43200))
            for q in ("USD", "USDT", "USDC", "EUR", "GBP", "BTC", "ETH", "CAD", "JPY", "CHF", "AUD")
        ],
    ],
)
def test_a_name_says_whose_candles_they_are(name: str, series: Series) -> None:
    assert series_from_name(Path("/somewhere") / name, None, None, None) == series


def test_arguments_speak_before_the_name() -> None:
    path = Path("binance_BTC-USDT_5m.csv")
    assert series_from_name(path, "Kraken", "xbt/usd", "1h") == Series("kraken", "BTC/USD", 3600)
    assert series_from_name(path, None, None, "60") == Series("binance", "BTC/USDT", 60)
    assert series_from_name(Path("data.csv"), "x", "A/B", "4h") == Series("x", "A/B", 14400)
    assert series_from_name(Path("BTC-USDT_5m.csv"), "x", None, None) == Series("x", "BTC/USDT", 300)


@pytest.mark.parametrize(
    ("name", "arguments", "missing"),
    [
        ("data.csv", (None, None, None), "--venue kraken --symbol BTC/USD --timeframe 1h"),
        ("data.csv", ("kraken", None, "1h"), "--symbol BTC/USD,"),
        ("BTC-USDT_5m.csv", (None, None, None), "--venue kraken,"),
        ("XBTUSD_2024.csv", (None, None, None), "--timeframe"),
        ("USD_60.csv", (None, None, None), "--symbol"),
        ("XBTSEK_60.csv", (None, None, None), "--symbol"),
    ],
)
def test_a_name_that_says_nothing_is_asked_for_what_is_missing(
    name: str, arguments: tuple[str | None, str | None, str | None], missing: str
) -> None:
    with pytest.raises(FileRefused) as refused:
        series_from_name(Path(name), *arguments)
    assert missing in str(refused.value)
    assert name in str(refused.value)


@pytest.mark.parametrize("symbol", ["BTCUSD", "BTC/", "/USD", "BTC-USD"])
def test_a_symbol_is_base_and_quote(symbol: str) -> None:
    with pytest.raises(FileRefused, match="BASE/QUOTE"):
        series_from_name(Path("XBTUSD_60.csv"), None, symbol, None)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("1m", 60), ("5m", 300), ("1h", 3600), ("4h", 14400), ("1d", 86400), ("30s", 30), ("3600", 3600)],
)
def test_a_timeframe_is_read(text: str, seconds: int) -> None:
    assert parse_timeframe(text) == seconds


@pytest.mark.parametrize("text", ["", "0", "0m", "-5m", "5M", "1w", "h", "1.5h", "５m", "1h30m"])
def test_a_timeframe_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(FileRefused, match="5m, 1h, 4h, 1d"):
        parse_timeframe(text)
