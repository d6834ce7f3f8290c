"""What each canary asks of the code, and how much: training included."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from policy.canaries import fees, known_answer, oracle
from policy.canaries.cells import BatchAct, batched, run_cells
from policy.canaries.findings import Finding
from policy.canaries.known_answer import Judged, Market, free_steering, judge, make_market, training_terms
from policy.canaries.null import NullResult, judge_null
from policy.canaries.parity import differences
from policy.policy_network import act_of
from policy.simulator import Costs
from policy.trading_env import Range
from policy.training import reproducible, train_seed
from policy.training_plan import TrainingPlan

VALUE, REGRET, ORACLE = 0.95, 0.10, 0.90
FALSE_BEATS = 0.05  # of the null markets may be promoted
LUCK = 3.0  # standard errors
TRAIN_STEPS = 20_000
TURNOVER = 1.0  # of the baseline's, where there is nothing to trade on


@dataclass(frozen=True, slots=True)
class Question:
    """One market with a known answer, what it is trained with, and the costs of the cells that it is judged at."""

    information: float
    persistence: float
    instruments: int
    test_steps: int
    pathwise_steps: int
    books: int
    fee_bps: Range
    costs_bps: tuple[float, ...]


# Fainter drifts are beyond this training: with an information of 0.02 an autoregressive drift was worth 0.68 of the
# optimum (docs/decisions/023).
KNOWN = {
    "Merton": Question(0.03, 1.0, 20, 24_001, 300, 512, (0.0, 60.0), (0.0, 10.0, 45.0)),
    "AR(1), IC 0.1": Question(0.1, 0.97, 10, 24_001, 300, 512, (0.0, 60.0), (0.0, 10.0, 45.0)),
}


def answer(question: Question, seed: int = 0) -> tuple[BatchAct, Market]:
    """A policy trained on one such market, and another one to judge it on. What is held back decides nothing: at an
    information of 0.02 it would have to be decades long."""
    train = make_market(TRAIN_STEPS, question.information, question.persistence, 1000 + seed, question.instruments)
    plan = TrainingPlan(
        question.pathwise_steps, 0, reach=1.0, books=question.books, horizon=64, slots=1,
        terms=training_terms(question.fee_bps), held_back=0.0,
    )  # fmt: skip
    act = batched(act_of(train_seed(train.data, plan, seed).weights))
    return act, make_market(question.test_steps, question.information, question.persistence, seed)


def prove_known_answer(name: str, question: Question | None = None) -> list[Finding]:
    """Utility and regret on the grid of cells, and the fee test of the same policy."""
    question = question or KNOWN[name]
    act, market = answer(question)
    judged = judge(act, market, known_answer.grid(free_steering(), costs_bps=question.costs_bps))
    return [*value_findings(name, judged), turnover_finding(name, act, market)]


def value_findings(name: str, judged: Sequence[Judged]) -> list[Finding]:
    value = float(np.mean([one.value / one.optimal for one in judged]))
    worst = max(judged, key=lambda one: one.regret)
    cell = f"at risk aversion {worst.cell.steering.risk_aversion:g}, {worst.cell.costs.fee_bps:g} bps"
    return [
        Finding("known answer", f"{name}, value ÷ optimum", value, "at least", VALUE, f"mean of {len(judged)} cells"),
        Finding("known answer", f"{name}, worst regret", worst.regret, "at most", REGRET, cell),
    ]


def turnover_finding(name: str, act: BatchAct, market: Market) -> Finding:
    steps = (len(market.drift) - 1) // known_answer.STARTS
    starts = [k * steps for k in range(known_answer.STARTS)]
    traded = fees.turnover_by_fee(market.data, act, training_terms(), free_steering(), starts, steps)
    rise = fees.largest_rise(traded)
    return Finding("fees", f"{name}, turnover rises by", rise, "at most", fees.ROUNDING, _ladder(traded))


def _ladder(values: Sequence[float] | np.ndarray) -> str:
    rungs = ", ".join(f"{value:.4g}" for value in values)
    return f"{rungs} at {', '.join(f'{fee:g}' for fee in fees.FEES_BPS)} bps"


def prove_oracle(instruments: int = 4, pathwise_steps: int = 150, ppo_steps: int = 65_536) -> list[Finding]:
    """Both stages of training, and the choice between them."""
    train, test = oracle.leaking_market(15_000, 7, instruments), oracle.leaking_market(12_001, 8)
    plan = TrainingPlan(
        pathwise_steps, ppo_steps, reach=1.0, books=256, horizon=32, slots=1, terms=training_terms(),
        steering=free_steering(), costs=oracle_costs(),
    )  # fmt: skip
    trained = train_seed(train.data, plan, 0)
    act = batched(act_of(trained.weights))
    shares = oracle.captured(act, test)
    chosen = f"{trained.metrics['chosen']} was chosen"
    found = [
        Finding("oracle", f"net profit ÷ optimum at {bps:g} bps", float(share), "at least", ORACLE, chosen)
        for bps, share in zip(oracle.COSTS_BPS, shares, strict=True)
    ]
    return [*found, turnover_finding("oracle", act, test), *_profit_findings(act, test)]


def oracle_costs() -> Costs:
    return Costs(oracle.COSTS_BPS[-1], 0.0, 0.0)


def _profit_findings(act: BatchAct, market: Market) -> list[Finding]:
    """The same weights at higher fees: the policy's own, and those of a fixed share."""
    steps = 4000
    data = market.data.part(0, steps + 1)
    terms = training_terms()
    run = run_cells(data, act, terms, known_answer.grid(free_steering(), (1.0,), (10.0,)), [0], steps)
    own = run.weights[:, 0, 0]
    found = []
    for name, weights in (("the policy's", own), ("half invested", np.full_like(own, 0.5))):
        profits = fees.profit_by_fee(market.data.part(0, steps), weights)
        found.append(Finding("fees", f"profit of {name} weights rises by", fees.largest_rise(profits), "at most", 0.0,
                             _ladder(profits)))  # fmt: skip
    return found


