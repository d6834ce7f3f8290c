"""What went wrong with a feed, and how often: in the log, in counts, and as alerts where somebody should look."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping
from datetime import datetime

from candles.feed_store import FeedStore
from candles.feed_threads import OneAtATime
from candles.feed_venue import count_troubles
from shared.alerts import Severity
from shared.db import DatabaseError, DatabaseUnavailable
from shared.exchanges import Exchange

log = logging.getLogger("sextant.feed")

RARELY_S = 600.0  # between two lines about the same trouble, where it comes without end
DATABASE_TROUBLES = (DatabaseError, DatabaseUnavailable)


class Journal:
    def __init__(self, exchange: Exchange, store: FeedStore, database: OneAtATime, now: Callable[[], datetime]) -> None:
        self._exchange, self._store, self._database, self._now = exchange, store, database, now
        self._counts: Counter[str] = Counter()
        self._told: dict[str, int] = {}
        self._logged_at: dict[str, float] = {}  # by kind, monotonic

    def add(self, counts: Mapping[str, int]) -> None:
        """Counts alone: without a line of the log."""
        self._counts.update(+Counter(counts))

    def count(self, kind: str, detail: object, rarely: bool = False) -> None:
        """Counts it and logs it; ``rarely`` logs only the first one of some minutes."""
        self._counts[kind] += 1
        monotonic = time.monotonic()
        if not rarely or monotonic - self._logged_at.get(kind, float("-inf")) >= RARELY_S:
            self._logged_at[kind] = monotonic
            log.info("%s: %s", kind, detail, extra={"venue": self._exchange.name, "kind": kind})

    async def alert(self, severity: Severity, key: str, message: str) -> None:
        name = self._exchange.name
        log.warning("%s: %s", name, message, extra={"venue": name, "key": key})
        try:
            await self._database.run(self._store.alert, self._now(), severity, f"{key}:{name}", f"{name}: {message}")
        except DATABASE_TROUBLES as error:
            self.count("database", error)

    def counts(self) -> dict[str, int]:
        """With those of the venue's REST calls."""
        return dict(sorted((+self._counts + count_troubles(self._exchange)).items()))

    def tell_counts(self) -> None:
        counts = self.counts()
        if counts != self._told:
            self._told = counts
            log.info("counts", extra={"venue": self._exchange.name, "counts": counts})
