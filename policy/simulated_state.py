"""What a backtest's book remembers as a wallet's rows do (policy.portfolio_state): how its positions were entered, and
which were closed by their stops. Filled from the simulator's fills, in their order."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from policy.averaging import Entries
from policy.decision_kernel import Bools
from policy.risk.context import PortfolioState
from policy.simulator import SimulatedFill
from shared.rows import FloatArray
from shared.simulation.kernel import round_money


class SimulatedState:
    """Of N instruments with lots ``lot`` [N]; more than a lot held is a position."""

    def __init__(self, lot: FloatArray) -> None:
        self._lot, self._taken = lot, 0
        self._held, self._bought, self._paid = np.zeros(len(lot)), np.zeros(len(lot)), np.zeros(len(lot))
        self._entries = Entries.none(len(lot))
        self._stopped_at = np.zeros(len(lot), dtype=np.int64)  # 0: not stopped, or nothing was wanted since

    def at(self, fills: Sequence[SimulatedFill]) -> PortfolioState:
        """As it is after ``fills``: all of the book's up to now."""
        for fill in fills[self._taken :]:
            self._take(fill)
        self._taken = len(fills)
        stopped: Bools = self._stopped_at > 0
        fresh = PortfolioState.fresh(len(self._lot))
        return PortfolioState(fresh.reserved, stopped, fresh.since_fill_s, fresh.age_s, self._entries)

    def _take(self, fill: SimulatedFill) -> None:
        n, entries = fill.instrument, self._entries
        flat = self._held[n] <= self._lot[n]
        self._held[n] = round_money(float(self._held[n]) + fill.quantity)
        if self._held[n] <= self._lot[n]:
            for column in (entries.price, entries.quantity, entries.at, entries.average, self._bought, self._paid):
                column[n] = 0
        elif fill.quantity > 0.0:
            if flat:
                entries.price[n], entries.quantity[n], entries.at[n] = fill.price, fill.quantity, fill.filled_at
            self._bought[n] += fill.quantity
            self._paid[n] += fill.price * fill.quantity
            entries.average[n] = self._paid[n] / self._bought[n]
        if fill.kind == "stop":
            self._stopped_at[n] = fill.filled_at

    def decided(self, at: int, wanted: FloatArray) -> None:
        """A decision at ``at`` (Unix seconds) that wants none of an instrument lets it be entered again."""
        self._stopped_at[(wanted == 0.0) & (at > self._stopped_at)] = 0
