"""Observe, decide, blend, limit, plan: the same bits in the trader and, compiled, in training and backtest."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from policy import compiled_path, decision_kernel
from policy.decision_path import Circumstances, decide, observe, risk_context
from policy.inputs import NO_EMBEDDING
from policy.observation import (
    CONFIG_LOW,
    CONFIG_SPAN,
    HORIZONS_S,
    OBSERVATION_SIZE,
    View,
    observation_hash,
    observation_names,
    policy_schema,
)
from policy.risk import limit
from policy.risk.context import RiskContext
from policy.strategies import BASELINE, drl, trend_vol_target
from policy.strategies.residual import Residual
from shared.rows import POLICY_CONFIG_BOUNDS, FloatArray
from tests.policy.synthetic import (
    SHARES,
    asked,
    circumstances,
    columns,
    make_book,
    make_circumstances,
    make_config,
    make_market,
    make_state,
    make_view,
    risk_contexts,
    said,
    steered,
    views,
)

NAMES = observation_names()
COMPILED = settings(max_examples=150, deadline=None)  # the first call compiles
Situation = tuple[View, Residual, Circumstances]


@st.composite
def situations(draw: st.DrawFn) -> Situation:
    view, residual = draw(asked())
    return view, residual, draw(circumstances(len(view.market.trend)))


def two(**changes: object) -> View:
    """Two instruments, one of them held."""
    market = make_market([100.0, 50.0], [0.5, -0.3], [0.6, 0.9], seed=3)
    book = make_book([2.0, 0.0], [100.0, 50.0], cash=800.0, peak_equity=1250.0, day_start_equity=980.0)
    return replace(make_view(market, book), **changes)  # type: ignore[arg-type]


# ── the observation ──────────────────────────────────────────────────────────────────────────────────────────
def test_the_observation_by_hand() -> None:
    view = steered(two(), risk_aversion=2.0, target_volatility=0.5, max_position=0.4)
    row = dict(zip(NAMES, observe(view)[0].tolist(), strict=True))
    market, full = view.market, 0.5 / (0.6 * np.sqrt(3.2)) / 2.0
    assert row["ood"] == pytest.approx(market.ood[0])
    assert row["trend"] == pytest.approx(0.5)
    assert row["log_volatility"] == pytest.approx(np.log(0.6 / 0.5), rel=1e-6)
    assert row["p_up_less_p_down[14400]"] == pytest.approx(0.3)
    assert row["config.risk_aversion"] == pytest.approx((2.0 - 0.5) / 9.5)
    assert row["config.max_position"] == pytest.approx(0.8)
    assert row["book.own_share"] == pytest.approx(0.2 / full)
    assert row["book.exposure_share"] == pytest.approx(0.2 / (full * (1 + 0.6 / 0.9)))
    assert row["book.drawdown"] == pytest.approx(-0.2 / 0.25)
    assert row["book.day_return"] == pytest.approx((1000 / 980 - 1) / 0.25 * np.sqrt(365), rel=1e-6)
    assert row["book.cost"] == pytest.approx(100 * 0.0045 / 0.6 * 0.5)
    embedding = np.array([row[f"embedding[{k}]"] for k in range(64)])
    assert np.linalg.norm(embedding) == pytest.approx(8.0, rel=1e-6)


@given(views())
def test_an_observation_is_within_its_limits_and_rows_of_incomplete_instruments_are_zeros(view: View) -> None:
    seen = observe(view)
    assert seen.shape == (len(view.market.trend), OBSERVATION_SIZE)
    assert seen.dtype == np.float32
    assert (np.abs(seen) <= 5.0).all()
    assert not seen[~view.market.complete].any()


ABLATIONS = {
    "embedding": lambda view: change_market(view, seed=4),
    "ood": lambda view: change_market(view, ood=np.array([0.1, 0.2])),
    "trend": lambda view: change_market(view, trend=[0.4, 0.1]),
    "log_volatility": lambda view: change_market(view, volatility=[0.7, 0.8]),
    "p_up_less_p_down[14400]": lambda view: change_state(view, 0, p_up=0.6, p_flat=0.2),
    "p_vol_high[14400]": lambda view: change_state(view, 0, p_vol_high=0.4, p_vol_mid=0.4),
    "p_vol_low[86400]": lambda view: change_state(view, 1, p_vol_low=0.3, p_vol_mid=0.4),
    "config.risk_aversion": lambda view: steered(view, risk_aversion=3.0),
    "config.turnover_penalty": lambda view: steered(view, turnover_penalty=3.0),
    "config.drawdown_penalty": lambda view: steered(view, drawdown_penalty=3.0),
    "config.target_volatility": lambda view: steered(view, target_volatility=0.5),
    "config.max_exposure": lambda view: steered(view, max_exposure=0.5),
    "config.max_position": lambda view: steered(view, max_position=0.25),
    "book.own_share": lambda view: replace(view, book=replace(view.book, held=np.array([3.0, 1.0]))),
    "book.exposure_share": lambda view: replace(view, book=replace(view.book, held=np.array([2.0, 4.0]))),
    "book.drawdown": lambda view: replace(view, book=replace(view.book, peak_equity=2000.0)),
    "book.day_return": lambda view: replace(view, book=replace(view.book, day_start_equity=1010.0)),
    "book.cost": lambda view: replace(view, cost=0.001),
}


def change_market(view: View, seed: int = 3, **changes: object) -> View:
    """The same two instruments with something else known of them; ``ood`` goes into the block as it would."""
    known = {"prices": [100.0, 50.0], "trend": [0.5, -0.3], "volatility": [0.6, 0.9]}
    ood = changes.pop("ood", None)
    market = make_market(**(known | changes), seed=seed)  # type: ignore[arg-type]
    if ood is not None:
        market.block[:, NAMES.index("ood")] = ood
    return replace(view, market=replace(market, config=view.market.config))


def change_state(view: View, which: int, **changes: float) -> View:
    state = make_state(HORIZONS_S[which], **changes)
    numbers = (state.p_up - state.p_down, state.p_vol_low, state.p_vol_high)
    block = view.market.block.copy()
    block[:, 67 + 3 * which : 70 + 3 * which] = numbers
    return replace(view, market=replace(view.market, block=block))


@pytest.mark.parametrize("name", ABLATIONS)
def test_each_block_of_what_is_known_is_seen(name: str) -> None:
    """And nothing else of the market moves when only one field of steering, book or state does."""
    before, after = observe(two()), observe(ABLATIONS[name](two()))
    moved = {NAMES[k] for k in np.flatnonzero((before != after).any(axis=0))}
    assert name in {field.partition("[")[0] if field.startswith("embedding") else field for field in moved}
    if name.startswith(("book.", "p_")):
        assert {field.partition(".")[0] for field in moved} <= {name.partition(".")[0]}
    assert observation_hash(before) != observation_hash(after)


def test_one_instruments_row_does_not_depend_on_what_else_is_traded_but_for_the_shares() -> None:
    """So one model serves any portfolio: only the book's shares know how many share the risk."""
    both = observe(two())
    alone = make_view(make_market([100.0], [0.5], [0.6], seed=3), replace(two().book, held=np.array([2.0])))
    differing = {NAMES[k] for k in np.flatnonzero(observe(alone)[0] != both[0])}
    assert differing <= {"book.own_share", "book.exposure_share", "ood"}, "ood is drawn per market here"


