"""What stops a wallet until its operator resumes it: five triggers, each at its level and just below."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from policy.risk.context import DEFAULTS, NO_LIMITS, VAR_DAYS, VAR_MIN_DAYS, OperatorLimits, RiskContext
from policy.risk.emergency import Stop, triggers
from policy.risk_report import kupiec, kupiec_of, risk_of
from tests.policy.synthetic import make_context

OPERATOR = OperatorLimits(0.5, 1.0, daily_loss_limit=0.05, max_drawdown=0.15)


def stopped(context: RiskContext) -> list[str]:
    return [stop.rule for stop in triggers(context, OPERATOR)]


def made(weights: list[float], rules: dict[str, float] | None = None, daily: Any = None, **changes: Any) -> RiskContext:
    return make_context(weights, DEFAULTS._asdict() | (rules or {}), daily, **({"max_drawdown": 0.15} | changes))


def test_a_book_within_its_limits_is_not_stopped() -> None:
    context = made([0.5, 0.5], drawdown=0.1, day_return=-0.06, daily=np.full((250, 2), -0.02))
    assert triggers(context, OPERATOR) == []


@pytest.mark.parametrize(
    ("rule", "below", "at"),
    [
        ("drawdown", {"drawdown": 0.1499}, {"drawdown": 0.15}),
        ("daily_loss", {"day_return": -0.0749}, {"day_return": -0.075000001}),
        ("leverage", {"held_weights": np.array([0.5, 0.55])}, {"held_weights": np.array([0.5, 0.5501])}),
    ],
)
def test_each_trigger_at_its_level(rule: str, below: dict[str, Any], at: dict[str, Any]) -> None:
    assert stopped(made([0.5, 0.5], **below)) == []
    assert stopped(made([0.5, 0.5], **at)) == [rule]


def test_a_daily_loss_is_held_against_the_operators_limit_not_the_steerings() -> None:
    """At the stricter limit entries end until midnight; that needs no operator."""
    context = made([0.5], day_return=-0.06, daily_loss_limit=0.02)
    assert triggers(context, OPERATOR) == []
    exact = replace(OPERATOR, daily_loss_limit=0.0625)
    assert triggers(context._replace(day_return=-0.093749), exact) == []
    assert [stop.rule for stop in triggers(context._replace(day_return=-0.09375), exact)] == ["daily_loss"]


def test_correlated_instruments_far_above_their_limit_stop_and_only_where_there_is_one() -> None:
    between = np.array([[1.0, 0.9], [0.9, 1.0]])
    for held, rules, expected in (
        ([0.375, 0.375], {"max_correlated_exposure": 0.6}, []),
        ([0.375, 0.3751], {"max_correlated_exposure": 0.6}, ["correlation"]),
        ([0.375, 0.3751], {"max_correlated_exposure": 0.6, "correlated_from": 0.95}, []),
        ([0.5, 0.5], {"max_correlated_exposure": 0.9999}, []),
        ([0.5, 0.5], {}, []),
    ):
        assert stopped(made(held, rules, correlation=between)) == expected
    lone = made([0.5, 0.5], {"max_correlated_exposure": 0.3}, correlation=np.eye(2))
    assert stopped(lone) == ["correlation"], "one instrument is a group of its own"


def test_without_a_limit_correlated_instruments_never_stop() -> None:
    context = made([0.7, 0.7], {"max_leverage": 1.9}, correlation=np.ones((2, 2)))
    assert stopped(context) == ["critical_risk"], "of the heat alone"


@pytest.mark.parametrize(
    ("loss", "limits", "named"),
    [
        (0.1499, {}, ""), (0.1501, {}, "value at risk is 0.15"), (0.1501, {"max_value_at_risk": 0.2}, ""),
        (0.2251, {"max_value_at_risk": 0.2}, "CVaR is 0.225"), (0.2249, {"max_value_at_risk": 0.2}, ""),
    ],
)  # fmt: skip
def test_a_tail_half_above_its_limit_is_critical(loss: float, limits: dict[str, float], named: str) -> None:
    daily = np.zeros((100, 1))
    daily[:10] = -loss / 0.5
    found = triggers(made([0.5], limits, daily), OPERATOR)
    assert [stop.rule for stop in found] == ["critical_risk"] * bool(named)
    assert all(named in stop.because for stop in found)


def test_heat_above_the_ceiling_is_critical_whatever_its_limit() -> None:
    wide = {"atr_multiple": 1.0, "max_heat": 0.1}
    assert stopped(made([1.0], wide, atr=np.array([0.2]))) == []
    assert stopped(made([1.0], wide, atr=np.array([0.2001]))) == ["critical_risk"]
    assert triggers(made([1.0], wide, atr=np.array([0.25])), OPERATOR) == [
        Stop("critical_risk", "heat is 0.25 of equity; 0.2 is critical")
    ]


def test_several_triggers_are_each_named_with_their_numbers() -> None:
    context = made([1.2], drawdown=0.2, day_return=-0.1)
    assert [(stop.rule, stop.because) for stop in triggers(context, OPERATOR)] == [
        ("drawdown", "20.00% below the peak; the limit is 15.00%"),
        ("daily_loss", "lost 10.00% today; a loss of 7.50% needs an operator"),
        ("leverage", "leverage is 1.2; the limit is 1"),
    ]
    correlated = made([0.5, 0.5], {"max_correlated_exposure": 0.6}, correlation=np.ones((2, 2)))
    assert triggers(correlated, OPERATOR)[0].because == ("correlated instruments hold 1 of equity; the limit is 0.6")


def test_without_limits_nothing_stops_but_a_loss_of_everything() -> None:
    context = make_context([1.0, 1.0], drawdown=0.9, day_return=-0.9, daily=np.full((250, 2), -0.4))
    assert triggers(context, NO_LIMITS) == []
    assert [stop.rule for stop in triggers(context._replace(drawdown=1.0), NO_LIMITS)] == ["drawdown"]


def test_the_risk_of_weights_in_figures() -> None:
    between = np.array([[1.0, 0.7, 0.1], [0.7, 1.0, np.nan], [0.1, np.nan, 1.0]])
    daily = np.column_stack([-np.arange(1, 101) * 1e-3, np.zeros(100), np.zeros(100)])
    context = made([0.0] * 3, {"atr_multiple": 1.0}, daily, correlation=between, atr=np.array([0.3, 0.0, np.nan]))
    risk = risk_of(np.array([0.4, 0.2, 0.2]), context)
    assert [risk.exposure, risk.heat] == pytest.approx([0.8, 0.4 * 0.3 + 0.4 * 0.15])
    assert risk.correlated == pytest.approx(0.8), "the second with the first, and with the third, which is not known"
    assert risk.concentration == pytest.approx(0.24)
    assert risk.diversification == pytest.approx(0.64 / 0.24)
    assert [risk.value_at_risk, risk.cvar] == pytest.approx([0.4 * 0.095, 0.4 * 0.098])
    nothing = risk_of(np.zeros(3), context)
    assert (nothing.exposure, nothing.diversification, nothing.value_at_risk) == (0.0, 0.0, 0.0)


def test_the_equal_parts_of_a_portfolio_are_counted() -> None:
    assert risk_of(np.full(4, 0.25), made([0.0] * 4)).diversification == pytest.approx(4.0)
    assert risk_of(np.full(4, 0.1), made([0.0] * 4)).diversification == pytest.approx(4.0), "cash aside"


@pytest.mark.parametrize(("days", "exceptions"), [(250, 12), (250, 20), (255, 6), (100, 0), (60, 60), (20, 1)])
@pytest.mark.parametrize("expected", [0.05, 0.01])
def test_kupiec_is_the_likelihood_ratio_of_two_binomials(days: int, exceptions: int, expected: float) -> None:
    """scipy's, whose coefficients cancel."""
    from scipy.stats import binom, chi2  # type: ignore[import-untyped]

    ratio = 2 * (binom.logpmf(exceptions, days, exceptions / days) - binom.logpmf(exceptions, days, expected))
    found = kupiec(days, exceptions, expected)
    assert found.p == pytest.approx(chi2.sf(max(ratio, 0.0), 1), rel=1e-6, abs=1e-6)
    assert (found.days, found.exceptions) == (days, exceptions)


