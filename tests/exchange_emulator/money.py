"""Amounts as they are booked, and what an open order reserves.

No venue publishes its rounding. Here every booked amount is cut off at its asset's decimals and every reservation is
rounded up, so that the fills of an order can never cost more than it reserved, however many they are.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal

from tests.exchange_emulator.kraken_pairs import MONEY
from tests.exchange_emulator.records import Account, Order, VenueName

MONEY_STEP, ASSET_STEP = Decimal("1e-4"), Decimal("1e-8")
ZERO, ONE = Decimal(0), Decimal(1)


def step(venue: VenueName, asset: str) -> Decimal:
    """Kraken books dollars with four decimals; all else, there and elsewhere, has eight."""
    return MONEY_STEP if venue == "kraken" and asset in MONEY else ASSET_STEP


def cut(account: Account, asset: str, amount: Decimal) -> Decimal:
    return amount.quantize(step(account.venue, asset), ROUND_FLOOR)


def trade_amounts(
    account: Account, order: Order, price: Decimal, quantity: Decimal, rate: Decimal
) -> tuple[Decimal, Decimal]:
    """(cost, fee) of one fill; the fee in ``order.fee_asset``."""
    _, quote = order.assets
    volume = quantity if order.fee_in_base else price * quantity
    return cut(account, quote, price * quantity), cut(account, order.fee_asset, volume * rate)


def hold(order: Order, account: Account) -> tuple[str, Decimal]:
    """(asset, amount) that an order with something left to fill keeps from other uses."""
    base, quote = order.assets
    left = order.remaining if order.is_open else order.late
    rate = max(account.fees.maker, account.fees.taker)
    if order.side == "sell":
        asset, amount = base, left * (ONE + rate if order.fee_in_base else ONE)
    else:
        price = order.limit_price if order.limit_price is not None else order.stop_price
        asset, amount = quote, left * (price or ZERO) * (ONE if order.fee_in_base else ONE + rate)
    return asset, amount.quantize(step(account.venue, asset), ROUND_CEILING)


def reservations(account: Account, live: Iterable[Order]) -> dict[str, Decimal]:
    """By asset; the orders of one OCO list share the greatest reservation of them, for only one of them will fill."""
    shares: dict[tuple[str, int], Decimal] = {}
    for order in live:
        asset, amount = hold(order, account)
        place = asset, order.group or -order.number
        shares[place] = max(amount, shares.get(place, ZERO))
    held: dict[str, Decimal] = defaultdict(Decimal)
    for (asset, _), amount in shares.items():
        held[asset] += amount
    return dict(held)


def affordable(available: Decimal, price: Decimal, rate: Decimal, lot: Decimal) -> Decimal:
    """How much can be bought at ``price`` with the fee in quote, in whole lots."""
    return max(ZERO, (available / (price * (ONE + rate)) // lot) * lot)
