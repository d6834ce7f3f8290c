"""Whom an evaluation is about and when: a universe of what was known then, folds that never see their own test."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from encoder.dataset import LABEL_HORIZON_S
from pipeline.evaluation.key import evaluation_key
from pipeline.evaluation.plan import Fold, gap, in_words, make_profile, plan_folds
from pipeline.evaluation.sources import Source, choose_universe, load_series, read_files, read_stored
from shared.clock import from_unix, to_unix
from shared.features import WINDOW
from shared.job import UsageError
from shared.rows import UNKNOWN_TRADES, Candles
from shared.settings import Settings, load_settings
from tests.helpers import DatabaseFor, random_candles, store_candles

HOUR = 3600
END = datetime(2024, 1, 1, tzinfo=UTC)


def constant(days: int, volume: float, end: datetime = END, close: float = 10.0) -> Candles:
    """Hourly candles that never move."""
    n = days * 24
    as_of = to_unix(end) - HOUR * np.arange(n - 1, -1, -1)
    price = np.full(n, close)
    return Candles.from_columns([as_of, price, price, price, price, np.full(n, volume), np.full(n, UNKNOWN_TRADES)])


def source_of(series: dict[str, Candles], provenance: str = "real") -> Source:
    return Source("test", HOUR, provenance, series, ())


def profile(name: str = "quick", folds: int | None = None) -> tuple[Settings, object]:
    settings = load_settings()
    return settings, make_profile(name, settings, folds, None)  # type: ignore[arg-type]


def folds_of(source: Source, name: str = "quick", folds: int | None = None) -> list[Fold]:
    return plan_folds(source, profile(name, folds)[1], HOUR)  # type: ignore[arg-type]


def test_the_universe_is_ranked_by_quote_volume_of_the_90_days_before() -> None:
    old_giant = constant(400, 1.0)
    old_giant.volume[: 300 * 24] = 1e9  # long before
    series = {"A/USDT": constant(400, 5.0), "B/USDT": constant(400, 1.0, close=100.0), "C/USDT": old_giant}
    assert choose_universe(source_of(series), END) == ("B/USDT", "A/USDT", "C/USDT")
    assert choose_universe(source_of(series), END, 2) == ("B/USDT", "A/USDT")


def test_coins_that_have_ended_since_are_chosen_and_those_that_had_ended_are_not() -> None:
    ends_later = constant(400, 9.0, END)
    had_ended = constant(400, 99.0, END - timedelta(days=3))
    at = END - timedelta(days=100)
    series = {"LATER/USDT": ends_later, "LONG/USDT": constant(800, 1.0, END + timedelta(days=400))}
    assert choose_universe(source_of(series), at) == ("LATER/USDT", "LONG/USDT")
    assert choose_universe(source_of({**series, "ENDED/USDT": had_ended}), END) == ("LATER/USDT", "LONG/USDT")


def test_a_coin_younger_than_30_days_is_not_chosen() -> None:
    series = {"OLD/USDT": constant(100, 1.0), "NEW/USDT": constant(29, 99.0)}
    assert choose_universe(source_of(series), END) == ("OLD/USDT",)


@given(st.integers(0, 5), st.floats(0.0, 1e6))
def test_nothing_of_later_changes_the_universe(which: int, volume: float) -> None:
    series = {f"C{k}/USDT": constant(200, 1.0 + k) for k in range(6)}
    at = END - timedelta(days=50)
    before = choose_universe(source_of(series), at, 3)
    changed = series[f"C{which}/USDT"]
    changed.volume[changed.as_of > to_unix(at)] = volume
    assert choose_universe(source_of(series), at, 3) == before


def test_no_candle_is_seen_by_training_and_test_alike() -> None:
    for fold in folds_of(source_of({"A/USDT": constant(300, 1.0)})):
        least = timedelta(seconds=WINDOW * HOUR + LABEL_HORIZON_S) + timedelta(hours=24)
        assert fold.test_from - fold.policy_to >= least
        assert fold.policy_from - fold.encoder_to == timedelta(seconds=LABEL_HORIZON_S)
        assert fold.start < fold.encoder_to < fold.policy_from < fold.policy_to < fold.test_from < fold.test_to
    assert gap(HOUR) == timedelta(days=14)


def test_full_folds_are_whole_calendar_years_anchored_at_the_first_candle() -> None:
    source = source_of({"A/USDT": constant(8 * 365, 1.0, END + timedelta(days=20))})
    folds = folds_of(source, "full")
    assert [f.test_from.year for f in folds] == [2018, 2019, 2020, 2021, 2022, 2023]
    assert [(f.test_from, f.test_to) for f in folds] == [
        (datetime(y, 1, 1, tzinfo=UTC), datetime(y + 1, 1, 1, tzinfo=UTC)) for y in range(2018, 2024)
    ]
    assert {f.start for f in folds} == {from_unix(source.first)}
    assert len(in_words(folds)) == 6


def test_quick_folds_test_the_last_half_of_the_newest_year_without_a_gap_between_them() -> None:
    folds = folds_of(source_of({"A/USDT": constant(900, 1.0)}))
    assert len(folds) == 2
    assert folds[0].test_to == folds[1].test_from
    assert folds[-1].test_to == END
    assert timedelta(days=364) <= END - folds[0].start <= timedelta(days=366)


@pytest.mark.parametrize(("days", "folds", "why"), [(60, 2, "days would be tested"), (130, 8, "fold 1 would be")])
def test_too_short_a_history_is_refused_with_what_is_needed(days: int, folds: int, why: str) -> None:
    with pytest.raises(UsageError, match=why):
        folds_of(source_of({"A/USDT": constant(days, 1.0)}), folds=folds)


def test_a_market_is_one_venue_quote_and_timeframe_and_the_rest_is_told(database_for: DatabaseFor) -> None:
    for venue, symbol, timeframe_s, n in [
        ("big", "AAA/USDT", HOUR, 400), ("big", "BBB/USDT", HOUR, 400), ("big", "AAA/EUR", HOUR, 900),
        ("small", "AAA/USDT", HOUR, 900), ("binanceusdm", "AAA/USDT", HOUR, 900), ("day", "AAA/USDT", 86_400, 50),
    ]:  # fmt: skip
        store_candles(database_for, venue, symbol, timeframe_s, random_candles(n, timeframe_s, end=to_unix(END)))
    source = read_stored(database_for("policy"), END, HOUR)
    assert (source.venue, sorted(source.series)) == ("big", ["AAA/USDT", "BBB/USDT"])
    told = "; ".join(source.left_out)
    for part in ("binanceusdm:AAA/USDT (3600 s): futures", "small AAA/USDT", "big AAA/EUR", "too coarse"):
        assert part in told


def test_simulated_series_are_taken_only_where_there_are_no_real_ones(database_for: DatabaseFor) -> None:
    with pytest.raises(UsageError, match="make backfill"):
        read_stored(database_for("policy"), END, HOUR)
    candles = random_candles(300, HOUR, end=to_unix(END))
    store_candles(database_for, "simulated", "SIM-A/USDT", HOUR, candles, "simulated")
    assert read_stored(database_for("policy"), END, HOUR).provenance == "simulated"
    store_candles(database_for, "real", "A/USDT", HOUR, candles)
    source = read_stored(database_for("policy"), END, HOUR)
    assert (source.provenance, list(source.series)) == ("real", ["A/USDT"])
    assert "1 simulated series" in source.left_out[0]


def test_candle_files_are_read_and_their_bad_rows_told(tmp_path: Path) -> None:
    path = tmp_path / "test_AAA-USDT_1h.csv"
    first = to_unix(END) - 3 * HOUR
    rows = [f"{first + k * HOUR},10,11,9,10,5" for k in range(3)] + [f"{first},10,1,9,10,5"]
    path.write_text("\n".join(["timestamp,open,high,low,close,volume", *rows, ""]))
    source = read_files([path], END, HOUR)
    assert (source.venue, source.timeframe, len(source.series["AAA/USDT"])) == ("test", "1h", 3)
    assert "1 rows refused" in source.left_out[0]


def test_what_is_saved_for_the_processes_is_what_was_read(tmp_path: Path) -> None:
    series = {"A/USDT": random_candles(50, HOUR, 1), "B/USDT": random_candles(70, HOUR, 2)}
    source_of(series).save(tmp_path / "x" / "series.npz")
    loaded = load_series(tmp_path / "x" / "series.npz", ["B/USDT"])
    assert list(loaded) == ["B/USDT"]
    assert np.array_equal(loaded["B/USDT"].close, series["B/USDT"].close)
    assert np.array_equal(loaded["B/USDT"].as_of, series["B/USDT"].as_of)


def test_the_key_tells_apart_all_that_the_numbers_depend_on() -> None:
    settings, quick = profile()
    source = source_of({"A/USDT": constant(300, 1.0)})
    folds = folds_of(source)

    def key(source: Source = source, folds: list[Fold] = folds, settings: Settings = settings) -> str:
        return evaluation_key(source, folds, quick, settings)  # type: ignore[arg-type]

    other = source_of({"A/USDT": constant(300, 1.0)})
    other.series["A/USDT"].close[5] += 1e-9
    wider = settings.execution.model_copy(update={"no_trade_band": 0.3})
    keys = [
        key(),
        key(source=other),
        key(folds=folds[:1]),
        key(settings=settings.model_copy(update={"execution": wider})),
    ]
    assert len(set(keys)) == 4
    assert key() == keys[0]
