"""docs/faults.md names a test for each of the 65 faults, and each of those tests exists."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

from shared.settings import PROJECT

ROW = re.compile(r"^\| (\d+) \| ([^|]+) \| ([^|]+) \| ([^|]+) \|$")
REFERENCE = re.compile(r"`(tests/[\w/]+\.py)::(test_\w+)`")
DOCUMENT = (PROJECT / "docs" / "faults.md").read_text(encoding="utf-8")
ROWS = {int(m[1]): m for line in DOCUMENT.splitlines() if (m := ROW.match(line))}


@cache
def functions_in(path: Path) -> frozenset[str]:
    """Functions that pytest would find: of the module, and of its classes."""
    if not path.exists():
        return frozenset()
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return frozenset(node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def test_every_fault_has_its_row_in_order() -> None:
    assert list(ROWS) == list(range(1, 66))
    assert len(re.findall(r"^\| \d", DOCUMENT, re.MULTILINE)) == 65, "a row is there twice, or is not a row"


@pytest.mark.parametrize("number", ROWS)
def test_the_tests_of_a_fault_exist(number: int) -> None:
    references = REFERENCE.findall(ROWS[number][4])
    assert references, "a fault without a test"
    assert REFERENCE.sub("", ROWS[number][4]).replace(",", "").strip() == "", "something else than tests"
    assert [f"{path}::{name}" for path, name in references if name not in functions_in(PROJECT / path)] == []
