"""Folds never let training see the test, and all venues of an asset share a side."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from encoder.dataset import LABEL_HORIZON_S
from encoder.evaluation.splits import EMBARGO_S, asset, choose_held_out, walk_forward
from shared.features import WINDOW
from shared.job import UsageError


@given(
    st.integers(1_500_000_000, 1_600_000_000),
    st.integers(40, 3000),
    st.integers(1, 8),
    st.sampled_from([300, 900, 3600]),
)
def test_no_candle_is_seen_by_training_and_test(from_: int, days: int, folds: int, timeframe_s: int) -> None:
    to = from_ + days * 86_400
    try:
        made = walk_forward(from_, to, folds, timeframe_s)
    except UsageError:
        assume(False)
        raise
    assert [fold.number for fold in made] == list(range(1, folds + 1))
    for fold in made:
        assert fold.train_from == from_ < fold.train_to
        first_candle_of_test = fold.test_from - WINDOW * timeframe_s
        assert first_candle_of_test >= fold.train_to + EMBARGO_S
        assert fold.test_to + LABEL_HORIZON_S == fold.until <= to
        assert fold.test_to - fold.test_from >= 86_400 - timeframe_s
    for before, after in pairwise(made):
        assert before.until == after.train_to
        assert before.until < after.test_from
    assert made[-1].until == to


def test_spans_that_are_too_short_are_refused() -> None:
    with pytest.raises(UsageError, match="ask for fewer"):
        walk_forward(0, 60 * 86_400, 4, 3600)
    with pytest.raises(UsageError, match=r"1 folds of 119\.0 days are too short"):
        walk_forward(0, 238 * 86_400, 1, 3600)  # nothing could be learnt of volatility classes
    assert len(walk_forward(0, 240 * 86_400, 1, 3600)) == 1
    with pytest.raises(UsageError, match="at least 1"):
        walk_forward(0, 6000 * 86_400, 0, 3600)


def test_all_venues_of_an_asset_are_held_out_together() -> None:
    names = ["binance:BTC/USDT", "kraken:BTC/USD", "binance:ETH/USDT", "x:SOL/USDT", "x:ADA/USDT", "x:XRP/USDT"]
    assert {asset(name) for name in names[:2]} == {"BTC"}
    assert choose_held_out(names, None) == ("XRP",)
    assert choose_held_out(names[:5], None) == ()
    assert choose_held_out(names, ["SOL", "BTC", "SOL"]) == ("BTC", "SOL")
    assert choose_held_out(names, []) == ()
    with pytest.raises(UsageError, match="DOGE"):
        choose_held_out(names, ["DOGE"])
    with pytest.raises(UsageError, match="nothing is left"):
        choose_held_out(names[:2], ["BTC"])
