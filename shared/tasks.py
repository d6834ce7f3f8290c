"""Independent tasks, several at once in processes of their own: ``run_tasks(fn, items, jobs)``.

One function behind which a cluster can come later. The processes are spawned (a fork would inherit connections and
PyTorch's threads), each takes one item after another, and none outlives the call: they end when a task fails, on
Ctrl-C, on SIGTERM, and by themselves when the parent was killed.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, TypeVar

from shared.errors import SextantError

Item = TypeVar("Item")
Result = TypeVar("Result")
PARENT_S = 0.5  # between looks whether the parent still lives
PATIENCE_S = 60.0  # for a training to write its checkpoint once it is told to stop


class TaskError(SextantError):
    """A task failed; the message names its item and the reason."""


class TasksStopped(SextantError):
    """SIGTERM came while tasks ran; their processes have ended."""


def run_tasks(
    fn: Callable[[Item], Result],
    items: Sequence[Item],
    jobs: int,
    *,
    name: Callable[[Item], str] = str,
    done: Callable[[Item, Result], object] = lambda item, result: None,
) -> list[Result]:
    """``fn`` of each item, in the order of ``items``; ``done`` is called in this process as each one comes in.

    With one job everything runs here, and errors come through as they are. With more, ``fn``, items and results must
    be picklable (``fn`` a function of a module), and the first failure ends the others: TaskError with the item's
    ``name``. Results that came in before were given to ``done``. ValueError for less than one job.
    """
    if jobs < 1:
        raise ValueError(f"{jobs} jobs: at least 1")
    if jobs == 1 or len(items) <= 1:
        results = []
        for item in items:
            results.append(fn(item))
            done(item, results[-1])
        return results
    with _workers(fn, min(jobs, len(items))) as workers, _sigterm_raises():
        return _share_out(workers, items, name, done)


@dataclass(slots=True)
class _Worker:
    process: BaseProcess
    pipe: Connection
    item: int | None = None  # the index of what it works on


def _share_out(
    workers: list[_Worker],
    items: Sequence[Item],
    name: Callable[[Item], str],
    done: Callable[[Item, Any], object],
) -> list[Any]:
    results: list[Any] = [None] * len(items)
    waiting = list(range(len(items)))
    for worker in workers:
        _give(worker, waiting, items)
    while busy := {worker.pipe: worker for worker in workers if worker.item is not None}:
        for pipe in wait(list(busy)):
            worker = busy[pipe]  # type: ignore[index]
            assert worker.item is not None
            item = items[worker.item]
            results[worker.item] = _receive(worker, name(item))
            done(item, results[worker.item])
            _give(worker, waiting, items)
    return results


def _give(worker: _Worker, waiting: list[int], items: Sequence[Any]) -> None:
    worker.item = waiting.pop(0) if waiting else None
    if worker.item is not None:
        worker.pipe.send(items[worker.item])


def _receive(worker: _Worker, name: str) -> Any:
    """What a worker sent back; TaskError where it says that the task failed, or died without a word."""
    try:
        succeeded, answer = worker.pipe.recv()
    except (EOFError, ConnectionError):
        worker.process.join(PATIENCE_S)
        code = worker.process.exitcode
        how = f"was ended by signal {-code}" if code is not None and code < 0 else f"ended with exit code {code}"
        raise TaskError(f"{name}: its process {how}; run the same command again to go on") from None
    if not succeeded:
        raise TaskError(f"{name}: {answer}")
    return answer


@contextmanager
def _workers(fn: Callable[[Any], Any], count: int) -> Iterator[list[_Worker]]:
    # Of the processes started from here on: BLAS threads wait by spinning, and tasks would starve each other.
    os.putenv("OPENBLAS_NUM_THREADS", "1")
    context, workers = multiprocessing.get_context("spawn"), list[_Worker]()
    try:
        for _ in range(count):
            ours, theirs = context.Pipe()
            process = context.Process(target=_work, args=(fn, theirs, os.getpid()), daemon=True)
            process.start()
            theirs.close()  # or its end would never be seen
            workers.append(_Worker(process, ours))
        yield workers
    finally:
        for worker in workers:
            worker.pipe.close()
            if worker.item is not None:
                worker.process.terminate()  # an idle one ends by itself: nobody sends it anything any more
        deadline = time.monotonic() + PATIENCE_S
        for worker in workers:
            worker.process.join(max(deadline - time.monotonic(), 0.0))
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join()


def _work(fn: Callable[[Any], Any], pipe: Connection, parent: int) -> None:
    """A worker's life: an item, its result, the next item, until the parent closes the pipe."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all of the terminal: the parent decides
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    while True:
        try:
            item = pipe.recv()
        except (EOFError, ConnectionError):
            return
        try:
            answer = (True, fn(item))
        except Exception as error:
            if not isinstance(error, SextantError):
                traceback.print_exc()  # a bug: where it is does not fit into one line
            answer = (False, str(error) if isinstance(error, SextantError) else f"{type(error).__name__}: {error}")
        try:
            pipe.send(answer)
        except (BrokenPipeError, ConnectionError):
            return  # nobody waits for it any more


def _end_with(parent: int) -> None:
    """A child whose parent was killed must not go on beside the next run."""
    while os.getppid() == parent:
        time.sleep(PARENT_S)
    os._exit(1)


@contextmanager
def _sigterm_raises() -> Iterator[None]:
    """SIGTERM by itself would end this process at once and leave its children to find out."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: Any) -> None:
        raise TasksStopped("stopped by SIGTERM; run the same command again to go on")

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
