"""The hashes that a decision carries: of the code that runs, and of what it was told."""

from __future__ import annotations

import shutil
from pathlib import Path

from shared.settings import PROJECT, RiskSettings, Settings
from shared.version import CODE, code_version, settings_hash


def test_every_source_counts_and_nothing_else(tmp_path: Path) -> None:
    for name in ("policy/risk", "shared", "sql/queries", "docs", "tests"):
        (tmp_path / name).mkdir(parents=True)
    files = {"policy/risk/heat.py": "a", "shared/db.py": "b", "sql/queries/policy.sql": "c"}
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    first = code_version(tmp_path)
    (tmp_path / "docs/policy.md").write_text("words")
    (tmp_path / "tests/test_policy.py").write_text("tests")
    (tmp_path / "policy/notes.txt").write_text("words")
    assert code_version(tmp_path) == first
    for name, text in files.items():
        (tmp_path / name).write_text(text + "!")
        assert code_version(tmp_path) != first
        (tmp_path / name).write_text(text)
    assert code_version(tmp_path) == first
    (tmp_path / "shared/db.py").rename(tmp_path / "shared/database.py")
    assert code_version(tmp_path) != first


def test_a_copy_of_the_code_is_the_same_code(tmp_path: Path) -> None:
    for name in ("policy", "shared", "sql"):
        shutil.copytree(PROJECT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    assert code_version(tmp_path) == CODE == code_version(PROJECT)


def test_what_decides_and_limits_orders_counts_and_addresses_do_not(settings: Settings) -> None:
    told = settings_hash(settings)
    stricter = settings.model_copy(update={"risk": RiskSettings(max_leverage=0.5)})
    faster = settings.model_copy(update={"execution": settings.execution.model_copy(update={"delay_s": 1})})
    slower = settings.model_copy(update={"universe": settings.universe.model_copy(update={"decision_timeframe": "4h"})})
    assert len({told, *map(settings_hash, (stricter, faster, slower))}) == 4
    elsewhere = settings.universe.model_copy(update={"venue": "other", "symbols": ("AAA/USDT",)})
    assert settings_hash(settings.model_copy(update={"db_name": "other", "universe": elsewhere})) == told
