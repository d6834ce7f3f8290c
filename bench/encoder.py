"""What the encoder costs: training and inference in windows a second, one live step, and finding analogs.

One thread. Training and inference stand beside plain PyTorch (the same net, eager, on tensors that are already
there: no candles to read, no features to compute, no noise to draw) and beside the floating point bound: the
operations of the net's matrix products, counted by PyTorch, at the speed of a large matrix product in this run. A
live step is what the hourly job does between reading candles and writing rows, for two instruments; its reference is
the aim of 10 ms. Analogs are searched among the embeddings of 65,000 simulated hours of two instruments, and of sixteen
copies of them with noise of a tenth of their length; the index is asked for 50 with every setting as shared/analogs.py
has it, and its reference is the exact scan; its recall's is the aim of 0.98.
"""

from __future__ import annotations

import hashlib
import statistics
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any, LiteralString

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.flop_counter import FlopCounterMode

from bench.ingest import NOW
from bench.workbench import Row, print_rows, temporary_settings
from candles.binary_copy import copy_candles
from candles.store import add_instrument, default_rules
from encoder.dataset import TrainingSet, build_training_set, split_in_time
from encoder.embedding_rows import Moments, write_embeddings
from encoder.encoder_model import PATCHES, Batch, Encoder, Heads, losses
from encoder.index_recall import K, recall
from encoder.inference import Embedded, embed
from encoder.model_card import export, trial_model
from encoder.training import TrainingPlan, fit, measure
from shared.analogs import SENT_MOMENT, search_moments
from shared.clock import to_unix
from shared.db import Database, load_queries, owner_url, role_url
from shared.embeddings import vector_text
from shared.exchanges import open_exchange
from shared.features import Grid
from shared.market_data import read_records
from shared.model_store import Model, model_by_id, save_model
from shared.rows import Candles

HOUR = 3600
HOURS = 32_768  # of each of two instruments
COPIES = 16
NOISE = 0.1
BATCH = 256
FEW, MANY = 4, 24  # steps: the difference is training without its preparations
INFERRED = 4_096
ROUNDS = 5
LIVE_STEPS = 200
LIVE_MS = 10.0  # the aim
RECALL = 0.98  # the aim
ASKED = 200
SCANNED = 20
VENUE = "bench"

MODEL: LiteralString = """
INSERT INTO models (kind, onnx, sha256, schema, schema_hash, trained_from, trained_to, label_horizon_s, known_from,
                    provenance, metrics, status, recorded_at)
SELECT kind, onnx, sha256, schema, schema_hash, trained_from - interval '1 day', trained_to, label_horizon_s,
       known_from, provenance, metrics, 'candidate', recorded_at
FROM models RETURNING id
"""


def seconds(work: Callable[[], object], rounds: int = ROUNDS) -> float:
    """The median of ``rounds`` times, after one to warm up."""
    times = []
    for _ in range(rounds + 1):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return statistics.median(times[1:])


def matmul_flops() -> float:
    """Floating point operations a second of a large float32 matrix product on one thread."""
    a, b = torch.randn(1024, 1024), torch.randn(1024, 1024)
    return 2 * 1024**3 / seconds(lambda: a @ b, 20)


