"""Folds pooled into one record: each figure is what its days say, and the honest ones are not flattered."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest

from pipeline.evaluation.contestants import BASELINE, BASELINES, ENSEMBLE, Contestant
from pipeline.evaluation.intervals import STATISTICS, alpha, beta, intervals, longest_drawdown_days, seed_ranges
from pipeline.evaluation.plan import Profile
from pipeline.evaluation.pooling import break_even, conclude, curve, falls_to_zero, pool, shifts, slices
from pipeline.evaluation.telling import build_report, tables, terms_of, verdict_sentence
from pipeline.evaluation.trials import COST_CURVE_BPS
from policy.report import terminal_report
from shared.performance import Trials, summarise
from shared.rows import FloatArray

START = datetime(2022, 1, 1, tzinfo=UTC)
DAYS = 100
PROFILE = Profile("full", 2, 2, 10, 100, 200)
NO_TRIALS = Trials((), (), 0)


def figures(returns: FloatArray) -> dict[str, Any]:
    times = 86_400 * np.arange(len(returns) + 1, dtype=np.int64)
    equity = 10_000.0 * np.append(1.0, np.cumprod(1.0 + returns))
    return asdict(summarise(times, equity, 5_000.0, 20.0, 9, slippage=3.0, weights=np.full(10, 0.5)))


def contestants(edge: float = 0.0, folds: int = 2) -> list[Contestant]:
    """Seeds and ensemble: the baseline plus noise, plus ``edge`` a day."""
    rng, made = np.random.default_rng(0), []
    for fold in range(1, folds + 1):
        first = START + timedelta(days=DAYS * (fold - 1))
        baseline = rng.normal(0.0005, 0.01, DAYS)
        others = {name: baseline + edge + rng.normal(0, 0.002, DAYS) for name in ("seed 7", "seed 8", ENSEMBLE)}
        rules = {name: rng.normal(0.0003, 0.02, DAYS) for name in BASELINES} | {
            BASELINE: baseline,
            "cash": np.zeros(DAYS),
        }
        for name, returns in {**others, **rules}.items():
            kind: Any = "baseline" if name in BASELINES else "ensemble" if name == ENSEMBLE else "seed"
            metrics: dict[str, Any] = {"figures": figures(returns)}
            if name == ENSEMBLE:
                metrics |= ensemble_metrics(returns, baseline, fold)
            model = None if kind == "baseline" else b"model"
            symbols, last = ("AAA/USDT", f"B{fold}/USDT"), first + timedelta(days=DAYS)
            made.append(Contestant(fold, name, kind, symbols, first, last, returns, metrics, model, 1.0))
    return made


def ensemble_metrics(returns: FloatArray, baseline: FloatArray, fold: int) -> dict[str, Any]:
    pair = {"policy": returns.tolist(), "baseline": baseline.tolist()}
    rng = np.random.default_rng(fold)
    drawn = rng.normal(0.0, 0.01, (50, DAYS))
    return {
        "operator": {"figures": figures(returns), "returns": returns.tolist(), "stops": 1},
        "terms": dict.fromkeys(("cost 10", "cost 25", "cost 80", "delay 0", "delay 60"), pair),
        "cost_curve": {
            "bps": list(COST_CURVE_BPS),
            "policy": [0.1 - 0.001 * bps for bps in COST_CURVE_BPS],
            "baseline": [0.06 - 0.0005 * bps for bps in COST_CURVE_BPS],
        },
        "shifts": {"sums": drawn.sum(1).tolist(), "squares": (drawn**2).sum(1).tolist(), "days": DAYS},
        "regimes": ["bull", "bear"] * (DAYS // 2),
        "contributions": {"AAA/USDT": (returns * 0.75).tolist(), f"B{fold}/USDT": (returns * 0.25).tolist()},
    }


def test_the_pool_is_every_fold_day_after_day() -> None:
    rows = contestants()
    pooled = pool(rows)
    assert pooled.seeds.shape == (2, 2 * DAYS)
    assert np.array_equal(pooled.folds, np.repeat([1, 2], DAYS))
    assert np.array_equal(np.diff(pooled.starts), np.full(2 * DAYS - 1, 86_400))
    second = next(r.returns for r in rows if (r.fold, r.name) == (2, "seed 8"))
    assert np.array_equal(pooled.seeds[1, DAYS:], second)
    times, equity = curve(pooled, pooled.ensemble)
    assert len(times) == len(equity) == 2 * DAYS + 1
    assert equity[-1] == pytest.approx(10_000.0 * np.prod(1.0 + pooled.ensemble))


def test_a_policy_with_an_edge_beats_and_one_that_loses_is_told_that_the_baseline_wins() -> None:
    words = {edge: conclude(pool(contestants(edge)), PROFILE, NO_TRIALS)["verdict"]["word"] for edge in (0.001, -0.001)}
    assert words == {0.001: "beats", -0.001: "baseline wins"}


def test_a_policy_that_ended_as_the_baseline_is_not_worse_and_nothing_about_it_breaks() -> None:
    rows = contestants()
    baseline = {r.fold: r.returns for r in rows if r.name == BASELINE}
    same = [replace(r, returns=baseline[r.fold]) if r.kind != "baseline" else r for r in rows]
    found = conclude(pool(same), PROFILE, NO_TRIALS)
    assert found["verdict"]["word"] == "not worse"
    assert found["verdict"]["p_above_0"] == 0.0
    assert found["superior"] is None
    assert tables(pool(same), json.loads(json.dumps(found, allow_nan=False)))


def test_everything_found_can_be_stored_and_told() -> None:
    pooled = pool(contestants(0.0002))
    found = json.loads(json.dumps(conclude(pooled, PROFILE, NO_TRIALS), allow_nan=False))
    report = build_report(pooled, found, terms_of(START, START, {}), "real", "not worse", "")
    text = terminal_report(report)
    titles = [table.title for table in tables(pooled, found)]
    assert titles[0] == "Figures with their intervals"
    for told in ("Fold 1", "Fold 2", "deflated", "overfitting", "SPA", "Emergency stops", "80 bps", "break-even"):
        assert told.lower() in " ".join(text.split()).lower()
    assert max(map(len, text.splitlines())) <= 88
    assert "not worse" in verdict_sentence(found, "not worse", "")
    assert verdict_sentence(found, None, "quick: no verdict").startswith("quick: no verdict")


def test_break_even_is_where_the_pooled_growth_of_the_fixed_weights_is_nothing() -> None:
    found = break_even(pool(contestants()))
    assert found["nothing"] == pytest.approx(100.0)
    assert found["baseline"] == pytest.approx(80.0)


@pytest.mark.parametrize(
    ("y", "where"),
    [([2.0, 1.0, -1.0], 15.0), ([1.0, 0.5, 0.25], None), ([-1.0, 2.0, 3.0], 0.0), ([1.0, 0.0, 1.0], 10.0)],
)
def test_the_first_zero_is_found_between_points(y: list[float], where: float | None) -> None:
    assert falls_to_zero(np.array([0.0, 10.0, 20.0]), np.array(y)) == where


def test_the_percentile_among_shifts_is_of_pooled_sharpe_ratios() -> None:
    rows = contestants()
    found = shifts(pool(rows))
    assert found is not None
    drawn = [np.random.default_rng(fold).normal(0.0, 0.01, (50, DAYS)) for fold in (1, 2)]
    whole = np.hstack(drawn)
    ratios = whole.mean(1) / whole.std(1, ddof=1) * np.sqrt(365)
    assert found["percentile"] == np.mean(ratios < found["sharpe"])
    assert found["median"] == pytest.approx(np.median(ratios))
    ensemble = next(r for r in rows if r.name == ENSEMBLE)
    ensemble.metrics["shifts"] = None  # type: ignore[index]
    assert shifts(pool(rows)) is None


def test_slices_hold_each_day_once_and_symbols_add_up() -> None:
    pooled = pool(contestants())
    found = slices(pooled)
    assert sum(s["days"] for s in found["regime"]) == sum(s["days"] for s in found["year"]) == 2 * DAYS
    assert [s["label"] for s in found["symbol"]] == ["AAA/USDT", "B1/USDT", "B2/USDT"]
    assert sum(s["total_return"] for s in found["symbol"]) == pytest.approx(pooled.ensemble.sum())


def test_an_interval_holds_its_figure_and_grows_with_the_luck_of_the_seeds() -> None:
    rng = np.random.default_rng(1)
    common, folds = rng.normal(0.001, 0.01, 400), np.repeat([1, 2], 200)
    alike = np.stack([common, common, common])
    lucky = np.stack([common + 0.004, common, common - 0.004])
    hold = rng.normal(0, 0.02, 400)
    widths = []
    for seeds in (alike, lucky):
        found = intervals(seeds, hold, folds, 300)
        for one in found.values():
            assert one is not None
            assert one["low"] <= one["high"]
        sharpe = found["sharpe"]
        assert sharpe is not None
        assert sharpe["low"] < sharpe["point"] < sharpe["high"]
        assert sharpe["point"] == pytest.approx(STATISTICS["sharpe"](common))
        widths.append(sharpe["high"] - sharpe["low"])
    assert widths[1] > 1.2 * widths[0]


def test_a_span_too_short_to_draw_from_has_no_intervals() -> None:
    assert set(intervals(np.zeros((2, 30)), np.zeros(30), None, 10).values()) == {None}


def test_alpha_and_beta_are_those_of_least_squares() -> None:
    hold = np.array([0.01, -0.02, 0.03, 0.0])
    returns = 0.001 + 0.5 * hold
    assert beta(returns, hold) == pytest.approx(0.5)
    assert alpha(returns, hold) == pytest.approx(0.365)
    assert beta(returns, np.zeros(4)) is None


def test_the_longest_drawdown_counts_to_the_return_or_the_end() -> None:
    assert longest_drawdown_days(np.array([0.1, -0.1, 0.05, 0.2])) == 3.0
    assert longest_drawdown_days(np.array([0.1, -0.1, 0.01, 0.01])) == 3.0


def test_what_daily_returns_do_not_tell_is_given_as_the_range_of_the_seeds() -> None:
    found = seed_ranges(contestants())
    assert found["exposure"] == {"point": 0.5, "low": 0.5, "high": 0.5}
