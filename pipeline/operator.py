"""The operator's hand: wallets and their limits, money in and out, stopping and resuming, orders by hand; ask for a new
encoder.

Writes wallets, limits, cash_flows, commands, and the KILL files.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from decimal import Decimal

from pipeline.commands import ask_for_encoder, issue_command, operator_name
from pipeline.funding import adopt, adopt_managed_capital, pay, release
from pipeline.place import place_command
from pipeline.stopping import STOPS, WISH, resume_command, stop_command, wallet_state
from pipeline.wallets import change_limits, create_live_wallet, create_wallet, limit_lines
from shared.db import load_queries
from shared.job import Context, Outcome, UsageError, job_parser, run_job_command
from shared.settings import HomeSettings
from shared.wallets_file import load_wallets, parse_amount

__all__ = ["ask_for_encoder", "create_wallet", "issue_command", "main"]

LIMITS = ("max_order_notional", "max_orders_a_day", "max_day_notional", "max_position_notional", "ramp_days",
          "ramp_exposure")  # fmt: skip
OPENING = 10_000.0


def _retrain(context: Context) -> Outcome:
    a = context.arguments
    ask_for_encoder(context.database, context.clock.now(), a.reason or WISH, operator_name())
    return Outcome("done", {"next": "`python -m encoder.retrain` takes it within the hour, where it is scheduled"})


def _wallet(context: Context) -> Outcome:
    a, database, now, name = context.arguments, context.database, context.clock.now(), _named(context)
    if a.mode == "live":
        given = [option for option in ("capital", "venue", "symbols", "track") if getattr(a, option) is not None]
        if given:
            raise UsageError(f"the terms of a live wallet are in config/wallets.json: {', '.join(given)} belong there")
        made = create_live_wallet(database, context.settings, now, load_wallets().entry(name))
        then = f"start the sender, which finds what its account holds; then `make go-live WALLET={name}`"
    else:
        universe, capital = context.settings.universe, OPENING if a.capital is None else a.capital
        venue, symbols = a.venue or universe.venue, a.symbols or universe.symbols
        made = create_wallet(database, context.settings, now, name, venue, symbols, capital, a.track or "live")
        then = "it is paused: `make resume WALLET=… REASON=…` lets it trade"
    if not made:
        raise UsageError(f"wallet {name!r} exists already; a wallet's terms never change, choose another name")
    return Outcome("done", {"wallet": name, "mode": a.mode, "next": then})


def _wallets(context: Context) -> Outcome:
    queries, home = load_queries("operator"), HomeSettings().home_path
    stops = {row["name"]: row for row in context.database.fetch(queries["wallet_stops"], {"now": context.clock.now()})}
    rows = context.database.fetch(queries["wallet_list"])
    for row in rows:
        let = {None: "never let live", True: "let live", False: "not let live"}[row["granted"]]
        print(f"{row['name']}: {row['mode']} wallet on {row['venue']}, track {row['track']}"
              + (f", {let}" if row["mode"] == "live" else ""))  # fmt: skip
        print(f"  equity {row['equity']:,.2f} {row['quote']}, cash {row['cash']:,.2f}")
        print(f"  not managed on its account: {row['unmanaged'] or 'nothing that is known'}" if row["mode"] == "live"
              else "  paper money")  # fmt: skip
        state = wallet_state(home, stops[row["name"]])
        if state == "trades" and row["mode"] == "live" and not row["granted"]:
            state = f"resumed, but nothing is sent until `LIVE_CONFIRM={row['name']} make go-live WALLET={row['name']}`"
        print(f"  {state}")
        print("\n".join(f"  {line}" for line in limit_lines(row, row["quote"])))
    if not rows:
        print("there is no wallet yet: `make wallet WALLET=… CAPITAL=…`; a live one: docs/live-trading.md")
    return Outcome("done" if rows else "nothing", {"wallets": len(rows)})


def _limits(context: Context) -> Outcome:
    a, name = context.arguments, _named(context)
    changes = {limit: getattr(a, limit) for limit in (*LIMITS, "symbols") if getattr(a, limit) is not None}
    limits = change_limits(context.database, context.clock.now(), name, changes)
    quote = limits["symbols"][0].partition("/")[2]
    print("\n".join([f"{name}:", *(f"  {line}" for line in limit_lines(limits, quote))]))
    return Outcome("done" if changes else "nothing", {"limits": name, "changed": sorted(changes)})


def _adopt(context: Context) -> Outcome:
    a, name, now = context.arguments, _named(context), context.clock.now()
    if a.asset is None and a.quantity is None:
        adopted = adopt_managed_capital(context.database, now, load_wallets().entry(name))
        if adopted is None:
            raise UsageError(
                f"there is no managed_capital of {name} to adopt: config/wallets.json names none, or the wallet "
                "manages money already; name ASSET=… and QTY=…"
            )
        return Outcome("done", {"wallet": name, "adopted": adopted})
    if a.asset is None or a.quantity is None:
        raise UsageError("adopt what? ASSET=… and QTY=…, or neither for config/wallets.json's managed_capital")
    value = adopt(context.database, now, name, a.asset, _amount(a.quantity), a.key)
    if value is None:
        return Outcome("nothing", {"wallet": name, "because": "this KEY was used before"})
    return Outcome("done", {"wallet": name, "adopted": f"{a.quantity} {a.asset}", "value": value})


def _release(context: Context) -> Outcome:
    a, name = context.arguments, _named(context)
    if a.asset is None or a.quantity is None:
        raise UsageError("release what? ASSET=… and QTY=…")
    quantity, reason = _amount(a.quantity), a.reason or ""
    value = release(context.database, context.clock.now(), name, a.asset, quantity, reason, a.key)
    if value is None:
        return Outcome("nothing", {"wallet": name, "because": "this KEY was used before"})
    return Outcome("done", {"wallet": name, "released": f"{a.quantity} {a.asset}", "value": value})


def _pay(context: Context) -> Outcome:
    a, name = context.arguments, _named(context)
    if a.quantity is None:
        raise UsageError("how much? QTY=…, in the wallet's quote currency")
    amount = _amount(a.quantity) * (1 if a.action == "wallet-deposit" else -1)
    cash = pay(context.database, context.clock.now(), name, amount, a.key)
    if cash is None:
        return Outcome("nothing", {"wallet": name, "because": "this KEY was used before"})
    return Outcome("done", {"wallet": name, "paid": amount, "cash": cash})


def _named(context: Context) -> str:
    name: str | None = context.arguments.wallet
    if name is None:
        raise UsageError(f"{context.arguments.action} which wallet? WALLET=…; `make wallets` lists them")
    return name


def _amount(text: str) -> Decimal:
    try:
        return parse_amount(text)
    except ValueError as error:
        raise UsageError(f"QTY={text}: {error}") from None


ACTIONS: dict[str, Callable[[Context], Outcome]] = {
    "wallet": _wallet,
    "wallets": _wallets,
    "limits": _limits,
    "wallet-adopt": _adopt,
    "wallet-release": _release,
    "wallet-deposit": _pay,
    "wallet-withdraw": _pay,
    "resume": resume_command,
    "place": place_command,
    "retrain": _retrain,
}


def _parser() -> argparse.ArgumentParser:
    parser = job_parser("Wallets, their limits and money; pause, kill, halt, resume; place; ask for a new encoder.")
    parser.add_argument("action", choices=(*ACTIONS, *STOPS))
    parser.add_argument("wallet", nargs="?", help="of all actions but wallets and retrain")
    parser.add_argument("--reason")
    parser.add_argument("--all", action="store_true", help="pause, kill, halt, resume: every wallet")
    parser.add_argument("--flatten", action="store_true", help="kill: and sell what is held, in steps")
    parser.add_argument("--mode", choices=("paper", "live"), default="paper")
    parser.add_argument("--capital", type=float, help=f"of a paper wallet; {OPENING:g} where not given")
    parser.add_argument("--venue")
    parser.add_argument("--symbols", nargs="+")
    parser.add_argument("--track", choices=("live", "rules", "llm", "static"))
    parser.add_argument("--asset", help="wallet-adopt, wallet-release: which of those on the account")
    parser.add_argument("--quantity", help="wallet-adopt, wallet-release, wallet-deposit, wallet-withdraw, place")
    parser.add_argument("--side", help="place: buy or sell")
    parser.add_argument("--limit", help="place: the price that it must not be filled beyond; none: the price collar")
    parser.add_argument("--key", help="idempotency: the same payment, adoption or order twice under one key is one")
    for limit in LIMITS:
        parser.add_argument(f"--{limit.replace('_', '-')}")
    return parser


def main(argv: list[str] | None = None) -> int:
    parser = _parser()
    if parser.parse_args(argv).action in STOPS:
        return stop_command(parser, argv)
    return run_job_command("cli", parser, lambda context: ACTIONS[context.arguments.action](context), argv)


if __name__ == "__main__":
    sys.exit(main())
