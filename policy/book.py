"""A wallet's book at one moment, from its amounts and the equities it was decided at before."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from policy.observation import Book
from shared.rows import FloatArray
from shared.simulation import kernel


@dataclass(frozen=True, slots=True)
class History:
    """What the past says: the equity at the last decision at or before this UTC midnight, and the highest
    equity before now since the wallet was resumed."""

    day_start_equity: float
    peak_equity: float


def midnight(as_of: datetime) -> datetime:
    return as_of.replace(hour=0, minute=0, second=0, microsecond=0)


def make_book(as_of: datetime, cash: float, held: FloatArray, prices: FloatArray, history: History) -> Book:
    equity = kernel.equity(cash, held, prices)
    return Book(
        cash=cash,
        held=held,
        equity=equity,
        day_start_equity=equity if as_of == midnight(as_of) else history.day_start_equity,
        peak_equity=max(history.peak_equity, equity),
    )


class HistoryKeeper:
    """The same history, kept in memory while a book is simulated from ``capital``."""

    def __init__(self, capital: float) -> None:
        self._peak = capital
        self._last = capital
        self._day_start = capital
        self._day: datetime | None = None

    def before(self, as_of: datetime) -> History:
        day = midnight(as_of)
        if day != self._day:
            self._day_start, self._day = self._last, day
        return History(self._day_start, self._peak)

    def resume(self, equity: float) -> None:
        """From here on the peak counts anew, as after an operator's resume."""
        self._peak = equity

    def record(self, as_of: datetime, equity: float) -> None:
        self._peak = max(self._peak, equity)
        self._last = equity
        if as_of == midnight(as_of):
            self._day_start = equity
