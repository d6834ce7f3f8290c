"""Plants each leak in a copy of the tree and counts those that the suite catches.

``python -m tests.planted [--name NAME …] [--family FAMILY …] [--jobs 2] [--list]``; exit 1 unless every leak is caught.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from queue import SimpleQueue

from tests.planted.leak import Leak
from tests.planted.leaks import FAMILIES, LEAKS
from tests.planted.trial import Result, try_leak
from tests.planted.workbench import PROJECT, Copy, files_of


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.planted", description=__doc__.partition("\n")[0])
    parser.add_argument("--name", nargs="+", default=sorted(LEAKS), metavar="NAME", help="only these leaks")
    parser.add_argument("--family", nargs="+", default=sorted(FAMILIES), choices=FAMILIES, help="only these families")
    parser.add_argument("--jobs", type=int, default=2, help="copies that are tried side by side")
    parser.add_argument("--list", action="store_true", help="only list the leaks")
    arguments = parser.parse_args(argv)
    if unknown := sorted(set(arguments.name) - set(LEAKS)):
        parser.error(f"no leak is called {', '.join(unknown)}; --list lists them")
    among = {leak.name for family in arguments.family for leak in FAMILIES[family]}
    leaks = [leak for name, leak in LEAKS.items() if name in arguments.name and name in among]
    if arguments.list:
        for leak in leaks:
            print(f"{leak.name:40} {leak.file:36} {leak.what}")
        return 0
    results = run(leaks, max(arguments.jobs, 1))
    caught = sum(one.word == "caught" for one in results)
    for one in results:
        if one.word != "caught":
            print(f"\n{one.word}: {one.leak.name} ({one.leak.file}): {one.leak.what}\n  {one.because}")
    print(f"\ncaught {caught} of {len(results)}")
    return 0 if caught == len(results) else 1


def run(leaks: Sequence[Leak], jobs: int) -> list[Result]:
    """Every leak, ``jobs`` at a time, each in a copy that no other uses meanwhile. A test that objects to a leak but
    fails without it proves nothing: the leak is tried anew without that test."""
    results, open_, unsound = dict[str, Result](), list(leaks), set[str]()
    with copies(jobs) as pool, ThreadPoolExecutor(jobs) as threads:
        while open_:
            for one in threads.map(partial(_try, pool, frozenset(unsound)), open_):
                results[one.leak.name] = one
                print(f"{one.word:8} {one.seconds:5.1f} s  {one.leak.name:38} {one.because[:160]}", flush=True)
            groups = grouped({results[leak.name].test for leak in open_} - {""}, jobs)
            heard = threads.map(partial(_passed, pool), groups)
            sound = {test for passed in heard for test in passed}
            doubted = {results[leak.name].test for leak in open_} - sound - {""}
            for leak in open_:
                if results[leak.name].test in unsound:  # it was to be left out, and objects all the same
                    results[leak.name] = replace(results[leak.name], word="UNPROVEN", test="")
            open_ = [leak for leak in open_ if results[leak.name].test in doubted - unsound]
            unsound |= doubted
            print(f"without a leak {len(sound)} of the {len(sound | doubted)} tests that object pass", flush=True)
            print(*(f"  fails without one: {test}\n" for test in sorted(doubted)), sep="", end="", flush=True)
    return [results[leak.name] for leak in leaks]


def grouped(tests: Collection[str], groups: int) -> list[list[str]]:
    """The tests in so many groups, those of a file together: the copies hear a group each."""
    files = defaultdict[str, list[str]](list)
    for test in sorted(tests):
        files[test.partition("::")[0]].append(test)
    made = [[test for tests in list(files.values())[k::groups] for test in tests] for k in range(groups)]
    return [group for group in made if group]


@contextmanager
def copies(number: int) -> Iterator[SimpleQueue[Copy]]:
    """So many copies of the working tree, removed afterwards."""
    files, place, pool = files_of(PROJECT), Path(tempfile.mkdtemp(prefix="planted-")), SimpleQueue[Copy]()
    try:
        for k in range(number):
            pool.put(Copy.of(PROJECT, files, place / f"c{k}"))
        yield pool
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _try(pool: SimpleQueue[Copy], unsound: frozenset[str], leak: Leak) -> Result:
    with _one_of(pool) as copy:
        return try_leak(copy, leak, unsound)


def _passed(pool: SimpleQueue[Copy], tests: Sequence[str]) -> set[str]:
    with _one_of(pool) as copy:
        return copy.hear(tests).passed


@contextmanager
def _one_of(pool: SimpleQueue[Copy]) -> Iterator[Copy]:
    """A copy that no other uses meanwhile."""
    copy = pool.get()
    try:
        yield copy
    finally:
        pool.put(copy)


if __name__ == "__main__":
    sys.exit(main())
