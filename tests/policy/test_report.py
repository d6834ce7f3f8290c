"""The report says what happened, escapes what it is given, asks for nothing, and is the same bytes each time."""

from __future__ import annotations

import csv
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest

from policy.report import terminal_report, terminal_table, write_page, write_report
from policy.report_data import Notice, Report, SteeringPlot, Table, report_of
from policy.report_page import contents
from policy.result import BacktestResult, Curve
from shared.performance import Summary
from tests.policy.report_world import CAPITAL, fake_result

WORLD = fake_result()


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(WORLD, tmp_path_factory.mktemp("report") / "run.html")


@pytest.fixture(scope="module")
def page(written: Path) -> str:
    return written.read_text("utf-8")


def rows_of(path: Path, name: str) -> list[dict[str, str]]:
    return list(csv.DictReader(path.with_name(f"{path.stem}_{name}.csv").open(encoding="utf-8")))


def page_of(report: Report, folder: Path) -> str:
    return write_page(report, folder / "any.html").read_text("utf-8")


def prose(text: str) -> str:
    """Without line breaks, which depend on the width."""
    return " ".join(text.split())


# In the terminal -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [80, 88])
def test_the_table_fits_its_width_and_puts_the_policy_first(width: int) -> None:
    text = terminal_table(WORLD, width)
    assert max(len(line) for line in text.splitlines()) <= width
    assert "\x1b" not in text
    names = re.findall(r"^(policy|trend|buy and hold|cash)\b.*[%–]", text, flags=re.MULTILINE)
    assert names == ["policy", "trend", "buy and hold", "cash"]
    cash = next(line for line in text.splitlines() if line.startswith("cash"))
    assert cash.split() == ["cash", "0.0%", "–", "0.0%", "0.0%", "–", "0.0×", "0.00", "0"]


def test_two_years_of_months_keep_one_line_a_year() -> None:
    text = terminal_table(fake_result(days=500, base_s=4 * 3600))
    lines = [line for line in text.splitlines() if re.match(r"20\d\d [+-]", line)]
    assert [len(line.split()) for line in lines] == [14, 7]  # year, twelve months, whole; year, January to May, whole


def test_the_table_says_on_what_and_on_which_terms() -> None:
    text = prose(terminal_table(replace(WORLD, in_sample="model 4 knew these days")))
    assert "SIMULATED prices, 2024-01-01 00:00 to 2024-03-01 00:00 UTC, 60 days" in text
    assert "IN-SAMPLE. This result proves nothing: model 4 knew these days" in text
    assert "costs: fee 26 + half-spread 5 bps a side" in text


def test_the_table_says_what_the_page_says() -> None:
    text, shown = terminal_table(WORLD), contents(report_of(WORLD))
    for table in shown["tables"]:
        assert table.title in text
        assert all(row[0] in text for row in table.rows)
    for row in (row for rows in shown["figures"].values() for row in rows):
        assert " ".join(row).replace("−", "-") in prose(text)


def test_an_empty_backtest_still_has_a_table() -> None:
    nothing = Curve("policy", np.empty(0, np.int64), np.empty(0))
    empty = replace(WORLD, curves=[nothing], closes=np.empty((0, 2)), fills=[], decisions=[], closing=[], shifts=None)
    assert "an empty span" in terminal_table(empty)


# What must be known before any figure ----------------------------------------------------------------------------


def test_real_out_of_sample_results_carry_no_warnings(tmp_path: Path) -> None:
    report = replace(report_of(WORLD), provenance="real", notices=())
    html = page_of(report, tmp_path)
    for text in (terminal_report(report), html):
        assert not re.search("SIMULATED|IN-SAMPLE|SUSPECTED|BASELINE WINS", text)
    assert 'class="banner' not in html
    assert "out-of-sample" in html


def test_the_page_warns_in_words_where_a_result_proves_nothing(tmp_path: Path) -> None:
    html = page_of(report_of(replace(WORLD, in_sample="model 4 knew these days")), tmp_path)
    assert html.count('class="banner red"') == 2
    assert "model 4 knew these days" in html
    assert 'class="banner amber"' in html
    assert "out-of-sample" not in html


def test_a_sharpe_ratio_above_two_is_called_a_suspected_bug(tmp_path: Path) -> None:
    own = WORLD.curves[0]
    steady = CAPITAL * np.exp(0.002 * np.arange(len(own.times)) / 24 + 0.001 * np.sin(np.arange(len(own.times))))
    report = report_of(replace(WORLD, curves=[replace(own, equity=steady, marked=None), *WORLD.curves[1:]]))
    assert "SUSPECTED BUG." in page_of(report, tmp_path)
    assert "SUSPECTED BUG." in terminal_report(report)


