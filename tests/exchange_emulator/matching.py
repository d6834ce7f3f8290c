"""Own orders against the market's tape: a pure function of the tape, the orders and their times.

Takers walk the book as it is after the newest trade (their trading leaves no mark on it). Makers are filled when the
tape trades through their price, a touch is not enough, up to the volume of that trade, the best price first, then
the oldest. Triggers look at the last price.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal

from tests.exchange_emulator.book import Level, side_after
from tests.exchange_emulator.market import Market, Trade
from tests.exchange_emulator.money import affordable, trade_amounts
from tests.exchange_emulator.records import Ending, Fill, Order, Side
from tests.exchange_emulator.store import Store

DEPTH = 500  # levels that a taker can reach
LOT = Decimal("1e-8")
ONE = Decimal(1)


def walk(
    levels: list[Level], quantity: Decimal, limit: Decimal | None, side: Side
) -> Iterator[tuple[Decimal, Decimal]]:
    """(price, quantity) of each level that a taker of ``side`` takes, no worse than ``limit``."""
    for level in levels:
        if quantity <= 0 or (limit is not None and (level.price > limit if side == "buy" else level.price < limit)):
            return
        taken = min(quantity, level.volume)
        quantity -= taken
        yield level.price, taken


def trailing(side: Side, trail: Decimal, peak: Decimal, tick: Decimal) -> Decimal:
    """Where a trailing stop stands, on the tick that is farther from the market."""
    if side == "sell":
        return (peak * (ONE - trail) / tick).to_integral_value(ROUND_FLOOR) * tick
    return (peak * (ONE + trail) / tick).to_integral_value(ROUND_CEILING) * tick


def is_triggered(order: Order, last: Decimal) -> bool:
    if not order.is_waiting or order.stop_price is None:
        return False
    falls_to_it = (order.side == "sell") != (order.type == "take_profit")
    return last <= order.stop_price if falls_to_it else last >= order.stop_price


def watched(order: Order, tick: Decimal) -> tuple[Decimal | None, Decimal | None]:
    """(low, high): a trade at low or below, or at high or above, does something to the order."""
    if not order.is_waiting:
        limit = order.limit_price
        if limit is None or not order.is_open:
            return None, None
        return (limit - tick, None) if order.side == "buy" else (None, limit + tick)
    falls_to_it = (order.side == "sell") != (order.type == "take_profit")
    low, high = (order.stop_price, None) if falls_to_it else (None, order.stop_price)
    if order.peak is not None:
        low, high = (low, order.peak + tick) if order.side == "sell" else (order.peak - tick, high)
    return low, high


class Matcher:
    """Changes ``store`` as the market goes by; the engine calls it under its lock."""

    def __init__(self, market: Market, store: Store, tick: Callable[[str], Decimal]) -> None:
        self._market, self._store, self._tick = market, store, tick
        self._ahead: dict[str, tuple[object, int, Trade | None]] = {}  # what was found for which orders, until when

    # --- the tape ---

    def next_trades(self, until_ns: int) -> list[tuple[str, Trade]]:
        """Those of the earliest moment up to ``until`` that matters to an order, one a symbol at most."""
        found = [(s, trade) for s in self._symbols() if (trade := self._next(s, until_ns)) is not None]
        first = min((trade.time_ns for _, trade in found), default=0)
        return [(symbol, trade) for symbol, trade in found if trade.time_ns == first]

    def _symbols(self) -> list[str]:
        return sorted({order.symbol for order in self._store.live.values()})

    def _next(self, symbol: str, until_ns: int) -> Trade | None:
        tick = self._market.rules(symbol).tick_size
        edges = [watched(order, tick) for order in self._store.live.values() if order.symbol == symbol]
        low = max((low for low, _ in edges if low is not None), default=None)
        high = min((high for _, high in edges if high is not None), default=None)
        known, seen_ns, trade = self._ahead.get(symbol, (None, 0, None))
        if known != (low, high) or (trade is not None and trade.time_ns <= self._store.at_ns):
            seen_ns, trade = self._store.at_ns, None
        if trade is None and seen_ns < until_ns:
            trade = self._market.first_beyond(symbol, max(seen_ns, self._store.at_ns), until_ns, low, high)
            self._ahead[symbol] = (low, high), until_ns, trade
        return trade if trade is not None and trade.time_ns <= until_ns else None

    def pass_trade(self, symbol: str, trade: Trade) -> None:
        """Triggers first, in the order of their numbers, then those that were makers before it."""
        live = [order for order in self._store.live.values() if order.symbol == symbol]
        makers = [order for order in live if not order.is_waiting and _is_through(order, trade.price)]
        for order in live:
            self.follow(order.number, trade)
        volume = trade.volume
        for maker in sorted(makers, key=_priority):
            order = self._store.orders[maker.number]
            if order.is_open and order.limit_price is not None and volume > 0:
                quantity = min(volume, order.remaining)
                self.fill(order, order.limit_price, quantity, is_maker=True)
                volume -= quantity

    def follow(self, number: int, trade: Trade) -> None:
        """A waiting order sees a price: its peak moves, or it is triggered and goes to the market."""
        order = self._store.orders[number]
        if not order.is_open or not order.is_waiting:
            return
        if order.trail is not None and order.peak is not None:
            peak = max(order.peak, trade.price) if order.side == "sell" else min(order.peak, trade.price)
            if peak != order.peak:
                stop = trailing(order.side, order.trail, peak, self._tick(order.symbol))
                order = self._store.put(replace(order, peak=peak, stop_price=stop))
        if is_triggered(order, trade.price):
            self._end_siblings(order)
            order = self._store.put(replace(order, is_triggered=True))
            self._store.emit("triggered", order.account, order)
            self.take(order, trade)

    # --- filling ---

    def take(self, order: Order, trade: Trade) -> Order:
        """An order comes to the market just after ``trade``: what can be taken is, and the rest rests or ends."""
        limit = order.limit_price
        levels = self.facing(order, trade)
        if (
            order.time_in_force == "fok"
            and sum(q for _, q in walk(levels, order.remaining, limit, order.side)) < order.remaining
        ):
            return self.end(order, "canceled", "Fill or kill")
        funded = True
        for price, quantity in list(walk(levels, order.remaining, limit, order.side)):
            wanted = quantity if limit is not None else self._funded(order, price, quantity)
            if wanted > 0:
                order = self.fill(order, price, wanted, is_maker=False)
            if funded := wanted == quantity:
                continue
            break
        if not order.is_open or (limit is not None and order.time_in_force == "gtc"):
            return order
        if limit is not None:
            return self.end(order, "canceled", "Immediate or cancel")
        return self.end(order, "canceled", "Insufficient liquidity" if funded else "Insufficient funds")

    def facing(self, order: Order, trade: Trade) -> list[Level]:
        return side_after(self._market, order.symbol, trade, "sell" if order.side == "buy" else "buy", DEPTH)

    def _funded(self, order: Order, price: Decimal, quantity: Decimal) -> Decimal:
        """A triggered market order reserved what it would cost at its stop, which may be less than it does cost."""
        account = self._store.account(order.account)
        base, quote = order.assets
        if order.side == "sell":
            rate = account.fees.taker if order.fee_in_base else Decimal(0)
            available = self._store.available(order.account, base, (order.number,))
            return min(quantity, affordable(available, ONE, rate, LOT))
        rate = Decimal(0) if order.fee_in_base else account.fees.taker
        return min(quantity, affordable(self._store.available(order.account, quote, (order.number,)), price, rate, LOT))

    def fill(self, order: Order, price: Decimal, quantity: Decimal, is_maker: bool) -> Order:
        """One trade of an open order, or of one that was canceled with a late fill to come."""
        self._end_siblings(order)
        store, account = self._store, self._store.account(order.account)
        base, quote = order.assets
        rate = account.fees.maker if is_maker else account.fees.taker
        cost, fee = trade_amounts(account, order, price, quantity, rate)
        number, sign = len(store.fills) + 1, Decimal(1 if order.side == "buy" else -1)
        fees = {base: fee} if order.fee_in_base else {quote: fee}
        legs = ((base, sign * quantity), (quote, -sign * cost))
        entries = [
            store.post(account.name, "trade", asset, amount, fees.get(asset, Decimal(0)), number).number
            for asset, amount in legs
        ]
        done = Fill(
            number, account.name, order.number, order.symbol, order.side, price, quantity, cost, fee,
            order.fee_asset, is_maker, store.at_ns, (entries[0], entries[1]),
        )  # fmt: skip
        store.add_fill(done)
        left = max(Decimal(0), order.late - quantity)
        order = replace(
            order, filled=order.filled + quantity, value=order.value + price * quantity, cost=order.cost + cost,
            fee=order.fee + fee, late=left,
        )  # fmt: skip
        store.put(order)
        store.emit("trade", account.name, order, done)
        return self.end(order, "filled", "") if order.is_open and order.remaining <= 0 else order

    def end(self, order: Order, ending: Ending, reason: str) -> Order:
        order = self._store.put(replace(order, state=ending, closed_ns=self._store.at_ns, reason=reason))
        self._store.emit(ending, order.account, order, reason=reason)
        return order

    def _end_siblings(self, order: Order) -> None:
        """One order of an OCO list begins to trade: the others end."""
        for other in self._store.siblings(order):
            self.end(other, "expired", "OCO")


def _is_through(order: Order, price: Decimal) -> bool:
    if order.limit_price is None:
        return False
    return price < order.limit_price if order.side == "buy" else price > order.limit_price


def _priority(order: Order) -> tuple[Decimal, int]:
    """The best price first, then the oldest; buyers and sellers are never through at once but by the market's grace."""
    price = order.limit_price or Decimal(0)
    return (-price if order.side == "buy" else price), order.number
