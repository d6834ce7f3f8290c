"""What an order must be before it gets to the book; the first thing that is wrong is told."""

from __future__ import annotations

from decimal import Decimal

from shared.rows import InstrumentRules
from tests.exchange_emulator.records import TRIGGERED_TYPES, Refused, Request


def check_shape(request: Request) -> None:
    """Whether the parts fit together, whatever the market is like."""
    prices = (request.limit_price, request.stop_price)
    if not request.quantity.is_finite() or request.quantity <= 0:
        raise Refused("invalid", "volume")
    if any(price is not None and not (price.is_finite() and price > 0) for price in prices):
        raise Refused("invalid", "price")
    if (request.type == "limit") != (request.limit_price is not None) and request.type not in TRIGGERED_TYPES:
        raise Refused("invalid", "price")
    if (request.type in ("stop", "take_profit")) != (request.stop_price is not None):
        raise Refused("invalid", "price")
    if (request.type == "trailing_stop") != (request.trail is not None):
        raise Refused("invalid", "price")
    if request.trail is not None and not (request.trail.is_finite() and 0 < request.trail < 1):
        raise Refused("invalid", "price")
    if request.post_only and (request.type != "limit" or request.time_in_force != "gtc"):
        raise Refused("invalid", "oflags")


def check_rules(request: Request, rules: InstrumentRules, last: Decimal) -> None:
    """Ticks, lots and minimums; a market order costs what it would at the ``last`` price."""
    prices = (request.limit_price, request.stop_price)
    if any(price is not None and price % rules.tick_size for price in prices):
        raise Refused("tick", f"prices are multiples of {rules.tick_size}")
    if request.quantity % rules.lot_size:
        raise Refused("lot", f"quantities are multiples of {rules.lot_size}")
    if request.quantity < rules.min_quantity:
        raise Refused("minimum", f"at least {rules.min_quantity}")
    price = next((price for price in prices if price is not None), last)
    if request.quantity * price < rules.min_notional:
        raise Refused("cost_minimum", f"at least {rules.min_notional} in quote")
