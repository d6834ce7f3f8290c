"""Fills beside the kernel's prediction, in numbers that a hand can compute."""

from __future__ import annotations

import io
import math
from datetime import timedelta
from decimal import Decimal
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from pipeline import slippage_report
from pipeline.slippage_report import NO_CANDLE, line_of, mean_interval, print_report, report
from shared.job import UsageError
from shared.settings import Settings
from tests.helpers import NOON, DatabaseFor
from tests.policy.paper_world import FIVE, MINUTE, A, PaperMarket, at, candles
from tests.shared.spine_rows import insert

FIVE_MINUTES_OF_A_YEAR = math.sqrt(300 / (365 * 86_400))


@pytest.fixture
def market(database_for: DatabaseFor, settings: Settings) -> PaperMarket:
    return PaperMarket(database_for, settings)


@pytest.fixture
def instrument(market: PaperMarket) -> int:
    """Candles of 11:55, 12:00, … that open at 99, 100, 101, … and close at 104; a volume of 1 each."""
    return market.store(A, FIVE, candles(NOON - 5 * MINUTE, FIVE, [99.0, 100.0, 101.0, 102.0, 103.0], close=104.0))


def report_of(market: PaperMarket, *arguments: Any) -> tuple[list[slippage_report.Line], dict[str, int]]:
    return report(market.database_for("cli"), *arguments)


def test_a_paper_fill_is_off_the_prediction_by_the_rounding_to_the_tick_alone(
    market: PaperMarket, instrument: int
) -> None:
    wallet = market.wallet("w", at("11:00"))
    market.order(wallet, instrument, "buy", "0.25", volatility=0.5)
    market.send(at("12:02"))
    market.send(at("12:20"))
    ((line,), left_out) = report_of(market)
    predicted = 5 + 1e4 * 0.5 * FIVE_MINUTES_OF_A_YEAR * math.sqrt(0.25)
    price = math.ceil(101 * (1 + predicted * 1e-4) * 100) / 100
    assert (line.symbol, line.side, line.fills, left_out) == (A, "buy", 1, {})
    assert line.predicted == line.predicted_median == pytest.approx(predicted, rel=1e-12)
    assert line.realised == line.realised_median == pytest.approx((price / 101 - 1) * 1e4, rel=1e-9)
    assert 0 <= line.difference < 0.01 / 101 * 1e4
    assert line.shortfall == pytest.approx((price / 100 - 1) * 1e4, rel=1e-9)
    assert line.latency_s == 180, "intended at 12:02, filled at the open of 12:05"
    assert (line.low, line.high) == (None, None)


def live_fill(market: PaperMarket, wallet: int, instrument: int, price: str, minute: int, **changes: Any) -> None:
    """A sale of 0.25, as a live venue would tell of it."""
    order = market.order(wallet, instrument, "sell", "0.25", not_before=NOON + minute * MINUTE, price=102.0)
    row = {
        "wallet_id": wallet, "venue_trade_id": f"t{minute}", "order_id": order, "side": "sell", "fee": 0,
        "quantity": Decimal("0.25"), "price": Decimal(price), "cost": Decimal(price) / 4, "fee_asset": "USDT",
        "filled_at": NOON + (minute + 1) * MINUTE, "recorded_at": NOON + timedelta(hours=1),
    }  # fmt: skip
    assert insert(market.database_for("sender").connection, "fills", row | changes) == 1


def test_a_live_fill_is_held_against_the_line_from_its_candles_open_to_its_close(
    market: PaperMarket, instrument: int
) -> None:
    wallet = market.wallet("w", at("11:00"))
    live_fill(market, wallet, instrument, "101.5", 5)  # at 12:06: 101, and a fifth of the way to 104
    ((line,), _) = report_of(market)
    assert line.side == "sell"
    assert line.realised == pytest.approx((1 - 101.5 / 101.6) * 1e4, rel=1e-9), "dear for a seller is cheap"
    assert line.shortfall == pytest.approx((1 - 101.5 / 102) * 1e4, rel=1e-9)
    assert line.predicted == 5, "no volatility: half the spread"
    assert line.difference == pytest.approx(line.realised - 5)
    assert line.latency_s == 60


