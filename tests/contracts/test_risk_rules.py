"""What every risk rule must keep, whatever it looks at; and each rule exactly at its limit."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from policy.decision_path import decide, risk_context
from policy.risk import RULES, limit, limit_and_explain
from policy.risk.context import NO_LIMITS, OFF, PortfolioState, RiskContext
from policy.risk_report import risk_of
from shared.rows import FloatArray
from tests.policy.synthetic import (
    SHARES,
    circumstances,
    columns,
    make_circumstances,
    make_config,
    make_context,
    make_market,
    make_notes,
    make_view,
    risk_contexts,
    views,
)

CASES = st.integers(1, 4).flatmap(lambda n: st.tuples(columns(SHARES, n), risk_contexts(n)))
Case = tuple[FloatArray, RiskContext]
SCALING = ("out_of_distribution", "drawdown_ladder")  # cut by a factor, not down to a bound
TOGETHER = (  # are about all instruments together; the others look at each alone
    "max_exposure", "max_leverage", "heat", "correlated_exposure", "concentration", "balance", "value_at_risk",
)  # fmt: skip
OF_INSTRUMENTS = (
    "held_weights", "ood", "doubtful", "confidence", "atr", "tail", "column", "stopped_out", "since_fill_s", "age_s",
    "symbol_caps",
)  # fmt: skip


def applied(name: str, proposed: FloatArray, context: RiskContext) -> FloatArray:
    allowed = proposed.copy()
    RULES[name].apply(allowed, context)
    return allowed


@given(CASES)
def test_a_rule_never_enlarges_a_position_nor_goes_short(case: Case) -> None:
    proposed, context = case
    context = context._replace(losses=np.full_like(context.losses, 0.7))  # whatever was left in that room
    before = context._replace(losses=np.zeros(0))._asdict()
    before = {name: np.array(value) for name, value in before.items()}
    for name in RULES:
        allowed = applied(name, proposed, context)
        assert ((allowed >= 0) & (allowed <= proposed)).all(), name
    after = context._replace(losses=np.zeros(0))._asdict()
    assert all(np.array_equal(was, np.array(after[name]), equal_nan=True) for name, was in before.items())


@given(CASES)
def test_a_rule_never_blocks_an_exit(case: Case) -> None:
    """Whoever wants to hold less than it holds, down to nothing, never ends up holding more than it asked for,
    and who wants nothing gets nothing."""
    proposed, context = case
    less = np.minimum(proposed, np.maximum(context.held_weights, 0.0)) / 2
    for name in RULES:
        assert (applied(name, less, context) <= less).all(), name
        assert not applied(name, np.zeros_like(less), context).any(), name


@given(CASES)
def test_cutting_again_changes_nothing(case: Case) -> None:
    proposed, context = case
    for name in set(RULES) - set(SCALING):
        allowed = applied(name, proposed, context)
        np.testing.assert_allclose(applied(name, allowed, context), allowed, rtol=1e-12, atol=1e-300, err_msg=name)


@pytest.mark.parametrize("name", SCALING)
@given(CASES)
def test_a_scaling_rule_takes_the_same_share_of_every_proposal(name: str, case: Case) -> None:
    """Whatever is wanted: so it never turns a smaller wish into a larger position."""
    proposed, context = case
    share = applied(name, np.ones_like(proposed), context)
    np.testing.assert_allclose(applied(name, proposed, context), share * proposed, rtol=1e-12, atol=1e-300)


@given(CASES)
def test_a_rule_looks_at_each_instrument_alone(case: Case) -> None:
    """Of every rule but those about all of them together: one's doubt is not another's."""
    proposed, context = case
    for name in set(RULES) - set(TOGETHER):
        together = applied(name, proposed, context)
        for n in range(len(proposed)):
            one = slice(n, n + 1)
            alone = context._replace(
                correlation=context.correlation[one, one], **{f: getattr(context, f)[one] for f in OF_INSTRUMENTS}
            )
            assert applied(name, proposed[one], alone) == together[one], name


@given(CASES, st.booleans())
def test_the_chain_records_each_cut_from_what_was_wanted_to_what_is_allowed(case: Case, wallet_paused: bool) -> None:
    wanted, context = case
    notes = make_notes(len(wanted), wallet_paused)
    allowed, clamps = limit_and_explain(wanted, context, notes)
    assert ((allowed >= 0) & (allowed <= wanted)).all()
    unexplained = wanted.copy()
    limit(unexplained, context)
    assert unexplained.tolist() == allowed.tolist()
    order = list(RULES)
    for n, cuts in enumerate(clamps):
        assert [order.index(cut.rule) for cut in cuts] == sorted(order.index(cut.rule) for cut in cuts)
        levels = [wanted[n], *(cut.after for cut in cuts)]
        assert [cut.before for cut in cuts] == levels[:-1]
        assert all(cut.after < cut.before and cut.because for cut in cuts)
        assert levels[-1] == allowed[n]


@given(CASES)
def test_what_the_chain_allows_keeps_every_bound(case: Case) -> None:
    wanted, context = case
    allowed, held = wanted.copy(), np.maximum(context.held_weights, 0.0)
    limit(allowed, context)
    assert allowed.max() <= context.max_position
    assert allowed.sum() <= context.max_exposure + 1e-12
    assert (allowed <= held + context.max_step).all()
    rules = context.rules
    stopped = context.doubtful | context.paused | (-context.day_return >= context.daily_loss_limit)
    stopped |= context.stopped_out | (context.since_fill_s < rules.cooldown_s)
    assert (allowed[stopped] <= held[stopped]).all()
    assert not allowed[context.ood >= 0.9999].any()
    assert context.drawdown < context.max_drawdown or not allowed.any()
    assert not rules.position_timeout_s or not allowed[context.age_s > rules.position_timeout_s].any()
    assert allowed.sum() <= rules.max_leverage * (1.0 + 1e-9)
    risk = risk_of(allowed, context)
    assert risk.heat <= rules.max_heat + 1e-12
    assert rules.max_concentration >= 1.0 or risk.concentration <= rules.max_concentration + 1e-12
    assert rules.max_correlated_exposure >= 1.0 or risk.correlated <= rules.max_correlated_exposure + 1e-12
    assert not risk.value_at_risk > rules.max_value_at_risk + 1e-12
    assert not risk.cvar > rules.max_cvar + 1e-12


@given(CASES, st.sampled_from(["max_position", "daily_loss_limit", "max_drawdown", "max_step"]))
def test_a_stricter_bound_never_allows_more(case: Case, bound: str) -> None:
    """Of every bound but those that scale all alike, which share what another bound freed."""
    wanted, context = case
    roomy = context._replace(max_exposure=9.0, rules=OFF, spendable=9.0)
    more, less = wanted.copy(), wanted.copy()
    limit(more, roomy)
    limit(less, roomy._replace(**{bound: getattr(context, bound) / 2}))
    assert (less <= more).all()


STRICTER = {  # parameter: its rule, and a way towards the strict side
    "max_leverage": ("max_leverage", 0.5), "max_heat": ("heat", 0.5), "trade_risk": ("trade_risk", 0.5),
    "stop_distance": ("trade_risk", 2.0), "atr_multiple": ("trade_risk", 2.0), "kelly_fraction": ("kelly", 0.5),
    "kelly_payoff": ("kelly", 0.5), "max_concentration": ("concentration", 0.5),
    "max_value_at_risk": ("value_at_risk", 0.5), "max_cvar": ("value_at_risk", 0.5),
    "ladder_from": ("drawdown_ladder", 0.5), "cooldown_s": ("cooldown", 2.0),
    "position_timeout_s": ("position_timeout", 0.5),
}  # fmt: skip


@given(CASES, st.sampled_from(sorted(STRICTER)))
def test_a_stricter_parameter_never_allows_more(case: Case, parameter: str) -> None:
    """Of each rule by itself, and of all but those that scale one group after another."""
    wanted, context = case
    name, factor = STRICTER[parameter]
    stricter = context.rules._replace(**{parameter: getattr(context.rules, parameter) * factor})
    if stricter.position_timeout_s == 0.0 or stricter.kelly_win_probability == 0.0:
        return  # off before and after
    less, more = applied(name, wanted, context._replace(rules=stricter)), applied(name, wanted, context)
    assert (less <= more + 1e-12).all()


@given(CASES)
def test_a_smaller_wish_is_never_made_a_larger_position(case: Case) -> None:
    """Of what looks at each instrument alone: who wants less, gets no more."""
    wanted, context = case
    for name in set(RULES) - set(TOGETHER):
        assert (applied(name, wanted / 2, context) <= applied(name, wanted, context)).all(), name


@given(views().flatmap(lambda view: st.tuples(st.just(view), circumstances(len(view.market.trend)))))
def test_the_stricter_of_steering_and_operator_counts(case: tuple) -> None:  # type: ignore[type-arg]
    view, state = case
    context, config, operator = risk_context(view, state), view.market.config, state.operator
    for bound in ("max_position", "max_exposure", "daily_loss_limit", "max_drawdown"):
        assert getattr(context, bound) == min(getattr(config, bound), getattr(operator, bound))
    assert context.max_step == operator.max_step
    assert context.paused == (state.wallet_paused or config.pause)
    assert context.doubtful.tolist() == [doubt != "" for doubt in state.doubts]
    assert context.rules == operator.rules
    assert isinstance(state.state, PortfolioState)
    assert context.spendable == (
        (view.book.cash - state.state.reserved) / view.book.equity if view.book.equity > 0.0 else np.inf
    )
    for name in ("stopped_out", "since_fill_s", "age_s"):
        assert getattr(context, name) is getattr(state.state, name)


def cut(name: str, wanted: list[float], context: RiskContext) -> list[float]:
    return [float(weight) for weight in applied(name, np.array(wanted), context)]


def test_max_position_at_its_limit() -> None:
    context = make_context([0.0, 0.0, 0.0], max_position=0.3)
    assert cut("max_position", [0.3, 0.3000001, 0.1], context) == [0.3, 0.3, 0.1]


def test_max_exposure_at_its_limit() -> None:
    context = make_context([0.0, 0.0], max_exposure=0.5)
    assert cut("max_exposure", [0.25, 0.25], context) == [0.25, 0.25]
    assert cut("max_exposure", [0.75, 0.25], context) == [0.375, 0.125]  # alike
    assert cut("max_exposure", [0.0, 0.0], context) == [0.0, 0.0]
    assert cut("max_exposure", [0.5, 0.5], context._replace(max_exposure=0.0)) == [0, 0]


def test_rate_limit_at_its_limit() -> None:
    """It bounds how fast a position grows, never how fast it goes."""
    context = make_context([0.2, 0.0, 0.9], max_step=0.25)
    assert cut("rate_limit", [0.45, 0.25, 0.0], context) == [0.45, 0.25, 0.0]
    assert cut("rate_limit", [0.46, 0.9, 0.1], context) == [0.45, 0.25, 0.1]


def test_daily_loss_at_its_limit() -> None:
    """At the limit no entries: what is held may stay or shrink."""
    context = make_context([0.2, 0.0], daily_loss_limit=0.125)
    for day_return, allowed in ((-0.1249, [0.5, 0.5]), (-0.125, [0.2, 0.0]), (-0.9, [0.2, 0.0]), (1.0, [0.5, 0.5])):
        assert cut("daily_loss", [0.5, 0.5], context._replace(day_return=day_return)) == allowed
    assert cut("daily_loss", [0.1, 0.0], context._replace(day_return=-0.9)) == [0.1, 0.0]


def test_max_drawdown_at_its_limit() -> None:
    """At the limit into cash, whatever is held."""
    context = make_context([0.2, 0.0], max_drawdown=0.25)
    for drawdown, allowed in ((0.2499, [0.5, 0.1]), (0.25, [0.0, 0.0]), (0.99, [0.0, 0.0])):
        assert cut("max_drawdown", [0.5, 0.1], context._replace(drawdown=drawdown)) == allowed


def test_no_entries_is_the_lesser_of_what_is_proposed_and_what_is_held() -> None:
    context = make_context([0.3, 0.3, 0.0])
    for rule, changes in (("pause", {"paused": True}), ("fresh_data", {"doubtful": np.ones(3, dtype=bool)})):
        assert cut(rule, [0.5, 0.1, 0.2], context) == [0.5, 0.1, 0.2]
        assert cut(rule, [0.5, 0.1, 0.2], context._replace(**changes)) == [0.3, 0.1, 0.0]


@pytest.mark.parametrize(
    ("wallet_paused", "config_pauses", "because"),
    [(True, False, "the wallet is paused by its operator"), (False, True, "policy_config says pause")],
)
def test_a_pause_names_who_paused(wallet_paused: bool, config_pauses: bool, because: str) -> None:
    market = make_market([100.0], [1.0], [0.5], config=make_config(pause=config_pauses))
    decision = decide(make_view(market), None, make_circumstances(1, wallet_paused=wallet_paused))
    assert [(clamp.rule, clamp.because) for clamp in decision.clamps[0]] == [("pause", because)]


def test_each_doubt_stops_its_own_instrument_and_is_told_in_its_words() -> None:
    market = make_market([100.0, 50.0], [1.0, 1.0], [0.5, 0.5])
    decision = decide(make_view(market), None, make_circumstances(2, doubts=("", "no embedding")))
    assert decision.allowed.tolist() == [decision.wanted[0], 0.0]
    assert [[(c.rule, c.because) for c in cuts] for cuts in decision.clamps] == [[], [("fresh_data", "no embedding")]]


@pytest.mark.parametrize(
    ("ood", "share"),
    [(0.0, 1.0), (0.99, 1.0), (0.999, 1.0), (0.99945, 0.5), (0.99981, 0.1), (0.9999, 0.0), (0.999999, 0.0), (1.0, 0.0)],
)
def test_the_unusual_shrinks_from_a_thousandth_on_and_is_gone_at_a_tenth_of_it(ood: float, share: float) -> None:
    """Each instrument by its own ood, what is held and what is new alike."""
    context = make_context([0.3, 0.0, 0.0], ood=np.array([ood, 0.5, ood]))
    assert cut("out_of_distribution", [0.3, 0.2, 0.4], context) == pytest.approx([0.3 * share, 0.2, 0.4 * share])


def test_the_unusual_is_named_with_its_number_and_the_usual_is_not() -> None:
    context = make_context([0.0] * 3, ood=np.array([0.99953, 0.5, 0.999999]))
    allowed, clamps = limit_and_explain(np.array([0.2, 0.2, 0.2]), context, make_notes(3))
    assert allowed[1] == 0.2
    assert [[clamp.rule for clamp in of_one] for of_one in clamps] == [
        ["out_of_distribution"],
        [],
        ["out_of_distribution"],
    ]
    assert "(ood 0.99953)" in clamps[0][0].because


def test_without_an_embedding_nothing_is_unusual() -> None:
    """The missing is fresh_data's business."""
    context = make_context([0.0, 0.0], ood=np.array([np.nan, np.nan]))
    assert cut("out_of_distribution", [0.5, 0.5], context) == [0.5, 0.5]


def test_the_decision_path_hands_the_markets_ood_to_the_rules() -> None:
    market = make_market([100.0, 50.0], [1.0, 1.0], [0.5, 0.5])
    usual = decide(make_view(replace(market, ood=np.array([0.5, 0.999]))), None, make_circumstances(2))
    assert (usual.wanted > 0).all()
    unusual = decide(make_view(replace(market, ood=np.array([0.5, 1.0]))), None, make_circumstances(2))
    assert unusual.allowed.tolist() == [usual.allowed[0], 0.0]
    assert unusual.plan.quantity[1] == 0.0
    assert [clamp.rule for clamp in unusual.clamps[1]][-1] == "out_of_distribution"


def test_a_wallet_worth_nothing_is_limited_like_any_other() -> None:
    market = make_market([100.0], [1.0], [0.5])
    view = make_view(market)
    nothing = replace(view.book, cash=0.0, equity=0.0, day_start_equity=0.0, peak_equity=0.0)
    decision = decide(replace(view, book=nothing), None, make_circumstances(1, operator=NO_LIMITS))
    assert 0.0 < decision.allowed[0] <= 0.5
    assert decision.plan.quantity.tolist() == [0.0]
