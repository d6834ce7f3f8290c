"""A stored model is loaded only when everything about it is as it should be."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from shared.db import DatabaseError
from shared.model_store import (
    MAX_ONNX_BYTES,
    ModelRefused,
    active_model,
    load_model,
    model_by_id,
    save_model,
    schema_hash,
)
from shared.settings import PROJECT
from tests.helpers import DatabaseFor

T0 = datetime(2024, 1, 1, tzinfo=UTC)
T1 = datetime(2024, 3, 1, tzinfo=UTC)
SCHEMA: dict[str, Any] = {"inputs": {"x": [1, 2]}, "outputs": {"y": [1, 2]}}
PLUS = np.array([[1.0, 2.0]], np.float32)


def value(name: str, *shape: int, kind: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def model(
    nodes: list[onnx.NodeProto] | None = None, plus: onnx.TensorProto | None = None, **more: Any
) -> onnx.ModelProto:
    """x [1, 2] + plus → y"""
    plus = numpy_helper.from_array(PLUS, "plus") if plus is None else plus
    nodes = [helper.make_node("Add", ["x", "plus"], ["y"])] if nodes is None else nodes
    graph = helper.make_graph(nodes, "g", [value("x", 1, 2)], [value("y", 1, 2)], [plus])
    more.setdefault("opset_imports", [helper.make_opsetid("", 18)])
    return helper.make_model(graph, ir_version=10, **more)


GOOD = model().SerializeToString()


def row(onnx_bytes: bytes, **more: Any) -> dict[str, Any]:
    return {
        "id": 3,
        "kind": "encoder",
        "onnx": onnx_bytes,
        "sha256": hashlib.sha256(onnx_bytes).hexdigest(),
        "schema": SCHEMA,
        "schema_hash": schema_hash(SCHEMA),
        "trained_from": T0,
        "trained_to": T1,
        "known_from": T1,
        "provenance": "real",
        "encoder_id": None,
        "metrics": {},
    } | more


def external() -> onnx.TensorProto:
    tensor = TensorProto(name="plus", data_type=TensorProto.FLOAT, dims=[1, 2], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="/etc/passwd")
    return tensor


def only_location() -> onnx.TensorProto:
    return TensorProto(name="plus", data_type=TensorProto.FLOAT, dims=[1, 2], data_location=TensorProto.EXTERNAL)


def branch(name: str, tensor: onnx.TensorProto) -> onnx.GraphProto:
    return helper.make_graph([helper.make_node("Constant", [], [name], value=tensor)], name, [], [value(name, 1, 2)])


def sparse_external() -> onnx.ModelProto:
    made = model()
    values = external()
    values.name = "sparse"
    indices = numpy_helper.from_array(np.array([0, 1], np.int64), "indices")
    made.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [1, 2]))
    return made


def in_a_subgraph() -> onnx.ModelProto:
    yes = numpy_helper.from_array(np.array(True), "yes")
    good = numpy_helper.from_array(PLUS, "plus")
    condition = helper.make_node("Constant", [], ["yes"], value=yes)
    choose = helper.make_node("If", ["yes"], ["z"], then_branch=branch("a", good), else_branch=branch("b", external()))
    return model([condition, choose, helper.make_node("Add", ["x", "z"], ["y"])])


def nested_ifs(depth: int) -> onnx.ModelProto:
    inner = branch("leaf", numpy_helper.from_array(PLUS, "plus"))
    for level in range(depth):
        node = helper.make_node("If", [f"yes{level}"], [f"l{level}"], then_branch=inner, else_branch=inner)
        yes = helper.make_node("Constant", [], [f"yes{level}"], value=numpy_helper.from_array(np.array(True)))
        inner = helper.make_graph([yes, node], f"g{level}", [], [value(f"l{level}", 1, 2)])
    return model([*inner.node, helper.make_node("Add", ["x", f"l{depth - 1}"], ["y"])])


def custom_function() -> onnx.ModelProto:
    function = helper.make_function(
        "", "Mine", ["a"], ["b"], [helper.make_node("Abs", ["a"], ["b"])], [helper.make_opsetid("", 18)]
    )
    return model(functions=[function])


def training_graph() -> onnx.ModelProto:
    made = model()
    made.training_info.add().algorithm.CopyFrom(made.graph)
    return made


REFUSED: dict[str, tuple[Callable[[], onnx.ModelProto], str]] = {
    "external data in an initializer": (lambda: model(plus=external()), "outside the file"),
    "a data location without a place": (lambda: model(plus=only_location()), "outside the file"),
    "external data in a constant": (
        lambda: model([helper.make_node("Constant", [], ["y"], value=external())]),
        "outside the file",
    ),
    "external data in a sparse initializer": (sparse_external, "outside the file"),
    "external data in a branch of If": (in_a_subgraph, "outside the file"),
    "an operator set of another domain": (
        lambda: model(opset_imports=[helper.make_opsetid("", 18), helper.make_opsetid("com.microsoft", 1)]),
        "com.microsoft",
    ),
    "a node of another domain": (
        lambda: model([helper.make_node("Gelu", ["x"], ["y"], domain="com.microsoft")]),
        "com.microsoft",
    ),
    "the machine learning domain": (
        lambda: model([helper.make_node("Scaler", ["x"], ["y"], domain="ai.onnx.ml")]),
        "ai.onnx.ml",
    ),
    "a function of its own": (custom_function, "functions"),
    "a training graph": (training_graph, "training graph"),
    "graphs nested too deep": (lambda: nested_ifs(9), "nested"),
    "an unknown operator": (lambda: model([helper.make_node("NoSuchThing", ["x"], ["y"])]), "onnxruntime says"),
}


def test_a_good_model_runs() -> None:
    loaded = load_model(row(GOOD), SCHEMA)
    assert loaded.run({"x": np.array([[1, 1]], np.float32)})[0].tolist() == [[2, 3]]
    assert (loaded.id, loaded.kind, loaded.provenance) == (3, "encoder", "real")


def test_nested_graphs_within_bounds_run() -> None:
    loaded = load_model(row(nested_ifs(3).SerializeToString()))
    assert loaded.run({"x": np.zeros((1, 2), np.float32)})[0].tolist() == PLUS.tolist()


@pytest.mark.parametrize("what", REFUSED)
def test_it_refuses(what: str) -> None:
    make, why = REFUSED[what]
    with pytest.raises(ModelRefused, match=why) as refusal:
        load_model(row(make().SerializeToString()))
    assert "encoder model 3" in str(refusal.value)
    assert "Train a new one" in str(refusal.value)


def test_a_flipped_byte_is_refused() -> None:
    flipped = bytearray(GOOD)
    flipped[len(GOOD) // 2] ^= 1
    with pytest.raises(ModelRefused, match="sha256"):
        load_model(row(GOOD, onnx=bytes(flipped)))


@pytest.mark.parametrize("cut", range(1, len(GOOD), 7))
def test_truncated_bytes_are_refused_even_with_their_own_hash(cut: int) -> None:
    with pytest.raises(ModelRefused):
        load_model(row(GOOD[:cut]))


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200))
def test_random_bytes_are_refused_and_nothing_else(garbage: bytes) -> None:
    with pytest.raises(ModelRefused):
        load_model(row(garbage))


@settings(max_examples=200, deadline=None)
@given(st.integers(0, len(GOOD) - 1), st.integers(1, 255))
def test_a_changed_byte_loads_or_is_refused_but_never_crashes(position: int, mask: int) -> None:
    changed = bytearray(GOOD)
    changed[position] ^= mask
    with suppress(ModelRefused):
        load_model(row(bytes(changed)))


def test_onnxruntimes_own_format_is_not_read_as_such() -> None:
    with pytest.raises(ModelRefused):
        load_model(row(b"\x08\x0aXXORTM" + GOOD))
    with pytest.raises(ModelRefused):
        load_model(row(b"\x0a\x06\x00\x00ORTM" + GOOD[:20]))


def test_a_model_that_is_too_large_is_refused() -> None:
    with pytest.raises(ModelRefused, match="bytes, allowed are"):
        load_model(row(bytes(MAX_ONNX_BYTES + 1)))


def test_a_changed_schema_is_refused() -> None:
    with pytest.raises(ModelRefused, match="hash that was stored"):
        load_model(row(GOOD, schema=SCHEMA | {"window": 12}))


def test_another_schema_than_expected_is_refused_saying_what_differs() -> None:
    with pytest.raises(ModelRefused, match=r"outputs is .*program wants") as refusal:
        load_model(row(GOOD), {**SCHEMA, "outputs": {"y": (1, 3)}})
    assert "inputs" not in str(refusal.value).split(":", 2)[2]


def test_the_schema_hash_knows_no_order_and_no_tuples() -> None:
    assert schema_hash({"a": 1, "b": [1, 2]}) == schema_hash({"b": (1, 2), "a": 1})
    assert schema_hash({"a": 1}) != schema_hash({"a": 2})


def test_importing_the_store_imports_no_model_runtime() -> None:
    code = "import sys, shared.model_store; assert not {'onnxruntime', 'onnx', 'torch'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=PROJECT)


def test_loading_imports_neither_onnx_nor_torch() -> None:
    code = f"""