def test_the_schema_names_everything_and_changes_with_it() -> None:
    schema = policy_schema(3600, "abc", 0.5)
    assert len(schema["observation"]) == OBSERVATION_SIZE == len(set(schema["observation"]))
    assert set(schema["config_seen_as_0_and_1"]) < set(POLICY_CONFIG_BOUNDS)
    assert set(schema["not_shown"]) < set(schema["observation"])
    for other in (policy_schema(300, "abc", 0.5), policy_schema(3600, "abd", 0.5), policy_schema(3600, "abc", 1.0)):
        assert other != schema


# ── the decision ─────────────────────────────────────────────────────────────────────────────────────────────
@given(situations())
def test_a_decision_keeps_what_its_parts_promise(situation: Situation) -> None:
    view, residual, state = situation
    asked_with = []

    def act(observation: np.ndarray) -> Residual:  # type: ignore[type-arg]
        asked_with.append(observation)
        return residual

    decision = decide(view, act, state)
    assert ((decision.allowed >= 0) & (decision.allowed <= decision.wanted)).all()
    assert decision.baseline.tolist() == trend_vol_target.wanted_weights(view).tolist()
    seen = bool(view.market.complete.any())
    assert len(asked_with) == seen
    assert (decision.source, decision.residual) == (("policy", residual) if seen else (BASELINE, None))
    assert decision.observation_hash == (observation_hash(observe(view)) if seen else None)
    parts = sum(decision.contributions.values())
    np.testing.assert_allclose(np.clip(parts, 0, 1), decision.wanted, atol=1e-15)
    blocked = state.in_flight | ~view.market.tradable
    assert not decision.plan.quantity[blocked].any()
    for doubt, quantity in zip(state.doubts, decision.plan.quantity.tolist(), strict=True):
        assert not doubt or quantity <= 0.0


def test_an_instrument_without_an_embedding_follows_the_baseline_and_the_others_the_policy() -> None:
    market = make_market([100.0, 100.0], [0.5, 0.5], [0.6, 0.6], complete=[True, False])
    view = make_view(market)
    state = make_circumstances(2, doubts=("", NO_EMBEDDING))
    decision = decide(view, lambda _: said([1.0, 1.0], agreement=[0.9, 0.9]), state)
    baseline = trend_vol_target.wanted_weights(view)
    assert decision.wanted[0] > baseline[0]
    assert decision.wanted[1] == baseline[1] > 0
    assert (decision.plan.quantity[0] > 0, decision.plan.quantity[1]) == (True, 0.0)


