"""What a regime expert is: something that learns from the past, and calls what follows each bar.

Fits are made every FIT_S, on everything before; in between the parameters stand. Both functions are pure.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from meta_controller.controller import HORIZONS_S
from meta_controller.market_index import BLOCK_S, MarketHistory
from shared.rows import FloatArray

FIT_S = 4 * BLOCK_S
CLASSES = 6  # p_down, p_flat, p_up, p_vol_low, p_vol_mid, p_vol_high
FLOOR = 0.01  # no class gets less: what is certain and wrong would pay without bound

Calls = FloatArray  # [bars, len(HORIZONS_S), CLASSES]; each triple sums to 1
Parameters = Mapping[str, Any]  # what JSON can hold, exactly


@dataclass(frozen=True, slots=True)
class Expert:
    """``fit(past)``: parameters from a history that ends where the fit is made, outcomes within it included.

    ``call(history, parameters, bars)``: calls for the last ``bars`` bars of ``history``, [bars, horizons, 6], each a
    function of the bars up to its own: of a longer history that begins at the same bar, the same rows are the same
    bits. ``least_bars``: a shorter past is not fitted (0: there is nothing to fit, and fit is not called); a history
    of fewer than LEAST_BARS is never asked about.
    """

    call: Callable[[MarketHistory, Parameters, int], Calls]
    fit: Callable[[MarketHistory], dict[str, Any] | None] | None = None
    least_bars: int = 0


__all__ = ["CLASSES", "FIT_S", "FLOOR", "HORIZONS_S", "Calls", "Expert", "Parameters"]