import sys; from shared.model_store import _make_session
_make_session('m', {GOOD!r})
bad = {{'onnx', 'torch', 'google.protobuf'}} & set(sys.modules); assert not bad, bad
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=PROJECT)


def save(database_for: DatabaseFor, layer: str = "encoder", **more: Any) -> int:
    values: dict[str, Any] = {
        "kind": layer,
        "onnx": GOOD,
        "schema": SCHEMA,
        "trained_from": T0,
        "trained_to": T1,
        "label_horizon_s": 86_400,
        "provenance": "real",
        "encoder_id": None,
        "metrics": {"loss": 0.5},
        "recorded_at": T1,
    } | more
    return save_model(database_for(layer), **values)


def other() -> bytes:
    return model(plus=numpy_helper.from_array(PLUS + 1, "plus")).SerializeToString()


def statuses(database_for: DatabaseFor) -> dict[int, str]:
    rows = database_for("encoder").fetch("SELECT id, status FROM models ORDER BY id")
    return {row["id"]: row["status"] for row in rows}


def test_what_is_saved_is_the_active_model(database_for: DatabaseFor) -> None:
    assert active_model(database_for("encoder"), "encoder") is None
    model_id = save(database_for)
    loaded = active_model(database_for("policy"), "encoder", SCHEMA)
    assert loaded is not None
    assert loaded == model_by_id(database_for("encoder"), model_id, SCHEMA)
    assert (loaded.id, loaded.trained_to, loaded.metrics) == (model_id, T1, {"loss": 0.5})
    assert loaded.known_from == T1 + timedelta(days=1)
    assert loaded.run({"x": np.zeros((1, 2), np.float32)})[0].tolist() == PLUS.tolist()


