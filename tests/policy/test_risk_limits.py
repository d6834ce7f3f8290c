"""Each of the operator's rules exactly at its limit and just above it, against closed forms."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from policy.decision_path import decide
from policy.risk import RULES, limit_and_explain
from policy.risk.context import (
    DEFAULTS,
    HEAT_CEILING,
    NO_LIMITS,
    OFF,
    VAR_DAYS,
    VAR_MIN_DAYS,
    VAR_ONE_IN,
    WORST_DAYS,
    OperatorLimits,
    PortfolioState,
    RiskContext,
    stop_of,
)
from policy.risk_report import risk_of, value_at_risk
from shared.rows import FloatArray
from tests.policy.synthetic import (
    make_book,
    make_circumstances,
    make_config,
    make_context,
    make_market,
    make_notes,
    make_view,
    said,
)

ABOVE = 1e-6


def cut(name: str, wanted: list[float], context: RiskContext) -> list[float]:
    weights = np.array(wanted)
    RULES[name].apply(weights, context)
    return [float(weight) for weight in weights]


def because(name: str, context: RiskContext) -> str:
    return str(RULES[name].because(0, context, make_notes(len(context.held_weights))))


def under(weights: list[float], **rules: float) -> RiskContext:
    return make_context(weights, rules)


# Of each rule about all weights together: its parameter, weights exactly at its limit, and what measures them.
AT_LIMIT: dict[str, tuple[dict[str, float], list[float], Callable[[FloatArray], float]]] = {
    "max_leverage": ({"max_leverage": 0.75}, [0.5, 0.25], lambda w: float(w.sum())),
    "heat": ({"max_heat": 0.09375, "stop_distance": 0.125}, [0.5, 0.25], lambda w: 0.125 * float(w.sum())),
    "concentration": ({"max_concentration": 0.3125}, [0.5, 0.25], lambda w: float(w @ w)),
    "correlated_exposure": ({"max_correlated_exposure": 0.75}, [0.5, 0.25], lambda w: float(w.sum())),
}


@pytest.mark.parametrize("name", AT_LIMIT)
def test_at_the_limit_all_passes_and_above_it_all_shrink_alike_to_it(name: str) -> None:
    rules, weights, measure = AT_LIMIT[name]
    context = under([0.0, 0.0], **rules)
    assert cut(name, weights, context) == weights
    above = np.array(weights) * (1.0 + ABOVE)
    after = np.array(cut(name, above.tolist(), context))
    assert measure(after) == pytest.approx(measure(np.array(weights)), rel=1e-12)
    assert (after < above).all()
    np.testing.assert_allclose(after / above, (after / above)[0], rtol=1e-12)
    far = np.array(cut(name, [1.0, 0.5], context))
    np.testing.assert_allclose(far, weights, rtol=1e-12)
    assert cut(name, [1.0, 0.5], under([0.0, 0.0])) == [1.0, 0.5], "off"
    assert f"{next(iter(rules.values())):.3g}" in because(name, context)


@pytest.mark.parametrize(
    ("name", "parameter"), [("trade_risk", "trade_risk"), ("concentration", "max_concentration"),
                            ("correlated_exposure", "max_correlated_exposure")],
)  # fmt: skip
def test_a_limit_of_one_switches_a_rule_off_and_just_below_it_does_not(name: str, parameter: str) -> None:
    """Even where weights above 1 or no confidence would make it cut."""
    context = make_context([0.0, 0.0], {parameter: 1.0}, confidence=np.array([0.0, 0.0]))
    assert cut(name, [2.0, 1.0], context) == [2.0, 1.0]
    nearly = context._replace(rules=context.rules._replace(**{parameter: 0.999}))
    assert max(cut(name, [2.0, 1.0], nearly)) < 1.0


def test_the_leverage_of_rounded_weights_is_left_alone() -> None:
    context = under([0.0], max_leverage=1.0)
    assert cut("max_leverage", [1.0 + 9e-10], context) == [1.0 + 9e-10]
    assert cut("max_leverage", [1.0 + 2e-9], context) == [1.0]


def test_fixed_percentage_sizes_by_risk_and_stop_and_the_position_cap_cuts_after() -> None:
    """(100 000, 2 %, 50 000, 48 000) is 1.0 BTC; a position of at most 10 % makes 0.2 of it."""
    market = make_market([50_000.0], [1.0], [0.1], config=make_config(target_volatility=0.8))
    view = make_view(market, make_book([0.0], [50_000.0], cash=100_000.0), band=0.01)
    rules = OFF._replace(trade_risk=0.02, stop_distance=1.0 - 48_000 / 50_000)
    for most, quantity in ((1.0, 1.0), (0.1, 0.2)):
        operator = OperatorLimits(most, 1.0, 1.0, 1.0, rules=rules)
        decision = decide(view, None, make_circumstances(1, operator=operator))
        assert decision.plan.quantity[0] == pytest.approx(quantity)
    assert [clamp.rule for clamp in decision.clamps[0]] == ["trade_risk", "max_position"]


def test_trade_risk_is_halved_by_a_doubled_range_and_by_half_the_confidence() -> None:
    context = make_context(
        [0.0] * 4, {"trade_risk": 0.02, "stop_distance": 0.05, "atr_multiple": 2.0},
        atr=np.array([0.02, 0.05, 0.1, np.nan]), confidence=np.array([1.0, 1.0, 1.0, 0.5]),
    )  # fmt: skip
    assert cut("trade_risk", [1.0] * 4, context) == pytest.approx([0.4, 0.2, 0.1, 0.2])
    assert cut("trade_risk", [0.4, 0.1, 0.1, 0.1], context) == pytest.approx([0.4, 0.1, 0.1, 0.1])
    assert "0.02 of equity × confidence 1 down to a stop 5.00%" in because("trade_risk", context)


def test_a_stop_is_the_wider_of_its_distance_and_some_ranges_and_never_below_zero() -> None:
    context = make_context([0.0] * 4, {"stop_distance": 0.15, "atr_multiple": 3.0},
                           atr=np.array([0.05, 0.06, 0.9, np.nan]))  # fmt: skip
    assert [stop_of(n, context) for n in range(4)] == pytest.approx([0.15, 0.18, 1.0, 0.15])


def test_heat_sums_each_position_down_to_its_own_stop() -> None:
    context = make_context([0.0, 0.0], {"max_heat": 0.1, "atr_multiple": 1.0}, atr=np.array([0.3, 0.0]))
    assert cut("heat", [0.5, 0.5], context) == pytest.approx([0.5 * 0.1 / 0.225, 0.5 * 0.1 / 0.225])


@pytest.mark.parametrize(
    ("p", "payoff", "bet"),
    [(0.6, 1.0, 0.05), (0.5, 1.0, 0.0), (0.4, 1.0, 0.0), (0.5, 2.0, 0.0625), (1.0, 1.0, 0.25), (0.001, 0.1, 0.0)],
)
def test_kelly_is_a_quarter_of_the_bet_and_never_negative(p: float, payoff: float, bet: float) -> None:
    context = under([0.0, 0.0], kelly_win_probability=p, kelly_payoff=payoff)
    assert cut("kelly", [1.0, 0.01], context) == pytest.approx([bet, min(bet, 0.01)])
    half = context._replace(confidence=np.array([0.5, 1.0]))
    assert cut("kelly", [1.0, 1.0], half) == pytest.approx([bet / 2, bet])
    assert f"p {p:.3g} and payoff {payoff:.3g}" in because("kelly", context)


def test_without_an_edge_kelly_is_silent() -> None:
    assert cut("kelly", [0.9], under([0.0])) == [0.9]


@pytest.mark.parametrize(
    ("correlation", "held"),
    [(0.6, [0.3, 0.3, 0.3]), (0.5999, [0.5, 0.5, 0.5]), (-0.9, [0.5, 0.5, 0.5]), (np.nan, [0.3, 0.3, 0.3])],
)
def test_a_correlated_pair_holds_sixty_percent_and_what_is_not_known_counts_as_correlated(
    correlation: float, held: list[float]
) -> None:
    between = np.array([[1.0, correlation, 0.0], [correlation, 1.0, 0.0], [0.0, 0.0, 1.0]])
    context = make_context([0.0] * 3, {"max_correlated_exposure": 0.6}, correlation=between)
    assert cut("correlated_exposure", [0.5, 0.5, 0.5], context)[:2] == pytest.approx(held[:2])
    assert cut("correlated_exposure", [0.5, 0.5, 0.5], context)[2] == 0.5, "another's group"
    assert "correlated by 0.6 or more" in because("correlated_exposure", context)


def test_the_unknown_is_correlated_by_what_the_volatility_target_assumes() -> None:
    """0.6: a threshold above it takes only what is known."""
    context = under([0.0, 0.0], max_correlated_exposure=0.6, correlated_from=0.6001)
    assert cut("correlated_exposure", [0.5, 0.5], context) == [0.5, 0.5]


def test_groups_that_share_an_instrument_each_keep_the_limit() -> None:
    """A chain: the middle one is in every group, and is cut for both."""
    between = np.array([[1.0, 0.9, 0.0], [0.9, 1.0, 0.9], [0.0, 0.9, 1.0]])
    context = make_context([0.0] * 3, {"max_correlated_exposure": 0.6}, correlation=between)
    a, b, c = cut("correlated_exposure", [0.5, 0.5, 0.5], context)
    # the first group's: 0.3 and 0.3; the second's 1.1 in all: × 6/11; the third is within
    assert [a, b, c] == pytest.approx([0.3 * 6 / 11, 0.3 * 6 / 11, 0.5 * 6 / 11])


def test_concentration_of_one_instrument_is_its_square() -> None:
    assert cut("concentration", [0.9], under([0.0], max_concentration=0.25)) == pytest.approx([0.5])


def test_the_ladder_divides_the_way_to_the_drawdown_limit_into_three() -> None:
    context = make_context([0.0, 0.0], {"ladder_from": 0.25}, max_drawdown=0.5)  # from 12.5 %, every 12.5 %
    steps = [(0.0, 1.0), (0.1249, 1.0), (0.125, 0.75), (0.2499, 0.75), (0.25, 0.5), (0.3749, 0.5), (0.375, 0.25),
             (0.4999, 0.25), (0.7, 0.25)]  # fmt: skip
    for drawdown, share in steps:
        after = cut("drawdown_ladder", [0.5, 0.25], context._replace(drawdown=drawdown))
        assert after == [0.5 * share, 0.25 * share], drawdown
    off = make_context([0.0], {"ladder_from": 1.0}, drawdown=0.9, max_drawdown=0.5)
    assert cut("drawdown_ladder", [0.5], off) == [0.5], "max_drawdown has its own say"
    assert "30.00% below the peak, on the way to 50.00%" in because("drawdown_ladder", context._replace(drawdown=0.3))


def test_cooldown_stops_entries_until_it_is_over_and_never_exits() -> None:
    context = make_context([0.25] * 3, {"cooldown_s": 900.0}, since_fill_s=np.array([899.0, 900.0, np.inf]))
    assert cut("cooldown", [0.5, 0.5, 0.5], context) == [0.25, 0.5, 0.5]
    assert cut("cooldown", [0.1, 0.0, 0.0], context) == [0.1, 0.0, 0.0]
    long = make_context([0.0], {"cooldown_s": 36_000.0}, since_fill_s=np.array([30_000.0]))
    assert because("cooldown", long) == "traded 500 minutes ago; no entries within 600"
    assert cut("cooldown", [0.5], make_context([0.25], since_fill_s=np.array([0.0]))) == [0.5], "off"


def test_a_position_is_left_when_it_is_older_than_the_timeout() -> None:
    hours = np.array([72.0, 72.001, 0.0]) * 3600.0
    context = make_context([0.25] * 3, {"position_timeout_s": 72 * 3600.0}, age_s=hours)
    assert cut("position_timeout", [0.5, 0.5, 0.5], context) == [0.5, 0.0, 0.5]
    assert cut("position_timeout", [0.5] * 3, context._replace(rules=OFF)) == [0.5] * 3, "off"
    assert cut("position_timeout", [0.5], make_context([0.0], {"position_timeout_s": 1.0}, age_s=np.array([2.0]))) == [
        0
    ]
    long = make_context([0.0], {"position_timeout_s": 3.6e6}, age_s=np.array([7.2e6]))
    assert because("position_timeout", long) == "held for 2000.0 hours; no position is held for longer than 1000.0"


def test_what_a_stop_closed_is_not_entered_again_but_what_is_left_of_it_may_stay() -> None:
    context = make_context([0.1, 0.1, 0.0], stopped_out=np.array([True, False, True]))
    assert cut("stopped_out", [0.5, 0.5, 0.5], context) == [0.1, 0.5, 0.0]
    assert cut("stopped_out", [0.05, 0.0, 0.0], context) == [0.05, 0.0, 0.0]
    assert "a protective stop closed it" in because("stopped_out", context)


def test_entries_share_the_cash_that_is_not_reserved_and_what_exits_bring() -> None:
    context = make_context([0.25, 0.25, 0.0], spendable=0.25)
    assert cut("balance", [0.5, 0.25, 0.0], context) == [0.5, 0.25, 0.0]
    assert cut("balance", [0.5, 0.25, 0.25], context) == [0.375, 0.25, 0.125], "0.5 asked, 0.25 there"
    assert cut("balance", [0.5, 0.0, 0.25], context) == [0.5, 0.0, 0.25], "the exit pays"
    assert cut("balance", [0.5, 0.125, 0.25], context) == pytest.approx([0.4375, 0.125, 0.1875])
    nothing = context._replace(spendable=-0.5)
    assert cut("balance", [0.5, 0.25, 0.25], nothing) == [0.25, 0.25, 0.0]
    assert cut("balance", [0.5, 0.0, 0.0], nothing._replace(spendable=-0.125)) == [0.375, 0.0, 0.0]
    assert because("balance", context) == "there is 0.25 of equity in cash that no open order has reserved"
    assert because("balance", nothing).startswith("there is 0 of equity")


def test_a_balance_that_rounding_misses_is_enough() -> None:
    context = make_context([0.0], spendable=0.5)
    assert cut("balance", [0.5 + 9e-10], context) == [0.5 + 9e-10]
    assert cut("balance", [0.5 + 2e-9], context) == [0.5]


def days_losing(losses: list[float], of: int = 100) -> Any:
    """[days, 1]: returns of which these are losses and the others nothing."""
    return np.concatenate([-np.array(losses), np.zeros(of - len(losses))])[:, None]


def test_value_at_risk_of_fixed_returns() -> None:
    """Losses of 1 to 100 basis points: 5 of 100 days lose more than 95, and 98 on average."""
    points: FloatArray = np.arange(1.0, 101.0) * 1e-4
    assert value_at_risk(-points) == pytest.approx((0.0095, 0.0098))
    assert value_at_risk(points) == pytest.approx((-0.0006, -0.0003))
    assert value_at_risk(-points[:60]) == pytest.approx((0.0057, 0.0059)), "3 of 60"
    assert np.isnan(value_at_risk(-points[:59])).all()


RAMP = [0.01 * k for k in range(1, 11)]  # of 100 days: five lose more than 5 %, and 8 % on average


@pytest.mark.parametrize("order", ["rising", "falling", "shuffled"])
def test_value_at_risk_and_cvar_at_their_limits(order: str) -> None:
    daily = days_losing(RAMP)
    daily = {"rising": daily, "falling": daily[::-1], "shuffled": np.random.default_rng(1).permutation(daily)}[order]
    for rules, allowed in (
        ({"max_value_at_risk": 0.05 + 1e-12, "max_cvar": 0.08 + 1e-12}, 1.0),
        ({"max_value_at_risk": 0.025}, 0.5), ({"max_cvar": 0.02}, 0.25),
        ({"max_value_at_risk": 0.025, "max_cvar": 0.02}, 0.25), ({"max_value_at_risk": 0.01, "max_cvar": 0.06}, 0.2),
    ):  # fmt: skip
        context = make_context([0.0], rules, daily)
        assert cut("value_at_risk", [1.0], context) == pytest.approx([allowed])
        assert cut("value_at_risk", [allowed * 0.999], context) == [allowed * 0.999]
    assert "one day in 20 may cost 0.01 of equity, and such days 0.06" in because("value_at_risk", context)


def test_value_at_risk_is_the_portfolios_and_scales_all_alike() -> None:
    rng = np.random.default_rng(3)
    daily = rng.normal(0.0, 0.05, (250, 3)) + rng.normal(0.0, 0.05, (250, 1))
    context = make_context([0.0] * 3, {"max_value_at_risk": 0.01}, daily)
    allowed = np.array(cut("value_at_risk", [0.5, 0.2, 0.3], context))
    np.testing.assert_allclose(allowed / [0.5, 0.2, 0.3], allowed[0] / 0.5, rtol=1e-12)
    assert value_at_risk(daily @ allowed)[0] == pytest.approx(0.01)
    assert risk_of(allowed, context).value_at_risk == pytest.approx(0.01)


def test_value_at_risk_looks_back_250_days_at_days_that_all_proposed_know() -> None:
    old = np.vstack([days_losing([0.9] * 50, 50), np.zeros((249, 1)), [[-0.5]]])
    context = make_context([0.0], {"max_value_at_risk": 0.01, "max_cvar": 0.01}, old)
    assert cut("value_at_risk", [0.2], context) == [0.2], "one day of 250: a twelfth of 10 % on average"
    older = make_context([0.0], {"max_cvar": 0.01}, old, day_row=49)
    assert cut("value_at_risk", [0.2], older) == [0.2], "50 days are too few"
    pair = np.hstack([days_losing(RAMP), np.full((100, 1), np.nan)])
    both = make_context([0.0, 0.0], {"max_value_at_risk": 0.025}, pair)
    assert cut("value_at_risk", [1.0, 0.0], both) == pytest.approx([0.5, 0.0]), "nobody proposes the young one"
    assert cut("value_at_risk", [1.0, 0.1], both) == [1.0, 0.1]


def test_few_losses_are_averaged_with_the_least_gains() -> None:
    """Of five days in a hundred two lost 30 %, and three gained 1 %: 11.4 % on average."""
    daily = np.full((100, 1), 0.01)
    daily[:2] = -0.3
    for most, allowed in ((0.1141, 1.0), (0.057, 0.5)):
        assert cut("value_at_risk", [1.0], make_context([0.0], {"max_cvar": most}, daily)) == pytest.approx([allowed])


@pytest.mark.parametrize(("days", "allowed"), [(59, 1.0), (60, 0.5)])
def test_value_at_risk_needs_sixty_days_that_are_known(days: int, allowed: float) -> None:
    """Three of sixty days lose more than 2 %."""
    known = days_losing(RAMP[1:5], days)
    context = make_context([0.0], {"max_value_at_risk": RAMP[1] / 2}, known)
    gaps = make_context([0.0], {"max_value_at_risk": RAMP[1] / 2}, np.vstack([np.full((40, 1), np.nan), known]))
    assert cut("value_at_risk", [1.0], context) == cut("value_at_risk", [1.0], gaps) == [allowed]


def test_value_at_risk_reads_a_days_returns_of_its_own_instruments() -> None:
    """Every second row is another hour's; the instrument is the second column."""
    daily = np.full((200, 2), 9.0)
    daily[1::2, 1] = days_losing(RAMP)[:, 0]
    context = make_context([0.0], {"max_value_at_risk": 0.025}, daily[:, 1:], day_stride=2)
    context = context._replace(daily=daily, day_row=199, column=np.array([1]))
    assert cut("value_at_risk", [1.0], context) == pytest.approx([0.5])


