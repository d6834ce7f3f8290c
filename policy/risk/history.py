"""What the closes of N instruments together say about risk at one moment: returns over days, ranges, correlations.

From closes on a grid, each value from its own window only: however many more closes there are, it is the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from policy.risk.context import VAR_DAYS, VAR_MIN_DAYS, VAR_ONE_IN, RiskParameters
from shared.rows import FloatArray, IntArray

RANGE_DAYS = 14  # true ranges that are averaged
CORRELATION_DAYS = 90  # daily returns that a correlation is read from
CORRELATION_MIN_DAYS = 30  # known of both; with fewer it is not known
SMALLEST_SPREAD = 1e-9  # of the squares: what varies less, varies by rounding
WINDOW_DAYS = 360  # what a trader has of closes (policy.signals), and no more of them may count for anybody
CHUNK = 512  # rows looked at together


def asks_ranges(rules: RiskParameters) -> bool:
    return rules.atr_multiple > 0.0


def asks_correlations(rules: RiskParameters) -> bool:
    return rules.max_correlated_exposure < 1.0


def asks_tails(rules: RiskParameters) -> bool:
    return min(rules.max_value_at_risk, rules.max_cvar) < 1.0


class CloseHistory:
    """Closes [B, M] on a grid with ``stride`` bars a day, NaN where there is none yet; everything at every bar.

    ``daily`` [B, M]: simple returns over a day, NaN where unknown. ``first``: the earliest row anybody asks about."""

    def __init__(self, closes: FloatArray, stride: int, first: int = 0) -> None:
        self.stride, self._closes, self._first = stride, closes, first
        self.daily: FloatArray = np.full(closes.shape, np.nan)
        self.daily[stride:] = closes[stride:] / closes[:-stride] - 1.0

    @cached_property
    def tails(self) -> FloatArray:
        """[B, M], what policy.risk.value_at_risk bounds a portfolio's CVaR by, a share of each position: its own CVaR
        where every instrument has VAR_DAYS returns, else its worst day, which holds for any part of the days; 0 where
        it is too young to be looked at. Zeros before ``first``."""
        out = np.zeros(self.daily.shape)
        for start in range(self._first, len(out), CHUNK):
            rows = np.arange(start, min(start + CHUNK, len(out)))
            out[rows] = _tails(self._window(rows, VAR_DAYS))
        return out

    @cached_property
    def ranges(self) -> FloatArray:
        """[B, M], the average true range of RANGE_DAYS days as a fraction of the close: what closes since the close a
        day before span, which is a little less than what prices do. NaN where unknown, and before ``first``."""
        out = np.full(self.daily.shape, np.nan)
        reach = RANGE_DAYS * self.stride
        begin = max(self._first - reach, 0)
        closes = self._closes[begin:]
        if len(closes) <= reach:
            return out
        days = sliding_window_view(closes, self.stride + 1, axis=0)
        true_ranges = days.max(axis=-1) - days.min(axis=-1)
        count = len(closes) - reach
        total = np.zeros((count, closes.shape[1]))
        for day in range(RANGE_DAYS):  # not numpy's sum: its order, so its last bits, depend on the shape
            total += true_ranges[day * self.stride : day * self.stride + count]
        out[begin + reach :] = total / RANGE_DAYS / closes[reach:]
        return out

    def correlations(self, row: int) -> FloatArray:
        """[M, M] of daily returns, NaN where one has too few, or none that differ."""
        return correlations(self._window(np.array([row]), CORRELATION_DAYS)[:, 0])

    def window(self, row: int) -> FloatArray:
        """The closes [K, M] up to that of ``row``, oldest first, of WINDOW_DAYS at most."""
        return self._closes[max(row + 1 - WINDOW_DAYS * self.stride, 0) : row + 1]

    def of_days_with_candles(self, present: NDArray[np.bool_]) -> CloseHistory:
        """The same, its daily returns NaN but where candles closed in that day and in the day before; ``present``
        [B, M]: where one did. Rules take what is filled in for flat; who asks how wrong they were does not."""
        count = np.vstack([np.zeros((1, present.shape[1]), np.int64), np.cumsum(present, axis=0)])
        in_day = count[self.stride :] > count[: -self.stride]  # [B + 1 - stride, M], by the day's last row
        both = in_day[self.stride :] & in_day[: -self.stride]
        known = np.zeros(present.shape, dtype=np.bool_)
        known[2 * self.stride - 1 :] = both
        found = CloseHistory(self._closes, self.stride, self._first)
        found.daily[~known] = np.nan
        return found

    def _window(self, rows: IntArray, days: int) -> FloatArray:
        """The daily returns [days, rows, M] up to each row, the newest first; NaN before the grid."""
        at = rows[None, :] - self.stride * np.arange(days)[:, None]
        found: FloatArray = self.daily[np.maximum(at, 0)]  # the first row has no day before it: it is never known
        return found


@dataclass(frozen=True, slots=True)
class PortfolioHistory:
    """A CloseHistory as it is known at one of its rows."""

    closes: CloseHistory
    row: int

    def ranges(self, rules: RiskParameters) -> FloatArray:
        """[N], NaN where no rule asks for them."""
        return self.closes.ranges[self.row] if asks_ranges(rules) else np.full(self.closes.daily.shape[1], np.nan)

    def correlations(self, rules: RiskParameters) -> FloatArray:
        """[N, N], likewise."""
        n = self.closes.daily.shape[1]
        return self.closes.correlations(self.row) if asks_correlations(rules) else np.full((n, n), np.nan)

    def tails(self, rules: RiskParameters) -> FloatArray:
        """[N], 0 where no rule asks for them."""
        return self.closes.tails[self.row] if asks_tails(rules) else np.zeros(self.closes.daily.shape[1])

    @property
    def window(self) -> FloatArray:
        """The closes [K, N] that are known, oldest first."""
        return self.closes.window(self.row)

    @staticmethod
    def unknown(n: int) -> PortfolioHistory:
        """Of N instruments that nobody knows the past of."""
        return PortfolioHistory(CloseHistory(np.full((1, n), np.nan), 1), 0)


def _tails(returns: FloatArray) -> FloatArray:
    """``returns`` [VAR_DAYS, rows, M] -> [rows, M]."""
    known = np.isfinite(returns)
    days = known.sum(axis=0)
    losses = np.sort(np.where(known, -returns, -np.inf), axis=0)[::-1]
    beyond = VAR_DAYS // VAR_ONE_IN
    shortfall = np.zeros(days.shape)
    for k in range(beyond):
        shortfall += losses[k] / beyond
    whole = (days == VAR_DAYS).all(axis=-1, keepdims=True)
    bound: FloatArray = np.maximum(np.where(whole, shortfall, losses[0]), 0.0)
    bound[days < VAR_MIN_DAYS] = 0.0
    return bound


def correlations(returns: FloatArray) -> FloatArray:
    """``returns`` [days, M] -> [M, M], each pair over the days that both know."""
    known = np.isfinite(returns)
    there, x = known.astype(np.float64), np.where(known, returns, 0.0)
    days, total, squares = there.T @ there, x.T @ there, (x * x).T @ there
    enough = days >= CORRELATION_MIN_DAYS
    count = np.where(enough, days, 1.0)
    spread = squares - total * total / count
    moves = enough & (spread > SMALLEST_SPREAD * squares)
    both = moves & moves.T
    scale = np.sqrt(np.where(both, spread * spread.T, 1.0))
    between = (x.T @ x - total * total.T / count) / scale
    return np.where(both, np.clip(between, -1.0, 1.0), np.nan)
