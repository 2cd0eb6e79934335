"""Worker processes: order, errors and Ctrl-C."""

from __future__ import annotations

import functools
import multiprocessing
import os
import signal
import subprocess
import sys
import time

import pytest

from senna2.types import InputError
from senna2.workers import THREAD_VARIABLES, map_in_workers, one_thread_each, run_jobs


def _square(x: int, wait: float = 0.0) -> int:
    time.sleep(wait)
    return x * x


def _where(_: int) -> tuple[int, str | None, object]:
    return os.getpid(), os.environ.get("OMP_NUM_THREADS"), signal.getsignal(signal.SIGINT)


def _refuses(x: int) -> int:
    if x == 2:
        raise InputError(f"clip {x}: is bad")
    time.sleep(30)
    return x


def _dies(_: int) -> int:
    os._exit(9)


def _same(function):
    """What `map_in_workers` calls once a process."""
    return function


@pytest.mark.parametrize("workers", [0, 2])
def test_results_come_in_order_and_each_is_reported(workers):
    waits = [0.2, 0.0, 0.1, 0.0]
    jobs = [(i, wait) for i, wait in enumerate(waits)]
    assert run_jobs(_square, jobs, workers=workers, label="test") == [0, 1, 4, 9]
    ticks: list[int] = []
    assert map_in_workers(functools.partial(_same, _square), [1, 2, 3], workers, lambda: ticks.append(1)) == [1, 4, 9]
    assert len(ticks) == 3
    assert run_jobs(_square, [], workers=workers, label="none") == []


def test_workers_are_other_processes_of_one_thread_that_ignore_ctrl_c():
    found = map_in_workers(functools.partial(_same, _where), [0, 1], 2)
    for pid, threads, handler in found:
        assert pid != os.getpid()
        assert threads == "1"
        assert handler == signal.SIG_IGN
    assert signal.getsignal(signal.SIGINT) != signal.SIG_IGN
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, set())


def test_an_error_arrives_as_it_was_raised_and_ends_the_others():
    before = set(multiprocessing.active_children())
    with pytest.raises(InputError, match="clip 2: is bad"):
        map_in_workers(functools.partial(_same, _refuses), [1, 2], 2)
    for child in set(multiprocessing.active_children()) - before:
        child.join(10)  # it would sleep on for 30 s
    assert not set(multiprocessing.active_children()) - before


def test_a_worker_that_dies_is_an_error_not_a_wait():
    from concurrent.futures import BrokenExecutor

    with pytest.raises(BrokenExecutor):
        map_in_workers(functools.partial(_same, _dies), [1, 2], 2)


def test_thread_counts_are_put_back(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.delenv("MKL_NUM_THREADS", raising=False)
    with one_thread_each():
        assert {os.environ[name] for name in THREAD_VARIABLES} == {"1"}
    assert os.environ["OMP_NUM_THREADS"] == "7"
    assert "MKL_NUM_THREADS" not in os.environ


def main() -> None:
    try:
        print("here", flush=True)  # inside: the signal may follow at once
        run_jobs(_square, [(1, 30.0), (2, 30.0)], workers=2, label="test")
    except KeyboardInterrupt:
        print("interrupted", flush=True)


@pytest.mark.parametrize("wait", [0.0, 1.0])
def test_ctrl_c_ends_all_of_them_without_a_traceback(wait):
    """As from a terminal: the signal goes to the whole process group, whatever its processes are doing."""
    child = subprocess.Popen(
        [sys.executable, __file__], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "here\n"
    time.sleep(wait)
    os.killpg(child.pid, signal.SIGINT)
    out, err = child.communicate(timeout=60)
    assert child.returncode == 0
    assert out == "interrupted\n"
    assert "Traceback" not in err
    for _ in range(100):  # the server goes a moment after its parent
        if not _lives(child.pid):
            break
        time.sleep(0.1)
    assert not _lives(child.pid)


def _lives(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


if __name__ == "__main__":
    main()
