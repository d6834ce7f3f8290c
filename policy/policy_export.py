"""The trained nets as one ONNX graph: their median action, and how far they agree.

Written node by node rather than traced: standard operators only, no path of this machine or version of an exporter in
the bytes, so equal weights give equal bytes. The nets run side by side as one batched product.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from policy.decision_kernel import OBSERVATION_SIZE
from policy.policy_network import depth

OPSET = 17
IR_VERSION = 8
DISAGREEMENT = 0.5  # standard deviation of the actions at which nothing is left of a position

Net = Mapping[str, NDArray[np.float32]]


def export_ensemble(seeds: Sequence[Net]) -> bytes:
    """``seeds``: the nets' weights, all of one shape. Input ``observation`` [N, OBSERVATION_SIZE], any N; outputs
    ``action`` [N], the median of the clipped actions, and ``agreement`` [N] = 1 - standard deviation ÷ DISAGREEMENT, at
    least 0. ValueError for no nets, or nets of different shapes."""
    if not seeds:
        raise ValueError("an ensemble has at least one net; train one first")
    for net in seeds[1:]:
        if {k: v.shape for k, v in net.items()} != {k: v.shape for k, v in seeds[0].items()}:
            raise ValueError("the nets of an ensemble must have the same layers; train them by one plan")
    graph = _Graph()
    actions = _actions(graph, seeds)
    _median(graph, actions, len(seeds))
    _agreement(graph, actions)
    return graph.model()


def _actions(graph: _Graph, seeds: Sequence[Net]) -> str:
    """[K, N]: the clipped actions of K nets."""
    layers = depth(seeds[0])
    name = graph.node("Unsqueeze", ["observation", graph.constant("first_axis", np.array([0]))], "rows")
    for k in range(layers):
        weight = np.stack([net[f"weight_{k}"].T for net in seeds]).astype(np.float32)
        bias = np.stack([net[f"bias_{k}"] for net in seeds])[:, None].astype(np.float32)
        name = graph.node("MatMul", [name, graph.constant(f"weight_{k}", weight)], f"product_{k}")
        name = graph.node("Add", [name, graph.constant(f"bias_{k}", bias)], f"linear_{k}")
        if k < layers - 1:
            name = graph.node("Tanh", [name], f"hidden_{k}")
    name = graph.node("Squeeze", [name, graph.constant("last_axis", np.array([2]))], "unclipped")
    low, high = graph.constant("low", np.float32(-1.0)), graph.constant("high", np.float32(1.0))
    return graph.node("Clip", [name, low, high], "actions")


def _median(graph: _Graph, actions: str, nets: int) -> None:
    """Sorts by TopK; an even number has two in the middle, whose mean is the median."""
    middle = np.array([(nets - 1) // 2, nets // 2])
    everything = graph.constant("nets", np.array([nets]))
    graph.node("TopK", [actions, everything], "sorted", "order", axis=0, largest=1, sorted=1)
    two = graph.node("Gather", ["sorted", graph.constant("middle", middle)], "two", axis=0)
    graph.node("ReduceMean", [two], "action", axes=[0], keepdims=0)


def _agreement(graph: _Graph, actions: str) -> None:
    mean = graph.node("ReduceMean", [actions], "mean", axes=[0], keepdims=1)
    apart = graph.node("Sub", [actions, mean], "apart")
    square = graph.node("Mul", [apart, apart], "square")
    variance = graph.node("ReduceMean", [square], "variance", axes=[0], keepdims=0)
    deviation = graph.node("Sqrt", [variance], "deviation")
    share = graph.node("Div", [deviation, graph.constant("disagreement", np.float32(DISAGREEMENT))], "share")
    left = graph.node("Sub", [graph.constant("one", np.float32(1.0)), share], "left")
    graph.node("Clip", [left, graph.constant("nothing", np.float32(0.0)), "one"], "agreement")


class _Graph:
    def __init__(self) -> None:
        self._nodes: list[Any] = []
        self._constants: dict[str, Any] = {}

    def constant(self, name: str, array: Any) -> str:
        self._constants[name] = numpy_helper.from_array(np.asarray(array), name)
        return name

    def node(self, operator: str, inputs: list[str], *outputs: str, **attributes: Any) -> str:
        self._nodes.append(helper.make_node(operator, inputs, list(outputs), **attributes))
        return outputs[0]

    def model(self) -> bytes:
        graph = helper.make_graph(
            self._nodes,
            "policy",
            [helper.make_tensor_value_info("observation", TensorProto.FLOAT, ["N", OBSERVATION_SIZE])],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N"]) for name in ("action", "agreement")],
            list(self._constants.values()),
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], producer_name="sextant")
        model.ir_version = IR_VERSION
        onnx.checker.check_model(model, full_check=True)
        return bytes(model.SerializeToString())
