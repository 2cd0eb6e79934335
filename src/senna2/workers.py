"""Worker processes: spawned, one thread each, results in order, Ctrl-C that ends them all."""

from __future__ import annotations

import contextlib
import functools
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from typing import Any, TypeVar

from tqdm import tqdm

X = TypeVar("X")
R = TypeVar("R")
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")


def run_jobs(function: Callable[..., R], jobs: Sequence[tuple[Any, ...]], *, workers: int, label: str) -> list[R]:
    """`[function(*job) for job in jobs]` in worker processes, with a progress bar. Everything must be picklable."""
    with tqdm(total=len(jobs), desc=label, unit="clip", mininterval=1.0) as bar:
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
        pool = ProcessPoolExecutor(
            min(workers, len(items)), mp_context=multiprocessing.get_context("spawn"), initializer=_begin, initargs=(make,)
        )
        futures: dict[Future[R], int] = {}
        try:
            futures = {pool.submit(_run, item): i for i, item in enumerate(items)}
            for future in as_completed(futures):
                found[futures[future]] = future.result()
                done()
        except BaseException:
            for child in set(multiprocessing.active_children()) - others:
                child.terminate()
            pool.shutdown(wait=False, cancel_futures=True)
            raise
        pool.shutdown()
    return [found[i] for i in range(len(items))]


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
    """Thread counts are read when numpy or torch load, before any code of ours runs in the worker: children must
    inherit them."""
    before = {name: os.environ.get(name) for name in THREAD_VARIABLES}
    os.environ.update(dict.fromkeys(THREAD_VARIABLES, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
