"""What every risk rule must keep, whatever it looks at; and each rule exactly at its limit."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from policy.decision_path import Circumstances, decide
from policy.execution.plan import TradingRules
from policy.risk import RULES, limit
from policy.risk.context import NO_LIMITS, RiskContext
from policy.signals import Signal
from tests.policy.synthetic import SHARES, make_book, make_config, make_context, make_view, risk_contexts

RULES_OF_TRADING = TradingRules(np.full(2, 0.01), np.full(2, 1e-5), np.full(2, 10.0), 0.02, float("inf"))

CASES = st.integers(1, 4).flatmap(
    lambda n: st.tuples(st.lists(SHARES, min_size=n, max_size=n).map(np.array), risk_contexts(n))
)
Case = tuple[np.ndarray, RiskContext]
SCALING = ("out_of_distribution",)  # cuts by a factor, not down to a bound


@pytest.mark.parametrize("name", RULES)
@given(CASES)
def test_a_rule_never_enlarges_a_position_nor_goes_short(name: str, case: Case) -> None:
    proposed, context = case
    before = proposed.copy()
    allowed, because = RULES[name](proposed, context)
    assert allowed.shape == proposed.shape
    assert (allowed >= 0).all()
    assert (allowed <= proposed).all()
    assert isinstance(because, str)
    assert (proposed == before).all()  # a rule is pure


@pytest.mark.parametrize("name", RULES)
@given(CASES)
def test_a_rule_never_blocks_an_exit(name: str, case: Case) -> None:
    """Whoever wants to hold less than it holds, down to nothing, never ends up holding more than it asked for,
    and who wants nothing gets nothing."""
    proposed, context = case
    less = np.minimum(proposed, np.maximum(context.held_weights, 0.0)) / 2
    assert (RULES[name](less, context)[0] <= less).all()
    assert not RULES[name](np.zeros_like(less), context)[0].any()


@pytest.mark.parametrize("name", RULES)
@given(CASES)
def test_a_rule_that_cuts_says_why(name: str, case: Case) -> None:
    proposed, context = case
    allowed, because = RULES[name](proposed, context)
    assert because or (allowed == proposed).all()


@pytest.mark.parametrize("name", [name for name in RULES if name not in SCALING])
@given(CASES)
def test_cutting_again_changes_nothing(name: str, case: Case) -> None:
    proposed, context = case
    allowed, _ = RULES[name](proposed, context)
    again, _ = RULES[name](allowed, context)
    np.testing.assert_allclose(again, allowed, rtol=1e-12, atol=1e-300)


@pytest.mark.parametrize("name", SCALING)
@given(CASES)
def test_a_scaling_rule_takes_the_same_share_of_every_proposal(name: str, case: Case) -> None:
    """Whatever is wanted: so it never turns a smaller wish into a larger position."""
    proposed, context = case
    share, _ = RULES[name](np.ones_like(proposed), context)
    np.testing.assert_allclose(RULES[name](proposed, context)[0], share * proposed, rtol=1e-12, atol=1e-300)


@given(CASES)
def test_the_chain_records_each_cut_from_what_was_wanted_to_what_is_allowed(case: Case) -> None:
    wanted, context = case
    allowed, clamps = limit(wanted, context)
    assert ((allowed >= 0) & (allowed <= wanted)).all()
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
    allowed, _ = limit(wanted, context)
    assert allowed.max() <= min(context.config.max_position, context.operator.max_position)
    assert allowed.sum() <= min(context.config.max_exposure, context.operator.max_exposure) + 1e-12
    if context.wallet_paused or context.config.pause or context.doubts:
        assert (allowed <= np.maximum(context.held_weights, 0.0)).all()


@given(CASES, st.sampled_from(["max_position", "daily_loss_limit", "max_drawdown"]), st.booleans())
def test_a_stricter_bound_never_allows_more(case: Case, bound: str, of_operator: bool) -> None:
    """Of every bound but max_exposure, whose scaling shares what another bound freed."""
    wanted, context = case
    roomy = replace(
        context, operator=replace(context.operator, max_exposure=9), config=replace(context.config, max_exposure=9)
    )
    whose = roomy.operator if of_operator else roomy.config
    half = replace(whose, **{bound: getattr(whose, bound) / 2})
    stricter = replace(roomy, operator=half) if of_operator else replace(roomy, config=half)
    assert (limit(wanted, stricter)[0] <= limit(wanted, roomy)[0]).all()


def cut(name: str, wanted: list[float], context: RiskContext) -> list[float]:
    return [float(weight) for weight in RULES[name](np.array(wanted), context)[0]]


@pytest.mark.parametrize("whose", ["config", "operator"])
def test_max_position_at_its_limit(whose: str) -> None:
    caps = {"config": 1.0, "operator": 1.0} | {whose: 0.3}
    config, operator = make_config(max_position=caps["config"]), replace(NO_LIMITS, max_position=caps["operator"])
    context = make_context([0.0, 0.0, 0.0], config=config, operator=operator)
    assert cut("max_position", [0.3, 0.3000001, 0.1], context) == [0.3, 0.3, 0.1]


@pytest.mark.parametrize("whose", ["config", "operator"])
def test_max_exposure_at_its_limit(whose: str) -> None:
    caps = {"config": 1.0, "operator": 1.0} | {whose: 0.5}
    config, operator = make_config(max_exposure=caps["config"]), replace(NO_LIMITS, max_exposure=caps["operator"])
    context = make_context([0.0, 0.0], config=config, operator=operator)
    assert cut("max_exposure", [0.25, 0.25], context) == [0.25, 0.25]
    assert cut("max_exposure", [0.75, 0.25], context) == [0.375, 0.125]  # alike
    assert cut("max_exposure", [0.0, 0.0], context) == [0.0, 0.0]
    assert cut("max_exposure", [0.5, 0.5], replace(context, operator=replace(NO_LIMITS, max_exposure=0.0))) == [0, 0]


@pytest.mark.parametrize("whose", ["config", "operator"])
def test_daily_loss_at_its_limit(whose: str) -> None:
    """At the limit no entries: what is held may stay or shrink."""
    context = make_context([0.2, 0.0])
    config, operator = make_config(daily_loss_limit=0.125 if whose == "config" else 1.0), NO_LIMITS
    bounds = {"config": config, "operator": replace(operator, daily_loss_limit=1.0 if whose == "config" else 0.125)}
    for equity, allowed in ((875.001, [0.5, 0.5]), (875.0, [0.2, 0.0]), (100.0, [0.2, 0.0]), (2000.0, [0.5, 0.5])):
        book = replace(context.book, equity=equity, day_start_equity=1000.0)
        assert cut("daily_loss", [0.5, 0.5], replace(context, book=book, **bounds)) == allowed
    assert cut("daily_loss", [0.1, 0.0], replace(context, book=book, **bounds)) == [0.1, 0.0]


@pytest.mark.parametrize("whose", ["config", "operator"])
def test_max_drawdown_at_its_limit(whose: str) -> None:
    """At the limit into cash, whatever is held."""
    context = make_context([0.2, 0.0])
    config, operator = make_config(max_drawdown=0.25 if whose == "config" else 1.0), NO_LIMITS
    bounds = {"config": config, "operator": replace(operator, max_drawdown=1.0 if whose == "config" else 0.25)}
    for equity, allowed in ((750.001, [0.5, 0.1]), (750.0, [0.0, 0.0]), (10.0, [0.0, 0.0])):
        book = replace(context.book, equity=equity, peak_equity=1000.0)
        assert cut("max_drawdown", [0.5, 0.1], replace(context, book=book, **bounds)) == allowed


@pytest.mark.parametrize(
    ("rule", "changes", "because"),
    [
        ("pause", {"wallet_paused": True}, "paused by its operator"),
        ("pause", {"config": make_config(pause=True)}, "policy_config says pause"),
        ("fresh_data", {"doubts": "no embeddings"}, "no embeddings"),
    ],
)
def test_no_entries_is_the_lesser_of_what_is_proposed_and_what_is_held(
    rule: str, changes: dict[str, object], because: str
) -> None:
    context = make_context([0.3, 0.3, 0.0])
    assert cut(rule, [0.5, 0.1, 0.2], context) == [0.5, 0.1, 0.2]
    allowed, why = RULES[rule](np.array([0.5, 0.1, 0.2]), replace(context, **changes))
    assert allowed.tolist() == [0.3, 0.1, 0.0]
    assert because in why


@pytest.mark.parametrize(
    ("ood", "share"),
    [(0.0, 1.0), (0.99, 1.0), (0.999, 1.0), (0.99945, 0.5), (0.99981, 0.1), (0.9999, 0.0), (0.999999, 0.0), (1.0, 0.0)],
)
def test_the_unusual_shrinks_from_a_thousandth_on_and_is_gone_at_a_tenth_of_it(ood: float, share: float) -> None:
    """Each instrument by its own ood, what is held and what is new alike."""
    context = make_context([0.3, 0.0, 0.0], ood=np.array([ood, 0.5, ood]))
    assert cut("out_of_distribution", [0.3, 0.2, 0.4], context) == pytest.approx([0.3 * share, 0.2, 0.4 * share])


def test_the_unusual_is_named_with_its_numbers_and_the_usual_is_not() -> None:
    context = make_context([0.0] * 3, ood=np.array([0.99953, 0.5, 0.999999]))
    allowed, clamps = limit(np.array([0.2, 0.2, 0.2]), context)
    assert allowed[1] == 0.2
    assert [[clamp.rule for clamp in of_one] for of_one in clamps] == [
        ["out_of_distribution"],
        [],
        ["out_of_distribution"],
    ]
    assert "(ood 0.99953, 0.999999)" in clamps[0][0].because


def test_without_embeddings_nothing_is_unusual() -> None:
    """The missing is fresh_data's business."""
    context = make_context([0.0, 0.0], ood=None)
    assert cut("out_of_distribution", [0.5, 0.5], context) == [0.5, 0.5]


