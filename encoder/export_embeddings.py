"""Writes one encoder's embeddings to a Parquet file, to be studied elsewhere.

Input: embeddings, models, instruments. Output: a file.
``python -m encoder.export_embeddings FILE [--from --to] [--model]``
"""

from __future__ import annotations

import sys
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from shared.clock import Clock, to_unix
from shared.db import Database, load_queries
from shared.embeddings import EMBEDDING_SIZE, Embeddings, read_embeddings
from shared.job import Context, JobError, Outcome, UsageError, job_parser, run_job_command
from shared.rows import Instrument


def export(
    clock: Clock, database: Database, path: Path, first: datetime | None, last: datetime | None, model_id: int | None
) -> Outcome:
    """A row a moment: venue, symbol, timeframe_s, as_of, ood, known_from, embedding (64 float32); in the file's own
    metadata the encoder's id and hash. Instrument by instrument, oldest first; whole, or no file at all.

    UsageError when there is a file already, JobError when there is nothing to write.
    """
    if path.exists():
        raise UsageError(f"{path} is there already; remove it, or name another file")
    encoder = database.fetch_one(load_queries("embeddings")["exported_encoder"], {"model_id": model_id})
    if encoder is None:
        wanted = "no encoder is active" if model_id is None else f"there is no encoder {model_id}"
        raise JobError(f"{wanted}; run `make train-encoder`, or give --model")
    after = to_unix(first) - 1 if first else 0
    until = to_unix(last or clock.now())
    draft = path.with_name(path.name + ".draft")
    try:
        rows = _write(database, encoder, draft, after, until)
        if not rows:
            raise JobError(f"encoder {encoder['id']} has no embeddings in that span; run `make run-encoder FROM=…`")
        draft.rename(path)
    finally:
        draft.unlink(missing_ok=True)
    return Outcome("done", {"model_id": encoder["id"], "rows": rows, "file": str(path), "bytes": path.stat().st_size})


def _write(database: Database, encoder: dict[str, Any], path: Path, after: int, until: int) -> int:
    import pyarrow as pa
    import pyarrow.parquet as pq

    times = pa.timestamp("s", tz="UTC")
    schema = pa.schema(
        [
            ("venue", pa.string()),
            ("symbol", pa.string()),
            ("timeframe_s", pa.int32()),
            ("as_of", times),
            ("ood", pa.float64()),
            ("known_from", times),
            ("embedding", pa.list_(pa.float32(), EMBEDDING_SIZE)),
        ],
        metadata={"encoder": str(encoder["id"]), "sha256": encoder["sha256"]},
    )
    known = int(np.ceil(encoder["known_from"].timestamp()))
    queries = load_queries("analogs")
    series = {"model_id": encoder["id"], "timeframe_s": encoder["timeframe_s"]}
    rows = 0
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for instrument in database.fetch_rows(Instrument, queries["embedded_instruments"], series):
            found = read_embeddings(database, series["model_id"], [instrument.id], series["timeframe_s"], after, until)
            table = _table(pa, schema, instrument, series["timeframe_s"], found[instrument.id], known)
            writer.write_table(table)
            rows += len(table)
    return rows


def _table(pa: Any, schema: Any, instrument: Instrument, timeframe_s: int, found: Embeddings, known: int) -> Any:
    n = len(found.as_of)
    columns = [
        pa.repeat(instrument.venue, n),
        pa.repeat(instrument.symbol, n),
        pa.repeat(pa.scalar(timeframe_s, pa.int32()), n),
        pa.array(found.as_of).cast(schema.field("as_of").type),
        pa.array(found.ood),
        pa.array(np.maximum(found.as_of, known)).cast(schema.field("known_from").type),
        pa.FixedSizeListArray.from_arrays(pa.array(found.embedding.ravel()), EMBEDDING_SIZE),
    ]
    return pa.table(columns, schema=schema)


def main(argv: list[str] | None = None) -> int:
    parser = job_parser("Writes an encoder's embeddings to a Parquet file.", span=True)
    parser.add_argument("file", type=Path, help="to be made; never overwritten")
    parser.add_argument("--model", type=int, help="the encoder (default: the active one)")
    return run_job_command("encoder", parser, _work, argv)


def _work(context: Context) -> Outcome:
    a = context.arguments
    return export(context.clock, context.database, a.file, a.span_from, a.span_to, a.model)


if __name__ == "__main__":
    sys.exit(main())