def test_where_the_tails_rule_it_out_nothing_is_looked_at() -> None:
    context = make_context([0.0], {"max_value_at_risk": 0.05, "max_cvar": 0.04}, days_losing([0.9] * 20))
    assert cut("value_at_risk", [0.5], context._replace(tail=np.array([0.08]))) == [0.5]
    assert cut("value_at_risk", [0.5], context._replace(tail=np.array([0.0801])))[0] < 0.1


def test_the_decision_path_hands_state_and_confidence_to_the_rules() -> None:
    market = make_market([100.0, 100.0], [1.0, 1.0], [0.5, 0.5])
    view = make_view(market, make_book([1.0, 1.0], [100.0, 100.0], cash=800.0))
    state = PortfolioState(400.0, np.array([True, False]), np.array([5.0, 5.0]), np.array([0.0, 9e9]))
    operator = OperatorLimits(1.0, 1.0, 1.0, 1.0, rules=OFF._replace(position_timeout_s=3600.0))
    decision = decide(view, None, make_circumstances(2, operator=operator, state=state))
    assert decision.allowed.tolist() == [0.1, 0.0]
    assert [[clamp.rule for clamp in cuts] for cuts in decision.clamps] == [["stopped_out"], ["position_timeout"]]
    kelly = OperatorLimits(1.0, 1.0, 1.0, 1.0, rules=OFF._replace(kelly_win_probability=0.6))
    sure = decide(view, lambda _: said([0.0, 0.0], [1.0, 0.5]), make_circumstances(2, operator=kelly))
    assert sure.allowed.tolist() == pytest.approx([0.05, 0.025])


