"""Tasks in processes of their own: results in order, errors that name the item, and nobody left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from shared.errors import SextantError
from shared.tasks import TaskError, run_tasks

PROJECT = Path(__file__).resolve().parents[2]

PROGRAM = f"""
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where a shell started the tests in the background
sys.path.insert(0, {str(PROJECT)!r})
from shared.tasks import run_tasks
from tests.shared.test_tasks import sleep_for_ever
if __name__ == "__main__":
    run_tasks(sleep_for_ever, [sys.argv[1] + "/a", sys.argv[1] + "/b"], 2)
"""


def square(x: int) -> int:
    return x * x


def pid_of(x: int) -> int:
    time.sleep(0.05)
    return os.getpid()


def fail_at_three(x: int) -> int:
    if x == 3:
        raise SextantError("three is not to be had")
    if x == 4:
        raise ZeroDivisionError("four")
    return x


def die(x: int) -> int:
    if x == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(30)
    return x


def sleep_for_ever(path: str) -> None:
    Path(path).write_text(str(os.getpid()))
    time.sleep(300)


def test_results_come_in_the_order_of_the_items_whatever_ends_first() -> None:
    seen: list[tuple[int, int]] = []
    results = run_tasks(square, list(range(7)), 2, done=lambda x, result: seen.append((x, result)))
    assert results == [x * x for x in range(7)]
    assert sorted(seen) == [(x, x * x) for x in range(7)]


def test_two_jobs_are_two_processes_that_take_all_items() -> None:
    pids = run_tasks(pid_of, list(range(6)), 2)
    assert len(set(pids)) == 2
    assert os.getpid() not in pids


def test_one_job_runs_here_and_its_errors_come_through_as_they_are() -> None:
    assert run_tasks(pid_of, [1, 2], 1) == [os.getpid()] * 2
    with pytest.raises(ZeroDivisionError):
        run_tasks(fail_at_three, [1, 4], 1)


def test_an_error_names_its_item_and_the_reason() -> None:
    with pytest.raises(TaskError, match=r"^fold 3: three is not to be had$"):
        run_tasks(fail_at_three, [1, 3, 5], 2, name=lambda x: f"fold {x}")
    with pytest.raises(TaskError, match=r"^4: ZeroDivisionError: four$"):
        run_tasks(fail_at_three, [1, 4], 2)


def test_a_process_that_was_killed_is_named_and_the_others_end_at_once() -> None:
    started = time.monotonic()
    with pytest.raises(TaskError, match=r"^1: its process was ended by signal 9"):
        run_tasks(die, [1, 2], 2)
    assert time.monotonic() - started < 20


def test_less_than_one_job_is_refused() -> None:
    with pytest.raises(ValueError, match="0 jobs"):
        run_tasks(square, [1], 0)


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_no_child_outlives_the_parent(tmp_path: Path, how: signal.Signals) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    command = [sys.executable, str(program), str(tmp_path)]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as parent:
        try:
            children = [_pid_in(tmp_path / name) for name in "ab"]
            parent.send_signal(how)
            parent.wait(timeout=20)
        finally:
            parent.kill()
    deadline = time.monotonic() + 10
    while any(map(_lives, children)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(_lives, children))


def _pid_in(path: Path) -> int:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        if path.exists() and (text := path.read_text()):
            return int(text)
        time.sleep(0.02)
    raise AssertionError(f"{path} was not written")


def _lives(pid: int) -> bool:
    try:
        status = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return status != "Z"
