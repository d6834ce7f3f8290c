"""The parts of a report add up to the whole: months, weights, symbols, regimes; and limits count once."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from policy.report_bands import luck_band, luck_band_of
from policy.report_data import report_of
from policy.report_figures import FIGURES, baseline_index, benchmark_index, compared, figure_rows, summary_of
from policy.report_page import month_rows
from policy.report_parts import clamp_rows, doubt, held_weights, months, regime_table, symbol_table, year_table
from policy.report_words import amount, length, listed, percent, signed
from policy.result import Curve
from policy.risk.context import Clamp
from policy.simulator import SimulatedFill
from shared.performance import DAY_S, daily_equity
from tests.policy.report_world import CAPITAL, HOUR_S, START, fake_result, made

WORLD = fake_result()
REPORT = report_of(WORLD)


def a_curve(name: str, days: int = 10) -> Curve:
    return Curve(name, START + DAY_S * np.arange(days + 1, dtype=np.int64), np.linspace(100.0, 110.0, days + 1))


def number(text: str) -> float:
    return float(text.replace("−", "-").replace(",", "").rstrip("%"))


# Which curve is which --------------------------------------------------------------------------------------------


def test_roles_are_found_by_name_whatever_the_order() -> None:
    names = ("drl", "rebalanced_hold", "cash", "buy_and_hold", "trend_vol_target")
    curves = [a_curve(name) for name in names]
    assert (benchmark_index(curves), baseline_index(curves)) == (3, 4)
    assert compared(curves) == [0, 4, 3]
    assert compared(curves[:1]) == [0]


def test_there_are_more_than_twenty_figures_and_none_is_a_constant() -> None:
    names = [name for group in FIGURES.values() for name, _ in group]
    assert len(names) >= 20
    weights = held_weights(REPORT)
    rows = [row for group in figure_rows([summary_of(REPORT, n, weights) for n in (0, 2)]).values() for row in group]
    assert len(rows) == len(names)
    undefined = {row[0] for row in rows if row[1] == "–"}
    assert undefined <= {"Return a year"} | ({"Days to show Sharpe > 0"} if summary_of(REPORT, 0).sharpe < 0 else set())


def test_a_return_a_year_is_shown_only_for_a_year() -> None:
    def shown(days: int) -> str:
        report = replace(REPORT, curves=[a_curve("policy", days)], fills=(), closing=())
        return figure_rows([summary_of(report, 0)])["Return"][1][1]

    assert shown(364) == "–"
    assert shown(365) == "+10.0%"


# By month --------------------------------------------------------------------------------------------------------


@given(st.lists(st.floats(-0.5, 1.0), min_size=1, max_size=150), st.integers(0, 40 * DAY_S), st.integers(1, 3 * DAY_S))
def test_months_compound_to_the_whole(steps: list[float], start: int, step_s: int) -> None:
    equity = 100.0 * np.cumprod(1.0 + np.array([0.0, *steps]))
    times = START + start + step_s * np.arange(len(equity), dtype=np.int64)
    found = months(times, equity)
    assert math.prod(1.0 + month.gained for month in found) == pytest.approx(equity[-1] / equity[0])
    numbers = [12 * month.year + month.month for month in found]
    assert numbers == list(range(numbers[0], numbers[0] + len(found)))


def test_a_month_ends_at_the_first_moment_of_the_next() -> None:
    times = START + DAY_S * np.array([0, 30, 31, 32], dtype=np.int64)  # 1 and 31 January, 1 and 2 February
    found = months(times, np.array([100.0, 100.0, 110.0, 99.0]))
    assert [(m.year, m.month, round(m.gained, 9)) for m in found] == [(2024, 1, 0.1), (2024, 2, -0.1)]


def test_the_deeper_the_month_the_deeper_the_colour() -> None:
    times = START + DAY_S * np.array([0, 31, 60, 91, 121, 152], dtype=np.int64)
    growth = np.cumprod([100.0, 1.001, 0.99, 1.06, 0.75, 2.5])
    report = replace(REPORT, curves=[Curve("policy", times, growth)])
    (row,) = month_rows(report)
    assert [(cell.text, cell.heat) for cell in row.cells[:6]] == [
        ("+0.1", ""), ("−1.0", "down1"), ("+6.0", "up3"), ("−25.0", "down5"), ("+150", "up5"), ("", ""),
    ]  # fmt: skip


# By year, regime, symbol -----------------------------------------------------------------------------------------


def test_years_are_shown_where_there_is_more_than_one() -> None:
    assert year_table(REPORT) is None
    table = year_table(replace(REPORT, curves=[a_curve("policy", 500), a_curve("trend", 500)]))
    assert table is not None
    assert [row[:2] for row in table.rows] == [["2024", "366"], ["2025", "134"]]
    assert "trend" in table.note


def test_a_day_counts_to_the_regime_known_as_it_began() -> None:
    times = START + DAY_S * np.arange(5, dtype=np.int64)
    curve = Curve("policy", times, np.array([100.0, 110.0, 99.0, 99.0, 198.0]))
    decided = [WORLD.decision_times[0].fromtimestamp(START + h * HOUR_S, WORLD.decision_times[0].tzinfo)
               for h in (24, 30, 47, 48, 72)]  # fmt: skip
    report = replace(
        REPORT, curves=[curve], decision_times=decided, regimes=["bear", "bull", "bull", "", "volatile"], symbols=()
    )
    table = regime_table(report)
    assert table is not None
    assert [row[:4] for row in table.rows] == [
        ["bear", "20.0%", "1", "−10.0%"],
        ["volatile", "20.0%", "1", "+100.0%"],
        ["unknown", "20.0%", "2", "+10.0%"],  # before the first decision, and where no regime was known
    ]


def test_regimes_hold_each_day_once_and_compound_to_the_whole() -> None:
    table = regime_table(REPORT)
    assert table is not None
    _, daily = daily_equity(WORLD.curves[0].times, WORLD.curves[0].equity)
    assert sum(int(row[2]) for row in table.rows) == len(daily) - 1
    whole = math.prod(1.0 + number(row[3]) / 100.0 for row in table.rows)
    assert whole == pytest.approx(daily[-1] / daily[0], abs=3e-3)
    assert regime_table(replace(REPORT, regimes=())) is None


def test_what_the_symbols_added_sums_to_the_gain() -> None:
    table = symbol_table(REPORT)
    assert table is not None
    own = WORLD.curves[0]
    *parts, total = table.rows
    assert total[0] == "Sum"
    assert number(total[1]) == pytest.approx(own.equity[-1] - CAPITAL, abs=1.0)
    assert sum(number(row[1]) for row in parts) == pytest.approx(number(total[1]), abs=1.5)
    assert number(total[2]) == pytest.approx(own.fees, abs=1.0)
    assert symbol_table(replace(REPORT, fills=())) is None


# What was held, and what held it back ----------------------------------------------------------------------------


def test_held_weights_are_the_books_own() -> None:
    weights, own = held_weights(REPORT), WORLD.curves[0]
    cash, held = CAPITAL, np.zeros(2)
    fills = list(WORLD.fills)
    for bar in range(1, len(own.times) - 1):  # at the last one everything is sold
        while fills and fills[0].filled_at < own.times[bar]:
            fill = fills.pop(0)
            cash -= np.sign(fill.quantity) * fill.cost + fill.fee
            held[fill.instrument] += fill.quantity
        assert weights[bar] == pytest.approx(held * WORLD.closes[bar] / own.equity[bar], abs=1e-7)
        assert weights[bar].sum() == pytest.approx(1.0 - cash / own.equity[bar], abs=1e-7)
    assert weights.max() > 0.1


def test_a_missing_close_is_the_last_before_it() -> None:
    times = START + HOUR_S * np.arange(1, 5, dtype=np.int64)
    report = replace(
        REPORT,
        curves=[Curve("policy", times, np.full(4, 100.0))],
        closes=np.array([[np.nan, 5.0], [10.0, np.nan], [np.nan, np.nan], [20.0, 5.0]]),
        fills=[SimulatedFill(START + HOUR_S, 0, 2.0, 10.0, 20.0, 0.0)],
    )
    assert held_weights(report)[:, 0].tolist() == pytest.approx([0.0, 0.2, 0.2, 0.4])


def test_a_decision_counts_once_a_rule_however_many_weights_it_cut() -> None:
    cap = [Clamp("max_position", 0.6, 0.5, "first"), Clamp("pause", 0.5, 0.0, "paused")]
    clamps = ([cap, [Clamp("max_position", 0.8, 0.5, "last")]], [[], []], [[], cap])
    rows = clamp_rows([made(np.zeros(2), np.zeros(2), of_one) for of_one in clamps])
    assert [(r.rule, r.decisions, r.share, r.mean_cut) for r in rows] == [
        ("max_position", "2", "66.7%", "16.7"),
        ("pause", "2", "66.7%", "50.0"),
    ]
    assert rows[0].latest == "first"
    assert clamp_rows([]) == []


# What to doubt ---------------------------------------------------------------------------------------------------


def test_the_reader_is_told_how_little_a_short_span_says() -> None:
    times = START + DAY_S * np.arange(31, dtype=np.int64)
    equity = 100.0 * np.cumprod(1.0 + np.where(np.arange(31) % 2, 0.011, -0.010))
    told = doubt(summary_of(replace(REPORT, curves=[Curve("policy", times, equity)], fills=()), 0))
    assert told is not None
    assert told["days"] == "30"
    assert "to stand two of them above zero" in told["needed"]
    assert doubt(summary_of(report_of(fake_result(days=1, shifts=False)), 0)) is None


# The band of luck ------------------------------------------------------------------------------------------------


def test_the_band_holds_the_middle_nine_tenths_of_what_luck_would_make() -> None:
    rng = np.random.default_rng(3)
    returns = 0.001 + 0.02 * rng.standard_normal(400)
    band = luck_band(START, returns)
    assert band is not None
    assert band.times.tolist() == (START + DAY_S * np.arange(401)).tolist()
    assert (band.low[0], band.high[0]) == (1.0, 1.0)
    spread = float(returns.std()) * 400**0.5 * 1.645
    middle = float(np.log1p(returns).sum())
    assert np.log(band.low[-1]) == pytest.approx(middle - spread, abs=0.12)
    assert np.log(band.high[-1]) == pytest.approx(middle + spread, abs=0.12)
    again = luck_band(START, returns)
    assert again is not None
    assert np.array_equal(again.high, band.high)


def test_too_few_days_have_no_band() -> None:
    assert luck_band_of(START + DAY_S * np.arange(30, dtype=np.int64), np.linspace(100.0, 120.0, 30)) is None


# Words -----------------------------------------------------------------------------------------------------------


def test_numbers_are_written_as_a_reader_expects() -> None:
    assert [signed(x) for x in (0.123, -0.04, 0.0, -0.00001, None)] == ["+12.3%", "−4.0%", "0.0%", "0.0%", "–"]
    assert percent(12.5) == "1,250%"
    assert [amount(x) for x in (999.994, 1_234.56, -5_000.0)] == ["999.99", "1,235", "−5,000"]
    assert listed(["A", "B", "C", "D", "E"]) == "A, B, C and 2 more"
    assert length(np.array([0, 27_000])) == "7.5 hours"
