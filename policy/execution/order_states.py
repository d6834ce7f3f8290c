"""The life of an order as its events draw it; the same table is a trigger in the database (tested equal).

intended -> sending -> accepted | rejected | unknown: written before the request, and after its answer. unknown is left
by proof only: the order was found at the venue, or certainly never came there. A paper order has no request to lose:
it goes from intended to accepted. canceling and amending are written before such a request; what the venue then says
of the order (accepted: it still works) ends them.
"""

from __future__ import annotations

from typing import Literal

OrderState = Literal[
    "intended", "sending", "accepted", "canceling", "amending", "unknown", "rejected", "filled", "canceled", "expired"
]

ENDS: tuple[OrderState, ...] = ("filled", "canceled", "expired")
NEXT: dict[OrderState, tuple[OrderState, ...]] = {
    "intended": ("sending", "rejected", "canceled", "expired"),
    "sending": ("accepted", "rejected", "unknown"),
    "unknown": ("accepted", "rejected", *ENDS),
    "accepted": ("canceling", "amending", *ENDS),
    "canceling": ("accepted", *ENDS),
    "amending": ("accepted", *ENDS),
    "rejected": (),
    "filled": (),
    "canceled": (),
    "expired": (),
}
NEXT_ON_PAPER = NEXT | {"intended": ("accepted", "rejected", "canceled", "expired")}
FINAL = frozenset(state for state, following in NEXT.items() if not following)
UNDECIDED = frozenset({"sending", "unknown"})  # it may be at the venue or not
