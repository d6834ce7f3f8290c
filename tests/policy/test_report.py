"""The report says what happened, escapes what it is given, asks for nothing, and is the same bytes each time."""

from __future__ import annotations

import csv
import re
import subprocess
import sys
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest

from policy.decision_path import Decision
from policy.execution.plan import Plan
from policy.report import terminal_table, write_report
from policy.report_page import clamp_rows, contents, held_weights
from policy.result import BacktestResult, Curve
from policy.risk.context import Clamp
from policy.simulator import SimulatedFill
from shared.clock import from_unix
from shared.rows import FloatArray
from shared.simulation import kernel

START = 1_782_864_000  # 2026-07-01 00:00 UTC
BASE_S, HOUR_S, DAY_S = 300, 3_600, 86_400
CAPITAL = 10_000.0


def fake_prices(bars: int) -> FloatArray:
    rng = np.random.default_rng(11)
    common = rng.normal(0, 0.0011, (bars, 1))
    steps = common + rng.normal(0.00001, 0.0009, (bars, 2))
    return np.round(np.array([64_000.0, 3_100.0]) * np.exp(np.cumsum(steps, axis=0)), 2)


def fake_wanted(closes: FloatArray, bar: int) -> FloatArray:
    """A slow trend rule: nothing profound, but weights that move as real ones do."""
    past = closes[max(bar - 576, 0)]
    return np.clip(0.35 + 9.0 * (closes[bar] / past - 1.0), 0.0, 0.62)


def fake_decision(wanted: FloatArray) -> Decision:
    """At most half in one instrument and nine tenths in all, as the rules would say it."""
    allowed = np.minimum(wanted, 0.5)
    clamps = [
        [Clamp("max_position", w, 0.5, "a position may be at most 0.5 of equity")] if w > 0.5 else []
        for w in wanted.tolist()
    ]
    if allowed.sum() > 0.9:
        before, allowed = allowed, allowed * 0.9 / allowed.sum()
        for n, of_one in enumerate(clamps):
            of_one.append(Clamp("max_exposure", before[n], allowed[n], "exposure may be at most 0.9 of equity"))
    return Decision(wanted, allowed, clamps, Plan(np.zeros(2), ["already there"] * 2), "policy", None)


