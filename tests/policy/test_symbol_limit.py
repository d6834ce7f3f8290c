"""A bound for one symbol: in the settings, in the rule, and in what trader, backtest and training do with it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from policy.decision_path import decide, risk_context
from policy.risk import RULES, limit_and_explain
from policy.risk.context import DEFAULTS, parameters_of, symbol_caps
from policy.trading_env import make_scratch
from shared.settings import RiskSettings, SettingsError, SymbolRisk, load_settings
from tests.policy.synthetic import make_circumstances, make_config, make_context, make_market, make_notes, make_view


def bounded(**most: float) -> RiskSettings:
    """Of symbols in USDT."""
    return RiskSettings(symbols={f"{base}/USDT": SymbolRisk(max_position=share) for base, share in most.items()})


# ── the rule ─────────────────────────────────────────────────────────────────────────────────────────────────
def test_it_cuts_each_at_its_own_bound_and_none_at_one() -> None:
    context = make_context([0.3, 0.3, 0.0, 0.0], symbol_caps=np.array([0.2, 0.2, 1.0, 0.0]))
    weights = np.array([0.2, 0.2000001, 1.0, 0.1])
    RULES["symbol_limit"].apply(weights, context)
    assert weights.tolist() == [0.2, 0.2, 1.0, 0.0]


def test_it_says_which_bound_and_follows_the_bound_of_all() -> None:
    context = make_context([0.0, 0.0], max_position=0.4, symbol_caps=np.array([0.25, 1.0]))
    allowed, clamps = limit_and_explain(np.array([0.5, 0.5]), context, make_notes(2))
    assert allowed.tolist() == [0.25, 0.4]
    first, second = clamps[0]
    assert (first.rule, first.before, first.after) == ("max_position", 0.5, 0.4)
    assert (second.rule, second.before, second.after) == ("symbol_limit", 0.4, 0.25)
    assert second.because == "a position of this symbol may be at most 0.25 of equity"
    assert [clamp.rule for clamp in clamps[1]] == ["max_position"]


def test_the_decision_path_hands_it_over_and_without_one_there_is_none() -> None:
    config = make_config(strategy_weights={"rebalanced_hold": 1.0})
    view = make_view(make_market([100.0, 50.0], [0.0, 0.0], [0.5, 0.5], config=config))
    free, caps = make_circumstances(2), np.array([1.0, 0.125])
    assert risk_context(view, free).symbol_caps.tolist() == [1.0, 1.0]
    assert decide(view, None, free).allowed.tolist() == [0.5, 0.5]
    assert decide(view, None, replace(free, symbol_caps=caps)).allowed.tolist() == [0.5, 0.125]


# ── the settings ─────────────────────────────────────────────────────────────────────────────────────────────
def test_the_bounds_come_in_the_order_of_the_instruments() -> None:
    caps = symbol_caps(bounded(BTC=0.2, ETH=0.0), ["ETH/USDT", "SOL/USDT", "BTC/USDT"])
    assert caps.tolist() == [0.0, 1.0, 0.2]
    assert symbol_caps(RiskSettings(), ["BTC/USDT"]).tolist() == [1.0]


def test_a_bound_may_be_set_as_any_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_settings().risk.symbols == {}
    monkeypatch.setenv("SEXTANT_RISK__SYMBOLS", '{"ETH/USDT": {"max_position": 0.1}}')
    assert load_settings().risk.symbols == {"ETH/USDT": SymbolRisk(max_position=0.1)}


@pytest.mark.parametrize(
    ("symbols", "told"),
    [
        ({"BTC/USDT": {}, "BCT/USDT": {}}, "bounds BCT/USDT; universe.symbols knows BTC/USDT, ETH/USDT: correct"),
        ({"BTC/USDT": {"max_position": 0.51}}, "bad value for risk.symbols.BTC/USDT.max_position"),
        ({"BTC/USDT": {"min_position": 0.1}}, "unknown setting risk.symbols.BTC/USDT.min_position; allowed here: max_"),
        ({"btc": {}}, "bad value for risk.symbols.btc"),
    ],
)
def test_a_bound_that_would_bound_nothing_is_refused(symbols: dict[str, object], told: str) -> None:
    with pytest.raises(SettingsError) as refused:
        load_settings(risk={"symbols": symbols})
    assert told in str(refused.value)


def test_other_faults_are_told_beside_it() -> None:
    """A universe that cannot be read knows no symbols: what bounds them is not its fault."""
    with pytest.raises(SettingsError) as refused:
        load_settings(universe={"symbols": []}, risk={"symbols": {"BTC/USDT": {}}})
    assert "universe.symbols" in str(refused.value)
    assert "bounds" not in str(refused.value)


def test_training_knows_no_symbols() -> None:
    assert make_scratch(3, 5).symbol_caps.tolist() == [1.0, 1.0, 1.0]


def test_the_operators_numbers_are_the_rules_defaults_until_he_sets_others() -> None:
    assert parameters_of(RiskSettings()) == DEFAULTS
    assert parameters_of(RiskSettings(max_heat=0.1)) == DEFAULTS._replace(max_heat=0.1)
