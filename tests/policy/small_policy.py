"""A policy small enough to know its answers by heart: an ONNX model of the shape that the trader runs."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from policy.observation import observation_names, policy_schema
from shared.db import Database
from shared.model_store import save_model
from tests.helpers import NOON

REACH = 0.5


def small_policy(weights: Mapping[str, float] | None = None, bias: float = 0.0, agreement: float = 1.0,
                 outputs: tuple[str, ...] = ("action", "agreement")) -> bytes:  # fmt: skip
    """action = tanh(observation · weights + bias), ``weights`` by the fields' names; the same agreement for all."""
    names = observation_names()
    column = np.zeros((len(names), 1), np.float32)
    for name, weight in (weights or {}).items():
        column[names.index(name)] = weight
    constants = {
        "weights": column, "bias": np.array([bias], np.float32), "axes": np.array([1], np.int64),
        "agreed": np.array(agreement, np.float32), "nothing": np.array(0.0, np.float32),
    }  # fmt: skip
    nodes = [
        helper.make_node("Gemm", ["observation", "weights", "bias"], ["linear"]),
        helper.make_node("Tanh", ["linear"], ["column"]),
        helper.make_node("Squeeze", ["column", "axes"], ["action"]),
        helper.make_node("Mul", ["action", "nothing"], ["zeros"]),
        helper.make_node("Add", ["zeros", "agreed"], ["agreement"]),
    ]
    graph = helper.make_graph(
        nodes,
        "policy",
        [helper.make_tensor_value_info("observation", TensorProto.FLOAT, ["N", len(names)])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N"]) for name in outputs],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], producer_name="test")
    model.ir_version = 8
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def save_small_policy(database: Database, encoder_id: int, encoder_schema_hash: str, timeframe_s: int = 3600,
                      onnx_bytes: bytes | None = None, to: datetime = NOON - timedelta(days=30),
                      **schema: Any) -> int:  # fmt: skip
    """The active policy, as role policy; ``schema`` replaces entries of the one it should have."""
    return save_model(
        database,
        kind="policy",
        onnx=onnx_bytes or small_policy(),
        schema=policy_schema(timeframe_s, encoder_schema_hash, REACH) | schema,
        trained_from=to - timedelta(days=30),
        trained_to=to,
        label_horizon_s=0,
        provenance="real",
        encoder_id=encoder_id,
        metrics={},
        recorded_at=NOON,
    )