def fake_result(days: int = 3, provenance: str = "simulated", in_sample: str = "") -> BacktestResult:
    """A small market traded by the kernel's own arithmetic, one decision an hour."""
    bars = days * DAY_S // BASE_S
    times = START + BASE_S * (1 + np.arange(bars, dtype=np.int64))
    closes = fake_prices(bars)
    cash, held, equity = CAPITAL, np.zeros(2), np.zeros(bars)
    orders, decisions, fills = np.zeros(2), [], []
    for bar in range(bars):
        for n in np.flatnonzero(orders):
            quantity, price, cost, fee = kernel.market_fill(
                orders[n], cash, held[n], closes[max(bar - 1, 0), n], 5.0, 26.0, 0.01, 1e-5
            )
            cash, held[n] = kernel.cash_after(cash, quantity, cost, fee), kernel.round_money(held[n] + quantity)
            fills.append(SimulatedFill(int(times[bar]) - BASE_S, int(n), quantity, price, cost, fee))
        orders = np.zeros(2)
        equity[bar] = kernel.equity(cash, held, closes[bar])
        if (bar + 1) % (HOUR_S // BASE_S) == 0:
            decision = fake_decision(fake_wanted(closes, bar))
            decisions.append(decision)
            change = decision.allowed - held * closes[bar] / equity[bar]
            orders = np.where(np.abs(change) > 0.12, np.round(change * equity[bar] / closes[bar], 5), 0.0)
    held_from_start = CAPITAL * (closes / closes[0]).mean(axis=1)
    return BacktestResult(
        curves=[
            Curve("policy", times, equity, sum(f.fee for f in fills), sum(f.cost for f in fills), len(fills)),
            Curve("trend × volatility target", times, CAPITAL + 0.6 * (equity - CAPITAL), 21.5, 9_000.0, 31),
            Curve("buy and hold", times, held_from_start, 26.0, CAPITAL, 2),
            Curve("cash", times, np.full(bars, CAPITAL)),
        ],
        symbols=["SIM-BTC/USDT", "SIM-ETH/USDT"],
        closes=closes,
        decision_times=[from_unix(START + HOUR_S * (1 + n)) for n in range(len(decisions))],
        decisions=decisions,
        fills=fills,
        provenance=provenance,
        in_sample=in_sample,
        terms={
            "span": f"{from_unix(START):%Y-%m-%d %H:%M} to {from_unix(START) + timedelta(days):%Y-%m-%d %H:%M} UTC",
            "capital": "10,000.00 USDT",
            "portfolio": "SIM-BTC/USDT, SIM-ETH/USDT on simulated",
            "costs": "fee 26 + slippage 5 bps a side",
            "fills": "open of the first 300 s candle 120 s or more after the decision",
            "limits": "operator",
            "config": "recorded, track rules",
            "models": "policy 4 on encoder 3",
        },
    )


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_report(fake_result(), tmp_path_factory.mktemp("report") / "run.html").read_text("utf-8")


@pytest.mark.parametrize("width", [80, 100])
def test_the_table_fits_its_width_and_puts_the_policy_first(width: int) -> None:
    text = terminal_table(fake_result(), width)
    assert max(len(line) for line in text.splitlines()) <= width
    assert "\x1b" not in text
    names = re.findall(r"^(policy|trend|buy and hold|cash)\b", text, flags=re.MULTILINE)
    assert names == ["policy", "trend", "buy and hold", "cash"]
    cash = next(line for line in text.splitlines() if line.startswith("cash"))
    assert cash.split() == ["cash", "0.0%", "–", "–", "0.0%", "0.00", "0.00", "0"]


def test_the_table_says_on_what_and_on_which_terms() -> None:
    text = terminal_table(fake_result(in_sample="model 4 knew these days"))
    assert "SIMULATED prices, 2026-07-01 00:05 to 2026-07-04 00:00 UTC, 3 days" in text
    assert "IN-SAMPLE, proves nothing: model 4 knew these days" in text
    assert "costs: fee 26 + slippage 5 bps a side" in text


def test_real_out_of_sample_results_carry_no_warnings(tmp_path: Path) -> None:
    result = fake_result(provenance="real")
    html = write_report(result, tmp_path / "run.html").read_text("utf-8")
    for text in (terminal_table(result), html):
        assert "SIMULATED" not in text
        assert "IN-SAMPLE" not in text
    assert "out-of-sample" in html


def test_an_empty_backtest_still_has_a_table() -> None:
    nothing = Curve("policy", np.empty(0, np.int64), np.empty(0))
    empty = replace(fake_result(), curves=[nothing], closes=np.empty((0, 2)), fills=[], decisions=[])
    assert "an empty span" in terminal_table(empty)


def test_the_page_warns_in_words_where_a_result_proves_nothing(tmp_path: Path) -> None:
    html = write_report(fake_result(in_sample="model 4 knew these days"), tmp_path / "run.html").read_text("utf-8")
    assert html.count('class="banner red"') == 2
    assert "model 4 knew these days" in html
    assert 'class="banner amber"' in html
    assert "out-of-sample" not in html


def test_the_page_asks_for_nothing_and_runs_nothing(page: str) -> None:
    assert not re.search(r"https?:|//[a-z]|<script|<link(?! rel=\"icon\" href=\"data:,\")|@import|src=", page)
    assert set(re.findall(r"url\(([^)]{1})", page)) <= {"#"}


def test_the_page_escapes_what_it_is_given(tmp_path: Path) -> None:
    evil = "<img src=x onerror=alert(1)>"
    result = fake_result(in_sample=evil)
    result = replace(
        result,
        curves=[replace(curve, name=evil) for curve in result.curves],
        symbols=[evil, evil],
        provenance=evil,
        terms={evil: evil},
    )
    html = write_report(result, tmp_path / "run.html").read_text("utf-8")
    assert "<img" not in html
    assert "&lt;img" in html


def test_every_chart_comes_for_desk_and_phone_with_its_own_ids(page: str) -> None:
    assert page.count('<svg class="wide"') == page.count('<svg class="narrow"') == 3 + 2
    ids = re.findall(r' id="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r"url\(#([^)]+)\)", page)) | set(re.findall(r'href="#([^"]+)"', page)) <= set(ids)


def test_the_same_result_gives_the_same_bytes(tmp_path: Path, page: str) -> None:
    assert write_report(fake_result(), tmp_path / "run.html").read_text("utf-8") == page


def test_small_prices_keep_their_digits(tmp_path: Path) -> None:
    result = fake_result()
    html = write_report(replace(result, closes=result.closes * 1e-7, fills=[]), tmp_path / "run.html").read_text(
        "utf-8"
    )
    assert re.search(r">0\.00\d{2,}<", html)


