"""Every planted leak by its name."""

from __future__ import annotations

from tests.planted.leaks import fills, judgement, knowledge, learning, regimes, trading

LEAKS = {leak.name: leak for part in (fills, trading, knowledge, learning, judgement, regimes) for leak in part.LEAKS}