def test_the_same_model_keeps_its_id_and_a_new_one_retires_it(database_for: DatabaseFor) -> None:
    first = save(database_for)
    assert save(database_for, recorded_at=T1 + timedelta(days=2)) == first
    second = save(database_for, onnx=other())
    assert statuses(database_for) == {first: "retired", second: "active"}
    assert save(database_for) == first
    assert statuses(database_for) == {first: "active", second: "retired"}


def test_a_candidate_is_not_in_use_unless_its_kind_has_no_active_model(database_for: DatabaseFor) -> None:
    first = save(database_for, status="candidate")
    second = save(database_for, onnx=other(), status="candidate")
    assert statuses(database_for) == {first: "active", second: "candidate"}
    policy = save(database_for, "policy", encoder_id=first, label_horizon_s=0, status="candidate")
    assert statuses(database_for)[policy] == "active", "an active encoder is no active policy"


@pytest.mark.parametrize("status", ["active", "shadow", "candidate"])
def test_training_a_model_again_takes_it_out_of_no_use(database_for: DatabaseFor, status: str) -> None:
    first, second = save(database_for), save(database_for, onnx=other(), status="candidate")
    if status == "active":
        assert save(database_for, status="candidate") == first
        assert statuses(database_for) == {first: "active", second: "candidate"}
        return
    database_for("encoder").execute("UPDATE models SET status = %(to)s WHERE id = %(id)s", {"to": status, "id": second})
    assert save(database_for, onnx=other(), status="candidate") == second
    assert statuses(database_for) == {first: "active", second: status}


def test_a_retired_model_trained_again_is_a_candidate_or_active(database_for: DatabaseFor) -> None:
    first = save(database_for)
    second = save(database_for, onnx=other())
    assert save(database_for, status="candidate") == first
    assert statuses(database_for) == {first: "candidate", second: "active"}
    assert save(database_for) == first
    assert statuses(database_for) == {first: "active", second: "retired"}


def test_a_refused_candidate_leaves_everything_as_it_was(database_for: DatabaseFor) -> None:
    first = save(database_for)
    with pytest.raises(ModelRefused):
        save(database_for, onnx=GOOD[:50], status="candidate")
    assert statuses(database_for) == {first: "active"}


def test_the_same_bytes_on_another_span_are_another_model(database_for: DatabaseFor) -> None:
    first = save(database_for)
    second = save(database_for, trained_to=T1 + timedelta(hours=1))
    assert statuses(database_for) == {first: "retired", second: "active"}


def test_a_policy_is_not_known_before_its_encoder(database_for: DatabaseFor) -> None:
    encoder_id = save(database_for)
    policy_id = save(database_for, "policy", encoder_id=encoder_id, label_horizon_s=0)
    assert model_by_id(database_for("policy"), policy_id).known_from == T1 + timedelta(days=1)
    assert statuses(database_for) == {encoder_id: "active", policy_id: "active"}


def test_a_layer_cannot_save_anothers_model(database_for: DatabaseFor) -> None:
    with pytest.raises(DatabaseError, match="row-level security"):
        save(database_for, "encoder", kind="policy", encoder_id=save(database_for))


def test_saving_a_refused_model_leaves_the_active_one_alone(database_for: DatabaseFor) -> None:
    first = save(database_for)
    with pytest.raises(ModelRefused, match="the new encoder model"):
        save(database_for, onnx=model(plus=external()).SerializeToString())
    assert statuses(database_for) == {first: "active"}


def test_a_model_that_is_not_there_is_refused(database_for: DatabaseFor) -> None:
    with pytest.raises(ModelRefused, match="model 99 is not in this database"):
        model_by_id(database_for("encoder"), 99)
