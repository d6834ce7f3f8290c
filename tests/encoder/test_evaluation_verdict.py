"""The words follow from the numbers: turned round, they say the opposite."""

from __future__ import annotations

from typing import Any

import pytest

from encoder.evaluation.baselines import BOTH, CLOCK, EMBEDDING, FORECASTERS, HAR, PCA, RIDGE
from encoder.evaluation.report import report
from encoder.evaluation.summary import best, combined, mean_score, spread
from encoder.evaluation.targets import CLASSES, REGRESSIONS
from encoder.evaluation.verdict import verdict

DAY = REGRESSIONS[2]
OURS = ("analogs", "analogs_ewma", "analogs_raw")
RANDOM = ("matched_random", "ewma_random", "har_random", "forecast_random")


def task_result(task: str, advantage: float) -> dict[str, Any]:
    """The embedding is better by ``advantage`` than everyone else, HAR ⊕ embedding by as much."""
    lead = {f: advantage if f in (EMBEDDING, BOTH) else 0.0 for f in FORECASTERS}
    measures = {
        f: {
            "r2": 0.5 + up,
            "qlike": 0.3 - up,
            "macro_f1": 0.4 + up,
            "log_loss": 1.0 - up,
            "brier": 0.5 - up,
            "auroc": 0.6 + up,
            "average_precision": 0.1 + up,
        }
        for f, up in lead.items()
    }
    gains = {a: {b: [lead[a] - lead[b], 1e-5, 900] for b in FORECASTERS if b != a} for a in (EMBEDDING, BOTH)}
    result: dict[str, Any] = {"scores": {f: {"a:A/B": m, "a:C/B": m} for f, m in measures.items()}, "gains": gains}
    if task in REGRESSIONS:
        return result | {"clark_west": [advantage, 1e-5, 900]}
    return result | {"areas": {f: [0.6 + up, 1e-4, 900] for f, up in lead.items()}, "area_gains": gains}


def fold_result(number: int, advantage: float, scored: bool = True) -> dict[str, Any]:
    crps = dict.fromkeys(OURS, 0.01 * (1 - advantage)) | dict.fromkeys(RANDOM, 0.01)
    share = 0.8 if advantage > 0 else 0.7
    coverage = {"80%": {"share": share, "error": {"mean": share - 0.8, "variance": 1e-4, "n": 900}}}
    itself = {"share": advantage / 10, "test": {"mean": advantage / 10, "variance": 1e-4, "n": 900}}
    gain = {"share": advantage, "test": {"mean": advantage, "variance": 1e-5, "n": 900}}
    horizon = {
        "methods": {m: {"crps": crps[m], "coverage": coverage, "spread_spearman": 0.3} for m in crps},
        "gains": {method: dict.fromkeys(RANDOM, gain) | {"forecast_random": itself} for method in OURS},
    }
    group = {
        "moments": 1000,
        "tasks": {task: task_result(task, advantage) for task in (*REGRESSIONS, *CLASSES)},
        "ood": {"0.99": 0.01, "0.999": 0.001},
        "retrieval": {"horizons": {"86400s": horizon}} if scored else {"why_not": "too short"},
    }
    training = {"steps": 10, "windows": 100, "losses": {}}
    fold = {"fold": {"number": number}, "har": ["1h", "1d"], "training": training, "seconds": {"probes": 1.0}}
    return fold | {"learnt": 500, "penalties": {}, "seen": group}


def test_a_better_encoder_wins_and_reaches_its_aims() -> None:
    lines = verdict([fold_result(1, 0.06), fold_result(2, 0.06)])
    assert sum("wins over the best baseline" in line for line in lines) == 8
    assert sum(line.startswith("Reached") for line in lines) == 5
    assert not any(line.startswith("Missed") for line in lines)
    assert f"{BOTH} saves 20.0% of HAR's QLIKE" in "\n".join(lines)


def test_a_worse_one_is_told_so() -> None:
    lines = verdict([fold_result(1, -0.06), fold_result(2, -0.06)])
    assert sum("a baseline beats HAR ⊕ embedding" in line for line in lines) == 8
    assert sum(line.startswith("Missed") for line in lines) == 5


def test_what_is_owed_to_rescaling_to_the_clock_and_to_features_is_said_beside_the_aims() -> None:
    result = fold_result(1, 0.06)
    scores = result["seen"]["tasks"][DAY]["scores"]
    scores[CLOCK] = {name: measures | {"qlike": 0.25} for name, measures in scores[CLOCK].items()}
    scores[RIDGE] = {name: measures | {"r2": 0.57} for name, measures in scores[RIDGE].items()}
    lines = [line for line in verdict([result]) if line.startswith("Reached")]
    assert any(
        "+6.0% than HAR-scaled (p < 0.001), of which retrieval itself (against random moments with the same "
        "rescaling): +0.6%, p = 0.274" in line
        for line in lines
    )
    assert any("saves 20.0% of HAR's QLIKE" in line and "+4.0% of HAR + clock's (p < 0.001)" in line for line in lines)
    assert any("PCA-64 in R² at 24h: +0.060" in line and "less features + ridge: -0.010" in line for line in lines)
    table = report([result])
    assert "analogs against forecast_random" in table
    assert "analogs_raw against matched_random" in table
    assert "-4.0% against HAR + clock" in table


def test_by_chance_nobody_wins() -> None:
    lines = verdict([fold_result(1, 0.001), fold_result(2, 0.001)])
    assert sum("no clear winner" in line for line in lines) == 8


def test_scores_are_means_over_series_then_folds_and_estimates_combine() -> None:
    results = [fold_result(1, 0.1), fold_result(2, 0.0)]
    results[0]["seen"]["tasks"][DAY]["scores"][PCA]["a:A/B"]["r2"] = None
    results[0]["seen"]["tasks"][DAY]["scores"][PCA]["a:C/B"]["r2"] = 0.9
    assert mean_score(results, "seen", DAY, PCA, "r2") == pytest.approx((0.9 + 0.5) / 2)
    assert mean_score(results, "seen", DAY, EMBEDDING, "r2") == pytest.approx(0.55)
    assert spread(results, "seen", DAY, EMBEDDING, "r2") == pytest.approx(0.1 / 2**0.5)
    assert combined(results, "seen", DAY, "clark_west").mean == pytest.approx(0.05)
    assert combined(results, "seen", DAY, "clark_west").n == 1800
    assert combined(results, "unseen", DAY, "clark_west").n == 0
    assert best(results, "seen", DAY, "qlike") == EMBEDDING
    assert best(results, "seen", DAY, "r2", (HAR, PCA)) == PCA


def test_the_report_shows_every_forecaster_and_fits_the_page() -> None:
    first = fold_result(1, 0.06)
    horizons = first["seen"]["retrieval"]["horizons"]
    horizons |= dict.fromkeys(("3600s", "14400s"), horizons["86400s"])
    text = report([first, fold_result(2, 0.06, scored=False)])
    assert all(text.count(forecaster) >= 3 for forecaster in FORECASTERS)
    tables = text.split("fold 1: ")[0]
    assert max(map(len, tables.splitlines())) <= 120
    assert "…" not in tables
    assert "analogs of a fold were not scored: too short" in text
    assert "Clark–West p < 0.001" in text
    assert "unseen" not in text