def test_kupiec_refuses_too_many_and_too_few() -> None:
    assert not kupiec(250, 12).refused
    assert [kupiec(*counts).refused for counts in ((250, 20), (250, 5), (100, 0))] == [True] * 3
    assert kupiec(20, 1).p == pytest.approx(1.0)
    assert kupiec(10, 10).p < 1e-10
    assert not kupiec(250, 3, expected=0.01).refused
    for days, exceptions in ((0, 0), (10, 11), (10, -1)):
        with pytest.raises(ValueError, match="count days"):
            kupiec(days, exceptions)


def test_a_day_is_held_against_what_was_said_before_it_and_only_a_larger_loss_is_an_exception() -> None:
    quiet = np.tile([-0.02, 0.01, 0.01], 20)  # of VAR_MIN_DAYS: value at risk is 0.02
    for day, exceptions in ((-0.02, 0), (-0.0201, 1), (0.5, 0)):
        found = kupiec_of(np.append(quiet, day))
        assert found is not None
        assert (found.days, found.exceptions) == (1, exceptions)
    assert kupiec_of(quiet) is None
    loss_itself = np.append(quiet, [-0.5, -0.02])  # no day is in what was said before it; one of 61 is beyond 5 %
    found = kupiec_of(loss_itself)
    assert found is not None
    assert (found.days, found.exceptions) == (2, 1)


def test_value_at_risk_looks_back_no_further_than_its_days() -> None:
    wild, calm = np.tile([-0.5, 0.5], VAR_DAYS // 2), np.tile([-0.01, 0.01], VAR_DAYS // 2)
    found = kupiec_of(np.concatenate([wild, calm, [-0.02]]))
    assert found is not None
    assert found.exceptions == 1


@pytest.mark.parametrize(("days", "refused"), [(1.0, False), (3.0, True)])
def test_value_at_risk_of_steady_markets_passes_kupiecs_test_and_of_turning_ones_does_not(
    days: float, refused: bool
) -> None:
    """Student's t with 4 degrees of freedom; ``days``: by how much the days grow wilder each year."""
    returns = 0.01 * np.random.default_rng(7).standard_t(4, 1_000) * days ** (np.arange(1_000) // 250)
    found = kupiec_of(returns)
    assert found is not None
    assert found.days == 1_000 - VAR_MIN_DAYS
    assert found.refused == refused
