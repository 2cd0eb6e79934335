"""A resumable queue of jobs in one folder: what is finished is kept, Ctrl-C and crashes lose only what was under way.

A job is a function of this package with plain arguments. Its key is a fingerprint of function, settings and the keys of
the jobs it needs; a job is finished when the queue's file says so under the same key and its outputs are there. Each
runs in a fresh process of one thread, two of them side by side on two cores; what it prints goes to `logs/<job>.log`.
"""

from __future__ import annotations

import contextlib
import fnmatch
import multiprocessing
import os
import shutil
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from senna2.config import fingerprint, load_json, to_dict
from senna2.files import write_json, written_whole
from senna2.types import InputError
from senna2.workers import one_thread_each

SCHEMA = "senna2.queue/1"
CHILD_FAILED = 1
KEEP_TIME_S = 5.0


class QueueError(RuntimeError):
    """Jobs failed: exit code 1."""


@contextlib.contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Inside, no other process works on this folder's queue: each would clear what the other writes. Raises
    `InputError` if one does already."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / "queue.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise InputError(f"{folder}: another run is at work there; wait for it or choose another --out") from error
    try:
        yield
    finally:
        lock.release()


@dataclass(frozen=True)
class Job:
    """`function(*arguments)` makes `outputs` (files or folders). `needs`: names of jobs that must be finished before.

    `settings`: what the outputs depend on besides them; paths belong into `arguments` alone. `estimate_s`: of one core.
    A stale output (made under another key) is removed before the job runs again, and with it what it `clears`: files
    that it would find and keep.
    """

    name: str
    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    outputs: tuple[Path, ...]
    settings: Any = None
    needs: tuple[str, ...] = ()
    estimate_s: float = 0.0
    clears: tuple[Path, ...] = ()


@dataclass
class Queue:
    """The jobs in the order in which they are started, and what is known of them."""

    folder: Path
    jobs: dict[str, Job] = field(default_factory=dict)
    keys: dict[str, str] = field(default_factory=dict)
    state: dict[str, dict[str, Any]] = field(default_factory=dict)

    @classmethod
    def of(cls, folder: Path, jobs: Iterable[Job]) -> Queue:
        """Raises `InputError` for a name that occurs twice, a need that comes later, a state file of another kind."""
        queue = cls(folder)
        for job in jobs:
            if job.name in queue.jobs:
                raise InputError(f"queue: two jobs are named '{job.name}'")
            missing = [n for n in job.needs if n not in queue.jobs]
            if missing:
                raise InputError(f"queue: job '{job.name}' needs {missing}, which must come before it")
            queue.jobs[job.name] = job
            name = f"{job.function.__module__}.{job.function.__qualname__}"
            queue.keys[job.name] = fingerprint(
                {"function": name, "settings": to_dict(job.settings), "needs": [queue.keys[n] for n in job.needs]}
            )
        path = folder / "queue.json"
        if path.is_file():
            saved = load_json(path)
            if not isinstance(saved, dict) or saved.get("schema") != SCHEMA:
                raise InputError(f"{path}: is no '{SCHEMA}'; choose another --out")
            queue.state = saved["jobs"]
        return queue

    def finished(self, name: str) -> bool:
        known = self.state.get(name, {})
        same = known.get("state") == "done" and known.get("key") == self.keys[name]
        return same and all(p.exists() for p in self.jobs[name].outputs)

    def chosen(self, patterns: Sequence[str] = ()) -> list[str]:
        """Names that match one of `patterns` (shell-like; none: all) and all that they need, in order.

        Raises `InputError` for a pattern that matches nothing."""
        wanted: set[str] = set()
        for pattern in patterns or ("*",):
            found = fnmatch.filter(self.jobs, pattern)
            if not found:
                raise InputError(f"--only {pattern}: matches no job; --jobs lists them")
            wanted |= set(found)
        for name in reversed(self.jobs):  # needs come before who needs them
            if name in wanted:
                wanted |= set(self.jobs[name].needs)
        return [n for n in self.jobs if n in wanted]

    def listing(self, patterns: Sequence[str] = ()) -> list[dict[str, Any]]:
        """What `--jobs` prints: name, state (done, failed, stale, waiting), seconds, estimate."""
        rows = []
        for name in self.chosen(patterns):
            known = self.state.get(name, {})
            state = "done" if self.finished(name) else known.get("state", "waiting")
            if state == "done" and not self.finished(name):
                state = "stale"
            rows.append({"job": name, "state": state, "seconds": known.get("seconds"),
                         "estimate_s": round(self.jobs[name].estimate_s)})  # fmt: skip
        return rows

    def seconds(self) -> dict[str, float]:
        """CPU seconds of each finished job; the wall's where none were noted."""
        done = {n: self.state[n] for n in self.jobs if self.finished(n)}
        return {n: float(known.get("cpu_seconds", known["seconds"])) for n, known in done.items()}

    def note(self, name: str, **what: Any) -> None:
        self.state[name] = {"key": self.keys[name], **what}
        write_json(self.folder / "queue.json", {"schema": SCHEMA, "jobs": self.state})


