from __future__ import annotations

import dataclasses
import json
import math
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meta_controller.controller import HORIZONS_S
from meta_controller.market_index import BLOCK_S, DAY_S, MarketHistory, block_start
from meta_controller.outcomes import outcomes
from meta_controller.regimes import hidden_markov, jump_model, quadrant
from meta_controller.regimes.expert import CLASSES, FLOOR, Calls, Expert, Parameters
from meta_controller.regimes.states import (
    FARTHEST,
    KNOTS,
    LEAST_FIT_BARS,
    against_its_past,
    hats,
    in_steps,
    mixture,
    parts_by_block,
    sequences,
    shares,
    trailing_mean,
    trend_score,
)
from shared.rows import FloatArray

EXPERTS = {"quadrant": quadrant.EXPERT, "jump_model": jump_model.EXPERT, "hidden_markov": hidden_markov.EXPERT}
FIRST = 1_600_000_000 // 3600 * 3600
BARS = 6000
experts = pytest.mark.parametrize("name", EXPERTS)


def market(bars: int, step_s: int = 3600, seed: int = 0) -> MarketHistory:
    """Returns of a volatility that wanders for weeks: its logarithm reverts to its mean."""
    rng = np.random.default_rng(seed)
    log_volatility, keep = np.zeros(bars), 0.5 ** (step_s / (7 * DAY_S))
    for n, shock in enumerate(rng.normal(0.0, 0.7 * math.sqrt(1.0 - keep**2), bars - 1)):
        log_volatility[n + 1] = keep * log_volatility[n] + shock
    returns = 0.005 * np.exp(log_volatility) * rng.standard_normal(bars)
    variance = returns**2 * rng.uniform(0.5, 1.5, bars) + 1e-9
    return MarketHistory(FIRST, step_s, returns, variance, np.ones(bars, np.bool_), (0,))


def fit(name: str, past: MarketHistory) -> Parameters:
    """The quadrant has nothing to fit."""
    learn = EXPERTS[name].fit
    found = learn(past) if learn else {}
    assert found is not None
    return found


@cache
def fitted(name: str, bars: int = 5000, step_s: int = 3600) -> Parameters:
    return fit(name, market(bars, step_s))


@cache
def all_calls(name: str) -> Calls:
    return EXPERTS[name].call(market(BARS), fitted(name), BARS)


def check(calls: Calls, bars: int) -> None:
    assert calls.shape == (bars, len(HORIZONS_S), CLASSES)
    assert np.isfinite(calls).all()
    assert calls.min() >= FLOOR
    assert abs(calls.reshape(bars, -1, 3).sum(axis=2) - 1.0).max() < 1e-12


@experts
@settings(max_examples=25, deadline=None)
@given(end=st.integers(200, BARS), bars=st.sampled_from([1, 2, 7, 168]))
def test_a_call_is_the_same_bits_whatever_follows_it_and_however_many_are_asked(name: str, end: int, bars: int) -> None:
    history = market(BARS)
    short = history.upto(history.first + (end - 1) * history.timeframe_s)
    assert len(short) == end
    found = EXPERTS[name].call(short, fitted(name), bars)
    assert np.array_equal(found, all_calls(name)[end - bars : end])


@experts
@pytest.mark.parametrize("step_s", [900, 5 * 3600, 8 * 3600, DAY_S])
def test_bars_of_any_length_are_called(name: str, step_s: int) -> None:
    history, parameters = market(2000, step_s), fitted(name, 2000, step_s)
    whole = EXPERTS[name].call(history, parameters, 300)
    check(whole, 300)
    assert np.array_equal(EXPERTS[name].call(history, parameters, 1), whole[-1:])


@experts
def test_calls_are_probabilities(name: str) -> None:
    check(all_calls(name), BARS)


def flat(history: MarketHistory) -> MarketHistory:
    nothing = np.zeros(len(history))
    return dataclasses.replace(history, returns=nothing, variance=nothing, present=np.zeros(len(history), np.bool_))


def crash(history: MarketHistory) -> MarketHistory:
    returns, variance = history.returns.copy(), history.variance.copy()
    returns[-30] = -20.0 * returns.std()
    variance[-30] = returns[-30] ** 2
    return dataclasses.replace(history, returns=returns, variance=variance)


