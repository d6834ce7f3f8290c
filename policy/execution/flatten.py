"""Selling everything in bounded steps: what an operator's `make kill FLATTEN=1` asks for.

Each step is one limit order that takes what the book gives at once, no further below the newest close than
[execution] flatten_slippage, and is gone (immediate or cancel). The next step is written when the last one has ended.
"""

from __future__ import annotations

from datetime import timedelta
from decimal import ROUND_CEILING, Decimal

from policy.execution.brackets import is_dust, to_step
from policy.execution.crashpoints import crashpoint
from policy.execution.desk import Desk
from policy.execution.protect import write_order

LIFETIME = timedelta(minutes=3)  # longer than the fate of a stop that stands in its way may stay unknown


def flatten(desk: Desk) -> None:
    """Writes one step for every position above dust that none is under way for."""
    orders = desk.ask("open_orders")
    intended = {i["instrument_id"] for i in desk.ask("intents", now=desk.now()) if i["purpose"] == "flatten"}
    for holding in desk.ask("holdings", now=desk.now()):
        selling = [o for o in orders if o["instrument_id"] == holding["instrument_id"] and o["side"] == "sell"
                   and o["purpose"] != "protect"]  # fmt: skip
        if selling or holding["instrument_id"] in intended or not holding["close"]:
            continue
        close, tick = Decimal(repr(holding["close"])), holding["tick_size"]
        floor = close * (1 - Decimal(str(desk.settings.execution.flatten_slippage)))
        limit = max((floor / tick).to_integral_value(ROUND_CEILING), Decimal(1)) * tick
        quantity = to_step(holding["quantity"], holding["lot_size"])
        if not is_dust(quantity, limit, holding):
            because = f"the operator flattens; not below {limit}"
            write_order(desk, holding, "flatten", quantity, because, LIFETIME, type="limit", time_in_force="ioc",
                        limit_price=limit)  # fmt: skip
            crashpoint("intent.after_flatten")