@pytest.mark.parametrize(("residual", "said"), [(0.0, True), (1.0, False)])
def test_that_the_baseline_won_is_said_plainly(residual: float, said: bool, tmp_path: Path) -> None:
    report = report_of(replace(WORLD, promotion=(4, residual, "baseline wins")))
    for text in (page_of(report, tmp_path), terminal_report(report)):
        assert ("BASELINE WINS." in text) is said
        assert ("its residual is at zero" in prose(text)) is said


def test_emergency_stops_and_the_closing_are_told() -> None:
    text = prose(terminal_table(replace(WORLD, emergency_stops=3)))
    own = WORLD.curves[0]
    assert "Emergency stops: 3" in text
    assert f"{own.equity[-1]:,.2f} is left of {own.last_marked:,.2f} at the last prices" in text
    assert "open at the end" not in terminal_table(replace(WORLD, closing=()))


def test_how_it_stands_among_shifts_or_why_that_is_unknown() -> None:
    assert WORLD.shifts is not None
    told = replace(WORLD, shifts=replace(WORLD.shifts, percentile=0.72))
    assert "above that of 72.0% of 200 random shifts" in prose(terminal_table(told))
    assert "too short for shifts" in terminal_table(replace(WORLD, shifts=None, shifts_refused="too short for shifts"))


# The page --------------------------------------------------------------------------------------------------------


def test_the_page_asks_for_nothing_and_runs_nothing(page: str) -> None:
    assert not re.search(r"https?:|//[a-z]|<script|<link(?! rel=\"icon\" href=\"data:,\")|@import|src=", page)
    assert set(re.findall(r"url\(([^)]{1})", page)) <= {"#"}


def test_the_page_escapes_what_it_is_given(tmp_path: Path) -> None:
    evil = "<img src=x onerror=alert(1)>"
    result = replace(
        WORLD,
        curves=[replace(curve, name=evil) for curve in WORLD.curves],
        symbols=[evil, evil],
        regimes=[evil] * len(WORLD.decisions),
        in_sample=evil,
        provenance=evil,
        terms={evil: evil},
    )
    table, notice = Table(evil, evil, (evil, evil), [(evil, evil)]), Notice("plain", evil, evil)
    report = replace(
        report_of(replace(result, promotion=(1, 0.0, evil))), tables=[table], notices=[notice], against_shifts=evil
    )
    html = page_of(report, tmp_path)
    assert "<img" not in html
    assert "&lt;img" in html


def test_every_chart_comes_for_desk_and_phone_with_its_own_ids(page: str) -> None:
    assert page.count('<svg class="wide"') == page.count('<svg class="narrow"') == 3 + 2
    ids = re.findall(r' id="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r"url\(#([^)]+)\)", page)) | set(re.findall(r'href="#([^"]+)"', page)) <= set(ids)


def test_charts_take_the_colours_of_day_and_night_from_the_page(page: str) -> None:
    drawn = "".join(re.findall(r"<svg.*?</svg>", page, flags=re.DOTALL))
    assert not re.search(r"#[0-9a-f]{6}\b", drawn)
    day, night = (set(re.findall(r"--([\w-]+): #", block)) for block in re.findall(r":root \{(.*?)\}", page, re.DOTALL))
    assert set(re.findall(r"var\(--([\w-]+)\)", page)) - {"gain", "loss"} <= day
    assert day == night


def test_steering_is_drawn_where_it_was_measured(page: str, tmp_path: Path) -> None:
    assert ">Steering<" not in page
    plot = SteeringPlot([(1.0, 0.4), (0.5, 0.6), (4.0, 0.1)], [(0.5, 40.0), (2.0, 20.0)])
    html = page_of(replace(report_of(WORLD), steering=plot), tmp_path)
    assert html.count('<svg class="panel"') == 2
    assert "risk aversion" in html
    assert "turnover penalty" in html


def test_an_evaluation_needs_curves_and_tables_only(tmp_path: Path) -> None:
    table = Table("Folds", "One a year.", ("Fold", "Sharpe"), [("2021", "1.00"), ("2022", "−0.50")])
    report = Report(
        kind="evaluation", lead="Four folds.", curves=WORLD.curves, provenance="real", tables=[table],
        notices=[Notice("plain", "Verdict:", "not worse.")],
    )  # fmt: skip
    html = page_of(report, tmp_path)
    assert "Sextant evaluation" in html
    for absent in ("Prices and trades", "Last fills", "What held it back", "Exposure"):
        assert absent not in re.findall(r"<h[23]>([^<]+)<", html)
    for text in (html, terminal_report(report).replace("-", "−")):
        assert "Folds" in text
        assert "Verdict:" in text
        assert "−0.50" in text


