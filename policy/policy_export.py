"""The trained actor as ONNX: two tanh layers and a clipped mean, written node by node.

Written by hand rather than traced: five operators, no path of this machine or version of an exporter in the
bytes, so equal weights give equal bytes.
"""

from __future__ import annotations

from typing import Any

import onnx
from onnx import TensorProto, helper, numpy_helper

OPSET = 17


def export_actor(policy: Any) -> bytes:
    """``policy`` is an SB3 ActorCriticPolicy with a tanh MLP; input observation [1, D], output action [1, N]."""
    layers = [layer for layer in policy.mlp_extractor.policy_net if hasattr(layer, "weight")] + [policy.action_net]
    nodes, weights, name = [], [], "observation"
    for i, layer in enumerate(layers):
        for part in ("weight", "bias"):
            array = getattr(layer, part).detach().cpu().numpy()
            weights.append(numpy_helper.from_array(array, f"{part}_{i}"))
        last = i == len(layers) - 1
        nodes.append(helper.make_node("Gemm", [name, f"weight_{i}", f"bias_{i}"], [f"linear_{i}"], transB=1))
        name = f"linear_{i}"
        if not last:
            nodes.append(helper.make_node("Tanh", [name], [f"hidden_{i}"]))
            name = f"hidden_{i}"
    weights += [numpy_helper.from_array(_scalar(-1.0), "low"), numpy_helper.from_array(_scalar(1.0), "high")]
    nodes.append(helper.make_node("Clip", [name, "low", "high"], ["action"]))
    size, actions = layers[0].weight.shape[1], layers[-1].weight.shape[0]
    graph = helper.make_graph(
        nodes,
        "policy",
        [helper.make_tensor_value_info("observation", TensorProto.FLOAT, [1, size])],
        [helper.make_tensor_value_info("action", TensorProto.FLOAT, [1, actions])],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], producer_name="sextant")
    model.ir_version = 8
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def _scalar(value: float) -> Any:
    import numpy as np

    return np.array(value, dtype=np.float32)
