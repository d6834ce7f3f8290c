"""Scheduled jobs start light: training and plotting stay where they belong. And `make` lists every job."""

from __future__ import annotations

import subprocess
import sys

import pytest

from shared.settings import PROJECT

HEAVY = ("torch", "stable_baselines3", "gymnasium", "sqlalchemy", "numba", "pandas", "matplotlib", "pyarrow")
JOBS = ("policy.run_trader", "encoder.run_encoder", "meta_controller.run_metacontroller", "policy.execution.sender",
        "encoder.check_encoder", "encoder.retrain", "candles.backfill",
        "pipeline.schedule", "pipeline.status", "pipeline.operator", "shared.schema")  # fmt: skip
TARGETS = (
    "demo", "test", "check", "coverage", "bench", "db-up", "db-stop", "db-reset", "db-url", "db-psql",
    "db-apply-schema", "db-apply-schema-host", "infra-up", "infra-down", "backfill", "import-csv", "run-meta",
    "run-encoder", "train-encoder", "train-policy", "run-trader", "backtest", "schedule", "cron-print", "status",
    "features", "eval-encoder", "encoder-upgrade", "check-encoder", "retrain", "analogs", "export-embeddings",
    "scorecard", "assess-llm", "replay-llm", "probe-llm", "import-news", "import-onchain", "llm-emulator",
    "venv-meta", "venv-encoder", "venv-policy", "install-meta", "install-encoder", "install-policy",
)  # fmt: skip


def loaded_by(module: str) -> set[str]:
    """The top-level names of all that importing ``module`` loads."""
    code = f"import sys, {module}; print(*{{name.partition('.')[0] for name in sys.modules}})"
    run = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, check=True)
    return set(run.stdout.split())


@pytest.mark.parametrize("module", JOBS)
def test_a_scheduled_job_loads_nothing_heavy(module: str) -> None:
    loaded = loaded_by(module)
    assert "psycopg" in loaded
    assert loaded.isdisjoint(HEAVY), sorted(loaded & set(HEAVY))


def test_the_sender_loads_no_model_runtime_and_no_brain() -> None:
    """The brain holds no keys, and who will hold the keys has no brain."""
    assert loaded_by("policy.execution.sender").isdisjoint({"onnxruntime", "onnx", "encoder", "meta_controller"})


def make(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["make", "--no-print-directory", *arguments], cwd=PROJECT, capture_output=True, text=True, check=False
    )


def test_make_alone_lists_every_target_with_what_it_does() -> None:
    listing = make()
    assert listing.returncode == 0
    plain = listing.stdout.replace("\x1b[1m", "").replace("\x1b[0m", "")
    listed = {line.split()[0]: " ".join(line.split()[1:]) for line in plain.splitlines()}
    assert set(TARGETS) <= set(listed)
    assert all(listed.values())


@pytest.mark.parametrize("target", TARGETS)
def test_every_target_has_commands_that_make_can_read(target: str) -> None:
    """A dry run: nothing is started."""
    dry = make("--dry-run", target, "FILE=x.csv")
    assert dry.returncode == 0, dry.stderr
    assert dry.stdout.strip()


def test_every_module_that_make_starts_exists() -> None:
    started = {word for line in (PROJECT / "Makefile").read_text().splitlines() if "$(PY) -m " in line
               for word in [line.split("$(PY) -m ")[1].split()[0]] if "$" not in word}  # fmt: skip
    ours = {module for module in started if module not in ("pip", "pytest")}
    assert len(ours) >= 14
    for module in ours:
        path = PROJECT / module.replace(".", "/")
        assert path.with_suffix(".py").exists() or (path / "__main__.py").exists(), module
