"""What an evaluation is told apart by: its candles, settings, profile and code. Equal keys, equal numbers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from encoder.fingerprint import recipe_hash as encoder_recipe_hash
from pipeline.evaluation.plan import Fold, Profile
from pipeline.evaluation.sources import Source
from policy.recipe import recipe_hash
from shared.settings import PROJECT, Settings

# Beside the recipes of encoder and policy: what makes a fold's data and numbers. What only words them is left out.
CODE = (
    "encoder/inference.py", "encoder/model_card.py", "encoder/novelty.py", "encoder/run_encoder.py",
    "encoder/train_encoder.py", "meta_controller", "pipeline/evaluation/fold.py", "pipeline/evaluation/plan.py",
    "pipeline/evaluation/prepare.py", "pipeline/evaluation/trials.py", "policy/book.py", "policy/laboratory.py",
    "policy/policy_model.py", "policy/train_policy.py", "policy/weight_path.py",
)  # fmt: skip
SECTIONS = ("encoder", "policy", "execution", "risk")


def evaluation_key(source: Source, folds: Sequence[Fold], profile: Profile, settings: Settings) -> str:
    """sha256 of all that the numbers of a fold depend on."""
    digest = hashlib.sha256(recipe_hash().encode() + encoder_recipe_hash(settings.encoder.batch_size).encode())
    for path in _code():
        digest.update(path.relative_to(PROJECT).as_posix().encode() + path.read_bytes())
    asked = {section: getattr(settings, section).model_dump(mode="json") for section in SECTIONS}
    asked |= {"decision_timeframe_s": settings.universe.decision_timeframe_s, "profile": asdict(profile)}
    told = json.dumps([asked, [asdict(fold) for fold in folds]], sort_keys=True, default=str)
    digest.update(told.encode() + source.sha256().encode())
    return digest.hexdigest()


def _code() -> list[Path]:
    found: list[Path] = []
    for name in CODE:
        path = PROJECT / name
        found += sorted(path.rglob("*.py")) if path.is_dir() else [path]
    return found
