"""What a scheduled job costs when there is nothing to do: the whole process, as cron starts it.

Each of the three jobs on a schedule, median of 10 whole processes, beside `python -c pass` and
`python -c 'import psycopg'` in the same run, in turn, so that a busy moment hits all alike.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

ROUNDS = 10
ROOT = Path(__file__).resolve().parent.parent
LIMIT_S = 0.8  # the aim
REFERENCES = {"python -c pass": ["-c", "pass"], "import psycopg": ["-c", "import psycopg"]}
JOBS = {
    "run_trader": ["-m", "policy.run_trader"],
    "run_encoder": ["-m", "encoder.run_encoder"],
    "run_metacontroller": ["-m", "meta_controller.run_metacontroller"],
}


def seconds(arguments: list[str], environment: Mapping[str, str]) -> float:
    started = time.perf_counter()
    subprocess.run([sys.executable, *arguments], cwd=ROOT, env=environment, capture_output=True, check=True)
    return time.perf_counter() - started


def measure(environment: Mapping[str, str]) -> dict[str, float]:
    """Median seconds of each command; one warm-up round first (disk cache, compiled bytecode)."""
    commands = REFERENCES | JOBS
    times: dict[str, list[float]] = {name: [] for name in commands}
    for round_ in range(ROUNDS + 1):
        for name, arguments in commands.items():
            taken = seconds(arguments, environment)
            if round_:
                times[name].append(taken)
    return {name: statistics.median(values) for name, values in times.items()}


def main() -> None:
    with tempfile.TemporaryDirectory() as home:
        environment = {"PATH": "/usr/bin:/bin", "SEXTANT_HOME": home, "LC_ALL": "C.UTF-8"}
        subprocess.run(
            [sys.executable, "-m", "shared.schema", "up"], cwd=ROOT, env=environment, check=True, capture_output=True
        )
        try:
            medians = measure(environment)
        finally:
            subprocess.run([sys.executable, "-m", "shared.schema", "stop"], cwd=ROOT, env=environment, check=True)
    for name, value in medians.items():
        print(f"{name:20} {value * 1000:7.0f} ms")
    rows = []
    for name in JOBS:
        for reference, against in [*((r, medians[r]) for r in REFERENCES), ("aim", LIMIT_S)]:
            value = medians[name]
            rows.append(
                {
                    "name": f"cold start of {name}, nothing to do",
                    "value": round(value, 4),
                    "unit": "s",
                    "reference": reference,
                    "reference_value": round(against, 4),
                    "ratio": round(against / value, 3),
                }
            )
    print(json.dumps(rows))


if __name__ == "__main__":
    main()
