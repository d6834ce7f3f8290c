"""``make soak``: 30 simulated days of the whole schedule, with faults; exits 1 where a law is broken.

A database and a venue of its own in a temporary folder; nothing else is touched. The baseline trades: no model is
trained for it.
"""

from __future__ import annotations

import argparse
import logging
import signal
import sys
import tempfile
import time
from pathlib import Path

from pipeline.soak.plan import mishaps
from pipeline.soak.report import report
from pipeline.soak.soak import Soak, resident_kib
from pipeline.soak.world import open_world, restart_database, spare_the_disk
from shared.embedded_db import remove
from shared.errors import SextantError
from shared.schema import bring_up
from shared.settings import SettingsError, load_settings


def soak(folder: Path, days: float, seed: int, minutes: float) -> int:
    home, began = folder / "home", time.monotonic()
    settings = load_settings(home=home, db_name="soak", database_url=None, db_host=None)
    bring_up(settings)
    try:
        spare_the_disk(home)

        def day_is_over(day: int) -> None:
            print(f"day {day}: {time.monotonic() - began:.0f} s, {resident_kib() / 1024:.0f} MiB", flush=True)

        with open_world(settings, folder) as (world, sink):
            run = Soak(world, mishaps(seed, days), days, lambda: restart_database(home), day_is_over)
            finished = run.run(began + minutes * 60)
            wall_s = time.monotonic() - began
            run.reconcile()
            told = report(run, finished, wall_s)
            print("\n".join([*told.lines, f"messages delivered: {sink.taken}"]))
    finally:
        remove(home)
    for law in told.broken:
        print(f"BROKEN: {law}")
    if told.broken:
        print(f"{len(told.broken)} laws broken; the same again: python -m pipeline.soak --days {days:g} --seed {seed}")
    return 1 if told.broken else 0


def _leave(_number: int, _frame: object) -> None:
    """The database's server and the venue end, too."""
    raise SystemExit(1)


def main() -> int:
    parser = argparse.ArgumentParser(prog="pipeline.soak", description=__doc__)
    parser.add_argument("--days", type=float, default=30.0, help="simulated (default %(default)g)")
    parser.add_argument("--seed", type=int, default=7, help="of what goes wrong (default %(default)s)")
    parser.add_argument("--minutes", type=float, default=10.0, help="real ones, at most (default %(default)g)")
    arguments = parser.parse_args()
    logging.disable(logging.CRITICAL)  # what goes wrong is counted
    signal.signal(signal.SIGTERM, _leave)
    try:
        with tempfile.TemporaryDirectory(prefix="sextant-soak-") as folder:
            return soak(Path(folder), arguments.days, arguments.seed, arguments.minutes)
    except SettingsError as error:
        print(error, file=sys.stderr)
        return 2
    except SextantError as error:
        print(error, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
