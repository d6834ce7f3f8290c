"""The cache of compiled functions: what is found there is what would be compiled anew, or nothing is found."""

from __future__ import annotations

import importlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from shared.settings import PROJECT, HomeSettings
from shared.simulation import compilation
from shared.simulation.compilation import CompilationError, chain, compile_functions

Write = Callable[[str, str], ModuleType]


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of this test's own."""
    path = tmp_path / "compiled"
    path.mkdir()
    monkeypatch.setattr(compilation, "_root", lambda: path)
    return path


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Write]:
    """Writes a module, and imports it as it is now, however often it was imported before."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # Python's own cache looks at whole seconds
    written = set()

    def write_module(name: str, source: str) -> ModuleType:
        (tmp_path / f"{name}.py").write_text(source)
        written.add(name)
        sys.modules.pop(name, None)
        importlib.invalidate_caches()
        return importlib.import_module(name)

    yield write_module
    for name in written:
        sys.modules.pop(name, None)


def keys(root: Path) -> set[str]:
    return {path.name for path in root.iterdir()}


DOUBLE = "FACTOR = {factor}\ndef scale(x):\n    return x * FACTOR\n"
CALLER = "from inner import scale\ndef twice(x):\n    return scale(scale(x))\n"


def test_a_function_calls_the_compiled_form_of_what_it_calls(root: Path, write: Write) -> None:
    inner = compile_functions(write("inner", DOUBLE.format(factor=2.0)), ["scale"])
    outer = compile_functions(
        write("outer", CALLER.replace("scale(", "s(").replace("scale", "scale as s")), ["twice"], inner
    )
    assert outer["twice"](3.0) == 12.0
    assert outer["twice"].signatures


def test_what_a_function_reads_and_calls_is_part_of_its_key(root: Path, write: Write) -> None:
    for factor, result in ((2.0, 4.0), (3.0, 9.0), (2.0, 4.0)):
        inner = compile_functions(write("inner", DOUBLE.format(factor=factor)), ["scale"])
        outer = compile_functions(write("outer", CALLER), ["twice"], inner)
        assert outer["twice"](1.0) == result
    assert len(keys(root)) == 4, "two of each; the third round found those of the first"


@pytest.mark.parametrize(
    "value", ["np.array([{0}.0])", "({0}, (1, 'a'))", "np.float64({0}.0)", "'{0}'", "True if {0} > 1 else None"]
)
def test_every_kind_of_constant_counts(root: Path, write: Write, value: str) -> None:
    for n in (1, 2):
        module = write("constants", f"import numpy as np\nVALUE = {value.format(n)}\ndef f(x):\n    return VALUE, x\n")
        compile_functions(module, ["f"])
    assert len(keys(root)) == 2


def test_a_literal_counts(root: Path, write: Write) -> None:
    for n in (1, 2):
        compile_functions(write("literal", f"def f(x):\n    return x + {n}.0\n"), ["f"])
    assert len(keys(root)) == 2


def test_a_comment_does_not_count(root: Path, write: Write) -> None:
    compile_functions(write("inner", DOUBLE.format(factor=2.0)), ["scale"])
    compile_functions(write("inner", "# a comment\n" + DOUBLE.format(factor=2.0)), ["scale"])
    assert len(keys(root)) == 1


def test_functions_of_the_same_text_in_two_modules_are_two(root: Path, write: Write) -> None:
    inner = write("inner", DOUBLE.format(factor=2.0)), write("other", DOUBLE.format(factor=3.0))
    compiled = {f"{m.__name__}.scale": compile_functions(m, ["scale"])["scale"] for m in inner}
    imports = "from inner import scale as by_two\nfrom other import scale\n"
    caller = imports + "def f(x):\n    return scale(by_two(x)) + by_two(x)\n"
    assert compile_functions(write("caller", caller), ["f"], compiled)["f"](1.0) == 8.0


@pytest.mark.parametrize(
    ("source", "culprit"),
    [
        ("VALUE = [1.0]\ndef f(x):\n    return x + VALUE[0]\n", "VALUE"),
        ("VALUE = ({},)\ndef f(x):\n    return VALUE\n", "VALUE"),
        ("def helper(x):\n    return x\ndef f(x):\n    return helper(x)\n", "helper"),
        ("from shared.simulation import kernel\ndef f(x):\n    return kernel.round_money(x)\n", "kernel"),
        ("def f(x):\n    return unknown(x)\n", "unknown"),
        ("def outer(y):\n    def f(x):\n        return x + y\n    return f\nf = outer(1.0)\n", "closure"),
        ("def f(x, *, y=1.0):\n    return x + y\n", "keyword-only"),
    ],
)
def test_what_the_key_does_not_cover_is_refused(root: Path, write: Write, source: str, culprit: str) -> None:
    with pytest.raises(CompilationError, match=culprit):
        compile_functions(write("uncovered", source), ["f"])


def test_allocates_names_only_what_is_compiled(root: Path, write: Write) -> None:
    with pytest.raises(CompilationError, match="scael"):
        compile_functions(write("inner", DOUBLE.format(factor=2.0)), ["scale"], allocates=["scael"])


# ── chains ───────────────────────────────────────────────────────────────────────────────────────────────────
RULES = """
def add_one(values, unused):
    for n in range(len(values)):
        values[n] += 1.0

