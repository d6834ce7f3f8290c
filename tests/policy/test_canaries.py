"""Short forms of the canaries, each shown to be red when what it watches over is broken."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from policy.canaries import fees, oracle, parity, proofs
from policy.canaries.cells import Cell, run_cells
from policy.canaries.findings import Finding, table
from policy.canaries.known_answer import free_steering, make_market, optimal_act, training_terms
from policy.canaries.null import NullResult, judge_null, null_market
from policy.canaries.proofs import null_findings, parity_findings, prove_known_answer, prove_oracle, value_findings
from policy.simulator import Costs


def by_name(findings: list[Finding]) -> dict[str, Finding]:
    return {f"{one.canary}: {one.name}": one for one in findings}


# ── oracle ───────────────────────────────────────────────────────────────────────────────────────────────────
def test_a_leaked_return_becomes_profit() -> None:
    found = by_name(prove_oracle(instruments=2, pathwise_steps=60, ppo_steps=0))
    assert found["oracle: net profit ÷ optimum at 10 bps"].value > 0.85
    assert all(one.passed for name, one in found.items() if name.startswith("fees"))


def test_the_oracle_gives_all_to_the_optimum_and_nothing_to_who_holds() -> None:
    market = oracle.leaking_market(2401, 1)
    cells = [Cell(free_steering(), Costs(bps, 0.0, 0.0)) for bps in oracle.COSTS_BPS]
    assert oracle.captured(optimal_act(market, cells), market) == pytest.approx([1.0, 1.0])
    assert (oracle.captured(lambda o: np.full(o.shape[:2], 0.5), market) < 0.3).all()


def test_what_is_leaked_is_the_next_return() -> None:
    market = oracle.leaking_market(20_000, 2)
    entry, price = market.data.block[:-1, 0, 0], market.data.price[:, 0]
    assert np.corrcoef(entry, np.diff(np.log(price)))[0, 1] == pytest.approx(oracle.INFORMATION, abs=0.02)
    assert abs(np.corrcoef(entry[1:], np.diff(np.log(price))[:-1])[0, 1]) < 0.03


# ── known answer ─────────────────────────────────────────────────────────────────────────────────────────────
def test_a_short_training_knows_most_of_the_answer() -> None:
    short = replace(proofs.KNOWN["AR(1), IC 0.1"], pathwise_steps=60, books=128, instruments=2, test_steps=6001)
    found = by_name(prove_known_answer("short", short))
    assert found["known answer: short, value ÷ optimum"].value > 0.75


def test_a_policy_that_does_not_look_is_red() -> None:
    from policy.canaries.known_answer import grid, judge

    market = make_market(3001, 0.1, 0.97, 5)
    judged = judge(lambda o: np.full(o.shape[:2], 0.5), market, grid(free_steering(), (1.0,)))
    assert not any(one.passed for one in value_findings("blind", judged))


# ── null ─────────────────────────────────────────────────────────────────────────────────────────────────────
def test_a_null_market_says_nothing_of_the_next_return_but_its_size() -> None:
    data = null_market(1, 6000)
    simple = data.price[1:] / data.price[:-1] - 1.0
    assert simple.mean(axis=0) == pytest.approx(0.0, abs=1e-5)
    for known in (data.trend[:-1], data.block[:-1, :, 0], data.block[:-1, :, 5]):
        assert abs(np.corrcoef(known.ravel(), simple.ravel())[0, 1]) < 0.03
    assert np.corrcoef(data.volatility[:-1].ravel(), np.abs(simple).ravel())[0, 1] > 0.15


def test_nobody_beats_the_baseline_where_there_is_nothing_to_know() -> None:
    result = judge_null(4, pathwise_steps=10, ppo_steps=0, train_days=120, test_days=90)
    assert result.gross_word != "beats"
    assert result.turnover[1] > 0.0


def null(seed: int, **changes: Any) -> NullResult:
    plain = NullResult(seed, "not worse", 0.5, "not worse", 0.0, 0.05, "pathwise", (5.0, 10.0), (0.1, 0.2))
    return replace(plain, **changes)


@pytest.mark.parametrize(
    ("broken", "red"),
    [
        ([], set()),
        ([null(1, gross_word="beats")], set()),
        ([null(1, gross_word="beats"), null(2, gross_word="beats")], {"of 20 markets, baseline beaten"}),
        ([null(k, word="beats", earns=0.8) for k in range(4)], set()),
        ([null(k, word="beats", earns=0.95) for k in range(2)], {"of 20 markets, promoted"}),
        ([null(1, gross=0.8)], {"return above the baseline, standard errors"}),
        ([null(1, turnover=(300.0, 10.0))], {"turnover ÷ baseline's"}),
        ([null(1, exposure=(9.0, 0.2))], {"exposure ÷ baseline's"}),
    ],
)
def test_null_is_red_for_more_than_one_winner_a_drift_of_all_or_wild_trading(
    broken: list[NullResult], red: set[str]
) -> None:
    results = broken + [null(seed) for seed in range(10, 30 - len(broken))]
    assert {one.name for one in null_findings(results) if not one.passed} == red


# ── parity ───────────────────────────────────────────────────────────────────────────────────────────────────
def test_environment_and_backtest_are_the_same_to_the_bit() -> None:
    assert list(parity.differences(range(30))) == []
    fills = [len(parity.by_environment(parity.random_path(seed)).fills) for seed in range(30)]
    assert np.mean(fills) > 15, "a test of parity needs trades"


@pytest.mark.parametrize("change", ["delay", "fee", "limit"])
def test_a_difference_is_found_and_named(change: str) -> None:
    path = parity.random_path(3)
    costs, (delay,) = path.terms.costs, path.terms.delays_s
    assert costs is not None
    other = {
        "delay": replace(path.terms, delays_s=(delay + 3600,)),
        "fee": replace(path.terms, costs=replace(costs, fee_bps=costs.fee_bps + 1e-7)),
        "limit": replace(path.terms, max_step=0.01),
    }[change]
    found = parity.by_environment(path).difference(parity.by_backtest(replace(path, terms=other)))
    assert found, "two different worlds looked the same"
    assert not parity_findings([(1, [f"path 3: {found}"])])[0].passed


# ── fees ─────────────────────────────────────────────────────────────────────────────────────────────────────
def test_the_optimum_trades_less_at_higher_fees_and_who_does_the_reverse_is_red() -> None:
    market = make_market(2401, 0.1, 0.97, 6)
    cells = [Cell(free_steering(), Costs(bps, 0.0, 0.0)) for bps in fees.FEES_BPS]
    act = optimal_act(market, cells)
    traded = fees.turnover_by_fee(market.data, act, training_terms(), free_steering(), [0, 1200], 1100)
    assert fees.largest_rise(traded) < 0.0
    assert fees.largest_rise(traded[::-1]) > fees.ROUNDING


def test_the_same_weights_never_earn_more_at_a_higher_fee() -> None:
    market = make_market(1201, 0.1, 0.97, 7)
    weights = np.random.default_rng(0).uniform(0.0, 0.5, (1200, 1))
    profits = fees.profit_by_fee(market.data.part(0, 1200), weights)
    assert fees.largest_rise(profits) < 0.0


# ── what they have in common ─────────────────────────────────────────────────────────────────────────────────
def test_cells_are_books_of_their_own() -> None:
    market = make_market(301, 0.1, 0.97, 8)
    cells = [Cell(free_steering(risk_aversion=risk), Costs(0.0, 0.0, 0.0)) for risk in (1.0, 2.0)]
    run = run_cells(market.data, lambda o: np.full(o.shape[:2], 0.5), training_terms(), cells, [0, 100], 100)
    assert run.weights[:, 0] == pytest.approx(2.0 * run.weights[:, 1], rel=1e-6)
    assert run.moments[:, 1].tolist() == list(range(100, 200))
    with pytest.raises(ValueError, match="after the 301 decision times"):
        run_cells(market.data, lambda o: np.zeros(o.shape[:2]), training_terms(), cells, [250], 100)


def test_a_finding_that_is_no_number_is_red() -> None:
    nothing = Finding("oracle", "share", float("nan"), "at least", 0.9)
    assert not nothing.passed
    assert not replace(nothing, sense="at most").passed
    text = table([nothing, Finding("fees", "rise", -0.1, "at most", 0.0, "falls")])
    first, second = text.splitlines()
    assert "RED" in first
    assert "green" in second
    assert "falls" in second
