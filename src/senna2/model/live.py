"""The memory bank for live use: the VLM thinks in a thread of its own, the planner never waits for it.

The planner's every read hands over the newest frame and takes the last whole `Thought`. The thread always starts on
the newest frame it was handed; those that came while it was thinking are dropped.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import torch

from senna2.model.memory import EPS_S, Clock, Thought, age_of
from senna2.types import InputError

if TYPE_CHECKING:
    from senna2.model.policy import DualSystem


class LiveError(RuntimeError):
    """The VLM's thread failed, or would not end; the cause is chained."""


@dataclass(frozen=True)
class _Job:
    t_s: float
    think: Callable[[], Thought]
    drive: int  # how many resets came before: a thought that was begun before a reset is dropped


class ThreadedBank:
    """In the place of `MemoryBank`; `read` returns at once, None while there is no thought yet.

    `clock` is the observations' own, so the age is that of the frame that was looked at, thinking included.
    `period_s`: at least so long between the frames of two ticks; 0: as fast as the VLM can. `threads`: CPU threads of
    torch for the VLM. On CUDA the VLM works on a stream of its own, so that the planner does not queue behind it; one
    thought is published only when its kernels are done.

    A thought is one frozen object and is published by one assignment: features and decision are always of one tick.
    Raises `InputError` for a negative period.
    """

    def __init__(
        self, clock: Clock, *, period_s: float = 0.0, threads: int = 1, device: torch.device | str = "cpu"
    ) -> None:
        if period_s < 0 or threads < 1:
            raise InputError(f"memory: period_s {period_s} must not be negative, threads {threads} be at least 1")
        self.period_s, self.clock, self.ticks = period_s, clock, 0
        self._threads, self._device = threads, torch.device(device)
        self._change = threading.Condition()
        self._job: _Job | None = None
        self._begun: _Job | None = None
        self._last: Thought | None = None
        self._error: BaseException | None = None
        self._stopped, self._drive = False, 0
        # A daemon: a VLM that hangs must not keep the process from ending.
        self._thread = threading.Thread(target=self._run, name="senna2-vlm", daemon=True)
        self._thread.start()

    def read(self, think: Callable[[], Thought]) -> tuple[Thought | None, float]:
        """Hand over the newest frame (as the call that thinks about it); → the last thought and its age in s, or
        (None, 0). Never blocks on the VLM. Raises `LiveError` if the thread failed, `InputError` after `stop`."""
        with self._change:
            self._check()
            now = self.clock()
            last = self._last
            age = age_of(last, now)
            self._job = _Job(now, think, self._drive)
            self._change.notify_all()
        return last, age

    def wait(self, timeout_s: float) -> bool:
        """Wait for the first thought, to begin a drive with one; False if none came. Raises as `read` does."""
        with self._change:
            self._change.wait_for(lambda: self._last is not None or self._error is not None or self._stopped, timeout_s)
            self._check()
            return self._last is not None

    def reset(self) -> None:
        """Forget; what the thread is thinking about is dropped when it is done. Raises `LiveError` if it failed."""
        with self._change:
            self._check()
            self._job, self._last, self._drive = None, None, self._drive + 1

    def stop(self, timeout_s: float = 30.0) -> None:
        """End the thread after the tick it is at; may be called again. Raises `LiveError` if it does not end."""
        with self._change:
            self._stopped, self._job = True, None
            self._change.notify_all()
        self._thread.join(timeout_s)
        if self._thread.is_alive():
            raise LiveError(f"the VLM's thread has not ended after {timeout_s:.0f} s: one tick takes longer than that")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _check(self) -> None:
        if self._error is not None:
            raise LiveError(f"the VLM's thread failed: {self._error}") from self._error
        if self._stopped:
            raise InputError("memory: this bank was stopped; make a new one")

    def _run(self) -> None:
        try:
            torch.set_num_threads(self._threads)
            stream = torch.cuda.Stream(self._device) if self._device.type == "cuda" else None
            while True:
                with self._change:
                    self._change.wait_for(lambda: self._stopped or self._due)
                    job, self._job = self._job, None
                    if self._stopped or job is None:
                        return
                    self._begun = job
                with torch.no_grad(), nullcontext() if stream is None else torch.cuda.stream(stream):
                    thought = job.think()
                if stream is not None:
                    stream.synchronize()
                with self._change:
                    self.ticks += 1
                    if job.drive == self._drive:
                        self._last = thought
                    self._change.notify_all()
        except BaseException as error:  # the planner's thread must hear of whatever ended this one
            with self._change:
                self._error = error
                self._change.notify_all()

    @property
    def _due(self) -> bool:
        new, old = self._job, self._begun
        if new is None:
            return False
        return old is None or old.drive != new.drive or new.t_s - old.t_s >= self.period_s - EPS_S


@contextmanager
def live(policy: DualSystem, *, period_s: float = 0.0, threads: int = 1) -> Iterator[ThreadedBank]:
    """Inside, `policy.act` never waits for the VLM, which thinks in a thread; afterwards all is as before.

    Until the first thought is there the planner drives with nothing decided. Ages count on the observations' `t_s`.
    """
    if policy.vlm is None:
        raise InputError("policy: has no VLM that could think in a thread; use a checkpoint with one")
    before = policy.memory
    bank = ThreadedBank(policy.clock, period_s=period_s, threads=threads, device=policy.vlm.device)
    policy.memory = bank
    try:
        yield bank
    finally:
        policy.memory = before
        before.reset()
        bank.stop()