REASONS: dict[str, tuple[dict[str, Any], str]] = {
    "daily_loss": ({"day_return": -0.07, "daily_loss_limit": 0.05},
                   "lost 7.00% today; no entries beyond 5.00% until UTC midnight"),
    "max_drawdown": ({"drawdown": 0.2, "max_drawdown": 0.15},
                     "20.00% below the peak (limit 15.00%); in cash until resumed"),
    "max_exposure": ({"max_exposure": 0.75}, "all positions together may be at most 0.75 of equity"),
    "max_position": ({"max_position": 0.25}, "a position may be at most 0.25 of equity"),
    "rate_limit": ({"max_step": 0.25}, "a position may grow by at most 0.25 of equity in one decision"),
    "out_of_distribution": (
        {"ood": np.array([0.99953])},
        "unlike what the encoder knows (ood 0.99953): from 0.999 on a position shrinks, at 0.9999 to nothing",
    ),
    "pause": ({}, "policy_config says pause"), "fresh_data": ({}, "no embedding"),
}  # fmt: skip


@pytest.mark.parametrize("name", REASONS)
def test_each_reason_tells_the_numbers(name: str) -> None:
    changes, text = REASONS[name]
    assert because(name, make_context([0.0], **changes)) == text


def test_a_book_that_owes_something_is_not_let_in_by_it() -> None:
    context = make_context([-0.25, 0.25], paused=True)
    assert cut("pause", [0.5, 0.5], context) == [0.0, 0.25]
    assert cut("rate_limit", [0.5, 0.5], context._replace(max_step=0.125)) == [0.125, 0.375]