def test_the_same_result_gives_the_same_bytes(tmp_path: Path, page: str) -> None:
    assert write_report(fake_result(), tmp_path / "run.html").read_text("utf-8") == page


def test_small_prices_keep_their_digits(tmp_path: Path) -> None:
    report = replace(report_of(WORLD), closes=WORLD.closes * 1e-7, fills=[], closing=[])
    assert re.search(r">0\.00\d{2,}<", page_of(report, tmp_path))


def test_two_years_stay_small(tmp_path: Path) -> None:
    assert write_report(fake_result(days=730), tmp_path / "run.html").stat().st_size < 1_000_000


def test_one_bar_is_nothing_to_report(tmp_path: Path) -> None:
    short = replace(WORLD, curves=[Curve("policy", WORLD.curves[0].times[:1], np.array([1.0]))])
    with pytest.raises(ValueError, match="longer span"):
        write_report(short, tmp_path / "run.html")


# Beside the page -------------------------------------------------------------------------------------------------


def test_all_fills_are_beside_the_page(written: Path) -> None:
    rows = rows_of(written, "fills")
    assert [float(row["quantity"]) for row in rows] == [abs(f.quantity) for f in (*WORLD.fills, *WORLD.closing)]
    assert {row["side"] for row in rows} == {"buy", "sell"}
    assert sum(int(row["closing"]) for row in rows) == len(WORLD.closing) > 0


def test_all_equity_is_beside_the_page(written: Path) -> None:
    rows = rows_of(written, "equity")
    for curve in WORLD.curves:
        assert [float(row[curve.name]) for row in rows] == curve.equity.tolist()
    assert rows[1]["time"] == "2024-01-01T01:00:00+00:00"


def test_finer_bars_are_written_by_the_hour_with_both_ends(tmp_path: Path) -> None:
    fine = fake_result(days=1, base_s=1_200, shifts=False)
    own = fine.curves[0]
    cut = [replace(curve, times=curve.times[1:-1], equity=curve.equity[1:-1]) for curve in fine.curves]
    path = write_page(replace(report_of(fine), curves=cut, fills=(), closes=fine.closes[1:-1]), tmp_path / "run.html")
    rows = rows_of(path, "equity")
    assert [row["time"][11:16] for row in rows] == ["00:20", *(f"{h:02}:00" for h in range(1, 24)), "23:40"]
    assert [float(row["policy"]) for row in rows[1:-1]] == own.equity[3:-1:3].tolist()


def test_a_curve_that_ends_early_leaves_blanks(tmp_path: Path) -> None:
    short = replace(WORLD.curves[-1], times=WORLD.curves[-1].times[:-5], equity=WORLD.curves[-1].equity[:-5])
    path = write_page(replace(report_of(WORLD), curves=[*WORLD.curves[:-1], short]), tmp_path / "run.html")
    assert [row["cash"] for row in rows_of(path, "equity")][-6:] == ["10000.0", *[""] * 5]


def test_months_beside_the_page_compound_to_each_curves_return(written: Path) -> None:
    gains = rows_of(written, "months")
    for curve in WORLD.curves:
        whole = np.prod([1.0 + float(row["return"]) for row in gains if row["strategy"] == curve.name])
        assert whole == pytest.approx(curve.equity[-1] / curve.equity[0])


def test_every_metric_of_every_strategy_is_beside_the_page(written: Path) -> None:
    found = {row["figure"]: row for row in rows_of(written, "metrics")}
    assert found.keys() >= {field.name for field in fields(Summary)} - {"regression"} | {"alpha", "beta"}
    own, cash = WORLD.curves[0], found["total_return"]["cash"]
    assert float(found["total_return"]["policy"]) == pytest.approx(own.equity[-1] / own.equity[0] - 1.0)
    assert float(cash) == 0.0
    assert found["sharpe"]["cash"] == ""


def test_nothing_that_draws_is_imported_before_it_draws() -> None:
    heavy = "{'matplotlib', 'jinja2', 'rich', 'numba', 'torch', 'scipy'}"
    check = f"import sys, policy.report; print(*({heavy} & set(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == ""


@pytest.fixture(autouse=True, scope="module")
def the_world_stays_as_it_is() -> Iterator[None]:
    before: BacktestResult = fake_result()
    yield
    assert all(np.array_equal(a.equity, b.equity) for a, b in zip(before.curves, WORLD.curves, strict=True))
