"""How fast books are run through 525,600 bars of 5m, beside vectorbt and backtesting.py, in one run, sides in turn.

One thread, the same series, 0.1 % a side, fills at the open after the decision; seconds of the first two are CPU time,
so that what else runs on the machine takes nothing from either side, the others are on the wall. *Weight path*: given
hourly weights, to an equity curve by bar, vectorbt warm (aim 20 times). *Sweep*: pairs of an SMA crossover, each with
equity curve, drawdown and trades; ours runs all 1,000, vectorbt 40 of them in chunks of two, in which it is fastest
(all at once it needs gigabytes), and its time is scaled to 1,000 (aim 20 times, and flat memory: the peak after 1,000
beside the peak after ten). Both sides must agree on the money, or nothing is reported. *Whole process*: from a file of
bars to numbers, Python's start and all imports included, after one run that compiles and fills the caches (aim 2 s).
*Policy*: what `make backtest` does for the policy of one instrument over all bars, from rows in PostgreSQL to the
equity curve: hourly decisions of an ONNX net, observed, steered, limited, planned and filled (aim 10 s). Once, as it
is long.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack, closing
from itertools import pairwise
from pathlib import Path

import numpy as np

from bench.peers.installed import ONE_THREAD, OWN, ROOT, Peer, python_of
from bench.peers.series import BARS, bars
from bench.peers.sextant_rows import store_past
from bench.workbench import Row, print_rows, temporary_settings
from shared.db import Database, owner_url, role_url

ROUNDS = 7
SETS, BLOCK, CHUNK = 1_000, 50, 2  # of each block of ours, vectorbt runs a chunk
PROCESS_ROUNDS = 3
PROCESS_S, POLICY_S = 2.0, 10.0  # the aims
AGREES = 1e-5  # relative: ours rounds prices and money to 8 decimals


class Disagreement(RuntimeError):
    """Two sides did not compute the same thing, so their times say nothing."""


def require_agreement(name: str, own: Sequence[float], other: Sequence[float]) -> None:
    mine, theirs = np.asarray(own), np.asarray(other)
    off = float(np.max(np.abs(mine - theirs) / np.maximum(theirs, 1.0)))  # below 1 of 10,000, what is off counts itself
    if off > AGREES:
        raise Disagreement(f"{name}: {off:.1e} is more than {AGREES:.0e}; ours {own[:5]}, theirs {other[:5]}")


def weight_path_row(own: Peer, vectorbt: Peer) -> Row:
    answers: dict[str, list[dict[str, float]]] = {side.name: [] for side in (own, vectorbt)}
    for _ in range(ROUNDS + 1):
        for side in (own, vectorbt):
            answers[side.name].append(side.ask("weight_path"))
    finals = {name: [many[0]["final"]] for name, many in answers.items()}
    require_agreement("weight path", finals[own.name], finals[vectorbt.name])
    rate = {name: BARS / statistics.median(one["seconds"] for one in many[1:]) for name, many in answers.items()}
    ours, theirs = rate[own.name], rate[vectorbt.name]
    trades = int(answers[own.name][0]["trades"])
    return Row(f"weight path, {trades:,} trades", ours, "bars/s", "vectorbt, warm", theirs, ours / theirs)


def pairs_of_means(count: int) -> list[tuple[int, int]]:
    rng = np.random.default_rng(3)
    fast = rng.integers(10, 200, count)
    return [(int(f), int(f * times)) for f, times in zip(fast, rng.uniform(2.0, 8.0, count), strict=True)]


def sweep_rows(own: Peer, vectorbt: Peer) -> list[Row]:
    pairs = pairs_of_means(SETS)
    for side in (own, vectorbt):
        side.ask("crossovers", pairs=pairs[:CHUNK])  # compiles
    first = own.ask("crossovers", pairs=pairs[:10])["peak_mib"]
    ours, theirs = [], []
    for block in range(SETS // BLOCK):
        ours.append(own.ask("crossovers", pairs=pairs[block * BLOCK : (block + 1) * BLOCK]))
        theirs.append(vectorbt.ask("crossovers", pairs=pairs[block * BLOCK : block * BLOCK + CHUNK]))
    for mine, other in zip(ours, theirs, strict=True):
        require_agreement("sweep", mine["final"][:CHUNK], other["final"])
    taken = statistics.median(block["seconds"] for block in ours) * SETS / BLOCK
    reference = statistics.median(block["seconds"] for block in theirs) * SETS / CHUNK
    peak, other_peak = ours[-1]["peak_mib"], theirs[-1]["peak_mib"]
    scaled = f"vectorbt, {SETS // BLOCK * CHUNK} pairs in chunks of {CHUNK}, scaled"
    return [
        Row(f"sweep of {SETS:,} pairs", taken, "s", scaled, reference, reference / taken),
        Row(
            f"peak memory of {SETS:,} pairs", peak, "MiB", "vectorbt's after its chunks", other_peak, other_peak / peak
        ),
        Row(f"peak memory of {SETS:,} pairs", peak, "MiB", "ours after 10 pairs", first, first / peak),
    ]


def process(name: str, module: str, file: Path) -> tuple[float, dict[str, float]]:
    """Seconds from the start of a Python to its end, and what it printed."""
    command = [*ONE_THREAD, str(python_of(name)), "-m", module, str(file)]
    started = time.perf_counter()
    done = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
    return time.perf_counter() - started, json.loads(done.stdout.splitlines()[-1])


def process_rows() -> list[Row]:
    modules = {OWN: "bench.peers.sextant_rule", "backtesting": "bench.peers.backtesting"}
    times: dict[str, list[float]] = {name: [] for name in modules}
    with tempfile.TemporaryDirectory() as folder:
        file, market = Path(folder, "bars.npy"), bars(BARS)
        np.save(file, np.stack([market.open, market.high, market.low, market.close, market.volume]))
        for round_ in range(PROCESS_ROUNDS + 1):
            for name, module in modules.items():
                taken, printed = process(name, module, file)
                if round_:
                    times[name].append(taken)
                else:
                    print(f"{name}: {printed}, first run {taken:.1f} s", flush=True)
    ours, theirs = (statistics.median(times[name]) for name in modules)
    return [
        Row("whole process, SMA 50/200", ours, "s", "backtesting.py, whole process", theirs, theirs / ours),
        Row("whole process, SMA 50/200", ours, "s", "the aim", PROCESS_S, PROCESS_S / ours),
    ]


def policy_row() -> Row:
    with temporary_settings() as settings, ExitStack() as stack:
        owner, candles, policy = (
            stack.enter_context(closing(Database(url)))
            for url in (owner_url(settings), role_url(settings, "candles"), role_url(settings, "policy"))
        )
        past = store_past(owner, candles)
        moments = [time.perf_counter()]
        laboratory = past.laboratory(policy, settings)
        moments.append(time.perf_counter())
        decisions = len(laboratory.moments)
        moments.append(time.perf_counter())
        assert laboratory.policy is not None
        run = laboratory.trade("policy", laboratory.policy.act)
        moments.append(time.perf_counter())
    read, known, traded = (later - earlier for earlier, later in pairwise(moments))
    print(f"policy: {read:.1f} s reading rows, {known:.1f} s what was known when, {traded:.1f} s trading", flush=True)
    name = f"policy backtest, {decisions:,} decisions, {len(run.fills):,} fills"
    return Row(name, moments[-1] - moments[0], "s", "the aim", POLICY_S, POLICY_S / (moments[-1] - moments[0]))


def main() -> None:
    with Peer(OWN) as own, Peer("vectorbt") as vectorbt:
        rows = [weight_path_row(own, vectorbt), *sweep_rows(own, vectorbt)]
    print_rows([*rows, *process_rows(), policy_row()])


if __name__ == "__main__":
    main()
