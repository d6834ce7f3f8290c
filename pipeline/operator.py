"""The operator's hand: make a paper wallet, pause it, resume it; ask for a new encoder.

Writes wallets, limits, cash_flows, commands.
"""

from __future__ import annotations

import argparse
import re
import sys
import uuid
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from shared.db import Database, load_queries
from shared.job import Context, Outcome, UsageError, job_parser, run_job_command
from shared.money import LARGEST_EXACT, to_money
from shared.settings import SYMBOL_PATTERN, Settings

COMMAND_LIFETIME = timedelta(hours=1)
RETRAIN_LIFETIME = timedelta(hours=24)  # taken hourly, when no training runs


def _check_terms(name: str, symbols: Sequence[str], capital: float) -> str:
    """The wallet's quote currency; UsageError for terms that could never be traded, for they never change."""
    if not re.fullmatch(r"[a-z0-9_-]+", name):
        raise UsageError(f"a wallet is named in a-z, 0-9, _ and -, like demo or btc-2026; {name!r} is not")
    strange = [symbol for symbol in symbols if not re.fullmatch(SYMBOL_PATTERN, symbol)]
    if strange:
        raise UsageError(f"a symbol is written BASE/QUOTE in capitals, like BTC/USDT; {', '.join(strange)} is not")
    if len(set(symbols)) < len(symbols):
        raise UsageError(f"each symbol may be named once: {', '.join(symbols)}")
    quotes = {symbol.partition("/")[2] for symbol in symbols}
    if len(quotes) != 1:
        raise UsageError(f"a wallet has one quote currency; {', '.join(symbols)} have {', '.join(sorted(quotes))}")
    if not 0 < capital < LARGEST_EXACT:
        raise UsageError(f"a wallet opens with more than 0 and less than {LARGEST_EXACT:,.0f}; {capital:g} is not")
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

    It starts paused: nothing is traded before a ``resume``.
    """
    quote, queries = _check_terms(name, symbols, capital), load_queries("cli")
    with database.transaction():
        wallet = database.fetch_one(
            queries["insert_wallet"],
            {
                "name": name,
                "venue": venue,
                "quote": quote,
                "track": track,
                "taker_fee_bps": settings.execution.taker_fee_bps,
                "slippage_bps": settings.execution.slippage_bps,
                "impact": settings.execution.impact,
                "at": at,
            },
        )
        if wallet is None:
            return False
        limits = {
            "wallet_id": wallet["id"],
            "symbols": list(symbols),
            "max_order_notional": to_money(settings.risk.max_order_notional),
            "max_orders_a_day": settings.risk.max_orders_a_day,
            "at": at,
        }
        database.execute(queries["insert_limits"], limits)
        deposit = {
            "wallet_id": wallet["id"],
            "asset": quote,
            "amount": to_money(capital),
            "reference": "opening deposit",
            "at": at,
        }
        database.execute(queries["insert_cash_flow"], deposit)
    return True


def issue_command(
    database: Database, at: datetime, wallet: str, command: str, reason: str, issuer: str, key: str | None = None
) -> bool:
    """Writes a pause or resume; False when this idempotency key was used before. UsageError: no such wallet."""
    row = _command_row(at, command, reason, issuer, key, COMMAND_LIFETIME) | {"wallet": wallet}
    if database.execute(load_queries("cli")["insert_command"], row):
        return True
    if not database.fetch("SELECT FROM wallets WHERE name = %(wallet)s", row):
        raise UsageError(f"there is no wallet {wallet!r}; `make status` lists them, `make wallet` makes one")
    return False


def ask_for_encoder(database: Database, at: datetime, reason: str, issuer: str, key: str | None = None) -> bool:
    """Writes a command that asks for a new encoder; False when this idempotency key was used before."""
    row = _command_row(at, "retrain-encoder", reason, issuer, key, RETRAIN_LIFETIME)
    return bool(database.execute(load_queries("cli")["insert_retrain_command"], row))


def _command_row(
    at: datetime, command: str, reason: str, issuer: str, key: str | None, lifetime: timedelta
) -> dict[str, Any]:
    if not reason.strip():
        raise UsageError(f"say why: a {command} is written down with its reason")
    return {
        "command": command,
        "reason": reason,
        "issuer": issuer,
        "idempotency_key": key or str(uuid.uuid4()),
        "at": at,
        "expires_at": at + lifetime,
    }


def _command(context: Context) -> Outcome:
    a, database, now = context.arguments, context.database, context.clock.now()
    if a.action == "retrain":
        ask_for_encoder(database, now, a.reason, "cli")
        return Outcome("done", {"next": "`python -m encoder.retrain` takes it within the hour, where it is scheduled"})
    if a.wallet is None:
        raise UsageError(f"{a.action} which wallet? `make status` lists them")
    if a.action != "wallet":
        issue_command(database, now, a.wallet, a.action, a.reason, "cli")
        return Outcome("done", {a.action: a.wallet})
    universe = context.settings.universe
    venue, symbols = a.venue or universe.venue, a.symbols or universe.symbols
    made = create_wallet(database, context.settings, now, a.wallet, venue, symbols, a.capital, a.track)
    if not made:
        raise UsageError(f"wallet {a.wallet!r} exists already; a wallet's terms never change, choose another name")
    return Outcome("done", {"wallet": a.wallet, "next": "it is paused: `make resume WALLET=… REASON=…` lets it trade"})


def main(argv: list[str] | None = None) -> int:
    parser: argparse.ArgumentParser = job_parser("Make a paper wallet; pause or resume one; ask for a new encoder.")
    parser.add_argument("action", choices=("wallet", "pause", "resume", "retrain"))
    parser.add_argument("wallet", nargs="?", help="of all actions but retrain")
    parser.add_argument("--reason", default="operator's wish")
    parser.add_argument("--capital", type=float, default=10_000.0)
    parser.add_argument("--venue")
    parser.add_argument("--symbols", nargs="+")
    parser.add_argument("--track", choices=("live", "rules", "llm", "static"), default="live")
    return run_job_command("cli", parser, _command, argv)


if __name__ == "__main__":
    sys.exit(main())
