"""Charts keep what matters when they thin, and choose their scale by what they show."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from policy import charts
from policy.report_data import Band
from policy.report_drawn import colours_of, equity
from policy.report_palette import COLOURS, NAMES
from shared.performance import DAY_S
from tests.policy.report_world import START
from tests.policy.test_report_parts import REPORT, a_curve


def a_line(growth: float, points: int = 100) -> charts.Line:
    times = START + DAY_S * np.arange(points, dtype=np.int64)
    return charts.Line(times, 100.0 * np.geomspace(1.0, growth, points), "own", own=True)


@given(st.integers(1, 5_000), st.integers(2, 600))
def test_thinning_keeps_the_ends_and_the_limit(length: int, limit: int) -> None:
    at = charts.thin(length, limit)
    assert (at[0], at[-1]) == (0, length - 1)
    assert len(at) <= limit or length <= limit
    assert np.all(np.diff(at) > 0)


@pytest.mark.parametrize(("growth", "logarithmic"), [(1.5, False), (3.9, False), (4.1, True), (0.2, True)])
def test_the_scale_follows_the_range(growth: float, logarithmic: bool) -> None:
    assert charts.is_logarithmic([a_line(growth)]) is logarithmic
    svg = charts.equity_chart([a_line(growth)])
    assert ("×<" in svg) is logarithmic
    assert ("%<" in svg) is not logarithmic


def test_a_band_counts_for_the_scale_and_is_said_in_the_legend() -> None:
    line = a_line(1.5)
    wide = Band("luck", "luck", line.times, 0.2 * np.ones(100), 2.0 * np.ones(100), "−80.0% to +100.0%")
    assert charts.is_logarithmic([line], [wide])
    shown = [(item.mark, item.figure) for item in equity(REPORT).legend]
    assert shown[-1] == ("band", REPORT.bands[-1].said)


def test_a_tenfold_range_has_few_round_ticks() -> None:
    for growth in (5.0, 10.0, 300.0, 100_000.0):
        wide = charts.equity_chart([a_line(growth)]).split("</svg>")[0]
        ticks = re.findall(r">([\d,.e+]+)×<", wide)
        assert 2 <= len(ticks) <= 7, ticks


@given(st.integers(1, 300), st.integers(2, 500))
def test_a_stretch_of_exposure_is_its_mean(length: int, limit: int) -> None:
    weights = np.random.default_rng(length).random((length, 2))
    ends = charts.thin(length, limit)
    stretches = np.split(weights, ends[:-1] + 1)
    assert charts.bucket_means(weights, ends) == pytest.approx(np.array([part.mean(axis=0) for part in stretches]))


@pytest.mark.parametrize("days", [1, 20, 400, 1_900, 3_000])
@pytest.mark.parametrize("limit", [3, 8])
def test_time_ticks_are_few_and_inside(days: int, limit: int) -> None:
    ticks = charts.time_ticks(START, START + days * DAY_S, limit)
    assert 2 <= len(ticks) <= limit
    assert all(START <= at <= START + days * DAY_S for at in ticks)


def test_the_policy_its_baseline_and_buy_and_hold_keep_their_colours() -> None:
    curves = [a_curve(name) for name in ("drl", "buy_and_hold", "vol_target", "trend_vol_target", "cash", "random")]
    assert colours_of(curves) == ["own", "benchmark", "other-0", "baseline", "axis", "other-1"]
    assert colours_of(curves[:1]) == ["own"]


def test_every_colour_has_one_name() -> None:
    assert len(NAMES) == len(COLOURS)
