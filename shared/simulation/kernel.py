"""Scalar arithmetic of fills and books, written in the subset of Python that numba compiles.

The paper venue runs these functions as they are, training and backtest run them compiled
(shared.simulation.compiled); both give the same bits, because every operation is one IEEE double
operation in a fixed order (no fused multiply-add, no reassociation). Amounts are rounded as the database
stores them (8 decimals), so a book rebuilt from the stored fills is the same book, as long as no amount
exceeds 16 million (2^24): above, the last bits of doubles are too coarse for sums to round as decimals do.

Units: prices in quote per base, quantities in base, cash, cost and fee in quote, bps = 1e-4, volatility
annualised as a fraction (0.5 is 50 % a year); it must be finite and not negative.
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
YEAR_S = 365 * 86_400

MARKET, STOP, TARGET, CLOSE_OUT = 0, 1, 2, 3  # kinds of fill
FILL_COLUMNS = 7  # bar, instrument, signed quantity, price, cost, fee, kind
FEES, TRADED, SLIPPAGE = 0, 1, 2  # of totals, in quote
TOTALS = 3


def round_money(amount: float) -> float:
    """The nearest 8-decimal amount (half up), as the double nearest to it."""
    return math.floor(amount * 1e8 + 0.5) / 1e8


def floor_to_step(value: float, step: float) -> float:
    """The largest multiple of ``step`` not above ``value``."""
    return round_money(math.floor(value / step * (1.0 + ULPS) + EPSILON) * step)


def ceil_to_step(value: float, step: float) -> float:
    """The smallest multiple of ``step`` not below ``value``."""
    return round_money(math.ceil(value / step * (1.0 - ULPS) - EPSILON) * step)


def bar_years_sqrt(bar_s: int) -> float:
    """The square root of a bar's length in years: annualised volatility times this is the bar's volatility."""
    return math.sqrt(bar_s / YEAR_S)


def slippage_bps(
    half_spread_bps: float, impact: float, bar_volatility: float, quantity: float, bar_volume: float
) -> float:
    """How far from the reference price a market order of ``quantity`` fills: half the spread, and its impact.

    Impact follows the square-root law, a share ``impact`` (about 1) of the bar's volatility times the root of the
    order's share of the bar's volume (Almgren, Thum, Hauptmann & Li, "Direct estimation of equity market impact",
    Risk 2005; Tóth et al., "Anomalous price impact and the critical nature of liquidity", Phys. Rev. X 1, 2011).
    The share is at most 1; it is 1 where the bar traded nothing or its volume is not known (NaN).
    """
    share = 1.0
    if bar_volume > 0.0 and quantity < bar_volume:
        share = quantity / bar_volume
    return half_spread_bps + 1e4 * impact * bar_volatility * math.sqrt(share)


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
    signed_quantity: float, cash: float, held: float, reference: float, slippage_bps: float, fee_bps: float,
    tick: float, lot: float,
) -> tuple[float, float, float, float]:  # fmt: skip
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


def bracket_fill(
    held: float, stop: float, target: float, open_price: float, high_price: float, low_price: float,
    slippage_bps: float, fee_bps: float, tick: float, lot: float,
) -> tuple[int, float, float, float, float, float]:  # fmt: skip
    """What a stop and a target (0 = none) of the whole position ``held`` do within one bar that has an open:
    (kind, signed quantity, price, cost, fee, reference); the quantity is 0 where neither is reached.

    A bar that opens beyond a level fills there; one that reaches both later is ambiguous, and the stop counts. The
    stop is a market order from the worse of its level and the open, slipped. The target is a limit order that rests
    at its level, rounded up to the tick: filled there, or at the better open, without slippage.
    """
    limit = ceil_to_step(target, tick)
    stopped = stop > 0.0 and (open_price <= stop or low_price <= stop)
    reached = target > 0.0 and (open_price >= limit or high_price >= limit)
    if reached and (not stopped or (open_price >= limit and open_price > stop)):
        price = max(limit, floor_to_step(open_price, tick))
        cost = trade_cost(held, price)
        return TARGET, -held, price, cost, trade_fee(cost, fee_bps), price
    if stopped:
        reference = min(stop, open_price)
        quantity, price, cost, fee = market_fill(-held, 0.0, held, reference, slippage_bps, fee_bps, tick, lot)
        return STOP, quantity, price, cost, fee, reference
    return MARKET, 0.0, 0.0, 0.0, 0.0, 0.0


def cash_after(cash: float, signed_quantity: float, cost: float, fee: float) -> float:
    return round_money(cash - cost - fee) if signed_quantity > 0.0 else round_money(cash + cost - fee)


def equity(cash: float, held: Floats, price: Floats) -> float:
    """Cash plus positions at ``price``, summed in order; an instrument not held needs no price."""
    total = cash
    for n in range(len(held)):
        if held[n] > 0.0:
            total += held[n] * price[n]
    return total


def book_fill(
    b: int, n: int, bar: int, quantity: float, price: float, cost: float, fee: float, reference: float, kind: int,
    fills: int, cash: Floats, held: Floats, fill_out: Floats, totals: Floats,
) -> int:  # fmt: skip
    """Enters one fill into the book, its totals and, where there is a row left, fill_out: the number of fills."""
    cash[b] = cash_after(cash[b], quantity, cost, fee)
    held[b, n] = round_money(held[b, n] + quantity)
    totals[b, FEES] += fee
    totals[b, TRADED] += cost
    totals[b, SLIPPAGE] += abs(cost - abs(quantity) * reference)
    if fills < len(fill_out):
        fill_out[fills, 0] = bar
        fill_out[fills, 1] = n
        fill_out[fills, 2] = quantity
        fill_out[fills, 3] = price
        fill_out[fills, 4] = cost
        fill_out[fills, 5] = fee
        fill_out[fills, 6] = kind
    return fills + 1


def clear_order(b: int, n: int, held: Floats, order: Floats, stop: Floats, target: Floats) -> None:
    """An order has come to its end; stop and target end with the position, or with the entry that never came."""
    order[b, n] = 0.0
    if held[b, n] == 0.0:
        stop[b, n] = 0.0
        target[b, n] = 0.0


def fill_orders(
    b: int, bar: int, selling: bool, fills: int, cash: Floats, held: Floats, order: Floats, order_first: Ints,
    order_last: Ints, stop: Floats, target: Floats, slot: Ints, open_price: Floats, volume: Floats,
    volatility: Floats, bar_years_sqrt: float, fee_bps: float, half_spread_bps: float, impact: float, tick: Floats,
    lot: Floats, fill_out: Floats, totals: Floats,
) -> int:  # fmt: skip
    """The sells, or the buys, of book ``b`` that meet the open of one bar: the number of fills."""
    for n in range(held.shape[1]):
        if order[b, n] == 0.0 or (order[b, n] < 0.0) != selling or bar < order_first[b, n]:
            continue
        m = slot[b, n]
        reference = open_price[bar, m]
        if bar <= order_last[b, n]:
            if math.isnan(reference):
                continue
            bar_volatility = volatility[b, n] * bar_years_sqrt
            slipped = slippage_bps(half_spread_bps, impact, bar_volatility, abs(order[b, n]), volume[bar, m])
            quantity, price, cost, fee = market_fill(
                order[b, n], cash[b], held[b, n], reference, slipped, fee_bps, tick[m], lot[m]
            )
            if quantity != 0.0:
                fills = book_fill(
                    b, n, bar, quantity, price, cost, fee, reference, MARKET, fills, cash, held, fill_out, totals
                )
        clear_order(b, n, held, order, stop, target)
    return fills


def fill_brackets(
    b: int, bar: int, fills: int, cash: Floats, held: Floats, order: Floats, stop: Floats, target: Floats,
    slot: Ints, open_price: Floats, high_price: Floats, low_price: Floats, volume: Floats, volatility: Floats,
    bar_years_sqrt: float, fee_bps: float, half_spread_bps: float, impact: float, tick: Floats, lot: Floats,
    fill_out: Floats, totals: Floats,
) -> int:  # fmt: skip
    """The stops and targets of book ``b`` that one bar reaches, in instrument order: the number of fills.

    Such an exit also cancels an open order of its instrument: that was sized for the position that is gone.
    """
    for n in range(held.shape[1]):
        if held[b, n] == 0.0 or (stop[b, n] == 0.0 and target[b, n] == 0.0):
            continue
        m = slot[b, n]
        if math.isnan(open_price[bar, m]):
            continue
        bar_volatility = volatility[b, n] * bar_years_sqrt
        slipped = slippage_bps(half_spread_bps, impact, bar_volatility, held[b, n], volume[bar, m])
        kind, quantity, price, cost, fee, reference = bracket_fill(
            held[b, n], stop[b, n], target[b, n], open_price[bar, m], high_price[bar, m], low_price[bar, m],
            slipped, fee_bps, tick[m], lot[m],
        )  # fmt: skip
        if quantity != 0.0:
            fills = book_fill(
                b, n, bar, quantity, price, cost, fee, reference, kind, fills, cash, held, fill_out, totals
            )
            clear_order(b, n, held, order, stop, target)
    return fills


def is_quiet(b: int, held: Floats, order: Floats, stop: Floats, target: Floats) -> bool:
    """Whether book ``b`` has no open order and no bracket, so that no bar can fill anything."""
    for n in range(held.shape[1]):
        if order[b, n] != 0.0 or (held[b, n] != 0.0 and (stop[b, n] != 0.0 or target[b, n] != 0.0)):
            return False
    return True


def mark_bars(
    b: int, cash: float, held: Floats, slot: Ints, close_price: Floats, mark: Floats, first_bar: int, end_bar: int,
    equity_out: Floats,
) -> None:  # fmt: skip
    """What ``advance_book`` does with the bars of a quiet book: marks it at each close and writes its equity. One
    instrument after the other, each added in the order of ``equity``: the same sums, several times faster."""
    for bar in range(first_bar, min(end_bar, len(equity_out))):
        equity_out[bar] = cash
    for n in range(held.shape[1]):
        m, amount, price = slot[b, n], held[b, n], mark[b, n]
        if len(equity_out) == 0 or not amount > 0.0:  # only the newest close matters
            for back in range(end_bar - first_bar):
                close = close_price[end_bar - 1 - back, m]
                if not math.isnan(close):
                    mark[b, n] = close
                    break
            continue
        for bar in range(first_bar, end_bar):
            close = close_price[bar, m]
            if not math.isnan(close):
                price = close
            equity_out[bar] += amount * price
        mark[b, n] = price


def advance_book(
    b: int, cash: Floats, held: Floats, order: Floats, order_first: Ints, order_last: Ints, stop: Floats,
    target: Floats, slot: Ints, open_price: Floats, high_price: Floats, low_price: Floats, close_price: Floats,
    volume: Floats, volatility: Floats, mark: Floats, first_bar: int, end_bar: int, bar_years_sqrt: float,
    fee_bps: float, half_spread_bps: float, impact: float, tick: Floats, lot: Floats, equity_out: Floats,
    fill_out: Floats, totals: Floats,
) -> int:  # fmt: skip
    """Runs book ``b`` of B, N instruments each, through the bars [first_bar, end_bar): the number of fills.

    ``cash`` [B]; ``order`` [B, N] holds signed open quantities, each good for the bars order_first..order_last
    (inclusive); it fills at the first of these bars that has an open, sells before buys, then in instrument order,
    and is cleared when filled or expired. Its slippage is that of its whole quantity at ``volatility`` [B, N],
    annualised, as known when it was decided. ``stop`` and ``target`` [B, N] (0 = none) close whole positions after
    the orders of a bar, so that a position entered at a bar's open is exposed to the rest of that bar.

    Prices and ``volume`` are [bars, M] with NaN for missing bars, ``tick`` and ``lot`` [M]; ``slot`` [B, N] says which
    column each instrument of the book is. ``mark`` [B, N] carries the last close. ``bar_years_sqrt``: see there.

    Mutates cash, held, order, stop, target and mark. Adds fees, traded value and slippage paid to ``totals`` [B,
    TOTALS]. Writes the equity at each bar's close to equity_out[bar], unless that has length 0, and (bar, n, signed
    quantity, price, cost, fee, kind) to fill_out[i] as long as it has rows: 2N are always enough, 0 are allowed."""
    fills = 0
    for bar in range(first_bar, end_bar):
        if is_quiet(b, held, order, stop, target):
            mark_bars(b, cash[b], held, slot, close_price, mark, bar, end_bar, equity_out)
            break
        for selling in (True, False):
            fills = fill_orders(
                b, bar, selling, fills, cash, held, order, order_first, order_last, stop, target, slot, open_price,
                volume, volatility, bar_years_sqrt, fee_bps, half_spread_bps, impact, tick, lot, fill_out, totals,
            )  # fmt: skip
        fills = fill_brackets(
            b, bar, fills, cash, held, order, stop, target, slot, open_price, high_price, low_price, volume,
            volatility, bar_years_sqrt, fee_bps, half_spread_bps, impact, tick, lot, fill_out, totals,
        )  # fmt: skip
        for n in range(held.shape[1]):
            close = close_price[bar, slot[b, n]]
            if not math.isnan(close):
                mark[b, n] = close
        if len(equity_out) > 0:
            equity_out[bar] = equity(cash[b], held[b], mark[b])
    for n in range(held.shape[1]):
        if order[b, n] != 0.0 and end_bar > order_last[b, n]:
            clear_order(b, n, held, order, stop, target)
    return fills


def advance(
    cash: float, held: Floats, order: Floats, order_first: Ints, order_last: Ints, stop: Floats, target: Floats,
    slot: Ints, open_price: Floats, high_price: Floats, low_price: Floats, close_price: Floats, volume: Floats,
    volatility: Floats, mark: Floats, first_bar: int, end_bar: int, bar_years_sqrt: float, fee_bps: float,
    half_spread_bps: float, impact: float, tick: Floats, lot: Floats, equity_out: Floats, fill_out: Floats,
    totals: Floats,
) -> tuple[float, int]:  # fmt: skip
    """``advance_book`` of a single book: what is [B, N] there is [N] here, totals are [TOTALS]; (cash, number of
    fills). The arrays of the book must be contiguous."""
    purse = np.array([cash])
    fills = advance_book(
        0, purse, held.reshape(1, -1), order.reshape(1, -1), order_first.reshape(1, -1), order_last.reshape(1, -1),
        stop.reshape(1, -1), target.reshape(1, -1), slot.reshape(1, -1), open_price, high_price, low_price, close_price,
        volume, volatility.reshape(1, -1), mark.reshape(1, -1), first_bar, end_bar, bar_years_sqrt, fee_bps,
        half_spread_bps, impact, tick, lot, equity_out, fill_out, totals.reshape(1, -1),
    )  # fmt: skip
    return float(purse[0]), fills


def close_book(
    b: int, cash: Floats, held: Floats, order: Floats, stop: Floats, target: Floats, slot: Ints, mark: Floats,
    bar: int, fee_bps: float, half_spread_bps: float, tick: Floats, lot: Floats, fill_out: Floats, totals: Floats,
) -> float:  # fmt: skip
    """The end of book ``b``: every position is sold at ``mark`` [B, N] less half the spread, and charged the fee; open
    orders, stops and targets are cleared. Returns the costs, in quote.

    Each sale is a fill of kind CLOSE_OUT at ``bar``; shapes, fill_out and totals as in ``advance_book``. A position
    whose mark is NaN was never worth anything known; it stays.
    """
    before: float = totals[b, FEES] + totals[b, SLIPPAGE]
    fills = 0
    for n in range(held.shape[1]):
        price_now = mark[b, n]
        if held[b, n] > 0.0 and not math.isnan(price_now):
            m = slot[b, n]
            quantity, price, cost, fee = market_fill(
                -held[b, n], cash[b], held[b, n], price_now, half_spread_bps, fee_bps, tick[m], lot[m]
            )
            fills = book_fill(
                b, n, bar, quantity, price, cost, fee, price_now, CLOSE_OUT, fills, cash, held, fill_out, totals
            )
        clear_order(b, n, held, order, stop, target)
    costs: float = totals[b, FEES] + totals[b, SLIPPAGE] - before
    return costs


def close_out(
    cash: float, held: Floats, order: Floats, stop: Floats, target: Floats, slot: Ints, mark: Floats, bar: int,
    fee_bps: float, half_spread_bps: float, tick: Floats, lot: Floats, fill_out: Floats, totals: Floats,
) -> tuple[float, float]:  # fmt: skip
    """``close_book`` of a single book, with the shapes of ``advance``: (cash, costs in quote)."""
    purse = np.array([cash])
    costs = close_book(
        0, purse, held.reshape(1, -1), order.reshape(1, -1), stop.reshape(1, -1), target.reshape(1, -1),
        slot.reshape(1, -1), mark.reshape(1, -1), bar, fee_bps, half_spread_bps, tick, lot, fill_out,
        totals.reshape(1, -1),
    )  # fmt: skip
    return float(purse[0]), costs


def advance_books(
    cash: Floats, held: Floats, order: Floats, order_first: Ints, order_last: Ints, stop: Floats, target: Floats,
    slot: Ints, open_price: Floats, high_price: Floats, low_price: Floats, close_price: Floats, volume: Floats,
    volatility: Floats, mark: Floats, first_bar: Ints, end_bar: Ints, bar_years_sqrt: float, fee_bps: Floats,
    half_spread_bps: Floats, impact: Floats, tick: Floats, lot: Floats, totals: Floats,
) -> None:  # fmt: skip
    """``advance_book`` of every one of B books over the same bars, each through its own [first_bar[b], end_bar[b]) and
    at its own fee, half spread and impact [B]. No equity curve and no fills are written: see totals."""
    equity_out, fill_out = np.empty(0), np.empty((0, FILL_COLUMNS))
    for b in range(len(cash)):
        advance_book(
            b, cash, held, order, order_first, order_last, stop, target, slot, open_price, high_price, low_price,
            close_price, volume, volatility, mark, first_bar[b], end_bar[b], bar_years_sqrt, fee_bps[b],
            half_spread_bps[b], impact[b], tick, lot, equity_out, fill_out, totals,
        )  # fmt: skip
