"""Many environments at once: worker processes with shared memory, or one after another in this process."""

from __future__ import annotations

import contextlib
import sys
import types
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any, NoReturn

from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv
from gymnasium.vector.async_vector_env import AsyncState

from senna2.types import InputError, require
from senna2.workers import one_thread_each
from senna2.world.env.driving import DrivingEnv
from senna2.world.env.library import Clips

AUTORESET = {"disabled": AutoresetMode.DISABLED, "same_step": AutoresetMode.SAME_STEP}


class WorkerDied(RuntimeError):
    """A worker process ended without a word."""


def make_vector(
    clips: Clips, num_envs: int, *, obs: str = "state", workers: bool = True, autoreset: str = "disabled",
    context: str = "spawn", wrap: Callable[[Any], Any] | None = None, **settings: Any,
) -> VectorEnv[Any, Any, Any]:  # fmt: skip
    """`num_envs` environments over the same clips; `settings` go to each `DrivingEnv`.

    workers: a process each, observations by shared memory, copied on return (`AsyncVectorEnv`); False: all here
    (`SyncVectorEnv`, for tests). Same seeds, same episodes, either way: `reset(seed=s)` seeds environment i with s + i.
    autoreset "disabled": a finished environment waits for `reset(options={"reset_mask": …})`; stepping it is an error.
    "same_step": it goes on with its next clip at once, `info["final_obs"]` and `info["final_info"]` keep how it ended.
    Gymnasium's default of spending the next step on the reset is not offered: it makes transitions that never were.
    context: "spawn" by default, since a fork server started earlier by somebody else may have torch loaded. Workers
    run one thread, never import torch, and do not run the caller's main script again, so it needs no `__main__` guard.
    wrap: a picklable wrapper such as `AccelSteerAction`.
    Raises `InputError` for bad input; a worker that dies raises `WorkerDied` at the next call.
    """
    require(num_envs >= 1, "make_vector: num_envs", f"{num_envs} must be at least 1")
    modes = ", ".join(f"'{mode}'" for mode in AUTORESET)
    require(autoreset in AUTORESET, "make_vector: autoreset", f"'{autoreset}' is unknown; there are {modes}")
    make = [partial(_make, wrap, clips, obs=obs, **settings)] * num_envs
    if not workers:
        return SyncVectorEnv(make, autoreset_mode=AUTORESET[autoreset])
    with one_thread_each(), _main_left_alone():
        return ClipVectorEnv(make, shared_memory=True, context=context, autoreset_mode=AUTORESET[autoreset])


def _make(wrap: Callable[[Any], Any] | None, clips: Clips, **settings: Any) -> Any:
    env = DrivingEnv(clips, **settings)
    return env if wrap is None else wrap(env)


@contextlib.contextmanager
def _main_left_alone() -> Iterator[None]:
    """Spawned processes run the parent's main script again, for names of its own that they may be sent. Ours are sent
    none (cloudpickle sends what is defined there by value), and a training script imports torch."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


class ClipVectorEnv(AsyncVectorEnv[Any, Any]):
    """Gymnasium's, with errors that say what happened."""

    def reset_async(self, seed: Any = None, options: dict[str, Any] | None = None) -> None:
        with self._watched():
            super().reset_async(seed, None if options is None else dict(options))  # it takes the mask out of them

    def reset_wait(self, timeout: float | None = None) -> Any:
        with self._watched():
            return super().reset_wait(timeout)

    def step_async(self, actions: Any) -> None:
        with self._watched():
            super().step_async(actions)

    def step_wait(self, timeout: float | None = None) -> Any:
        with self._watched():
            return super().step_wait(timeout)

    def call_async(self, name: str, /, *args: object, **kwargs: object) -> None:
        with self._watched():
            super().call_async(name, *args, **kwargs)

    def call_wait(self, timeout: float | None = None) -> tuple[Any, ...]:
        with self._watched():
            return super().call_wait(timeout)

    def _check_spaces(self) -> None:
        with self._watched():
            super()._check_spaces()

    def close_extras(self, timeout: float | None = None, terminate: bool = False) -> None:
        if terminate:
            self._state = AsyncState.DEFAULT  # nobody waits for an answer any more
        try:
            super().close_extras(timeout, terminate)
        except (EOFError, ConnectionError):  # somebody is dead already
            super().close_extras(terminate=True)

    @contextlib.contextmanager
    def _watched(self) -> Iterator[None]:
        """A broken pipe is a dead worker: end the others and say which."""
        try:
            yield
        except (EOFError, ConnectionError) as error:
            dead = []
            for i, process in enumerate(self.processes):
                process.join(timeout=0.5)
                if process.exitcode is not None:
                    dead.append(f"{i} (exit code {process.exitcode})")
            self.close(terminate=True)
            raise WorkerDied(f"vector environment: worker process {', '.join(dead) or '?'} died, most often for lack "
                             "of memory; use fewer environments or a smaller `keep`") from error  # fmt: skip

    def _raise_if_errors(self, successes: Iterable[bool]) -> None:
        """An error inside a worker is raised here as it was there, with its traceback as a note."""
        if not all(successes):
            index, _, error, trace = self.error_queue.get()
            self.close(terminate=True)
            _raise(index, error, trace)


def _raise(index: int, error: BaseException, trace: str) -> NoReturn:
    if isinstance(error, InputError):
        raise InputError(f"environment {index}: {error}") from None
    error.add_note(f"in environment {index}:\n{trace}")
    raise error
