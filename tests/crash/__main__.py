"""Crash schedules by the thousand: ``python -m tests.crash --schedules 20000 --jobs 2 [--first 0]``.

Each is a pure function of its seed; one that fails is told with it and the run goes on. Exit code 1 if any failed.
"""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from policy.execution import crashpoints
from shared.db import Database, owner_url, role_url
from shared.embedded_db import remove
from shared.schema import bring_up
from shared.settings import Settings, load_settings
from tests.conftest import TEMPLATE, database_maker, do_not_wait_for_the_disk
from tests.crash.schedules import plan, run
from tests.policy.live_world import LiveWorld

A_WORLD = 50  # schedules that share an account; then a fresh one, for looking at it takes longer and longer
TOLD = 1_000  # schedules after which it says how far it is


@contextmanager
def world_in(settings: Settings, *, amend: bool) -> Iterator[LiveWorld]:
    opened: dict[str, Database] = {}

    def open_as(layer: str) -> Database:
        if layer not in opened:
            opened[layer] = Database(owner_url(settings) if layer == "owner" else role_url(settings, layer))
        return opened[layer]

    world = LiveWorld(open_as, settings, amend=amend)
    world.send()
    yield world
    for database in opened.values():
        database.close()


def run_block(home: Path, first: int, count: int) -> tuple[Counter[str], list[str]]:
    """``count`` schedules from seed ``first`` on, on one account; (what was seen, what failed)."""
    logging.disable(logging.CRITICAL)
    seen, failed = Counter[str](), []
    seeds = iter(range(first, first + count))
    with database_maker(home) as make:
        while (seed := next(seeds, None)) is not None:
            with world_in(make(), amend=first // A_WORLD % 4 != 3) as world:  # every fourth venue cannot amend
                while seed is not None:
                    try:
                        run(world, plan(seed), seen)
                    except Exception as error:  # told with its seed; a fresh account for the rest
                        crashpoints.hook = None
                        failed.append(f"seed {seed}: {error!r}\n{plan(seed)}\n{traceback.format_exc(limit=-3)}")
                        break
                    seed = next(seeds, None)
    return seen, failed


def main() -> int:
    parser = argparse.ArgumentParser(prog="tests.crash", description=__doc__)
    parser.add_argument("--schedules", type=int, default=20_000)
    parser.add_argument("--first", type=int, default=0, help="seed of the first one")
    parser.add_argument("--jobs", type=int, default=2)
    a = parser.parse_args()
    seen, failed, started = Counter[str](), [], time.monotonic()
    with tempfile.TemporaryDirectory(prefix="sextant-crash-") as folder:
        home = Path(folder) / "home"
        bring_up(load_settings(home=home, db_name=TEMPLATE))
        do_not_wait_for_the_disk(home)
        blocks = [(home, first, min(A_WORLD, a.first + a.schedules - first))
                  for first in range(a.first, a.first + a.schedules, A_WORLD)]  # fmt: skip
        with ProcessPoolExecutor(a.jobs) as pool:
            for done, wrong in pool.map(run_block, *zip(*blocks, strict=True)):
                seen.update(done)
                failed += wrong
                for failure in wrong:
                    print(failure, flush=True)
                if seen["schedules"] % TOLD == 0:
                    print(f"{seen['schedules']:,} schedules after {time.monotonic() - started:.0f} s", flush=True)
        remove(home)
    for name, number in sorted(seen.items()):
        print(f"{number:>9,}  {name}")
    deaths = sum(seen[death] for death in ("killed", "disconnected", "paused"))
    print(
        f"{seen['schedules']:,} schedules, {deaths:,} deaths, {len(failed)} failed, {time.monotonic() - started:.0f} s"
    )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
