"""What is exported is what is stored, bit for bit, of one encoder only; and never half a file."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from encoder.export_embeddings import export
from encoder.run_encoder import run_once
from shared.clock import ReplayClock, to_unix
from shared.embeddings import read_embeddings
from shared.job import JobError, UsageError
from shared.settings import load_settings
from tests.encoder.small_encoder import HOUR, save_encoder
from tests.helpers import NOON, DatabaseFor, random_candles, store_candles

KNOWN = NOON - timedelta(hours=20)


def world(database_for: DatabaseFor) -> tuple[int, list[int]]:
    """Two encoders, both with embeddings of two instruments over 30 hours; the first one's id, the instruments'."""
    ids = [store_candles(database_for, "test", f"{a}/USDT", HOUR, random_candles(330, HOUR, seed=n))
           for n, a in enumerate("AB")]  # fmt: skip
    first = save_encoder(database_for, 1, KNOWN - timedelta(hours=10))
    second = save_encoder(database_for, 2, KNOWN - timedelta(hours=5))
    for model in (first, second):
        outcome = run_once(
            ReplayClock(NOON), database_for("encoder"), load_settings(), (NOON - timedelta(hours=29), NOON), model
        )
        assert outcome.result["embedded"] == 60
    return first, ids


def test_the_file_holds_what_is_stored(database_for: DatabaseFor, tmp_path: Path) -> None:
    model, ids = world(database_for)
    path = tmp_path / "embeddings.parquet"
    outcome = export(ReplayClock(NOON), database_for("encoder"), path, NOON - timedelta(hours=9), None, None)
    assert outcome.result["rows"] == 20
    table = pq.read_table(path)
    assert table.schema.metadata[b"encoder"] == str(model).encode()
    assert set(table["symbol"].to_pylist()) == {"A/USDT", "B/USDT"}
    stored = read_embeddings(database_for("encoder"), model, ids, HOUR, to_unix(NOON) - 10 * HOUR, to_unix(NOON))
    wanted = np.concatenate([stored[i].embedding for i in ids])
    assert (np.array(table["embedding"].to_pylist(), np.float32) == wanted).all()
    assert table["ood"].to_numpy().tolist() == np.concatenate([stored[i].ood for i in ids]).tolist()
    times = [at.timestamp() for at in table["as_of"].to_pylist()]
    assert times == np.concatenate([stored[i].as_of for i in ids]).tolist()
    rows = database_for("encoder").fetch(
        "SELECT known_from FROM embeddings WHERE model_id = %(model)s AND as_of > %(after)s "
        "ORDER BY instrument_id, as_of",
        {"model": model, "after": NOON - timedelta(hours=10)},
    )
    assert table["known_from"].to_pylist() == [row["known_from"] for row in rows]


def test_another_encoder_and_an_empty_span(database_for: DatabaseFor, tmp_path: Path) -> None:
    model, _ = world(database_for)
    encoder = database_for("encoder")
    other = export(ReplayClock(NOON), encoder, tmp_path / "other", None, None, model + 1)
    assert (other.result["model_id"], other.result["rows"]) == (model + 1, 60)
    for wanted, message in ((None, "has no embeddings in that span"), (99, "there is no encoder 99")):
        with pytest.raises(JobError, match=message):
            export(ReplayClock(NOON), encoder, tmp_path / "none", None, NOON - timedelta(days=90), wanted)
    with pytest.raises(UsageError, match="other is there already"):
        export(ReplayClock(NOON), encoder, tmp_path / "other", None, None, None)
    assert [path.name for path in tmp_path.iterdir()] == ["other"]