def test_an_unpriced_instrument_is_left_alone_and_the_others_are_traded() -> None:
    market = make_market([100.0, np.nan], [0.5, 0.0], [0.6, 0.0], complete=[True, False])
    view = make_view(replace(market, tradable=np.array([True, False])))
    decision = decide(view, lambda _: said([0.5, 0.5]), make_circumstances(2, doubts=("", "no usable candles")))
    assert np.isfinite(decision.allowed).all()
    assert decision.plan.quantity[0] > 0
    assert (decision.plan.quantity[1], decision.plan.reasons[1]) == (0.0, "its newest candle is missing")


def test_without_a_model_or_anything_seen_the_baseline_decides() -> None:
    view = two()
    without = decide(view, None, make_circumstances(2))
    assert (without.source, without.residual) == (BASELINE, None)
    blind = replace(view, market=replace(view.market, complete=np.zeros(2, dtype=bool)))
    unseen = decide(blind, lambda _: pytest.fail("nothing was seen"), make_circumstances(2))
    assert unseen.wanted.tolist() == without.wanted.tolist() == without.baseline.tolist()
    assert unseen.observation_hash is None


# ── the same, compiled ───────────────────────────────────────────────────────────────────────────────────────
@given(situations())
@COMPILED
def test_the_compiled_path_decides_the_same_bit_for_bit(situation: Situation) -> None:
    """Observation, wanted and allowed weights, orders and their reasons."""
    view, residual, state = situation
    market, book, rules, n = view.market, view.book, state.rules, len(view.market.trend)
    assume((book.held / rules.lot).max() < 2**62)  # lots are counted in int64, far beyond the kernel's stated limit
    config = replace(market.config, strategy_weights={"drl": 1.0})
    view = replace(view, market=replace(market, config=config, complete=np.ones(n, dtype=bool)))
    decision = decide(view, lambda _: residual, state)

    weights, wanted = np.zeros(n), np.zeros(n)
    compiled_path.weigh(book.held, market.prices, book.equity, weights)
    assert weights.tobytes() == book.weights(market.prices).tobytes()
    observation = np.zeros((n, OBSERVATION_SIZE), np.float32)
    compiled_path.observe_book(
        market.block, market.trend, market.volatility, view.market.complete, weights, book.drawdown, book.day_return,
        view.cost, view.steering, CONFIG_LOW, CONFIG_SPAN, observation,
    )  # fmt: skip
    assert observation.tobytes() == observe(view).tobytes()
    compiled_path.want(
        market.trend, market.volatility, residual.action, residual.agreement, residual.reach, view.steering, wanted
    )
    plain = drl.wanted_weights(view, residual)
    assert plain is not None
    assert wanted.tobytes() == plain.tobytes()
    assert wanted.tolist() == decision.wanted.tolist()  # 0.0 where the blend has turned a -0.0 round
    allowed = decision.wanted.copy()
    compiled_path.limit(allowed, risk_context(view, state, residual))
    assert allowed.tobytes() == decision.allowed.tobytes()
    quantity, reason = np.zeros(n), np.zeros(n, dtype=np.int64)
    compiled_path.plan_orders(
        allowed, weights, book.held, book.equity, market.prices, market.volatility, rules.lot, rules.min_notional,
        rules.max_order_notional, state.in_flight, market.tradable, view.steering, quantity, reason,
    )  # fmt: skip
    assert quantity.tobytes() == decision.plan.quantity.tobytes()
    assert ((reason == decision_kernel.BUY) == (quantity > 0)).all()
    assert ((reason == decision_kernel.SELL) == (quantity < 0)).all()


@given(st.integers(1, 4).flatmap(lambda n: st.tuples(columns(SHARES, n), risk_contexts(n))))
@COMPILED
def test_the_compiled_rules_are_the_plain_ones(case: tuple[FloatArray, RiskContext]) -> None:
    proposed, context = case
    plain, compiled = proposed.copy(), proposed.copy()
    limit(plain, context)
    compiled_path.limit(compiled, context)
    assert plain.tobytes() == compiled.tobytes()


def test_the_day_starts_with_the_last_equity_at_or_before_midnight() -> None:
    hour, day = 3600, 86_400
    start = decision_kernel.day_start_equity
    assert start(10 * day, 7.0, 10 * day - hour, 5.0, 3.0) == 7.0
    assert start(10 * day + hour, 7.0, 10 * day, 5.0, 3.0) == 3.0
    assert start(10 * day + hour, 7.0, 10 * day - hour, 5.0, 3.0) == 5.0, "midnight itself was not decided at"


def test_a_config_that_pauses_stops_entries_whatever_is_wanted() -> None:
    market = make_market([100.0], [1.0], [0.5], config=make_config(pause=True))
    decision = decide(make_view(market), lambda _: said([1.0]), make_circumstances(1))
    assert decision.wanted[0] > 0
    assert decision.plan.quantity.tolist() == [0.0]
