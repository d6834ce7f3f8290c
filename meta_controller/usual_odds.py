"""Which way a forecaster leans against its own habit: the odds of up against down that were usual for it.

A market that rose all year makes every expert call up likelier than down, hour after hour, in a crash as well: that is
the year's frequency, and says nothing of the day. What names a trend is a leaning away from what was usual.
"""

from __future__ import annotations

import math
from bisect import bisect_left

from meta_controller.market_index import DAY_S

REACH_S = 365 * DAY_S
LEAST_S = 14 * DAY_S  # a shorter habit is none: the odds count as they are


class UsualOdds:
    """The log odds of one forecaster and horizon, moment by moment (Unix seconds)."""

    def __init__(self) -> None:
        self._moments: list[int] = []
        self._logs: list[float] = []

    def add(self, as_of: int, p_down: float, p_up: float) -> None:
        """Both above 0. Moments may come in any order; one that is there stays."""
        at = bisect_left(self._moments, as_of)
        if at == len(self._moments) or self._moments[at] != as_of:
            self._moments.insert(at, as_of)
            self._logs.insert(at, math.log(p_up / p_down))

    def before(self, as_of: int) -> float:
        """The geometric mean of the odds in the REACH_S before ``as_of``; 1 while that is less than LEAST_S."""
        first, end = bisect_left(self._moments, as_of - REACH_S), bisect_left(self._moments, as_of)
        if first == end or self._moments[first] > as_of - LEAST_S:
            return 1.0
        return math.exp(math.fsum(self._logs[first:end]) / (end - first))  # exact: in any order the same bits
