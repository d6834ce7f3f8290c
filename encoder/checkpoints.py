"""Checkpoints of a training: weights and optimiser moments as safetensors, the rest as JSON; no pickle.

A checkpoint is one folder ``step-000000120`` with ``weights.safetensors`` and ``state.json``. It is written
under another name, synced and then renamed, so that a kill or a power cut at any moment leaves the one before;
the newest two are kept.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from shared.embedded_db_files import sync_directory

FORMAT = 1
KEPT = 2
DRAFT = ".draft"
WEIGHTS, STATE = "weights.safetensors", "state.json"

log = logging.getLogger("sextant.training")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Where a training stands: ``step`` steps done. ``state``: all of it that is JSON; ``tensors``: the rest.

    ``fingerprint`` names the training: data, settings and code.
    """

    step: int
    fingerprint: str
    state: Mapping[str, Any]
    tensors: Mapping[str, Tensor]


def write_checkpoint(directory: Path, checkpoint: Checkpoint) -> None:
    """Writes a checkpoint durably and removes all but the newest two. One writer a directory."""
    draft, final = directory / DRAFT, directory / f"step-{checkpoint.step:09d}"
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    weights = save({name: tensor.detach().cpu().contiguous() for name, tensor in checkpoint.tensors.items()})
    state = {
        "format": FORMAT,
        "step": checkpoint.step,
        "fingerprint": checkpoint.fingerprint,
        "weights_sha256": hashlib.sha256(weights).hexdigest(),
        "state": dict(checkpoint.state),
    }
    _write_synced(draft / WEIGHTS, weights)
    _write_synced(draft / STATE, json.dumps(state | {"checksum": _checksum(state)}, indent=1).encode())
    sync_directory(draft)
    shutil.rmtree(final, ignore_errors=True)  # of this step: damaged, or a training that began anew wrote it before
    draft.rename(final)
    sync_directory(directory)
    for old in sorted(_folders(directory))[:-KEPT]:
        shutil.rmtree(old, ignore_errors=True)


def read_checkpoint(directory: Path, fingerprint: str) -> Checkpoint | None:
    """The newest whole checkpoint of the training ``fingerprint``; None when there is none, with the reason logged."""
    checkpoint = newest_checkpoint(directory)
    if checkpoint is not None and checkpoint.fingerprint != fingerprint:
        log.warning(
            f"the checkpoint of step {checkpoint.step} in {directory} is of another training (other candles, settings "
            "or code); it is not used: training begins anew"
        )
        return None
    return checkpoint


def newest_checkpoint(directory: Path) -> Checkpoint | None:
    """The newest whole checkpoint of any training; a damaged one is logged and passed over."""
    for folder in sorted(_folders(directory), reverse=True):
        try:
            return _read(folder)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:
            log.warning(f"checkpoint {folder} is damaged ({error}); the one before is used, if there is one")
    return None


def remove_checkpoints(directory: Path) -> None:
    """Forgets the training; nothing else in the directory is touched."""
    for folder in [*_folders(directory), directory / DRAFT]:
        shutil.rmtree(folder, ignore_errors=True)


def _folders(directory: Path) -> Iterator[Path]:
    return directory.glob("step-" + "[0-9]" * 9)


def _read(folder: Path) -> Checkpoint:
    stored = json.loads((folder / STATE).read_bytes())
    if stored.pop("checksum") != _checksum(stored):
        raise ValueError(f"{STATE} does not have the checksum that was stored with it")
    if stored["format"] != FORMAT:
        raise ValueError(f"{STATE} has format {stored['format']}, this program reads {FORMAT}")
    weights = (folder / WEIGHTS).read_bytes()
    if hashlib.sha256(weights).hexdigest() != stored["weights_sha256"]:
        raise ValueError(f"{WEIGHTS} does not have the hash that was stored with it")
    return Checkpoint(stored["step"], stored["fingerprint"], stored["state"], load(weights))


def _checksum(state: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()


def _write_synced(path: Path, content: bytes) -> None:
    with path.open("wb") as sink:
        sink.write(content)
        sink.flush()
        os.fsync(sink.fileno())
