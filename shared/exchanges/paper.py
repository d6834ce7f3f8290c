"""The paper venue: fills market orders at the open of a real candle, by the simulation kernel, in Decimal."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

from shared.money import to_float, to_money
from shared.simulation import kernel


@dataclass(frozen=True, slots=True)
class PaperFill:
    """``quantity`` is 0 where the wallet could afford, or holds, nothing."""

    quantity: Decimal
    price: Decimal
    cost: Decimal
    fee: Decimal


def fill_market_order(
    side: str,
    quantity: Decimal,
    cash: Decimal,
    held: Decimal,
    open_price: float,
    slippage_bps: Decimal,
    fee_bps: Decimal,
    tick: Decimal,
    lot: Decimal,
) -> PaperFill:
    """What the venue answers to a market order whose fill candle opened at ``open_price``."""
    signed = to_float(quantity) if side == "buy" else -to_float(quantity)
    filled, price, cost, fee = kernel.market_fill(
        signed,
        to_float(cash),
        to_float(held),
        open_price,
        float(slippage_bps),
        float(fee_bps),
        to_float(tick),
        to_float(lot),
    )
    return PaperFill(to_money(abs(filled)), to_money(price), to_money(cost), to_money(fee))
