"""The peer's side of the conversation: one JSON request a line in, one JSON answer a line out."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path


def serve(answers: Mapping[str, Callable[..., object]]) -> None:
    """Answers ``{"question": name, "details": {…}}`` by ``answers[name](**details)`` until the input ends."""
    with os.fdopen(os.dup(1), "w") as out:
        os.dup2(2, 1)  # what libraries print goes to stderr
        for line in sys.stdin:
            request = json.loads(line)
            out.write(json.dumps(answers[request["question"]](**request["details"])) + "\n")
            out.flush()


def peak_mib() -> float:
    """The largest resident memory of this process so far (VmHWM: unlike ru_maxrss it begins anew at exec)."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return float(status["VmHWM"].split()[0]) / 1024