def test_a_month_of_five_minutes_stays_small(tmp_path: Path) -> None:
    assert write_report(fake_result(days=30), tmp_path / "run.html").stat().st_size < 1_500_000


def test_fills_and_equity_are_beside_the_page(tmp_path: Path) -> None:
    result = fake_result()
    write_report(result, tmp_path / "deep" / "run.html")
    fills = list(csv.DictReader((tmp_path / "deep" / "run_fills.csv").open(encoding="utf-8")))
    assert [float(row["quantity"]) for row in fills] == [abs(f.quantity) for f in result.fills]
    assert {row["side"] for row in fills} <= {"buy", "sell"}
    equity = list(csv.DictReader((tmp_path / "deep" / "run_equity.csv").open(encoding="utf-8")))
    assert [float(row["policy"]) for row in equity] == result.curves[0].equity.tolist()
    assert equity[0]["time"] == "2026-07-01T00:05:00+00:00"


def test_held_weights_are_the_books_own() -> None:
    result = fake_result(days=8)
    weights, own = held_weights(result), result.curves[0]
    cash, held = CAPITAL, np.zeros(2)
    fills = iter([*result.fills, SimulatedFill(int(own.times[-1]) + 1, 0, 0, 0, 0, 0)])
    fill = next(fills)
    for bar, closed_at in enumerate(own.times):
        while fill.filled_at < closed_at:
            cash = kernel.cash_after(cash, fill.quantity, fill.cost, fill.fee)
            held[fill.instrument] += fill.quantity
            fill = next(fills)
        assert weights[bar] == pytest.approx(held * result.closes[bar] / own.equity[bar], abs=1e-7)
        assert weights[bar].sum() == pytest.approx(1.0 - cash / own.equity[bar], abs=1e-7)


def test_a_missing_close_is_the_last_before_it() -> None:
    times = START + BASE_S * np.arange(1, 5, dtype=np.int64)
    result = replace(
        fake_result(),
        curves=[Curve("policy", times, np.full(4, 100.0))],
        closes=np.array([[np.nan, 5.0], [10.0, np.nan], [np.nan, np.nan], [20.0, 5.0]]),
        fills=[SimulatedFill(START + BASE_S, 0, 2.0, 10.0, 20.0, 0.0)],
    )
    assert held_weights(result)[:, 0].tolist() == pytest.approx([0.0, 0.2, 0.2, 0.4])


def test_a_decision_counts_once_a_rule_however_many_weights_it_cut() -> None:
    def decision(*clamps: list[Clamp]) -> Decision:
        return Decision(np.zeros(2), np.zeros(2), list(clamps), Plan(np.zeros(2), ["", ""]), "policy", None)

    cap = [Clamp("max_position", 0.6, 0.5, "first"), Clamp("pause", 0.5, 0.0, "paused")]
    rows = clamp_rows([decision(cap, [Clamp("max_position", 0.8, 0.5, "last")]), decision([], []), decision([], cap)])
    assert [(r.rule, r.decisions, r.share, r.mean_cut) for r in rows] == [
        ("max_position", "2", "66.7%", "16.7"),
        ("pause", "2", "66.7%", "50.0"),
    ]
    assert rows[0].latest == "first"
    assert clamp_rows([]) == []


def test_the_reader_is_told_how_little_a_short_span_says() -> None:
    shown = contents(fake_result(days=30))
    assert shown["doubt"]["days"] == "29"
    assert "days to stand two of them above zero" in shown["doubt"]["needed"]
    assert contents(fake_result(days=1))["doubt"] is None


def test_a_return_a_year_is_shown_only_for_a_year() -> None:
    result = fake_result()
    assert "Return a year" not in contents(result)["headings"]
    times = START + (result.curves[0].times - START) * 200
    year = replace(result, curves=[replace(curve, times=times) for curve in result.curves], fills=[])
    assert "Return a year" in contents(year)["headings"]


def test_one_bar_is_nothing_to_report(tmp_path: Path) -> None:
    result = fake_result()
    short = replace(result, curves=[Curve("policy", result.curves[0].times[:1], np.array([1.0]))])
    with pytest.raises(ValueError, match="longer span"):
        write_report(short, tmp_path / "run.html")


def test_nothing_that_draws_is_imported_before_it_draws() -> None:
    check = "import sys, policy.report; print(*({'matplotlib', 'jinja2', 'rich', 'numba', 'torch'} & set(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == ""
