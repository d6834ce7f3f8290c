"""Models as rows: ONNX bytes with all that is needed to refuse them. Running needs numpy and onnxruntime only."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Literal, cast
from weakref import WeakKeyDictionary

import numpy as np
from psycopg.types.json import Json

from shared.db import Database, load_queries
from shared.errors import SextantError
from shared.onnx_check import OnnxRefused, check_onnx

MAX_ONNX_BYTES = 20 * 1024 * 1024
NewStatus = Literal["active", "candidate"]


class ModelRefused(SextantError):
    """A model that must not be used: which one, what is wrong with it, what to do."""


@dataclass(frozen=True, slots=True)
class Model:
    """A loaded model. ``known_from``: before that moment using it would be looking ahead."""

    id: int
    kind: str
    schema: dict[str, Any]
    schema_hash: str
    trained_from: datetime
    trained_to: datetime
    known_from: datetime
    provenance: str
    encoder_id: int | None
    metrics: dict[str, Any]
    session: Any = field(repr=False, compare=False)  # onnxruntime.InferenceSession, made from bytes

    def run(self, inputs: dict[str, np.ndarray[Any, Any]]) -> list[np.ndarray[Any, Any]]:
        """The outputs in the order of the graph; one thread, so that equal inputs give equal bits."""
        return cast(list[np.ndarray[Any, Any]], self.session.run(None, inputs))


def schema_hash(schema: Mapping[str, Any]) -> str:
    """sha256 of the schema as JSON with sorted keys: equal schemas, equal hashes."""
    return hashlib.sha256(_canonical(schema).encode()).hexdigest()


def save_model(
    database: Database,
    *,
    kind: str,
    onnx: bytes,
    schema: Mapping[str, Any],
    trained_from: datetime,
    trained_to: datetime,
    label_horizon_s: int,
    provenance: str,
    encoder_id: int | None,
    metrics: Mapping[str, Any],
    recorded_at: datetime,
    status: NewStatus = "active",
) -> int:
    """Stores a model: as the active one of its kind, which retires the one before in one transaction; or as a
    candidate, unless its kind has no active one yet.

    The same bytes trained on the same span are the same model: its id comes back, and in use it stays in use.
    ModelRefused for what could not be loaded again. ``label_horizon_s``: how far beyond ``trained_to`` it may
    have looked.
    """
    name = f"the new {kind} model"
    _make_session(name, onnx)
    row = {
        "kind": kind,
        "onnx": onnx,
        "sha256": hashlib.sha256(onnx).hexdigest(),
        "schema": Json(dict(schema)),
        "schema_hash": schema_hash(schema),
        "trained_from": trained_from,
        "trained_to": trained_to,
        "label_horizon_s": label_horizon_s,
        "provenance": provenance,
        "encoder_id": encoder_id,
        "metrics": Json(dict(metrics)),
        "recorded_at": recorded_at,
    }
    queries = load_queries("shared")
    with database.transaction():
        row["known_from"] = max([trained_to + timedelta(seconds=label_horizon_s), *_known(database, encoder_id)])
        if status == "active":
            database.execute(queries["retire_active_models"], {"kind": kind})
        elif database.fetch_one(queries["active_model"], {"kind": kind}) is None:
            status = "active"
        saved = database.fetch_one(queries["insert_model"], row | {"status": status})
    assert saved is not None  # a conflict updates, so a row always comes back
    return int(saved["id"])


def load_model(row: Mapping[str, Any], expected_schema: Mapping[str, Any] | None = None) -> Model:
    """The model of one row of ``models``, ready to run; ModelRefused if anything about it is not as it should be."""
    name = f"{row['kind']} model {row['id']}"
    onnx = bytes(row["onnx"])
    digest = hashlib.sha256(onnx).hexdigest()
    if digest != row["sha256"]:
        raise _refused(name, f"its bytes have sha256 {digest[:12]}…, stored is {row['sha256'][:12]}…")
    _check_schema(name, row, expected_schema)
    columns = {column: row[column] for column in Model.__slots__ if column != "session"}
    return Model(**columns, session=_make_session(name, onnx))


def active_model(database: Database, kind: str, expected_schema: Mapping[str, Any] | None = None) -> Model | None:
    """The active model of a kind; None when there is none, ModelRefused when it must not be used."""
    row = database.fetch_one(load_queries("shared")["active_model"], {"kind": kind})
    return None if row is None else load_model_once(database, row["id"], row["sha256"], expected_schema)


def model_by_id(database: Database, model_id: int, expected_schema: Mapping[str, Any] | None = None) -> Model:
    row = database.fetch_one(load_queries("shared")["model_hash"], {"id": model_id})
    if row is None:
        raise ModelRefused(f"model {model_id} is not in this database; train one, or name another")
    return load_model_once(database, model_id, row["sha256"], expected_schema)


# Models that passed every check, by id and hash: a replay asks for the same two each hour. Kept for each database
# apart, because the same id and bytes in another one can have another training span and provenance.
_LOADED: WeakKeyDictionary[Database, dict[tuple[int, str], Model]] = WeakKeyDictionary()
MAX_LOADED = 8


def load_model_once(database: Database, model_id: int, sha256: str, expected: Mapping[str, Any] | None = None) -> Model:
    """The model whose row was just read with this hash: it is loaded and checked where that has not been done yet."""
    loaded = _LOADED.setdefault(database, {})
    model = loaded.get((model_id, sha256))
    if model is None:
        model = load_model(_row_by_id(database, model_id), expected)
        if len(loaded) >= MAX_LOADED:
            loaded.pop(next(iter(loaded)))
        loaded[model_id, sha256] = model
    else:
        _check_schema(
            f"{model.kind} model {model.id}", {"schema": model.schema, "schema_hash": model.schema_hash}, expected
        )
    return model


def _row_by_id(database: Database, model_id: int) -> dict[str, Any]:
    row = database.fetch_one(load_queries("shared")["model_by_id"], {"id": model_id})
    if row is None:
        raise ModelRefused(f"model {model_id} is not in this database; train one, or name another")
    return row


def _known(database: Database, encoder_id: int | None) -> list[datetime]:
    """When the encoder that it learnt from was known: no policy is known before that."""
    return [] if encoder_id is None else [_row_by_id(database, encoder_id)["known_from"]]


def _make_session(name: str, onnx: bytes) -> Any:
    if len(onnx) > MAX_ONNX_BYTES:
        raise _refused(name, f"it is {len(onnx):,} bytes, allowed are {MAX_ONNX_BYTES:,}")
    try:
        check_onnx(onnx)
    except OnnxRefused as error:
        raise _refused(name, str(error)) from None
    import onnxruntime  # 0.2 s, so only for who runs models

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = 4
    # Else bytes that start like onnxruntime's own format would be read as such, past the check above.
    options.add_session_config_entry("session.load_model_format", "ONNX")
    try:
        return onnxruntime.InferenceSession(onnx, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors share no other base class
        raise _refused(name, f"onnxruntime says {str(error).strip()}") from error


def _check_schema(name: str, row: Mapping[str, Any], expected: Mapping[str, Any] | None) -> None:
    if schema_hash(row["schema"]) != row["schema_hash"]:
        raise _refused(name, "its schema does not have the hash that was stored with it")
    if expected is not None and schema_hash(expected) != row["schema_hash"]:
        raise _refused(name, f"it was trained for other inputs or outputs: {_differences(row['schema'], expected)}")


def _differences(stored: Mapping[str, Any], expected: Mapping[str, Any]) -> str:
    expected = json.loads(_canonical(expected))  # as it would come back: tuples are lists
    keys = sorted(key for key in {*stored, *expected} if stored.get(key) != expected.get(key))
    return "; ".join(f"{key} is {stored.get(key)!r}, this program wants {expected.get(key)!r}" for key in keys)


def _refused(name: str, what: str) -> ModelRefused:
    return ModelRefused(f"{name} is refused: {what}. Train a new one (make train-encoder, make train-policy).")


def _canonical(schema: Mapping[str, Any]) -> str:
    return json.dumps(schema, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