def prove_parity(seeds: range) -> tuple[int, list[str]]:
    """(paths, what differs on them)"""
    return len(seeds), list(differences(seeds))


def parity_findings(parts: Sequence[tuple[int, list[str]]]) -> list[Finding]:
    paths, different = sum(count for count, _ in parts), [line for _, lines in parts for line in lines]
    detail = different[0] if different else f"{paths:,} paths, equity, observations, orders and fills to the bit"
    return [Finding("parity", "paths on which environment and backtest differ", len(different), "at most", 0, detail)]


def run_null(seed: int) -> NullResult:
    with reproducible():
        return judge_null(seed, pathwise_steps=60, ppo_steps=32_768)


def null_findings(results: Sequence[NullResult]) -> list[Finding]:
    promoted = sum(result.promoted for result in results)
    beaten, gross = (sum(getattr(r, of) == "beats" for r in results) for of in ("word", "gross_word"))
    error = float(np.sqrt(sum(result.gross_error**2 for result in results)))
    pooled = sum(result.gross for result in results) / error if error > 0.0 else 0.0
    turnover, exposure = (
        float(np.mean([pair[0] for pair in pairs]) / np.mean([pair[1] for pair in pairs]))
        for pairs in ([result.turnover for result in results], [result.exposure for result in results])
    )
    return [
        Finding("null", f"of {len(results)} markets, promoted", promoted, "at most", FALSE_BEATS * len(results),
                f"{beaten} beat a baseline that loses its costs, by losing less"),
        Finding("null", f"of {len(results)} markets, baseline beaten", gross, "at most", FALSE_BEATS * len(results),
                "before costs"),
        Finding("null", "return above the baseline, standard errors", pooled, "at most", LUCK, "before costs"),
        Finding("null", "turnover ÷ baseline's", turnover, "at most", TURNOVER),
        Finding("null", "exposure ÷ baseline's", exposure, "at most", TURNOVER),
    ]  # fmt: skip
