"""The recipe's hash: it follows what deciding and training are made of, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from policy import recipe
from policy.recipe import PROJECT, recipe_files, recipe_hash


def names() -> set[str]:
    return {path.relative_to(PROJECT).as_posix() for path in recipe_files()}


def test_kernel_decision_path_and_training_are_covered() -> None:
    assert names() >= {
        "shared/simulation/kernel.py", "policy/decision_kernel.py", "policy/decision_path.py", "policy/inputs.py",
        "policy/signals.py", "policy/observation.py", "policy/env_kernel.py", "policy/trading_env.py",
        "policy/training.py", "policy/pathwise.py", "policy/policy_network.py", "policy/policy_export.py",
        "policy/risk/max_drawdown.py", "policy/strategies/drl.py",
    }  # fmt: skip


def test_what_only_shows_or_carries_is_not() -> None:
    for name in names():
        assert not name.startswith(("policy/report", "policy/charts", "policy/canaries", "policy/execution/sender"))
        assert name.startswith(("policy/", "shared/simulation/"))


@pytest.fixture
def copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project of three files: two that import each other's names, one apart."""
    for name, source in {
        "policy/__init__.py": "",
        "policy/a.py": "from policy.b import x\n",
        "policy/b.py": "x = 1\ndef f():\n    import policy.c\n",
        "policy/c.py": "",
        "policy/apart.py": "from policy.a import x\n",
        "shared/other.py": "",
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(source)
    monkeypatch.setattr(recipe, "PROJECT", tmp_path)
    monkeypatch.setattr(recipe, "BEGINNINGS", ("policy.a",))
    return tmp_path


def hashed() -> str:
    recipe_hash.cache_clear()
    try:
        return recipe_hash()
    finally:
        recipe_hash.cache_clear()


@pytest.mark.parametrize(
    ("changed", "other"),
    [("policy/a.py", True), ("policy/b.py", True), ("policy/c.py", True), ("policy/apart.py", False)],
)
def test_a_change_counts_where_imports_lead_to_it(copy: Path, changed: str, other: bool) -> None:
    before = hashed()
    (copy / changed).write_text((copy / changed).read_text() + "# changed\n")
    assert (hashed() != before) == other


def test_a_beginning_that_is_gone_is_named(copy: Path) -> None:
    (copy / "policy/a.py").unlink()
    with pytest.raises(FileNotFoundError, match=r"policy\.a is not a module"):
        recipe_files()
