"""Scalar arithmetic of fills and books, written in the subset of Python that numba compiles.

The paper venue runs these functions as they are, training and backtest run them compiled
(shared.simulation.compiled); both give the same bits, because every operation is one IEEE double
operation in a fixed order (no fused multiply-add, no reassociation). Amounts are rounded as the database
stores them (8 decimals), so a book rebuilt from the stored fills is the same book, as long as no amount
exceeds 16 million (2^24): above, the last bits of doubles are too coarse for sums to round as decimals do.

Units: prices in quote per base, quantities in base, cash, cost and fee in quote, bps = 1e-4.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

# Slack in steps, absolute and relative: 0.3 / 0.1 is 2.9999999999999996 and means 3, and so among billions of them.
EPSILON = 1e-9
ULPS = 1e-15
MONEY_STEP = 1e-8


def round_money(amount: float) -> float:
    """The nearest 8-decimal amount (half up), as the double nearest to it."""
    return math.floor(amount * 1e8 + 0.5) / 1e8


def floor_to_step(value: float, step: float) -> float:
    """The largest multiple of ``step`` not above ``value``."""
    return round_money(math.floor(value / step * (1.0 + ULPS) + EPSILON) * step)


def ceil_to_step(value: float, step: float) -> float:
    """The smallest multiple of ``step`` not below ``value``."""
    return round_money(math.ceil(value / step * (1.0 - ULPS) - EPSILON) * step)


def market_price(is_buy: bool, reference: float, slippage_bps: float, tick: float) -> float:
    """What a market order pays: the reference price, slipped and rounded to the tick against the taker."""
    if is_buy:
        return ceil_to_step(reference * (1.0 + slippage_bps * 1e-4), tick)
    return max(floor_to_step(reference * (1.0 - slippage_bps * 1e-4), tick), tick)


def affordable(cash: float, price: float, fee_bps: float, lot: float) -> float:
    """The largest quantity in whole lots whose cost and fee ``cash`` covers (to MONEY_STEP)."""
    budget = cash
    while budget > 0.0:
        quantity = floor_to_step(budget / (price * (1.0 + fee_bps * 1e-4)), lot)
        cost = trade_cost(quantity, price)
        if cost + trade_fee(cost, fee_bps) <= cash:
            return quantity
        budget -= MONEY_STEP  # rounding of cost and fee overshot: at most a few times, however small the lot
    return 0.0


def trade_cost(quantity: float, price: float) -> float:
    return round_money(quantity * price)


def trade_fee(cost: float, fee_bps: float) -> float:
    return round_money(cost * fee_bps * 1e-4)


def market_fill(
    signed_quantity: float,
    cash: float,
    held: float,
    reference: float,
    slippage_bps: float,
    fee_bps: float,
    tick: float,
    lot: float,
) -> tuple[float, float, float, float]:
    """Fills a market order (buy > 0, sell < 0) at ``reference``: (signed quantity, price, cost, fee).

    A buy fills what cash affords, a sell what is held; the quantity is 0 where that is nothing.
    """
    if signed_quantity > 0.0:
        price = market_price(True, reference, slippage_bps, tick)
        quantity = signed_quantity
        cost = trade_cost(quantity, price)
        if cost + trade_fee(cost, fee_bps) > cash:
            quantity = affordable(cash, price, fee_bps, lot)
            cost = trade_cost(quantity, price)
        return quantity, price, cost, trade_fee(cost, fee_bps)
    price = market_price(False, reference, slippage_bps, tick)
    quantity = min(-signed_quantity, held)
    cost = trade_cost(quantity, price)
    return -quantity, price, cost, trade_fee(cost, fee_bps)


def cash_after(cash: float, signed_quantity: float, cost: float, fee: float) -> float:
    return round_money(cash - cost - fee) if signed_quantity > 0.0 else round_money(cash + cost - fee)


def equity(cash: float, held: Floats, price: Floats) -> float:
    """Cash plus positions at ``price``, summed in order; an instrument not held needs no price."""
    total = cash
    for n in range(len(held)):
        if held[n] > 0.0:
            total += held[n] * price[n]
    return total


def advance(
    cash: float,
    held: Floats,
    order: Floats,
    order_first: Ints,
    order_last: Ints,
    open_price: Floats,
    close_price: Floats,
    mark: Floats,
    first_bar: int,
    end_bar: int,
    slippage_bps: float,
    fee_bps: float,
    tick: Floats,
    lot: Floats,
    equity_out: Floats,
    fill_out: Floats,
) -> tuple[float, int]:
    """Runs one book of N instruments through the bars [first_bar, end_bar): (cash, number of fills).

    ``order`` holds signed open quantities, each good for the bars order_first..order_last (inclusive); it
    fills at the first of these bars that has an open, sells before buys, then in instrument order, and is
    cleared when filled or expired. ``open_price`` and ``close_price`` are [bars, N] with NaN for missing
    bars; ``mark`` [N] carries the last close. Mutates held, order and mark; writes the equity at each bar's
    close to equity_out[bar] and (bar, n, signed quantity, price, cost, fee) to fill_out[i]."""
    fills = 0
    for bar in range(first_bar, end_bar):
        for selling in (True, False):
            for n in range(len(held)):
                if order[n] == 0.0 or (order[n] < 0.0) != selling or bar < order_first[n]:
                    continue
                if bar > order_last[n]:
                    order[n] = 0.0
                    continue
                reference = open_price[bar, n]
                if math.isnan(reference):
                    continue
                quantity, price, cost, fee = market_fill(
                    order[n], cash, held[n], reference, slippage_bps, fee_bps, tick[n], lot[n]
                )
                order[n] = 0.0
                if quantity == 0.0:
                    continue
                cash = cash_after(cash, quantity, cost, fee)
                held[n] = round_money(held[n] + quantity)
                fill_out[fills, 0] = bar
                fill_out[fills, 1] = n
                fill_out[fills, 2] = quantity
                fill_out[fills, 3] = price
                fill_out[fills, 4] = cost
                fill_out[fills, 5] = fee
                fills += 1
        for n in range(len(held)):
            if not math.isnan(close_price[bar, n]):
                mark[n] = close_price[bar, n]
        equity_out[bar] = equity(cash, held, mark)
    for n in range(len(held)):
        if order[n] != 0.0 and end_bar > order_last[n]:
            order[n] = 0.0
    return cash, fills
