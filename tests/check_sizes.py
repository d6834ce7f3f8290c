"""No function over 60 lines, no file over 400: a reader must be able to hold one in mind."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

MAX_FUNCTION, MAX_FILE = 60, 400


def too_long(path: Path) -> list[str]:
    text = path.read_text(encoding="utf-8")
    lines = text.count("\n")
    found = [f"{path}: {lines} lines (at most {MAX_FILE})"] if lines > MAX_FILE else []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            if length > MAX_FUNCTION:
                found.append(f"{path}:{node.lineno} {node.name}: {length} lines (at most {MAX_FUNCTION})")
    return found


def main() -> int:
    listed = subprocess.run(["git", "ls-files", "*.py"], capture_output=True, text=True, check=False).stdout.split()
    files = [Path(name) for name in listed if Path(name).exists()]
    found = [line for path in files for line in too_long(path)]
    print("\n".join(found) or f"sizes: {len(files)} files, none too long")
    return 1 if found or not files else 0


if __name__ == "__main__":
    sys.exit(main())