def double(values, unused):
    for n in range(len(values)):
        values[n] *= 2.0
"""


def test_a_chain_calls_each_in_order_and_another_order_is_another_chain(root: Path, write: Write) -> None:
    rules = compile_functions(write("rules", RULES), ["add_one", "double"])
    one, two = rules["add_one"], rules["double"]
    for order, result in (([one, two], 8.0), ([two, one], 7.0), ([one, two, one], 9.0), ([two], 6.0)):
        values = np.full(2, 3.0)
        chain(order)(values, 0)
        assert values.tolist() == [result, result]


@pytest.mark.parametrize("length", [4, 12, 19])  # 12: links of 5, 5 and 2, called by one of 3; 19: of 5, 5, 5 and 4
def test_a_long_chain_leaves_none_out_and_keeps_their_order(root: Path, write: Write, length: int) -> None:
    module = write("rules", RULES)
    rules = compile_functions(module, ["add_one", "double"])
    names = [("add_one", "double")[(n * n // 3) % 2] for n in range(length)]
    values, plain = np.full(1, 3.0), np.full(1, 3.0)
    chain([rules[name] for name in names])(values, 0)
    for name in names:
        getattr(module, name)(plain, 0)
    assert values.tolist() == plain.tolist()


def test_a_chain_takes_the_place_of_a_loop_over_a_registry(root: Path, write: Write) -> None:
    rules = compile_functions(write("rules", RULES), ["add_one", "double"])
    loop = "def limit(values, unused):\n    for rule in (add_one, double):\n        rule(values, unused)\n"
    module = write(
        "user",
        "from rules import add_one, double\n"
        + loop
        + "def both(values):\n    limit(values, 0)\n    return values[0]\n",
    )
    both = compile_functions(module, ["both"], replace={"limit": chain(list(rules.values()))})["both"]
    assert both(np.array([3.0])) == module.both(np.array([3.0])) == 8.0


def test_a_cache_that_was_tidied_away_is_made_again(root: Path, write: Write) -> None:
    scale = compile_functions(write("inner", DOUBLE.format(factor=2.0)), ["scale"])["scale"]
    shutil.rmtree(root)
    assert scale(1.0) == 2.0
    assert list(root.rglob("*.nbc"))


def test_a_chain_is_of_compiled_functions_and_not_empty(root: Path, write: Write) -> None:
    with pytest.raises(ValueError, match="empty chain"):
        chain([])
    with pytest.raises(CompilationError, match="add_one"):
        chain([write("rules", RULES).add_one])


# ── other processes ──────────────────────────────────────────────────────────────────────────────────────────
def run_python(home: Path, code: str) -> str:
    environment = {"SEXTANT_HOME": f"{home}/data", "PYTHONPATH": f"{PROJECT}:{home}", "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_named_tuples_whose_fields_changed_places_are_not_confused(tmp_path: Path) -> None:
    (tmp_path / "reader.py").write_text("def read(p):\n    return p.a\n")
    code = (
        "import reader, point; from shared.simulation.compilation import compile_functions as c; "
        "f = c(reader, ['read'])['read']; print(f(point.P(a=1.0, b=2.0)), sum(f.stats.cache_hits.values()))"
    )
    told = []
    for fields in ("a: float\n    b: float", "b: float\n    a: float", "a: float\n    b: float"):
        (tmp_path / "point.py").write_text(f"from typing import NamedTuple\nclass P(NamedTuple):\n    {fields}\n")
        told.append(run_python(tmp_path, code))
    assert told == ["1.0 0", "1.0 0", "1.0 1"]


# ── where it lies ────────────────────────────────────────────────────────────────────────────────────────────
def test_the_cache_lies_at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEXTANT_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("SEXTANT_MISSPELT", "does not matter here")
    assert HomeSettings().home_path == tmp_path / "home"
    assert compilation._root.__wrapped__() == tmp_path / "home" / "compiled"


@pytest.mark.parametrize("taken", [False, True])
def test_where_home_cannot_be_written_it_is_a_directory_that_only_we_may_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, taken: bool
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("SEXTANT_HOME", str(tmp_path / "file" / "home"))
    monkeypatch.setattr(compilation.tempfile, "tempdir", str(tmp_path))
    usual = tmp_path / f"sextant-compiled-{os.getuid()}"
    if taken:
        usual.mkdir()
        usual.chmod(0o777)
    found: Any = compilation._root.__wrapped__()
    assert (found == usual) is not taken
    assert found.stat().st_mode & 0o022 == 0


def test_what_is_found_in_the_cache_counts_as_used(root: Path, write: Write) -> None:
    module = write("inner", DOUBLE.format(factor=2.0))
    compile_functions(module, ["scale"])
    (directory,) = root.iterdir()
    os.utime(directory, (0, 0))
    compile_functions(module, ["scale"])
    assert directory.stat().st_mtime > 0


def test_what_was_not_used_for_longest_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEXTANT_HOME", str(tmp_path))
    monkeypatch.setattr(compilation, "KEPT", 2)
    for n, name in enumerate(("new", "oldest", "old")):
        path = tmp_path / "compiled" / name
        path.mkdir(parents=True)
        os.utime(path, (0, (3, 1, 2)[n]))
    compilation._root.__wrapped__()
    assert keys(tmp_path / "compiled") == {"new", "old"}
