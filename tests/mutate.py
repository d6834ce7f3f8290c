"""Breaks policy/risk, a line at a time, and counts what no test notices: `python -m tests.mutate [FILE …]`.

Each mutant is one changed operator, comparison, constant, `min` for `max`, statement left out or return without a
value, in a copy of the code; the tests of the rules run on it until the first failure. Exits 1 for a survivor that is
not in EXPLAINED. Tests run in forks of a process that has imported the libraries already: a mutant costs seconds.
"""

from __future__ import annotations

import ast
import importlib
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CODE = "policy/risk"
COPIED = ("policy", "shared", "tests", "sql", "config", "pyproject.toml")
LIBRARIES = ("hypothesis", "numpy", "psycopg", "pydantic_settings", "pytest", "scipy.stats", "shared.schema",
             "shared.embedded_db", "shared.settings", "shared.simulation.kernel")  # fmt: skip
TESTS = ("tests/policy/test_risk_limits.py", "tests/policy/test_risk_stops.py", "tests/policy/test_risk_history.py",
         "tests/policy/test_symbol_limit.py", "tests/contracts/test_risk_rules.py")  # fmt: skip
WORKERS, LIMIT_S, EXAMPLES = 2, 120, 25
Change = Callable[[], None]

SWAPS: dict[type[ast.AST], tuple[type[ast.AST], ...]] = {
    ast.Add: (ast.Sub,), ast.Sub: (ast.Add,), ast.Mult: (ast.Div,), ast.Div: (ast.Mult,), ast.FloorDiv: (ast.Mult,),
    ast.Lt: (ast.LtE, ast.Gt), ast.LtE: (ast.Lt, ast.Gt), ast.Gt: (ast.GtE, ast.Lt), ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,), ast.NotEq: (ast.Eq,), ast.And: (ast.Or,), ast.Or: (ast.And,), ast.BitAnd: (ast.BitOr,),
    ast.BitOr: (ast.BitAnd,), ast.USub: (ast.UAdd,), ast.Not: (ast.UAdd,),
}  # fmt: skip
CALLS = {"min": "max", "max": "min", "all": "any", "any": "all", "maximum": "minimum", "minimum": "maximum"}

# Survivors that are no faults: "file: line as mutated" -> why no test can tell.
MASKED = "what stands where the pair is not known is not returned"
AT_THE_LIMIT = "exactly at the limit the factor is 1"
EXPLAINED: dict[str, str] = {
    "__init__.py: if False:": "only saves the work of explaining what was not cut",
    "__init__.py: for n in (allowed < proposed).nonzero()[-1]:": "of one dimension the first index is the last",
    "balance.py: if entries < affordable + ROUNDING:": "a difference of one rounding in ROUNDING",
    "heat.py: if heat < context.rules.max_heat:": AT_THE_LIMIT,
    "history.py: def __init__(self, closes, stride, first=1):": "the first row has no day before it",
    "history.py: def __init__(self, closes, stride, first=-1):": "the last row is looked at twice",
    "history.py: if len(closes) < reach:": "exactly so many closes fill no row",
    "history.py: count = np.where(enough, days, 0.0)": MASKED,
    "history.py: count = np.where(enough, days, 2.0)": MASKED,
    "history.py: scale = np.sqrt(np.where(both, spread * spread.T, 0.0))": MASKED,
    "history.py: scale = np.sqrt(np.where(both, spread * spread.T, 2.0))": MASKED,
    "history.py: moves = enough & (spread >= SMALLEST_SPREAD * squares)": "only where both are 0, and 0 / 0 is unknown",
    "history.py: return np.where(both, np.clip(between, -1.0, 2.0), np.nan)": "above 1 by rounding only",
    "history.py: return np.where(both, np.clip(between, -2.0, 1.0), np.nan)": "below -1 by rounding only",
    "history.py: return correlations(self._window(np.array([row]), CORRELATION_DAYS)[:, -1])": "of one row",
    "history.py: whole = (days == VAR_DAYS).all(axis=+1, keepdims=True)": "the last of two dimensions",
    "history.py: return PortfolioHistory(CloseHistory(np.full((1, n), np.nan), 1), -1)": "the only row",
    "history.py: return PortfolioHistory(CloseHistory(np.full((1, n), np.nan), 2), 0)": "one row, whatever the stride",
    "max_exposure.py: if False:": "the minimum leaves what is within the limit",
    "max_exposure.py: pass": "the minimum leaves what is within the limit",
    "max_exposure.py: if total < context.max_exposure:": AT_THE_LIMIT,
    "max_leverage.py: if total < context.rules.max_leverage * (1.0 + ROUNDING):": "a difference of one rounding",
    "out_of_distribution.py: if context.ood[n] >= FROM:": AT_THE_LIMIT,
    "value_at_risk.py: if worst[beyond] >= rules.max_value_at_risk:": AT_THE_LIMIT,
    "value_at_risk.py: if shortfall * share >= rules.max_cvar:": AT_THE_LIMIT,
    "value_at_risk.py: while k > 0 and worst[k - 1] <= loss:": "equal losses in either order",
    "history.py: CHUNK = 511": "how much is looked at together is a matter of memory",
    "history.py: CHUNK = 513": "how much is looked at together is a matter of memory",
    "correlated_exposure.py: if total < limit:": AT_THE_LIMIT,
    "context.py: if by_range >= distance:": "of two equal distances either is the wider",
    "concentration.py: if squares < context.rules.max_concentration:": AT_THE_LIMIT,
}


