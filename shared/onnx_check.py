"""Refuses ONNX bytes that are more than arithmetic, before any runtime sees them.

A walker over the protobuf wire format, so that running needs neither the onnx package nor protobuf. It
refuses data outside the file, operators outside the standard set, functions, training graphs, and anything
malformed. What it does not know it steps over, as the runtime does.

Formats: https://protobuf.dev/programming-guides/encoding and onnx/onnx.proto (field numbers below).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

STANDARD_DOMAINS = (b"", b"ai.onnx")
MAX_GRAPH_DEPTH = 8  # subgraphs inside subgraphs; ours have none
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
VARINT_BYTES, TAG_BYTES = 10, 5


class OnnxRefused(Exception):
    """These bytes must not be loaded; the message says why."""


class Field(NamedTuple):
    number: int
    wire_type: int
    value: int  # of a VARINT, else 0
    payload: memoryview  # of BYTES, else empty


Check = Callable[[Field, int], None]  # a field and how many graphs it is inside of


def check_onnx(onnx: bytes) -> None:
    """OnnxRefused unless ``onnx`` is a self-contained ModelProto of standard operators."""
    model = memoryview(onnx)
    _walk(model, "ModelProto", MODEL, 0)
    if not any(field.number == 7 for field in _fields(model)):
        raise OnnxRefused("it contains no graph")


def _walk(message: memoryview, name: str, checks: Mapping[int, tuple[int, Check]], depth: int) -> None:
    for field in _fields(message):
        known = checks.get(field.number)
        if known is None:
            continue
        wire_type, check = known
        if field.wire_type != wire_type:
            raise OnnxRefused(f"field {field.number} of a {name} has wire type {field.wire_type}, not {wire_type}")
        check(field, depth)


def _fields(message: memoryview) -> Iterator[Field]:
    at, end, nothing = 0, len(message), message[:0]
    while at < end:
        tag, at = _varint(message, at, TAG_BYTES)
        number, wire_type = tag >> 3, tag & 7
        if number == 0:
            raise OnnxRefused("malformed: a field has number 0")
        if wire_type == VARINT:
            value, at = _varint(message, at, VARINT_BYTES)
            yield Field(number, wire_type, value, nothing)
            continue
        if wire_type == BYTES:
            size, at = _varint(message, at, VARINT_BYTES)
        elif wire_type in (FIXED64, FIXED32):
            size = 8 if wire_type == FIXED64 else 4
        else:
            raise OnnxRefused(f"malformed: field {number} has wire type {wire_type}, which ONNX does not use")
        if size > end - at:
            raise OnnxRefused(f"malformed: field {number} ends {size - (end - at)} bytes after its message; truncated?")
        yield Field(number, wire_type, 0, message[at : at + size] if wire_type == BYTES else nothing)
        at += size


def _varint(message: memoryview, at: int, longest: int) -> tuple[int, int]:
    """The number that starts at ``at`` and the position after it."""
    value = 0
    for index, byte in enumerate(message[at : at + longest]):
        value |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            return value, at + index + 1
    raise OnnxRefused("malformed: a number has no end; truncated?")


def _refuse(why: str) -> Check:
    def check(field: Field, depth: int) -> None:
        raise OnnxRefused(why)

    return check


def _standard_domain(field: Field, depth: int) -> None:
    domain = bytes(field.payload)
    if domain not in STANDARD_DOMAINS:
        shown = domain[:60].decode("utf-8", "replace")
        raise OnnxRefused(f"it uses operators of domain {shown!r}; only the standard ONNX operators are allowed")


def _inside(field: Field, depth: int) -> None:
    """The place of the tensor's data: 0 is in this file."""
    if field.value != 0:
        raise OnnxRefused("a tensor keeps its data outside the file")


def _message(name: str, checks: Mapping[int, tuple[int, Check]], deeper: int = 0) -> Check:
    def check(field: Field, depth: int) -> None:
        if depth + deeper > MAX_GRAPH_DEPTH:
            raise OnnxRefused(f"its graphs are nested more than {MAX_GRAPH_DEPTH} deep")
        _walk(field.payload, name, checks, depth + deeper)

    return check


TENSOR: dict[int, tuple[int, Check]] = {
    13: (BYTES, _refuse("a tensor keeps its data outside the file")),
    14: (VARINT, _inside),
}
_TENSOR = (BYTES, _message("TensorProto", TENSOR))
SPARSE_TENSOR = {1: _TENSOR, 2: _TENSOR}  # values and indices
_SPARSE_TENSOR = (BYTES, _message("SparseTensorProto", SPARSE_TENSOR))
GRAPH: dict[int, tuple[int, Check]] = {5: _TENSOR, 15: _SPARSE_TENSOR}  # and its nodes, below
_GRAPH = (BYTES, _message("GraphProto", GRAPH, deeper=1))
ATTRIBUTE = {5: _TENSOR, 6: _GRAPH, 10: _TENSOR, 11: _GRAPH, 22: _SPARSE_TENSOR, 23: _SPARSE_TENSOR}
NODE = {5: (BYTES, _message("AttributeProto", ATTRIBUTE)), 7: (BYTES, _standard_domain)}
GRAPH[1] = (BYTES, _message("NodeProto", NODE))
OPERATOR_SET = {1: (BYTES, _standard_domain)}
MODEL: dict[int, tuple[int, Check]] = {
    7: _GRAPH,
    8: (BYTES, _message("OperatorSetIdProto", OPERATOR_SET)),
    20: (BYTES, _refuse("it carries a training graph")),
    25: (BYTES, _refuse("it defines functions of its own")),
}
