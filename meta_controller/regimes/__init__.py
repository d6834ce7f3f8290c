"""Regime experts by name. A new one is one file here and one line in EXPERTS."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from meta_controller.controller import HorizonCall
from meta_controller.regimes import quadrant
from shared.rows import FloatArray

# From the index's log returns up to a bar, shape (n,), oldest first, to one call a horizon about what
# follows that bar. Pure, causal, and without memory: the same returns, the same calls.
RegimeExpert = Callable[[FloatArray], tuple[HorizonCall, ...]]

EXPERTS: Mapping[str, RegimeExpert] = {"quadrant": quadrant.call_regimes}
