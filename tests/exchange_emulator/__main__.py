"""A venue to rehearse on: ``python -m tests.exchange_emulator --speed 60``."""

from __future__ import annotations

import argparse
import json
import signal
import sys
import textwrap
import threading
from collections.abc import Sequence
from pathlib import Path

from shared.clock import SystemClock, from_unix, parse_time
from tests.exchange_emulator.faults import FAULTS
from tests.exchange_emulator.server import HOST, SYMBOLS, Emulator

WELCOME = """\
Exchange emulator: an invented market on {host}, for rehearsals. Nothing here is money.

  serves   {symbols}  (seed {seed})
  clock    {now:%Y-%m-%d %H:%M:%S} UTC, {pace}
  kraken   {rest_url}  and  {websocket_url}
  binance  {binance_url}

In another terminal, to point Sextant here and keep your own data out of it:

  export SEXTANT_HOME=.data/rehearsal
  export CLOCK_URL={clock_url}
  export SEXTANT_VENUES__KRAKEN__REST_URL={rest_url}
  export SEXTANT_VENUES__KRAKEN__WEBSOCKET_URL={websocket_url}
  export SEXTANT_VENUES__BINANCE__REST_URL={binance_url}
  export SEXTANT_UNIVERSE__SYMBOLS='{symbols_json}'

Time and trouble are yours to make:

  curl -s {control}/clock -d '{{"speed": 600}}'
  curl -s {control}/clock -d '{{"advance": 3600}}'
  curl -s {control}/faults -d '{{"fault": "http_5xx", "endpoint": "OHLC", "times": 3}}'
  curl -s {control}/faults              # which are on, which were served, what each one does
  curl -s -X DELETE {control}/faults    # all is well again

For a live wallet (docs/live-trading.md, section 8): an account with a key and money, and the key for the sender:

  curl -s {control}/accounts -d '{{"name": "main"}}'
  curl -s {control}/keys -d '{{"account": "main", "key": "rehearsal", "secret": "bm90IGEgc2VjcmV0"}}'
  curl -s {control}/money -d '{{"account": "main", "kind": "deposit", "asset": "{quote}", "amount": "5000"}}'
  export KRAKEN_MAIN_KEY=rehearsal KRAKEN_MAIN_SECRET=bm90IGEgc2VjcmV0
  curl -s {control}/ground_truth        # what really happened to it

{faults}

Ctrl-C ends it.
"""
KINDS = {
    "REST": "Faults of REST",
    "stream": "Faults of the stream",
    "lasting": "Faults that last (until times, ends or DELETE)",
}


def parse_arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.exchange_emulator", description=__doc__)
    parser.add_argument("--port", type=int, default=8765, help="on 127.0.0.1; 0 takes a free one (default %(default)s)")
    parser.add_argument(
        "--speed", type=float, default=1.0, help="times real time; 0 stands still (default %(default)s)"
    )
    parser.add_argument("--symbols", nargs="+", default=SYMBOLS, metavar="BASE/QUOTE", help="default %(default)s")
    parser.add_argument("--seed", type=int, default=7, help="of the market (default %(default)s)")
    parser.add_argument(
        "--journal", type=Path, metavar="FILE", help="what really happened; a later run goes on from it"
    )
    parser.add_argument("--start", metavar="TIME", help="virtual time in ISO 8601, UTC (default: now)")
    return parser.parse_args(given)


def welcome(emulator: Emulator) -> str:
    speed = emulator.clock.speed
    return WELCOME.format(
        host=HOST,
        symbols=", ".join(emulator.market.symbols),
        quote=emulator.market.symbols[0].partition("/")[2],
        symbols_json=json.dumps(emulator.market.symbols),
        seed=emulator.market.seed,
        now=from_unix(emulator.clock.now()),
        pace=f"{speed:g} × real time" if speed else "standing still",
        rest_url=emulator.rest_url,
        websocket_url=emulator.websocket_url,
        binance_url=emulator.binance_url,
        clock_url=emulator.clock_url,
        control=emulator.clock_url.removesuffix("/clock"),
        faults="\n".join(_faults_of(kind, title) for kind, title in KINDS.items()),
    )


def _faults_of(kind: str, title: str) -> str:
    names = ", ".join(name for name, text in FAULTS.items() if f"{kind}:" in text)
    return textwrap.fill(f"{title}: {names}.", 100, subsequent_indent="  ")


def main() -> int:
    arguments = parse_arguments()
    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda _number, _frame: ended.set())
    try:
        start = SystemClock().now() if arguments.start is None else parse_time(arguments.start)
        emulator = Emulator(
            arguments.symbols, arguments.seed, start.timestamp(), arguments.speed, arguments.port,
            journal=arguments.journal,
        )  # fmt: skip
        with emulator:
            print(welcome(emulator), flush=True)
            ended.wait()
            print(farewell(emulator))
    except (ValueError, OSError) as error:
        print(f"the emulator cannot start: {error}", file=sys.stderr)
        return 2
    return 0


def farewell(emulator: Emulator) -> str:
    served = ", ".join(f"{fault} {times}" for fault, times in sorted(emulator.faults.served.items())) or "none"
    return f"\nEnded: {emulator.requests.total()} requests answered; faults served: {served}."


if __name__ == "__main__":
    sys.exit(main())