def operations(encoder: Encoder, batch: Batch) -> int:
    """Of a window's forward pass."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        encoder(batch.channels, batch.features)
    return int(counter.get_total_flops()) // len(batch.channels)


def prepared(data: TrainingSet, size: int) -> Batch:
    chosen = np.linspace(0, len(data) - 1, size).astype(np.int64)
    labels = (data.labels[chosen] - data.labels.mean(0)) / data.labels.std(0)
    return Batch(*map(torch.from_numpy, (data.channels(chosen), data.features[chosen], labels)))


def training_rows(data: TrainingSet, peak: float) -> list[Row]:
    encoder, heads, batch = Encoder(measure(data)), Heads(), prepared(data, BATCH)
    optimizer = torch.optim.AdamW([*encoder.parameters(), *heads.parameters()], fused=True)
    masked = torch.rand(BATCH, PATCHES) < 0.4

    def eager() -> None:
        optimizer.zero_grad()
        losses(encoder, heads, batch, batch, masked).total().backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    def training(steps: int) -> float:
        plan = TrainingPlan(steps, BATCH, seed=7, device="cpu")
        return seconds(lambda: fit(data, plan), rounds=3)

    own = BATCH * (MANY - FEW) / (training(MANY) - training(FEW))
    plain = BATCH / seconds(eager, 20)
    bound = peak / (3 * operations(encoder, batch))  # a backward pass takes two forward ones
    return [
        Row("training", own, "windows/s", "plain PyTorch, tensors prepared", plain, own / plain),
        Row("training", own, "windows/s", f"bound of {peak / 1e9:.0f} GFLOP/s", bound, own / bound),
    ]


def inference_rows(model: Model, encoder: Encoder, data: TrainingSet, grid: Grid, peak: float) -> list[Row]:
    closes = grid.usable()[-INFERRED:]
    windows = grid.windows(closes)
    batch = prepared(data, BATCH)

    def eager() -> None:
        with torch.inference_mode():
            encoder(batch.channels, batch.features)

    own = INFERRED / seconds(lambda: embed(model, windows), rounds=3)
    plain = BATCH / seconds(eager, 20)
    bound = peak / operations(encoder, batch)
    return [
        Row("inference from candles", own, "windows/s", "plain PyTorch, tensors prepared", plain, own / plain),
        Row("inference from candles", own, "windows/s", f"bound of {peak / 1e9:.0f} GFLOP/s", bound, own / bound),
    ]


def live_row(model: Model, series: list[Candles]) -> Row:
    """Laying out, measuring and embedding the newest window of each series."""
    latest = [candles[-288:] for candles in series]

    def step() -> None:
        for candles in latest:
            grid = Grid(candles, HOUR)
            embed(model, grid.windows(grid.usable()[-1:]))

    taken = 1000 * seconds(step, LIVE_STEPS)
    return Row("live step, 2 instruments", taken, "ms", "the aim", LIVE_MS, LIVE_MS / taken)


def store_library(database: Database, owner: Database, model: Model, series: list[Candles], copies: int) -> float:
    """Embeddings of ``copies`` instruments for each series; the seconds that the index then takes to build."""
    rng = np.random.default_rng(7)
    for s, candles in enumerate(series):
        grid = Grid(candles, HOUR)
        closes = grid.usable()
        seen = embed(model, grid.windows(closes))
        for n in range(copies):
            symbol = f"M{model.id}-{s}-{n}/USDT"
            with database.transaction():
                one = add_instrument(database, VENUE, symbol, HOUR, default_rules(50_000.0), "simulated", NOW)
                copy_candles(database, one.id, HOUR, candles, VENUE, NOW)
            vectors = seen.embedding + (NOISE / 8 if n else 0.0) * rng.standard_normal(seen.embedding.shape)
            vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
            moments = Moments(np.full(len(closes), one.id), closes)
            write_embeddings(owner, model, HOUR, moments, Embedded(vectors, seen.ood), NOW)
    owner.execute("VACUUM ANALYZE embeddings")
    started = time.perf_counter()
    owner.execute("SELECT build_analog_index(%(id)s)", {"id": model.id})
    return time.perf_counter() - started


def analog_rows(database: Database, model: Model, candles: Candles) -> list[Row]:
    """Exact scans and index searches, the same questions: the embeddings of moments drawn at random, moved a little."""
    params: dict[str, Any] = {"model_id": model.id, "timeframe_s": HOUR, "until": NOW, "known_by": NOW}
    scans: list[float] = []
    searches: list[float] = []
    recalls: list[float] = []
    rows = 0
    for question in questions(model, candles):
        asked = params | {"embedding": vector_text(question)}
        if len(scans) < SCANNED:
            started = time.perf_counter()
            moments = read_records(database, load_queries("analogs")["scan_moments"], asked, SENT_MOMENT)
            scans.append(time.perf_counter() - started)
            rows = len(moments)
        started = time.perf_counter()
        found = search_moments(database, asked, K)
        searches.append(time.perf_counter() - started)
        if len(recalls) < SCANNED:
            recalls.append(recall(found, moments, K))
    scan, found_share = statistics.median(scans), statistics.mean(recalls)
    p50, p99 = (float(q) for q in np.quantile(searches[1:], [0.5, 0.99]))
    name = f"{rows:,} rows"
    return [
        Row(f"exact scan, {name}", 1000 * scan, "ms", "the index, median", 1000 * p50, p50 / scan),
        Row(f"index, {name}, p50", 1000 * p50, "ms", "the exact scan", 1000 * scan, scan / p50),
        Row(f"index, {name}, p99", 1000 * p99, "ms", "the exact scan", 1000 * scan, scan / p99),
        Row(f"index, {name}, recall@{K}", found_share, "", "the aim", RECALL, found_share / RECALL),
    ]  # fmt: skip


def questions(model: Model, candles: Candles) -> list[NDArray[np.float32]]:
    grid = Grid(candles, HOUR)
    rng = np.random.default_rng(11)
    closes = np.sort(rng.choice(grid.usable(), ASKED, replace=False))
    seen = embed(model, grid.windows(closes)).embedding
    moved = seen + NOISE / 8 * rng.standard_normal(seen.shape)
    return list((moved / np.linalg.norm(moved, axis=1, keepdims=True)).astype(np.float32))


def main() -> None:
    torch.set_num_threads(1)
    venue, end = open_exchange("simulated"), to_unix(NOW) // HOUR * HOUR
    symbols = ("SIM-BTC/USDT", "SIM-ETH/USDT")
    series = [venue.candles(symbol, HOUR, end - HOURS * HOUR, end) for symbol in symbols]
    data = build_training_set([candles[:12_000] for candles in series], HOUR)
    fitted, held = split_in_time(data)
    peak = matmul_flops()
    print(f"one thread: {peak / 1e9:.0f} GFLOP/s in a matrix product")
    rows = training_rows(fitted, peak)
    net = fit(fitted, TrainingPlan(150, BATCH, seed=7, device="cpu"))
    onnx = export(net.encoder, fitted, held)
    model = trial_model(onnx, HOUR)
    rows += inference_rows(model, net.encoder, fitted, Grid(series[0], HOUR), peak)
    rows.append(live_row(model, series))
    with temporary_settings() as settings:
        owner, database = Database(owner_url(settings)), Database(role_url(settings, "candles"))
        for copies, stored in zip((1, COPIES), store_models(owner, model, onnx), strict=True):
            built = store_library(database, owner, stored, series, copies)
            print(f"index of {2 * copies * HOURS:,} rows built in {built:.0f} s", flush=True)
            rows += analog_rows(database, stored, series[0])
        for one in (owner, database):
            one.close()
    print_rows(rows)


def store_models(owner: Database, model: Model, onnx: bytes) -> tuple[Model, Model]:
    """The same encoder twice, so that each library is of a model of its own."""
    first = save_model(
        owner, kind="encoder", onnx=onnx, schema=model.schema, trained_from=NOW - timedelta(days=9_000),
        trained_to=NOW - timedelta(days=8_000), label_horizon_s=86_400, provenance="simulated", encoder_id=None,
        metrics={"bench": hashlib.sha256(onnx).hexdigest()}, recorded_at=NOW, status="candidate",
    )  # fmt: skip
    row = owner.fetch_one(MODEL)
    assert row is not None
    return model_by_id(owner, first), model_by_id(owner, row["id"])


if __name__ == "__main__":
    main()
