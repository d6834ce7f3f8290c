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

from shared.embedded_db import remove

ROUNDS = 10
ROOT = Path(__file__).resolve().parent.parent
LIMIT_S = 0.8  # the aim
NOW = "2026-06-01T00:07"  # on the simulated market; all is done for this hour when the clock starts
REFERENCES = {"python -c pass": ["-c", "pass"], "import psycopg": ["-c", "import psycopg"]}
JOBS = {
    "run_trader": ["-m", "policy.run_trader", "--at", NOW],
    "run_encoder": ["-m", "encoder.run_encoder", "--at", NOW],
    "run_metacontroller": ["-m", "meta_controller.run_metacontroller", "--at", NOW],
}
PREPARATION = [
    "shared.schema up",
    f"candles.backfill --at {NOW} --from 2026-05-01",
    f"encoder.train_encoder --at {NOW} --from 2026-05-01 --to 2026-05-20 --steps 2",
    "pipeline.operator --at 2026-05-31 wallet bench",
    "pipeline.operator --at 2026-05-31 resume bench",
    f"encoder.run_encoder --at {NOW}",
    f"meta_controller.run_metacontroller --at {NOW}",
    f"policy.run_trader --at {NOW}",
]


def seconds(arguments: list[str], environment: Mapping[str, str]) -> float:
    started = time.perf_counter()
    done = subprocess.run([sys.executable, *arguments], cwd=ROOT, env=environment, capture_output=True, check=False)
    taken = time.perf_counter() - started
    if done.returncode:
        raise SystemExit(f"{' '.join(arguments)} ended with {done.returncode}:\n{done.stderr.decode()}")
    return taken


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
        universe = {"VENUE": "simulated", "SYMBOLS": '["SIM-BTC/USDT", "SIM-ETH/USDT"]'}
        environment = {"PATH": "/usr/bin:/bin", "SEXTANT_HOME": home, "LC_ALL": "C.UTF-8"}
        environment |= {f"SEXTANT_UNIVERSE__{key}": value for key, value in universe.items()}
        try:
            for module in PREPARATION:
                seconds(["-m", *module.split()], environment)
            medians = measure(environment)
        finally:
            remove(Path(home))
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
