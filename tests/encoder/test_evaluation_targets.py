"""Targets and what baselines know, against slow loops; targets look ahead only, what is known only back."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from encoder.dataset import LABELS, label
from encoder.evaluation.panel import PAST, build_panel, past
from encoder.evaluation.slots import ahead, behind, lay_out
from encoder.evaluation.targets import CLASSES, REGRESSIONS, future, terciles
from encoder.schema import HORIZONS_S
from shared.rows import Candles, FloatArray
from tests.encoder.evaluation_world import HOUR, clustered_candles

N = 5200


@pytest.fixture(scope="module")
def candles() -> Candles:
    """With holes: one candle here, two days there."""
    whole = clustered_candles(N, 1)
    keep = np.ones(N, bool)
    keep[[300, 900, 901]] = False
    keep[2500:2550] = False
    return whole[keep]


def measured(candles: Candles) -> tuple[dict[str, FloatArray], dict[str, FloatArray]]:
    slots = lay_out(candles, HOUR)
    bounds = terciles(slots)
    known = past(slots, bounds)
    return known, future(slots, known["log_ewma"], bounds)


def test_sums_ahead_and_behind_by_a_slow_loop() -> None:
    values = np.array([1.0, 2.0, np.nan, 4.0, 5.0, 6.0])
    assert ahead(values, 2).tolist() == pytest.approx([np.nan, np.nan, 9, 11, np.nan, np.nan], nan_ok=True)
    assert behind(values, 2).tolist() == pytest.approx([np.nan, 3, np.nan, np.nan, 9, 11], nan_ok=True)
    assert behind(values, 4, 0.75).tolist() == pytest.approx(
        [np.nan, np.nan, np.nan, 7 * 4 / 3, 11 * 4 / 3, 15 * 4 / 3], nan_ok=True
    )
    assert np.isnan(behind(values, 9)).all()
    assert np.isnan(ahead(values, 9)).all()


def test_targets_by_a_slow_loop(candles: Candles) -> None:
    known, targets = measured(candles)
    price = {
        int(t): (c, h, lo) for t, c, h, lo in zip(candles.as_of, candles.close, candles.high, candles.low, strict=True)
    }
    first = int(candles.as_of[0])
    for slot in (600, 899, 1500, 2495, 2480, 2551, 4000, N - 30, N - 10):
        at = first + slot * HOUR
        closes = [price.get(at + k * HOUR) for k in range(25)]
        for hours, name in ((4, "14400"), (24, "86400")):
            if any(c is None for c in closes[: hours + 1]):
                assert np.isnan(targets[f"log_volatility_{name}s"][slot])
                assert np.isnan(targets[f"return_{name}s"][slot])
                assert np.isnan(targets[f"direction_{name}s"][slot])
                continue
            r = [math.log(closes[k + 1][0] / closes[k][0]) for k in range(hours)]
            volatility = math.log(math.sqrt(sum(x * x for x in r) / hours))
            assert targets[f"log_volatility_{name}s"][slot] == pytest.approx(volatility)
            assert targets[f"return_{name}s"][slot] == pytest.approx(sum(r))
            assert targets[f"direction_{name}s"][slot] == (sum(r) > 0)
            if hours == 4:
                limit = 2 * math.exp(known["log_ewma"][slot]) * 2
                assert targets["large_move"][slot] == (abs(sum(r)) > limit)
            else:
                strong = abs(sum(r)) > 0.75 * math.sqrt(sum(x * x for x in r))
                straight = abs(sum(r)) > 0.3 * sum(abs(x) for x in r)
                trend = (2 if sum(r) > 0 else 0) if strong and straight else 1
                assert targets["trend_class"][slot] == trend
        following = price.get(at + HOUR)
        if following is None:
            assert np.isnan(targets["log_volatility_3600s"][slot])
        else:
            parkinson = math.log(following[1] / following[2]) / math.sqrt(4 * math.log(2))
            assert targets["log_volatility_3600s"][slot] == pytest.approx(math.log(parkinson))


def test_log_volatility_is_what_the_net_is_trained_for(candles: Candles) -> None:
    _, targets = measured(candles)
    closes, labels = label(candles, HOUR)
    slots = (closes - candles.as_of[0]) // HOUR
    for task in REGRESSIONS:
        assert targets[task][slots] == pytest.approx(labels[:, LABELS.index(task)], rel=1e-9)


def test_volatility_classes_are_terciles_of_what_was_complete_at_midnight(candles: Candles) -> None:
    known, targets = measured(candles)
    slot, day = 5000, targets[REGRESSIONS[-1]]
    as_of = int(candles.as_of[0]) + HOUR * np.arange(len(day))
    midnight = as_of[slot] // 86_400 * 86_400
    complete = (as_of + 86_400 <= midnight) & (as_of + 86_400 > midnight - 180 * 86_400)
    bounds = np.quantile(day[complete & np.isfinite(day)], [1 / 3, 2 / 3])
    assert [known["tercile_low"][slot], known["tercile_high"][slot]] == pytest.approx(bounds)
    assert targets["volatility_class"][slot] == (day[slot] > bounds[0]) + (day[slot] > bounds[1])
    assert np.isnan(targets["volatility_class"][:2160]).all()


def test_past_volatility_and_ewma_by_a_slow_loop(candles: Candles) -> None:
    known, _ = measured(candles)
    slots = lay_out(candles, HOUR)
    r = slots.returns
    there = r[np.isfinite(r)]
    value = float((there[:24] ** 2).mean())
    for x in there[24 : np.isfinite(r[:1501]).sum()]:
        value = 0.5 ** (1 / 24) * value + (1 - 0.5 ** (1 / 24)) * x * x
    assert known["log_ewma"][1500] == pytest.approx(0.5 * math.log(value))
    assert known["1d"][1500] == pytest.approx(0.5 * math.log((r[1477:1501] ** 2).mean()))
    assert known["1w"][1000] == pytest.approx(0.5 * math.log(np.nanmean(r[833:1001] ** 2)))
    assert known["1h"][1500] == pytest.approx(math.log(slots.ranges[1500]))
    before = 2 * math.exp(known["log_ewma"][1496]) * 2  # of volatility as it was before the move
    moves = np.abs(np.convolve(np.nan_to_num(r), np.ones(4))[: len(r)])
    assert known["last_large_move"][1500] == (moves[1500] > before)
    sure = np.flatnonzero(np.isfinite(known["last_large_move"]))[10:]
    sure = sure[sure < 2500]
    assert known["last_large_move"][sure].mean() > 0.02
    limits = 4 * np.exp(known["log_ewma"][sure - 4])
    clear = np.isfinite(r[sure[:, None] - np.arange(4)]).all(axis=1)
    assert (known["last_large_move"][sure] == (moves[sure] > limits))[clear].all()
    assert known["last_direction_86400s"][1500] == (r[1477:1501].sum() > 0)


def poisoned(candles: Candles, chosen: np.ndarray) -> Candles:
    factor = np.where(chosen, np.random.default_rng(5).uniform(0.5, 2, len(candles)), 1.0)
    changed = {name: getattr(candles, name) * factor for name in ("open", "high", "low", "close", "volume")}
    changed["high"] = changed["high"] * np.where(chosen, 1.3, 1.0)
    return Candles(candles.as_of, **changed, trades=candles.trades)


def test_what_is_known_changes_only_with_the_past_and_what_comes_only_with_the_future(candles: Candles) -> None:
    known, targets = measured(candles)
    at = int(candles.as_of[0]) + 4000 * HOUR
    slot = 4000
    later_known, later_targets = measured(poisoned(candles, candles.as_of > at))
    for name, column in known.items():
        assert column[: slot + 1].tobytes() == later_known[name][: slot + 1].tobytes(), name
    moved = [
        name for name in targets if not np.allclose(targets[name][slot], later_targets[name][slot], equal_nan=True)
    ]
    assert set(REGRESSIONS) <= set(moved)
    _, earlier_targets = measured(poisoned(candles, candles.as_of < at))
    for name in (*REGRESSIONS, "trend_class", *(f"return_{h}s" for h in HORIZONS_S), "direction_86400s"):
        assert targets[name][slot] == pytest.approx(earlier_targets[name][slot]), name


def test_the_panel_holds_whole_hours_where_everything_is_known(candles: Candles) -> None:
    panel = build_panel([candles, clustered_candles(1500, 2)], HOUR)
    assert set(panel.series) == {0, 1}
    assert np.isin(panel.as_of[panel.series == 0], candles.as_of).all()
    for name in (*PAST, "log_ewma"):
        assert np.isfinite(panel.known[name]).all()
    assert set(CLASSES) <= set(panel.targets)
    row = int(np.flatnonzero(panel.series == 0)[700])
    known, targets = measured(candles)
    slot = (panel.as_of[row] - candles.as_of[0]) // HOUR
    assert panel.known["1w"][row] == known["1w"][slot]
    assert panel.targets["return_86400s"][row] == pytest.approx(targets["return_86400s"][slot], nan_ok=True)


def test_a_market_that_stands_still_has_no_volatility_to_be_forecast(candles: Candles) -> None:
    """Five candles: there is no volatility of the next hour and four hours, but one of the next day."""
    still = np.arange(len(candles)) // 5 == 40
    columns = {n: np.where(still, candles.close[199], getattr(candles, n)) for n in ("open", "high", "low", "close")}
    slots = lay_out(replace(candles, **columns), HOUR)
    nothing = np.zeros(len(slots.as_of))
    targets = future(slots, nothing, np.column_stack([nothing, nothing]))
    before = slots.slot[199]
    assert [bool(np.isfinite(targets[name][before])) for name in REGRESSIONS] == [False, False, True]
