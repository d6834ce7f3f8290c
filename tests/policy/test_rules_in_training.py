"""Training runs every rule as the trader does: on what its own prices say about the past, to the bit."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from policy.canaries.parity import Path, Trace, by_backtest, by_environment, random_path
from policy.risk.context import OFF

RULES: dict[str, dict[str, float]] = {
    "leverage": {"max_leverage": 0.2}, "heat": {"max_heat": 0.03},
    "heat by range": {"max_heat": 0.03, "atr_multiple": 9.0}, "trade_risk": {"trade_risk": 0.02},
    "kelly": {"kelly_win_probability": 0.6}, "concentration": {"max_concentration": 0.02},
    "correlated_exposure": {"max_correlated_exposure": 0.2, "correlated_from": 0.05},
    "value_at_risk": {"max_value_at_risk": 0.005}, "cvar": {"max_cvar": 0.008}, "ladder": {"ladder_from": 0.01},
}  # fmt: skip
TOGETHER = OFF._replace(**{name: value for rule in RULES.values() for name, value in rule.items()})


@pytest.fixture(scope="module")
def path() -> Path:
    """Seventy days of four decisions each, of three instruments, one of them young; nothing stops it half way."""
    drawn = random_path(3, steps=280, step_s=21_600)
    price = drawn.data.price.copy()
    price[:40, 1] = np.nan
    data = replace(drawn.data, price=price, tradable=drawn.data.tradable & np.isfinite(price),
                   complete=drawn.data.complete & np.isfinite(price))  # fmt: skip
    steering = replace(drawn.steering, max_drawdown=1.0, daily_loss_limit=1.0, max_position=0.5, max_exposure=1.0,
                       risk_aversion=0.5, target_volatility=0.8)  # fmt: skip
    terms = replace(drawn.terms, steering=steering, rules=OFF, reach=1.0, max_step=1.0)
    return replace(drawn, data=data, steering=steering, terms=terms, agreement=np.sqrt(drawn.agreement))


@pytest.fixture(scope="module")
def free(path: Path) -> Trace:
    return by_environment(path)


def under(path: Path, **rules: float) -> Path:
    return replace(path, terms=replace(path.terms, rules=OFF._replace(**rules)))


@pytest.mark.parametrize("rule", RULES)
def test_environment_and_backtest_cut_alike_by_each_rule(rule: str, path: Path, free: Trace) -> None:
    bound = under(path, **RULES[rule])
    cut = by_environment(bound)
    assert free.difference(cut) != ""
    assert cut.difference(by_backtest(bound)) == ""


def test_what_a_range_widens_is_cut_by_more(path: Path) -> None:
    fixed, wide = (by_environment(under(path, **RULES[rule])) for rule in ("heat", "heat by range"))
    assert fixed.difference(wide) != ""


def test_environment_and_backtest_cut_alike_by_all_of_them(path: Path) -> None:
    bound = replace(path, terms=replace(path.terms, rules=TOGETHER))
    assert by_environment(bound).difference(by_backtest(bound)) == ""


def test_without_rules_nothing_of_the_past_is_kept(path: Path) -> None:
    from policy.trading_env import data_of

    free, bound = data_of(path.data, OFF), data_of(path.data, TOGETHER)
    for name in ("daily", "ranges", "tails", "correlations"):
        assert len(getattr(free, name)) == 1
        assert len(getattr(bound, name)) == len(path.data)
