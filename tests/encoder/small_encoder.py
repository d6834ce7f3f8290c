"""An encoder of one random matrix: it fits the schema, runs in microseconds, and needs no training."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from encoder.schema import EMBEDDING_SIZE, encoder_schema
from shared.features import CHANNELS, FEATURES, WINDOW
from shared.model_store import save_model
from tests.helpers import NOON, DatabaseFor

HOUR = 3600


def small_encoder(seed: int, length: float = 1.0, weights: np.ndarray[Any, Any] | None = None) -> bytes:
    """embedding = length · (features @ weights + a little of the last slot's channels), normalised; ood = 0.5 + a
    little. ``weights``: [F, 64]; at random by default."""
    rng = np.random.default_rng(seed)
    weights = rng.normal(0, 1, (len(FEATURES), EMBEDDING_SIZE)) if weights is None else weights
    mixed = rng.normal(0, 0.1, (len(CHANNELS) * WINDOW, EMBEDDING_SIZE))
    constants = {"weights": weights, "mixed": mixed, "length": np.array([length]), "tiny": np.array([1e-3]),
                 "half": np.array([0.5])}  # fmt: skip
    initializers = [numpy_helper.from_array(value.astype(np.float32), name) for name, value in constants.items()]
    initializers.append(numpy_helper.from_array(np.array([1], np.int64), "axis"))
    nodes = [
        helper.make_node("MatMul", ["features", "weights"], ["a"]),
        helper.make_node("Flatten", ["channels"], ["flat"]),
        helper.make_node("MatMul", ["flat", "mixed"], ["b"]),
        helper.make_node("Add", ["a", "b"], ["sum"]),
        helper.make_node("LpNormalization", ["sum"], ["unit"], axis=1, p=2),
        helper.make_node("Mul", ["unit", "length"], ["embedding"]),
        helper.make_node("ReduceMean", ["unit", "axis"], ["mean"], keepdims=0),
        helper.make_node("Mul", ["mean", "tiny"], ["small"]),
        helper.make_node("Add", ["small", "half"], ["ood"]),
    ]

    def value(name: str, *shape: int | str) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)

    inputs = [value("channels", "N", len(CHANNELS), WINDOW), value("features", "N", len(FEATURES))]
    outputs = [value("embedding", "N", EMBEDDING_SIZE), value("ood", "N")]
    graph = helper.make_graph(nodes, "small", inputs, outputs, initializers)
    return helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 18)]).SerializeToString()


def save_encoder(
    database_for: DatabaseFor, seed: int = 0, trained_to: datetime = NOON, timeframe_s: int = HOUR, **more: Any
) -> int:
    """Stores a small encoder as train_encoder does: the first becomes active, later ones are candidates."""
    values: dict[str, Any] = {
        "kind": "encoder",
        "onnx": small_encoder(seed),
        "schema": encoder_schema(timeframe_s),
        "trained_from": trained_to - timedelta(days=30),
        "trained_to": trained_to,
        "label_horizon_s": 10 * HOUR,
        "provenance": "real",
        "encoder_id": None,
        "metrics": {},
        "recorded_at": trained_to,
        "status": "candidate",
    } | more
    return save_model(database_for("encoder"), **values)