@dataclass(frozen=True, slots=True)
class Mutant:
    """One change: ``line`` of ``file``, its text before and after, and the whole source afterwards."""

    file: str
    line: int
    before: str
    after: str
    source: str

    @property
    def key(self) -> str:
        return f"{self.file}: {self.after}"


def mutants_of(file: str) -> Iterator[Mutant]:
    """Every mutant of one file; docstrings and annotations are left alone."""
    source = (ROOT / CODE / file).read_text()
    count = sum(1 for _ in _changes(_parsed(source)))
    plain = ast.unparse(_parsed(source)).splitlines()
    for k in range(count):
        tree = _parsed(source)
        for at, (node, change) in enumerate(_changes(tree)):
            if at == k:
                line = getattr(node, "lineno", 0)
                change()
                break
        changed = ast.unparse(ast.fix_missing_locations(tree))
        pairs = [pair for pair in zip(plain, changed.splitlines(), strict=False) if pair[0] != pair[1]]
        if pairs:
            yield Mutant(file, line, pairs[0][0].strip(), pairs[0][1].strip(), changed)


def _parsed(source: str) -> ast.Module:
    """Without annotations of arguments and results: no test could see them changed."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            node.returns = None
        if isinstance(node, ast.arg):
            node.annotation = None
    return tree


def _changes(tree: ast.AST) -> Iterator[tuple[ast.AST, Change]]:
    """(where, what makes the change) for each that there is."""
    kinds = [part for node in ast.walk(tree) for part in getattr(node, "decorator_list", ())]
    kinds += [node.annotation for node in ast.walk(tree) if isinstance(node, ast.AnnAssign)]
    untouched = {id(part) for kind in kinds for part in ast.walk(kind)}  # how a class is made is no rule
    for node in ast.walk(tree):
        if id(node) in untouched:
            continue
        yield from _operator_changes(node)
        if isinstance(node, ast.Constant) and type(node.value) in (int, float, bool):
            yield from _constant_changes(node)
        if isinstance(node, ast.Call):
            yield from _call_changes(node)
        for body in (getattr(node, name, None) for name in ("body", "orelse")):
            if isinstance(body, list) and not isinstance(node, ast.Module | ast.ClassDef):
                yield from _statement_changes(body)


def _set(node: ast.AST, name: str, value: object) -> Change:
    return lambda: setattr(node, name, value)


def _operator_changes(node: ast.AST) -> Iterator[tuple[ast.AST, Change]]:
    if isinstance(node, ast.BinOp | ast.AugAssign | ast.BoolOp | ast.UnaryOp):
        for other in SWAPS.get(type(node.op), ()):
            yield node, _set(node, "op", other())
    if isinstance(node, ast.Compare):
        for k, operator in enumerate(node.ops):
            for other in SWAPS.get(type(operator), ()):
                yield node, _set(node, "ops", [*node.ops[:k], other(), *node.ops[k + 1 :]])
    if isinstance(node, ast.If | ast.IfExp | ast.While):
        yield node, _set(node, "test", ast.Constant(False))
        if not isinstance(node, ast.While):
            yield node, _set(node, "test", ast.Constant(True))


def _constant_changes(node: ast.Constant) -> Iterator[tuple[ast.AST, Change]]:
    if isinstance(node.value, bool):
        yield node, _set(node, "value", not node.value)
    elif isinstance(node.value, int | float):
        yield node, _set(node, "value", node.value + 1)
        yield node, _set(node, "value", node.value - 1)


def _call_changes(node: ast.Call) -> Iterator[tuple[ast.AST, Change]]:
    name = node.func
    if isinstance(name, ast.Name) and name.id in CALLS:
        yield node, _set(name, "id", CALLS[name.id])
    if isinstance(name, ast.Attribute) and name.attr in CALLS:
        yield node, _set(name, "attr", CALLS[name.attr])
    if isinstance(name, ast.Name) and name.id == "abs":
        yield node, _set(name, "id", "float")


def _statement_changes(body: list[ast.stmt]) -> Iterator[tuple[ast.AST, Change]]:
    """A statement that does something, left out; a returned value, forgotten."""
    for k, statement in enumerate(body):
        if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
            continue
        if isinstance(statement, ast.Return) and statement.value is not None:
            yield statement, _set(statement, "value", ast.Constant(None))
        elif isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name | ast.Tuple):
            continue  # a name that is not there is noticed
        elif isinstance(statement, ast.Assign | ast.AugAssign | ast.Return | ast.Continue | ast.Break | ast.Expr):
            yield statement, _left_out(body, k)


def _left_out(body: list[ast.stmt], k: int) -> Change:
    def change() -> None:
        body[k] = ast.Pass()

    return change


# ── running ──────────────────────────────────────────────────────────────────────────────────────────────────
_copy = Path()


def _prepare(directory: str) -> None:
    """A worker: its own copy of the code, and the libraries imported once."""
    global _copy
    _copy = Path(tempfile.mkdtemp(dir=directory))
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, _copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(source, _copy / name)
    os.chdir(_copy)
    sys.path[:] = [str(_copy), *(path for path in sys.path if path not in ("", str(ROOT)))]
    for module in [name for name in sys.modules if name.partition(".")[0] in ("policy", "shared", "tests")]:
        if module != "__mp_main__":
            del sys.modules[module]
    for module in LIBRARIES:
        importlib.import_module(module)


def survives(mutant: Mutant | None) -> bool:
    """Whether every test passes on it; None: the code as it is. One that runs too long does not."""
    if mutant is not None:
        (_copy / CODE / mutant.file).write_text(mutant.source)
    try:
        return _passes()
    finally:
        if mutant is not None:
            shutil.copy2(ROOT / CODE / mutant.file, _copy / CODE / mutant.file)


def _passes() -> bool:
    pid = os.fork()
    if pid == 0:
        silence = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silence, 1)
        os.dup2(silence, 2)
        sys.dont_write_bytecode = True
        import hypothesis
        import pytest

        hypothesis.settings.register_profile("mutate", max_examples=EXAMPLES, derandomize=True, database=None,
                                             deadline=None)  # fmt: skip
        hypothesis.settings.load_profile("mutate")
        os._exit(int(pytest.main(["-x", "-q", "-p", "no:cacheprovider", "--tb=no", "--assert=plain", *TESTS])))
    until = time.monotonic() + LIMIT_S
    while time.monotonic() < until:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status) == 0
        time.sleep(0.02)
    os.kill(pid, 9)
    os.waitpid(pid, 0)
    return False


def main(files: list[str]) -> int:
    names = files or sorted(path.name for path in (ROOT / CODE).glob("*.py"))
    mutants = [mutant for name in names for mutant in mutants_of(name)]
    with tempfile.TemporaryDirectory(prefix="sextant-mutants-") as directory:
        pool = ProcessPoolExecutor(WORKERS, get_context("fork"), _prepare, (directory,))
        with pool:
            if not pool.submit(survives, None).result():
                print("the tests fail on the code as it is: mend that first")
                return 1
            found = []
            for mutant, survived in zip(mutants, pool.map(survives, mutants), strict=True):
                if survived:
                    found.append(mutant)
                    why = EXPLAINED.get(mutant.key, "NOT EXPLAINED")
                    print(
                        f"survivor {mutant.file}:{mutant.line}: {mutant.before}  ->  {mutant.after}  [{why}]",
                        flush=True,
                    )
    unexplained = sum(mutant.key not in EXPLAINED for mutant in found)
    print(
        f"{len(mutants)} mutants, {len(mutants) - len(found)} killed, {len(found)} survived, {unexplained} unexplained"
    )
    return int(unexplained > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
