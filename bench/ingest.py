"""What candles cost on their way in and out: rows/s beside raw binary COPY and beside psycopg's fetchall; memory.

On a temporary embedded server with the shipped settings (each commit waits for the disk), medians of interleaved
rounds. Writing means what an import does: 5m candles, and the 1h candles that they complete, in one transaction;
rows are counted without the hours. The reference is the same 5m rows as bytes prepared before, by binary COPY
into the same table with its key and constraints. The aim is 0.5 for new rows and for the same rows again.

Reading is measured beside psycopg's default fetchall of the same columns: with the arrays made of its rows, which
is the same job (aim 5), and without, which leaves Python tuples.

Verdict (2 shared cores, other work beside it, 2026-11; two runs). New rows 0.76 and 0.81 of raw COPY, the same rows
again 9.8 and 10.9, memory 0.99 and 1.05 times that after one file: met. Reading is 5.9 times as fast as fetchall and
arrays of it, but 3.2 times as fast as fetchall alone: the aim of 5 is met for the same job and missed if fetchall
alone is meant. Tried to get there, one run, query only, 500,000 candles (fetchall alone 0.61 s): seven string_agg in
text form, as before, 0.35 s, in binary form 0.20 s; one string_agg of whole records (kept) 0.18 s; array_send 0.28 s;
record_send 0.36 s; COPY TO 1.06 s; without ORDER BY by parallel workers, sorted here, no faster. A scan that sends
nothing takes 0.03 to 0.04 s; the rest goes into sending.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np

from bench.workbench import Row, print_rows, temporary_settings
from candles.binary_copy import encode_candles
from candles.import_csv import run_once
from candles.store import add_instrument, default_rules, write_candles
from shared.clock import ReplayClock, from_unix
from shared.db import Database, load_queries, owner_url, role_url
from shared.market_data import read_candles
from shared.rows import Candles, Instrument
from shared.settings import Settings, load_settings

ROUNDS = 7
WRITTEN, READ = 100_000, 500_000  # candles
FILES, ROWS_A_FILE = 10, 50_000
STEP, HOUR = 300, 3600
END = 1_767_225_600  # 2026-01-01
NOW = from_unix(END) + timedelta(hours=1)
FETCHALL = """
SELECT as_of, open, high, low, close, volume, trades FROM market_data
WHERE instrument_id = %s AND timeframe_s = %s ORDER BY as_of
"""


def random_walk(n: int) -> Candles:
    """n gapless candles up to END, with trades."""
    rng = np.random.default_rng(7)
    close = np.round(50_000 * np.exp(np.cumsum(rng.normal(0, 0.001, n))), 2)
    open_ = np.r_[close[0], close[:-1]]
    high, low = np.maximum(open_, close) + 1.0, np.minimum(open_, close) - 1.0
    as_of = END - STEP * np.arange(n - 1, -1, -1)
    return Candles.from_columns([as_of, open_, high, low, close, rng.lognormal(2, 1, n), rng.integers(0, 5_000, n)])


def seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    result = work()
    taken = time.perf_counter() - started
    del result  # freed outside the measured time, for all alike
    return taken


def medians(works: dict[str, Callable[[], object]], before_each_round: Callable[[], object] = int) -> dict[str, float]:
    """Median seconds of each work; one round to warm up, then ROUNDS in turn, every other one backwards."""
    times: dict[str, list[float]] = {name: [] for name in works}
    for round_ in range(ROUNDS + 1):
        before_each_round()
        for name in list(works)[:: 1 if round_ % 2 else -1]:
            taken = seconds(works[name])
            if round_:
                times[name].append(taken)
    return {name: statistics.median(taken) for name, taken in times.items()}


def copy_bytes(database: Database, data: bytes) -> None:
    with database.connection.cursor() as cursor, cursor.copy(load_queries("candles")["copy_candles"]) as copy:
        copy.write(data)


def writing(database: Database, owner: Database, instruments: list[Instrument]) -> list[Row]:
    candles, (raw, own, again) = random_walk(WRITTEN), instruments
    data = encode_candles(raw.id, STEP, candles, "file:bench.csv", NOW)

    def write(instrument: Instrument) -> None:
        write_candles(database, instrument, STEP, candles, HOUR, "file:bench.csv", NOW)

    def empty() -> None:
        owner.execute("TRUNCATE market_data CASCADE")
        write(again)

    copied, new, same = medians(
        {"raw": lambda: copy_bytes(database, data), "new": lambda: write(own), "again": lambda: write(again)}, empty
    ).values()
    reference = "raw binary COPY of the prepared bytes"
    return [
        Row(name, WRITTEN / taken, "rows/s", reference, WRITTEN / copied, copied / taken)
        for name, taken in [("new candles written", new), ("the same candles written again", same)]
    ]


def reading(database: Database, owner: Database, instrument: Instrument) -> list[Row]:
    owner.execute("TRUNCATE market_data CASCADE")
    copy_bytes(database, encode_candles(instrument.id, STEP, random_walk(READ), "file:bench.csv", NOW))
    owner.execute("VACUUM ANALYZE market_data")

    def fetch() -> list[Any]:
        return database.connection.execute(FETCHALL, [instrument.id, STEP]).fetchall()

    def fetch_into_numpy() -> Candles:
        as_of, *others = zip(*fetch(), strict=True)
        return Candles.from_columns([[at.timestamp() for at in as_of], *others])

    read, arrays, tuples = medians(
        {
            "read": lambda: read_candles(database, instrument.id, STEP, 0, END),
            "arrays": fetch_into_numpy,
            "tuples": fetch,
        }
    ).values()
    name = f"{READ:,} candles read into numpy"
    return [
        Row(name, READ / read, "rows/s", reference, READ / taken, taken / read)
        for reference, taken in [("fetchall and numpy arrays of it", arrays), ("fetchall alone, as tuples", tuples)]
    ]


def memory(settings: Settings) -> Row:
    """Resident memory of a process that imports ten files, after the first and after the last."""
    candles = random_walk(FILES * ROWS_A_FILE)
    with tempfile.TemporaryDirectory() as folder:
        for n in range(FILES):
            part = candles[n * ROWS_A_FILE : (n + 1) * ROWS_A_FILE]
            columns = [part.as_of - STEP, part.open, part.high, part.low, part.close, part.volume, part.trades]
            path = Path(folder, str(n), "binance_BTC-USDT_5m.csv")
            path.parent.mkdir()
            np.savetxt(path, np.column_stack(columns), fmt=["%d", *["%.8f"] * 5, "%d"], delimiter=",")
        command = [sys.executable, "-m", "bench.ingest", "--import", str(settings.home_path), folder]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
    first, last = (float(kilobytes) / 1024 for kilobytes in done.stdout.split())
    name = f"memory after an import of {FILES} files of {ROWS_A_FILE:,} candles"
    return Row(name, last, "MiB", "after the first of them (aim: at most 1.1 times as much)", first, first / last)


def import_files(home: Path, folder: Path) -> None:
    """The child: prints its resident memory in kB after the first file and after the last."""
    settings = load_settings(home=home)
    database, clock = Database(role_url(settings, "candles")), ReplayClock(NOW)
    paths = sorted(folder.glob("*/*.csv"))
    for some in (paths[:1], paths[1:]):
        outcome = run_once(clock, database, settings, some)
        assert sum(result["new"] for result in outcome.result.values()) == len(some) * ROWS_A_FILE
        status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
        print(status["VmRSS"].split()[0])
    database.close()


def main() -> None:
    if "--import" in sys.argv:
        import_files(*map(Path, sys.argv[-2:]))
        return
    with temporary_settings() as settings:
        database, owner = Database(role_url(settings, "candles")), Database(owner_url(settings))
        instruments = [
            add_instrument(database, "bench", f"A{n}/USDT", STEP, default_rules(50_000.0), "simulated", NOW)
            for n in range(3)
        ]
        rows = [*writing(database, owner, instruments), *reading(database, owner, instruments[0]), memory(settings)]
        database.close()
        owner.close()
    print_rows(rows)


if __name__ == "__main__":
    main()
