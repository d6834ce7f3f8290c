"""The sender against everything that can die: ``make crash-test N=1000``, or --points for each named point once.

Each world is a pure function of its seed, but for the random instants, which are real. A violation is told with its
seed and the run goes on with the next world. Exit code 1 if there was any.
"""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path

from pipeline.crash.plan import CELLS, Round, each_point, rounds
from pipeline.crash.processes import Stuck
from pipeline.crash.rounds import Seen, Stage, Violation
from pipeline.crash.world import TEMPLATE, World
from policy.execution.crashpoints import POINTS
from shared.db import DatabaseError
from shared.embedded_db import remove
from shared.errors import SextantError
from shared.schema import bring_up
from shared.settings import SettingsError, load_settings

ENOUGH = 10  # violations: more of them would tell no more


class Run:
    """Worlds until there were enough kills, or the time is over."""

    def __init__(self, home: Path, folder: Path, kills: int, minutes: float | None) -> None:
        self._home, self._folder, self._kills = home, folder, kills
        self._deadline = None if minutes is None else time.monotonic() + 60 * minutes
        self.seen, self.failed, self.worlds = Seen(), list[str](), 0

    @property
    def is_over(self) -> bool:
        late = self._deadline is not None and time.monotonic() > self._deadline
        return late or self.seen.kills.total() >= self._kills or len(self.failed) >= ENOUGH

    def play(self, seed: int, planned: list[Round]) -> None:
        """One world; a violation ends it, and so does what keeps the harness itself from going on."""
        self.worlds += 1
        folder, each = self._folder / f"world-{seed}", None
        folder.mkdir()
        try:
            with World(self._home, folder, seed) as world:
                stage = Stage(world, self.seen)
                for each in planned:
                    stage.play(each)
        except (Violation, Stuck) as wrong:
            self._fail(f"VIOLATION {wrong}\n  in {each}")
        except (SextantError, DatabaseError):
            self._fail(f"THE HARNESS FAILED in {each or f'seed {seed}'}\n{traceback.format_exc()}")

    def _fail(self, told: str) -> None:
        self.failed.append(told)
        print(told, flush=True)


def table(run: Run, seconds: float) -> str:
    seen = run.seen
    lines = ["kills of the sender (SIGKILL), by where"]
    lines += [f"{seen.kills[point]:>9,}  {point}" for point in (*POINTS, "any instant")]
    lines += ["outcomes of the venue's call, by rounds"]
    lines += [f"{number:>9,}  {outcome}" for outcome, number in sorted(seen.outcomes.items())]
    lines += ["what else happened"]
    lines += [f"{number:>9,}  {name}" for name, number in sorted(seen.counts.items()) if name != "rounds"]
    lines += [
        f"{run.worlds:,} worlds, {seen.counts['rounds']:,} rounds, {seen.kills.total():,} SIGKILLs of the sender, "
        f"{len(seen.cells)} of {len(CELLS)} cells, {len(run.failed)} violations, {seconds:.0f} s "
        f"(a run of the sender: {seen.typical_s:.2f} s)"
    ]
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="pipeline.crash", description=__doc__)
    parser.add_argument("--kills", type=int, default=100, help="of the sender, at least (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the first world (default %(default)s)")
    parser.add_argument("--points", action="store_true", help="one world in which each named point strikes once")
    parser.add_argument("--minutes", type=float, help="begin no world later than this")
    a = parser.parse_args(argv)
    try:
        settings = load_settings()
    except SettingsError as error:
        print(error, file=sys.stderr)
        return 2
    if settings.external_database:
        print("DATABASE_URL/DB_HOST names a server of your own, and this harness kills servers: unset it for it")
        return 2
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    with tempfile.TemporaryDirectory(prefix="sextant-crash-") as name:
        return _in_folder(Path(name), a)


def _in_folder(folder: Path, a: argparse.Namespace) -> int:
    started, home = time.monotonic(), folder / "home"
    run = Run(home, folder, a.kills, a.minutes)
    try:
        bring_up(load_settings(home=home, db_name=TEMPLATE))
        if a.points:
            run.play(a.seed, each_point(a.seed))
        else:
            print(f"{len(CELLS)} cells (named point × outcome of the venue's call)", flush=True)
            seed = a.seed
            while not run.is_over:
                run.play(seed, rounds(seed))
                seed += 1
                print(f"{run.seen.kills.total():,} kills after world {seed - 1}", flush=True)
    finally:
        remove(home)
    print(table(run, time.monotonic() - started))
    if run.failed:
        print("to see one again: python -m pipeline.crash --kills 1 --seed (its seed), with --points if that was given")
    return 1 if run.failed else 0


if __name__ == "__main__":
    sys.exit(main())
