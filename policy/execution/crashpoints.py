"""Named points between any two effects of the sender, where the crash harness (pipeline.crash) ends the process.

CRASH_AT=name:n in the environment kills the process (SIGKILL) at the n-th passing of that point.
"""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Callable

POINTS = (
    "account.before_fill",
    "account.after_fill",
    "account.before_end",
    "account.after_end",
    "amend.before_request",
    "amend.after_request",
    "amend.after_record",
    "cancel.before_request",
    "cancel.after_request",
    "cancel.after_record",
    "connect.after_epoch",
    "connect.after_first_call",
    "connect.before_import",
    "connect.after_import",
    "intent.after_protect",
    "intent.after_flatten",
    "send.before_approval",
    "send.before_request",
    "send.after_request",
    "send.after_record",
)

_passed: Counter[str] = Counter()
_asked: tuple[str, int] | None = None
hook: Callable[[str], None] | None = None  # of an in-process harness: raises instead of killing


def arm(crash_at: str | None) -> None:
    """Takes the setting CRASH_AT; ValueError for one that no point could ever meet."""
    global _asked
    if crash_at is None:
        return
    point, _, nth = crash_at.partition(":")
    if point not in POINTS or not (nth or "1").isdigit():
        raise ValueError(f"CRASH_AT={crash_at!r} is no name:n; the points are {', '.join(POINTS)}")
    _asked = point, int(nth or 1)


def crashpoint(name: str) -> None:
    """Nothing, but where a harness asked for the end here."""
    if hook is not None:
        hook(name)
    if _asked is not None and _asked[0] == name:
        _passed[name] += 1
        if _passed[name] == _asked[1]:
            os.kill(os.getpid(), signal.SIGKILL)
