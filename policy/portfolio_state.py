"""What only a wallet that trades has and the risk rules ask for, read from its rows: nothing is remembered elsewhere,
so a restart forgets nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import numpy as np

from policy.averaging import Entries
from policy.risk.context import PortfolioState
from shared.clock import to_unix
from shared.db import Database, load_queries
from shared.money import to_float
from shared.rows import Instrument


def read_portfolio_state(
    database: Database, wallet_id: int, instruments: Sequence[Instrument], at: datetime
) -> PortfolioState:
    """Of these instruments [N] at ``at``, which is now: open orders count as they are."""
    queries = load_queries("risk")
    (reserved,), traded = database.fetch_together([
        (queries["reserved_cash"], {"wallet_id": wallet_id}),
        (queries["traded_instruments"], {"wallet_id": wallet_id, "at": at}),
    ])  # fmt: skip
    rows = {row["instrument_id"]: row for row in traded}
    found = [rows.get(instrument.id) for instrument in instruments]
    return PortfolioState(
        reserved=to_float(reserved["reserved"]),
        stopped_out=np.array([row is not None and row["stopped_out"] for row in found], dtype=np.bool_),
        since_fill_s=np.array([(at - row["last_fill"]).total_seconds() if row else np.inf for row in found]),
        age_s=np.array(
            [(at - row["held_since"]).total_seconds() if row and row["held_since"] else 0.0 for row in found]
        ),
        entries=_entries(found),
    )


def _entries(found: Sequence[Mapping[str, Any] | None]) -> Entries:
    entries = Entries.none(len(found))
    for n, row in enumerate(found):
        if row is not None and row["held_since"] is not None:
            entries.price[n], entries.quantity[n] = to_float(row["entry_price"]), to_float(row["entry_quantity"])
            entries.at[n], entries.average[n] = to_unix(row["held_since"]), to_float(row["average_price"])
    return entries
