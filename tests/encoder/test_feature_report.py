"""The catalogue of features, and what each is worth on stored candles."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from encoder import feature_importance, feature_report
from encoder.evaluation.panel import build_panel
from encoder.feature_importance import Importance, Selection, fit_ridge
from encoder.feature_report import TARGETS, as_text, catalogue, main, measure, targets
from shared.features import FEATURES, Grid, compute_features
from shared.settings import Settings
from tests.helpers import NOON, DatabaseFor, random_candles, store_candles

HOUR = 3600
Run = Callable[..., int]


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feature_importance, "MODELS", {"ridge": fit_ridge})


def row_of(text: str, name: str) -> list[str]:
    (line,) = (line for line in text.splitlines() if line.startswith(f"{name} "))
    return line.split()


def test_the_catalogue_tells_name_length_formula_and_source_of_each() -> None:
    text = catalogue(width=400)
    for name, feature in FEATURES.items():
        assert row_of(text, name) == [name, str(feature.length), *feature.formula.split(), *feature.source.split()]
    assert max(map(len, catalogue().splitlines())) <= 120


def test_the_table_tells_what_each_is_worth() -> None:
    stand_in = np.arange(len(FEATURES))
    stand_in[2] = 0
    lost = np.zeros(len(FEATURES) - 1)
    lost[:2] = 0.0123, 0.004
    found = Importance(0.5, lost, np.full(len(lost), 0.005))
    worse = Importance(-0.1, lost[::-1], np.full(len(lost), 1e-9))
    by_target = {target: {"lightgbm": worse, "ridge": found} for target in TARGETS}
    text = as_text(Selection(1234, stand_in, by_target))
    first, second, third, fourth = list(FEATURES)[:4]
    assert row_of(text, first) == [first, "2", *["1.23*"] * 6, "yes"]
    assert row_of(text, second) == [second, "5", *["0.40"] * 6]
    assert row_of(text, third) == [third, "13", "=", first]
    assert row_of(text, fourth) == [fourth, "25", *["0.00"] * 6]
    assert "1,234 windows." in text
    assert "log RV 1h ridge 0.500, " in text
    assert f"Kept: 1 of {len(FEATURES)}." in text


def test_classes_are_asked_as_yes_or_no() -> None:
    numbers = np.array([0.1, np.nan, 0.3])
    known = dict.fromkeys(TARGETS.values(), numbers) | {"trend_class": np.array([0.0, 2.0, np.nan])}
    asked = targets(known)
    assert list(asked) == list(TARGETS)
    np.testing.assert_array_equal(asked["trend down"], [1, 0, np.nan])
    np.testing.assert_array_equal(asked["trend up"], [0, 1, np.nan])
    np.testing.assert_array_equal(asked["log RV 24h"], numbers)


def test_measures_the_windows_of_every_series_purged(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = {}

    def select(features: np.ndarray, asked: dict, as_of: np.ndarray, purge_s: int, seed: int) -> None:
        seen.update(features=features, asked=asked, as_of=as_of, purge_s=purge_s)

    monkeypatch.setattr(feature_report, "select", select)
    monkeypatch.setattr(feature_report, "LEAST_WINDOWS", 500)
    monkeypatch.setattr(feature_report, "MOST_WINDOWS", 700)
    monkeypatch.setattr(feature_report, "BLOCK", 100)
    series = [random_candles(1500, HOUR, seed=k) for k in (1, 2)]
    measure(series, HOUR)
    panel = build_panel(series, HOUR)
    assert seen["purge_s"] == 288 * HOUR + 86_400
    assert len(seen["as_of"]) == 700 < len(panel)
    border = int(np.argmax(np.diff(seen["as_of"]) < 0)) + 1  # series after series
    for k, rows in enumerate((slice(0, border), slice(border, None))):
        grid = Grid(series[k], HOUR)
        assert np.array_equal(seen["features"][rows], compute_features(grid.windows(seen["as_of"][rows])))
        there = panel.select((panel.series == k) & np.isin(panel.as_of, seen["as_of"][rows]))
        np.testing.assert_array_equal(seen["asked"]["log RV 4h"][rows], there.targets["log_volatility_14400s"])


# ── the command ─────────────────────────────────────────────────────────────────────────────────────────
@pytest.fixture
def run(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setattr("shared.job.load_settings", lambda: settings)
    monkeypatch.setattr(feature_report, "LEAST_WINDOWS", 1000)
    return lambda *argv: main(["--at", NOON.isoformat(), *argv])


def test_without_candles_there_is_the_catalogue(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run() == 0
    out = capsys.readouterr().out
    assert "log_garman_klass_24" in out
    assert "importance takes 1,000 windows of candles: widen the span, or run `make backfill`" in out


def test_with_candles_there_is_what_each_is_worth(
    run: Run, database_for: DatabaseFor, capsys: pytest.CaptureFixture[str]
) -> None:
    store_candles(database_for, "test", "AAA/USDT", HOUR, random_candles(2200, HOUR, seed=1))
    assert run() == 0  # BBB/USDT of the universe is not stored
    out = capsys.readouterr().out
    assert "log_garman_klass_24" in out
    assert "windows. R² on the later 30 %, of the better model: log RV 1h ridge" in out
    assert run() == 0
    assert capsys.readouterr().out == out
    assert run("--from", "2024-05-20") == 0
    assert "importance takes 1,000 windows" in capsys.readouterr().out
    assert run("--to", "2024-05-20") == 0
    assert capsys.readouterr().out not in ("", out)


def test_what_cannot_be_is_said(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--symbols", "ZZZ/USDT") == 1
    assert "no candles of ZZZ/USDT on test are stored" in capsys.readouterr().err
    assert run("--from", "2024-06-02") == 2
    assert "--from 2024-06-02T00:00:00+00:00 is not before 2024-06-01T12:00:00+00:00" in capsys.readouterr().err