@dataclass
class _Running:
    name: str
    process: BaseProcess
    cpu: Connection  # tells the CPU seconds when it ends
    begun: float

    def times(self) -> dict[str, float]:
        told = {"seconds": time.perf_counter() - self.begun}
        with contextlib.suppress(EOFError):  # ended by a signal
            told["cpu_seconds"] = self.cpu.recv()
        return told


def run_queue(queue: Queue, *, side_by_side: int, only: Sequence[str] = (), tell: Callable[[str], Any] = print) -> None:
    """Run what is not finished of `only` and its needs, `side_by_side` jobs at a time (0: one after the other, in this
    process). A job that fails holds up only those that need it; they are tried again at the next call.

    Raises `QueueError` at the end if jobs failed, naming them and their logs; `InputError` as `Queue.chosen`. Ctrl-C
    ends the jobs under way.
    """
    names = queue.chosen(only)
    todo = [n for n in names if not queue.finished(n)]
    tell(f"queue: {len(names) - len(todo)} of {len(names)} jobs are finished")
    failed: dict[str, str] = {}
    running: list[_Running] = []
    begun_s = time.perf_counter()
    total = sum(queue.jobs[n].estimate_s for n in todo)
    spent = 0.0

    def ended(name: str, error: str, times: dict[str, float]) -> None:
        nonlocal spent
        spent += queue.jobs[name].estimate_s
        if not error and not all(p.exists() for p in queue.jobs[name].outputs):
            error = f"left no {[str(p) for p in queue.jobs[name].outputs if not p.exists()]}"
        times = {k: round(v, 1) for k, v in times.items()}
        if error:
            failed[name] = error
            queue.note(name, state="failed", **times, error=error)
        else:
            queue.note(name, state="done", **times)
        share = f", {spent / total:.0%} of the work" if total else ""
        clock = time.perf_counter() - begun_s
        what = "FAILED" if error else "done"
        tell(f"[{clock / 60:6.1f} min{share}] {what} {name} in {times['seconds']:.0f} s {error}".rstrip())

    try:
        while todo or running:
            for name in list(todo):
                needs = queue.jobs[name].needs
                if any(n in failed for n in needs):
                    todo.remove(name)
                    failed[name] = f"needs {[n for n in needs if n in failed]}"
                elif len(running) < max(side_by_side, 1) and all(queue.finished(n) for n in needs):
                    todo.remove(name)
                    _clear_stale(queue, name)
                    queue.note(name, state="running")
                    if side_by_side < 1:
                        begin = time.perf_counter(), time.process_time()
                        error = _call(queue.jobs[name], None)
                        ended(name, error, {"seconds": time.perf_counter() - begin[0],
                                            "cpu_seconds": time.process_time() - begin[1]})  # fmt: skip
                    else:
                        running.append(_start(queue, name))
            if todo and not running:
                lost = {n: [need for need in queue.jobs[n].needs if not queue.finished(need)] for n in todo}
                failed |= {n: f"needs {needs}, whose output is gone" for n, needs in lost.items()}
                todo.clear()
            if running:
                wait([r.process.sentinel for r in running], timeout=5.0)
                for r in [r for r in running if not r.process.is_alive()]:
                    running.remove(r)
                    r.process.join()
                    error = "" if r.process.exitcode == 0 else _last_words(queue, r)
                    ended(r.name, error, r.times())
    finally:
        for r in running:
            r.process.terminate()
        for r in running:
            r.process.join()
    if failed:
        lines = "\n".join(f"  {n}: {why} ({_log_of(queue.folder, n)})" for n, why in failed.items())
        raise QueueError(f"{len(failed)} jobs did not finish; --resume tries them again:\n{lines}")


