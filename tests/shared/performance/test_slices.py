"""Parts of the days: each day once, figures of the part alone."""

from __future__ import annotations

import numpy as np
import pytest

from shared.clock import parse_time, to_unix
from shared.performance import DAY_S, by_label, by_symbol, by_year, returns

DAYS = np.array([0.10, -0.05, 0.02, 0.04])


def test_a_slice_has_the_figures_of_its_days_alone() -> None:
    bull, bear = by_label(DAYS, ["bull", "bear", "bull", "bull"], -DAYS, order=("bull", "bear"))
    assert (bull.label, bull.days, bear.label, bear.days) == ("bull", 3, "bear", 1)
    assert bull.total_return == pytest.approx(1.10 * 1.02 * 1.04 - 1)
    assert bull.sharpe == returns.sharpe(DAYS[[0, 2, 3]])
    assert bull.baseline_sharpe == returns.sharpe(-DAYS[[0, 2, 3]])
    assert (bull.hit_rate, bull.worst_day) == (1.0, 0.02)
    assert (bear.total_return, bear.volatility, bear.sharpe) == (pytest.approx(-0.05), None, None)


def test_without_an_order_slices_go_by_name() -> None:
    assert [part.label for part in by_label(DAYS, ["b", "a", "c", "a"])] == ["a", "b", "c"]
    assert [part.label for part in by_label(DAYS, ["b", "a", "c", "a"], order=["c"])] == ["c", "a", "b"]


def test_a_day_belongs_to_the_year_in_which_it_began() -> None:
    first = to_unix(parse_time("2023-12-30"))
    parts = by_year(DAYS, first + DAY_S * np.arange(4))
    assert [(part.label, part.days) for part in parts] == [("2023", 2), ("2024", 2)]
    assert parts[0].total_return == pytest.approx(1.10 * 0.95 - 1)
    assert parts[0].baseline_sharpe is None


def test_the_symbols_add_up() -> None:
    contributions = np.stack([DAYS, -DAYS / 2], axis=1)
    first, second = by_symbol(contributions, ["BTC", "ETH"])
    assert (first.label, first.total_return) == ("BTC", pytest.approx(0.11))
    assert first.total_return + second.total_return == pytest.approx(contributions.sum())
    assert second.sharpe == pytest.approx(-first.sharpe) if first.sharpe else None


def test_what_does_not_match_is_refused() -> None:
    with pytest.raises(ValueError, match="4 days needs one of the labels; there are 1"):
        by_label(DAYS, ["bull"])
    with pytest.raises(ValueError, match="baseline returns; there are 3"):
        by_label(DAYS, ["bull"] * 4, DAYS[:3])
    with pytest.raises(ValueError, match="of the days; there are 3"):
        by_year(DAYS, np.arange(3))
    with pytest.raises(ValueError, match="a column a symbol"):
        by_symbol(DAYS[:, None], ["BTC", "ETH"])
