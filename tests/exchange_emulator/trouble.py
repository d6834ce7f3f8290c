"""What the switchboard does to the private halves: rules that change, answers that are old, fills that come late."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

from shared.rows import InstrumentRules
from tests.exchange_emulator.engine import CancelTrouble, Engine
from tests.exchange_emulator.faults import Switchboard
from tests.exchange_emulator.market import NS, Market
from tests.exchange_emulator.records import Order, VenueName, View

COST_MINIMUM = Decimal("0.5")  # Kraken's, of money
KRAKEN_LOT = Decimal("1e-8")
TEN = Decimal(10)
LATE_FILL_S, STALE_S, HIDDEN_S = 1.0, 10.0, 10.0


class VenueRules:
    """What each venue demands of orders, while ``minimum`` and ``tick_size`` last and otherwise."""

    def __init__(self, market: Market, faults: Switchboard) -> None:
        self._market, self._faults = market, faults

    def of(self, venue: VenueName, symbol: str) -> InstrumentRules:
        """Kraken's lot is finer than its least quantity; Binance's are one. ValueError: no such symbol."""
        known = self._market.rules(symbol)
        lot, cost = (KRAKEN_LOT, COST_MINIMUM) if venue == "kraken" else (known.lot_size, known.min_notional)
        return InstrumentRules(
            tick_size=self._changed("tick_size", symbol, known.tick_size),
            lot_size=lot,
            min_notional=cost,
            min_quantity=self._changed("minimum", symbol, known.lot_size),
        )

    def _changed(self, fault: str, symbol: str, value: Decimal) -> Decimal:
        rule = self._faults.active(fault, symbol)
        if rule is None:
            return value
        self._faults.spend(rule)
        return (value * TEN).normalize() if rule.parameter is None else Decimal(str(rule.parameter))


def cancel_trouble(faults: Switchboard, order: Order) -> CancelTrouble | None:
    """For ``engine.cancel_trouble``."""
    rule = faults.take(("fill_before_cancel", "fill_after_cancel"), "rest", None, order.symbol, order.client_id)
    if rule is None:
        return None
    if rule.fault == "fill_before_cancel":
        return "fill_before_cancel", 0.0
    return "fill_after_cancel", _number(rule.parameter, LATE_FILL_S)


def served_view(engine: Engine, faults: Switchboard, account: str, endpoint: str) -> View:
    """The account as ``endpoint`` shows it while stale_read or hide_order lasts for it."""
    stale = faults.active("stale_read", None, "rest", endpoint)
    as_of_ns = None
    if stale is not None:
        faults.spend(stale)
        as_of_ns = engine.now_ns() - int(_number(stale.parameter, STALE_S) * NS)
    view = engine.view(account, as_of_ns)
    now_ns = engine.now_ns()
    shown = tuple(order for order in view.orders if not _is_hidden(faults, order, endpoint, now_ns))
    return replace(view, orders=shown)


def _is_hidden(faults: Switchboard, order: Order, endpoint: str, now_ns: int) -> bool:
    rule = faults.active("hide_order", order.symbol, "rest", endpoint, order.client_id)
    if rule is None or now_ns - order.opened_ns >= _number(rule.parameter, HIDDEN_S) * NS:
        return False
    faults.spend(rule)
    return True


def _number(parameter: float | str | None, default: float) -> float:
    return default if parameter is None else float(parameter)