def test_what_cannot_be_compared_is_left_out_and_counted(market: PaperMarket, instrument: int) -> None:
    wallet, other = market.wallet("w", at("11:00")), market.wallet("other", at("11:00"))
    live_fill(market, wallet, instrument, "101.5", 30)
    live_fill(market, wallet, instrument, "101.5", 4, filled_at=NOON + 5 * MINUTE)
    live_fill(market, other, instrument, "101.4", 5)
    market.database_for("owner").execute(
        "UPDATE orders SET type = 'limit', limit_price = 101 WHERE wallet_id = %(id)s", {"id": other}
    )
    lines, left_out = report_of(market)
    assert ([line.fills for line in lines], left_out) == ([1], {NO_CANDLE: 1, "limit orders": 1})
    assert lines[0].realised == pytest.approx((1 - 101.5 / 101) * 1e4, rel=1e-9), "at a close the next candle is open"
    assert report_of(market, "w")[1] == {NO_CANDLE: 1}
    assert report_of(market, "w", NOON, NOON + 5 * MINUTE) == ([], {})
    assert [line.fills for line in report_of(market, "w", NOON + 5 * MINUTE, NOON + 6 * MINUTE)[0]] == [1]
    with pytest.raises(UsageError, match="there is no wallet 'nobody'"):
        report_of(market, "nobody")


def test_what_a_live_wallet_sends_is_compared(market: PaperMarket, instrument: int) -> None:
    """Its orders are limits that take the book at once (decision_rows.order_terms): the collar rests nowhere."""
    wallet = market.wallet("w", at("11:00"))
    live_fill(market, wallet, instrument, "101.5", 5)
    market.database_for("owner").execute("UPDATE orders SET type = 'limit', time_in_force = 'ioc', limit_price = 101")
    ((line,), left_out) = report_of(market)
    assert (line.fills, line.predicted, left_out) == (1, 5, {})


def comparison(difference: float) -> slippage_report.Comparison:
    return slippage_report.Comparison(A, "buy", 5.0, 5.0 + difference, 0.0, 1.0)


def test_the_interval_is_about_the_mean_difference() -> None:
    differences = np.random.default_rng(3).normal(2.0, 1.0, 400)
    low, high = mean_interval(differences)
    assert low is not None
    assert high is not None
    assert low < float(differences.mean()) < high
    assert high - low == pytest.approx(2 * 1.96 / math.sqrt(400), rel=0.35)
    assert mean_interval(differences[:9]) == (None, None)
    line = line_of(A, "buy", [comparison(d) for d in (1.0, 2.0, 6.0)])
    assert (line.difference, line.predicted_median, line.realised_median) == (3.0, 5.0, 7.0)


def test_the_table_fits_a_hundred_columns_and_the_command_prints_it(
    market: PaperMarket, instrument: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = io.StringIO()
    made = line_of("SIM-LONGNAME/USDT", "sell", [comparison(-34.5)] * 60)
    print_report([made], {NO_CANDLE: 3}, Console(file=text, width=100, highlight=False))
    lines = text.getvalue().splitlines()
    assert max(map(len, lines)) <= 100
    assert "-34.50 … -34.50" in text.getvalue()
    assert lines[-1] == "left out: 3 fills, its candle is not stored"

    monkeypatch.setattr(slippage_report, "load_settings", lambda: market.settings)
    live_fill(market, market.wallet("w", at("11:00")), instrument, "101.5", 5)
    assert slippage_report.main(["--wallet", "w", "--from", "2024-06-01"]) == 0
    assert f"{A}" in capsys.readouterr().out
    assert slippage_report.main(["--to", "2024-06-01"]) == 0
    assert "No fill of an order that takes the book" in capsys.readouterr().out
    assert slippage_report.main(["--wallet", "nobody"]) == 2
    assert "there is no wallet 'nobody'" in capsys.readouterr().err
