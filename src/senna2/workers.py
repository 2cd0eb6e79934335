"""Worker processes: fresh, one thread each, results in order, Ctrl-C that ends them all."""

from __future__ import annotations

import contextlib
import functools
import multiprocessing
import multiprocessing.context
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from multiprocessing import resource_tracker
from typing import Any, TypeVar

from senna2.progress import progress_bar

X = TypeVar("X")
R = TypeVar("R")
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")
# glibc gives each array of over 128 kB back to the system, whose pages are zeroed again at the next: a tenth of a
# training step. Kept instead (32 MB is the most it takes as the limit).
MALLOC_VARIABLES = {"MALLOC_MMAP_THRESHOLD_": str(1 << 25), "MALLOC_TRIM_THRESHOLD_": str(1 << 30),
                    "MALLOC_TOP_PAD_": str(1 << 26)}  # fmt: skip


def worker_count(given: int | None) -> int:
    """How many worker processes: what is asked for, else one a core."""
    return os.cpu_count() or 1 if given is None else given


def run_jobs(
    function: Callable[..., R], jobs: Sequence[tuple[Any, ...]], *, workers: int, label: str, unit: str = "clip"
) -> list[R]:
    """`[function(*job) for job in jobs]` in worker processes, with a progress bar. Everything must be picklable."""
    with progress_bar(total=len(jobs), desc=label, unit=unit) as bar:
        return map_in_workers(functools.partial(_splat, function), jobs, workers, bar.update)


def _splat(function: Callable[..., R]) -> Callable[[tuple[Any, ...]], R]:
    return functools.partial(_apply, function)


def _apply(function: Callable[..., R], job: tuple[Any, ...]) -> R:
    return function(*job)


def map_in_workers(
    make: Callable[[], Callable[[X], R]], items: Sequence[X], workers: int, done: Callable[[], Any] = lambda: None
) -> list[R]:
    """`[f(x) for x in items]` with `f = make()` made once a process; `workers` 0: all of it here.

    `done()` is called after each item. The first exception ends all workers and is raised here.
    """
    if not items:
        return []
    if workers <= 0:
        function, results = make(), []
        for item in items:
            results.append(function(item))
            done()
        return results
    others = set(multiprocessing.active_children())
    found: dict[int, R] = {}
    with one_thread_each():
        count = min(workers, len(items))
        pool = ProcessPoolExecutor(count, mp_context=_context(), initializer=_begin, initargs=(make,))
        futures: dict[Future[R], int] = {}
        try:
            with _ctrl_c_held():
                futures = {pool.submit(_run, item): i for i, item in enumerate(items)}
            for future in as_completed(futures):
                found[futures[future]] = future.result()
                done()
        except BaseException:
            for child in set(multiprocessing.active_children()) - others:
                child.terminate()
            pool.shutdown(cancel_futures=True)  # waits: at exit a half-closed pool would write to a closed pipe
            raise
        pool.shutdown()
    return [found[i] for i in range(len(items))]


@contextlib.contextmanager
def _ctrl_c_held() -> Iterator[None]:
    """Ctrl-C while processes start is raised once they all have, so that none is missed when they are ended. They
    inherit the signal blocked: one that still imports prints no traceback of its own (`_begin` is too late for that).
    """
    if not hasattr(signal, "pthread_sigmask") or threading.current_thread() is not threading.main_thread():
        yield
        return
    held: list[int] = []
    # Blocking alone is not enough: any other thread may take the signal, and Python raises it here all the same.
    handler = signal.signal(signal.SIGINT, lambda number, _: held.append(number))
    resource_tracker.ensure_running()  # it unblocks the signal when it starts
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        signal.signal(signal.SIGINT, handler)
    if held and callable(handler):
        handler(signal.SIGINT, None)


def _context() -> multiprocessing.context.BaseContext:
    """Workers forked from a clean server process that has imported once what they need (torch and transformers take
    seconds, a run has a dozen pools); where there is no such server, spawned. Never forked from this process, whose
    threads they would inherit half."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["senna2.rollouts", *(["senna2.model.policy"] if "torch" in sys.modules else [])])
    return context


_function: Callable[[Any], Any] | None = None  # set once in each worker process


def _begin(make: Callable[[], Callable[[Any], Any]]) -> None:
    global _function
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    _function = make()


def _run(item: Any) -> Any:
    if _function is None:
        raise RuntimeError("worker process was not initialised")
    return _function(item)


@contextlib.contextmanager
def one_thread_each() -> Iterator[None]:
    """Thread counts are read when numpy or torch load, the allocator's limits when the process starts, before any code
    of ours runs in the worker: children must inherit them."""
    ours = dict.fromkeys(THREAD_VARIABLES, "1") | MALLOC_VARIABLES
    before = {name: os.environ.get(name) for name in ours}
    os.environ.update(ours)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
