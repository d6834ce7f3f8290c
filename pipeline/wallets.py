"""Wallets and their limits: made once, on terms that can be traded; listed; limited anew.

Writes wallets, limits, cash_flows.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any

from pipeline.commands import no_wallet
from shared.db import Database, load_queries
from shared.job import UsageError
from shared.kill_file import WALLET_NAME
from shared.money import LARGEST_EXACT, to_money
from shared.settings import SYMBOL_PATTERN, Settings
from shared.wallets_file import WalletEntry, WalletLimits, parse_amount

REMOVABLE = ("max_day_notional", "max_position_notional")  # of a paper wallet: `none` takes the limit away


def _check_symbols(symbols: Sequence[str]) -> str:
    """Their one quote currency; UsageError for what could never be traded together."""
    strange = [symbol for symbol in symbols if not re.fullmatch(SYMBOL_PATTERN, symbol)]
    if strange:
        raise UsageError(f"a symbol is written BASE/QUOTE in capitals, like BTC/USDT; {', '.join(strange)} is not")
    if len(set(symbols)) < len(symbols):
        raise UsageError(f"each symbol may be named once: {', '.join(symbols)}")
    quotes = {symbol.partition("/")[2] for symbol in symbols}
    if len(quotes) != 1:
        raise UsageError(f"a wallet has one quote currency; {', '.join(symbols)} have {', '.join(sorted(quotes))}")
    return quotes.pop()


def create_wallet(
    database: Database,
    settings: Settings,
    at: datetime,
    name: str,
    venue: str,
    symbols: Sequence[str],
    capital: float,
    track: str = "live",
) -> bool:
    """A paper wallet with its limits and its first deposit, in one transaction; False when the name is taken.

    It starts paused: nothing is traded before a ``resume``. UsageError for terms that could never be traded, for they
    never change.
    """
    if not re.fullmatch(WALLET_NAME, name):
        raise UsageError(f"a wallet is named in a-z, 0-9, _ and -, like demo or btc-2026; {name!r} is not")
    quote = _check_symbols(symbols)
    if not 0 < capital < LARGEST_EXACT:
        raise UsageError(f"a wallet opens with more than 0 and less than {LARGEST_EXACT:,.0f}; {capital:g} is not")
    terms = {"name": name, "venue": venue, "mode": "paper", "quote": quote, "track": track}
    limits = WalletLimits(max_order_notional=to_money(settings.risk.max_order_notional))
    with database.transaction():
        wallet_id = _insert(database, settings, at, terms, symbols, limits)
        if wallet_id is None:
            return False
        deposit = {
            "wallet_id": wallet_id,
            "asset": quote,
            "amount": to_money(capital),
            "kind": "opening",
            "managed": True,
            "value": None,
            "reference": "opening deposit",
            "at": at,
        }
        database.execute(load_queries("cli")["insert_cash_flow"], deposit)
    return True


def create_live_wallet(database: Database, settings: Settings, at: datetime, entry: WalletEntry) -> bool:
    """A live wallet as config/wallets.json has it; False when the name is taken. It has no money: what its account
    holds is found by the sender and stays unmanaged until it is adopted."""
    terms = {"name": entry.name, "venue": entry.venue, "mode": "live", "quote": entry.quote, "track": entry.track}
    with database.transaction():
        return _insert(database, settings, at, terms, entry.symbols, entry.limits) is not None


def _insert(
    database: Database,
    settings: Settings,
    at: datetime,
    terms: dict[str, Any],
    symbols: Sequence[str],
    limits: WalletLimits,
) -> int | None:
    queries, execution = load_queries("cli"), settings.execution
    costs = {
        "taker_fee_bps": execution.taker_fee_bps,
        "slippage_bps": execution.slippage_bps,
        "impact": execution.impact,
    }
    wallet = database.fetch_one(queries["insert_wallet"], terms | costs | {"at": at})
    if wallet is None:
        return None
    orders_a_day = limits.max_orders_a_day or settings.risk.max_orders_a_day
    row = limits.model_dump() | {"max_orders_a_day": orders_a_day, "symbols": list(symbols), "at": at}
    database.execute(queries["insert_limits"], row | {"wallet_id": wallet["id"]})
    return int(wallet["id"])


def change_limits(database: Database, at: datetime, wallet: str, changes: dict[str, str | list[str]]) -> dict[str, Any]:
    """Writes the operator's new limits, all or none, and returns those that hold now; UsageError names what is wrong.

    ``changes``: column to what the operator wrote; without any it only looks.
    """
    queries = load_queries("operator")
    with database.transaction():
        row = database.fetch_one(queries["lock_wallet"], {"wallet": wallet})
        if row is None:
            raise no_wallet(wallet)
        limits = {name: value for name, value in row.items() if name not in ("id", "name", "venue", "mode", "quote")}
        for name, value in changes.items():
            limits[name] = _parse_limit(name, value, row)
        if changes:
            database.execute(queries["update_limits"], limits | {"wallet_id": row["id"], "at": at})
    return limits


def _parse_limit(name: str, value: str | list[str], wallet: dict[str, Any]) -> Any:
    if isinstance(value, list):
        if _check_symbols(value) != wallet["quote"]:
            raise UsageError(f"wallet {wallet['name']} trades in {wallet['quote']}; {', '.join(value)} do not")
        return value
    if value == "none":
        if name not in REMOVABLE or wallet["mode"] == "live":
            raise UsageError(f"{name.upper()} cannot be taken away from a {wallet['mode']} wallet: give a number")
        return None
    try:
        return _parse_number(name, value)
    except ValueError as error:
        raise UsageError(f"{name.upper()}={value}: {error}") from None


def _parse_number(name: str, value: str) -> int | Decimal:
    if name in ("max_orders_a_day", "ramp_days"):
        least = 0 if name == "ramp_days" else 1
        if not re.fullmatch(r"\d{1,6}", value) or int(value) < least:
            raise ValueError(f"write a whole number from {least} to 999999")
        return int(value)
    amount = parse_amount(value)
    if name == "ramp_exposure" and amount > 1:
        raise ValueError("a share of the capital is 1 at most")
    return amount


def limit_lines(limits: dict[str, Any], quote: str) -> list[str]:
    """For people."""
    said = {
        name: "no limit" if limits[name] is None else f"{limits[name].normalize():f} {quote}"
        for name in ("max_order_notional", "max_day_notional", "max_position_notional")
    }
    return [
        f"may trade {', '.join(limits['symbols'])}",
        f"an order {said['max_order_notional']}, a day {said['max_day_notional']}, a position "
        f"{said['max_position_notional']}; {limits['max_orders_a_day']} orders a day",
        f"live: {limits['ramp_exposure'].normalize():%} of its capital for the first {limits['ramp_days']} days",
    ]
