"""Checkpoints of a training: one file of tensors and JSON (safetensors, no pickle), replaced as a whole.

It is written under another name, synced and renamed, so that a kill or a power cut at any moment leaves the one before.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from shared.embedded_db_files import sync_directory

FORMAT = 1
ABOUT = "about.json"  # a tensor of bytes among the others

log = logging.getLogger("sextant.training")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Where a training stands. ``state``: all of it that is JSON; ``tensors``: the rest. ``fingerprint`` names the
    training: data, plan, seed and code."""

    fingerprint: str
    state: Mapping[str, Any]
    tensors: Mapping[str, Tensor]


def write_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Replaces the checkpoint at ``path``, durably. One writer a path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.detach().contiguous().clone() for name, tensor in checkpoint.tensors.items()}
    about = {
        "format": FORMAT,
        "fingerprint": checkpoint.fingerprint,
        "state": dict(checkpoint.state),
        "sha256": _digest(tensors),
    }
    text = np.frombuffer(json.dumps(about).encode(), dtype=np.uint8).copy()
    draft = path.with_suffix(".draft")
    with draft.open("wb") as sink:
        sink.write(save(tensors | {ABOUT: torch.from_numpy(text)}))
        sink.flush()
        os.fsync(sink.fileno())
    draft.rename(path)
    sync_directory(path.parent)


def read_checkpoint(path: Path, fingerprint: str) -> Checkpoint | None:
    """The checkpoint of the training ``fingerprint``; None when there is none to go on from, with the reason logged."""
    if not path.exists():
        return None
    try:
        checkpoint = _read(path)
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        log.warning(f"checkpoint {path} is damaged ({error}); training begins anew")
        return None
    if checkpoint.fingerprint != fingerprint:
        log.warning(f"checkpoint {path} is of another training (other data, plan or code); training begins anew")
        return None
    return checkpoint


def _read(path: Path) -> Checkpoint:
    tensors = load(path.read_bytes())
    about = json.loads(tensors.pop(ABOUT).numpy().tobytes())
    if about["format"] != FORMAT:
        raise ValueError(f"it has format {about['format']}, this program reads {FORMAT}")
    if about["sha256"] != _digest(tensors):
        raise ValueError("its tensors do not have the hash that was stored with them")
    return Checkpoint(about["fingerprint"], about["state"], tensors)


def _digest(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode() + tensors[name].numpy().tobytes())
    return digest.hexdigest()


def training_tensors(parameters: Mapping[str, Tensor], optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The parameters, and what an Adam has stored for each."""
    tensors = dict(parameters)
    for name, parameter in parameters.items():
        for kind, value in optimizer.state.get(parameter, {}).items():
            tensors[f"{kind} {name}"] = value
    return tensors


def restore_training(
    parameters: Mapping[str, Tensor], optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]
) -> None:
    """Puts back what ``training_tensors`` took."""
    moments: dict[int, dict[str, Tensor]] = {}
    for k, (name, parameter) in enumerate(parameters.items()):
        parameter.data.copy_(tensors[name])
        kinds = {kind: f"{kind} {name}" for kind in ("step", "exp_avg", "exp_avg_sq")}
        moments[k] = {kind: tensors[key].clone() for kind, key in kinds.items() if key in tensors}
    groups = optimizer.state_dict()["param_groups"]
    state = {k: moment for k, moment in moments.items() if moment}
    optimizer.load_state_dict({"state": state, "param_groups": groups})