def _clear_stale(queue: Queue, name: str) -> None:
    """Outputs made under another key, or by a job that knows nothing of resuming, must not pass for new ones."""
    known = queue.state.get(name, {})
    if known.get("key") == queue.keys[name] and known.get("state") != "done":
        return  # interrupted: the job itself goes on where it stopped
    _spent_of(_log_of(queue.folder, name)).unlink(missing_ok=True)
    for path in (*queue.jobs[name].outputs, *queue.jobs[name].clears):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def _log_of(folder: Path, name: str) -> Path:
    return folder / "logs" / f"{name.replace('/', '-').replace(' ', '_')}.log"


def _start(queue: Queue, name: str) -> _Running:
    log = _log_of(queue.folder, name)
    log.parent.mkdir(parents=True, exist_ok=True)
    job = queue.jobs[name]
    context = _context(queue)
    cpu, teller = context.Pipe(duplex=False)
    with one_thread_each():  # read when numpy and torch load
        process = context.Process(target=_child, args=(job, log, teller), name=name)
        process.start()
    teller.close()
    return _Running(name, process, cpu, time.perf_counter())


def _context(queue: Queue) -> Any:
    """Forked from a clean server process that has imported what the jobs need, once; spawned where there is none."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(sorted({job.function.__module__ for job in queue.jobs.values()}))
    return context


def _child(job: Job, log: Path, teller: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    threading.Thread(target=_end_with_the_queue, daemon=True).start()
    spent = _spent_of(log)
    before = _spent(spent)
    over = threading.Event()
    threading.Thread(target=_keep_time, args=(spent, before, over), daemon=True).start()
    error = _call(job, log)
    over.set()
    teller.send(before + time.process_time())
    sys.exit(CHILD_FAILED if error else 0)


def _spent_of(log: Path) -> Path:
    return log.with_suffix(".cpu")


def _spent(file: Path) -> float:
    """CPU seconds of a job's earlier, interrupted runs."""
    try:
        return float(file.read_text())
    except (OSError, ValueError):
        return 0.0


def _keep_time(file: Path, before: float, over: threading.Event) -> None:
    """A kill leaves no time to tell: what was spent until then is on disk."""
    while not over.wait(KEEP_TIME_S):
        with contextlib.suppress(OSError), written_whole(file) as fresh:
            fresh.write_text(f"{before + time.process_time():.1f}")


def _end_with_the_queue() -> None:
    """A job whose queue was killed must not write beside the one that is started next."""
    queue = multiprocessing.parent_process()
    if queue is not None:
        queue.join()
        os._exit(CHILD_FAILED)


def _call(job: Job, log: Path | None) -> str:
    """Run it here; the error in one line, empty if there was none."""
    with contextlib.ExitStack() as stack:
        if log is not None:
            stack.enter_context(_printing_to(log))
        try:
            job.function(*job.arguments)
        except Exception as error:
            traceback.print_exc()
            return f"{type(error).__name__}: {error}"
    return ""


@contextlib.contextmanager
def _printing_to(log: Path) -> Iterator[None]:
    """Everything that is printed, by libraries too, goes to the end of `log`."""
    with log.open("a") as file:
        sys.stdout.flush(), sys.stderr.flush()
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
        yield
        sys.stdout.flush(), sys.stderr.flush()


def _last_words(queue: Queue, job: _Running) -> str:
    code = job.process.exitcode
    if code is not None and code < 0:
        return f"was ended by signal {-code}"
    log = _log_of(queue.folder, job.name)
    lines = log.read_text(errors="replace").strip().splitlines() if log.is_file() else []
    return lines[-1] if lines else f"exit code {code}"