def test_a_fresh_book_reserves_nothing_and_was_never_traded() -> None:
    fresh = PortfolioState.fresh(2)
    assert fresh.reserved == 0.0
    assert fresh.stopped_out.tolist() == [False, False]
    assert fresh.since_fill_s.tolist() == [np.inf, np.inf]
    assert fresh.age_s.tolist() == [0.0, 0.0]


def test_the_numbers_that_published_results_rest_on() -> None:
    """Whoever changes one says so in docs/add-a-risk-rule.md, and measures anew."""
    assert (VAR_DAYS, VAR_MIN_DAYS, VAR_ONE_IN, WORST_DAYS, HEAT_CEILING) == (250, 60, 20, 13, 0.2)
    off = (0.0, 1.0, 0.25, 0.0, 1.0, 1.0, 0.6, 1.0)  # ranges, trade risk, Kelly, correlations, concentration
    assert tuple(DEFAULTS) == (1.0, 0.2, 0.15, *off, 0.1, 0.15, 1.0, 0.0, 0.0)
    assert tuple(OFF) == (np.inf, np.inf, 0.15, *off, np.inf, np.inf, 1.0, 0.0, 0.0)
    assert OperatorLimits(1.0, 1.0, 1.0, 1.0) == replace(NO_LIMITS, max_step=1.0, rules=DEFAULTS)


def test_the_defaults_leave_a_portfolio_within_its_exposure_alone() -> None:
    """Any long-only one: only value at risk has an opinion about it, and none here, where nothing is known."""
    rng = np.random.default_rng(0)
    for _ in range(200):
        wanted = rng.dirichlet(np.ones(5)) * rng.uniform(0.0, 1.0)
        held = rng.dirichlet(np.ones(5)) * 0.9
        context = make_context(held.tolist(), drawdown=0.9, spendable=1.0 - held.sum())._replace(rules=DEFAULTS)
        allowed, clamps = limit_and_explain(wanted, context, make_notes(5))
        assert allowed.tobytes() == wanted.tobytes()
        assert clamps == [[]] * 5
