"""Every planted leak by its name."""

from __future__ import annotations

from tests.planted.leaks import (
    execution_approval,
    execution_reading,
    execution_sending,
    fills,
    judgement,
    knowledge,
    learning,
    regimes,
    trading,
)

FAMILIES = {
    "fills": fills.LEAKS,
    "trading": trading.LEAKS,
    "knowledge": knowledge.LEAKS,
    "learning": learning.LEAKS,
    "judgement": judgement.LEAKS,
    "regimes": regimes.LEAKS,
    "execution": (*execution_sending.LEAKS, *execution_reading.LEAKS, *execution_approval.LEAKS),
}
LEAKS = {leak.name: leak for leaks in FAMILIES.values() for leak in leaks}