def gaps(history: MarketHistory) -> MarketHistory:
    present = np.ones(len(history), np.bool_)
    present[-400:-100] = present[200:260] = False
    return dataclasses.replace(history, returns=np.where(present, history.returns, 0.0),
                               variance=np.where(present, history.variance, 0.0), present=present)  # fmt: skip


@experts
@pytest.mark.parametrize("poison", [flat, crash, gaps])
def test_poison_is_called_and_learnt_from(name: str, poison: object) -> None:
    assert callable(poison)
    poisoned = poison(market(3000))
    check(EXPERTS[name].call(poisoned, fitted(name), 600), 600)
    check(EXPERTS[name].call(poisoned, fit(name, poisoned), 600), 600)


@experts
def test_two_hundred_bars_are_called_and_the_shortest_past_is_learnt_from(name: str) -> None:
    check(EXPERTS[name].call(market(200), fitted(name), 168), 168)
    check(EXPERTS[name].call(market(200), fitted(name, LEAST_FIT_BARS), 168), 168)


@pytest.mark.parametrize("name", ["jump_model", "hidden_markov"])
def test_a_past_without_a_known_outcome_is_not_learnt_from(name: str) -> None:
    learn = EXPERTS[name].fit
    assert learn is not None
    assert learn(market(14 * 96 + 96 + 94, step_s=900)) is None  # the first label needs 14 days, and a day to come true
    assert learn(market(14 * 96 + 96 + 95, step_s=900)) is not None


@pytest.mark.parametrize("name", ["jump_model", "hidden_markov"])
def test_parameters_survive_json_to_the_bit_and_are_made_alike_twice(name: str) -> None:
    again = fit(name, market(5000))
    assert json.loads(json.dumps(again)) == again == fitted(name)


@experts
def test_volatility_is_foretold_better_than_by_its_frequencies(name: str) -> None:
    """Out of sample: the parameters are of the first 5,000 bars."""
    history = market(BARS)
    for n, horizon_s in enumerate(HORIZONS_S):
        labels = outcomes(history, horizon_s).volatility
        known = np.arange(5000, BARS - 24)
        found = all_calls(name)[known, n, 3:]
        best = np.bincount(labels[known], minlength=3) / len(known)  # no one could have known these
        gained = np.log(found[np.arange(len(known)), labels[known]]) - np.log(best)[labels[known]]
        assert gained.mean() > 0.03


@pytest.mark.parametrize("name", ["jump_model", "hidden_markov"])
def test_states_are_in_the_order_of_their_volatility_whichever_way_the_market_went(name: str) -> None:
    history = market(4000, seed=1)
    for shape in (history.returns, -history.returns, history.returns[::-1].copy()):
        states = fit(name, dataclasses.replace(history, returns=shape, variance=shape**2))["states"]
        volatility = states["means"] if "means" in states else [centre[0] for centre in states["centres"]]
        assert volatility == sorted(volatility)
        assert volatility[-1] - volatility[0] > 1.0


@experts
def test_only_the_bars_in_reach_matter(name: str) -> None:
    """A week, 30 days of filter and 180 of reference: what came before them is not read."""
    history = market(BARS)
    changed = dataclasses.replace(history, returns=history.returns.copy())
    changed.returns[: BARS - (7 + 30 + 180) * 24 - 1] = 0.1
    one, other = (EXPERTS[name].call(past, fitted(name), 1) for past in (history, changed))
    assert np.array_equal(one, other)


# --- parts, steps, sequences -------------------------------------------------------------------------------------


@given(
    first=st.integers(0, 2 * BLOCK_S), step_s=st.sampled_from([900, 3600, 5 * 3600, DAY_S]), bars=st.integers(1, 900)
)
def test_parts_cover_the_wanted_bars_once_and_begin_by_the_clock(first: int, step_s: int, bars: int) -> None:
    history = dataclasses.replace(market(900, step_s), first=first)
    seen: list[int] = []
    for part in parts_by_block(history, bars, 10 * DAY_S, 20 * DAY_S):
        wanted = part.history.as_of[part.wanted :].tolist()
        seen += wanted
        assert {block_start(as_of) for as_of in wanted} == {block_start(wanted[0])}
        due = block_start(wanted[0]) - 10 * DAY_S  # the filter's first bar closes after it, but for a short history
        filter_from = int(part.history.as_of[part.start])
        assert filter_from == first or due - step_s < filter_from - step_s <= due + step_s
    assert seen == history.as_of[-bars:].tolist()


