"""A language model to rehearse with: ``python -m tests.llm_emulator --script think 503 --then good``."""

from __future__ import annotations

import argparse
import signal
import sys
import threading
from collections.abc import Sequence
from textwrap import fill

from tests.llm_emulator.behaviours import BEHAVIOURS
from tests.llm_emulator.server import HOST, KEY, LlmEmulator

WELCOME = """\
LLM emulator on {host}: it answers as told, and knows nothing. Nothing here costs money.

  first    {script}
  then     {then}, for ever

In another terminal:

  export OPENAI_BASE_URL={base_url}
  export OPENAI_API_KEY={key}

{behaviours}

Ctrl-C ends it.
"""


def parse_arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.llm_emulator", description=__doc__)
    parser.add_argument("--port", type=int, default=8766, help="on 127.0.0.1; 0 takes a free one (default %(default)s)")
    parser.add_argument("--script", nargs="+", default=[], metavar="BEHAVIOUR", help="of the first requests, in order")
    parser.add_argument("--then", default="good", metavar="BEHAVIOUR", help="of all others (default %(default)s)")
    return parser.parse_args(given)


def welcome(emulator: LlmEmulator, arguments: argparse.Namespace) -> str:
    return WELCOME.format(
        host=HOST,
        script=", ".join(arguments.script) or "nothing special",
        then=arguments.then,
        base_url=emulator.base_url,
        key=KEY,
        behaviours=fill("Behaviours: " + ", ".join(BEHAVIOURS), 96, subsequent_indent="  ", break_on_hyphens=False),
    )


def main() -> int:
    arguments = parse_arguments()
    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda _number, _frame: ended.set())
    emulator = LlmEmulator(arguments.port)
    try:
        emulator.script(*arguments.script)
        emulator.always(arguments.then)
        with emulator:
            print(welcome(emulator, arguments), flush=True)
            ended.wait()
            print(f"\nEnded: {len(emulator.requests)} requests.")
    except (ValueError, OSError, OverflowError) as error:  # the last: of a port that is none
        print(f"the emulator cannot start: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
