"""One leak after the other: does a test that passes without it fail with it?"""

from __future__ import annotations

import time
from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

from tests.planted.leak import Leak, LeakOutdated
from tests.planted.workbench import Copy, Hearing

Word = Literal["caught", "MISSED", "BROKEN", "OUTDATED", "UNPROVEN"]
ELSEWHERE = ("tests/shared", "tests/policy", "tests/encoder", "tests/pipeline", "tests/contracts")
MOST_OWN, MOST_ELSEWHERE = 3, 10  # failures that are looked at: an error that is no judgement may come first


@dataclass(frozen=True, slots=True)
class Result:
    """``caught``: by ``test``, which has still to pass without the leak. ``MISSED``: every test passes. ``BROKEN``: the
    leak stops the tests from running, so nobody judged. ``UNPROVEN``: nobody notices, and a test that should does fail
    without it. ``OUTDATED``: its place in the code is gone."""

    leak: Leak
    word: Word
    because: str
    seconds: float
    test: str = ""


def try_leak(copy: Copy, leak: Leak, unsound: Collection[str] = (), elsewhere: bool = True) -> Result:
    """Runs the leak's tests with it, but those that are ``unsound``: that fail without it. Where they do not notice and
    ``elsewhere``, the rest of the suite is asked."""
    started = time.monotonic()

    def result(word: Word, because: str, test: str = "") -> Result:
        return Result(leak, word, because, time.monotonic() - started, test)

    left_out = [test for test in unsound if _is_among(test, leak.tests)]
    try:
        with copy.leaking(leak):
            hearing = copy.hear(leak.tests, without=left_out, most=MOST_OWN)
    except LeakOutdated as error:
        return result("OUTDATED", str(error))
    if objection := next((one.test for one in hearing.heard if one.objects), ""):
        return result("caught", objection, objection)
    if hearing.failed or not (hearing.heard or left_out):
        return result("BROKEN", f"no test judged: {_first(hearing)}")
    if elsewhere and (objection := _ask_elsewhere(copy, leak, unsound)):
        return result("caught", f"{objection} (not by its own tests: name this one)", objection)
    if left_out:
        return result("UNPROVEN", f"{', '.join(left_out)} would have to notice it, and fails without it")
    return result("MISSED", f"all of {', '.join(leak.tests)} pass with it")


def _is_among(test: str, named: Collection[str]) -> bool:
    """Whether a node id is one of the paths and node ids, or within one."""
    return any(test == name or test.startswith((f"{name}::", f"{name}[", f"{name}/")) for name in named)


def _first(hearing: Hearing) -> str:
    failed = hearing.failed
    return f"{failed[0].test} ({failed[0].when}): {failed[0].said}" if failed else hearing.tail[-300:]


def _ask_elsewhere(copy: Copy, leak: Leak, unsound: Collection[str]) -> str:
    with copy.leaking(leak):
        hearing = copy.hear(ELSEWHERE, without=unsound, most=MOST_ELSEWHERE)
    suspects = [one.test for one in hearing.failed if one.objects]
    passed = copy.hear(suspects).passed if suspects else set()
    return next((test for test in suspects if test in passed), "")