def test_steps_hold_the_bars_in_order_and_zeros_beyond() -> None:
    steps = in_steps(np.arange(1.0, 8.0)[:, None], 4)
    assert steps[:, :, 0].tolist() == [[1, 2, 3, 4], [5, 6, 7, 0]]


def test_a_sequence_is_every_fourth_bar_of_a_span_and_spans_end_with_the_history() -> None:
    found = sequences(np.arange(35.0)[:, None], 4, 16)
    assert found.shape == (4, 8, 1)
    assert found[:, 0, 0].tolist() == [3, 7, 11, 15]
    assert found[:, 7, 0].tolist() == [22, 26, 30, 34]


def test_less_than_a_span_is_one_sequence_a_bar_of_the_step() -> None:
    assert sequences(np.arange(11.0)[:, None], 4, 16)[:, :, 0].tolist() == [[3, 4, 5, 6], [7, 8, 9, 10]]


# --- features ----------------------------------------------------------------------------------------------------


def test_a_trailing_mean_is_the_mean_of_the_last_values_or_of_all_there_are() -> None:
    values = np.random.default_rng(0).normal(size=50)
    found = trailing_mean(values, 7)
    assert found == pytest.approx([values[max(0, n - 6) : n + 1].mean() for n in range(50)], abs=1e-12)


def test_a_score_is_in_standard_deviations_and_stays_within_bounds() -> None:
    values = np.random.default_rng(0).normal(3.0, 2.0, 5000)
    values[-1] = 1e6
    found = against_its_past(values, 4000)
    last = values[-4001:-1]
    assert found[-2] == pytest.approx((last[-1] - last.mean()) / last.std(), rel=1e-6)
    assert found[-1] == FARTHEST
    assert not against_its_past(np.full(100, 5.0), 50).any()


def test_a_trend_score_is_the_t_statistic_of_the_path() -> None:
    history = market(400)
    r = history.returns[-72:]
    assert trend_score(history, 3 * DAY_S)[-1] == pytest.approx(r.sum() / math.sqrt((r * r).sum()), rel=1e-9)


# --- tables ------------------------------------------------------------------------------------------------------


@given(st.lists(st.floats(-10, 10), min_size=1, max_size=20))
def test_hats_interpolate(levels: list[float]) -> None:
    weights = hats(np.array(levels))
    assert (weights >= 0).all()
    assert weights.sum(axis=1) == pytest.approx(np.ones(len(levels)), abs=1e-12)
    assert weights @ KNOTS == pytest.approx(np.clip(levels, KNOTS[0], KNOTS[-1]), abs=1e-12)


def test_shares_are_frequencies_drawn_to_the_prior_and_unknown_labels_count_for_nothing() -> None:
    weights = np.array([[1.0, 0.0], [1.0, 0.0], [0.5, 0.5], [0.0, 1.0]])
    labels = np.array([0, 0, 2, -1])
    prior = np.array([0.2, 0.3, 0.5])
    found = shares(weights, labels, 1, prior, 2.0)
    assert found[0] == pytest.approx([(2 + 0.4) / 4.5, 0.6 / 4.5, (0.5 + 1.0) / 4.5])
    assert found[1] == pytest.approx([0.4 / 2.5, 0.6 / 2.5, 1.5 / 2.5])
    assert shares(weights, np.full(4, -1), 1, prior, 2.0) == pytest.approx(np.tile(prior, (2, 1)))


def test_labels_that_overlap_count_for_less() -> None:
    weights, labels, prior = np.ones((24, 1)), np.zeros(24, np.int64), np.array([0.0, 0.0, 1.0])
    assert shares(weights, labels, 24, prior, 1.0)[0] == pytest.approx([0.5, 0.0, 0.5])


def test_a_mixture_is_the_matrix_product() -> None:
    rng = np.random.default_rng(0)
    weights: FloatArray = rng.dirichlet(np.ones(5), 9)
    table = rng.dirichlet(np.ones(3), 5)
    assert mixture(weights, table.tolist()) == pytest.approx(weights @ table, abs=1e-15)


def test_experts_say_what_they_need() -> None:
    needs: dict[str, Expert] = EXPERTS
    assert {name: expert.least_bars for name, expert in needs.items()} == {
        "quadrant": 0,
        "jump_model": LEAST_FIT_BARS,
        "hidden_markov": LEAST_FIT_BARS,
    }
