"""The random rivals of an evaluation are the policy's weights at other times, never at nearly its own."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np

from pipeline.evaluation.trials import CAPITAL, LEAST_SHIFT_DAYS, shifted

HOUR = 3600


def test_every_shift_is_a_month_away_either_way_round() -> None:
    days, drawn = 100, list[int]()

    def run_shifts(weights: Any, shifts: Any, costs: Any) -> Any:
        for shift in shifts:
            drawn.append(shift)
            yield SimpleNamespace(equity_by_bar=np.full(days * 24, CAPITAL), closed=CAPITAL)

    lab: Any = SimpleNamespace(
        step_s=HOUR, costs=None, curve_times=lambda: HOUR * np.arange(days * 24 + 1),
        weight_paths=lambda: SimpleNamespace(run_shifts=run_shifts),
    )  # fmt: skip
    found = shifted(lab, np.zeros((days * 24, 1)), 1000, 3)
    assert found is not None
    assert len(drawn) == len(found["sums"]) == 1000
    assert min(drawn) >= LEAST_SHIFT_DAYS * 24
    assert max(drawn) <= (days - LEAST_SHIFT_DAYS) * 24
    assert shifted(lab, np.zeros((89 * 24, 1)), 10, 3) is None