def test_the_decision_path_hands_the_views_ood_to_the_rules() -> None:
    signals = [Signal(100.0, 1.0, 0.2), Signal(50.0, 1.0, 0.2)]
    view = make_view(signals, make_config(max_position=0.5), make_book([0.0, 0.0], [100.0, 50.0]))
    circumstances = Circumstances(NO_LIMITS, RULES_OF_TRADING, np.zeros(2, bool), np.ones(2, bool), False, "")
    usual = decide(replace(view, ood=np.array([0.5, 0.999])), None, circumstances)
    assert (usual.wanted > 0).all()
    unusual = decide(replace(view, ood=np.array([0.5, 1.0])), None, circumstances)
    assert unusual.allowed.tolist() == [usual.allowed[0], 0.0]
    assert unusual.plan.quantity[1] == 0.0
    assert [clamp.rule for clamp in unusual.clamps[1]][-1] == "out_of_distribution"


def test_a_wallet_worth_nothing_is_limited_like_any_other() -> None:
    context = make_context([0.0], held_weights=np.zeros(1))
    nothing = replace(context.book, cash=0.0, equity=0.0, day_start_equity=0.0, peak_equity=0.0)
    allowed, _ = limit(np.array([0.5]), replace(context, book=nothing))
    assert 0.0 <= allowed[0] <= 0.5
