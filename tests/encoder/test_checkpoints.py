"""A checkpoint is whole or it is not there, whatever is killed and whenever."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from encoder import checkpoints
from encoder.checkpoints import (
    STATE,
    WEIGHTS,
    Checkpoint,
    newest_checkpoint,
    read_checkpoint,
    remove_checkpoints,
    write_checkpoint,
)


def at(step: int, fingerprint: str = "this one") -> Checkpoint:
    tensors = {"encoder.weight": torch.full((3, 4), step / 7), "exp_avg encoder.weight": torch.randn(3, 4)}
    return Checkpoint(step, fingerprint, {"steps": 9, "losses": [[0.1, step / 3]], "minutes": None}, tensors)


def folder(directory: Path, step: int) -> Path:
    return directory / f"step-{step:09d}"


def same(one: Checkpoint | None, other: Checkpoint) -> bool:
    if one is None or (one.step, one.fingerprint, one.state) != (other.step, other.fingerprint, other.state):
        return False
    return one.tensors.keys() == other.tensors.keys() and all(
        torch.equal(one.tensors[name], other.tensors[name]) for name in other.tensors
    )


def test_what_was_written_comes_back_to_the_bit_and_without_pickle(tmp_path: Path) -> None:
    written = at(3)
    write_checkpoint(tmp_path / "a" / "b", written)
    assert same(read_checkpoint(tmp_path / "a" / "b", "this one"), written)
    assert sorted(p.name for p in folder(tmp_path / "a" / "b", 3).iterdir()) == [STATE, WEIGHTS]
    assert json.loads((folder(tmp_path / "a" / "b", 3) / STATE).read_text())["step"] == 3


def test_nothing_written_nothing_read(tmp_path: Path) -> None:
    assert newest_checkpoint(tmp_path / "not there") is None
    assert read_checkpoint(tmp_path, "this one") is None


def test_the_newest_two_are_kept_and_the_newest_is_read(tmp_path: Path) -> None:
    for step in (2, 10, 100, 1000):
        write_checkpoint(tmp_path, at(step))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-000000100", "step-000001000"]
    newest = newest_checkpoint(tmp_path)
    assert newest is not None
    assert newest.step == 1000


def test_removing_leaves_what_is_not_a_checkpoint(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, at(1))
    (tmp_path / checkpoints.DRAFT).mkdir()
    (tmp_path / "step-by-step.txt").touch()
    remove_checkpoints(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["step-by-step.txt"]
    remove_checkpoints(tmp_path / "not there")


def test_a_checkpoint_of_another_training_is_not_used_and_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_checkpoint(tmp_path, at(5, "another one"))
    with caplog.at_level(logging.WARNING, "sextant.training"):
        assert read_checkpoint(tmp_path, "this one") is None
    assert "begins anew" in caplog.text
    assert "step 5" in caplog.text
    newest = newest_checkpoint(tmp_path)
    assert newest is not None  # reading removed nothing
    assert newest.fingerprint == "another one"


def flip(path: Path, at: int) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(bytes(content))


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


DAMAGES: dict[str, Callable[[Path], object]] = {
    "a bit of the weights": lambda f: flip(f / WEIGHTS, -3),  # inside a number: safetensors alone would not notice
    "a bit of their header": lambda f: flip(f / WEIGHTS, 12),
    "a bit of the state": lambda f: flip(f / STATE, 100),
    "the end of the weights": lambda f: (f / WEIGHTS).write_bytes((f / WEIGHTS).read_bytes()[:-1]),
    "the end of the state": lambda f: (f / STATE).write_bytes((f / STATE).read_bytes()[:-9]),
    "no weights": lambda f: (f / WEIGHTS).unlink(),
    "no state": lambda f: (f / STATE).unlink(),
    "nothing in the weights": lambda f: (f / WEIGHTS).write_bytes(b""),
    "another step": lambda f: edit(f / STATE, step=8),
    "a state that is no object": lambda f: (f / STATE).write_text("7"),
    "an empty state": lambda f: (f / STATE).write_text("{}"),
    "a folder in the file's place": lambda f: ((f / STATE).unlink(), (f / STATE).mkdir()),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_of_a_damaged_checkpoint_the_one_before_is_used(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    before = at(4)
    write_checkpoint(tmp_path, before)
    write_checkpoint(tmp_path, at(6))
    DAMAGES[damage](folder(tmp_path, 6))
    with caplog.at_level(logging.WARNING, "sextant.training"):
        assert same(read_checkpoint(tmp_path, "this one"), before)
    assert "step-000000006 is damaged" in caplog.text
    again = at(6)  # the training comes by there once more
    write_checkpoint(tmp_path, again)
    assert same(read_checkpoint(tmp_path, "this one"), again)
    for step in (4, 6):
        DAMAGES[damage](folder(tmp_path, step))
    assert newest_checkpoint(tmp_path) is None


def test_a_format_of_tomorrow_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_checkpoint(tmp_path, at(4))
    monkeypatch.setattr(checkpoints, "FORMAT", checkpoints.FORMAT - 1)
    assert newest_checkpoint(tmp_path) is None


class Killed(BaseException):
    """In place of a signal that nothing can catch."""


def kill_before(monkeypatch: pytest.MonkeyPatch, operation: int) -> Iterator[None]:
    """Every change of the disk counts; the one with the number ``operation`` never happens."""
    done = 0

    def counted(real: Callable[..., Any]) -> Callable[..., Any]:
        def change(*args: Any, **kwargs: Any) -> Any:
            nonlocal done
            done += 1
            if done > operation:
                raise Killed
            return real(*args, **kwargs)

        return change

    for owner, name in ((Path, "mkdir"), (Path, "open"), (Path, "rename"), (shutil, "rmtree")):
        monkeypatch.setattr(owner, name, counted(getattr(owner, name)))
    monkeypatch.setattr(checkpoints, "sync_directory", counted(checkpoints.sync_directory))
    monkeypatch.setattr(checkpoints.os, "fsync", counted(checkpoints.os.fsync))
    yield


def test_a_kill_at_any_moment_leaves_a_whole_checkpoint(tmp_path: Path) -> None:
    new, seen = at(3), []
    for operation in range(30):
        directory = tmp_path / str(operation)
        old = [at(1), at(2)]
        for checkpoint in old:
            write_checkpoint(directory, checkpoint)
        with pytest.MonkeyPatch.context() as patch:
            next(kill_before(patch, operation))
            try:
                write_checkpoint(directory, new)
                finished = True
            except Killed:
                finished = False
        found = newest_checkpoint(directory)
        assert same(found, new) or (same(found, old[1]) and not finished)
        assert found is not None
        seen.append(found.step)
        later = at(3)
        write_checkpoint(directory, later)
        assert same(newest_checkpoint(directory), later)
        assert not (directory / checkpoints.DRAFT).exists()
        if finished:
            break
    assert finished
    assert seen == sorted(seen)
    assert len(seen) >= 10
    assert {2, 3} == set(seen)


def test_nothing_gets_its_name_before_it_is_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    fsync, rename, sync = checkpoints.os.fsync, Path.rename, checkpoints.sync_directory
    monkeypatch.setattr(checkpoints.os, "fsync", lambda handle: (order.append("file"), fsync(handle)))
    monkeypatch.setattr(Path, "rename", lambda path, to: (order.append("rename"), rename(path, to)))
    monkeypatch.setattr(checkpoints, "sync_directory", lambda path: (order.append(f"folder {path.name}"), sync(path)))
    write_checkpoint(tmp_path, at(1))
    files = ["file", "file"]
    assert order == [*files, f"folder {checkpoints.DRAFT}", "file", "rename", f"folder {tmp_path.name}", "file"]
